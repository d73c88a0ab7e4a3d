"""harkd where things meet: reloads, upgrades, stops and deaths that come at a bad moment, and odd places to be started from."""
import contextlib
import os
import re
import signal
import socket
import subprocess
import time

import pytest

from conftest import PATIENCE, read_all, wait_until
from harkd_support import HEAD, harkd, is_zombie, service  # noqa: F401 harkd is a fixture

ECHO = service("echo", "box = echo")


def gone(pid):
    return not os.path.exists(f"/proc/{pid}") or is_zombie(pid)


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ping(s, text=b"ping"):
    s.sendall(text)
    assert s.recv(100) == text


# ---- addresses that come and go ------------------------------------------------------------------


@pytest.mark.parametrize("model", ["process", "thread", "fiber"])
def test_an_address_that_a_reload_takes_away_is_closed_while_old_connections_go_on(harkd, model):
    kept, dropped = free_port(), free_port()
    both = service("echo", "box = echo", f"model = {model}", listen=f"tcp://127.0.0.1:{kept} tcp://127.0.0.1:{dropped}")
    one = service("echo", "box = echo", f"model = {model}", listen=f"tcp://127.0.0.1:{kept}")
    d = harkd(both)
    with socket.create_connection(("127.0.0.1", dropped), PATIENCE) as s:
        ping(s)
        d.configure(one)
        assert d.ask("reload")["changed"] == 1

        def refused():
            try:
                socket.create_connection(("127.0.0.1", dropped), PATIENCE).close()
            except ConnectionRefusedError:
                return True
            return False

        wait_until(refused)
        d.configure(both)  # and back again, though the first worker still serves a connection
        answer = d.ask("reload")
        assert answer["ok"], answer
        with socket.create_connection(("127.0.0.1", dropped), PATIENCE) as t:
            ping(t)
        ping(s)


def test_a_udp_address_that_a_reload_takes_away_can_be_had_again_while_old_connections_go_on(harkd):
    tcp, udp = free_port(), free_port(socket.SOCK_DGRAM)
    both = service("echo", "box = echo", listen=f"tcp://127.0.0.1:{tcp} udp://127.0.0.1:{udp}")
    d = harkd(both)
    with socket.create_connection(("127.0.0.1", tcp), PATIENCE) as s, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as u:
        ping(s)
        u.settimeout(PATIENCE)
        u.connect(("127.0.0.1", udp))
        ping(u)
        d.configure(service("echo", "box = echo", listen=f"tcp://127.0.0.1:{tcp}"))
        assert d.ask("reload")["ok"]

        def back():
            d.configure(both)
            return d.ask("reload")["ok"]

        wait_until(back, 5)
        ping(u)
        ping(s)


def test_stop_and_start_in_one_breath(harkd):
    port = free_port()
    d = harkd(service("echo", "box = echo", "workers = 4", listen=f"tcp://127.0.0.1:{port}"))
    for _ in range(30):
        assert d.ask("stop echo") == {"ok": True}
        assert d.ask("start echo") == {"ok": True}
    with d.connect("echo") as s:
        ping(s)


def listener_flags(pid, port):
    """fcntl(2)'s, of the socket that listens on that port: pid has it."""
    with open("/proc/net/tcp") as f:
        inode = next(line.split()[9] for line in f if line.split()[1:4:2] == [f"0100007F:{port:04X}", "0A"])
    for fd in os.listdir(f"/proc/{pid}/fd"):
        if os.readlink(f"/proc/{pid}/fd/{fd}") == f"socket:[{inode}]":
            with open(f"/proc/{pid}/fdinfo/{fd}") as f:
                return int(re.search(r"flags:\s+(\d+)", f.read())[1], 8)
    raise AssertionError("it does not have the socket")


def test_workers_never_block_in_accept_whatever_a_program_made_of_the_socket(harkd, tmp_path):
    """A program that has the listening socket itself (wait) has it blocking, before and after an upgrade; workers that share one must not."""
    taker = tmp_path / "taker.py"
    taker.write_text("import socket\nl = socket.socket(fileno=0)\nc = l.accept()[0]\nc.sendall(b'taken')\n")
    d = harkd(service("x", f"exec = /usr/bin/python3 {taker}", "wait = yes", "grace = 1s"))
    with d.connect("x") as s:
        assert read_all(s) == b"taken"
    now = d.upgrade()
    assert not listener_flags(now["pid"], d.port("x")) & os.O_NONBLOCK
    with d.connect("x") as s:
        assert read_all(s) == b"taken"
    d.configure(service("x", "box = echo", "workers = 2"))
    assert d.ask("reload")["ok"]
    assert listener_flags(now["pid"], d.port("x")) & os.O_NONBLOCK
    with d.connect("x") as s:
        ping(s)


def test_a_waiting_program_is_not_idle_while_it_runs(harkd, tmp_path):
    program = tmp_path / "program.py"
    program.write_text("import socket, sys\nl = socket.socket(fileno=0)\nl.setblocking(True)\nwhile True:\n"
                       "    c = l.accept()[0]\n    c.sendall(b'%d' % __import__('os').getpid())\n    c.close()\n")
    d = harkd(service("x", f"exec = /usr/bin/python3 {program}", "wait = yes", "start = demand", "stop_idle = 200ms", "grace = 200ms"))
    with d.connect("x") as s:
        first = read_all(s)
    time.sleep(1.5)  # several times what idleness would be allowed
    with d.connect("x") as s:
        assert read_all(s) == first
    assert d.service("x")["starts"] == 1


# ---- many workers, many reloads ------------------------------------------------------------------


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
            d.configure(service("echo", "box = echo", f"idle_timeout = {i % 7 + 1}h") + service("other", "box = daytime") +
                        (service("third", "box = discard", "start = demand") if i % 2 else ""))
            assert d.ask("reload")["ok"]
        wait_until(lambda: sum(len(s["workers"]) for s in d.status()["services"]) == 2)
        return memory_kb(d.pid)

    def descriptors():
        return len(os.listdir(f"/proc/{d.pid}/fd"))

    memory = reload(100)
    before = wait_until(lambda: (n := descriptors()) and n == descriptors() and n)
    memory_after = reload(400)
    wait_until(lambda: descriptors() <= before)  # the last client of the control socket may just be leaving
    assert memory_after - memory < 256  # kB; 400 configurations would be much more


# ---- where it is started from --------------------------------------------------------------------


def test_it_may_be_started_without_standard_descriptors(harkd, hark, tmp_path):
    (tmp_path / "hark.conf").write_text(f"[harkd]\ncontrol = {tmp_path}/control\nlog = {tmp_path}/log\n" + ECHO +
                                        service("cat", "exec = /bin/cat"))
    shell = subprocess.Popen(["/bin/sh", "-c", f"exec {hark}d -c {tmp_path}/hark.conf <&- >&- 2>&-"])
    try:
        wait_until(lambda: (tmp_path / "log").exists() and "ready: " in (tmp_path / "log").read_text())
        standard = [os.readlink(f"/proc/{shell.pid}/fd/{i}") for i in range(3)]
        assert standard == ["/dev/null"] * 3
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(PATIENCE)
            s.connect(str(tmp_path / "control"))
            s.sendall(b"status\n")
            port = re.findall(rb"tcp://127.0.0.1:(\d+)", s.recv(1 << 16))
        for p in port:
            with socket.create_connection(("127.0.0.1", int(p)), PATIENCE) as s:
                ping(s)
    finally:
        shell.terminate()
        assert shell.wait(PATIENCE) == 0


def test_workers_and_programs_have_none_of_the_descriptors_that_it_was_started_with(harkd):
    extra = [os.open("/dev/null", os.O_RDONLY) for _ in range(500)]
    for fd in extra:
        os.set_inheritable(fd, True)
    try:
        d = harkd(ECHO + service("fds", "exec = /bin/ls /proc/self/fd"), close_fds=False)
        with d.connect("fds") as s:
            assert read_all(s).split() == [b"0", b"1", b"2", b"3"]  # the last is the directory itself
        assert len(os.listdir(f"/proc/{d.workers('echo')[0]}/fd")) < 12
        now = d.upgrade()
        assert len(os.listdir(f"/proc/{now['pid']}/fd")) < 24
    finally:
        for fd in extra:
            os.close(fd)
