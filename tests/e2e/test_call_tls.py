"""hark call tls://: who is verified and how refusal is told, what -v and --json tell of a handshake, half-closes and
cut streams, -l and -z; the other verbs that dial. The peers are Python's ssl module and openssl s_server."""
import json
import os
import re
import socket
import ssl
import subprocess
import threading
import time

import pytest

from conftest import PATIENCE, wait_until
from tls_support import HAS_OPENSSL, Made, both_versions, hello, read_to_end
from tls_support import call, certs, plain, tls  # noqa: F401 fixtures

pytestmark = pytest.mark.skipif(not HAS_OPENSSL, reason="openssl is not installed")


def echo_after_the_end(s):
    s.sendall(b"you said " + read_to_end(s))
    s.unwrap()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


# ---- who is taken


@both_versions
def test_a_good_server_is_taken(call, tls, version):
    server = tls(hello, version=version)
    for host in ("localhost", "127.0.0.1"):
        r = call(server.at(host))
        assert (r.returncode, r.stdout, r.err) == (0, b"hello\n", "")
    assert server.names == ["localhost", None]  # RFC 6066: an address is no name
    assert server.errors == []


def test_the_systems_store_is_asked_by_default(run, tls, certs):
    server = tls(hello)
    env = {**os.environ, "SSL_CERT_FILE": str(certs.ca.cert)}
    assert run("call", server.at(), env=env).stdout == b"hello\n"
    r = run("call", server.at(), env={**env, "SSL_CERT_FILE": "/dev/null"})
    assert r.returncode == 1 and r.stdout == b""
    assert "issued by" in r.stderr.decode() and "a test authority" in r.stderr.decode()
    assert "the system's store" in r.stderr.decode()


def day(offset):
    return time.strftime("%Y%m%d000000Z", time.gmtime(time.time() + offset * 86400))


def date(offset):
    return time.strftime("%Y-%m-%d 00:00", time.gmtime(time.time() + offset * 86400))


def refusals(certs):
    other = certs.make("/CN=another authority", ca=True)
    middle = certs.make("/CN=middle", by=certs.ca, ca=True)
    under = certs.make("/CN=under", "DNS:localhost", middle)
    expired = certs.make("/CN=old", "DNS:localhost", certs.ca, start=day(-20), end=day(-10))
    future = certs.make("/CN=new", "DNS:localhost", certs.ca, start=day(10), end=day(20))
    return {
        "name": (certs.make("/CN=x", "DNS:x.example,IP:192.0.2.1", certs.ca), "(it is for x.example 192.0.2.1)"),
        "expired": (expired, "expired", date(-10)),
        "future": (future, "not valid before", date(10)),
        "self-signed": (certs.make("/CN=me", "DNS:localhost"), "self-signed"),
        "unknown": (certs.make("/CN=s", "DNS:localhost", other), "issued by", "another authority"),
        "middle": (under, "issued by", "middle"),
    }


@pytest.mark.parametrize("which", ["name", "expired", "future", "self-signed", "unknown", "middle"])
def test_a_bad_certificate_is_refused_and_the_error_says_why(call, tls, certs, which):
    cert, *words = refusals(certs)[which]
    server = tls(hello, cert)
    r = call(server.at(), "-v", input=b"secret")
    assert (r.returncode, r.stdout) == (1, b"")
    error = r.err.splitlines()[-1]
    assert error.startswith(f"hark: call: {server.at()}: its certificate ")
    assert all(word in error for word in words), error
    assert "certificate 1 of 1: " in r.err  # -v shows what was refused
    assert "issuer: " in r.err
    server.wait()
    assert len(server.errors) == 1 and server.certs == []  # it was told by an alert, and got no byte

    r = call(server.at(), "--insecure", "-v", ca=False)
    assert (r.returncode, r.stdout) == (0, b"hello\n")
    if which != "name":
        assert "peer's certificate: not verified: " in r.err


def test_wildcards_are_one_label(call, tls):
    server = tls(hello)
    assert call(server.at(), "--server-name", "a.w.example").stdout == b"hello\n"
    assert server.names == ["a.w.example"]
    for name in ("w.example", "a.b.w.example"):
        r = call(server.at(), "--server-name", name)
        assert r.returncode == 1 and f"not for {name} (it is for localhost 127.0.0.1 *.w.example)" in r.err


def test_an_address_must_be_in_the_certificate_as_one(call, tls, certs):
    server = tls(hello, certs.make("/CN=127.0.0.1", "DNS:127.0.0.1,DNS:localhost", certs.ca))
    r = call(server.at("127.0.0.1"))
    assert r.returncode == 1 and "not for 127.0.0.1" in r.err
    assert call(server.at()).returncode == 0


def test_families_are_chosen_for_tls_too(call, tls):
    server = tls(hello)
    assert call(server.at(), "-4").stdout == b"hello\n"
    r = call(server.at(), "-6")
    assert r.returncode == 1 and "refused" in r.err
    assert call(server.at("127.0.0.1"), "-u").returncode == 100


# ---- what is told


def test_verbose_tells_each_fact_in_a_line(call, tls, certs):
    r = call(tls(hello, alpn=["h2", "http/1.1"]).at(), "-v", "--alpn", "h2,http/1.1")
    lines = [line.removeprefix("hark: call: ") for line in r.err.splitlines()]
    for line in (
        "version: TLSv1.3",
        "server name: localhost",
        "ALPN: h2",
        "session: new",
        "peer's certificate: verified",
        "certificate 1 of 1: CN=good",
        "  issuer: CN=a test authority",
        "  names: localhost 127.0.0.1 *.w.example",
        "  key: EC P-256",
    ):
        assert line in lines, r.err
    assert re.search(r"TLS: handshake after .*s$", r.err, re.M)
    assert re.search(r"cipher: TLS_\w+$", r.err, re.M) and re.search(r"group: \w+$", r.err, re.M)
    assert re.search(r"valid: \d{4}-\d\d-\d\d \d\d:\d\d UTC to .* UTC \((29|30) days left\)$", r.err, re.M)
    assert lines[-1].endswith("sent 0 bytes, received 6")


def test_json_tells_the_handshake_and_the_chain(call, tls, certs):
    chained = Made(certs.directory, "chained")
    chained.cert.write_bytes(certs.good.cert.read_bytes() + certs.ca.cert.read_bytes())
    chained.key = certs.good.key
    r = call(tls(hello, chained, version=ssl.TLSVersion.TLSv1_2).at(), "--json")
    events = [json.loads(line) for line in r.err.splitlines()]
    told = next(e for e in events if e["event"] == "tls")
    assert told["version"] == "TLSv1.2" and told["cipher"].startswith("ECDHE-") and told["seconds"] > 0
    assert (told["server_name"], told["alpn"], told["resumed"]) == ("localhost", None, False)
    assert (told["verified"], told["not_verified"], told["certificates"]) == (True, None, 2)
    leaf, above = told["chain"]
    assert leaf["subject"] == "CN=good" and leaf["issuer"] == above["subject"] == "CN=a test authority"
    assert leaf["names"] == ["localhost", "127.0.0.1", "*.w.example"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", leaf["not_after"])
    assert re.fullmatch("[0-9A-Fa-f:]+", leaf["sha256"]) and leaf["key"] == "EC P-256"
    assert events[-1]["event"] == "close" and events[-1]["error"] is None


def test_json_tells_a_refused_chain_and_the_error(call, tls, certs):
    r = call(tls(hello, certs.make("/CN=me", "DNS:localhost")).at(), "--json")
    events = [json.loads(line) for line in r.err.splitlines()]
    told = next(e for e in events if e["event"] == "tls")
    assert "version" not in told and [c["subject"] for c in told["chain"]] == ["CN=me"]
    assert events[-1]["event"] == "error" and "self-signed" in events[-1]["message"]


def test_no_certificate_commands_the_terminal(call, tls, certs):
    evil = "/CN=\x1b]0;owned\x07\u202edna\x1b[31m\u0085/O=\x1b[2J"
    server = tls(hello, certs.make(evil, "DNS:localhost,DNS:x\x1b[31my"))
    for options in (["-v"], ["--json"], ["-v", "--insecure"], ["--json", "--insecure"], ["-z", "-v", "--insecure"]):
        r = call(server.at(), *options, ca=False)
        said = r.stdout.replace(b"hello", b"") + r.stderr
        assert not any(b in said for b in (b"\x1b", b"\x07", "\u202e".encode(), "\u0085".encode())), said
    server = tls(hello, certs.make("/CN=x", "DNS:x\x1b[31my.example", certs.ca))
    r = call(server.at())
    assert r.returncode == 1 and b"\x1b" not in r.stderr and "not for localhost" in r.err


# ---- our side


@both_versions
def test_a_client_certificate_is_shown(call, tls, certs, version):
    server = tls(hello, ca=certs.ca, version=version)
    for options in (["--cert", certs.client.both], ["--cert", certs.client.cert, "--key", certs.client.key]):
        assert call(server.at(), *options).stdout == b"hello\n"
    assert len(server.certs) == 2 and all("a client" in str(c["subject"]) for c in server.certs)


@both_versions
def test_a_missing_client_certificate_is_told_in_the_servers_words(call, tls, certs, version):
    r = call(tls(hello, ca=certs.ca, version=version).at())
    assert (r.returncode, r.stdout) == (1, b"")
    assert re.search(r"the peer's alert: \S", r.err), r.err


def test_alpn_without_anything_in_common(call, start, certs):
    port = free_port()
    server = subprocess.Popen(
        ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", certs.good.cert, "-key", certs.good.key]
        + ["-alpn", "h2", "-quiet"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        r = call(f"tls://localhost:{port}", "--alpn", "smtp")
        assert r.returncode == 1 and "application protocol" in r.err
    finally:
        server.kill()
        server.communicate()


def test_alpn_that_the_server_leaves_out_is_told(call, tls):
    r = call(tls(hello).at(), "--alpn", "h2", "-v")
    assert r.returncode == 0 and "ALPN: nothing agreed on\n" in r.err


@pytest.mark.parametrize(
    "args, words",
    [
        (["--ca", "x", "tcp://localhost:1"], "--ca goes with an address at tls://"),
        (["--insecure", "localhost", "1"], "--insecure goes with an address at tls://"),
        (["--key", "x", "tls://localhost:1"], "--key goes with --cert"),
        (["-l", "tls://localhost:0"], "--cert"),
        (["-l", "--cert", "x", "--insecure", "tls://localhost:0"], "--insecure"),
        (["-l", "--cert", "x", "--server-name", "x", "tls://localhost:0"], "--server-name"),
        (["--ca", "/nowhere/ca.pem", "tls://localhost:1"], "/nowhere/ca.pem: No such file"),
        (["--cert", "/dev/null", "tls://localhost:1"], "/dev/null"),
        (["-k", "tls://localhost:1"], "--insecure"),
        (["--ssl", "localhost", "1"], "tls://"),
        (["-U", "--insecure", "/tmp/x"], "--insecure goes with"),
    ],
)
def test_wrong_usage(run, args, words):
    r = run("call", *args)
    assert r.returncode == 100 and words in r.stderr.decode() and r.stderr.count(b"\n") == 1


# ---- the stream


@both_versions
def test_the_end_of_input_half_closes(call, tls, version):
    server = tls(echo_after_the_end, version=version)
    data = os.urandom(300_000)
    r = call(server.at(), input=data)
    assert (r.returncode, r.err, r.stdout == b"you said " + data) == (0, "", True)
    assert server.errors == []


def test_without_a_half_close_the_server_sees_no_end(call, tls):
    def answer(s):
        s.sendall(b"got " + s.recv(100))
        s.settimeout(0.2)
        with pytest.raises(TimeoutError):
            s.recv(1)
        s.unwrap()

    server = tls(answer)
    r = call(server.at(), "--no-half-close", input=b"x")
    assert (r.returncode, r.stdout) == (0, b"got x")


@both_versions
def test_ten_megabytes_come_whole(call, tls, version, tmp_path):
    data = os.urandom(1 << 20) * 10

    def send(s):
        s.sendall(data)
        s.unwrap()

    r = call(tls(send, version=version).at())
    assert r.returncode == 0 and r.stdout == data


@both_versions
@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_cut_stream_is_told_apart(call, tls, version, how):
    def cut(s):
        s.sendall(b"half of ")
        s.recv(1)
        if how == "reset":
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        socket.socket(fileno=s.detach()).close()

    r = call(tls(cut, version=version).at(), "--no-half-close", input=b"x")
    assert (r.returncode, r.stdout) == (2, b"half of ")
    assert ("close_notify" if how == "end" else "reset") in r.err
    r = call(tls(cut, version=version).at(), "--no-half-close", "--json", input=b"x")
    closed = json.loads(r.err.splitlines()[-1])
    assert closed["event"] == "close" and closed["error"] in r.err and closed["error"]


# ---- who is no server


def test_garbage_is_not_tls(call, plain):
    port = plain(lambda s: (s.recv(1000), s.sendall(b"220 mail.example ESMTP\r\n"), s.recv(1000)))
    r = call(f"tls://localhost:{port}")
    assert r.returncode == 1 and "what came is not TLS" in r.err


def test_an_end_in_the_handshake(call, plain):
    port = plain(lambda s: s.recv(1000))
    r = call(f"tls://localhost:{port}")
    assert r.returncode == 1 and "in the midst of the handshake" in r.err


def test_connect_timeout_covers_the_handshake(call, plain):
    done = threading.Event()
    port = plain(lambda s: done.wait(PATIENCE))
    began = time.monotonic()
    r = call(f"tls://localhost:{port}", "--connect-timeout", "300ms")
    done.set()
    assert r.returncode == 1 and "handshake" in r.err and "timed out" in r.err.lower()
    assert time.monotonic() - began < 5


# ---- -l and -z


def client(certs, port, ca=None, cert=None):
    context = ssl.create_default_context(cafile=ca or certs.ca.cert)
    if cert:
        context.load_cert_chain(cert.cert, cert.key)
    s = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    return context.wrap_socket(s, server_hostname="localhost", suppress_ragged_eofs=False)


def listen(start, *options):
    call = start("call", "-l", "-v", *options, "tls://127.0.0.1:0", stdin=subprocess.PIPE)
    return call, int(call.expect(r"listening on tls://127\.0\.0\.1:(\d+)")[1])


def test_a_listener_answers_by_tls(start, certs):
    call, port = listen(start, "--cert", certs.good.both)
    call.process.stdin.write(b"welcome\n")
    call.process.stdin.close()
    with client(certs, port) as s:
        s.sendall(b"thanks\n")
        assert read_to_end(s) == b"welcome\n"
        s.unwrap()
    assert call.wait() == 0 and call.stdout == "thanks\n"
    assert "server name: localhost" in call.stderr


def test_a_listener_with_authorities_requires_a_certificate(start, certs):
    call, port = listen(start, "-k", "--cert", certs.good.both, "--ca", certs.ca.cert)
    with pytest.raises(ssl.SSLError):
        with client(certs, port) as s:
            s.recv(1)
    call.expect("certificate")
    with client(certs, port, cert=certs.client) as s:
        s.sendall(b"it is me\n")
        wait_until(lambda: call.stdout == "it is me\n")
    assert "O=Example,CN=a client" in call.stderr or "CN=a client" in call.stderr


def test_a_listener_that_is_called_without_tls_fails(start, certs):
    call, port = listen(start, "--cert", certs.good.both)
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as s:
        s.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert call.wait() == 1
    assert "plain HTTP came, not TLS" in call.stderr


def test_a_scan_tells_where_tls_is_spoken(call, tls, plain):
    good, bad, closed = tls(hello).port, plain(lambda s: s.sendall(b"hello")), free_port()
    r = call(f"tls://127.0.0.1:{good},{bad},{closed}", "-z", "-v")
    lines = sorted(r.stdout.decode().splitlines())
    assert r.returncode == 0 and len(lines) == 3
    assert any(re.search(rf":{good}: open, TLSv1.3, CN=good, until \d{{4}}-", line) for line in lines)
    assert any(f":{bad}: what came is not TLS" in line for line in lines)
    assert any(f":{closed}: Connection refused" in line for line in lines)
    r = call(f"tls://localhost:{good}", "-z", "--json")
    port = json.loads(r.stdout.splitlines()[0])
    assert (port["state"], port["version"], port["chain"][0]["subject"]) == ("open", "TLSv1.3", "CN=good")
    bad = plain(lambda s: s.sendall(b"hello"))
    assert call(f"tls://127.0.0.1:{bad}", "-z").returncode == 1


# ---- the other verbs


def test_every_verb_that_asks_speaks_tls(run, tls, certs):
    def now(s):
        s.sendall(b"Saturday, November 28, 2026 10:00:00-UTC\r\n")
        s.unwrap()

    server = tls(now)
    r = run("daytime", "--ca", certs.ca.cert, server.at())
    assert (r.returncode, r.stdout) == (0, b"Saturday, November 28, 2026 10:00:00-UTC\n"), r.stderr
    assert run("users", "--ca", certs.ca.cert, server.at()).returncode == 0
    r = run("daytime", server.at())
    assert r.returncode == 1 and "issued by" in r.stderr.decode()
    assert run("daytime", "--insecure", server.at()).returncode == 0
    r = run("daytime", "--insecure", "localhost")
    assert r.returncode == 100 and "--insecure goes with" in r.stderr.decode()


def test_an_answer_that_is_cut_is_none(run, tls, certs):
    def cut(s):
        s.sendall(b"Saturday")
        socket.socket(fileno=s.detach()).close()

    r = run("daytime", "--ca", certs.ca.cert, tls(cut).at())
    assert (r.returncode, r.stdout) == (1, b"") and "close_notify" in r.stderr.decode()


def test_pings_go_by_tls(run, tls, certs):
    def echo(s):
        while chunk := s.recv(1000):
            s.sendall(chunk)

    r = run("ping", "--ca", certs.ca.cert, "-c", "3", "-i", "0", tls(echo).at())
    assert r.returncode == 0 and b"3 sent, 3 answered" in r.stdout
    r = run("ping", "-c", "1", tls(echo).at())
    assert (r.returncode, r.stdout) == (1, b"") and "issued by" in r.stderr.decode()
