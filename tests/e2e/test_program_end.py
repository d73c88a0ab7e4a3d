"""What ends a program, and how its end is told."""
import json
import signal
import socket
import struct
import sys
import time

import pytest

from conftest import MODELS, Service, read_all, wait_until
from harkd_support import harkd, service  # noqa: F401 harkd is a fixture


def shell(source):
    return ["--", "sh", "-c", source]


def closes(server, count=1):
    """The first count CLOSE events of a server that was started with --json."""

    def events():
        lines = [
            line for line in server.stderr.splitlines(keepends=True) if line.startswith("{") and line.endswith("\n")
        ]
        return [e for e in map(json.loads, lines) if e["event"] == "close"]

    return wait_until(lambda: len(events()) >= count and events()[:count])


@pytest.mark.parametrize("model", MODELS)
def test_the_exit_status_is_told_though_who_started_the_server_ignores_sigchld(hark, model):
    server = Service(
        [hark, "serve", "--json", "--model", model, "tcp://127.0.0.1:0", *shell("exit 7")],
        preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    )
    try:
        wait_until(lambda: server.addresses)
        with server.connect() as s:
            assert read_all(s) == b""
        assert closes(server)[0]["status"] == 7
    finally:
        server.end()


# idle


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("model", MODELS)
def test_a_program_whose_connection_is_idle_reads_the_end_of_its_input(serve, tmp_path, model, kind):
    at = f"unix:{tmp_path}/service" if kind == "unix" else "tcp://127.0.0.1:0"
    server = serve("--model", model, "--idle-timeout", "500ms", at, *shell("cat; echo bye"))
    with server.connect() as s:
        begun = time.monotonic()
        s.sendall(b"hello\n")
        assert read_all(s) == b"hello\nbye\n"
        assert 0.4 < time.monotonic() - begun < 3


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_program_whose_peer_speaks_now_and_then_is_not_idle(serve, tmp_path, kind):
    at = f"unix:{tmp_path}/service" if kind == "unix" else "tcp://127.0.0.1:0"
    server = serve("--idle-timeout", "600ms", at, "--", "cat")
    with server.connect() as s:
        for _ in range(6):
            time.sleep(0.25)
            s.sendall(b"x")
            assert s.recv(1) == b"x"


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_program_that_speaks_now_and_then_is_not_idle(serve, tmp_path, kind):
    at = f"unix:{tmp_path}/service" if kind == "unix" else "tcp://127.0.0.1:0"
    server = serve("--idle-timeout", "600ms", at, *shell("for i in 1 2 3 4 5 6; do sleep 0.25; echo $i; done"))
    with server.connect() as s:
        assert read_all(s) == b"1\n2\n3\n4\n5\n6\n"


def test_a_conversation_by_datagrams_ends_when_it_is_idle(serve):
    server = serve("--json", "--idle-timeout", "600ms", "udp://127.0.0.1:0", "--", "cat")
    with server.connect() as s:
        begun = time.monotonic()
        for _ in range(4):
            s.send(b"hello")
            assert s.recv(100) == b"hello"
            time.sleep(0.25)
        closes(server)
        assert 1.3 < time.monotonic() - begun < 4


def test_idle_timeout_of_harkd_holds_for_programs(harkd):
    d = harkd(service("slow", "exec = /bin/sh -c 'cat; echo bye'", "idle_timeout = 300ms"))
    with d.connect("slow") as s:
        assert read_all(s) == b"bye\n"


# a peer that is gone


def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


ASKS = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"


@pytest.mark.parametrize("model", MODELS)
def test_a_program_whose_peer_has_reset_is_asked_to_end(serve, model):
    server = serve("--model", model, "--json", "tcp://127.0.0.1:0", "exec", "--term-after", "0", *shell(ASKS))
    s = server.connect()
    assert s.recv(6) == b"ready\n"
    begun = time.monotonic()
    reset(s)
    assert closes(server)[0]["status"] == 3
    assert time.monotonic() - begun < 3


def test_a_program_that_has_ended_its_side_may_work_on_though_the_peer_has_ended_too(serve, tmp_path):
    source = (
        "import os, socket, time\n"
        "s = socket.socket(fileno=os.dup(0))\n"
        "s.sendall(b'all')\n"
        "s.shutdown(socket.SHUT_WR)\n"
        "assert s.recv(1) == b''\n"
        "time.sleep(1.5)\n"
        f"open({str(tmp_path / 'done')!r}, 'w').close()\n"
    )
    server = serve("--json", "tcp://127.0.0.1:0", "exec", "--term-after", "0", "--", sys.executable, "-c", source)
    with server.connect() as s:
        assert read_all(s) == b"all"
    assert closes(server)[0].get("status", 0) == 0
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_peer_that_has_ended_its_side_begins_the_ladder_by_choice(serve, tmp_path, kind):
    at = f"unix:{tmp_path}/service" if kind == "unix" else "tcp://127.0.0.1:0"
    server = serve("--json", at, "exec", "--until-eof", "--term-after", "0", *shell(ASKS))
    with server.connect() as s:
        assert s.recv(6) == b"ready\n"
        s.shutdown(socket.SHUT_WR)
        assert read_all(s) == b""
    assert closes(server)[0]["status"] == 3


def test_a_peer_that_has_ended_its_side_begins_nothing_else(serve):
    server = serve("--json", "tcp://127.0.0.1:0", "exec", "--term-after", "0", *shell("sleep 1; echo answer"))
    with server.connect() as s:
        s.shutdown(socket.SHUT_WR)
        assert read_all(s) == b"answer\n"


def test_peers_are_asked_whether_they_are_there(harkd, tmp_path):
    (tmp_path / "tell.py").write_text(
        "import os, socket\n"
        "s = socket.socket(fileno=os.dup(0))\n"
        "tcp = [s.getsockopt(socket.IPPROTO_TCP, n) for n in (socket.TCP_KEEPIDLE, socket.TCP_USER_TIMEOUT)]\n"
        "print(s.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), *tcp)\n"
    )
    tell = f"exec = {sys.executable} {tmp_path}/tell.py"
    d = harkd(service("plain", tell) + service("asked", tell, "keepalive = 90s", "user_timeout = 5s"))
    with d.connect("plain") as s:
        assert read_all(s).split()[0] == b"1"
    with d.connect("asked") as s:
        assert read_all(s) == b"1 90 5000\n"
