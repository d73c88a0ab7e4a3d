"""Programs behind TLS speak plain text: half-closes both ways, what is cut, the ladder, idle and lifetime, a drain,
what a program leaves running; and what their environment tells of TLS."""
import json
import signal
import socket
import time

import pytest

from conftest import MODELS, wait_until
from harkd_support import harkd  # noqa: F401
from pki_support import Tls, context, pki, server_lines  # noqa: F401

ENGINES = ["epoll", "uring", "poll"]


@pytest.fixture
def program(serve, pki):
    """program(options, words...) serves it behind TLS."""

    def program(options, *words):
        own = ["--cert", pki / "a.pem", "--key", pki / "a.key"]
        return serve("-v", *own, *options, "tls://127.0.0.1:0", *words)

    return program


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_half_close_each_way(program, pki, model, engine):
    s = program(["--model", model, "--engine", engine], "--", "sort")
    lines = [b"%06d\n" % (k * 7919 % 100_000) for k in range(20_000)]
    with Tls(s.port(), context(pki)) as c:
        c.send(b"".join(lines))
        c.end()
        assert c.read_all() == b"".join(sorted(lines))
    s.expect(r"sort .*, pid \d+, done$")


@pytest.mark.parametrize("model", MODELS)
def test_a_program_that_ends_first_has_all_it_wrote_delivered(program, pki, model):
    """Though the client says more than it reads, and does not end."""
    s = program(["--model", model], "--", "sh", "-c", "head -c 200000 /dev/zero")
    with Tls(s.port(), context(pki)) as c:
        c.send(b"x" * 100_000)
        assert c.read_all() == bytes(200_000)
    s.expect(r"sh .*, pid \d+, done$")


def test_a_program_may_end_its_side_and_read_on(program, pki, tmp_path):
    s = program(
        [],
        "--",
        "python3",
        "-c",
        f"""
import os, socket
s = socket.socket(fileno=os.dup(1)); s.sendall(b"first"); s.shutdown(socket.SHUT_WR)
data = b""
while chunk := s.recv(4096): data += chunk
open({str(tmp_path / "got")!r}, "wb").write(data)
""",
    )
    with Tls(s.port(), context(pki)) as c:
        assert c.read_all() == b"first"
        c.send(b"second")
        c.end()
    wait_until(lambda: (tmp_path / "got").exists() and (tmp_path / "got").read_bytes() == b"second")


def test_a_peer_that_is_cut_begins_the_ladder(program, pki, tmp_path):
    """sh would go on for ever: a cut input is no end in order."""
    s = program([], "exec", "--stop-ladder", "100ms 2s", "sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done")
    c = Tls(s.port(), context(pki))
    c.send(b"hello")
    c.socket.shutdown(socket.SHUT_WR)  # no close_notify
    s.expect(r"sh .*, pid \d+, the stream was cut: the peer ended it without close_notify, exit status 7$")
    c.close()


def test_a_peer_that_ends_in_order_does_not(program, pki):
    s = program([], "exec", "--stop-ladder", "100ms 2s", "sh", "-c", "cat >/dev/null; sleep 0.6; echo late")
    with Tls(s.port(), context(pki)) as c:
        c.end()
        assert c.read_all() == b"late\n"


def test_until_eof_begins_the_ladder_at_the_peers_end(program, pki):
    s = program(
        [],
        "exec",
        "--until-eof",
        "--stop-ladder",
        "100ms 2s",
        "sh",
        "-c",
        "trap 'echo bye; exit 7' TERM; " "while :; do sleep 0.05; done",
    )
    with Tls(s.port(), context(pki)) as c:
        c.end()
        assert c.read_all() == b"bye\n"
    s.expect("exit status 7$")


def test_until_eof_lets_one_that_closed_its_connection_work_on(program, pki, tmp_path):
    source = f"exec <&- >&- 2>&-; sleep 0.5; echo x >{tmp_path / 'done'}"
    s = program([], "exec", "--until-eof", "--stop-ladder", "50ms 50ms", "sh", "-c", source)
    with Tls(s.port(), context(pki)) as c:
        assert c.read_all() == b""
    wait_until((tmp_path / "done").exists)


@pytest.mark.parametrize("option", ["--idle-timeout", "--lifetime"])
def test_its_time_is_over(program, pki, option):
    s = program(
        [option, "300ms"],
        "exec",
        "--stop-ladder",
        "100ms 2s",
        "sh",
        "-c",
        "trap 'echo bye; exit 7' TERM; " "while :; do sleep 0.05; done",
    )
    with Tls(s.port(), context(pki)) as c:
        assert c.read_all() == b"bye\n"
    s.expect("exit status 7$")


def test_bytes_either_way_keep_it_from_being_idle(program, pki):
    s = program(["--idle-timeout", "600ms"], "--", "sh", "-c", "for i in 1 2 3 4 5 6; do sleep 0.25; echo $i; done")
    with Tls(s.port(), context(pki)) as c:
        assert c.read_all() == b"1\n2\n3\n4\n5\n6\n"


def test_a_drain_lets_it_finish_within_the_grace(program, pki):
    s = program(["--grace", "8s"], "--", "sh", "-c", "cat >/dev/null; sleep 1; echo done")
    with Tls(s.port(), context(pki)) as c:
        c.send(b"x")
        s.expect("$")
        time.sleep(0.2)
        s.send(signal.SIGTERM)
        assert c.read_all() == b"done\n"
    assert s.wait() == 0


def test_what_a_program_leaves_running_keeps_the_connection(program, pki):
    s = program([], "--", "sh", "-c", "(sleep 0.5; echo later) & echo now")
    with Tls(s.port(), context(pki)) as c:
        assert c.read_all() == b"now\nlater\n"


def test_standard_error_may_be_the_connection(program, pki):
    s = program([], "exec", "--stderr", "sh", "-c", "echo out; echo err >&2")
    with Tls(s.port(), context(pki)) as c:
        assert c.read_all() == b"out\nerr\n"


def test_a_program_that_cannot_be_started(program, pki, tmp_path):
    path = tmp_path / "gone"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    s = program([], "--", path)
    path.unlink()
    with Tls(s.port(), context(pki)) as c:
        assert c.read_all() == b""
    s.expect("exit status 127$")


def test_it_has_no_descriptor_but_its_own(program, pki):
    s = program([], "--", "sh", "-c", "ls /proc/self/fd")
    with Tls(s.port(), context(pki)) as c:
        assert c.read_all().split() == [b"0", b"1", b"2", b"3"]  # the last one is ls's own


def environment(d, c, name="a.example"):
    with Tls(d.port("env"), c, name) as s:
        s.end()
        lines = s.read_all().decode().split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)


def test_the_environment_tells_of_tls(harkd, pki, monkeypatch):
    monkeypatch.setenv("SSL_CLIENT_S_DN", "CN=root")
    monkeypatch.setenv("SSL_CERT_FILE", "/c")
    d = harkd(
        "[env]\nlisten = tls://127.0.0.1:0\nexec = env -0\npass_env = *\nalpn = http/1.1\n"
        f"{server_lines(pki)}client_ca = {pki / 'ca.pem'}\nclient_cert = optional\n"
    )
    c = context(pki, "client")
    c.set_alpn_protocols(["http/1.1"])
    e = environment(d, c)
    assert e["PROTO"] == "TCP" and e["TCPREMOTEIP"] == "127.0.0.1"  # as without TLS
    assert e["SSL_PROTOCOL"] == "TLSv1.3" and e["SSL_CIPHER"].startswith("TLS_")
    assert e["SSL_TLS_SNI"] == "a.example" and e["SSL_ALPN_PROTOCOL"] == "http/1.1"
    assert e["SSL_SESSION_RESUMED"] == "Initial"
    assert e["SSL_CLIENT_VERIFY"] == "SUCCESS" and e["SSL_CLIENT_S_DN"] == e["SSL_CLIENT_DN"] == "CN=a client,O=hark"
    assert e["SSL_CLIENT_I_DN"] == "CN=hark test authority" and int(e["SSL_CLIENT_M_SERIAL"], 16) > 0
    e = environment(d, context(pki))
    assert e["SSL_CLIENT_VERIFY"] == "NONE" and "SSL_CLIENT_S_DN" not in e and e["SSL_CERT_FILE"] == "/c"


def test_a_name_that_is_none_does_not_reach_the_environment(harkd, pki):
    d = harkd(f"[env]\nlisten = tls://127.0.0.1:0\nexec = env -0\n{server_lines(pki)}")
    e = environment(d, context(pki, check_hostname=False), "a$(id)")
    assert "SSL_TLS_SNI" not in e


def test_the_log_as_json_tells_of_tls(harkd, pki):
    head = "[harkd]\ncontrol = {dir}/control\nlog = stderr\nlog_format = json\n\n"
    d = harkd(
        "[t]\nlisten = tls://127.0.0.1:0 tcp://127.0.0.1:0\nexec = cat\n"
        f"{server_lines(pki)}client_ca = {pki / 'ca.pem'}\n",
        ready=False,
        head=head,
    )
    wait_until(lambda: "ready: " in d.stderr)
    with Tls(d.port("t"), context(pki, "client")) as s:
        s.send(b"hello")
        s.end()
        assert s.read_all() == b"hello"
    with d.connect("t", 1) as s:
        s.shutdown(socket.SHUT_WR)
        s.recv(1)

    def closed():
        lines = [json.loads(line) for line in d.stderr.splitlines()]
        return [line for line in lines if line["event"] == "close"]

    wait_until(lambda: len(closed()) == 2)
    plain, tls = sorted(closed(), key=lambda line: "tls" in line)
    assert tls["tls"] == "TLSv1.3" and tls["tls_cipher"] and tls["tls_name"] == "a.example"
    assert tls["tls_session"] == "new" and tls["tls_subject"] == "CN=a client,O=hark"
    assert (tls["bytes_in"], tls["bytes_out"], tls["error"], tls["status"]) == (5, 5, None, 0)
    assert not [key for key in plain if key.startswith("tls")]
