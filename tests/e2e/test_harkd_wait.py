"""wait = yes under harkd: programs that take the socket, the clients that come meanwhile, and which keys have a say."""
import socket
import subprocess
import threading
import time

import pytest

from conftest import MODELS, PATIENCE, read_all, wait_until
from harkd_support import harkd, service  # noqa: F401 harkd is a fixture

# Takes one client, greets it and exits, as the simplest wait program does.
TAKES_ONE = """\
import socket
s = socket.socket(fileno=0)
s.setblocking(False)
try:
    c = s.accept()[0]
except BlockingIOError:
    raise SystemExit(0)
c.sendall(b"hi")
"""


@pytest.fixture
def takes_one(tmp_path):
    (tmp_path / "takes_one.py").write_text(TAKES_ONE)
    return f"exec = /usr/bin/python3 -IS {tmp_path}/takes_one.py"


def visit(address):
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as s:
        s.settimeout(PATIENCE)
        s.connect(address)
        assert read_all(s) == b"hi"


def visits(address, clients, each):
    """How long it takes so many clients, each one after the other."""
    failures = []

    def client():
        try:
            for _ in range(each):
                visit(address)
        except Exception as e:  # noqa: BLE001 each is a failure to report
            failures.append(repr(e))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    began = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []
    return time.monotonic() - began


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_thirty_connections_of_six_clients_wait_for_no_back_off(harkd, takes_one, tmp_path, kind):
    listen = "tcp://127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path}/x"
    d = harkd(service("x", takes_one, "wait = yes", listen=listen))
    took = visits(("127.0.0.1", d.port("x")) if kind == "tcp" else f"{tmp_path}/x", 6, 5)
    print(f"\n{kind}: {took:.2f} s")
    assert took < 6  # with back-off 8 to 146; thirty starts of an interpreter are most of it


def test_rate_is_that_of_a_wait_programs_starts(harkd, takes_one):
    d = harkd(service("x", takes_one, "wait = yes", "rate = 4/s burst 1"))
    assert visits(("127.0.0.1", d.port("x")), 1, 4) > 0.6
    assert d.service("x")["held"]["rate"] > 0


def test_rate_is_that_of_a_wait_programs_starts_under_serve_too(serve, takes_one):
    s = serve("--wait", "--rate", "4/s burst 1", "tcp://127.0.0.1:0", "--", *takes_one.split()[2:])
    assert visits(s.connect().getpeername(), 1, 4) > 0.6


@pytest.mark.parametrize("model", MODELS)
def test_a_process_killed_with_the_socket_is_counted_no_longer(harkd, tmp_path, model):
    """By its program: under the process model that is a child of the worker, else the worker itself."""
    program = tmp_path / "kills.sh"
    program.write_text(f"#!/bin/sh\necho x >> {tmp_path}/starts\nkill -KILL $PPID\n")
    program.chmod(0o755)
    d = harkd(service("x", f"exec = {program}", "wait = yes", f"model = {model}"))
    with d.connect("x"):
        wait_until(lambda: (tmp_path / "starts").exists() and (tmp_path / "starts").read_text().count("x") >= 4)
        program.write_text("#!/bin/sh\nexec sleep 60\n")
        wait_until(lambda: [w["now"] for w in d.service("x")["workers"]] == [1])
        wait_until(lambda: (s := d.service("x"))["accepted"] == s["closed"] + 1)


def test_keys_without_effect_under_wait_are_named(hark, tmp_path):
    keys = {
        "banner": "hello",
        "max_conns": "3",
        "max_per_source": "1",
        "rate_per_source": "5/s",
        "keepalive": "5s",
        "user_timeout": "5s",
        "lookup_host": "yes",
        "until_eof": "yes",
    }
    (tmp_path / "hark.conf").write_text(
        service("x", "exec = /bin/true", "wait = yes", *(f"{k} = {v}" for k, v in keys.items()))
        + service("y", "box = echo", "wait = yes")
        + service("z", "exec = /bin/true", "wait = yes", "rate = 5/s", "max_load = 9", "max_conns = 0")
    )
    r = subprocess.run(
        [hark + "d", "-t", "-c", tmp_path / "hark.conf"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert r.returncode == 0, r.stderr
    lines = r.stderr.splitlines()
    assert len(lines) == len(keys) + 1, r.stderr
    for key in keys:
        assert any(f"{key}: no effect on [x]" in line and f"{tmp_path}/hark.conf:" in line for line in lines), key
    assert any("wait: no effect on [y]" in line for line in lines)
    shown = subprocess.run([hark, "config", tmp_path / "hark.conf"], capture_output=True, text=True, timeout=PATIENCE)
    assert "box = echo\ndisable = no\nwait = no\n" in shown.stdout, shown.stdout + shown.stderr
