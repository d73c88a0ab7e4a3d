"""What the tests of relays share: a target on loopback, and what the relay tells of a connection's end."""
import json
import socket
import ssl
import struct

import pytest

from conftest import PATIENCE, wait_until


def reset(s):
    """Closes with RST."""
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def closes(server, count=1):
    """The first count CLOSE events of a server that was started with --json."""

    def events():
        lines = [
            line for line in server.stderr.splitlines(keepends=True) if line.startswith("{") and line.endswith("}\n")
        ]
        return [e for e in map(json.loads, lines) if e["event"] == "close"]

    return wait_until(lambda: len(events()) >= count and events()[:count])


@pytest.fixture
def target():
    """target() listens on loopback; what is accepted has a time-out."""
    opened = []

    def target(kind=socket.SOCK_STREAM):
        s = socket.socket(socket.AF_INET, kind)
        s.bind(("127.0.0.1", 0))
        s.settimeout(PATIENCE)
        if kind == socket.SOCK_STREAM:
            s.listen(600)
        opened.append(s)
        return s

    yield target
    for s in opened:
        s.close()


def address_of(s):
    return "%s://127.0.0.1:%d" % ("tcp" if s.type == socket.SOCK_STREAM else "udp", s.getsockname()[1])


def accept(listener):
    s, _ = listener.accept()
    s.settimeout(PATIENCE)
    return s


def receive(s, n):
    data = bytearray()
    while len(data) < n and (chunk := s.recv(n - len(data))):
        data += chunk
    return bytes(data)


def hello(name=None, protocols=()):
    """What a client of OpenSSL's says first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(protocols)
    come, gone = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(come, gone, server_hostname=name).do_handshake()
    return gone.read()
