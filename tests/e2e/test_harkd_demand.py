"""Services that start on demand and end when idle: nobody who comes meanwhile is lost."""
import os
import re
import socket
import time

import pytest

from conftest import PATIENCE, read_all, wait_until
from harkd_support import harkd, ping, service  # noqa: F401 harkd is a fixture


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
