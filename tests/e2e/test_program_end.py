"""What ends a program, and how its end is told."""
import json
import signal
import socket
import struct
import sys
import time

import pytest

from conftest import MODELS, PATIENCE, Service, read_all, wait_until
from harkd_support import service


def shell(source):
    return ["--", "sh", "-c", source]


def closes(server, count=1):
    """The first count CLOSE events of a server that was started with --json."""

    def events():
        lines = [line for line in server.stderr.splitlines(keepends=True) if line.startswith("{") and line.endswith("\n")]
        return [e for e in map(json.loads, lines) if e["event"] == "close"]

    return wait_until(lambda: len(events()) >= count and events()[:count])


@pytest.mark.parametrize("model", MODELS)
def test_the_exit_status_is_told_though_who_started_the_server_ignores_sigchld(hark, model):
    server = Service(
        [hark, "serve", "--json", "--model", model, "tcp://127.0.0.1:0", *shell("exit 7")],
        preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    )
    try:
        wait_until(lambda: server.addresses)
        with server.connect() as s:
            assert read_all(s) == b""
        assert closes(server)[0]["status"] == 7
    finally:
        server.end()
