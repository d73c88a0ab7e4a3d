"""harkd among those who mean it harm, and on bad days: what it logs to, reads and is told does not hold it up."""
import contextlib
import fcntl
import json
import os
import pty
import resource
import signal
import socket
import subprocess
import termios
import time

import pytest

from conftest import PATIENCE, wait_until
from harkd_support import HEAD, harkd, service  # noqa: F401 harkd is a fixture

MODELS = ["inline", "process", "thread", "fiber"]
TO_FILE = "[harkd]\ncontrol = {dir}/control\nlog = {dir}/log\n\n"


def ask_daytime(port):
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as s:
        assert s.recv(100)


@contextlib.contextmanager
def told_to(fd, args, **more):
    """A process whose standard error is fd, which nobody here reads."""
    process = subprocess.Popen(
        args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=fd, start_new_session=True, **more
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.stdout.close()


def control(path, request="status", timeout=PATIENCE):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(timeout)
        s.connect(str(path))
        s.sendall(request.encode() + b"\n")
        answer = bytearray()
        while not answer.endswith(b"\n"):
            chunk = s.recv(1 << 16)
            assert chunk, "closed without an answer"
            answer += chunk
    return json.loads(answer)


def answering(path):
    with contextlib.suppress(OSError):
        return control(path)


# ---- a log never stops a service -----------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_a_log_file_at_its_limit_stops_no_service(harkd, model):  # noqa: F811
    h = harkd(service("daytime", "box = daytime", f"model = {model}", "rlimit_fsize = 1k"), ready=False, head=TO_FILE)
    log = h.directory / "log"
    wait_until(lambda: log.exists() and "ready: " in log.read_text())
    before, port = h.workers("daytime"), h.port("daytime")
    for _ in range(30):
        ask_daytime(port)
    wait_until(lambda: h.service("daytime")["closed"] >= 30)
    now = h.service("daytime")
    assert h.workers("daytime") == before
    assert (now["crashes"], now["failed"]) == (0, 0)
    assert now["log_dropped"] > 0


def test_a_supervisor_at_its_file_limit_goes_on(harkd, tmp_path):  # noqa: F811
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 28, 1 << 28))  # noqa: E731
    (tmp_path / "log").touch()
    os.truncate(tmp_path / "log", (1 << 28) + 1)  # with a hole
    h = harkd(service("daytime", "box = daytime"), ready=False, head=TO_FILE, preexec_fn=limit)
    wait_until(lambda: answering(h.directory / "control"))
    for i in range(10):
        h.configure(service(f"daytime{i}", "box = daytime"))
        assert h.ask("reload")["ok"]
    ask_daytime(h.port("daytime9"))
    assert h.stop() == 0


def test_a_file_limit_is_not_one_of_memory(harkd):  # noqa: F811
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (512, resource.RLIM_INFINITY))  # noqa: E731
    h = harkd(service("daytime", "box = daytime", "max_conns = 3"), ready=False, head=TO_FILE, preexec_fn=limit)
    wait_until(lambda: answering(h.directory / "control"))
    ask_daytime(h.port("daytime"))
    h.upgrade()
    ask_daytime(h.port("daytime"))


@pytest.mark.parametrize("model", MODELS)
def test_serve_goes_on_where_its_log_is_at_its_limit(hark, tmp_path, model):
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))  # noqa: E731
    with open(tmp_path / "log", "wb") as log:
        args = [hark, "serve", "--verbose", "--model", model, "tcp://127.0.0.1:0", "daytime"]
        with told_to(log.fileno(), args, preexec_fn=limit) as process:
            port = int(process.stdout.readline().rsplit(b":", 1)[1])
            for _ in range(30):
                ask_daytime(port)
            assert process.poll() is None


def small_pipe():
    r, w = os.pipe()
    fcntl.fcntl(w, fcntl.F_SETPIPE_SZ, 4096)
    return r, w


def stream_socket():
    a, b = socket.socketpair()
    a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return b.detach(), a.detach()


def stopped_terminal():
    master, slave = pty.openpty()
    termios.tcflow(slave, termios.TCOOFF)
    return master, slave


NOBODY_READS = [small_pipe, stream_socket, pty.openpty, stopped_terminal]


@pytest.mark.parametrize("make", NOBODY_READS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("model", MODELS)
def test_serve_goes_on_where_nobody_reads_its_log(hark, make, model):
    reader, writer = make()
    args = [hark, "serve", "--verbose", "--model", model, "tcp://127.0.0.1:0", "daytime"]
    with told_to(writer, args) as process:
        port = int(process.stdout.readline().rsplit(b":", 1)[1])
        for _ in range(150):
            ask_daytime(port)
    assert process.returncode == 0
    assert not fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK  # others write there, too
    os.close(writer)
    os.close(reader)


@pytest.mark.parametrize("make", NOBODY_READS, ids=lambda f: f.__name__)
def test_harkd_goes_on_where_nobody_reads_its_log(hark, tmp_path, make):
    reader, writer = make()
    says = "exec = /bin/sh -c 'seq 50000 >&2; echo out'"
    text = service("daytime", "box = daytime") + service("says", says)
    (tmp_path / "hark.conf").write_text(HEAD.format(dir=tmp_path) + text)
    with told_to(writer, [hark + "d", "-c", str(tmp_path / "hark.conf")]) as process:
        wait_until(lambda: answering(tmp_path / "control"))
        services = control(tmp_path / "control")["services"]
        port, says_port = (int(s["listen"][0].rsplit(":", 1)[1]) for s in services)
        ask_daytime(says_port)  # a program's words are dropped as harkd's own are
        for _ in range(150):
            ask_daytime(port)
        for _ in range(50):
            assert control(tmp_path / "control", "reload")["ok"]
    assert process.returncode == 0
    os.close(writer)
    os.close(reader)


# ---- what is read does not hold it up ------------------------------------------------------------


@pytest.mark.parametrize("option", ["-c", "--inetd"])
def test_a_configuration_that_is_a_fifo_is_an_error(hark, tmp_path, option):
    os.mkfifo(tmp_path / "conf")
    for more in [["-t"], ["--control", "none"]]:
        done = subprocess.run(
            [hark + "d", option, str(tmp_path / "conf"), *more], capture_output=True, timeout=PATIENCE
        )
        assert done.returncode == 100
        assert b"not a regular file" in done.stderr


def test_a_configuration_may_come_through_a_pipe(hark):
    text = service("daytime", "box = daytime").encode()
    for args in [["-c", "/dev/stdin"], ["-c", "/dev/fd/0"]]:
        done = subprocess.run([hark + "d", "-t", *args], input=text, capture_output=True, timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (0, b"")


def test_a_reload_of_a_fifo_changes_nothing(harkd):  # noqa: F811
    h = harkd(service("daytime", "box = daytime"))
    port = h.port("daytime")
    os.unlink(h.directory / "hark.conf")
    os.mkfifo(h.directory / "hark.conf")
    answer = h.ask("reload")
    assert not answer["ok"] and "not a regular file" in answer["error"]
    assert h.port("daytime") == port
    ask_daytime(port)


def test_a_pid_file_that_became_a_fifo_holds_up_no_end(harkd, tmp_path):  # noqa: F811
    pid_file = tmp_path / "pid"
    h = harkd(service("daytime", "box = daytime"), "--pid-file", pid_file)
    wait_until(pid_file.exists)
    os.unlink(pid_file)
    os.mkfifo(pid_file)
    assert h.stop() == 0
    assert pid_file.is_fifo()


# ---- the control socket and the environment ------------------------------------------------------


def test_silent_control_clients_lock_nobody_out(harkd):  # noqa: F811
    h = harkd(service("daytime", "box = daytime"))
    silent = []
    for _ in range(40):
        s = socket.socket(socket.AF_UNIX)
        s.connect(str(h.directory / "control"))
        silent.append(s)
        s.send(b"stat")  # and no more
    for _ in range(3):
        assert h.status()["ok"]
    silent[-1].settimeout(PATIENCE)
    silent[-1].sendall(b"us\n")  # the youngest are still heard
    assert silent[-1].recv(10) == b'{"ok":true'
    silent[0].settimeout(PATIENCE)
    with contextlib.suppress(ConnectionResetError):
        assert silent[0].recv(1) == b""
    for s in silent:
        s.close()


FORGED = [
    {"HARKD_GENERATION": "2", "HARKD_HEIR": str(fd), "HARKD_COUNTERS": "2", "HARKD_SOCKETS": sockets}
    for fd in (0, 1, 3, 4, 5)
    for sockets in ("", "tcp://127.0.0.1:1\n" * 3)
]


@pytest.mark.parametrize("forged", FORGED, ids=lambda e: f"{e['HARKD_HEIR']}-{len(e['HARKD_SOCKETS'])}")
def test_a_made_up_environment_is_no_older_generation(harkd, forged):  # noqa: F811
    h = harkd(service("daytime", "box = daytime"), env={**os.environ, **forged, "HARKD_NOFILE": "7"})
    assert h.status()["generation"] == 1
    ask_daytime(h.port("daytime"))
    begun = time.monotonic()
    assert h.stop() == 0
    assert time.monotonic() - begun < PATIENCE / 2
