"""hark serve's options that are keys of hark.conf: by the same table, anywhere before the box."""
import contextlib
import json
import os
import pwd
import re
import signal
import socket
import subprocess
import time

import pytest

from conftest import MODELS, PATIENCE, wait_until

ECHO = ["tcp://127.0.0.1:0", "echo"]


def keys_of(run):
    """The service keys that hark config --keys tells, as options."""
    text = run("config", "--keys").stdout.decode().split("# a service, and [defaults]\n")[1].split("\n\n")[0]
    return {"--" + key.replace("_", "-") for key in re.findall(r"^(\w+) = ", text, re.M)}


def test_every_key_of_a_service_is_an_option(run):
    of_serve = set(re.findall(r"^ +(?:-\w, )?(--[\w-]+)", run("serve", "--help").stdout.decode(), re.M))
    served = {"--listen", "--exec", "--box", "--relay", "--disable", "--start", "--stop-idle"}
    assert keys_of(run) - of_serve == served


def test_options_stand_anywhere_before_the_box(serve):
    service = serve("tcp://127.0.0.1:0", "--banner", "hello\\n", "tcp://127.0.0.1:0", "--model=thread", "echo")
    assert len(service.addresses) == 2
    for i in range(2):
        with service.connect(i) as s:
            assert s.recv(100) == b"hello\n"


def test_of_an_option_given_twice_the_last_one_counts(serve):
    service = serve("--banner", "one\\n", "--max-conns", "7", "--banner", "two\\n", "--max-conns=8", *ECHO)
    with service.connect() as s:
        assert s.recv(100) == b"two\n"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("workers", [1, 2])
def test_max_per_source_closes_what_is_too_much(serve, model, workers):
    if model == "inline" and workers == 1:
        pytest.skip("an inline worker has one connection at once")
    service = serve("-v", "--model", model, "--workers", workers, "--max-per-source", "1", *ECHO)
    with service.connect() as first:
        first.sendall(b"x")
        assert first.recv(1) == b"x"
        with pytest.raises(ConnectionResetError):  # perhaps before connect(2) has returned
            with service.connect() as second:
                second.sendall(b"y")
                assert second.recv(1) == b""
                raise ConnectionResetError  # closed in order: as good
        service.expect("refused: max_per_source")

    def again():
        try:
            with service.connect() as s:
                s.sendall(b"z")
                return s.recv(1) == b"z"
        except ConnectionResetError:
            return False

    wait_until(again)


def test_a_refused_connection_is_told_with_its_peer_and_the_limit(serve):
    for how in "-v", "--json":
        service = serve(how, "--max-per-source", "1", *ECHO)
        with service.connect() as first, socket.socket() as second:
            first.sendall(b"x")
            assert first.recv(1) == b"x"
            second.bind(("127.0.0.1", 0))
            peer = "tcp://127.0.0.1:%d" % second.getsockname()[1]
            with contextlib.suppress(ConnectionResetError):
                second.connect(first.getpeername())
                second.recv(1)
            if how == "-v":
                service.expect(f"{peer} -> {service.addresses[0]} echo .*refused: max_per_source")
                continue
            wait_until(lambda: '"refused"' in service.stderr)
            told = [json.loads(line) for line in service.stderr.splitlines()]
            (refused,) = [t for t in told if t["event"] == "refused"]
            assert (refused["peer"], refused["refused"]) == (peer, "max_per_source") and "status" not in refused


def test_rate_holds_back_what_comes_faster(serve):
    service = serve("--rate", "4/s burst 1", "tcp://127.0.0.1:0", "daytime")
    begun = time.monotonic()
    for _ in range(4):
        with service.connect() as s:
            assert s.recv(100)
    assert 0.6 < time.monotonic() - begun < PATIENCE


def test_user_group_and_directory(serve):
    if os.geteuid() != 0:
        pytest.skip("to be another user takes root")
    service = serve("--user", "nobody", "--directory=/", "tcp://127.0.0.1:0", "--", "sh", "-c", "id -u; pwd")
    with service.connect() as s:
        said = b"".join(iter(lambda: s.recv(100), b""))
    assert said == b"%d\n/\n" % pwd.getpwnam("nobody").pw_uid


def test_environment_umask_and_limits(serve):
    service = serve(
        *("--env", "A='b c'", "--pass-env", "PATH", "--umask", "027", "--rlimit-nofile", "99", "tcp://127.0.0.1:0"),
        *("--", "sh", "-c", 'echo "$A,$HOME,$(umask),$(ulimit -n)"'),
        env={**os.environ, "HOME": "/there"},
    )
    with service.connect() as s:
        assert s.recv(100) == b"b c,,0027,99\n"


def test_the_environment_is_passed_on_by_default(serve):
    service = serve("tcp://127.0.0.1:0", "--", "printenv", "FOO", env={**os.environ, "FOO": "bar"})
    with service.connect() as s:
        assert s.recv(100) == b"bar\n"


@pytest.mark.parametrize("model", MODELS)
def test_once_serves_one_connection_and_ends(serve, model):
    service = serve("--once", "--model", model, *ECHO)
    with service.connect() as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"
    assert service.wait() == 0


def test_daemon_ends_once_it_serves_and_tells_where(hark):
    r = subprocess.run([hark, "serve", "--daemon", "--once", *ECHO], capture_output=True, timeout=PATIENCE)
    assert r.returncode == 0, r.stderr
    host, port = re.fullmatch(r"listening on tcp://(.*):(\d+)\n", r.stdout.decode()).groups()
    with socket.create_connection((host, int(port)), PATIENCE) as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"


def test_daemon_that_cannot_serve_says_so(run):
    r = run("serve", "--daemon", "tcp://192.0.2.1:0", "echo")
    assert r.returncode == 111 and "192.0.2.1" in r.stderr.decode()


def test_daemon_that_cannot_serve_says_so_where_sigchld_is_ignored(hark):
    r = subprocess.run(
        [hark, "serve", "--daemon", "tcp://192.0.2.1:0", "echo"],
        capture_output=True,
        timeout=PATIENCE,
        preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    )
    assert r.returncode == 111 and b"192.0.2.1" in r.stderr
