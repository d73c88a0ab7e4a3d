"""harkd: services from a configuration, started at boot or on demand, reloaded, upgraded, stopped, and killed.

Ports are the kernel's choice: `listen = tcp://127.0.0.1:0`, and the control socket tells what it became.
"""
import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

from conftest import PATIENCE, read_all, wait_until
from harkd_support import HEAD, harkd, is_zombie, service  # noqa: F401 harkd is a fixture

ECHO = service("echo", "box = echo")
DAYTIME = service("daytime", "box = daytime")
UPPER = service("upper", "exec = /usr/bin/tr a-z A-Z")


def ask_upper(d, text=b"hello\n", name="upper"):
    with d.connect(name) as s:
        s.sendall(text)
        s.shutdown(socket.SHUT_WR)
        return read_all(s)


# ---- serving ----------------------------------------------------------------------------------


def test_boxes_and_programs_are_served_and_counted(harkd):
    d = harkd(ECHO + DAYTIME + UPPER)
    for _ in range(3):
        assert ask_upper(d) == b"HELLO\n"
    with d.connect("daytime") as s:
        assert re.match(rb"\d{4}-\d\d-\d\dT", read_all(s))
    upper = wait_until(lambda: (u := d.service("upper"))["closed"] == 3 and u["now"] == 0 and u)
    assert (upper["accepted"], upper["failed"]) == (3, 0)
    assert (upper["bytes_in"], upper["bytes_out"]) == (18, 18)
    assert d.service("daytime")["accepted"] == 1
    assert d.stop() == 0, d.stderr


@pytest.mark.parametrize("model", ["inline", "process", "thread", "fiber"])
@pytest.mark.parametrize("workers", [1, 2])
def test_every_model_is_served_and_counted(harkd, model, workers):
    d = harkd(service("echo", "box = echo", f"model = {model}", f"workers = {workers}"))
    assert len(d.workers("echo")) == workers
    for _ in range(20):
        with d.connect("echo") as s:
            s.sendall(b"x")
            s.shutdown(socket.SHUT_WR)
            assert read_all(s) == b"x"
    wait_until(lambda: d.service("echo")["closed"] == 20 and d.service("echo")["now"] == 0)
    assert d.service("echo")["accepted"] == 20
    assert d.stop() == 0, d.stderr


def test_a_service_on_demand_starts_at_the_first_connection_and_ends_when_idle(harkd):
    d = harkd(service("echo", "box = echo", "start = demand", "stop_idle = 300ms"))
    assert (d.service("echo")["state"], d.workers("echo")) == ("waiting", [])
    with d.connect("echo") as s:
        s.sendall(b"who is there")
        assert s.recv(100) == b"who is there"
        assert d.service("echo")["state"] == "running"
        time.sleep(0.7)  # a connection, though silent, is not idleness
        s.sendall(b"still here")
        assert s.recv(100) == b"still here"
    wait_until(lambda: d.service("echo")["state"] == "waiting" and not d.service("echo")["workers"])
    with d.connect("echo") as s:
        s.sendall(b"again")
        assert s.recv(100) == b"again"
    assert d.service("echo")["starts"] == 2


def test_a_datagram_starts_a_service_on_demand(harkd):
    d = harkd(service("echo", "box = echo", "start = demand", listen="udp://127.0.0.1:0"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(PATIENCE)
        s.connect(("127.0.0.1", d.port("echo")))
        s.send(b"first")
        assert s.recv(100) == b"first"


def test_a_mistake_in_the_configuration_is_told_with_its_line_and_nothing_starts(harkd, tmp_path):
    d = harkd("[echo]\nlisten = tcp://127.0.0.1:0\nboks = echo\n[two]\nlisten = nonsense\nbox = echo\n", ready=False)
    assert d.wait() == 100
    assert re.search(r"hark\.conf:7: .*boks.*box", d.stderr)
    assert re.search(r"hark\.conf:9: .*nonsense", d.stderr)


def test_an_address_in_use_is_told_and_nothing_starts(harkd):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        d = harkd(service("echo", "box = echo", listen=f"tcp://127.0.0.1:{port}"), ready=False)
        assert d.wait() == 111
        assert str(port) in d.stderr and "in use" in d.stderr


def test_the_pid_file_and_the_control_socket_go_with_it(harkd, tmp_path):
    d = harkd(ECHO, "--pid-file", tmp_path / "pid")
    assert int((tmp_path / "pid").read_text()) == d.pid
    assert (tmp_path / "control").stat().st_mode & 0o777 == 0o600
    assert d.stop() == 0
    assert not (tmp_path / "pid").exists() and not (tmp_path / "control").exists()


def test_a_second_harkd_on_the_same_control_socket_does_not_start(harkd, hark, tmp_path):
    d = harkd(ECHO)
    second = subprocess.run(
        [hark + "d", "-c", str(tmp_path / "hark.conf")], capture_output=True, text=True, timeout=PATIENCE
    )
    assert second.returncode == 111 and "control" in second.stderr
    assert d.service("echo")["state"] == "running"


def test_a_background_harkd_is_ready_when_its_parent_ends(hark, tmp_path):
    (tmp_path / "hark.conf").write_text(HEAD.format(dir=tmp_path) + ECHO)
    done = subprocess.run(
        [hark + "d", "-c", "hark.conf", "--daemon", "--pid-file", "pid"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    pid = int((tmp_path / "pid").read_text())
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(tmp_path / "control"))
            s.sendall(b"status\n")
            assert b'"running"' in s.recv(1 << 16)
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}") or is_zombie(pid))


def test_the_service_manager_is_told_when_it_is_ready(harkd, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(str(tmp_path / "notify"))
        s.settimeout(PATIENCE)
        d = harkd(ECHO, env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert b"READY=1" in s.recv(1000)
        d.send(signal.SIGTERM)
        assert b"STOPPING=1" in s.recv(1000)


# ---- reload -----------------------------------------------------------------------------------


def test_reload_touches_only_what_differs(harkd):
    d = harkd(ECHO + DAYTIME + UPPER)
    echo, daytime, port = d.workers("echo"), d.workers("daytime"), d.port("upper")
    d.configure(
        ECHO + service("upper", "exec = /usr/bin/tr a-z A-Z", "idle_timeout = 1m") + service("new", "box = discard")
    )
    answer = d.ask("reload")
    assert answer == {"ok": True, "added": 1, "changed": 1, "removed": 1, "unchanged": 1}
    assert d.workers("echo") == echo
    assert d.port("upper") == port
    assert ask_upper(d) == b"HELLO\n"
    assert {s["name"] for s in d.status()["services"] if s["state"] != "draining"} == {"echo", "upper", "new"}
    wait_until(lambda: not any(os.path.exists(f"/proc/{p}") and not is_zombie(p) for p in daytime))


def test_a_bad_file_changes_nothing_and_says_so(harkd):
    d = harkd(ECHO)
    before = d.workers("echo")
    d.configure("[echo]\nlisten = tcp://127.0.0.1:0\nbox = eccho\n")
    d.send(signal.SIGHUP)
    d.expect(r"nothing was changed")
    assert re.search(r"eccho.*echo", d.stderr)
    assert d.workers("echo") == before
    with socket.create_server(("127.0.0.1", 0)) as taken:
        d.configure(
            ECHO + service("two", "box = echo", listen=f"tcp://127.0.0.1:0 tcp://127.0.0.1:{taken.getsockname()[1]}")
        )
        answer = d.ask("reload")
    assert not answer["ok"] and "in use" in answer["error"]
    assert [s["name"] for s in d.status()["services"]] == ["echo"]
    assert d.workers("echo") == before


def test_connections_of_a_changed_service_finish(harkd):
    d = harkd(ECHO)
    with d.connect("echo") as s:
        s.sendall(b"one")
        assert s.recv(10) == b"one"
        d.configure(service("echo", "exec = /bin/cat"))
        assert d.ask("reload")["changed"] == 1
        with d.connect("echo") as t:
            t.sendall(b"cat")
            assert t.recv(10) == b"cat"


class Clients(threading.Thread):
    """A thread that makes connection after connection to one service, each checked."""

    def __init__(self, port, talk, stop):
        super().__init__(daemon=True)
        self.port, self.talk, self.stopped = port, talk, stop
        self.done, self.failures = 0, []

    def run(self):
        while not self.stopped.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as s:
                    self.talk(s)
                self.done += 1
            except Exception as e:  # noqa: BLE001 each is a failure to report, whatever it is
                self.failures.append(repr(e))
                if len(self.failures) > 20:
                    return


def talk_echo(s):
    s.sendall(b"ping")
    assert s.recv(10) == b"ping"
    s.shutdown(socket.SHUT_WR)
    assert read_all(s) == b""


def talk_daytime(s):
    assert re.match(rb"\d{4}-", read_all(s))


def talk_exec(s):
    assert read_all(s) == b"hello\n"


def test_nothing_fails_while_it_is_reloaded_and_upgraded_under_load(harkd):
    variant = ["", "idle_timeout = 1m", "lifetime = 1h"]
    hello = service("hello", "exec = /bin/echo hello", "workers = 2")

    def text(i):
        return (
            service("echo", "box = echo", variant[i % 3])
            + service("daytime", "box = daytime", variant[(i + 1) % 3])
            + hello.replace("\n\n", "\n" + variant[(i + 2) % 3] + "\n\n")
        )

    d = harkd(text(0))
    ports = {name: d.port(name) for name in ("echo", "daytime", "hello")}
    long_lived = [d.connect("echo") for _ in range(8)]
    for s in long_lived:
        s.sendall(b"1")
        assert s.recv(1) == b"1"
    stop = threading.Event()
    clients = {"echo": [], "daytime": [], "hello": []}
    for name, talk, n in (("echo", talk_echo, 24), ("daytime", talk_daytime, 24), ("hello", talk_exec, 16)):
        clients[name] = [Clients(ports[name], talk, stop) for _ in range(n)]
    everyone = [c for group in clients.values() for c in group]
    for c in everyone:
        c.start()
    upgrades = 0
    for i in range(1, 21):
        d.configure(text(i))
        answer = d.ask("reload")
        assert answer["ok"] and answer["changed"] == 3, answer
        if i % 4 == 0:
            assert d.upgrade()["generation"] == upgrades + 2
            upgrades += 1
        time.sleep(0.1)
    for s in long_lived:  # through all of that
        s.sendall(b"2")
        assert s.recv(1) == b"2"
        s.close()
    stop.set()
    for c in everyone:
        c.join(PATIENCE)
        assert not c.is_alive()
    assert [f for c in everyone for f in c.failures] == []
    assert {name: d.port(name) for name in ports} == ports
    for name, group in clients.items():
        made = sum(c.done for c in group) + (len(long_lived) if name == "echo" else 0)
        assert made > 50
        counted = wait_until(lambda name=name: (s := d.service(name))["closed"] == s["accepted"] and s)
        assert counted["accepted"] == made, name
        assert counted["failed"] == 0, name
        print(f"{name}: clients made {made} connections, harkd counted {counted['accepted']}, 0 failed, 0 reset")
    assert upgrades == 5


# ---- upgrade ----------------------------------------------------------------------------------


def test_after_an_upgrade_the_pid_file_holds_the_new_number(harkd, tmp_path):
    d = harkd(ECHO, "--pid-file", tmp_path / "pid")
    now = d.upgrade()
    assert now["pid"] != d.pid
    assert d.wait() == 0
    assert int((tmp_path / "pid").read_text()) == now["pid"]
    with d.connect("echo") as s:
        s.sendall(b"hello")
        assert s.recv(10) == b"hello"


def test_an_upgrade_that_fails_leaves_the_old_one_serving(harkd):
    d = harkd(ECHO)
    port, before = d.port("echo"), d.workers("echo")
    d.configure("[echo]\nlisten = tcp://127.0.0.1:0\nbox = no-such-box\n")
    d.send(signal.SIGUSR2)
    d.expect(r"upgrade: .*this one goes on")
    assert (d.port("echo"), d.workers("echo")) == (port, before)
    d.configure(ECHO)
    assert d.upgrade()["generation"] == 2


# ---- deaths -----------------------------------------------------------------------------------


@pytest.mark.alone
def test_a_killed_worker_takes_only_its_own_connections_with_it(harkd):
    d = harkd(service("echo", "box = echo", "workers = 2") + DAYTIME)
    clients = [d.connect("echo") for _ in range(16)]
    for s in clients:
        s.sendall(b"x")
        assert s.recv(1) == b"x"
    victims = [w for w in d.service("echo")["workers"] if w["now"] > 0]
    daytime = d.workers("daytime")
    os.kill(victims[0]["pid"], signal.SIGKILL)
    killed = time.monotonic()
    with d.connect("echo") as s:
        s.sendall(b"y")
        assert s.recv(1) == b"y"
    assert time.monotonic() - killed < 0.5
    gone = 0
    for s in clients:
        try:
            s.sendall(b"z")
            gone += s.recv(1) != b"z"
        except ConnectionError:
            gone += 1
        s.close()
    assert gone == victims[0]["now"]
    assert d.workers("daytime") == daytime
    wait_until(lambda: d.service("echo")["crashes"] == 1)
    wait_until(lambda: len(d.workers("echo")) == 2)
    wait_until(lambda: d.service("echo")["now"] == 0)


def test_workers_of_a_killed_supervisor_finish_and_end(harkd):
    d = harkd(ECHO)
    worker, port = d.workers("echo")[0], d.port("echo")
    with d.connect("echo") as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"
        d.send(signal.SIGKILL)
        d.wait()
        s.shutdown(socket.SHUT_WR)
        assert read_all(s) == b""
    wait_until(lambda: is_zombie(worker))
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_program_that_cannot_start_any_more_backs_off_and_recovers(harkd, tmp_path):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho hi\n")
    program.chmod(0o755)
    d = harkd(service("hi", f"exec = {program}", "start = demand", "stop_idle = 100ms") + ECHO)
    program.chmod(0o644)
    s = d.connect("hi")
    wait_until(lambda: d.service("hi")["state"] == "backing-off")
    assert "program" in d.service("hi")["error"]
    program.chmod(0o755)
    with s:
        assert s.recv(10) == (b"hi\n")


# ---- commands ---------------------------------------------------------------------------------


def test_stop_and_start_one_service(harkd):
    d = harkd(ECHO + DAYTIME)
    port = d.port("daytime")
    assert d.ask("stop daytime") == {"ok": True}
    wait_until(lambda: d.service("daytime")["state"] == "stopped")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), PATIENCE)
    assert d.ask("reload")["unchanged"] == 2
    assert d.service("daytime")["state"] == "stopped"
    assert d.ask("start daytime") == {"ok": True}
    with d.connect("daytime") as s:
        talk_daytime(s)
    assert "daytime" in d.ask("stop daytim")["error"]


def test_drain_lets_the_busy_finish(harkd):
    d = harkd(service("slow", "exec = /bin/sh -c 'read x; echo done'"))
    with d.connect("slow") as s:
        wait_until(lambda: d.service("slow")["now"] == 1)
        assert d.ask("drain")["ok"]
        s.sendall(b"go\n")
        assert read_all(s) == b"done\n"
    assert d.wait() == 0


def test_hostile_control_clients_do_no_harm(harkd):
    d = harkd(ECHO)
    path = str(d.directory / "control")
    many = []
    for junk in (b"\0" * 5000, b"x" * 100000, b"\n\n\n", b"status " + b"a" * 400 + b"\n", b"\xff\xfe\n"):
        s = socket.socket(socket.AF_UNIX)
        s.connect(path)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            s.sendall(junk)
        many.append(s)
    for s in many:
        s.close()
    mute = socket.socket(socket.AF_UNIX)  # asks and asks, and never reads
    mute.connect(path)
    mute.setblocking(False)
    with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
        while True:
            mute.sendall(b"status\n" * 50)
    assert d.service("echo")["state"] == "running"
    mute.close()
