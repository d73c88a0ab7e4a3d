"""What hark status tells stays true, whoever is killed: each connection that was let in is served now, or over."""
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


def children(pid):
    return [int(p) for p in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def talk(d, name="echo"):
    s = d.connect(name)
    s.settimeout(PATIENCE)
    s.sendall(b"x")
    assert s.recv(1) == b"x"
    return s


def counts(d, name="echo"):
    s = d.service(name)
    return {key: s[key] for key in ("accepted", "closed", "failed", "now")}


def test_what_a_killed_child_served_is_over_and_has_its_line(harkd):  # noqa: F811
    d = harkd(service("echo", "box = echo", "model = process"))
    with contextlib.ExitStack() as held:
        for _ in range(3):
            held.enter_context(talk(d))
        child = children(d.workers("echo")[0])[1]
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: counts(d) == {"accepted": 3, "closed": 1, "failed": 1, "now": 2})
        d.expect(rf"echo tcp://127\.0\.0\.1:\d+ -> tcp://\S+ echo pid {child} [\d.]+ ms in - out - killed by signal 9")
    wait_until(lambda: counts(d) == {"accepted": 3, "closed": 3, "failed": 1, "now": 0})


@pytest.mark.parametrize("model", MODELS)
def test_what_a_killed_worker_served_is_over(harkd, model):  # noqa: F811
    d = harkd(service("echo", "box = echo", f"model = {model}"))
    n = 1 if model == "inline" else 3
    with contextlib.ExitStack() as held:
        for _ in range(n):
            held.enter_context(talk(d))
        os.kill(d.workers("echo")[0], signal.SIGKILL)
        wait_until(lambda: counts(d) == {"accepted": n, "closed": n, "failed": n, "now": 0})
    with talk(d):
        assert counts(d)["now"] == 1
    wait_until(lambda: counts(d) == {"accepted": n + 1, "closed": n + 1, "failed": n, "now": 0})


def flood(port, until):
    kept = []
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            s = socket.create_connection(("127.0.0.1", port), 5)
            kept.append(s)
            s.sendall(b"x")
            s.recv(1)
        if len(kept) > 3:
            kept.pop(0).close()
    for s in kept:
        s.close()


def test_children_killed_during_a_flood_leave_limits_and_counts_right(harkd):  # noqa: F811
    d = harkd(service("echo", "box = echo", "model = process", "workers = 2", "max_per_source = 5"))
    until, rnd, killed = time.monotonic() + 2, random.Random(4711), 0
    threads = [threading.Thread(target=flood, args=(d.port("echo"), until)) for _ in range(4)]
    for t in threads:
        t.start()
    while time.monotonic() < until:
        some = [c for w in d.workers("echo") for c in children(w)]
        if some:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rnd.choice(some), signal.SIGKILL)
                killed += 1
        time.sleep(rnd.random() / 200)
    for t in threads:
        t.join()
    now = wait_until(lambda: (c := counts(d))["now"] == 0 and c)
    assert now["closed"] == now["accepted"]
    assert killed > 0
    with contextlib.ExitStack() as held:
        for _ in range(5):  # no place has leaked, and there is no sixth
            held.enter_context(talk(d))
        with pytest.raises(OSError):
            talk(d).close()
    assert d.service("echo")["crashes"] == 0
