"""hark connections and hark close: who is connected to harkd, under every model, and ending one."""
import json
import os
import re
import signal
import socket
import time

import pytest

from conftest import PATIENCE, wait_until
from harkd_support import dial, harkd, is_zombie, service  # noqa: F401 harkd is a fixture

MODELS = ["inline", "process", "thread", "fiber"]


def listed(h, name="", n=1):
    """n connections, once there are so many."""

    def look():
        answer = h.ask(f"connections {name}".strip())
        assert answer["ok"], answer
        found = answer["connections"]
        return found if len(found) == n else None

    return wait_until(look)


def gone(h):
    wait_until(lambda: h.ask("connections")["connections"] == [])


@pytest.mark.parametrize("model", MODELS)
def test_a_connection_is_listed_while_it_lasts(harkd, model):  # noqa: F811
    h = harkd(service("echo", "box = echo", f"model = {model}"))
    with h.connect("echo") as s:
        s.sendall(b"x" * 1000)
        assert len(s.recv(1000, socket.MSG_WAITALL)) == 1000
        (c,) = listed(h)
        assert (c["service"], c["bytes_in"], c["bytes_out"]) == ("echo", 1000, 1000)
        assert c["peer"] == "tcp://%s:%d" % s.getsockname()
        assert c["peer_uid"] is None and 0 <= c["seconds"] < PATIENCE
        worker = h.workers("echo")[0]
        assert c["id"].startswith(f"{worker}.") and (c["pid"] == worker) == (model != "process")
        s.sendall(b"more")
        assert s.recv(4)
        (later,) = listed(h, "echo")
        assert later["id"] == c["id"] and later["bytes_in"] == 1004
    gone(h)


@pytest.mark.parametrize("model", MODELS)
def test_which_of_its_addresses_a_connection_is_at_is_told(harkd, run, tmp_path, model):  # noqa: F811
    path = tmp_path / "echo.sock"
    h = harkd(service("echo", "box = echo", f"model = {model}", listen=f"tcp://*:0 unix:{path}"))
    for address in [f"tcp://127.0.0.1:{h.port('echo')}", f"unix:{path}"]:
        with dial(address) as s:
            s.sendall(b"x")
            assert s.recv(1) == b"x"
            (c,) = listed(h)
            assert c["local"] == address
            at = ["--control", str(tmp_path / "control")]
            assert run("connections", "-l", *at).stdout.decode().splitlines()[1].split()[6] == address
            assert address not in run("connections", *at).stdout.decode() or address.startswith("unix")
        gone(h)


def test_so_it_is_of_a_session_of_datagrams(harkd):  # noqa: F811
    h = harkd(service("cat", "exec = cat", listen="udp://*:0"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(PATIENCE)
        s.connect(("127.0.0.1", h.port("cat")))
        s.send(b"x")
        assert s.recv(10) == b"x"
        (c,) = listed(h)
        assert c["local"] == f"udp://127.0.0.1:{h.port('cat')}"


@pytest.mark.parametrize("model", MODELS)
def test_close_ends_one_connection_alone(harkd, model):  # noqa: F811
    h = harkd(service("echo", "box = echo", f"model = {model}", "workers = 2"))
    with h.connect("echo") as a:
        a.sendall(b"a")
        assert a.recv(1) == b"a"
        (first,) = listed(h)
        if model == "inline":
            assert h.ask(f"close {first['id']}") == {"ok": True}
            assert a.recv(1) == b""
            gone(h)
            return
        with h.connect("echo") as b:
            b.sendall(b"b")
            assert b.recv(1) == b"b"
            listed(h, n=2)
            assert h.ask(f"close {first['id']}") == {"ok": True}
            assert a.recv(1) == b""
            (rest,) = listed(h)
            assert rest["id"] != first["id"]
            b.sendall(b"still")
            assert b.recv(5, socket.MSG_WAITALL) == b"still"
    gone(h)
    assert not h.ask(f"close {first['id']}")["ok"]


@pytest.mark.parametrize("model", MODELS)
def test_close_ends_a_program_that_does_not_listen(harkd, model):  # noqa: F811
    h = harkd(service("sleeper", "exec = /bin/sleep 1000", f"model = {model}"))
    with h.connect("sleeper") as s:

        def with_program():
            (c,) = listed(h)
            return c if os.path.basename(os.readlink(f"/proc/{c['pid']}/exe")) in ("sleep", "coreutils") else None

        c = wait_until(with_program)
        assert h.ask(f"close {c['id']}") == {"ok": True}
        assert s.recv(1) == b""
        wait_until(lambda: is_zombie(c["pid"]))
    gone(h)


@pytest.mark.parametrize("speaks", [False, True])
def test_the_end_of_a_closed_peer_is_no_byte(harkd, speaks):  # noqa: F811
    """TCP numbers its end as a byte."""
    h = harkd(service("cat", "exec = /bin/cat"))
    text = b"abc" if speaks else b""
    with h.connect("cat") as s:
        s.sendall(text)
        assert s.recv(len(text), socket.MSG_WAITALL) == text
        (c,) = listed(h)
        assert h.ask(f"close {c['id']}")["ok"]
        assert s.recv(1) == b""
    gone(h)
    wait_until(lambda: f"in {len(text)} out {len(text)}" in h.stderr)


def test_a_unix_peer_is_told_by_its_user(harkd, tmp_path):  # noqa: F811
    h = harkd(service("echo", "box = echo", listen=f"unix:{tmp_path}/echo"))
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(tmp_path / "echo"))
        s.sendall(b"x")
        assert s.recv(1) == b"x"
        (c,) = listed(h)
        assert (c["peer_uid"], c["peer_pid"]) == (os.getuid(), os.getpid())
        assert c["bytes_in"] is None
        assert h.ask(f"close {c['id']}")["ok"]
        assert s.recv(1) == b""


def test_a_killed_child_leaves_no_row_and_its_connection_is_logged_and_counted(harkd):  # noqa: F811
    h = harkd(service("echo", "box = echo", "model = process"))
    with h.connect("echo") as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"
        (c,) = listed(h)
        os.kill(c["pid"], signal.SIGKILL)
        gone(h)
    echo = wait_until(lambda: (e := h.service("echo"))["closed"] == 1 and e)
    assert (echo["accepted"], echo["failed"], echo["now"]) == (1, 1, 0)
    ends = re.escape(f"{c['peer']} -> {echo['listen'][0]} echo pid {c['pid']} ")
    h.expect(ends + r"\S+ ms in - out - killed by signal 9")


def test_what_cannot_be_closed_is_said(harkd):  # noqa: F811
    h = harkd(service("echo", "box = echo"))
    worker = h.workers("echo")[0]
    for bad, words in [
        ("1.2.3", "no connection's ID"),
        ("echo", "no connection's ID"),
        ("-1.1", "no connection's ID"),
        (f"{worker}.", "no connection's ID"),
        (f"{worker}.1", "no such connection"),
        ("1.1", "no such connection"),
        ("99999999999999999999.1", "no such connection"),
    ]:
        answer = h.ask(f"close {bad}")
        assert not answer["ok"] and words in answer["error"], (bad, answer)
    assert not h.ask("close")["ok"]
    assert "no such service" in h.ask("connections nobody")["error"]


def test_a_worker_that_is_stopped_holds_up_nobody(harkd):  # noqa: F811
    h = harkd(service("echo", "box = echo"))
    worker = h.workers("echo")[0]
    with h.connect("echo") as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"
        listed(h)
        os.kill(worker, signal.SIGSTOP)
        begun = time.monotonic()
        assert len(h.ask("connections")["connections"]) == 1
        assert time.monotonic() - begun < 5
        os.kill(worker, signal.SIGCONT)
        s.sendall(b"y")
        assert s.recv(1) == b"y"


def test_many_come_and_go_while_they_are_listed(harkd):  # noqa: F811
    h = harkd(service("echo", "box = echo", "model = thread"))
    for _ in range(30):
        open_now = [h.connect("echo") for _ in range(10)]
        for s in open_now:
            s.sendall(b"x")
        assert len(h.ask("connections")["connections"]) <= 30
        for s in open_now:
            assert s.recv(1) == b"x"
            s.close()
    gone(h)


def test_the_verbs_show_and_close(harkd, run, tmp_path):  # noqa: F811
    h = harkd(service("echo", "box = echo"))
    at = ["--control", str(tmp_path / "control")]
    assert run("connections", *at).stdout == b"nobody is connected\n"
    with h.connect("echo") as s:
        s.sendall(b"x" * 10)
        assert s.recv(10)
        (c,) = listed(h)
        head, row = run("connections", *at, "echo").stdout.decode().splitlines()
        assert head.split() == "ID SERVICE PID SINCE IN OUT PEER".split()
        assert row.split() == [c["id"], "echo", str(c["pid"]), row.split()[3], "10", "10", c["peer"]]
        assert json.loads(run("connections", *at, "--json").stdout)["connections"][0]["id"] == c["id"]
        r = run("close", *at, c["id"])
        assert (r.returncode, r.stdout.decode()) == (0, f"{c['id']} is closed\n")
        assert s.recv(1) == b""
    r = run("close", *at, c["id"])
    assert r.returncode == 1 and b"no such connection" in r.stderr
    assert run("close", *at).returncode == 100
    assert run("connections", *at, "a", "b").returncode == 100
