"""A program's connection ends when the last process that has it ends it, and no answer loses its tail."""
import os
import signal
import subprocess
import sys
import time

import pytest

from conftest import MODELS, PATIENCE, read_all
from harkd_support import harkd, service  # noqa: F401 harkd is a fixture

SOON = 3  # seconds in which the peer of what goes on for longer must have heard


def python(source):
    return ["--", sys.executable, "-c", source]


def shell(source):
    return ["--", "sh", "-c", source]


def address(kind, tmp_path):
    return f"unix:{tmp_path}/service" if kind == "unix" else "tcp://127.0.0.1:0"


@pytest.fixture
def pids():
    """Processes that a test has learned of, ended with it."""
    found = []
    yield found
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("model", MODELS)
def test_a_child_that_outlives_its_program_still_writes(serve, tmp_path, model, kind):
    server = serve("--model", model, address(kind, tmp_path), *shell("(sleep 0.3; echo late) & echo early"))
    with server.connect() as s:
        assert read_all(s) == b"early\nlate\n"


@pytest.mark.parametrize("model", MODELS)
def test_a_child_in_a_session_of_its_own_still_writes(serve, model):
    server = serve("--model", model, "tcp://127.0.0.1:0", *shell("setsid sh -c 'sleep 0.3; echo late' & echo early"))
    for _ in range(3):
        with server.connect() as s:
            assert read_all(s) == b"early\nlate\n"


@pytest.mark.parametrize("model", MODELS)
def test_orphans_of_a_program_that_goes_on_are_waited_for(serve, model):
    """By init, or whoever is that here, and by no server of ours that does not."""
    source = "sleep 0.3; (true & true &); sleep 0.3; ps -o ppid=,stat= -e"
    server = serve("--model", model, "tcp://127.0.0.1:0", *shell(f"echo $PPID; {source}"))
    with server.connect() as s:
        parent, *processes = read_all(s).decode().splitlines()
    children = [line.split()[1][0] for line in processes if line.split()[0] == parent]
    assert children and "Z" not in children


def test_a_child_that_outlives_its_program_still_reads(serve):
    server = serve("tcp://127.0.0.1:0", *shell("exec 3<&0; (exec <&3 3<&-; read word; echo \"<$word>\") & echo early"))
    with server.connect() as s:
        assert s.recv(6) == b"early\n"
        time.sleep(0.2)  # the program has ended
        s.sendall(b"something\n")
        assert read_all(s) == b"<something>\n"


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("model", MODELS)
def test_a_program_that_closes_its_connection_and_works_on_keeps_nobody_waiting(serve, tmp_path, pids, model, kind):
    server = serve("--model", model, address(kind, tmp_path), *shell("echo $$; exec <&- >&- 2>&-; exec sleep 1000"))
    with server.connect() as s:
        s.settimeout(SOON)
        pids.append(int(read_all(s)))


def test_a_child_that_closes_its_connection_and_works_on_keeps_nobody_waiting(serve, pids):
    source = "sleep 0.2; exec <&- >&- 2>&-; exec sleep 1000"
    server = serve("tcp://127.0.0.1:0", *shell(f"({source}) & echo $!"))
    with server.connect() as s:
        s.settimeout(SOON)
        pids.append(int(read_all(s)))


@pytest.mark.parametrize("model", MODELS)
def test_an_answer_arrives_whole_though_input_stays_unread_and_the_program_works_on(serve, pids, model):
    source = "echo $$; head -c 1000000 /dev/zero | tr '\\0' x; exec <&- >&- 2>&-; exec sleep 1000"
    server = serve("--model", model, "tcp://127.0.0.1:0", *shell(source))
    with server.connect() as s:
        s.settimeout(PATIENCE)
        s.sendall(bytes(100000))
        pid, _, answer = read_all(s).partition(b"\n")
        pids.append(int(pid))
        assert answer == b"x" * 1000000


@pytest.mark.parametrize("model", MODELS)
def test_an_answer_arrives_whole_though_input_stays_unread_and_a_child_works_on(serve, pids, model):
    source = "sleep 1000 </dev/null >/dev/null 2>&1 & echo $!; head -c 1000000 /dev/zero | tr '\\0' x"
    server = serve("--model", model, "tcp://127.0.0.1:0", *shell(source))
    with server.connect() as s:
        s.sendall(bytes(100000))
        pid, _, answer = read_all(s).partition(b"\n")
        pids.append(int(pid))
        assert answer == b"x" * 1000000


@pytest.mark.parametrize("model", MODELS)
def test_an_answer_arrives_whole_though_input_stays_unread_and_a_child_is_late_to_close(serve, pids, model):
    """As a shell's background child whose turn comes after the program's end."""
    child = "sleep 0.3; exec <&- >&- 2>&-; exec sleep 1000"
    server = serve("--model", model, "tcp://127.0.0.1:0", *shell(f"({child}) & echo $!; head -c 1; echo answer"))
    with server.connect() as s:
        s.sendall(bytes(100000))
        pid, _, answer = read_all(s).partition(b"\n")
        pids.append(int(pid))
        assert answer == b"\0answer\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts services of other users")
def test_what_another_user_starts_meanwhile_keeps_nobody_waiting(serve, pids):
    """Whose descriptors may not be looked at, but who has other parents."""
    source = "echo $$; read go; exec <&- >&- 2>&-; exec sleep 1000"
    server = serve("tcp://127.0.0.1:0", *shell(source), user=65534)
    stranger = subprocess.Popen(
        ["sh", "-c", "read go; setsid sleep 1000 </dev/null >/dev/null & echo $!; wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with stranger, server.connect() as s:
        pids.append(stranger.pid)
        try:
            s.settimeout(SOON)
            pids.append(int(s.recv(100)))
            stranger.stdin.write(b"go\n")
            stranger.stdin.flush()
            pids.append(int(stranger.stdout.readline()))
            s.sendall(b"go\n")
            assert read_all(s) == b""
        finally:
            stranger.kill()


def test_harkd_leaves_the_connection_to_a_child_too(harkd, pids):
    d = harkd(
        service("outlives", "exec = /bin/sh -c '(sleep 0.3; echo late) & echo early'")
        + service("closes", "exec = /bin/sh -c 'echo $$; exec <&- >&- 2>&-; exec sleep 1000'")
    )
    with d.connect("outlives") as s:
        assert read_all(s) == b"early\nlate\n"
    with d.connect("closes") as s:
        s.settimeout(SOON)
        pids.append(int(read_all(s)))
