"""hark call: where it calls and from where, nc's options, attempts as they happen, -l, what a terminal is shown."""
import json
import os
import pty
import re
import select
import socket
import struct
import subprocess
import threading
import time

import pytest

from conftest import PATIENCE, read_all, wait_until
from test_call import noise, peer, unused_port  # noqa: F401: a fixture


def port_of(address):
    return address.rsplit(":", 1)[1]


# ---- where to


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]", "localhost"])
def test_host_and_port_may_be_two_words(run, serve, host):
    at = "tcp://[::1]:0" if ":" in host else "tcp://127.0.0.1:0"
    service = serve(at, "echo")
    r = run("call", host, port_of(service.at()), input=b"hello")
    assert (r.returncode, r.stdout) == (0, b"hello"), r.stderr


def test_u_means_datagrams(run, serve):
    service = serve("udp://127.0.0.1:0", "echo")
    for words in (["127.0.0.1", port_of(service.at())], ["127.0.0.1:" + port_of(service.at())]):
        r = run("call", "-u", "--wait", "200ms", *words, input=b"hello")
        assert (r.returncode, r.stdout) == (0, b"hello"), r.stderr


def test_capital_u_means_a_path(run, serve, tmp_path):
    service = serve(f"unix:{tmp_path}/s", "echo")
    assert service.addresses
    r = run("call", "-U", tmp_path / "s", input=b"hello")
    assert (r.returncode, r.stdout) == (0, b"hello"), r.stderr


def test_4_and_6_choose_the_family(run, serve):
    """A star is dialed at loopback, in both families."""
    service = serve("tcp://*:0", "daytime")
    for option, family in (("-4", "127.0.0.1"), ("-6", "[::1]")):
        r = run("call", "-v", option, "*", service.port())
        assert r.returncode == 0, r.stderr
        assert f"tcp://{family}:{service.port()}: connected".encode() in r.stderr


def test_n_asks_no_name_server(run, serve):
    service = serve("tcp://127.0.0.1:0", "echo")
    assert run("call", "-n", "127.0.0.1", service.port(), input=b"x").stdout == b"x"
    for words in (["localhost", service.port()], ["127.0.0.1", "echo"]):
        r = run("call", "-n", *words)
        assert r.returncode == 100 and b"-n asks nobody" in r.stderr and r.stderr.count(b"\n") == 1


def test_n_is_no_mistake_for_a_unix_path_which_nobody_looks_up(serve, run, tmp_path):
    serve(f"unix:{tmp_path}/s", "echo")
    r = run("call", "-n", "-U", tmp_path / "s", input=b"hello")
    assert (r.returncode, r.stdout) == (0, b"hello"), r.stderr


def test_p_and_s_choose_where_to_come_from(run, peer):
    seen = []
    port = unused_port()
    r = run("call", "-s", "127.0.0.3", "-p", port, peer(lambda s: seen.append(s.getpeername())))
    assert r.returncode == 0, r.stderr
    r = run("call", "-p", port, peer(lambda s: seen.append(s.getpeername())))
    assert r.returncode == 0, r.stderr
    wait_until(lambda: len(seen) == 2)
    assert seen == [("127.0.0.3", port), ("127.0.0.1", port)]


@pytest.mark.parametrize(
    "args, words",
    [
        (["-u", "tcp://127.0.0.1:1"], "-u contradicts"),
        (["-6", "tcp4://127.0.0.1:1"], "contradicts"),
        (["-4", "unix:/tmp/x"], "go with a host"),
        (["-6", "unixgram:/tmp/x"], "go with a host"),
        (["-p", "1", "-s", "127.0.0.1:2", "127.0.0.1:1"], "-p another"),
        (["127.0.0.1", "1", "2"], "HOST PORT"),
        (["7701"], "a port alone goes with -l; usage: hark call [OPTION]... ADDRESS | HOST PORT"),
        (["-u", "7701"], "a port alone goes with -l"),
        (["-k", "127.0.0.1:1"], "-k goes with -l"),
        (["-l", "-z", "127.0.0.1:1"], "exclude"),
        (["-l"], "no address to listen on"),
        (["-l", "-p", "7", "127.0.0.1", "8"], "-p names a port"),
        (["-z", "127.0.0.1"], "-z wants"),
        (["-z", "127.0.0.1", "0"], "not a port"),
        (["-z", "127.0.0.1", "30-20"], "not a port"),
        (["-z", "127.0.0.1", "70000"], "not a port"),
        (["-z", "127.0.0.1", "20,,30"], "not a port"),
        (["-z", "unix:/x", "1"], "HOST PORT"),
        (["-e", "/bin/sh", "127.0.0.1:1"], "hark serve"),
        (["-x", "proxy:1", "127.0.0.1:1"], "proxies"),
        (["-i", "1", "127.0.0.1:1"], "--idle-timeout T"),
        (["--idle", "1", "127.0.0.1:1"], "--idle-timeout T"),
        (["--timeout", "1", "127.0.0.1:1"], "--connect-timeout T, -w"),
        (["--ssl", "127.0.0.1:1"], "tls://HOST:PORT"),
        (["--sh-exec", "ls", "127.0.0.1:1"], "hark serve"),
        (["-t", "127.0.0.1:1"], "telnet"),
    ],
)
def test_what_is_wrong_or_not_to_be_had_is_said_in_one_line(run, args, words):
    r = run("call", *args)
    err = r.stderr.decode()
    assert r.returncode == 100 and words in err and err.count("\n") == 1, err


# ---- the end


def test_q_ends_the_call_after_the_input(run, peer):
    done = threading.Event()
    begin = time.monotonic()
    r = run("call", "-q", "300ms", peer(lambda s: (s.sendall(b"x"), done.wait(PATIENCE))), input=b"question")
    took = time.monotonic() - begin
    done.set()
    assert (r.returncode, r.stdout) == (0, b"x"), r.stderr
    assert 0.25 < took < 5


def test_q_0_sends_everything_first(run, peer):
    data, got = noise(2_000_000), []
    r = run("call", "-q", "0", peer(lambda s: got.append(read_all(s))), input=data)
    assert r.returncode == 0, r.stderr
    wait_until(lambda: got)
    assert got[0] == data


@pytest.mark.parametrize("option, ended", [("-N", True), ("--no-half-close", False)])
def test_the_inputs_end_is_the_peers_unless_told_otherwise(run, peer, option, ended):
    seen = []

    def look(s):
        s.recv(100)
        seen.append(bool(select.select([s], [], [], 0.3)[0]))

    assert run("call", option, peer(look), input=b"x").returncode == 0
    assert seen == [ended]


# ---- attempts


def test_attempts_are_told_as_they_happen(start):
    """While a host does not answer it can be seen which one."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        pending = []
        for _ in range(3):
            pending.append(socket.socket())
            pending[-1].setblocking(False)
            pending[-1].connect_ex(listening.getsockname())
        address = "tcp://127.0.0.1:%d" % listening.getsockname()[1]
        call = start("call", "-v", "-w", "20s", address)
        call.expect(rf"^hark: call: {address}: connecting$")
        assert call.process.poll() is None
        call.stop()
        for s in pending:
            s.close()


def test_json_tells_attempts_and_the_end(run, serve):
    service = serve("tcp://127.0.0.1:0", "echo")
    r = run("call", "--json", service.at(), input=b"hello")
    assert (r.returncode, r.stdout) == (0, b"hello")
    lines = [json.loads(line) for line in r.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["look-up", "connecting", "attempt", "close"]
    assert lines[2]["peer"] == service.at() and lines[2]["error"] is None and lines[2]["seconds"] >= 0
    assert (lines[3]["bytes_in"], lines[3]["bytes_out"], lines[3]["error"]) == (5, 5, None)


def test_json_tells_why_it_failed(run):
    address = f"tcp://127.0.0.1:{unused_port()}"
    r = run("call", "--json", address)
    lines = [json.loads(line) for line in r.stderr.splitlines()]
    assert r.returncode == 1
    assert [line["event"] for line in lines] == ["look-up", "connecting", "attempt", "error"]
    assert "refused" in lines[2]["error"] and address in lines[3]["message"]


# ---- datagrams


@pytest.fixture
def receiver():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        s.settimeout(PATIENCE)
        yield s


@pytest.mark.parametrize("lines", [[], ["--lines"]])
def test_an_input_larger_than_any_datagram_is_cut(run, receiver, tmp_path, lines):
    data = noise(150_000).replace(b"\n", b"x")
    (tmp_path / "in").write_bytes(data)
    with open(tmp_path / "in", "rb") as i:
        r = run("call", "--wait", "0", *lines, "udp://127.0.0.1:%d" % receiver.getsockname()[1], stdin=i, input=None)
    assert (r.returncode, r.stderr) == (0, b"")
    got = [receiver.recv(70_000) for _ in range(3)]
    assert [len(g) for g in got] == [65507, 65507, 150_000 - 2 * 65507]
    assert b"".join(got) == data


def test_crlf_turns_every_line_end_of_a_datagram(run, receiver):
    at = "udp://127.0.0.1:%d" % receiver.getsockname()[1]
    assert run("call", "--wait", "0", "-C", at, input=b"a\nb\r\n\nc\n").returncode == 0
    assert receiver.recv(100) == b"a\r\nb\r\n\r\nc\r\n"
    assert run("call", "--wait", "0", "-C", at, input=b"\n" * 40_000).returncode == 0
    assert receiver.recv(70_000) + receiver.recv(70_000) == b"\r\n" * 40_000


def test_count_ends_the_call_after_so_many_datagrams(start, serve):
    service = serve("udp://127.0.0.1:0", "echo")
    call = start("call", "-W", "2", "--lines", service.at(), stdin=subprocess.PIPE)
    call.process.stdin.write(b"one\ntwo\n")
    call.process.stdin.flush()
    assert call.wait() == 0
    assert call.stdout == "one\ntwo\n"


# ---- listening


def listening(start, *args, **more):
    call = start("call", "-v", "-l", *args, **more)
    return call, call.expect(r"^hark: call: listening on (\S+)$")[1]


def test_listen_answers_one_connection_and_ends(start):
    call, address = listening(start, "127.0.0.1:0", stdin=subprocess.PIPE)
    with socket.create_connection(("127.0.0.1", int(port_of(address)))) as s:
        call.process.stdin.write(b"hello")
        call.process.stdin.close()
        assert read_all(s) == b"hello"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(port_of(address))))
        s.sendall(b"and you")
    assert call.wait() == 0
    assert call.stdout == "and you"
    assert re.search(r"connection from tcp://127\.0\.0\.1:\d+$", call.stderr, re.M)


@pytest.mark.parametrize("words", [["0"], ["-p", "0"], ["127.0.0.1", "0"], ["-p", "0", "127.0.0.1"], ["-4", "0"]])
def test_listen_takes_a_port_alone(start, words):
    call, address = listening(start, *words)
    with socket.create_connection(("127.0.0.1", int(port_of(address)))) as s:
        s.sendall(b"x")
    assert call.wait() == 0
    assert call.stdout == "x"


def test_keep_open_goes_on_with_the_next_one(start):
    call, address = listening(start, "-k", "127.0.0.1:0")
    for i in range(3):
        with socket.create_connection(("127.0.0.1", int(port_of(address)))) as s:
            s.sendall(b"%d" % i)
            s.shutdown(socket.SHUT_WR)
            assert read_all(s) == b""  # standard input is at its end
    wait_until(lambda: call.stdout == "012")
    assert call.process.poll() is None
    assert call.stop() == -15


def test_listen_on_a_unix_path_leaves_none(start, tmp_path):
    call, _ = listening(start, f"unix:{tmp_path}/s")
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(f"{tmp_path}/s")
        s.sendall(b"x")
    assert call.wait() == 0
    assert call.stdout == "x" and not (tmp_path / "s").exists()


def test_listen_for_datagrams_answers_the_first_sender(start):
    call, address = listening(start, "-u", "--wait", "200ms", "127.0.0.1", "0", stdin=subprocess.PIPE)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(PATIENCE)
        s.connect(("127.0.0.1", int(port_of(address))))
        s.send(b"one ")
        wait_until(lambda: call.stdout == "one ")
        s.send(b"two ")
        wait_until(lambda: call.stdout == "one two ")
        call.process.stdin.write(b"answer")
        call.process.stdin.close()
        assert s.recv(100) == b"answer"
    assert call.wait() == 0


def unixgram(path=None):
    """A unix datagram socket, with a name if path is one."""
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.settimeout(PATIENCE)
    if path is not None:
        s.bind(str(path))
    return s


@pytest.mark.parametrize("words", [["unixgram:{}"], ["-u", "-U", "{}"], ["-n", "-uU", "{}"]])
def test_listen_for_unix_datagrams_answers_the_first_sender(start, tmp_path, words):
    words = [w.format(tmp_path / "s") for w in words]
    call, _ = listening(start, "--wait", "200ms", *words, stdin=subprocess.PIPE)
    with unixgram(tmp_path / "mine") as s:
        s.sendto(b"one ", str(tmp_path / "s"))
        wait_until(lambda: call.stdout == "one ")
        s.sendto(b"two ", str(tmp_path / "s"))
        wait_until(lambda: call.stdout == "one two ")
        call.process.stdin.write(b"answer")
        call.process.stdin.close()
        assert s.recv(100) == b"answer"
    assert call.wait() == 0, call.stderr
    assert not (tmp_path / "s").exists()


def test_listen_for_unix_datagrams_goes_on_with_the_next_sender(start, tmp_path):
    call, _ = listening(start, "-k", "--wait", "100ms", f"unixgram:{tmp_path}/s")
    for name in "ab":
        with unixgram(tmp_path / name) as s:
            s.sendto(name.encode(), str(tmp_path / "s"))
        wait_until(lambda: call.stderr.count("received 1") == "ab".index(name) + 1)
    assert call.stdout == "ab"


def test_a_unix_datagram_sender_without_a_name_is_heard(start, tmp_path):
    call, _ = listening(start, "--wait", "200ms", f"unixgram:{tmp_path}/s")
    with unixgram() as s:
        s.sendto(b"hello", str(tmp_path / "s"))
    assert call.wait() == 0, call.stderr
    assert call.stdout == "hello" and "connection from unixgram:\n" in call.stderr


def test_a_unix_datagram_sender_without_a_name_cannot_be_answered(start, tmp_path):
    call, _ = listening(start, f"unixgram:{tmp_path}/s", stdin=subprocess.PIPE)
    call.process.stdin.write(b"answer")
    call.process.stdin.close()
    with unixgram() as s:
        s.sendto(b"hello", str(tmp_path / "s"))
    assert call.wait() == 1
    assert "the sender has no name to be answered at" in call.stderr


def forge(source, port, payload):
    """Sends a datagram to 127.0.0.1:port whose sender it names itself (RFC 791, RFC 768)."""
    udp = struct.pack("!4H", 4000, port, 8 + len(payload), 0) + payload
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, socket.IPPROTO_UDP, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as s:
        s.sendto(ip + socket.inet_aton(source) + socket.inet_aton("127.0.0.1") + udp, ("127.0.0.1", 0))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root forges a sender's address")
@pytest.mark.parametrize("source", ["192.0.2.1", "127.255.255.255"])
def test_a_datagram_from_a_forged_address_ends_no_call(start, source):
    call, address = listening(start, "-u", "127.0.0.1:0")
    port = int(port_of(address))
    forge(source, port, b"forged")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"mine", ("127.0.0.1", port))
        wait_until(lambda: call.stdout == "mine" or call.process.poll() is not None)
    assert call.stdout == "mine"


def test_nobody_calls_in_time(run):
    begin = time.monotonic()
    r = run("call", "-l", "-w", "200ms", "127.0.0.1:0")
    assert r.returncode == 1 and b"nobody has called" in r.stderr and time.monotonic() - begin < 5


# ---- ports


def test_z_tells_which_ports_are_open(run):
    with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b:
        ports = sorted([a.getsockname()[1], b.getsockname()[1]])
        closed = unused_port()
        r = run("call", "-z", "127.0.0.1", f"{ports[1]},{closed}", f"{ports[0]}-{ports[0]}")
    assert r.returncode == 0
    assert r.stdout.decode().splitlines() == [f"tcp://127.0.0.1:{ports[1]}: open", f"tcp://127.0.0.1:{ports[0]}: open"]
    assert re.fullmatch(
        r"hark: call: 127\.0\.0\.1: 2 of 3 ports open, 1 refused, 0 silent, in .+\n", r.stderr.decode()
    ), r.stderr


def test_z_scans_a_range_in_order(run):
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
        low, high = max(1, port - 200), min(65535, port + 200)
        r = run("call", "-z", "--json", f"127.0.0.1:{low}-{high}")
    lines = [json.loads(line) for line in r.stdout.splitlines()]
    assert r.returncode == 0
    assert [int(port_of(line["peer"])) for line in lines[:-1]] == list(range(low, high + 1))
    assert [line["state"] for line in lines if line.get("peer", "").endswith(f":{port}")] == ["open"]
    assert lines[-1]["ports"] == high - low + 1 and lines[-1]["open"] >= 1 and lines[-1]["failed"] == 0


def test_z_with_nothing_open_fails(run):
    r = run("call", "-z", "127.0.0.1", unused_port())
    assert (r.returncode, r.stdout) == (1, b"") and b"0 of 1 port open, 1 refused" in r.stderr


def test_z_over_udp_tells_answers_refusals_and_silence_apart(run, serve):
    service = serve("udp://127.0.0.1:0", "echo")
    closed = unused_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        ports = [service.port(), closed, mute.getsockname()[1]]
        r = run("call", "-zu", "--json", "--wait", "300ms", "127.0.0.1", *ports)
    assert r.returncode == 0
    assert [json.loads(line)["state"] for line in r.stdout.splitlines()[:-1]] == ["open", "refused", "silent"]


# ---- a terminal


def on_terminal(hark, *args):
    """What a terminal is given as hark call's standard output."""
    master, slave = pty.openpty()
    call = subprocess.Popen([hark, "call", *args], stdin=subprocess.DEVNULL, stdout=slave, stderr=subprocess.PIPE)
    os.close(slave)
    shown = b""
    try:
        while select.select([master], [], [], PATIENCE)[0]:
            shown += os.read(master, 1000)
    except OSError:
        pass
    finally:
        call.stderr.close()
        call.kill()
        call.wait()
        os.close(master)
    return shown.replace(b"\r\n", b"\n")


NASTY = b"\x1b[31mred\r\nna\xc3\xafve\ttab\rover\x07\xe2\x80\xae\xff \xc2\x9b2J\n\xc3"
TAMED = "\\x1b[31mred\nnaïve\ttab\\x0dover\\x07\\xe2\\x80\\xae\\xff \\xc2\\x9b2J\n\\xc3".encode()


@pytest.mark.parametrize("step", [1, 2, len(NASTY)])
def test_a_terminal_is_shown_text_alone(hark, peer, step):
    def talk(s):
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(0, len(NASTY), step):
            s.sendall(NASTY[i : i + step])
            time.sleep(0.002)

    assert on_terminal(hark, peer(talk)) == TAMED


def test_a_terminal_is_shown_datagrams_as_text_too(hark):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        s.settimeout(PATIENCE)

        def answer():
            _, a = s.recvfrom(100)
            s.sendto(b"\x1b]0;x\x07 ok\n", a)

        t = threading.Thread(target=answer)
        t.start()
        at = "udp://127.0.0.1:%d" % s.getsockname()[1]
        r, w = os.pipe()
        os.write(w, b"hi")
        os.close(w)
        master, slave = pty.openpty()
        call = subprocess.Popen([hark, "call", "-W", "1", at], stdin=r, stdout=slave, stderr=subprocess.DEVNULL)
        os.close(slave)
        os.close(r)
        t.join()
        assert call.wait(PATIENCE) == 0
        assert os.read(master, 100) == b"\\x1b]0;x\\x07 ok\r\n"
        os.close(master)


def test_raw_gives_a_terminal_everything(hark, peer):
    assert on_terminal(hark, "--raw", peer(lambda s: s.sendall(b"\x1b[31mred\xff"))) == b"\x1b[31mred\xff"


def test_a_pipe_is_given_everything(run, peer):
    assert run("call", peer(lambda s: s.sendall(NASTY))).stdout == NASTY


def test_a_listener_without_input_receives_all_that_comes(hark, tmp_path):
    with open(tmp_path / "out", "wb") as out:
        listener = subprocess.Popen(
            [hark, "call", "-v", "-l", "127.0.0.1:0"], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE
        )
    port = re.search(rb"127\.0\.0\.1:(\d+)", listener.stderr.readline())[1].decode()
    with socket.create_connection(("127.0.0.1", int(port)), PATIENCE) as s:
        s.settimeout(0.2)
        with pytest.raises(TimeoutError):
            s.recv(1)  # no end
        s.sendall(b"late\n")
    assert listener.wait(PATIENCE) == 0
    listener.stderr.close()
    assert (tmp_path / "out").read_bytes() == b"late\n"


def test_what_the_input_has_when_the_peer_ends_is_still_sent(hark):
    got = b""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        caller = subprocess.Popen(
            [hark, "call", "127.0.0.1", str(server.getsockname()[1])], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        s, _ = server.accept()
        with s:
            s.settimeout(PATIENCE)
            text = b"x" * 3_000_000
            feeder = threading.Thread(target=lambda: (caller.stdin.write(text), caller.stdin.close()))
            feeder.start()
            got += s.recv(1)
            s.shutdown(socket.SHUT_WR)
            while data := s.recv(65536):
                got += data
            feeder.join(PATIENCE)
    assert caller.wait(PATIENCE) == 0 and caller.stdout.read() == b""
    caller.stdout.close()
    assert got == text


def test_the_peer_s_end_ends_the_call_though_q_has_not_passed(run, peer):
    begin = time.monotonic()
    r = run("call", "-q", "60s", peer(lambda s: (s.shutdown(socket.SHUT_WR), read_all(s))), input=b"hello")
    assert r.returncode == 0 and time.monotonic() - begin < PATIENCE / 2, r.stderr


def answer_one():
    """A UDP socket that answers the first datagram. Returns it and its port."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("127.0.0.1", 0))
    s.settimeout(PATIENCE)
    threading.Thread(target=lambda: s.sendto(b"x", s.recvfrom(65536)[1]), daemon=True).start()
    return s, str(s.getsockname()[1])


def test_enough_datagrams_end_the_call_at_once_whatever_the_input_has(hark, tmp_path):
    (tmp_path / "input").write_text("hello")
    for command in (["cat", tmp_path / "input", "-"], ["yes"], ["cat", tmp_path / "input"]):
        s, port = answer_one()
        feeder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        with s, feeder:
            r = subprocess.run(
                [hark, "call", "-u", "-W", "1", "--wait", "60s", "127.0.0.1", port],
                stdin=feeder.stdout,
                capture_output=True,
                timeout=PATIENCE,
            )
            feeder.kill()
        assert (r.returncode, r.stdout) == (0, b"x"), r.stderr


def test_a_peer_that_has_ended_and_reads_nothing_does_not_hold_the_call(hark, peer):
    done = threading.Event()
    with subprocess.Popen(["yes"], stdout=subprocess.PIPE) as feeder:
        call = [hark, "call", peer(lambda s: (s.shutdown(socket.SHUT_WR), done.wait(PATIENCE)))]
        r = subprocess.run(call, stdin=feeder.stdout, capture_output=True, timeout=PATIENCE)
        feeder.kill()
    done.set()
    assert r.returncode == 0, r.stderr


def test_a_listener_that_only_sends_half_closes_though_it_has_nothing_to_send(start):
    call, address = listening(start, "--send-only", "127.0.0.1:0")
    with socket.create_connection(("127.0.0.1", int(port_of(address))), PATIENCE) as s:
        assert s.recv(1) == b""
    assert call.wait() == 0
