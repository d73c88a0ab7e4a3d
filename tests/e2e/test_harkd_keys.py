"""Keys of hark.conf(5) that say how a connection is treated; relays, programs that wait, included files."""
import os
import re
import socket
import time

import pytest

from conftest import MODELS, PATIENCE, read_all, wait_until
from harkd_support import HEAD, PROBE, dial, harkd, report, say, service  # noqa: F401 harkd is a fixture


@pytest.mark.parametrize("model", MODELS)
def test_the_banner_comes_first_for_boxes_and_programs(harkd, model):
    banner = r"banner = Good day.\r\n\tYes \x21\\"
    d = harkd(
        service("echo", "box = echo", banner, f"model = {model}", listen="tcp://127.0.0.1:0 udp://127.0.0.1:0")
        + service("cat", "exec = /bin/cat", banner, "first = client", f"model = {model}")
    )
    want = b"Good day.\r\n\tYes !\\"
    for name in ("echo", "cat"):
        with d.connect(name) as s:
            first = bytearray()
            while len(first) < len(want):  # before we said a word
                first += s.recv(100)
            assert first == want
            s.sendall(b"and on")
            s.shutdown(socket.SHUT_WR)
            assert read_all(s) == b"and on"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(PATIENCE)
        s.connect(("127.0.0.1", d.port("echo", 1)))
        s.send(b"x")
        assert s.recv(100) == b"x"  # a datagram has no banner


def test_idle_timeout_and_lifetime_end_connections(harkd):
    d = harkd(
        service("idle", "box = echo", "idle_timeout = 300ms") + service("short", "box = echo", "lifetime = 500ms")
    )
    began = time.monotonic()
    with d.connect("idle") as idle, d.connect("short") as short:
        for _ in range(4):
            for s in (idle, short):
                s.sendall(b"x")
                assert s.recv(1) == b"x"
            time.sleep(0.1)
        assert short.recv(1) == b""
        assert 0.4 < time.monotonic() - began < 3
        assert idle.recv(1) == b""
    assert 0.6 < time.monotonic() - began < 3


@pytest.mark.parametrize("engine", ["epoll", "poll"])
def test_engine_and_stack(harkd, engine):
    d = harkd(
        service("fiber", "box = echo", f"engine = {engine}", "stack = 1m")
        + service("thread", "box = echo", f"engine = {engine}", "stack = 1m", "model = thread")
    )
    with d.connect("fiber") as a, d.connect("thread") as b:
        for s in (a, b):
            s.sendall(b"x")
            assert s.recv(1) == b"x"
        kinds = [
            os.readlink(f"/proc/{d.workers('fiber')[0]}/fd/{fd}")
            for fd in os.listdir(f"/proc/{d.workers('fiber')[0]}/fd")
        ]
        assert ("anon_inode:[eventpoll]" in kinds) == (engine == "epoll"), kinds
        maps = open(f"/proc/{d.workers('thread')[0]}/maps").read()
        sizes = [int(m[2], 16) - int(m[1], 16) for m in re.finditer(r"^(\w+)-(\w+) rw", maps, re.M)]
        assert 1 << 20 in sizes  # ThreadSanitizer makes what is smaller larger


def test_source_prefix_and_max_load(harkd):
    d = harkd(
        service("net", "box = echo", "max_per_source = 1", "source_prefix = 24 64")
        + service("host", "box = echo", "max_per_source = 1")
        + service("busy", "box = echo", "max_load = 0.00001")
    )

    def dial_from(source, name):
        return socket.create_connection(("127.0.0.1", d.port(name)), PATIENCE, (source, 0))

    for name, shares in (("net", True), ("host", False)):
        with dial_from("127.0.0.2", name) as first:
            first.sendall(b"1")
            assert first.recv(1) == b"1"
            try:
                with dial_from("127.0.0.3", name) as second:
                    second.sendall(b"2")
                    assert (second.recv(1) == b"2") != shares
            except ConnectionError:
                assert shares
            with dial_from("127.0.1.2", name) as third:
                third.sendall(b"3")
                assert third.recv(1) == b"3"
    if os.getloadavg()[0] > 0.01:
        with d.connect("busy") as s:
            s.sendall(b"x")
            wait_until(lambda: d.service("busy")["held"]["max_load"] >= 1)
            assert d.service("busy")["accepted"] == 0


def test_relay_joins_every_kind_of_socket(harkd, tmp_path):
    name = f"@hark-relay-{os.getpid()}"
    d = harkd(service("echo", "box = echo", listen=f"tcp://127.0.0.1:0 udp://127.0.0.1:0 unix:{name}"))
    tcp, udp, _ = d.service("echo")["listen"]
    d.configure(
        service("echo", "box = echo", listen=f"tcp://127.0.0.1:0 udp://127.0.0.1:0 unix:{name}")
        + service("to-tcp", f"relay = {tcp}", listen=f"tcp://127.0.0.1:0 unix:{tmp_path}/r")
        + service("to-unix", f"relay = unix:{name}")
        + service("to-udp", f"relay = {udp}", listen="udp://127.0.0.1:0")
        + service("to-none", f"relay = --connect-timeout 1s unix:{tmp_path}/nobody")
    )
    assert d.ask("reload")["added"] == 4
    for of in ("to-tcp", "to-unix", "to-udp"):
        for address in d.service(of)["listen"]:
            with dial(address) as s:
                s.send(b"around")
                assert s.recv(100) == b"around"
                if s.type == socket.SOCK_STREAM:
                    s.shutdown(socket.SHUT_WR)
                    assert read_all(s) == b""
    try:
        with d.connect("to-none") as s:
            assert s.recv(1) == b""
    except ConnectionResetError:
        pass
    wait_until(lambda: d.service("to-none")["failed"] == 1)


STREAM_WAIT = """\
import socket, time
l = socket.socket(fileno=0)
l.settimeout(2)
try:
    while True:
        c, _ = l.accept()
        c.sendall(b"wait ")
        data = c.recv(100)
        c.sendall(data)
        c.close()
        if data == b"end":
            break
except TimeoutError:
    pass
"""


DATAGRAM_WAIT = """\
import socket
s = socket.socket(fileno=0)
s.settimeout(2)
try:
    while True:
        data, peer = s.recvfrom(100)
        s.sendto(b"wait " + data, peer)
        if data == b"end":
            break
except TimeoutError:
    pass
"""


def test_wait_programs_get_the_listening_socket(harkd, tmp_path):
    (tmp_path / "stream.py").write_text(f"open('{tmp_path}/starts', 'a').write('x')\n" + STREAM_WAIT)
    (tmp_path / "datagram.py").write_text(DATAGRAM_WAIT)
    d = harkd(
        service("stream", f"exec = /usr/bin/python3 -IS {tmp_path}/stream.py", "wait = yes", "start = demand")
        + service(
            "datagram",
            f"exec = /usr/bin/python3 -IS {tmp_path}/datagram.py",
            "wait = yes",
            listen=f"udp://127.0.0.1:0 unixgram:{tmp_path}/gram",
        )
    )
    for word in (b"one", b"two", b"end"):
        with d.connect("stream") as s:
            s.sendall(word)
            assert read_all(s) == b"wait " + word
    assert (tmp_path / "starts").read_text() == "x"
    with d.connect("stream") as s:  # it has ended: another one is started
        s.sendall(b"end")
        assert read_all(s) == b"wait end"
    assert (tmp_path / "starts").read_text() == "xx"
    for address in d.service("datagram")["listen"]:
        for word in (b"one", b"two", b"end", b"four", b"end"):
            with dial(address) as s:
                s.send(word)
                assert s.recv(100) == b"wait " + word
    d.expect(r"^\S+ stream - -> tcp://127.0.0.1:\d+ python3 pid \d+ [\d.]+ ms in - out - done$")


def test_disabled_services_are_not_served_and_may_lack_their_program(harkd):
    d = harkd(
        service("echo", "box = echo")
        + service("off", "exec = /no/such/program", "user = nobody-at-all", "disable = yes")
    )
    assert [(s["name"], s["state"]) for s in d.status()["services"]] == [("echo", "running"), ("off", "disabled")]
    assert (d.service("off")["state"], d.service("off")["workers"]) == ("disabled", [])
    assert d.ask("start off") == {"ok": False, "error": "off is disabled: its configuration says so"}
    d.configure(service("echo", "box = echo", "disable = yes") + service("off", "box = daytime", "disable = no"))
    assert d.ask("reload")["removed"] == 1
    assert re.match(rb"\d{4}-", say(d, "off"))
    assert {s["name"]: s["state"] for s in d.status()["services"] if s["state"] != "draining"} == {
        "off": "running",
        "echo": "disabled",
    }


def test_included_files_and_defaults_are_served(harkd, tmp_path):
    (tmp_path / "services.d").mkdir()
    for name in ("b", "a"):
        (tmp_path / "services.d" / f"{name}.conf").write_text(service(name, PROBE))
    (tmp_path / "services.d" / "ignored.off").write_text("[nonsense\n")
    head = HEAD.rstrip("\n") + "\ninclude = services.d/*.conf\n\n[defaults]\numask = 077\nenv = WHERE=defaults\n\n"
    d = harkd(service("own", PROBE, "umask = 002", "env = OWN=yes") + service("unset", PROBE, "umask ="), head=head)
    assert [s["name"] for s in d.status()["services"]] == ["a", "b", "own", "unset"]
    assert report(d, "a").status("Umask") == ["0077"] and report(d, "a").environ["WHERE"] == "defaults"
    own = report(d, "own")
    assert own.status("Umask") == ["0002"] and "WHERE" not in own.environ and own.environ["OWN"] == "yes"
    mask = os.umask(0)
    os.umask(mask)
    assert report(d, "unset").status("Umask") == [f"{mask:04o}"]
    (tmp_path / "services.d" / "c.conf").write_text(service("c", "box = echo"))
    (tmp_path / "services.d" / "a.conf").unlink()
    answer = d.ask("reload")
    assert (answer["added"], answer["removed"], answer["unchanged"]) == (1, 1, 3)
