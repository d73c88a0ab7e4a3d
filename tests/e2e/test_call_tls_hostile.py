"""hark call tls:// and servers that mean no good: each ends soon, with an error that says what came, and costs nothing.

What needs the keys of a session is in tests/unit/test_tls_flood.c."""
import socket
import struct
import subprocess

import pytest

from conftest import PATIENCE
from tls_support import HAS_OPENSSL, Made, both_versions, hello
from tls_support import call, certs, plain, tls  # noqa: F401 fixtures

pytestmark = pytest.mark.skipif(not HAS_OPENSSL, reason="openssl is not installed")


def record(kind, body):
    return struct.pack(">BHH", kind, 0x303, len(body)) + body


def flood(what):
    """Sends it over and over after the ClientHello, until the peer has gone."""

    def send(s):
        s.recv(2000)
        while True:
            s.sendall(what)

    return send


@pytest.mark.parametrize(
    "what, words",
    [
        (record(22, bytes(4)) * 1000, "TLS's own messages alone"),  # HelloRequest
        (record(22, bytes(4) * 4096), "TLS's own messages alone"),
        (record(22, b""), ""),
        (record(23, b"") * 1000, ""),
        (record(21, b"\1\x5a") * 1000, ""),  # the warning user_canceled
        (record(21, b"\1\0") * 1000, "in the midst of the handshake"),
        (record(20, b"\1") * 1000, ""),
        (record(22, b"\2\xff\xff\xff" + bytes(16000)), "too long"),
        (bytes(65536), "not TLS"),
        (b"HTTP/1.1 400 Bad Request\r\n" * 1000, "not TLS"),
        (b"\x1b]0;owned\x07" * 1000, "not TLS"),
    ],
    ids=range(11),
)
def test_floods_in_the_handshake_end_soon(call, plain, what, words):
    r = call(f"tls://localhost:{plain(flood(what))}", "--connect-timeout", "5s", timeout=8)
    assert (r.returncode, r.stdout) == (1, b"") and "timed out" not in r.err
    assert words in r.err and r.err.count("\n") == 1 and b"\x1b" not in r.stderr and "memory" not in r.err


@pytest.mark.parametrize("n, words", [(60, ""), (400, "chain of over 100 KB")])
def test_chains_without_end(call, tls, certs, n, words):
    long = Made(certs.directory, "long")
    long.cert.write_bytes(certs.good.cert.read_bytes() + certs.ca.cert.read_bytes() * n)
    long.key = certs.good.key
    r = call(tls(hello, long).at(), "-v")
    assert r.returncode == (1 if words else 0) and words in r.err
    assert words or f"and {n + 1 - 8} more" in r.err
    assert len(r.err) < 5000


@both_versions
@pytest.mark.parametrize(
    "what", [record(23, b"x" * 100), record(23, b"") * 1000, record(22, b"") * 1000, b"plain text"]
)
def test_what_is_not_encrypted_ends_a_session_and_not_in_order(call, tls, version, what):
    def spoil(s):
        s.sendall(b"before ")
        s.recv(1)
        raw = socket.socket(fileno=s.detach())
        with raw:
            raw.sendall(what)
            raw.shutdown(socket.SHUT_WR)
            raw.settimeout(PATIENCE)
            while raw.recv(1000):
                pass

    r = call(tls(spoil, version=version).at(), "--no-half-close", input=b"x")
    assert r.returncode == 1 and r.stdout == b"before " and r.err.count("\n") == 1


def test_a_renegotiation_is_refused(call, certs, start):
    """Of TLS 1.2, by a listener that a client asks; the other way openssl s_server gives up."""
    server = start("call", "-l", "-v", "--cert", certs.good.both, "tls://127.0.0.1:0")
    port = int(server.expect(r"listening on tls://127\.0\.0\.1:(\d+)")[1])
    client = subprocess.Popen(
        ["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{port}", "-CAfile", certs.ca.cert],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    server.expect("version: TLSv1.2")
    client.stdin.write(b"R\n")
    client.stdin.flush()
    assert b"no renegotiation" in client.communicate(timeout=PATIENCE)[1]
    assert server.wait() in (1, 2)


def test_a_silent_client_keeps_nobody_out_for_long(certs, start):
    server = start("call", "-l", "-k", "-v", "-w", "300ms", "--cert", certs.good.both, "tls://127.0.0.1:0")
    port = int(server.expect(r"listening on tls://127\.0\.0\.1:(\d+)")[1])
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE):
        server.expect("the handshake: Connection timed out")
    assert server.wait() == 1 and "nobody has called" in server.stderr
