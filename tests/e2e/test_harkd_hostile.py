"""Workers that were taken over, peers that forge, programs that outlive: each reaches what is its own alone."""
import contextlib
import ctypes
import fcntl
import os
import re
import select
import signal
import socket
import struct
import time

import pytest

from conftest import MODELS, PATIENCE, read_all, wait_until
from harkd_support import harkd, is_zombie, service, sanitized  # noqa: F401 harkd is a fixture

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it forges datagrams")


def mappings(pid):
    """Where, how large, which file: of what a process shares with others by an anonymous file."""
    with open(f"/proc/{pid}/maps") as f:
        found = [re.match(r"(\w+)-(\w+) ..-s \w+ \S+ (\d+)\s+/memfd:hark", line) for line in f]
    return [(int(m[1], 16), int(m[2], 16), int(m[3])) for m in found if m]


def files(pid):
    return {file for _, _, file in mappings(pid)}


# ---- a worker's memory ------------------------------------------------------------------------------------


def test_each_worker_maps_the_memory_of_its_own_service_alone(harkd):
    d = harkd(service("a", "box = echo", "workers = 2") + service("b", "box = echo", "max_conns = 5"))
    wait_until(lambda: len(d.workers("a")) == 2)
    a, again, b = (files(pid) for pid in [*d.workers("a"), *d.workers("b")])
    assert a == again and len(a) == len(b) == 1 and a != b
    assert files(d.pid) == a | b


def test_what_a_worker_writes_to_its_memory_hurts_no_other_service(harkd, run, tmp_path):
    # The lock that is overwritten is refused, which ThreadSanitizer would report.
    (tmp_path / "suppressed").write_text("mutex:table_lock\n")
    options = os.environ.get("TSAN_OPTIONS", "") + f":suppressions={tmp_path}/suppressed"
    env = dict(os.environ, TSAN_OPTIONS=options)
    d = harkd(service("a", "box = echo", "max_conns = 5") + service("b", "box = echo", "max_conns = 5"), env=env)
    with d.connect("b") as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"
        with open(f"/proc/{d.workers('a')[0]}/mem", "r+b", buffering=0) as memory:
            for begin, end, _ in mappings(d.workers("a")[0]):
                memory.seek(begin)
                memory.write(b"\xff" * min(end - begin, 1 << 20))
        shown = run("status", "--control", d.directory / "control")
        assert shown.returncode == 0, shown.stderr
        assert run("status", "--json", "--control", d.directory / "control").returncode == 0
        assert (d.service("b")["now"], d.service("b")["accepted"]) == (1, 1)
        assert all(0 <= n < 1 << 63 for n in d.service("a").values() if isinstance(n, int))
        with d.connect("b") as another:
            another.sendall(b"y")
            assert another.recv(1) == b"y"
    worker = d.workers("a")[0]
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: worker not in d.workers("a"))
    with d.connect("b") as s:
        s.sendall(b"z")
        assert s.recv(1) == b"z"


def test_no_page_is_written_by_workers_of_two_services(harkd):
    head = "[harkd]\ncontrol = {dir}/control\nlog = {dir}/log\n\n"
    d = harkd(service("a", "box = daytime") + service("b", "box = daytime"), head=head, ready=False)
    wait_until(lambda: d.answers() and d.workers("a") and d.workers("b"))

    def written(name):
        with open(f"/proc/{d.workers(name)[0]}/maps") as f:
            return {tuple(line.split()[3:5]) for line in f if re.match(r"\S+ .w.s", line)}

    assert written("a") and written("a") & written("b") == set()


def get_fd(pid, fd):
    """A duplicate of another process's descriptor: pidfd_getfd(2), as it could change it itself."""
    process = os.pidfd_open(pid)
    number = ctypes.CDLL(None, use_errno=True).syscall(438, process, fd, 0)
    os.close(process)
    assert number >= 0, os.strerror(ctypes.get_errno())
    return number


@needs_root
def test_a_worker_has_the_log_by_a_descriptor_of_its_own(harkd, tmp_path):
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)  # and nobody reads there
    head = "[harkd]\ncontrol = {dir}/control\nlog = {dir}/log\n\n"
    text = service("a", "box = daytime") + service("b", "box = daytime")
    d = harkd(text, head=head, ready=False)
    wait_until(lambda: d.answers() and d.workers("a") and d.workers("b"))
    ask = lambda: d.connect("b").makefile("rb").read()  # noqa: E731
    assert ask()
    (a,) = d.workers("a")
    (at,) = [int(fd) for fd in os.listdir(f"/proc/{a}/fd") if os.readlink(f"/proc/{a}/fd/{fd}") == f"{tmp_path}/log"]
    fd = get_fd(a, at)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)
    os.close(fd)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    for _ in range(100):  # more lines than it holds
        assert ask()
    d.configure(text + service("c", "box = daytime"))
    assert d.ask("reload")["ok"]
    os.close(reader)


def memory_of(pid):
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            m = re.match(r"(\w+)-(\w+) rw", line)
            size = int(m[2], 16) - int(m[1], 16) if m else 0
            if not 0 < size < 64 << 20:  # the fibers' arena is address space, and theirs
                continue
            memory.seek(int(m[1], 16))
            with contextlib.suppress(OSError):
                yield memory.read(size)


@sanitized
def test_a_worker_knows_no_others_environment(harkd):
    secrets = {"own": "of-a-" + os.urandom(8).hex(), "other": "of-b-" + os.urandom(8).hex()}
    started_with = "of-harkd-" + os.urandom(8).hex()
    d = harkd(
        service("a", "box = echo", f"env = PASSWORD={secrets['own']}")
        + service("b", "exec = /bin/cat", f"env = FIRST=1 PASSWORD={secrets['other']}"),
        env={**os.environ, "HARKD_TEST_SECRET": started_with},
    )
    for change in range(2):
        worker = wait_until(lambda: d.workers("a"))[0]
        memory = b"".join(memory_of(worker))
        assert secrets["own"].encode() in memory  # it is looked at where it would be
        assert secrets["other"].encode() not in memory
        assert started_with.encode() not in memory
        d.configure(
            service("a", "box = echo", f"env = PASSWORD={secrets['own']}", "grace = 7s")
            + service("b", "exec = /bin/cat", f"env = FIRST=1 PASSWORD={secrets['other']}")
        )
        assert d.ask("reload")["ok"]
        if change == 0:
            wait_until(lambda: d.workers("a") not in ([], [worker]))
    with d.connect("b") as s:  # its own programs have theirs
        s.sendall(b"x")
        assert s.recv(1) == b"x"


# ---- limits -------------------------------------------------------------------------------------------


def connected(d, n, name="x"):
    held = []
    for _ in range(n):
        s = d.connect(name)
        s.sendall(b"x")
        assert s.recv(1) == b"x"
        held.append(s)
    return held


def test_max_conns_goes_on_over_reloads_and_upgrades(harkd):
    d = harkd(service("x", "box = echo", "max_conns = 3"))
    port = d.port("x")
    held = connected(d, 3)
    for seconds in (7, 8):
        d.configure(service("x", "box = echo", "max_conns = 3", f"grace = {seconds}s", listen="tcp://127.0.0.1:0"))
        assert d.ask("reload")["changed"] == 1
    d.upgrade()
    assert d.port("x") == port
    with d.connect("x") as late:
        late.sendall(b"y")
        assert select.select([late], [], [], 0.5)[0] == []
        assert d.service("x")["now"] == 3
        held.pop().close()
        assert late.recv(1) == b"y"
    for s in held:
        s.close()


def test_max_per_source_goes_on_over_reloads_and_upgrades(harkd):
    d = harkd(service("x", "box = echo", "max_per_source = 2"))
    held = connected(d, 2)
    d.configure(service("x", "box = echo", "max_per_source = 2", "grace = 7s"))
    assert d.ask("reload")["changed"] == 1
    d.upgrade()

    def is_served():
        with contextlib.suppress(ConnectionError), d.connect("x") as s:
            s.sendall(b"x")
            return s.recv(1) == b"x"

    assert not is_served()
    held.pop().close()
    wait_until(is_served)
    held.pop().close()


@pytest.mark.parametrize("model", MODELS)
def test_programs_end_with_a_worker_that_is_killed(harkd, model):
    d = harkd(service("x", "exec = /bin/sh -c 'echo $$; exec sleep 300'", "max_conns = 1", f"model = {model}"))
    with d.connect("x") as s:
        program = int(s.makefile().readline())
        os.kill(d.workers("x")[0], signal.SIGKILL)
        wait_until(lambda: is_zombie(program))
        wait_until(lambda: d.service("x")["crashes"] == 1 and d.service("x")["state"] == "running")
    with d.connect("x") as s:  # its place is free again
        assert int(s.makefile().readline()) != program


def test_children_of_a_process_model_worker_end_with_it(harkd):
    d = harkd(service("x", "box = echo", "max_conns = 1", "model = process"))
    (s,) = connected(d, 1)
    os.kill(d.workers("x")[0], signal.SIGKILL)
    with contextlib.suppress(ConnectionResetError):
        assert read_all(s) == b""
    s.close()
    wait_until(lambda: d.service("x")["state"] == "running" and d.workers("x"))
    connected(d, 1)[0].close()


# ---- forged datagrams -------------------------------------------------------------------------------------


def forge(source, to, payload=b"hello"):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as s:
        s.bind(("127.0.0.1", 0))
        s.sendto(struct.pack("!HHHH", source, to, 8 + len(payload), 0) + payload, ("127.0.0.1", 0))


def answers_in(daemons, seconds):
    """How many datagrams the services take in that time."""
    total = lambda: sum(s["accepted"] for d in daemons for s in d.status()["services"])  # noqa: E731
    before, began = total(), time.monotonic()
    time.sleep(seconds)  # the span is what is measured
    return (total() - before) / (time.monotonic() - began)


UDP = "udp://127.0.0.1:0"


@needs_root
@pytest.mark.parametrize("boxes", [("echo", "echo"), ("echo", "chargen --longer"), ("echo --any-port", "daytime")])
def test_a_forged_datagram_begins_no_loop_between_two_services(harkd, boxes):
    d = harkd(service("a", f"box = {boxes[0]}", listen=UDP) + service("b", f"box = {boxes[1]}", listen="udp://*:0"))
    for _ in range(10):
        forge(d.port("b"), d.port("a"), b"x" * 30)
        forge(d.port("a"), d.port("b"), b"x" * 30)
    wait_until(lambda: d.service("a")["accepted"] >= 10 and d.service("b")["accepted"] >= 10)
    rate = answers_in([d], 0.5)
    print(f"\n{boxes}: {rate:.0f} a second")
    assert rate == 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:  # others are answered
        s.settimeout(PATIENCE)
        s.sendto(b"hello", ("127.0.0.1", d.port("a")))
        assert s.recv(100) == b"hello"


@needs_root
@pytest.mark.parametrize("datagrams", [1, 2, 100])
@pytest.mark.parametrize("model", MODELS)
def test_a_loop_between_two_daemons_is_slow(harkd, serve, model, datagrams):
    a = harkd(service("a", "box = echo", f"model = {model}", listen=UDP))
    other = serve(UDP, "echo").port()
    for i in range(datagrams):
        forge(other, a.port("a"), b"%d" % i)
    wait_until(lambda: a.service("a")["accepted"] >= datagrams)
    wait_until(lambda: answers_in([a], 0.5) < 150)  # 22,000 without a bound, and for ever


@needs_root
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("what", ["exec = /bin/cat", "relay = udp://127.0.0.1:{echo}"])
def test_who_claims_to_be_a_service_begins_no_session(harkd, serve, model, what):
    echo = serve("--verbose", UDP, "echo")
    d = harkd(service("x", what.format(echo=echo.port()), f"model = {model}", listen=UDP))
    port = d.port("x")
    for i in range(5):
        forge(port, port, b"%d" % i)
    wait_until(lambda: (x := d.service("x"))["failed"] == 5 and x["now"] == 0)
    assert echo.stderr == ""
    if what.startswith("relay"):  # nor who claims to be where it leads to
        forge(echo.port(), port)
        wait_until(lambda: (x := d.service("x"))["failed"] == 6 and x["now"] == 0)
        assert echo.stderr == ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(PATIENCE)
        s.sendto(b"hello", ("127.0.0.1", port))
        assert s.recv(100) == b"hello"


def test_one_host_has_no_more_udp_sessions_than_its_share(harkd, run, tmp_path):
    echo = service("echo", "box = echo", listen=UDP)
    d = harkd(echo)
    d.configure(
        echo
        + service("x", f"relay = udp://127.0.0.1:{d.port('echo')}", "max_sessions_per_source = 5", listen=UDP)
        + service("y", f"relay = udp://127.0.0.1:{d.port('echo')}", listen=UDP)
    )
    assert d.ask("reload")["ok"]
    wait_until(lambda: d.service("x")["state"] == "running")
    clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(20)]
    for i, s in enumerate(clients):
        s.connect(("127.0.0.1", d.port("x")))
        s.send(b"%d" % i)
        if i < 5:  # one by one: what comes while another session begins may be lost
            s.settimeout(PATIENCE)
            assert s.recv(10) == b"%d" % i
    wait_until(lambda: d.service("x")["refused"]["max_sessions_per_source"] == 15)
    assert d.service("x")["now"] == 5
    for s in clients:
        s.close()
    shown = run("config", tmp_path / "hark.conf").stdout.decode()
    assert "max_sessions_per_source = 500" in shown
