"""A real HAProxy in front: send-proxy and send-proxy-v2 with all that it tells, health checks included.

Debian's, which scripts/install-packages unpacks to build/peers; skipped where there is none.
"""
import glob
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess

import pytest

from conftest import PATIENCE, Process, read_all, wait_until
from harkd_support import connect_to, free_port, harkd, service  # noqa: F401 harkd is a fixture

PEERS = pathlib.Path(__file__).resolve().parents[2] / "build" / "peers"
HAPROXY = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin") or shutil.which(PEERS / "usr/sbin/haproxy")
pytestmark = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")

GLOBAL = """
global
    maxconn 100
defaults
    mode tcp
    timeout connect 10s
    timeout client 30s
    timeout server 30s
    unique-id-format %{+X}o%ci:%cp
"""
SHOW = """exec = /bin/sh -c 'env; echo; cat'"""


class Haproxy(Process):
    def __init__(self, directory):
        libraries = ":".join(glob.glob(f"{PEERS}/usr/lib/*-linux-gnu*"))
        super().__init__([HAPROXY, "-db", "-f", directory / "haproxy.cfg"], env=dict(LD_LIBRARY_PATH=libraries))


@pytest.fixture
def haproxy(tmp_path):
    """haproxy({port: (options of bind, options of server)}, to) passes each port on to the one of hark's."""
    running = []

    def start(ports, to):
        text = GLOBAL
        for port, (bind, server) in ports.items():
            text += f"listen l{port}\n    bind 127.0.0.1:{port} {bind}\n    server s 127.0.0.1:{to} {server}\n"
        (tmp_path / "haproxy.cfg").write_text(text)
        process = Haproxy(tmp_path)
        running.append(process)
        for port in ports:
            wait_until(lambda port=port: process.process.poll() is not None or answers(port))
        assert process.process.poll() is None, process.stderr
        return process

    yield start
    for process in running:
        process.end()


def answers(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def dial(port, source):
    s = socket.socket()
    s.bind((source, 0))
    s.connect(("127.0.0.1", port))  # with a time-out it would tell of a reset that came since
    s.settimeout(PATIENCE)
    return s


def program(s, text=b"body"):
    s.sendall(text)
    if isinstance(s, ssl.SSLSocket):
        answer = bytearray()
        while not answer.endswith(text):
            answer += s.recv(1 << 16)
    else:
        s.shutdown(socket.SHUT_WR)
        answer = read_all(s)
    env, _, rest = bytes(answer).partition(b"\n\n")
    assert rest == text
    return dict(line.split("=", 1) for line in env.decode().splitlines() if "=" in line)


def test_the_clients_address_arrives(harkd, haproxy):
    d = harkd(service("p", SHOW, "proxy_from = 127.0.0.1"))
    one, two = free_port(), free_port()
    haproxy({one: ("", "send-proxy"), two: ("", "send-proxy-v2")}, d.port("p"))
    for version, port in ((1, one), (2, two)):
        with dial(port, "127.0.0.5") as s:
            own = s.getsockname()[1]
            env = program(s)
        assert env["PROXY_VERSION"] == str(version)
        assert (env["REMOTE_HOST"], env["TCPREMOTEIP"], env["REMOTE_PORT"]) == ("127.0.0.5", "127.0.0.5", str(own))
        assert (env["TCPLOCALIP"], env["TCPLOCALPORT"]) == ("127.0.0.1", str(port))
        d.expect(rf"p tcp://127\.0\.0\.5:{own} -> tcp://127\.0\.0\.1:{port} .* in 4 out \d+ done$")


def test_limits_are_the_clients(harkd, haproxy):
    d = harkd(service("echo", "box = echo", "proxy_from = 127.0.0.1", "max_per_source = 1"))
    port = free_port()
    haproxy({port: ("", "send-proxy-v2")}, d.port("echo"))
    with dial(port, "127.0.0.5") as a, dial(port, "127.0.0.6") as b, dial(port, "127.0.0.5") as c:
        for s in (a, b):
            s.sendall(b"x")
            assert s.recv(1) == b"x"
        c.sendall(b"x")
        try:
            assert c.recv(1) == b""
        except ConnectionResetError:
            pass
    wait_until(lambda: d.service("echo")["refused"]["max_per_source"] == 1)


def test_it_is_refused_where_it_is_no_proxy(harkd, haproxy):
    d = harkd(service("echo", "box = echo", "proxy_from = 192.0.2.0/24"))
    port = free_port()
    haproxy({port: ("", "send-proxy")}, d.port("echo"))
    with dial(port, "127.0.0.5") as s:
        s.sendall(b"x")
        try:
            assert s.recv(1) == b""
        except ConnectionResetError:
            pass
    wait_until(lambda: d.service("echo")["refused"]["proxy_from"] >= 1)


def test_health_checks_are_no_clients(harkd, haproxy):
    d = harkd(service("echo", "box = echo", "proxy_from = 127.0.0.1", "max_per_source = 1"))
    port = free_port()
    haproxy({port: ("", "send-proxy-v2 check inter 50ms")}, d.port("echo"))
    wait_until(lambda: d.service("echo")["closed"] >= 10)
    assert set(d.service("echo")["refused"].values()) == {0}
    with dial(port, "127.0.0.5") as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"


def make_certificates(directory):
    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=directory, check=True, capture_output=True, timeout=PATIENCE)

    for name in ("a.example", "A Client"):
        file = name.split()[-1]
        openssl(
            *["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"],
            *["-keyout", f"{file}.key", "-out", f"{file}.crt", "-addext", f"subjectAltName=DNS:{file}"],
        )
        text = (directory / f"{file}.crt").read_text() + (directory / f"{file}.key").read_text()
        (directory / f"{file}.pem").write_text(text)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_all_that_it_tells_of_tls_arrives(harkd, haproxy, tmp_path):
    make_certificates(tmp_path)
    options = "ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c,unique-id"
    d = harkd(service("p", SHOW, "proxy_from = 127.0.0.1"))
    port = free_port()
    bind = f"ssl crt {tmp_path}/a.example.pem ca-file {tmp_path}/Client.crt verify optional alpn h2,http/1.1"
    haproxy({port: (bind, f"send-proxy-v2 proxy-v2-options {options}")}, d.port("p"))
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(tmp_path / "a.example.crt")
    client.set_alpn_protocols(["h2"])
    with client.wrap_socket(dial(port, "127.0.0.5"), server_hostname="a.example") as s:
        without = program(s)
    client.load_cert_chain(tmp_path / "Client.pem")
    with client.wrap_socket(dial(port, "127.0.0.6"), server_hostname="a.example") as s:
        own = s.getsockname()[1]
        env = program(s)
    assert env["PROXY_ALPN"] == "h2" and env["PROXY_AUTHORITY"] == "a.example"
    assert env["PROXY_SSL_VERSION"] == "TLSv1.3" and env["PROXY_SSL_CIPHER"].startswith("TLS_")
    assert env["PROXY_SSL_CN"] == "A Client" and env["PROXY_SSL_VERIFY"] == "0"
    assert env["PROXY_SSL_SIG_ALG"] == "RSA-SHA256" and env["PROXY_SSL_KEY_ALG"] == "RSA2048"
    assert re.fullmatch(r"7F000006:0*%X" % own, env["PROXY_UNIQUE_ID"])
    assert env["REMOTE_HOST"] == "127.0.0.6"
    assert without["PROXY_AUTHORITY"] == "a.example" and "PROXY_SSL_CN" not in without


def test_by_a_unix_socket(harkd, haproxy, tmp_path):
    d = harkd(service("p", SHOW, "proxy_from = unix", listen=f"unix:{tmp_path}/p"))
    port = free_port()
    (tmp_path / "haproxy.cfg").write_text(
        GLOBAL + f"listen l\n    bind 127.0.0.1:{port}\n    server s unix@{tmp_path}/p send-proxy-v2\n"
    )
    process = Haproxy(tmp_path)
    try:
        wait_until(lambda: process.process.poll() is not None or answers(port))
        with dial(port, "127.0.0.5") as s:
            assert program(s)["REMOTE_HOST"] == "127.0.0.5"
        with connect_to(port) as s:
            assert program(s)["REMOTE_HOST"] == "127.0.0.1"
    finally:
        process.end()
    assert d.service("p")["refused"]["proxy_from"] == 0
