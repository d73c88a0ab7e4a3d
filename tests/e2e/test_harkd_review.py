"""harkd where things meet: reloads, upgrades, stops and deaths at a bad moment, and odd places to be started from."""
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

from conftest import PATIENCE, read_all, wait_until
from harkd_support import HEAD, Harkd, harkd, is_zombie, service  # noqa: F401 harkd is a fixture
from test_harkd import Clients, talk_echo

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
            except ConnectionResetError:  # met the listener's end in the middle of connect(2)
                pass
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
    with socket.create_connection(("127.0.0.1", tcp), PATIENCE) as s, socket.socket(
        socket.AF_INET, socket.SOCK_DGRAM
    ) as u:
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
    """A program that has the listening socket itself (wait) has it blocking, before and after an upgrade; workers that
    share one must not."""
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
    program.write_text(
        "import socket, sys\nl = socket.socket(fileno=0)\nl.setblocking(True)\nwhile True:\n"
        "    c = l.accept()[0]\n    c.sendall(b'%d' % __import__('os').getpid())\n    c.close()\n"
    )
    d = harkd(
        service(
            "x",
            f"exec = /usr/bin/python3 {program}",
            "wait = yes",
            "start = demand",
            "stop_idle = 200ms",
            "grace = 200ms",
        )
    )
    with d.connect("x") as s:
        first = read_all(s)
    time.sleep(1.5)  # several times what idleness would be allowed
    with d.connect("x") as s:
        assert read_all(s) == first
    assert d.service("x")["starts"] == 1


@pytest.mark.parametrize("model", ["inline", "process", "thread", "fiber"])
def test_nobody_is_lost_where_workers_end_when_idle_and_start_on_demand(harkd, model):
    d = harkd(service("echo", "box = echo", f"model = {model}", "start = demand", "stop_idle = 10ms"))
    port = d.port("echo")
    for i in range(150):
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as s:
            ping(s)
        time.sleep(0.005 + i % 10 * 0.002)  # about when its worker is told to end
    starts = d.service("echo")
    assert starts["starts"] > 5 and starts["crashes"] == 0, starts
    assert d.stop() == 0, d.stderr


def test_somebody_who_waits_is_served_however_soon_a_service_counts_as_idle(harkd):
    d = harkd(service("echo", "box = echo", "start = demand", "stop_idle = 1ns"))
    for _ in range(20):
        with d.connect("echo") as s:
            ping(s)
    assert d.service("echo")["starts"] <= 25


def test_a_rate_is_not_forgotten_while_nobody_is_there(harkd):
    d = harkd(service("daytime", "box = daytime", "rate = 3/h", "start = demand", "stop_idle = 20ms"))
    port = d.port("daytime")
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as s:
            assert read_all(s)
    wait_until(lambda: d.service("daytime")["state"] == "waiting")
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as s:
        s.settimeout(0.5)
        with pytest.raises(TimeoutError):
            s.recv(1)
    assert d.service("daytime")["accepted"] == 3


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


# ---- where it is started from --------------------------------------------------------------------


def test_it_may_be_started_without_standard_descriptors(harkd, hark, tmp_path):
    (tmp_path / "hark.conf").write_text(
        f"[harkd]\ncontrol = {tmp_path}/control\nlog = {tmp_path}/log\n" + ECHO + service("cat", "exec = /bin/cat")
    )
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


# ---- upgrades -------------------------------------------------------------------------------------


@pytest.fixture
def own_binary(hark, tmp_path):
    """A copy of harkd that the test may replace."""
    (tmp_path / "bin").mkdir()
    path = tmp_path / "bin" / "harkd"
    shutil.copy(hark + "d", path)
    return path


@pytest.fixture
def start_own(harkd, own_binary):
    """start_own(text, ...) is harkd(text, ...) from that copy."""
    return lambda text, *args, **more: harkd(text, *args, executable=str(own_binary), **more)


def replace(binary, copy=None, script=None):
    """As a package manager does: another file in its place."""
    new = binary.with_name("new")
    if script is not None:
        new.write_text("#!/bin/sh\n" + script + "\n")
        new.chmod(0o755)
    else:
        shutil.copy(copy, new)
    new.rename(binary)


def heir_of(d):
    return int(d.expect(r"upgrade: generation \d+ is process (\d+)")[1])


def test_an_upgrade_starts_what_has_taken_the_binarys_place(start_own, own_binary, hark):
    d = start_own(ECHO)
    replace(own_binary, hark + "d")  # the old file is gone now
    now = d.upgrade()
    assert os.readlink(f"/proc/{now['pid']}/exe") == str(own_binary)
    replace(own_binary, hark + "d")
    later = d.upgrade()  # of what was itself an upgrade
    assert (later["generation"], os.readlink(f"/proc/{later['pid']}/exe")) == (3, str(own_binary))
    with d.connect("echo") as s:
        ping(s)


def test_an_upgrade_goes_where_a_symbolic_link_points_now(harkd, hark, own_binary, tmp_path):
    (tmp_path / "v2").mkdir()
    shutil.copy(hark + "d", tmp_path / "v2" / "harkd")
    (tmp_path / "current").symlink_to(tmp_path / "bin")
    d = harkd(ECHO, executable=str(tmp_path / "current" / "harkd"))
    (tmp_path / "next").symlink_to(tmp_path / "v2")
    (tmp_path / "next").rename(tmp_path / "current")
    now = d.upgrade()
    assert os.readlink(f"/proc/{now['pid']}/exe") == str(tmp_path / "v2" / "harkd")


def test_an_upgrade_to_nothing_says_what_is_missing(start_own, own_binary):
    d = start_own(ECHO)
    own_binary.unlink()
    answer = d.ask("upgrade")
    assert not answer["ok"] and str(own_binary) in answer["error"] and "No such file" in answer["error"], answer
    d.send(signal.SIGUSR2)
    d.expect(r"upgrade: .*No such file")
    with d.connect("echo") as s:
        ping(s)


def test_a_background_harkd_with_relative_paths_is_upgraded(hark, tmp_path):
    (tmp_path / "hark.conf").write_text(HEAD.format(dir=tmp_path) + ECHO)
    subprocess.run(
        [hark + "d", "-chark.conf", "--daemon", "--pid-file", "pid"],
        cwd=tmp_path,
        check=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    pid = int((tmp_path / "pid").read_text())
    try:
        for _ in range(2):
            os.kill(pid, signal.SIGUSR2)
            pid = wait_until(lambda pid=pid: (now := int((tmp_path / "pid").read_text())) != pid and now)
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: gone(pid))


def test_an_upgrade_has_the_same_control_socket(harkd, tmp_path):
    d = harkd(ECHO, "--control", tmp_path / "mine", head=HEAD.replace("/control\n", "/unused\n"))
    (tmp_path / "control").symlink_to(tmp_path / "mine")  # where the tests ask
    assert d.upgrade()["generation"] == 2
    assert not (tmp_path / "unused").exists()


def test_an_end_during_an_upgrade_is_the_end_of_both(start_own, own_binary, tmp_path):
    d = start_own(service("echo", "box = echo", listen=f"unix:{tmp_path}/sock"))
    replace(own_binary, script="exec sleep 1000")
    assert d.ask("upgrade")["ok"]
    heir = heir_of(d)
    assert d.stop() == 0, d.stderr
    wait_until(lambda: gone(heir))
    assert not (tmp_path / "sock").exists() and not (tmp_path / "control").exists()


def test_what_is_asked_for_during_an_upgrade_is_not_lost(start_own, own_binary):
    d = start_own(ECHO, head=HEAD.replace("log = stderr", "log = stderr\nupgrade_timeout = 1s"))
    replace(own_binary, script="exec sleep 1000")
    assert d.ask("upgrade")["ok"]
    for request in ("reload", "stop echo", "upgrade"):
        answer = d.ask(request)
        assert not answer["ok"] and "under way" in answer["error"], answer
    d.configure(ECHO + service("two", "box = discard"))
    d.send(signal.SIGHUP)  # whoever serves in the end reloads
    d.expect(r"was not ready in time: this one goes on")
    d.expect(r"reloaded .*1 added")


def test_a_reload_during_an_upgrade_is_the_new_generations(start_own, own_binary, hark):
    d = start_own(ECHO)
    go = own_binary.with_name("go")
    shutil.copy(hark + "d", own_binary.with_name("real"))
    # It has read the old configuration, as it were, and takes its time.
    replace(own_binary, script=f"while ! [ -e {go} ]; do sleep 0.02; done; exec {own_binary.with_name('real')} \"$@\"")
    assert d.ask("upgrade")["ok"]
    d.generations.append(heir_of(d))
    d.send(signal.SIGHUP)
    d.expect(r"reload: .*upgrade")
    go.touch()
    d.expect(r"reloaded ")
    assert d.wait() == 0
    assert d.status()["generation"] == 2


def test_no_zombie_is_left_of_a_generation_that_ends_before_an_older_one(harkd):
    d = harkd(ECHO)
    with d.connect("echo") as s:
        ping(s)
        now = d.upgrade()
        os.kill(now["pid"], signal.SIGTERM)
        wait_until(lambda: not os.path.exists(f"/proc/{now['pid']}"))
        d.generations.clear()
        ping(s)
    wait_until(lambda: d.process.poll() is not None)


def test_a_generation_that_drains_and_is_told_to_end_keeps_to_the_grace(harkd):
    d = harkd(service("slow", "exec = /bin/sh -c 'sleep 7; echo done'", "grace = 20s"))
    with d.connect("slow") as s:
        wait_until(lambda: d.service("slow")["now"] == 1)
        worker = d.workers("slow")[0]
        d.upgrade()
        d.send(signal.SIGTERM)
        assert read_all(s) == b"done\n"  # after more than what a worker has once its grace is over
    assert d.wait() == 0
    assert gone(worker) and "killed" not in d.stderr


def test_an_upgrade_whose_workers_cannot_start_fails_however_that_becomes_known(harkd):
    d = harkd(ECHO)
    d.configure(service("echo", "box = echo", "rlimit_nofile = 5"))
    for i in range(20):  # the worker's word and its end come together, or one after the other
        assert d.ask("upgrade")["ok"]
        wait_until(lambda n=i + 1: d.stderr.count("this one goes on") == n)
    assert d.status()["generation"] == 1
    with d.connect("echo") as s:
        ping(s)


def test_an_upgrade_that_cannot_open_an_address_leaves_the_paths_of_the_old_one(harkd, tmp_path):
    path = str(tmp_path / "sock")
    at_path = service("local", "box = echo", listen=f"unix:{path}")
    d = harkd(at_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        d.configure(at_path + service("echo", "box = echo", listen=f"tcp://127.0.0.1:{taken.getsockname()[1]}"))
        assert d.ask("upgrade")["ok"]
        d.expect(r"upgrade: generation 2 ended before it was ready \(exit status [0-9]+\): this one goes on")
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(PATIENCE)
        s.connect(path)
        ping(s)


def test_a_pid_file_that_a_reload_moves_is_moved(harkd, tmp_path):
    head = HEAD.replace("log = stderr", "log = stderr\npid_file = {dir}/one")
    d = harkd(ECHO, head=head)
    assert int((tmp_path / "one").read_text()) == d.pid
    d.head = head.replace("one", "two")
    d.configure(ECHO)
    assert d.ask("reload")["ok"]
    assert int((tmp_path / "two").read_text()) == d.pid
    assert not (tmp_path / "one").exists()
    assert d.stop() == 0
    assert not (tmp_path / "two").exists()


def test_paths_that_the_new_generation_does_not_want_are_removed_by_it(harkd, tmp_path):
    d = harkd(
        ECHO
        + service("gone", "box = echo", listen=f"unix:{tmp_path}/gone")
        + service("kept", "box = echo", listen=f"unix:{tmp_path}/kept")
    )
    d.head = HEAD.replace("/control\n", "/elsewhere\n")
    d.configure(ECHO + service("kept", "box = echo", listen=f"unix:{tmp_path}/kept"))  # and no reload
    d.send(signal.SIGUSR2)
    d.generations.append(heir_of(d))
    d.process.wait(PATIENCE)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_socket()) == ["elsewhere", "kept"]
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(tmp_path / "kept"))
        ping(s)
    os.kill(d.generations[0], signal.SIGTERM)
    wait_until(lambda: gone(d.generations[0]))
    assert not [p for p in tmp_path.iterdir() if p.is_socket()]


# ---- signals, deaths, orphans ---------------------------------------------------------------------


def test_a_terminated_worker_keeps_to_the_grace_though_harkd_ends_it_too(harkd):
    """As where a service manager signals every process of the service."""
    d = harkd(service("slow", "exec = /bin/sh -c 'sleep 1; echo done'", "grace = 15s"))
    with d.connect("slow") as s:
        wait_until(lambda: d.service("slow")["now"] == 1)
        os.kill(d.workers("slow")[0], signal.SIGTERM)
        time.sleep(0.1)  # signals that wait become one
        d.send(signal.SIGTERM)
        assert read_all(s) == b"done\n"
    assert d.wait() == 0


def test_sigusr1_does_no_harm(harkd):
    """Other daemons reopen their log at it."""
    d = harkd(ECHO)
    d.send(signal.SIGUSR1)
    assert d.ask("reload")["ok"]
    with d.connect("echo") as s:
        ping(s)


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(p) for p in f.read().split()]


@pytest.fixture
def harkd_as_init(hark, tmp_path):
    """harkd as process 1 of a container: what `docker run IMAGE harkd` makes of it."""
    probe = subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True)
    if probe.returncode != 0:
        pytest.skip("no PID namespaces here: " + probe.stderr.decode())
    running = []

    def start(text):
        (tmp_path / "hark.conf").write_text(HEAD.format(dir=tmp_path) + text)
        d = Harkd(
            ["unshare", "--pid", "--fork", "--kill-child", hark + "d", "-c", str(tmp_path / "hark.conf")],
            tmp_path,
            HEAD,
        )
        running.append(d)
        d.await_ready()
        d.init = wait_until(lambda: children(d.pid))[0]
        return d

    yield start
    for d in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(d.init, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            d.process.wait(5)
        d.end()


def test_process_1_of_a_container_reaps_orphans(harkd_as_init):
    d = harkd_as_init(
        service("orphans", "exec = /bin/sh -c '(sleep 0.05 & sleep 0.05 &) ; echo hi'", "user = nobody") + ECHO
    )
    for _ in range(20):
        with d.connect("orphans") as s:
            assert read_all(s) == b"hi\n"
    wait_until(lambda: len(children(d.init)) == 2 and not any(is_zombie(p) for p in children(d.init)))
    os.kill(d.init, signal.SIGTERM)
    assert d.wait() == 0


def test_a_program_where_proc_is_another_namespaces_keeps_its_connection(harkd_as_init):
    """Numbers are those of other processes there, or of none: the program is not seen, and still it has it."""
    numbers = "for i in $(seq 200); do /bin/true; done"  # so many are used up
    d = harkd_as_init(service("slow", f"exec = /bin/sh -c '{numbers}; sleep 0.1; echo hi'", "user = nobody"))
    for _ in range(4):
        with d.connect("slow") as s:
            assert read_all(s) == b"hi\n"


def test_process_1_of_a_container_is_not_replaced(harkd_as_init):
    """With its end everything in the container ends."""
    d = harkd_as_init(ECHO)
    answer = d.ask("upgrade")
    assert not answer["ok"] and "process 1" in answer["error"], answer
    with d.connect("echo") as s:
        ping(s)


# ---- files and privileges -------------------------------------------------------------------------


def test_the_mode_of_a_socket_is_not_given_to_what_has_taken_its_place(harkd, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("secret")
    victim.chmod(0o600)
    text = service("echo", "box = echo", "socket_mode = 666", listen=f"unix:{tmp_path}/sock")
    d = harkd(text)
    assert (tmp_path / "sock").stat().st_mode & 0o777 == 0o666
    (tmp_path / "sock").unlink()
    (tmp_path / "sock").symlink_to(victim)
    d.configure(text.replace("666", "660"))
    assert d.ask("reload")["ok"]
    assert victim.stat().st_mode & 0o777 == 0o600


def test_the_mode_of_a_socket_changes_with_a_reload(harkd, tmp_path):
    text = service("echo", "box = echo", "socket_mode = 666", listen=f"unix:{tmp_path}/sock")
    d = harkd(text)
    d.configure(text.replace("666", "600"))
    assert d.ask("reload")["ok"]
    assert (tmp_path / "sock").stat().st_mode & 0o777 == 0o600


def test_the_path_of_a_service_managers_socket_stays(hark, tmp_path):
    path = tmp_path / "managed"
    (tmp_path / "hark.conf").write_text(
        HEAD.format(dir=tmp_path) + service("echo", "box = echo", listen=f"unix:{path}")
    )
    with socket.socket(socket.AF_UNIX) as manager:
        manager.bind(str(path))
        manager.listen()
        d = Harkd(
            [
                "/bin/bash",
                "-c",
                f'exec 3<&{manager.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"',
                "-",
                hark + "d",
                "-c",
                str(tmp_path / "hark.conf"),
            ],
            tmp_path,
            HEAD,
            pass_fds=(manager.fileno(),),
        )
        try:
            d.await_ready()
            for _ in range(2):
                with socket.socket(socket.AF_UNIX) as s:
                    s.connect(str(path))
                    ping(s)
                if not d.generations:
                    d.upgrade()
            os.kill(d.generations[0], signal.SIGTERM)
            wait_until(lambda: gone(d.generations[0]))
            assert path.exists()
        finally:
            d.end()


# ---- the control socket ---------------------------------------------------------------------------


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_it_does_not_spin_when_it_has_no_descriptor_for_a_client(harkd):
    import resource

    d = harkd(ECHO)
    d.ask("status")
    most = max(int(fd) for fd in os.listdir(f"/proc/{d.pid}/fd")) + 1
    _, hard = resource.prlimit(d.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(d.pid, resource.RLIMIT_NOFILE, (most, hard))
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            s = stack.enter_context(socket.socket(socket.AF_UNIX))
            s.connect(str(d.directory / "control"))
        before = cpu_seconds(d.pid)
        time.sleep(1)
        assert cpu_seconds(d.pid) - before < 0.2
    resource.prlimit(d.pid, resource.RLIMIT_NOFILE, (1000, hard))
    assert d.status()["ok"]


def test_a_half_closed_client_that_reads_nothing_costs_no_time(harkd):
    d = harkd(ECHO)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(d.directory / "control"))
        s.sendall(b"status\n" * 60)
        s.sendall(b"status\n" * 60)
        s.shutdown(socket.SHUT_WR)
        d.status()
        before = cpu_seconds(d.pid)
        time.sleep(1)
        assert cpu_seconds(d.pid) - before < 0.2


def test_its_answers_are_whole_however_long_a_path_is(hark, tmp_path):
    deep = tmp_path
    for _ in range(14):
        deep = deep / ("d" * 200)
        os.mkdir(deep)
    (deep / "hark.conf").write_text(HEAD.format(dir=tmp_path) + ECHO)
    process = subprocess.Popen([hark + "d", "-c", str(deep / "hark.conf")], stderr=subprocess.DEVNULL)
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(PATIENCE)
            wait_until(lambda: s.connect_ex(str(tmp_path / "control")) == 0)  # the path is there before it listens
            s.sendall(b"status\n")
            answer = b""
            while not answer.endswith(b"\n"):
                answer += s.recv(1 << 16)
        assert json.loads(answer)["config"] == str(deep / "hark.conf")
    finally:
        process.terminate()
        process.wait(PATIENCE)


def test_more_services_than_the_soft_limit_of_descriptors(harkd):
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = "".join(service(f"s{i}", "box = echo", "start = demand") for i in range(200)) + service(
        "limit", "exec = /bin/sh -c 'ulimit -Sn'"
    )
    d = harkd(text, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard)))
    with d.connect("s199") as s:
        ping(s)
    with d.connect("limit") as s:
        assert read_all(s) == b"64\n"
    d.upgrade()
    with d.connect("limit") as s:
        assert read_all(s) == b"64\n"
