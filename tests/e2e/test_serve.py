"""hark serve: one box under every model, engine and kind of address; limits, drains, dead workers, no descriptors."""
import fcntl
import json
import os
import pwd
import re
import resource
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import termios
import time

import pytest

from conftest import MODELS, PATIENCE, Service, echo_many, read_all, wait_until

ENGINES = ["epoll", "uring", "poll"]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("model", MODELS)
def test_echo_serves_many_clients_at_once(serve, model, workers):
    service = serve("--model", model, "--workers", workers, "tcp://127.0.0.1:0", "echo")
    echo_many(service, 50, size=6000)
    assert service.stop() == 0, service.stderr


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_serves(serve, engine):
    service = serve_or_skip(serve, "--engine", engine, "tcp://127.0.0.1:0", "udp://127.0.0.1:0", "echo")
    echo_many(service, 100, size=60000)
    with service.connect(1) as s:
        s.send(b"datagram")
        assert s.recv(100) == b"datagram"
    assert service.stop() == 0, service.stderr


def serve_or_skip(serve, *args):
    try:
        return serve(*args)
    except pytest.fail.Exception as e:
        if "uring" in args and re.search("not implemented|not permitted|not available", str(e)):
            pytest.skip("io_uring is not to be had here")
        raise


def test_engine_may_come_from_the_environment(serve):
    service = serve("tcp://127.0.0.1:0", "echo", env={**os.environ, "HARK_ENGINE": "poll"})
    echo_many(service, 10)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("model", MODELS)
def test_streams_and_datagrams_are_served_together(serve, tmp_path, model, workers):
    service = serve(
        "--model",
        model,
        "--workers",
        workers,
        "tcp://127.0.0.1:0",
        "udp://127.0.0.1:0",
        "tcp://[::1]:0",
        f"unix:{tmp_path}/stream",
        f"unixgram:{tmp_path}/gram",
        f"unix:@hark-test-{os.getpid()}",
        "echo",
    )
    for i in (1, 4):
        with service.connect(i) as s:
            for k in range(10):
                s.send(b"datagram %d" % k)
                assert s.recv(1000) == b"datagram %d" % k
    for i in (0, 2, 3, 5):
        echo_many(service, 5, i=i)
    assert service.stop() == 0, service.stderr
    assert not os.path.exists(tmp_path / "stream") and not os.path.exists(tmp_path / "gram")


def test_addresses_are_printed_with_the_kernels_ports(serve):
    service = serve("tcp://127.0.0.1:0", "tcp://*:0", "udp://[::1]:0", "discard")
    assert len(service.addresses) == 3
    assert re.fullmatch(r"tcp://127\.0\.0\.1:[1-9]\d*", service.addresses[0])
    assert re.fullmatch(r"tcp://\*:[1-9]\d*", service.addresses[1])
    assert re.fullmatch(r"udp://\[::1\]:[1-9]\d*", service.addresses[2])


def test_star_takes_both_families(serve):
    service = serve("tcp://*:0", "echo")
    for host in ("127.0.0.1", "::1"):
        with socket.create_connection((host, service.port()), PATIENCE) as s:
            s.sendall(b"x")
            assert s.recv(1) == b"x"


def test_v6only_takes_no_ipv4(serve):
    service = serve("--v6only", "tcp://*:0", "echo")
    with socket.create_connection(("::1", service.port()), PATIENCE) as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", service.port()), PATIENCE)


# ---- programs


PROGRAMS = {
    "sh": ["sh", "-c", 'while read -r line; do echo "got $line"; done'],
    "perl": ["perl", "-e", '$| = 1; while (<STDIN>) { print "got $_" }'],
    "python": ["python3", "-u", "-c", "import sys\nfor line in sys.stdin: print('got', line, end='')"],
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("language", PROGRAMS)
def test_a_program_is_a_service(serve, language, model):
    if not shutil.which(PROGRAMS[language][0]):
        pytest.skip(f"{language} is not installed")
    service = serve("--model", model, "tcp://127.0.0.1:0", "--", *PROGRAMS[language])
    with service.connect() as s:
        s.sendall(b"one\ntwo\n")
        s.shutdown(socket.SHUT_WR)
        assert read_all(s) == b"got one\ngot two\n"
    assert service.stop() == 0, service.stderr


def test_arguments_reach_the_program_exactly(serve):
    service = serve("tcp://127.0.0.1:0", "--", "printf", "%s|", "a b", "", "$HOME", "--help", "*")
    with service.connect() as s:
        assert read_all(s) == b"a b||$HOME|--help|*|"


def test_the_program_sees_where_it_is_called_from(serve):
    service = serve(
        "tcp://127.0.0.1:0", "--", "sh", "-c", "echo $PROTO $TCPLOCALIP $TCPLOCALPORT $TCPREMOTEIP $TCPREMOTEPORT"
    )
    with service.connect() as s:
        mine = s.getsockname()[1]
        assert read_all(s).split() == [b"TCP", b"127.0.0.1", b"%d" % service.port(), b"127.0.0.1", b"%d" % mine]


@pytest.mark.parametrize("model", MODELS)
def test_what_the_peer_still_sends_does_not_cut_the_answer(serve, model):
    service = serve("--model", model, "tcp://127.0.0.1:0", "--", "head", "-c", "1000000", "/dev/zero")
    for _ in range(10):
        with service.connect() as s:
            s.sendall(b"unread" * 2000)
            assert len(read_all(s)) == 1000000


def test_udp_program_gets_the_peer_as_its_socket(serve):
    service = serve(
        "udp://127.0.0.1:0",
        "--",
        "perl",
        "-e",
        'sysread(STDIN, $_, 100); syswrite(STDOUT, uc); sysread(STDIN, $_, 100); syswrite(STDOUT, lc)',
    )
    with service.connect() as s:
        s.send(b"Hello")
        assert s.recv(100) == b"HELLO"
        s.send(b"World")
        assert s.recv(100) == b"world"


def test_wait_gives_the_listening_socket_away(serve):
    program = (
        "import socket; s = socket.socket(fileno=0); d, a = s.recvfrom(100); s.sendto(d[::-1], a); "
        "d, a = s.recvfrom(100); s.sendto(d.upper(), a)"
    )
    service = serve("--wait", "udp://127.0.0.1:0", "--", "python3", "-c", program)
    with service.connect() as s:
        for _ in range(2):  # the same process takes two, and after it has ended another one the next
            s.send(b"abc")
            assert s.recv(100) == b"cba"
            s.send(b"abc")
            assert s.recv(100) == b"ABC"


def test_a_missing_program_is_told_at_once(run):
    r = run("serve", "tcp://127.0.0.1:0", "--", "/no/such/program")
    assert r.returncode in (100, 111) and b"/no/such/program" in r.stderr and r.stdout == b""


# ---- limits


@pytest.mark.parametrize("model", ["process", "thread", "fiber"])
def test_over_max_conns_connections_wait_and_are_served_later(serve, model):
    service = serve("--model", model, "--max-conns", 2, "-v", "tcp://127.0.0.1:0", "echo")
    clients = [service.connect() for _ in range(3)]
    for s in clients[:2]:
        s.sendall(b"a")
        assert s.recv(1) == b"a"
    clients[2].sendall(b"late")
    service.expect("accepting pauses: .*--max-conns")
    assert select.select([clients[2]], [], [], 0.2)[0] == [], "served beyond --max-conns"
    clients[0].close()
    assert clients[2].recv(4) == b"late"
    for s in clients[1:]:
        s.close()
    assert service.stop() == 0, service.stderr


@pytest.mark.parametrize("model", ["process", "thread", "fiber"])
def test_without_descriptors_all_are_served_in_the_end(serve, model):
    service = serve("--model", model, "tcp://127.0.0.1:0", "echo", nofile=32)
    echo_many(service, 300, size=600)
    assert service.stop() == 0, service.stderr


@pytest.mark.parametrize("model", MODELS)
def test_a_silent_peer_is_ended_by_the_timeout(serve, model):
    service = serve("--model", model, "--idle-timeout", "200ms", "tcp://127.0.0.1:0", "echo")
    begin = time.monotonic()
    with service.connect() as s:
        assert s.recv(1) == b""
    assert 0.15 < time.monotonic() - begin < 5


@pytest.mark.parametrize("model", MODELS)
def test_a_busy_peer_is_ended_by_the_lifetime(serve, model):
    service = serve("--model", model, "--lifetime", "300ms", "tcp://127.0.0.1:0", "chargen")
    begin = time.monotonic()
    with service.connect() as s:
        try:
            while s.recv(1 << 16):
                assert time.monotonic() < begin + 5
        except ConnectionResetError:
            pass
    assert time.monotonic() - begin > 0.25


# ---- drains


def begin_drain(service, model, workers):
    """SIGTERM, and no return before it has come to the service."""
    service.send(signal.SIGTERM)
    if (model, workers) != ("inline", 1):
        service.expect("draining")
        return
    # The only worker is in its box and tells nothing meanwhile. It has the signal once none is pending any more.
    status = f"/proc/{service.pid}/status"
    wait_until(lambda: int(re.search(r"^ShdPnd:\s*(\w+)", open(status).read(), re.M)[1], 16) == 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("model", MODELS)
def test_a_drain_ends_the_idle_at_once(serve, model, workers, number):
    service = serve("--model", model, "--workers", workers, "--grace", "60s", "tcp://127.0.0.1:0", "echo")
    with service.connect() as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"
        begin = time.monotonic()
        assert service.stop(number) == 0, service.stderr
        assert s.recv(1) == b""
        assert time.monotonic() - begin < 10


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("model", MODELS)
def test_a_drain_lets_the_busy_finish(serve, tmp_path, model, workers):
    gate = tmp_path / "gate"
    service = serve(
        "-v",
        "--model",
        model,
        "--workers",
        workers,
        "--grace",
        "60s",
        "tcp://127.0.0.1:0",
        "--",
        "sh",
        "-c",
        f"read x; echo started; while [ ! -e {gate} ]; do sleep 0.02; done; echo done $x",
    )
    with service.connect() as s:
        s.sendall(b"it\n")
        assert s.recv(100) == b"started\n"
        begin_drain(service, model, workers)
        gate.touch()
        assert read_all(s) == b"done it\n"
    assert service.wait() == 0, service.stderr


def stuck_writer(service):
    """A client that does not read, of a service that does not stop writing: its box waits for room by now."""
    s = service.connect()
    seen = [-1]

    def full():
        seen.append(struct.unpack("i", fcntl.ioctl(s, termios.FIONREAD, b"    "))[0])
        time.sleep(0.01)
        return seen[-1] > 0 and len(set(seen[-20:])) == 1

    wait_until(full)
    return s


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("model", MODELS)
def test_when_the_grace_ends_the_busy_are_cut(serve, model, workers):
    service = serve("--model", model, "--workers", workers, "--grace", "300ms", "tcp://127.0.0.1:0", "chargen")
    with stuck_writer(service):
        begin = time.monotonic()
        assert service.stop() == 1
        assert 0.25 < time.monotonic() - begin < 10
    assert "grace" in service.stderr


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("model", MODELS)
def test_a_second_signal_ends_at_once(serve, model, workers):
    service = serve("-v", "--model", model, "--workers", workers, "--grace", "5m", "tcp://127.0.0.1:0", "chargen")
    with stuck_writer(service):
        begin_drain(service, model, workers)
        assert service.process.poll() is None
        assert service.stop() == 1


def test_what_waits_in_the_backlog_is_served_before_a_drain_ends(serve):
    service = serve("--model", "inline", "tcp://127.0.0.1:0", "echo")
    with service.connect() as first, service.connect() as second:
        first.sendall(b"x")
        assert first.recv(1) == b"x"  # the one worker is with the first
        second.sendall(b"y")
        second.shutdown(socket.SHUT_WR)
        assert service.stop() == 0, service.stderr
        assert second.recv(1) == b"y"


# ---- workers


@pytest.mark.parametrize("model", MODELS)
def test_a_killed_worker_is_replaced_and_service_goes_on(serve, model):
    service = serve("-v", "--model", model, "--workers", 2, "tcp://127.0.0.1:0", "echo")
    ups = wait_until(lambda: (u := re.findall(r"worker (\d+) up", service.stderr)) and len(u) == 2 and u)
    os.kill(int(ups[0]), signal.SIGKILL)
    service.expect(rf"worker {ups[0]} down: killed by signal 9")
    wait_until(lambda: len(re.findall(r"worker \d+ up", service.stderr)) == 3)
    echo_many(service, 20)
    assert service.stop() == 0, service.stderr


def test_a_killed_worker_is_told_even_without_verbose(serve):
    service = serve("--workers", 1, "tcp://127.0.0.1:0", "echo")
    assert service.stop() == 0 and service.stderr == ""
    service = serve("--workers", 2, "tcp://127.0.0.1:0", "echo")
    children = open(f"/proc/{service.pid}/task/{service.pid}/children").read().split()
    assert len(children) >= 2
    os.kill(int(children[0]), signal.SIGKILL)
    service.expect("down: killed by signal 9")


# ---- what is told


@pytest.mark.parametrize("model", MODELS)
def test_verbose_tells_each_connection_in_a_line(serve, model):
    service = serve("-v", "--model", model, "tcp://127.0.0.1:0", "echo")
    with service.connect() as s:
        mine = s.getsockname()[1]
        s.sendall(b"12345")
        s.shutdown(socket.SHUT_WR)
        read_all(s)
    service.expect(
        rf"^hark: serve: tcp://127\.0\.0\.1:{mine} -> {re.escape(service.addresses[0])} echo [\d.]+ (us|ms|s), "
        r"in 5 out 5, done$"
    )


def test_verbose_tells_how_a_program_ended(serve):
    service = serve("-v", "tcp://127.0.0.1:0", "--", "sh", "-c", "exit 7")
    with service.connect() as s:
        assert read_all(s) == b""
    service.expect(r" sh [\d.]+ (us|ms|s), .*exit status 7$")


@pytest.mark.parametrize("model", MODELS)
def test_json_lines_tell_the_same(serve, model):
    service = serve("--json", "--model", model, "--workers", 2, "tcp://127.0.0.1:0", "echo")
    echo_many(service, 10, size=60)
    assert service.stop() == 0
    events = [json.loads(line) for line in service.stderr.splitlines()]
    kinds = [e["event"] for e in events]
    assert kinds.count("open") == kinds.count("close") == 10
    assert kinds.count("worker-up") == 2 and "ready" in kinds and "draining" in kinds
    closed = [e for e in events if e["event"] == "close"]
    assert all(
        e["bytes_in"] == e["bytes_out"] == 60
        and e["error"] is None
        and e["status"] == 0
        and e["seconds"] < 20
        and e["box"] == "echo"
        and e["local"] == service.addresses[0]
        for e in closed
    )
    assert len({e["peer"] for e in closed}) == 10
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", e["time"]) for e in events)


# ---- sockets


def test_unix_mode_and_owner_are_set(serve, tmp_path):
    path = tmp_path / "s"
    owner = []
    if os.geteuid() == 0:
        owner = ["--unix-owner", "nobody"]
    service = serve("--unix-mode", "620", *owner, f"unix:{path}", "echo")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o620
    if owner:
        assert os.stat(path).st_uid == pwd.getpwnam("nobody").pw_uid
    echo_many(service, 3)


def test_a_stale_unix_path_is_replaced_and_a_live_one_refused(serve, run, tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
    service = serve(f"unix:{path}", "echo")
    r = run("serve", f"unix:{path}", "echo")
    assert r.returncode == 111 and b"in use" in r.stderr and str(path).encode() in r.stderr
    echo_many(service, 3)


def test_a_file_that_is_no_socket_is_left_alone(run, tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    assert run("serve", f"unix:{path}", "echo").returncode == 111
    assert path.read_text() == "data"


def test_a_socket_that_was_handed_over_is_served(hark):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        script = 'exec 3<&"$1"; shift; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web exec "$@"'
        service = Service(
            ["bash", "-c", script, "sh", str(listening.fileno()), hark, "serve", "fd:web", "echo"],
            pass_fds=[listening.fileno()],
        )
        try:
            wait_until(lambda: service.addresses or service.process.poll() is not None)
            with socket.create_connection(listening.getsockname(), PATIENCE) as s:
                s.sendall(b"hello")
                assert s.recv(5) == b"hello"
            assert service.stop() == 0, service.stderr
        finally:
            service.end()


# ---- refusals


@pytest.mark.parametrize(
    "args, code, words",
    [
        ([], 100, "usage"),
        (["tcp://127.0.0.1:0"], 100, "neither a box nor a program"),
        (["tcp://127.0.0.1:0", "--"], 100, "neither a box nor a program"),
        (["echo"], 100, "no address"),
        (["--", "cat"], 100, "no address"),
        (["tcp://127.0.0.1:0", "ehco"], 100, "did you mean echo?"),
        (["tcp://127.0.0.1:0", "discard", "more"], 100, "unexpected argument: more"),
        (["tcp://127.0.0.1:0", "daytime", "--nits"], 100, "--nits"),
        (["tcp://127.0.0.1:99999", "echo"], 100, "99999"),
        (["htp://127.0.0.1:1", "echo"], 100, "htp"),
        (["tcp://[::1:1", "echo"], 100, "[::1"),
        (["tcp://127.0.0.1:nosuchservice", "echo"], 111, "nosuchservice"),
        (["tcp://192.0.2.1:0", "echo"], 111, "192.0.2.1"),
        (["fd:77", "echo"], 111, "77"),
        (["--model", "fibre", "tcp://127.0.0.1:0", "echo"], 100, "did you mean fiber?"),
        (["--engine", "kqueue", "tcp://127.0.0.1:0", "echo"], 100, "kqueue"),
        (["--worker", "2", "tcp://127.0.0.1:0", "echo"], 100, "did you mean --workers?"),
        (["--workers", "0", "tcp://127.0.0.1:0", "echo"], 100, "--workers"),
        (["--workers", "two", "tcp://127.0.0.1:0", "echo"], 100, "two"),
        (["--idle-timeout", "5 s", "tcp://127.0.0.1:0", "echo"], 100, "5 s"),
        (["--idle-timeout", "-1", "tcp://127.0.0.1:0", "echo"], 100, "-1"),
        (["--unix-mode", "9", "tcp://127.0.0.1:0", "echo"], 100, "octal"),
        (["--unix-owner", "nosuchuser", "unix:/tmp/hark-never", "echo"], 111, "no user"),
        (["--stack", "12", "tcp://127.0.0.1:0", "echo"], 100, "--stack"),
        (["--json=yes", "tcp://127.0.0.1:0", "echo"], 100, "takes no value"),
        (["unixgram:@hark-test-no-session", "--", "cat"], 100, "exec takes unix datagrams with --wait alone"),
        (["--model"], 100, "needs a value"),
        (["tcp://127.0.0.1:0", "mine.so"], 100, "no such box: mine.so (an address"),
        (["21100", "echo"], 100, "did you mean tcp://*:21100?"),
        (["--rate", "fast", "tcp://127.0.0.1:0", "echo"], 100, "--rate: "),
        (["tcp://127.0.0.1:0", "--max-per-source", "-1", "echo"], 100, "--max-per-source: "),
        (["--user", "no-such-user-here", "tcp://127.0.0.1:0", "echo"], 100, "--user: no-such-user-here"),
        (["--once", "--workers", "2", "tcp://127.0.0.1:0", "echo"], 100, "--once"),
        (["--listen", "tcp://127.0.0.1:0", "echo"], 100, "no such option: --listen"),
        (["--directory", "/no/such", "tcp://127.0.0.1:0", "echo"], 111, "/no/such: No such file"),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(run, args, code, words):
    r = run("serve", *args)
    err = r.stderr.decode()
    assert r.returncode == code and words in err and err.startswith("hark: serve: ") and err.count("\n") == 1, err
    assert r.stdout == b""


def test_an_address_in_use_says_so(serve, run):
    service = serve("tcp://127.0.0.1:0", "echo")
    r = run("serve", service.addresses[0], "echo")
    assert r.returncode == 111 and b"in use" in r.stderr and service.addresses[0].encode() in r.stderr


def test_a_low_port_says_what_it_needs(hark):
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root, to give it up by setpriv(1)")
    if int(open("/proc/sys/net/ipv4/ip_unprivileged_port_start").read()) <= 13:
        pytest.skip("anybody may bind low ports here")
    r = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", hark, "serve", "tcp://127.0.0.1:13", "daytime"],
        capture_output=True,
        timeout=PATIENCE,
    )
    assert r.returncode == 111 and b"Permission denied" in r.stderr and b"1024" in r.stderr, r.stderr


def test_files_raises_the_limit(serve):
    service = serve("--files", "200", "tcp://127.0.0.1:0", "--", "sh", "-c", "ulimit -Sn", nofile=None)
    with service.connect() as s:
        assert read_all(s) == b"200\n"


def test_files_beyond_the_systems_limit_tells_the_hard_limit(run):
    r = run("serve", "--files", "1073741820", "tcp://127.0.0.1:0", "echo")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert r.returncode == 111 and f"--files 1073741820: Operation not permitted (the hard limit is {hard})" in (
        r.stderr.decode()
    )


def test_closed_standard_descriptors_do_not_become_sockets(hark):
    script = 'exec "$0" serve "$@" <&- 2>&-'
    service = Service(["sh", "-c", script, hark, "tcp://127.0.0.1:0", "--", "sh", "-c", "echo oops >&2; echo fine"])
    try:
        wait_until(lambda: service.addresses or service.process.poll() is not None)
        with service.connect() as s:
            assert read_all(s) == b"fine\n"
    finally:
        service.end()
