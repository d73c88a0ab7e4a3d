"""Servers that speak TLS for the end-to-end tests, in this process, and what they show."""
import shutil
import socket
import ssl
import threading

import pytest

from conftest import PATIENCE
from pki_support import Made, make  # noqa: F401 Made is for others

HAS_OPENSSL = shutil.which("openssl") is not None
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
both_versions = pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])


class TlsServer:
    """A server of this process at loopback: each connection is wrapped and given to talk(tls), in a thread. What failed
    lies in errors, what each client asked for in names."""

    def __init__(self, cert, talk, ca=None, alpn=None, version=None, host="127.0.0.1"):
        self.errors, self.names, self.threads, self.certs = [], [], [], []
        self.talk = talk
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(cert.cert, cert.key)
        self.context.sni_callback = lambda s, name, context: self.names.append(name)
        if ca:
            self.context.load_verify_locations(ca.cert)
            self.context.verify_mode = ssl.CERT_REQUIRED
        if alpn:
            self.context.set_alpn_protocols(alpn)
        if version:
            self.context.minimum_version = self.context.maximum_version = version
        self.listening = socket.create_server((host, 0))
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()
        self.port = self.listening.getsockname()[1]

    def accept(self):
        while True:
            try:
                s, _ = self.listening.accept()
            except OSError:
                return
            self.threads.append(threading.Thread(target=self.serve, args=(s,), daemon=True))
            self.threads[-1].start()

    def serve(self, s):
        s.settimeout(PATIENCE)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or a reset may drop what was sent before it
        try:
            with self.context.wrap_socket(s, server_side=True, suppress_ragged_eofs=False) as tls:
                self.certs.append(tls.getpeercert())
                self.talk(tls)
        except (OSError, ValueError) as e:
            self.errors.append(e)

    def at(self, host="localhost"):
        return f"tls://{host}:{self.port}"

    def wait(self):
        for t in self.threads:
            t.join(PATIENCE)

    def close(self):
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        self.thread.join(PATIENCE)
        self.wait()


def read_to_end(tls):
    data = bytearray()
    while chunk := tls.recv(1 << 16):
        data += chunk
    return bytes(data)


class Certs:
    def __init__(self, directory):
        self.directory = directory
        self.ca = make(directory, "/CN=a test authority", ca=True)
        self.good = make(directory, "/CN=good", "DNS:localhost,IP:127.0.0.1,DNS:*.w.example", self.ca)
        self.client = make(directory, "/CN=a client/O=Example", by=self.ca)

    def make(self, *args, **more):
        return make(self.directory, *args, **more)


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return Certs(tmp_path_factory.mktemp("certs"))


@pytest.fixture
def tls(certs):
    """tls(talk, cert=…) → a TlsServer that ends with the test."""
    running = []

    def tls(talk, cert=None, **more):
        running.append(TlsServer(cert or certs.good, talk, **more))
        return running[-1]

    yield tls
    for server in running:
        server.close()


@pytest.fixture
def plain():
    """plain(fn): a TCP server that gives fn its first connection; its port."""
    opened, threads = [], []

    def plain(fn):
        listening = socket.create_server(("127.0.0.1", 0))
        opened.append(listening)

        def serve():
            s, _ = listening.accept()
            s.settimeout(PATIENCE)
            with s:
                try:
                    fn(s)
                except OSError:
                    pass

        threads.append(threading.Thread(target=serve, daemon=True))
        threads[-1].start()
        return listening.getsockname()[1]

    yield plain
    for s in opened:
        s.close()
    for t in threads:
        t.join(PATIENCE)


def hello(s):
    s.sendall(b"hello\n")
    s.unwrap()


@pytest.fixture
def call(run, certs):
    """call(address, *options): hark call with the tests' authority, its result with text."""

    def call(address, *options, ca=True, input=b"", **more):
        trust = ["--ca", certs.ca.cert] if ca else []
        r = run("call", *trust, *options, address, input=input, **more)
        r.err = r.stderr.decode()
        return r

    return call
