"""harkd from its start to "ready": what it is started from and with, in the background, as process 1."""
import contextlib
import os
import resource
import re
import signal
import socket
import subprocess
import time

import pytest

from conftest import PATIENCE, read_all, wait_until
from harkd_support import ECHO, HEAD, Harkd, harkd, is_zombie, ping, say, service  # noqa: F401 harkd is a fixture


@pytest.mark.alone
def test_services_on_demand_do_not_keep_harkd_from_being_ready(harkd):
    began = time.monotonic()
    d = harkd("".join(service(f"echo-{i}", "box = echo", "start = demand") for i in range(20)))
    assert {s["state"] for s in d.status()["services"]} == {"waiting"}
    assert d.status()["uptime_s"] < 0.9 or time.monotonic() - began < 0.9


def test_warnings_are_in_the_log_and_do_not_keep_harkd_from_serving(harkd):
    d = harkd(service("echo", "box = echo", "socket_mode = 600"))
    assert re.search(
        r"^harkd: \S+hark\.conf:8: socket_mode: the service listens on no Unix socket$", d.stderr, re.M
    ), d.stderr
    assert say(d, "echo", b"x") == b"x"
    d.stop()


def test_a_daemon_says_which_service_does_not_start(hark, tmp_path):
    head = HEAD.replace("log = stderr", "log = {dir}/log\npid_file = {dir}/pid").format(dir=tmp_path)
    (tmp_path / "hark.conf").write_text(head + ECHO + service("bad", "box = echo", "rlimit_nofile = 5"))
    r = subprocess.run(
        [hark + "d", "-c", tmp_path / "hark.conf", "--daemon"], capture_output=True, text=True, timeout=PATIENCE
    )
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    assert r.returncode == 0
    assert "[bad] does not start, and is tried again: " in r.stderr and "Too many open files" in r.stderr


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


def test_more_services_than_the_soft_limit_of_descriptors(harkd):
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


def test_a_disabled_service_is_not_counted_as_ready(harkd):
    d = harkd(ECHO + service("off", "box = echo", "disable = yes"))
    d.expect(r"ready: 1 service of .*hark\.conf$")
