"""Limits of the real peer, whom a PROXY header names: each has its own places, whoever is killed, whatever is sent."""
import contextlib
import os
import pathlib
import random
import signal
import socket
import threading
import time

import pytest

from conftest import MODELS, PATIENCE, wait_until
from harkd_support import harkd, service  # noqa: F401 harkd is a fixture

LIMIT = 3
PEERS = (1, 2)


def header(peer):
    return b"PROXY TCP4 10.0.0.%d 127.0.0.1 1234 80\r\n" % peer


def talk(port, head):
    """A connection behind the proxy whose box has answered; None: it was refused."""
    s = socket.socket()
    s.settimeout(PATIENCE)
    with contextlib.suppress(OSError):
        s.connect(("127.0.0.1", port))
        s.sendall(head + b"x")
        if s.recv(1) == b"x":
            return s
    s.close()
    return None


def places(port, held):
    """How many connections of each peer are let in, of twice as many as may be."""
    n = []
    for peer in PEERS:
        mine = [s for _ in range(2 * LIMIT) if (s := talk(port, header(peer)))]
        held.extend(mine)
        n.append(len(mine))
    return n


def start(harkd, *more):  # noqa: F811
    return harkd(service("echo", "box = echo", "proxy_from = 127.0.0.1", f"max_per_source = {LIMIT}", *more))


@pytest.mark.parametrize("model", [m for m in MODELS if m != "inline"])
def test_each_peer_behind_a_proxy_has_its_own_places_and_the_proxy_none(harkd, model):  # noqa: F811
    d = start(harkd, f"model = {model}", "workers = 2")
    port, held = d.port("echo"), []
    assert places(port, held) == [LIMIT] * len(PEERS)
    now = wait_until(lambda: (s := d.service("echo"))["now"] == LIMIT * len(PEERS) and s)
    assert now["refused"]["max_per_source"] == LIMIT * len(PEERS)
    for s in held[:LIMIT]:
        s.close()
    wait_until(lambda: d.service("echo")["now"] == LIMIT)
    assert places(port, held) == [LIMIT, 0]
    for s in held:
        s.close()
    now = wait_until(lambda: (s := d.service("echo"))["now"] == 0 and s)
    assert now["accepted"] == now["closed"] and now["failed"] == 0


@pytest.mark.parametrize("old, new", [("10.0.0.1", "::ffff:10.0.0.1"), ("10.0.0.1", "::ffff:a00:1")])
def test_a_mapped_address_is_no_other_peer(harkd, old, new):  # noqa: F811
    d = start(harkd)
    held = [talk(d.port("echo"), b"PROXY TCP4 %s 127.0.0.1 1 2\r\n" % old.encode()) for _ in range(LIMIT)]
    assert all(held)
    assert talk(d.port("echo"), b"PROXY TCP6 %s ::1 1 2\r\n" % new.encode()) is None
    for s in held:
        s.close()


FLOOD = (header(1) + b"x", header(2) + b"x", header(1)[:9], b"GET / HTTP/1.0\r\n\r\n", b"PROXY UNKNOWN\r\nx")


def flood(port, until, seed):
    rnd, kept = random.Random(seed), []
    while time.monotonic() < until:
        what = rnd.choice(FLOOD)
        with contextlib.suppress(OSError):
            s = socket.create_connection(("127.0.0.1", port), PATIENCE)
            kept.append(s)
            s.settimeout(1)
            s.sendall(what)
            if len(what) > 9:
                s.recv(1)
        if len(kept) > 4:
            kept.pop(0).close()
    for s in kept:
        s.close()


def children(pid):
    with contextlib.suppress(OSError):
        return [int(p) for p in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def test_children_killed_while_peers_are_named_leave_limits_and_counts_right(harkd):  # noqa: F811
    d = start(harkd, "model = process", "workers = 2", "proxy_timeout = 2s")
    port, until, rnd, killed = d.port("echo"), time.monotonic() + 2, random.Random(15), 0
    threads = [threading.Thread(target=flood, args=(port, until, seed)) for seed in range(3)]
    for t in threads:
        t.start()
    while time.monotonic() < until:
        workers = d.workers("echo")
        some = [c for w in workers for c in children(w)]
        if killed % 20 == 19 and workers:
            some = workers
        if some:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rnd.choice(some), signal.SIGKILL)
            killed += 1
        time.sleep(rnd.random() / 100)
    for t in threads:
        t.join()
    now = wait_until(lambda: (s := d.service("echo"))["now"] == 0 and s)
    assert now["accepted"] == now["closed"] and killed > 0
    wait_until(lambda: len(d.workers("echo")) == 2)
    held = []
    assert places(port, held) == [LIMIT] * len(PEERS)
    for s in held:
        s.close()
