"""An authority and certificates for the tests of TLS, made by openssl(1) once a session, and clients of Python's ssl.

    ca     ca.pem, which vouches for all that follow; ca.crl revokes the client "gone"
    pki    a.pem a.key, b.pem b.key: servers a.example (also *.w.example, 127.0.0.1) and b.example
           client.pem client.key: "CN=a client,O=hark"; gone.pem gone.key: revoked; other.pem other.key: of nobody known
"""
import contextlib
import datetime
import itertools
import pathlib
import socket
import ssl
import subprocess
import types

import pytest

from conftest import PATIENCE

count = itertools.count()


def openssl(*args, **more):
    done = subprocess.run(["openssl", *map(str, args)], capture_output=True, timeout=PATIENCE, **more)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


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
    extensions = ["basicConstraints = CA:FALSE"]
    if ca:
        extensions = ["basicConstraints = critical, CA:TRUE", "keyUsage = keyCertSign, cRLSign"]
    extensions += [f"subjectAltName = {names}"] if names else []
    signer = by or made
    config = made.cert.with_suffix(".cnf")
    config.write_text(
        "[ca]\ndefault_ca = it\n[it]\ndatabase = {0}.txt\nnew_certs_dir = {1}\nrand_serial = yes\ndefault_md = sha256\n"
        "policy = any\nunique_subject = no\nx509_extensions = ext\ndefault_days = 30\n"
        "[any]\ncommonName = optional\norganizationName = optional\n[ext]\n{2}\n".format(
            config, directory, "\n".join(extensions)
        )
    )
    pathlib.Path(f"{config}.txt").write_text("")
    dates = (["-startdate", start] if start else []) + (["-enddate", end] if end else [])
    who = ["-cert", by.cert] if by else ["-selfsign"]
    openssl("ca", "-config", config, "-batch", "-utf8", "-notext", "-preserveDN", *who, "-keyfile", signer.key, *dates,
            "-in", request, "-out", made.cert)  # fmt: skip
    return made.joined()


class Pki:
    """Makes certificates in a directory: pki.a is the path of a.pem without its suffix."""

    def __init__(self, directory):
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.make("ca", "hark test authority", ca=True)

    def __truediv__(self, name):
        return self.directory / name

    def make(self, name, cn, names=None, days=30, ca=False, signed=True, subject=None, since=0):
        """name.pem and name.key; good for so many days, of which since are over."""
        dates = {}
        if since:
            begin = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=since)
            ends = (begin, begin + datetime.timedelta(days=days))
            dates = dict(zip(("start", "end"), (t.strftime("%Y%m%d%H%M%SZ") for t in ends)))
        by = types.SimpleNamespace(cert=self / "ca.pem", key=self / "ca.key") if signed and not ca else None
        made = make(self.directory, subject or f"/CN={cn}", names, by, ca, **dates)
        made.key.rename(self / f"{name}.key")
        return made.cert.rename(self / f"{name}.pem")

    def server(self, name, cn, names, **more):
        """One line's worth of hark.conf, too."""
        self.make(name, cn, names, **more)
        return f"cert = {self / name}.pem\nkey = {self / name}.key\n"

    def revoke(self, name):
        """ca.crl, with that one."""
        conf = self / "ca.conf"
        (self / "index").write_text("")
        (self / "index.attr").write_text("unique_subject = no\n")
        conf.write_text(
            f"[ca]\ndefault_ca = d\n[d]\ndatabase = {self / 'index'}\ndefault_md = sha256\ndefault_crl_days = 30\n"
            f"certificate = {self / 'ca.pem'}\nprivate_key = {self / 'ca.key'}\n"
        )
        openssl("ca", "-config", conf, "-revoke", self / f"{name}.pem")
        openssl("ca", "-config", conf, "-gencrl", "-out", self / "ca.crl")


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    p = Pki(tmp_path_factory.mktemp("pki"))
    p.make("a", "a.example", "DNS:a.example,DNS:*.w.example,IP:127.0.0.1")
    p.make("b", "b.example", "DNS:b.example")
    p.make("client", "a client", subject="/O=hark/CN=a client")
    p.make("gone", "gone")
    p.make("other", "other", signed=False)
    p.revoke("gone")
    return p


def server_lines(pki, *names):
    return "".join(f"cert = {pki / n}.pem\nkey = {pki / n}.key\n" for n in names or ("a",))


def context(pki, client=None, **more):
    """Of a client that trusts the authority alone; client: the name of its certificate."""
    c = ssl.create_default_context(cafile=str(pki / "ca.pem"))
    if client:
        c.load_cert_chain(str(pki / f"{client}.pem"), str(pki / f"{client}.key"))
    for name, value in more.items():
        setattr(c, name, value)
    return c


def dial(port, c, name="a.example", **more):
    """Python's own socket."""
    plain = socket.create_connection(("127.0.0.1", port), PATIENCE)
    try:
        return c.wrap_socket(plain, server_hostname=name, **more)
    except BaseException:
        plain.close()
        raise


class Tls:
    """A client whose directions end one by one, as Python's own socket cannot: send(), end() says close_notify, and
    recv() still gets what comes; b"" is the peer's close_notify, and an end without it raises ConnectionResetError."""

    def __init__(self, port, c, name="a.example"):
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.came, self.goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = c.wrap_bio(self.came, self.goes, server_hostname=name)
        self._do(self.tls.do_handshake)

    def _push(self):
        if data := self.goes.read():
            self.socket.sendall(data)

    def _do(self, what, *args):
        while True:
            try:
                result = what(*args)
                self._push()
                return result
            except ssl.SSLWantReadError:
                self._push()
                data = self.socket.recv(1 << 16)
                if not data:
                    raise ConnectionResetError("no close_notify") from None
                self.came.write(data)

    def send(self, data):
        self._do(self.tls.write, data)

    def end(self):
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self._push()

    def recv(self, n=1 << 16):
        try:
            return self._do(self.tls.read, n)
        except ssl.SSLZeroReturnError:
            return b""

    def read_all(self):
        data = bytearray()
        while chunk := self.recv():
            data += chunk
        return bytes(data)

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
