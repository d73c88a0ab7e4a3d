"""tls:// addresses of harkd and hark serve: any box, under every model and engine, beside tcp://; certificates by the
name that is asked for, client certificates, ALPN, versions; and what is wrong with the settings is said."""
import os
import re
import socket
import ssl
import subprocess

import pytest

from conftest import MODELS, PATIENCE, read_all
from harkd_support import harkd  # noqa: F401
from pki_support import Tls, context, dial, pki, server_lines  # noqa: F401

ENGINES = ["epoll", "uring", "poll"]


def upper(pki, more="", names=("a",)):
    return f"[t]\nlisten = tls://127.0.0.1:0\nbox = echo\n{server_lines(pki, *names)}{more}"


def echoed(s, data=b"hello"):
    s.sendall(data)
    got = b""
    while len(got) < len(data):
        got += s.recv(1 << 16)
    return got == data


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("engine", ENGINES)
def test_tls_and_plain_addresses_of_one_service(harkd, pki, model, engine):
    d = harkd(
        f"[t]\nlisten = tls://127.0.0.1:0 tcp://127.0.0.1:0\nbox = echo\nmodel = {model}\nengine = {engine}\n"
        + server_lines(pki)
    )
    assert d.service("t")["listen"][0].startswith("tls://")
    with d.connect("t", 1) as s:
        assert echoed(s)
    block = os.urandom(200_000)
    with Tls(d.port("t"), context(pki)) as s:
        s.send(block)
        s.end()
        assert s.read_all() == block


@pytest.mark.parametrize("model", MODELS)
def test_hark_serve_takes_certificates_by_options(serve, pki, model):
    s = serve("--model", model, "--cert", pki / "a.pem", "--key", pki / "a.key", "tls://localhost:0", "echo")
    assert s.addresses[0].startswith("tls://")
    with dial(s.port(), context(pki)) as c:
        assert echoed(c)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("engine", ENGINES)
def test_what_comes_with_the_handshakes_end_is_served_at_once(serve, pki, model, engine):
    options = ["--model", model, "--engine", engine, "--cert", pki / "a.pem", "--key", pki / "a.key"]
    service = serve(*options, "tls://127.0.0.1:0", "echo")
    came, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context(pki).wrap_bio(came, goes, server_hostname="a.example")

    def until_done(what, *args):
        while True:
            try:
                return what(*args)
            except ssl.SSLWantReadError:
                s.sendall(goes.read())
                came.write(s.recv(1 << 16))

    with service.connect() as s:
        until_done(tls.do_handshake)
        tls.write(b"hello")
        s.sendall(goes.read())  # in one segment
        assert until_done(tls.read, 100) == b"hello"


def test_the_banner_goes_over_tls(harkd, pki):
    d = harkd(upper(pki, "banner = hello\\r\\n\n"))
    with dial(d.port("t"), context(pki)) as s:
        assert s.recv(100) == b"hello\r\n"


def test_the_certificate_is_chosen_by_the_name(harkd, pki):
    d = harkd(upper(pki, names=("a", "b")))
    for name, subject in [("a.example", "a.example"), ("b.example", "b.example"), ("x.w.example", "a.example")]:
        with dial(d.port("t"), context(pki), name) as s:
            assert s.getpeercert()["subject"] == ((("commonName", subject),),)


def test_client_certificates(harkd, pki):
    ca = f"client_ca = {pki / 'ca.pem'}\n"
    d = harkd(upper(pki, ca + f"client_crl = {pki / 'ca.crl'}\n"))

    def served(client):
        try:
            with dial(d.port("t"), context(pki, client)) as s:
                return echoed(s)
        except (ssl.SSLError, ConnectionError):
            return False

    assert served("client") and not served(None) and not served("gone") and not served("other")
    d.expect(r"\[CN=a\\x20client,O=hark\] -> \S+ echo ")
    d.expect("refused: client_cert .the peer shows no certificate, and one is required.$")
    d.expect("refused: client_cert .its certificate is revoked.$")
    d.expect("refused: client_cert .its certificate is self-signed")
    assert d.service("t")["refused"]["client_cert"] == 3
    d.configure(upper(pki, ca + "client_cert = optional\n"))
    assert d.ask("reload")["ok"]
    assert served("client") and served(None) and not served("other")
    d.configure(upper(pki, ca + "client_cert = none\n"))
    assert d.ask("reload")["ok"]
    assert served("other")


@pytest.mark.parametrize("alpn", ["h2 http/1.1", "h2,http/1.1", "h2, http/1.1"])
def test_alpn_and_the_lowest_version(harkd, pki, alpn):
    d = harkd(upper(pki, f"alpn = {alpn}\ntls_min = 1.3\n"))
    c = context(pki)
    c.set_alpn_protocols(["http/1.1", "h2"])
    with dial(d.port("t"), c) as s:
        assert s.selected_alpn_protocol() == "h2" and s.version() == "TLSv1.3"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        dial(d.port("t"), context(pki, maximum_version=ssl.TLSVersion.TLSv1_2))
    d.expect("refused: tls_handshake .the peer offers no version of TLS that is high enough.$")


def test_truncation_is_told_apart(harkd, pki):
    d = harkd(upper(pki))
    s = Tls(d.port("t"), context(pki))
    s.send(b"hello")
    assert s.recv() == b"hello"
    s.socket.shutdown(socket.SHUT_WR)
    s.socket.recv(1000)
    s.close()
    d.expect(r"echo .* in 5 out 5 the stream was cut: the peer ended it without close_notify$")


def test_a_socket_keeps_its_tls_over_an_upgrade(harkd, pki):
    d = harkd(upper(pki))
    port = d.port("t")
    d.upgrade()
    with dial(port, context(pki)) as s:
        assert echoed(s)


def test_a_service_goes_from_plain_to_tls_at_the_same_port(harkd, pki):
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    d = harkd(f"[t]\nlisten = tcp://127.0.0.1:{port}\nbox = echo\n")
    d.configure(f"[t]\nlisten = tls://127.0.0.1:{port}\nbox = echo\n{server_lines(pki)}")
    assert d.ask("reload")["ok"]
    with dial(port, context(pki)) as s:
        assert echoed(s)


SERVER = "cert = {pki}/a.pem\nkey = {pki}/a.key\n"


@pytest.mark.parametrize(
    "text, words",
    [
        ("", r"hark.conf:6: listen: tls://127.0.0.1:0: \[t\] has no cert$"),
        ("cert = {pki}/a.pem\nkey = {pki}/a.key\nkey = {pki}/b.key\n", r"key: 2 for 1 certificate$"),
        ("cert = {pki}/a.pem\nkey = {pki}/b.key\n", r"hark.conf:8: key: .*b.key"),
        ("cert = {pki}/a.pem\n", r"hark.conf:7: cert: key .*a.pem: holds no private key in PEM"),
        (SERVER + "client_ca = {pki}/a.key\n", r"hark.conf:9: client_ca: .*a.key: holds no certificate in PEM"),
        (
            SERVER + "client_ca = {pki}/ca.pem\nclient_crl = {pki}/ca.pem\n",
            r"hark.conf:10: client_crl: .*ca.pem: holds no revocation list",
        ),
        (SERVER + "tls_tickets = 8d\n", r'hark.conf:9: tls_tickets: "8d" is too long: \d+\w is the most'),
        (SERVER + f"alpn = h2 {'x' * 64}\n", r"hark.conf:9: alpn: .* is longer than 63 bytes"),
        ("cert = {pki}/none.pem\n", r"hark.conf:7: cert: .*none.pem: No such file or directory"),
        ("cert = {pki}/ca.crl\n", r"hark.conf:7: cert: .*ca.crl: holds no certificate in PEM"),
        ("cert = a.pem\n", r"hark.conf:7: cert: \"a.pem\" is not an absolute path"),
        ("cert = {pki}/a.pem\nkey = {pki}/a.key\nclient_cert = required\n", "client_cert: client_ca must say who"),
        ("cert = {pki}/a.pem\nkey = {pki}/a.key\nclient_crl = {pki}/ca.crl\n", "client_crl: there is no client_ca"),
        ("cert = {pki}/a.pem\nkey = {pki}/a.key\ntls_min = 1.1\n", r'"1.1" is not 1.2\|1.3'),
        ("cert = {pki}/a.pem\nkey = {pki}/a.key\nwait = yes\n", "not with wait = yes"),
    ],
)
def test_what_is_wrong_with_the_settings_is_said_where(hark, tmp_path, pki, text, words):
    box = "exec = /bin/cat" if "wait" in text else "box = echo"
    conf = tmp_path / "hark.conf"
    conf.write_text(
        f"[harkd]\nlog = stderr\n\n[t]\n{box}\nlisten = tls://127.0.0.1:0\n" + text.format(pki=pki.directory)
    )
    r = subprocess.run([hark + "d", "-t", "-c", conf], capture_output=True, text=True, timeout=PATIENCE)
    assert r.returncode == 100 and re.search(words, r.stderr, re.M), r.stderr


def test_keys_without_a_tls_address_have_no_effect_and_that_is_said(hark, tmp_path, pki):
    conf = tmp_path / "hark.conf"
    conf.write_text(f"[t]\nlisten = tcp://127.0.0.1:0\nbox = echo\nalpn = h2\n{server_lines(pki)}")
    r = subprocess.run([hark + "d", "-t", "-c", conf], capture_output=True, text=True, timeout=PATIENCE)
    assert r.returncode == 0
    for key in "cert", "key", "alpn":
        assert f": {key}: the service listens at no tls:// address" in r.stderr


@pytest.mark.parametrize("option", ["cert", "key", "client-ca", "client-crl", "alpn"])
def test_hark_serve_takes_no_options_of_tls_without_a_tls_address(run, option):
    more = ["--client-ca", "x"] if option == "client-crl" else ["--cert", "y"] if option == "key" else []
    r = run("serve", f"--{option}", "x", *more, "tcp://127.0.0.1:0", "echo")
    assert r.returncode == 100 and re.search(rb"--[a-z-]+ goes with an address at tls://", r.stderr), r.stderr


def test_hark_serve_says_what_is_wrong(run, pki):
    r = run("serve", "tls://127.0.0.1:0", "echo")
    assert r.returncode == 100 and b"tls://127.0.0.1:0: --cert says with which certificate" in r.stderr
    r = run("serve", "--cert", pki / "a.pem", "tls://127.0.0.1:0", "echo")
    assert r.returncode == 100 and b"a.pem" in r.stderr
    r = run("serve", "--cert", pki / "none.pem", "tls://127.0.0.1:0", "echo")
    assert r.returncode == 111 and b"none.pem: No such file" in r.stderr
    r = run("serve", "--wait", "--cert", pki / "a.pem", "--key", pki / "a.key", "tls://127.0.0.1:0", "--", "cat")
    assert r.returncode == 100 and b"not with --wait" in r.stderr


def test_a_handed_over_socket_is_served_by_tls(hark, tmp_path, pki):
    """LISTEN_FDS, matched by address."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
        conf = tmp_path / "hark.conf"
        conf.write_text(
            f"[harkd]\ncontrol = {tmp_path}/c\n[t]\nlisten = tls://127.0.0.1:{port}\nbox = echo\n{server_lines(pki)}"
        )
        started = subprocess.Popen(
            ["bash", "-c", 'exec 3<&"$0"; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"', str(s.fileno())]
            + [hark + "d", "-c", str(conf)],
            pass_fds=[s.fileno()],
            stderr=subprocess.PIPE,
        )
    try:
        with dial(port, context(pki)) as c:
            assert echoed(c)
    finally:
        started.terminate()
        print(started.communicate(timeout=PATIENCE)[1])


def test_plain_clients_of_the_plain_address_are_not_disturbed_by_those_who_fail(harkd, pki):
    d = harkd(f"[t]\nlisten = tls://127.0.0.1:0 tcp://127.0.0.1:0\nbox = echo\n{server_lines(pki)}")
    with d.connect("t", 1) as plain, d.connect("t") as bad:
        bad.sendall(b"GET / HTTP/1.0\r\n\r\n")
        read_all(bad)
        assert echoed(plain)
