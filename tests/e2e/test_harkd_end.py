"""How harkd and its workers end: drains, signals, deaths."""
import os
import signal
import time

import pytest

from conftest import MODELS, read_all, wait_until
from harkd_support import ECHO, connect_to, free_port, harkd, ping, service  # noqa: F401 harkd is a fixture


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("limit", ["rate = 1/h", "max_load = 0.0001"])
def test_a_drain_ends_at_once_where_a_rate_holds_the_backlog_and_nobody_is_connected(harkd, model, limit):
    d = harkd(service("echo", "box = echo", f"model = {model}", limit, "grace = 1m", "workers = 2"))
    clients = [d.connect("echo") for _ in range(3)]
    if limit.startswith("rate"):
        ping(clients[0])
        clients[0].close()
        wait_until(lambda: d.service("echo")["now"] == 0)
    wait_until(lambda: sum(d.service("echo")["held"].values()) > 0)
    began = time.monotonic()
    assert d.stop() == 0
    assert time.monotonic() - began < 5
    assert "who still waited in the backlog has been turned away" in d.stderr and "grace ended" not in d.stderr
    for s in clients:
        s.close()


@pytest.mark.parametrize("what", ["box = echo", "relay = tcp://127.0.0.1:{}"])
@pytest.mark.parametrize("kind", ["reload", "stop"])
def test_an_inline_workers_sockets_close_while_its_box_runs(harkd, serve, what, kind):
    what = what.format(serve("tcp://127.0.0.1:0", "echo").port())
    kept, dropped = free_port(), free_port()
    both = service("echo", what, "model = inline", listen=f"tcp://127.0.0.1:{kept} tcp://127.0.0.1:{dropped}")
    d = harkd(both)
    with connect_to(dropped) as held:
        ping(held)
        if kind == "reload":
            d.configure(service("echo", what, "model = inline", listen=f"tcp://127.0.0.1:{kept}"))
            assert d.ask("reload")["changed"] == 1
        else:
            assert d.ask("stop echo")["ok"]

        def refused():
            try:
                connect_to(dropped).close()
            except ConnectionRefusedError:
                return True
            except ConnectionResetError:
                pass
            return False

        wait_until(refused)
        if kind == "stop":
            assert d.ask("start echo")["ok"]
            with connect_to(dropped) as s:
                ping(s)
        else:
            ping(held)


def test_a_terminated_worker_keeps_to_the_grace_though_harkd_ends_it_too(harkd):
    """As where a service manager signals every process of the service."""
    d = harkd(service("slow", "exec = /bin/sh -c 'sleep 1; echo done'", "grace = 15s"))
    with d.connect("slow") as s:
        wait_until(lambda: d.service("slow")["now"] == 1)
        os.kill(d.workers("slow")[0], signal.SIGTERM)
        time.sleep(0.1)  # signals that wait become one
        d.send(signal.SIGTERM)
        assert read_all(s) == b"done\n"
    assert d.wait() == 0


def test_sigusr1_does_no_harm(harkd):
    """Other daemons reopen their log at it."""
    d = harkd(ECHO)
    d.send(signal.SIGUSR1)
    assert d.ask("reload")["ok"]
    with d.connect("echo") as s:
        ping(s)
