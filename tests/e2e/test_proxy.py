"""Behind proxies: proxy_from, the PROXY protocol's header, and whom limits, logs and programs then see."""
import base64
import json
import pathlib
import re
import socket
import struct
import time

import pytest

from conftest import MODELS, PATIENCE, read_all, wait_until
from harkd_support import harkd, run_test, service  # noqa: F401 harkd is a fixture

ENGINES = ["epoll", "uring", "poll"]
VECTORS = json.loads((pathlib.Path(__file__).parents[1] / "vectors/proxy.json").read_text())
LINE = b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 443\r\n"
FROM_HERE = "proxy_from = 127.0.0.1"
SHOW = ["sh", "-c", "env; echo; cat"]


def version_2(tlvs=b"", command=1, source="192.0.2.1", port=1000):
    block = socket.inet_aton(source) + socket.inet_aton("198.51.100.2") + struct.pack("!HH", port, 443)
    head = b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x20 | command, 0x11])
    return head + struct.pack("!H", len(block) + len(tlvs)) + block + tlvs


def tlv(kind, value):
    return struct.pack("!BH", kind, len(value)) + value


def dial(port, source="127.0.0.1"):
    s = socket.socket()
    s.bind((source, 0))
    s.connect(("127.0.0.1", port))  # with a time-out it would tell of a reset that came since
    s.settimeout(PATIENCE)
    return s


def all_of(s):
    """To its end, in order or not."""
    try:
        return read_all(s)
    except ConnectionResetError:
        return b""


def ask(port, *pieces, source="127.0.0.1", pause=0.0):
    with dial(port, source) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in pieces:
                s.sendall(piece)
                time.sleep(pause)
            s.shutdown(socket.SHUT_WR)
        except OSError:  # refused already
            pass
        return all_of(s)


def program(answer):
    """What SHOW told: the environment, and what followed the header."""
    env, _, rest = answer.partition(b"\n\n")
    return dict(line.split("=", 1) for line in env.decode().splitlines() if "=" in line), rest


# ---- the header ----------------------------------------------------------------------------------------------------


def end_of(env, side):
    """ "ip:port" of an end, as the vectors have it."""
    kind = "TCP6" if env["PROTO"] == "TCP6" else env["PROTO"]
    ip, port = env[f"{kind}{side}IP"], env[f"{kind}{side}PORT"]
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def check_accepted(case, raw, answer, own):
    env, rest = program(answer)
    expect = case["expect"]
    assert rest == raw[expect["header_len"] :]
    if "unix" in expect:
        assert env["PROTO"] == "UNIX"
        for side, which in (("REMOTE", "source"), ("LOCAL", "destination")):
            assert env.get(f"UNIX{side}PATH", "") == expect["unix"][which]
    elif expect.get("local"):
        assert end_of(env, "REMOTE") == own
    else:
        for side, which in (("REMOTE", "source"), ("LOCAL", "destination")):
            assert end_of(env, side) == re.sub(r"\[::ffff:([0-9.]+)\]", r"\1", expect[which])
    for name in ("alpn", "authority", "netns"):
        assert env.get(f"PROXY_{name.upper()}") == expect["tlv"].get(name)


def test_every_vector_by_a_program(serve):
    server = serve("--proxy-from", "127.0.0.0/8", "tcp://127.0.0.1:0", "--", *SHOW)
    for case in VECTORS:
        raw = base64.b64decode(case["raw_b64"])
        step = case.get("split", len(raw) or 1)
        with server.connect() as s:
            own = "%s:%d" % s.getsockname()
            try:
                for at in range(0, len(raw), step):
                    s.sendall(raw[at : at + step])
                s.shutdown(socket.SHUT_WR)
            except OSError:
                assert not case["expect"]["accept"], case["id"]
            answer = all_of(s)
        assert bool(answer) == case["expect"]["accept"], case["id"]
        if answer:
            check_accepted(case, raw, answer, own)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("model", MODELS)
def test_a_program_gets_what_follows_the_header_in_the_same_segment(serve, model, engine):
    server = serve(
        *["--model", model, "--engine", engine, "--proxy-from", "127.0.0.1", "tcp://127.0.0.1:0", "--", *SHOW]
    )
    for header in (LINE, version_2(tlv(2, b"a.example"))):
        env, rest = program(ask(server.port(), header + b"PROXY body"))
        assert rest == b"PROXY body" and env["REMOTE_HOST"] == "192.0.2.1" and env["TCPLOCALPORT"] == "443"
    env, rest = program(ask(server.port(), *[bytes([b]) for b in LINE + b"body"], pause=0.001))
    assert rest == b"body" and env["REMOTE_HOST"] == "192.0.2.1"


def test_a_program_finds_what_the_proxy_told(serve, monkeypatch):
    monkeypatch.setenv("PROXY_SSL_CN", "left.over")
    monkeypatch.setenv("PROXY_URL", "mine")
    server = serve("--proxy-from", "127.0.0.1", "tcp://127.0.0.1:0", "--", *SHOW)
    parts = [(0x21, b"TLSv1.3"), (0x22, b"A Client"), (0x23, b"TLS_AES_128_GCM_SHA256"), (0x24, b"RSA-SHA256")]
    parts += [(0x25, b"RSA2048"), (0x26, b"x25519"), (0x27, b"rsa_pss_rsae_sha256"), (0x28, b"\x30\x82")]
    inside = b"".join(tlv(*part) for part in parts)
    told = tlv(1, b"h2") + tlv(2, b"b\xc3\xbccher\n.example\\") + tlv(5, b"\0id") + tlv(0x30, b"blue")
    env, _ = program(ask(server.port(), version_2(told + tlv(0x20, b"\x07\0\0\0\0" + inside))))
    assert {name: value for name, value in env.items() if name.startswith("PROXY_")} == {
        "PROXY_VERSION": "2",
        "PROXY_ALPN": "h2",
        "PROXY_AUTHORITY": "bücher\\x0a.example\\x5c",
        "PROXY_UNIQUE_ID": "\\x00id",
        "PROXY_NETNS": "blue",
        "PROXY_SSL_VERSION": "TLSv1.3",
        "PROXY_SSL_CIPHER": "TLS_AES_128_GCM_SHA256",
        "PROXY_SSL_SIG_ALG": "RSA-SHA256",
        "PROXY_SSL_KEY_ALG": "RSA2048",
        "PROXY_SSL_GROUP": "x25519",
        "PROXY_SSL_SIG_SCHEME": "rsa_pss_rsae_sha256",
        "PROXY_SSL_CN": "A Client",
        "PROXY_SSL_VERIFY": "0",
        "PROXY_URL": "mine",
    }
    env, _ = program(ask(server.port(), version_2(tlv(0x20, b"\x01\0\0\0\0" + inside))))
    assert "PROXY_SSL_CN" not in env and "PROXY_SSL_VERIFY" not in env  # no certificate was shown
    env, _ = program(ask(server.port(), version_2(told, command=0)))
    assert {name for name in env if name.startswith("PROXY_")} == {"PROXY_VERSION", "PROXY_URL"}


@pytest.mark.parametrize("model", MODELS)
def test_a_header_that_is_never_finished_ends_at_its_deadline(harkd, model):
    d = harkd(service("cat", "exec = /bin/cat", FROM_HERE, "proxy_timeout = 300ms", f"model = {model}"))
    for part in (b"", b"PROXY TCP4 ", version_2()[:20]):
        with dial(d.port("cat")) as s:
            began = time.monotonic()
            s.sendall(part)
            assert all_of(s) == b""
            assert 0.2 < time.monotonic() - began < 5
    wait_until(lambda: d.service("cat")["refused"]["proxy_timeout"] == 3)
    assert ask(d.port("cat"), LINE + b"x") == b"x"
    d.expect(r"cat tcp://127\.0\.0\.1:\d+ -> .* refused: proxy_timeout$")


# ---- who is asked --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_a_reset_within_the_header_is_a_refusal_and_no_failure(harkd, engine):
    d = harkd(service("echo", "box = echo", f"engine = {engine}", FROM_HERE))
    for cut in range(len(LINE)):
        with dial(d.port("echo")) as s:
            s.sendall(LINE[:cut])
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: d.service("echo")["refused"]["proxy_header"] == len(LINE))
    d.expect(r"refused: proxy_header \(Connection reset by peer\)$")
    assert d.service("echo")["failed"] == 0


@pytest.mark.parametrize("model", MODELS)
def test_a_spoofed_header_from_elsewhere_is_refused_and_counted(harkd, model):
    d = harkd(service("cat", "exec = /bin/cat", "proxy_from = 127.0.0.2 192.0.2.0/24", f"model = {model}"))
    port = d.port("cat")
    assert ask(port, LINE + b"spoofed") == b""
    assert ask(port, b"plain") == b""
    assert ask(port, LINE + b"body", source="127.0.0.2") == b"body"
    assert ask(port, b"no header", source="127.0.0.2") == b""
    wait_until(lambda: d.service("cat")["refused"]["proxy_header"] == 1)
    assert d.service("cat")["refused"]["proxy_from"] == 2
    d.expect(r"cat tcp://127\.0\.0\.1:\d+ -> .* refused: proxy_from$")
    d.expect(r"cat tcp://127\.0\.0\.2:\d+ -> .* refused: proxy_header \(signature: of neither version\)$")
    d.expect(r"cat tcp://192\.0\.2\.1:1000 -> tcp://198\.51\.100\.2:443 cat .* in 4 out 4 done$")


def test_with_proxy_direct_others_are_served_as_they_come(harkd):
    d = harkd(service("cat", "exec = /bin/cat", "proxy_from = 127.0.0.2", "proxy_direct = yes"))
    assert ask(d.port("cat"), LINE + b"body") == LINE + b"body"
    assert ask(d.port("cat"), LINE + b"body", source="127.0.0.2") == b"body"
    d.expect(r"cat tcp://127\.0\.0\.1:\d+ -> .* done$")


def test_unix_names_the_peers_of_unix_sockets(serve, tmp_path):
    server = serve("--proxy-from", "unix", f"unix:{tmp_path}/s", "tcp://127.0.0.1:0", "--", *SHOW)
    with server.connect() as s:
        s.sendall(LINE + b"body")
        s.shutdown(socket.SHUT_WR)
        env, rest = program(read_all(s))
    assert rest == b"body" and env["PROTO"] == "TCP" and env["REMOTE_HOST"] == "192.0.2.1"
    assert ask(server.port(1), LINE + b"body") == b""
    server = serve("--proxy-from", "127.0.0.1", f"unix:{tmp_path}/t", "--", *SHOW)
    with server.connect() as s:
        assert all_of(s) == b""


# ---- the real peer -------------------------------------------------------------------------------------------------


def named(port, address, held):
    """A connection of that client's through the proxy, and what it is answered."""
    s = dial(port)
    held.append(s)
    s.sendall(f"PROXY TCP4 {address} 198.51.100.2 1000 443\r\nx".encode())
    try:
        return s.recv(1)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("model", [m for m in MODELS if m != "inline"])
def test_limits_are_the_real_peers(harkd, model):
    d = harkd(service("echo", "box = echo", FROM_HERE, "max_per_source = 2", f"model = {model}"))
    port, held = d.port("echo"), []
    try:
        held += [dial(port) for _ in range(4)]  # silent: the proxy itself has no limit
        assert [named(port, "192.0.2.1", held) for _ in range(3)] == [b"x", b"x", b""]
        assert [named(port, f"192.0.2.{n}", held) for n in range(2, 9)] == [b"x"] * 7
        wait_until(lambda: d.service("echo")["refused"]["max_per_source"] == 1)
        d.expect(r"echo tcp://192\.0\.2\.1:1000 -> .* refused: max_per_source$")
    finally:
        for s in held:
            s.close()
    wait_until(lambda: d.service("echo")["now"] == 0)
    assert named(port, "192.0.2.1", held) == b"x"
    held[-1].close()


def test_who_is_connected_is_the_real_peer(harkd, run):
    d = harkd(service("echo", "box = echo", FROM_HERE))
    with dial(d.port("echo")) as s:
        s.sendall(LINE + b"x")
        assert s.recv(1) == b"x"
        shown = json.loads(run("connections", "--control", d.directory / "control", "--json").stdout)
        assert [(c["peer"], c["bytes_in"]) for c in shown["connections"]] == [("tcp://192.0.2.1:1000", 1)]


def test_health_checks_are_served_as_the_proxys_own(harkd):
    d = harkd(service("cat", "exec = /bin/cat", FROM_HERE, "max_per_source = 1"))
    assert ask(d.port("cat"), version_2(command=0) + b"check") == b"check"
    assert ask(d.port("cat"), b"PROXY UNKNOWN\r\ncheck") == b"check"
    d.expect(r"cat tcp://127\.0\.0\.1:\d+ -> tcp://127\.0\.0\.1:\d+ cat .* done$")


def test_the_banner_follows_the_header_and_a_silent_client_comes_first(harkd):
    d = harkd(
        service("cat", "exec = /bin/cat", FROM_HERE, r"banner = hello\n")
        + service("echo", "box = echo", FROM_HERE, "first = client", "proxy_timeout = 300ms")
    )
    assert ask(d.port("cat"), LINE + b"body") == b"hello\nbody"
    assert ask(d.port("cat"), b"GET / HTTP/1.0\r\n\r\n") == b""
    with dial(d.port("echo")) as s:
        assert all_of(s) == b""  # at its deadline, though nothing came that would start it


# ---- configuration -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, told",
    [
        ("proxy_from = 127.0.0.1/33", r'proxy_from: "127\.0\.0\.1/33" is no network'),
        ("proxy_from = localhost", r'proxy_from: "localhost" is no network'),
        ("proxy_from = 127.0.0.1/8", r"proxy_from: 127\.0\.0\.1/8 is taken for 127\.0\.0\.0/8"),
        ("proxy_direct = yes", r"proxy_direct: no effect on \[x\] without proxy_from"),
        ("proxy_timeout = 0\nproxy_from = ::1", r"proxy_timeout: "),
    ],
)
def test_t_tells_what_is_wrong(hark, tmp_path, text, told):
    (tmp_path / "hark.conf").write_text(service("x", "box = echo", text))
    checked = run_test(hark, tmp_path)
    assert re.search(told, checked.stderr.decode()), checked.stderr


def test_t_tells_where_it_has_no_effect(hark, tmp_path):
    (tmp_path / "hark.conf").write_text(
        service("u", "box = echo", FROM_HERE, listen="udp://127.0.0.1:1 tcp://127.0.0.1:1")
        + service("w", "exec = /bin/cat", FROM_HERE, "wait = yes", listen="tcp://127.0.0.1:2")
        + service("x", "box = echo", FROM_HERE, listen=f"unix:{tmp_path}/x")
    )
    checked = run_test(hark, tmp_path)
    assert checked.returncode == 0
    told = checked.stderr.decode() + checked.stdout.decode()
    assert "proxy_from: no effect on udp://127.0.0.1:1: datagrams have no header" in told
    assert "proxy_from: no effect on [w], as wait = yes" in told
    assert f'proxy_from: refuses everybody at unix:{tmp_path}/x, as it has no "unix"' in told


def test_hark_serve_says_why_it_refused(serve):
    server = serve("-v", "--proxy-from", "127.0.0.1", "tcp://127.0.0.1:0", "echo")
    assert ask(server.port(), LINE[:-2] + b"\n") == b""
    server.expect(r"refused: proxy_header \(line: its end is no CR LF\)$")
    server = serve("--json", "--proxy-from", "127.0.0.1", "tcp://127.0.0.1:0", "echo")
    assert ask(server.port(), LINE.replace(b"1000", b"01000")) == b""
    server.expect('"refused": *"proxy_header"')
    said = [json.loads(line) for line in server.stderr.splitlines() if '"refused"' in line][-1]
    assert said["error"] == "port: no number from 0 to 65535" and said["refused"] == "proxy_header"
