"""An authority and certificates for the tests of TLS, made by openssl(1) once a session, and clients of Python's ssl.

    ca     ca.pem, which vouches for all that follow; ca.crl revokes the client "gone"
    pki    a.pem a.key, b.pem b.key: servers a.example (also *.w.example, 127.0.0.1) and b.example
           client.pem client.key: "CN=a client,O=hark"; gone.pem gone.key: revoked; other.pem other.key: of nobody known
"""
import contextlib
import datetime
import socket
import ssl
import subprocess

import pytest

from conftest import PATIENCE

NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


def openssl(*args, **more):
    done = subprocess.run(["openssl", *map(str, args)], capture_output=True, timeout=PATIENCE, **more)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


class Pki:
    """Makes certificates in a directory: pki.a is the path of a.pem without its suffix."""

    def __init__(self, directory):
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.make("ca", "hark test authority", ca=True)

    def __truediv__(self, name):
        return self.directory / name

    def make(self, name, cn, names="", days=30, ca=False, signed=True, subject=None, since=0):
        """name.pem and name.key; good for so many days, of which since are over."""
        if since:
            return self.make_since(name, cn, names, days, since)
        subject = subject or f"/CN={cn}"
        ext = (
            ["basicConstraints=critical,CA:TRUE", "keyUsage=keyCertSign,cRLSign"]
            if ca
            else ["basicConstraints=CA:FALSE"]
        )
        ext += [f"subjectAltName={names}"] if names else []
        by = ["-CA", self / "ca.pem", "-CAkey", self / "ca.key"] if signed and not ca else []
        args = [arg for e in ext for arg in ("-addext", e)]
        openssl(
            "req",
            "-x509",
            *NEW_KEY,
            "-keyout",
            self / f"{name}.key",
            "-out",
            self / f"{name}.pem",
            "-days",
            days,
            "-subj",
            subject,
            *args,
            *by,
        )
        return self / f"{name}.pem"

    def make_since(self, name, cn, names, days, since):
        """By `openssl ca`, which can set both dates."""
        begin = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=since)
        dates = [t.strftime("%Y%m%d%H%M%SZ") for t in (begin, begin + datetime.timedelta(days=days))]
        conf = self / f"{name}.conf"
        (self / f"{name}.index").write_text("")
        conf.write_text(
            f"[ca]\ndefault_ca = d\n[d]\ndatabase = {self / name}.index\ndefault_md = sha256\nrand_serial = yes\n"
            f"new_certs_dir = {self.directory}\npolicy = p\nx509_extensions = e\n[p]\ncommonName = supplied\n"
            f"[e]\nbasicConstraints = CA:FALSE\nsubjectAltName = {names}\n"
        )
        openssl(
            "req", "-new", *NEW_KEY, "-keyout", self / f"{name}.key", "-subj", f"/CN={cn}", "-out", self / f"{name}.csr"
        )
        openssl(
            "ca",
            "-batch",
            "-notext",
            "-config",
            conf,
            "-cert",
            self / "ca.pem",
            "-keyfile",
            self / "ca.key",
            "-startdate",
            dates[0],
            "-enddate",
            dates[1],
            "-in",
            self / f"{name}.csr",
            "-out",
            self / f"{name}.pem",
        )
        return self / f"{name}.pem"

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
