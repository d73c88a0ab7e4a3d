"""What the tests of relays share: a target on loopback, and what the relay tells of a connection's end."""
import json
import socket
import ssl
import struct

import pytest

from conftest import PATIENCE, wait_until
from pki_support import make


def reset(s):
    """Closes with RST."""
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def refusals(server, count=1):
    """The same of those that were refused."""
    return closes(server, count, "refused")


def closes(server, count=1, kind="close"):
    """The first count CLOSE events of a server that was started with --json."""

    def events():
        lines = [
            line for line in server.stderr.splitlines(keepends=True) if line.startswith("{") and line.endswith("}\n")
        ]
        return [e for e in map(json.loads, lines) if e["event"] == kind]

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
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the system's authorities, which take time to read
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(protocols)
    come, gone = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(come, gone, server_hostname=name).do_handshake()
    return gone.read()


def line_v1(s):
    data = b""
    while not data.endswith(b"\r\n"):
        data += receive(s, 1)
    return data.decode()


class TlsEnd:
    """One end of TLS on a socket, step by step: what tells an end in order from a cut is seen, and can be done."""

    def __init__(self, s, context, **how):
        self.s, self.come, self.gone = s, ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.come, self.gone, **how)
        self.step(self.tls.do_handshake)

    def __enter__(self):
        return self

    def __exit__(self, *how):
        self.s.close()

    def flush(self):
        self.s.sendall(self.gone.read())

    def step(self, do, *args):
        while True:
            try:
                r = do(*args)
                self.flush()
                return r
            except ssl.SSLWantReadError:
                self.flush()
                data = self.s.recv(1 << 16)
                self.come.write(data) if data else self.come.write_eof()

    def read(self):
        """Empty: close_notify. ssl.SSLEOFError, ConnectionResetError: it was cut."""
        try:
            return self.step(self.tls.read, 1 << 16)
        except ssl.SSLZeroReturnError:
            return b""

    def read_all(self):
        data = bytearray()
        while chunk := self.read():
            data += chunk
        return bytes(data)

    def write(self, data):
        for i in range(0, len(data), 1 << 16):
            self.step(self.tls.write, data[i : i + (1 << 16)])

    def notify(self):
        """Ends our direction."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        self.flush()


class Certs:
    """An authority, and certificates by it: the path of one with its key."""

    def __init__(self, directory):
        self.directory = directory
        self.authority = make(directory, "/CN=ca", ca=True)
        self.ca = self.authority.cert

    def make(self, name, names):
        return make(self.directory, f"/CN={name}", names, self.authority).both

    def server(self, name="127.0.0.1", san="IP:127.0.0.1,DNS:localhost"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.make(name, san))
        return context

    def client(self):
        return ssl.create_default_context(cafile=self.ca)


@pytest.fixture(scope="session")
def certs(tmp_path_factory):
    return Certs(tmp_path_factory.mktemp("certs"))
