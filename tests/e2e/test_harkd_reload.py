"""Reloads: what they change, what they say, and that they neither lose anybody nor leave anything behind."""
import json
import os
import re
import resource
import signal
import socket
import threading
import time

import pytest

from conftest import MODELS, PATIENCE, read_all, wait_until
from harkd_support import (
    ECHO,
    HEAD,
    connect_to,
    free_port,
    gone,
    harkd,
    ping,
    service,
    slow_starts,
)  # noqa: F401 harkd is a fixture
from test_harkd import Clients, talk_echo


@pytest.mark.parametrize("model", MODELS)
def test_a_service_whose_new_worker_cannot_start_goes_on_with_the_old_one_and_says_so(harkd, run, tmp_path, model):
    good = service("echo", "box = echo", f"model = {model}", "workers = 2")
    d = harkd(good + service("other", "box = daytime"))
    before, port = d.workers("echo"), d.port("echo")
    d.configure(good.replace("workers = 2", "workers = 2\nrlimit_nofile = 5") + service("other", "box = discard"))
    answer = run("reload", "--control", tmp_path / "control")
    assert answer.returncode == 1, answer
    assert b"[echo] goes on as it was" in answer.stderr and b"Too many open files" in answer.stderr, answer.stderr
    d.expect(r"echo: reload: goes on as it was, its new settings do not work: a worker cannot start")
    assert sorted(d.workers("echo")) == sorted(before)
    assert "goes on as it was" in d.service("echo")["error"]
    assert d.service("other")["box"] == "discard"  # it is that service alone
    with connect_to(port) as s:
        ping(s)
    d.configure(good + service("other", "box = discard"))
    assert run("reload", "--control", tmp_path / "control").stdout == (
        b"reloaded: 0 added, 0 changed, 0 removed, 2 unchanged\n"
    )
    d.configure(good.replace("workers = 2", "workers = 1") + service("other", "box = discard"))
    assert d.ask("reload")["changed"] == 1
    wait_until(lambda: len(d.service("echo")["workers"]) == 1)
    with connect_to(port) as s:
        ping(s)


def test_a_new_service_that_cannot_start_is_told_by_the_reload(harkd, run, tmp_path):
    d = harkd(ECHO)
    d.configure(ECHO + service("bad", "box = echo", "rlimit_nofile = 5"))
    answer = run("reload", "--control", tmp_path / "control", "--json")
    assert answer.returncode == 1
    assert b"[bad] does not start" in answer.stderr + answer.stdout, answer
    d.expect("bad: reload: does not start, and is tried again: a worker cannot start")


def test_a_new_service_for_which_there_are_no_descriptors_is_told_by_the_reload(harkd, tmp_path):
    d = harkd(ECHO, ready=False, head=HEAD.replace("log = stderr", "log = {dir}/log"))
    wait_until(lambda: (tmp_path / "log").exists() and "ready: " in (tmp_path / "log").read_text())
    d.configure(ECHO + service("more", "box = echo"))
    limit = resource.prlimit(d.pid, resource.RLIMIT_NOFILE)
    used = {int(fd) for fd in os.listdir(f"/proc/{d.pid}/fd")}
    free = [n for n in range(len(used) + 3) if n not in used]
    resource.prlimit(d.pid, resource.RLIMIT_NOFILE, (free[2], limit[1]))  # for a client and the service's socket
    answer = d.ask("reload")
    resource.prlimit(d.pid, resource.RLIMIT_NOFILE, limit)
    assert (answer["ok"], answer["added"]) == (False, 0) and "[more] does not start" in answer["errors"][0], answer
    d.configure(ECHO)
    assert d.ask("reload")["ok"]


def test_a_reload_tells_of_a_service_that_takes_long_to_fail(harkd):
    d = harkd(ECHO)
    d.configure(ECHO + service("bad", "box = echo", "rlimit_nofile = 5"))
    with slow_starts(d, 1.2):
        answer = d.ask("reload")
    assert not answer["ok"] and "[bad] does not start" in answer["errors"][0], answer


def test_a_reload_that_a_drain_cuts_off_is_refused_with_the_reason(harkd):
    d = harkd(ECHO)
    d.configure(ECHO + service("more", "box = discard"))
    with d.connect("echo") as busy, slow_starts(d, 1) as newborn, socket.socket(socket.AF_UNIX) as control:
        ping(busy)
        control.settimeout(PATIENCE)
        control.connect(str(d.directory / "control"))
        control.sendall(b"reload\n")
        wait_until(lambda: newborn.held)
        d.send(signal.SIGTERM)
        answer = json.loads(control.recv(4096))
        assert answer == {"ok": False, "error": "given up: harkd is draining"}
        control.sendall(b"reload\n")
        assert json.loads(control.recv(4096)) == {"ok": False, "error": "harkd is draining"}
    assert "reload: given up: harkd is draining\n" in d.stderr and "reloaded " not in d.stderr


def test_new_settings_are_tried_to_the_end_though_the_old_worker_is_idle(harkd):
    old = service("echo", "box = echo", "start = demand", "stop_idle = 300ms")
    d = harkd(old)
    with d.connect("echo") as s:
        ping(s)
        d.configure(ECHO)
        with slow_starts(d, 1), socket.socket(socket.AF_UNIX) as control:
            control.settimeout(PATIENCE)
            control.connect(str(d.directory / "control"))
            control.sendall(b"reload\n")
            time.sleep(0.1)
            s.close()
            assert control.recv(4096).startswith(b'{"ok":true'), d.stderr
    assert d.service("echo")["state"] == "running"


def test_requests_that_change_services_wait_for_the_end_of_a_reload(harkd):
    d = harkd(ECHO)
    d.configure(service("echo", "box = echo", "workers = 8"))
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(PATIENCE)
        one.connect(str(d.directory / "control"))
        one.sendall(b"reload\nstop echo\nstatus echo\nreload\nstart echo\n")
        one.shutdown(socket.SHUT_WR)
        answers = read_all(one).splitlines()
    assert [a.startswith(b'{"ok":true') for a in answers] == [True] * 5, answers
    assert b'"state":"stopped"' in answers[2] or b'"state":"draining"' in answers[2]
    with d.connect("echo") as s:
        ping(s)


def test_a_reload_to_no_services_is_refused_unless_forced(harkd, run, tmp_path):
    d = harkd(ECHO)
    d.configure("")
    d.send(signal.SIGHUP)
    d.expect(r"reload: nothing was changed: .*no services")
    answer = run("reload", "--control", tmp_path / "control")
    assert answer.returncode == 1 and b"--force" in answer.stderr
    with d.connect("echo") as s:
        ping(s)
    answer = run("reload", "--control", tmp_path / "control", "--force")
    assert answer.stdout == b"reloaded: 0 added, 0 changed, 1 removed, 0 unchanged\n", answer


def test_a_dry_run_says_what_would_change_and_changes_nothing(harkd, run, tmp_path):
    d = harkd(ECHO + service("gone", "box = discard") + service("same", "box = daytime"))
    before = d.status()["services"]
    d.configure(
        service("echo", "box = echo", "idle_timeout = 1m")
        + service("same", "box = daytime")
        + service("new", "box = chargen")
    )
    answer = run("reload", "--control", tmp_path / "control", "--dry-run")
    text = answer.stdout.decode()
    assert answer.returncode == 0, answer
    for line in ("[gone] removed", "[echo] changed", "  + idle_timeout = 1m", "[new] added", "  + box = chargen"):
        assert line + "\n" in text, text
    assert text.endswith("would be: 1 added, 1 changed, 1 removed, 1 unchanged\n")
    assert [s["workers"][0]["pid"] for s in d.status()["services"]] == [s["workers"][0]["pid"] for s in before]
    d.configure("[echo]\nbox = eccho\n")
    answer = run("reload", "--control", tmp_path / "control", "--dry-run")
    assert answer.returncode == 1 and b"eccho" in answer.stderr


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:{}", "tcp://*:{}", "udp://127.0.0.1:{}", "unix:{}"])
def test_a_dry_run_tells_of_an_address_that_another_process_has(harkd, run, serve, tmp_path, address):
    taken = serve(f"unix:{tmp_path}/s" if address.startswith("unix") else address.format(0), "echo").addresses[0]
    d = harkd(ECHO)
    d.configure(
        ECHO + service("new", "box = echo", listen=taken) + service("far", "box = echo", listen="tcp://192.0.2.1:9")
    )
    told = run("reload", "--control", tmp_path / "control", "--dry-run")
    lines = told.stderr.decode().splitlines()
    assert told.returncode == 1 and len(lines) == 2, told
    assert f"hark.conf:9: listen {taken}: Address already in use" in lines[0]
    assert "hark.conf:13: listen tcp://192.0.2.1:9: Cannot assign requested address" in lines[1]
    assert run("reload", "--control", tmp_path / "control").returncode == 1  # it told the truth
    with d.connect("echo") as s:
        ping(s)


def test_a_dry_run_tells_of_a_path_whose_directory_is_not_there(harkd, tmp_path):
    d = harkd(ECHO)
    d.configure(ECHO + service("new", "box = echo", listen=f"unix:{tmp_path}/none/sock"))
    for request in "reload dry-run", "reload":
        answer = d.ask(request)
        assert not answer["ok"] and "/none/sock: No such file" in answer["error"], answer


def test_a_dry_run_says_nothing_of_addresses_that_harkd_goes_between(harkd, tmp_path):
    tcp, udp, unix = free_port(), free_port(socket.SOCK_DGRAM), tmp_path / "s"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "left"))
    dead.close()
    d = harkd(service("echo", "box = echo", listen=f"tcp://127.0.0.1:{tcp} udp://127.0.0.1:{udp} unix:{unix}"))
    d.configure(
        service("echo", "box = echo", listen=f"tcp://*:{tcp} udp://*:{udp}")
        + service("other", "box = echo", listen=f"unix:{unix} unix:{tmp_path}/left tcp://localhost:{free_port()}")
    )
    answer = d.ask("reload dry-run")
    assert answer["ok"] and (answer["added"], answer["changed"]) == (1, 1), answer
    assert (tmp_path / "left").exists()
    answer = d.ask("reload")
    assert answer["ok"], answer


def test_a_dry_run_tells_no_default_that_nothing_replaces(harkd):
    d = harkd(ECHO + service("gone", "box = discard"))
    d.configure(
        service("echo", "exec = /bin/cat", "model = process", listen="tcp://127.0.0.1:0")
        + service("new", "box = daytime", "grace = 10s", "backlog = 7")
    )
    changes = {s["name"]: s["lines"] for s in d.ask("reload dry-run")["services"]}
    assert changes["gone"] == ["- listen = tcp://127.0.0.1:0", "- box = discard"]
    assert changes["new"] == ["+ listen = tcp://127.0.0.1:0", "+ box = daytime", "+ backlog = 7"]
    assert changes["echo"] == ["- box = echo", "- model = fiber", "+ exec = /bin/cat", "+ model = process"]


def test_a_reload_that_is_asked_for_before_harkd_is_ready_is_answered_and_takes_hold(harkd, tmp_path):
    many = "".join(service(f"many{i}", "box = echo", "workers = 64") for i in range(4))
    d = harkd(ECHO + many, ready=False)

    def workers():
        with open(f"/proc/{d.pid}/task/{d.pid}/children") as f:
            return f.read().split()

    wait_until(workers)  # it has read its configuration
    d.configure(ECHO.replace("box", "idle_timeout = 1h\nbox") + many)
    until = time.monotonic() + PATIENCE
    while not (tmp_path / "control").exists():  # at once: the last workers are about to be ready
        assert time.monotonic() < until
    last = int(workers()[-1])
    os.kill(last, signal.SIGSTOP)
    threading.Timer(0.3, os.kill, (last, signal.SIGCONT)).start()
    answer = d.ask("reload")
    assert answer["ok"] and answer["changed"] == 1, answer
    d.await_ready()
    wait_until(lambda: len(d.service("echo")["workers"]) == 1)


@pytest.mark.parametrize("model", ["inline", "process", "thread"])
def test_nobody_is_lost_in_reloads_whatever_the_model(harkd, model):
    d = harkd(service("echo", "box = echo", f"model = {model}", "workers = 2"))
    port = d.port("echo")
    stop = threading.Event()
    clients = [Clients(port, talk_echo, stop) for _ in range(6)]
    for c in clients:
        c.start()
    for i in range(15):
        d.configure(service("echo", "box = echo", f"model = {model}", "workers = 2", f"idle_timeout = {i + 1}h"))
        assert d.ask("reload")["changed"] == 1
        if i % 5 == 4:
            d.upgrade()
        time.sleep(0.03)
    stop.set()
    for c in clients:
        c.join(PATIENCE)
    assert [f for c in clients for f in c.failures] == []
    made = sum(c.done for c in clients)
    counted = wait_until(lambda: (s := d.service("echo"))["closed"] == s["accepted"] and s["now"] == 0 and s)
    assert (counted["accepted"], counted["failed"]) == (made, 0)


def test_more_reloads_than_slots_with_a_connection_from_each(harkd):
    d = harkd(ECHO)
    clients = []
    port = d.port("echo")
    for i in range(140):
        clients.append(socket.create_connection(("127.0.0.1", port), PATIENCE))
        ping(clients[-1])
        d.configure(service("echo", "box = echo", f"idle_timeout = {i + 1}h"))
        assert d.ask("reload")["changed"] == 1
    for s in clients:
        ping(s)
    assert d.service("echo")["state"] == "running"
    assert "cannot start" not in d.stderr
    d.upgrade()
    for s in clients:
        ping(s)
        s.close()
    wait_until(lambda: gone(d.pid))


def test_reloads_as_fast_as_they_come_with_many_workers(harkd):
    d = harkd(service("echo", "box = echo", "workers = 32"))
    for i in range(12):
        d.configure(service("echo", "box = echo", "workers = 32", f"idle_timeout = {i + 1}h"))
        assert d.ask("reload")["changed"] == 1
    with d.connect("echo") as s:
        ping(s)
    assert "cannot start" not in d.stderr
    wait_until(lambda: len(d.service("echo")["workers"]) == 32)


def memory_kb(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"RssAnon:\s+(\d+)", f.read())[1])


def test_neither_memory_nor_descriptors_grow_with_reloads(harkd):
    d = harkd(ECHO + service("other", "box = daytime"))

    def reload(times):
        for i in range(times):
            d.configure(
                service("echo", "box = echo", f"idle_timeout = {i % 7 + 1}h")
                + service("other", "box = daytime")
                + (service("third", "box = discard", "start = demand") if i % 2 else "")
            )
            assert d.ask("reload")["ok"]
        wait_until(lambda: sum(len(s["workers"]) for s in d.status()["services"]) == 2)
        return memory_kb(d.pid)

    def descriptors():
        return len(os.listdir(f"/proc/{d.pid}/fd"))

    memory = reload(100)
    before = wait_until(lambda: (n := descriptors()) and n == descriptors() and n)
    memory_after = reload(400)
    wait_until(lambda: descriptors() <= before)  # the last client of the control socket may just be leaving
    if memory < 10000:  # else a sanitizer keeps what was freed
        assert memory_after - memory < 256  # kB; 400 configurations would be much more
