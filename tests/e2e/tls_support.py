"""Certificates for the end-to-end tests, made by openssl(1), and servers that show them.

An Authority signs; what it makes are PEM files of a certificate and its key, each a path."""
import itertools
import pathlib
import shutil
import socket
import ssl
import subprocess
import threading

import pytest

from conftest import PATIENCE

HAS_OPENSSL = shutil.which("openssl") is not None
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
both_versions = pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
count = itertools.count()


def openssl(*args, input=None):
    subprocess.run(["openssl", *map(str, args)], input=input, check=True, capture_output=True, timeout=PATIENCE)


class Made:
    """A certificate, cert, and its key; both: the two in one file."""

    def __init__(self, directory, name):
        base = pathlib.Path(directory) / f"{next(count)}-{name}"
        self.cert, self.key, self.both = (base.with_suffix(end) for end in (".crt", ".key", ".pem"))

    def joined(self):
        self.both.write_bytes(self.cert.read_bytes() + self.key.read_bytes())
        return self


def make_key(path):
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)


def make(directory, subject, names=None, by=None, ca=False, start=None, end=None):
    """A certificate for these names ("DNS:a.example,IP:127.0.0.1"), by an authority or by itself; start and end:
    YYYYMMDDHHMMSSZ, by default from now for a month."""
    made = Made(directory, "made")
    make_key(made.key)
    request = made.cert.with_suffix(".csr")
    openssl("req", "-new", "-utf8", "-key", made.key, "-subj", subject, "-out", request)
    extensions = ["basicConstraints = critical, CA:TRUE" if ca else "basicConstraints = CA:FALSE"]
    extensions += [f"subjectAltName = {names}"] if names else []
    signer = by or made
    config = made.cert.with_suffix(".cnf")
    config.write_text(
        "[ca]\ndefault_ca = it\n[it]\ndatabase = {0}.txt\nnew_certs_dir = {1}\nrand_serial = yes\ndefault_md = sha256\n"
        "policy = any\nunique_subject = no\nx509_extensions = ext\ndefault_days = 30\nemail_in_dn = no\n"
        "[any]\ncommonName = optional\norganizationName = optional\n[ext]\n{2}\n".format(
            config, directory, "\n".join(extensions)
        )
    )
    pathlib.Path(f"{config}.txt").write_text("")
    dates = (["-startdate", start] if start else []) + (["-enddate", end] if end else [])
    who = ["-cert", by.cert] if by else ["-selfsign"]
    openssl("ca", "-config", config, "-batch", "-utf8", "-notext", *who, "-keyfile", signer.key, *dates,
            "-in", request, "-out", made.cert)  # fmt: skip
    return made.joined()


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
