"""harkd where things meet: reloads, upgrades, stops and deaths that come at a bad moment, and odd places to be started from."""
import contextlib
import os
import re
import signal
import socket
import subprocess
import time

import pytest

from conftest import PATIENCE, read_all, wait_until
from harkd_support import HEAD, harkd, is_zombie, service  # noqa: F401 harkd is a fixture

ECHO = service("echo", "box = echo")


def gone(pid):
    return not os.path.exists(f"/proc/{pid}") or is_zombie(pid)


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ping(s, text=b"ping"):
    s.sendall(text)
    assert s.recv(100) == text


# ---- addresses that come and go ------------------------------------------------------------------


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
    with socket.create_connection(("127.0.0.1", tcp), PATIENCE) as s, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as u:
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
