"""Addresses that come and go with reloads, and go from one service to another: nobody is refused."""
import contextlib
import os
import re
import select
import signal
import socket
import struct
import threading
import time

import pytest

from conftest import MODELS, PATIENCE, read_all, wait_until
from harkd_support import (
    ECHO,
    connect_to,
    free_port,
    gone,
    harkd,
    ping,
    run_test,
    service,
)  # noqa: F401 harkd is a fixture


def test_an_address_that_a_reload_removes_is_refused_though_a_connection_of_it_goes_on(harkd):
    d = harkd(service("echo", "box = echo", listen="tcp://127.0.0.1:0 tcp://127.0.0.2:0"))
    gone = int(d.service("echo")["listen"][1].rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.2", gone), PATIENCE) as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"
        d.configure(service("echo", "box = echo"))
        assert d.ask("reload")["changed"] == 1
        with pytest.raises(ConnectionError):
            wait_until(lambda: socket.create_connection(("127.0.0.2", gone), PATIENCE).close())
        s.sendall(b"y")
        assert s.recv(1) == b"y"


@pytest.mark.parametrize("model", ["process", "thread", "fiber"])
def test_an_address_that_a_reload_takes_away_is_closed_while_old_connections_go_on(harkd, model):
    kept, dropped = free_port(), free_port()
    both = service("echo", "box = echo", f"model = {model}", listen=f"tcp://127.0.0.1:{kept} tcp://127.0.0.1:{dropped}")
    one = service("echo", "box = echo", f"model = {model}", listen=f"tcp://127.0.0.1:{kept}")
    d = harkd(both)
    with socket.create_connection(("127.0.0.1", dropped), PATIENCE) as s:
        ping(s)
        d.configure(one)
        assert d.ask("reload")["changed"] == 1

        def refused():
            try:
                socket.create_connection(("127.0.0.1", dropped), PATIENCE).close()
            except ConnectionRefusedError:
                return True
            except ConnectionResetError:  # met the listener's end in the middle of connect(2)
                pass
            return False

        wait_until(refused)
        d.configure(both)  # and back again, though the first worker still serves a connection
        answer = d.ask("reload")
        assert answer["ok"], answer
        with socket.create_connection(("127.0.0.1", dropped), PATIENCE) as t:
            ping(t)
        ping(s)


def test_a_udp_address_that_a_reload_takes_away_can_be_had_again_while_old_connections_go_on(harkd):
    tcp, udp = free_port(), free_port(socket.SOCK_DGRAM)
    both = service("echo", "box = echo", listen=f"tcp://127.0.0.1:{tcp} udp://127.0.0.1:{udp}")
    d = harkd(both)
    with socket.create_connection(("127.0.0.1", tcp), PATIENCE) as s, socket.socket(
        socket.AF_INET, socket.SOCK_DGRAM
    ) as u:
        ping(s)
        u.settimeout(PATIENCE)
        u.connect(("127.0.0.1", udp))
        ping(u)
        d.configure(service("echo", "box = echo", listen=f"tcp://127.0.0.1:{tcp}"))
        assert d.ask("reload")["ok"]

        def back():
            d.configure(both)
            return d.ask("reload")["ok"]

        wait_until(back, 5)
        ping(u)
        ping(s)


def test_stop_and_start_in_one_breath(harkd):
    port = free_port()
    d = harkd(service("echo", "box = echo", "workers = 4", listen=f"tcp://127.0.0.1:{port}"))
    for _ in range(30):
        assert d.ask("stop echo") == {"ok": True}
        assert d.ask("start echo") == {"ok": True}
    with d.connect("echo") as s:
        ping(s)


STUBBORN = """exec = /bin/sh -c 'trap "" TERM; echo $$ >> {0}/pids; cat; while [ ! -e {0}/end ]; do sleep 0.1; done'"""


@contextlib.contextmanager
def talking_to(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as u:
        u.settimeout(PATIENCE)
        u.connect(("127.0.0.1", port))
        ping(u)
        yield u


@pytest.mark.parametrize("model", ["process", "thread", "fiber"])
@pytest.mark.parametrize("way", ["stop", "reload", "generation"])
def test_a_udp_service_starts_anew_while_its_sessions_drain(harkd, tmp_path, model, way):
    port, stubborn = free_port(socket.SOCK_DGRAM), STUBBORN.format(tmp_path)
    text = service("u", stubborn, f"model = {model}", "stop_ladder = 30s 30s", "grace = 30s", listen=f"udp://*:{port}")
    d = harkd(text + ECHO)
    with talking_to(port):
        if way == "generation":
            d.upgrade()
        old = [w["pid"] for w in d.service("u")["workers"]]
        if way == "reload":
            d.configure(ECHO)
            assert d.ask("reload")["removed"] == 1
            d.configure(text + ECHO)
            answer = d.ask("reload")
            assert answer["ok"], answer
        else:
            assert d.ask("stop u") == {"ok": True}
            assert d.ask("start u") == {"ok": True}
        with talking_to(port):
            assert way != "stop" or set(old) & {w["pid"] for w in d.service("u")["workers"] if w["draining"]}
    (tmp_path / "end").touch()
    for pid in (d.pid, *d.generations):
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: all(map(gone, (tmp_path / "pids").read_text().split())))


class Dialer(threading.Thread):
    """Dials again and again; each connection must be echoed to."""

    def __init__(self, port, stop):
        super().__init__(daemon=True)
        self.port, self.stopped, self.failures, self.done = port, stop, [], 0

    def run(self):
        while not self.stopped.is_set() and len(self.failures) < 20:
            try:
                with connect_to(self.port) as s:
                    ping(s)
                    s.shutdown(socket.SHUT_WR)
                    assert read_all(s) == b""
                self.done += 1
            except Exception as e:  # noqa: BLE001 each is a failure to report
                self.failures.append(repr(e))


@pytest.mark.parametrize(
    "one, other",
    [
        ("tcp://127.0.0.1:{}", "tcp://*:{}"),
        ("tcp4://*:{}", "tcp://*:{}"),
        ("tcp://127.0.0.1:{}", "tcp4://*:{}"),
        ("tcp4://127.0.0.1:{} tcp6://[::1]:{}", "tcp://*:{}"),
    ],
)
def test_nobody_is_refused_while_reloads_go_between_an_address_and_its_wildcard(harkd, one, other):
    port = free_port()

    def text(address):
        return service("echo", "box = echo", listen=address.replace("{}", str(port)))

    d = harkd(text(one))
    stop = threading.Event()
    dialers = [Dialer(port, stop) for _ in range(4)]
    with connect_to(port) as held:
        ping(held)
        for t in dialers:
            t.start()
        for i in range(6):
            d.configure(text(one if i % 2 else other))
            answer = d.ask("reload")
            assert answer["ok"] and answer["changed"] == 1, answer
            done = sum(t.done for t in dialers)
            wait_until(lambda done=done: sum(t.done for t in dialers) > done + 8)
        stop.set()
        for t in dialers:
            t.join(PATIENCE)
        ping(held)
    assert [f for t in dialers for f in t.failures] == []
    assert d.service("echo")["failed"] == 0


def test_an_address_goes_from_one_service_to_anothers_wildcard(harkd):
    port = free_port()
    d = harkd(service("a", "box = echo", listen=f"tcp://127.0.0.1:{port}"))
    with connect_to(port) as held:
        ping(held)
        d.configure(service("b", "exec = /bin/echo b", listen=f"tcp://*:{port}"))
        answer = d.ask("reload")
        assert (answer["ok"], answer["added"], answer["removed"]) == (True, 1, 1), answer
        with connect_to(port) as s:
            assert read_all(s) == b"b\n"


def test_who_holds_an_address_is_told_when_it_is_harkd_itself(harkd, hark, tmp_path):
    port = free_port()
    d = harkd(
        service("a", "box = echo", listen=f"tcp://127.0.0.1:{port}")
        + service("b", "box = echo", listen=f"tcp://localhost:{port}"),
        ready=False,
    )
    assert d.wait() == 100
    told = f"listen: tcp://localhost:{port}: [a] ("
    assert told in d.stderr and f"listens on tcp://127.0.0.1:{port}" in d.stderr, d.stderr
    checked = run_test(hark, tmp_path)
    assert checked.returncode == 100 and told in checked.stderr.decode()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", ["changed", "removed"])
def test_who_waits_in_the_backlog_of_an_address_that_is_taken_away_is_served(harkd, tmp_path, model, kind):
    port, more = free_port(), (f"model = {model}", "max_conns = 1", "start = demand", "grace = 20s")
    path = tmp_path / "sock"
    old = service("echo", "box = echo", *more, listen=f"tcp://127.0.0.1:{port} unix:{path}")
    d = harkd(old)
    with connect_to(port) as first, connect_to(port) as second, socket.socket(socket.AF_UNIX) as third:
        third.settimeout(PATIENCE)
        third.connect(str(path))
        ping(first)
        second.sendall(b"waits")
        third.sendall(b"waits")
        d.configure(ECHO if kind == "removed" else ECHO.replace("box", "lifetime = 1h\nbox"))
        if kind == "removed":
            d.configure(service("other", "box = discard"))
        assert d.ask("reload")["ok"]
        first.close()
        waiting = {second, third}
        while waiting:  # one at a time, as max_conns says
            ready = select.select(waiting, [], [], PATIENCE)[0]
            assert ready
            assert ready[0].recv(10) == b"waits"
            ready[0].close()
            waiting.remove(ready[0])
    assert not path.exists()

    def refused():
        try:
            connect_to(port).close()
        except OSError:
            return True
        return False

    wait_until(refused)


def test_a_reload_and_an_upgrade_go_from_an_address_to_its_wildcard(harkd):
    port = free_port()
    d = harkd(service("echo", "box = echo", listen=f"tcp://127.0.0.1:{port}"))
    with connect_to(port) as held:
        ping(held)
        d.configure(service("echo", "box = echo", listen=f"tcp://*:{port}"))
        d.upgrade()
        ping(held)
        with connect_to(port) as s:
            ping(s)


FORMS = ["{}://127.0.0.1:{}", "{}://*:{}", "{}4://127.0.0.1:{}", "{}4://*:{}"]
MOVES = [(a, b) for i, a in enumerate(FORMS) for b in FORMS[i + 1 :]]


def retransmissions(s):
    return struct.unpack_from("I", s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0]


@pytest.mark.parametrize("one, other", MOVES)
def test_nobody_dials_twice_where_a_reload_goes_from_one_address_to_another(harkd, one, other):
    """The old socket still waits for handshakes that are under way, and may be the better match."""
    port = free_port()
    d = harkd(service("echo", "box = echo", listen=one.format("tcp", port)))
    for form in other, one:
        d.configure(service("echo", "box = echo", listen=form.format("tcp", port)))
        assert d.ask("reload")["ok"]
        with connect_to(port) as s:
            assert retransmissions(s) == 0
            ping(s)


@pytest.mark.parametrize("one, other", MOVES)
def test_no_datagram_is_lost_where_a_reload_goes_from_one_address_to_another(harkd, one, other):
    port = free_port(socket.SOCK_DGRAM)
    d = harkd(service("echo", "box = echo", listen=one.format("udp", port)))
    stop, lost = threading.Event(), []

    def ask_on():
        while not stop.is_set():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.settimeout(1)
                s.connect(("127.0.0.1", port))
                try:
                    ping(s)
                except OSError as e:
                    lost.append(repr(e))

    asker = threading.Thread(target=ask_on, daemon=True)
    asker.start()
    for form in other, one:
        d.configure(service("echo", "box = echo", listen=form.format("udp", port)))
        assert d.ask("reload")["ok"]
        time.sleep(0.1)  # there is nothing to wait for: the old socket is closed some time after
    stop.set()
    asker.join(PATIENCE)
    assert lost == []


@pytest.mark.parametrize("model", ["process", "thread", "fiber"])
def test_sessions_are_not_in_the_way_of_an_address_and_its_wildcard(harkd, model):
    port, to = free_port(socket.SOCK_DGRAM), service("to", "box = echo", listen="udp://127.0.0.1:0")
    d = harkd(to)

    def text(form):
        relay = f"relay = udp://127.0.0.1:{d.port('to')}"
        return to + service("relay", relay, f"model = {model}", listen=form.format("udp", port))

    d.configure(text(FORMS[0]))
    assert d.ask("reload")["ok"]
    with contextlib.ExitStack() as stack:
        talking = []
        for form in [*FORMS[1:], *FORMS]:
            s = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            s.settimeout(PATIENCE)
            s.connect(("127.0.0.1", port))
            talking.append(s)
            for s in talking:
                ping(s)
            d.configure(text(form))
            answer = d.ask("reload")
            assert answer["ok"], answer
        for s in talking:
            ping(s)


def test_a_reload_that_fails_resets_nobody(harkd):
    """It has opened the same address anew before it came to the one that is taken; some have come to that socket."""
    port, one = free_port(), "tcp://127.0.0.1:{}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        d = harkd(service("echo", "box = echo", "workers = 2", listen=one.format(port)))
        stop = threading.Event()
        dialers = [Dialer(port, stop) for _ in range(4)]
        for t in dialers:
            t.start()
        for _ in range(30):
            d.configure(
                service("echo", "box = echo", listen=f"tcp4://127.0.0.1:{port}")
                + "".join(service(f"other{i}", "box = echo") for i in range(20))
                + service("bad", "box = echo", listen=one.format(taken.getsockname()[1]))
            )
            assert not d.ask("reload")["ok"]
        stop.set()
        for t in dialers:
            t.join(PATIENCE)
    assert [f for t in dialers for f in t.failures] == []


@pytest.mark.parametrize("how", ["an address is taken", "a worker cannot start", "it is killed"])
def test_an_upgrade_that_fails_resets_nobody(harkd, how):
    """It has opened a more specific address; some have come to that socket."""
    port, one = free_port(), "tcp://127.0.0.1:{}"
    bad = {
        "an address is taken": lambda at: service("bad", "box = echo", listen=one.format(at)),
        "a worker cannot start": lambda at: service("bad", "box = echo", "rlimit_nofile = 5"),
        "it is killed": lambda at: "",
    }
    with socket.create_server(("127.0.0.1", 0)) as taken:
        d = harkd(service("echo", "box = echo", "workers = 2", listen=f"tcp://*:{port}"))
        stop = threading.Event()
        dialers = [Dialer(port, stop) for _ in range(4)]
        for t in dialers:
            t.start()
        d.configure(
            service(
                "echo", "box = echo", "rlimit_nofile = 5" if "worker" in how else "nice = 0", listen=one.format(port)
            )
            + "".join(service(f"other{i}", "box = echo") for i in range(20))
            + bad[how](taken.getsockname()[1])
        )
        for i in range(10):
            assert d.ask("upgrade")["ok"]  # it has begun
            if "killed" in how:
                heir = wait_until(lambda: re.findall(r"generation 2 is process (\d+)", d.stderr)[i : i + 1])
                time.sleep(0.01 * i)  # be it early or late
                os.kill(int(heir[0]), signal.SIGKILL)
            wait_until(lambda: len(re.findall("upgrade: generation 2 .*: this one goes on", d.stderr)) == i + 1)
        stop.set()
        for t in dialers:
            t.join(PATIENCE)
    assert [f for t in dialers for f in t.failures] == []
