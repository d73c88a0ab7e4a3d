"""Handshakes that fail, and those that never come: refused with a reason that is counted, logged with the words and at
a bounded rate, and each costs its own connection alone."""
import contextlib
import os
import socket
import ssl
import struct

import pytest

from conftest import MODELS, PATIENCE, read_all, wait_until
from harkd_support import harkd  # noqa: F401
from pki_support import context, dial, pki, server_lines  # noqa: F401


def service(pki, more=""):
    return f"[t]\nlisten = tls://127.0.0.1:0\nbox = echo\n{server_lines(pki)}{more}"


def refused(d):
    return d.service("t")["refused"]


def say(d, data, end=True):
    """What the server answers to that, to the end."""
    with d.connect("t") as s:
        s.sendall(data)
        if end:
            s.shutdown(socket.SHUT_WR)
        try:
            return read_all(s)
        except ConnectionResetError:
            return None


ALERT = b"\x15\x03"


@pytest.mark.parametrize("model", MODELS)
def test_bad_input_is_refused_with_words_and_an_alert(harkd, pki, model):
    d = harkd(service(pki, f"model = {model}\n"))
    hello = bytes.fromhex("1603010200") + os.urandom(512)
    for data, words in [
        (b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", "plain HTTP came, not TLS"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "what came is not TLS"),
        (hello, ""),
    ]:
        answer = say(d, data)
        assert answer is not None and answer[:2] in (ALERT, b"")
        d.expect(f"echo .* refused: tls_handshake.*{words}")
    with dial(d.port("t"), context(pki)) as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"
    assert refused(d)["tls_handshake"] == 3 and d.service("t")["failed"] == 0


@pytest.mark.parametrize("model", MODELS)
def test_who_never_begins_and_who_never_ends_a_handshake_is_refused_in_time(harkd, pki, model):
    d = harkd(service(pki, f"model = {model}\ntls_handshake_timeout = 200ms\n"))
    for begin in b"", b"\x16\x03\x01":
        say(d, begin, end=False)
    wait_until(lambda: refused(d)["tls_handshake_timeout"] == 2)
    d.expect("refused: tls_handshake_timeout")
    with dial(d.port("t"), context(pki)) as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"


def test_a_hello_a_byte_at_a_time_is_served(harkd, pki):
    d = harkd(service(pki))
    came, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context(pki).wrap_bio(came, goes, server_hostname="a.example")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    with d.connect("t") as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in goes.read():
            s.sendall(bytes([byte]))
        came.write(s.recv(1 << 16))
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                came.write(s.recv(1 << 16))
        s.sendall(goes.read())
        tls.write(b"x")
        s.sendall(goes.read())
        came.write(s.recv(1 << 16))


def test_no_shared_cipher(harkd, pki):
    d = harkd(service(pki))
    c = context(pki, maximum_version=ssl.TLSVersion.TLSv1_2)
    c.set_ciphers("AES128-SHA")  # no forward secrecy, no AEAD
    with pytest.raises(ssl.SSLError):
        dial(d.port("t"), c)
    d.expect("refused: tls_handshake .no shared cipher.$")


def test_a_client_that_does_not_take_our_certificate_is_told_of(harkd, pki):
    d = harkd(service(pki))
    with pytest.raises(ssl.SSLCertVerificationError):
        dial(d.port("t"), context(pki), "c.example")
    d.expect("the peer's alert: ")


@pytest.mark.parametrize("model", ["process", "thread", "fiber"])
def test_more_handshakes_at_once_than_the_limit_are_refused(harkd, pki, model):
    d = harkd(service(pki, f"model = {model}\nmax_handshakes = 2\ntls_handshake_timeout = 60s\n"))
    held = []
    try:
        for _ in range(4):  # two of them, whichever come first
            with contextlib.suppress(ConnectionError):  # a refusal may be there before connect(2) returns
                held.append(d.connect("t"))
                held[-1].sendall(b"\x16\x03\x01")
        wait_until(lambda: refused(d)["max_handshakes"] == 2)
        assert is_over_limit(d, pki)
        assert refused(d)["max_handshakes"] == 3
        d.expect("refused: max_handshakes$")
        for s in held:
            s.close()
        wait_until(lambda: not is_over_limit(d, pki))
        for _ in range(4):  # only handshakes count, and one is over where it has been answered
            held.append(dial(d.port("t"), context(pki)))
            held[-1].sendall(b"x")
            assert held[-1].recv(1) == b"x"
    finally:
        for s in held:
            s.close()


@pytest.mark.parametrize("proxy", [b"", b"PROXY TCP4 10.0.0.1 127.0.0.1 1 2\r\n"], ids=["direct", "proxied"])
@pytest.mark.parametrize("model", ["process", "thread", "fiber"])
def test_who_is_silent_takes_no_handshakes_place(harkd, pki, model, proxy):
    proxied = "proxy_from = 127.0.0.1\n" if proxy else ""
    d = harkd(service(pki, f"model = {model}\nmax_handshakes = 1\ntls_handshake_timeout = 60s\n{proxied}"))

    def peers():
        return [c["peer"] for c in d.ask("connections t")["connections"]]

    with contextlib.ExitStack() as held:
        silent = [held.enter_context(d.connect("t")) for _ in range(4)]
        for s in silent:
            s.sendall(proxy)
        wait_until(lambda: len(peers()) == 4 and (not proxy or set(peers()) == {"tcp://10.0.0.1:1"}))
        for s in silent:  # each in turn
            with context(pki).wrap_socket(s, server_hostname="a.example") as tls:
                tls.sendall(b"x")
                assert tls.recv(1) == b"x"
    assert refused(d)["max_handshakes"] == 0


def is_over_limit(d, pki):
    try:
        dial(d.port("t"), context(pki)).close()
        return False
    except (ssl.SSLError, ConnectionError):
        return True


def test_a_killed_workers_handshakes_count_no_longer(harkd, pki):
    d = harkd(service(pki, "max_handshakes = 1\ntls_handshake_timeout = 60s\n"))
    with contextlib.ExitStack() as held:
        for _ in range(2):  # one of them, whichever comes first
            with contextlib.suppress(ConnectionError):
                held.enter_context(d.connect("t")).sendall(b"\x16\x03\x01")
        wait_until(lambda: refused(d)["max_handshakes"] == 1)
        assert is_over_limit(d, pki)
        worker = d.workers("t")[0]
        os.kill(worker, 9)
        wait_until(lambda: d.workers("t") not in ([], [worker]))
        wait_until(lambda: not is_over_limit(d, pki))


def test_refusals_are_logged_at_a_bounded_rate(harkd, pki):
    d = harkd(service(pki))
    for _ in range(60):
        say(d, b"GET / HTTP/1.0\r\n\r\n")
    wait_until(lambda: refused(d)["tls_handshake"] == 60)
    d.stop()
    assert d.stderr.count("refused: tls_handshake (plain HTTP") < 60
    assert "more refused: tls_handshake" in d.stderr


def test_a_reset_in_the_midst_is_refused_and_costs_nobody_else(harkd, pki):
    d = harkd(service(pki))
    with d.connect("t") as s:
        s.sendall(b"\x16\x03\x01")
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: refused(d)["tls_handshake"] == 1)
    with dial(d.port("t"), context(pki)) as s:
        s.settimeout(PATIENCE)
        s.sendall(b"x")
        assert s.recv(1) == b"x"
