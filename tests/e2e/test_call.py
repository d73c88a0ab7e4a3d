"""hark call: half-closes, checksums, the errors in words, the attempts, datagrams, odd standard descriptors.

The peers are sockets of this process, or hark serve where a real echo is wanted."""
import hashlib
import json
import os
import select
import pty
import random
import re
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from conftest import PATIENCE, read_all, wait_until


@pytest.fixture
def peer():
    """peer(fn) listens on loopback, gives fn the first connection in a thread, and returns the address to call."""
    opened, threads = [], []

    def peer(fn):
        listening = socket.create_server(("127.0.0.1", 0))
        listening.settimeout(PATIENCE)
        opened.append(listening)

        def serve():
            s, _ = listening.accept()
            s.settimeout(PATIENCE)
            with s:
                fn(s)

        threads.append(threading.Thread(target=serve, daemon=True))
        threads[-1].start()
        return "tcp://127.0.0.1:%d" % listening.getsockname()[1]

    yield peer
    for s in opened:
        s.close()
    for t in threads:
        t.join(PATIENCE)


def noise(n):
    return random.Random(n).randbytes(n)


# ---- streams


def test_end_of_input_half_closes_and_the_rest_is_read(run, peer):
    answer = noise(1000000)
    seen = []

    def late(s):
        seen.append(read_all(s))
        s.sendall(answer)

    r = run("call", peer(late), input=b"question")
    assert (r.returncode, r.stderr, r.stdout == answer) == (0, b"", True)
    assert seen == [b"question"]


def test_ten_megabytes_go_both_ways_unharmed(serve, run):
    service = serve("tcp://127.0.0.1:0", "echo")
    data = noise(10_000_000)
    r = run("call", service.at(), input=data)
    assert r.returncode == 0, r.stderr
    assert hashlib.sha256(r.stdout).digest() == hashlib.sha256(data).digest()


def test_files_as_input_and_output(serve, hark, tmp_path):
    service = serve("tcp://127.0.0.1:0", "echo")
    data = noise(3_000_000)
    (tmp_path / "in").write_bytes(data)
    with open(tmp_path / "in", "rb") as i, open(tmp_path / "out", "wb") as o:
        assert subprocess.run([hark, "call", service.at()], stdin=i, stdout=o, timeout=PATIENCE).returncode == 0
    assert (tmp_path / "out").read_bytes() == data


def test_the_peers_end_ends_the_call_though_input_is_open(start, peer):
    call = start("call", peer(lambda s: s.sendall(b"bye\n")), stdin=subprocess.PIPE)
    assert call.wait() == 0
    assert call.stdout == "bye\n"


def test_what_is_typed_goes_out_at_once(start, peer):
    """No waiting for more input: a conversation works."""

    def converse(s):
        s.sendall(b"hello " + s.recv(100))
        s.sendall(b"again " + s.recv(100))

    call = start("call", peer(converse), stdin=subprocess.PIPE)
    call.process.stdin.write(b"one\n")
    call.process.stdin.flush()
    wait_until(lambda: call.stdout == "hello one\n")
    call.process.stdin.write(b"two\n")
    call.process.stdin.flush()
    assert call.wait() == 0
    assert call.stdout == "hello one\nagain two\n"


def test_on_a_terminal_the_peers_end_is_the_end(hark, peer):
    master, slave = pty.openpty()
    address = peer(lambda s: s.sendall(b"you said " + s.recv(100)))
    call = subprocess.Popen([hark, "call", address], stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    try:
        os.close(slave)
        os.write(master, b"hi\n")
        assert call.wait(PATIENCE) == 0
        shown = b""  # the terminal's own echo comes first, perhaps by itself
        while b"you said hi" not in shown:
            assert select.select([master], [], [], PATIENCE)[0], shown
            shown += os.read(master, 1000)
    finally:
        call.kill()
        call.wait()
        os.close(master)


def test_standard_output_keeps_its_blocking_flag(hark, peer):
    """The description is shared with the shell: O_NONBLOCK left on it would break the next program."""
    r, w = os.pipe()
    try:

        def ends_and_waits(s):  # what it sent comes back: standard output is the other end of standard input
            s.sendall(b"x" * 10)
            s.shutdown(socket.SHUT_WR)
            read_all(s)

        address = peer(ends_and_waits)
        assert subprocess.run([hark, "call", address], stdin=r, stdout=w, timeout=PATIENCE).returncode == 0
        assert os.get_blocking(w) and os.get_blocking(r)
    finally:
        os.close(r)
        os.close(w)


def test_send_only_sends_all_though_the_peer_has_ended_its_half(run, peer):
    data = noise(2_000_000)
    got = []

    def sink(s):
        s.sendall(b"not wanted")
        s.shutdown(socket.SHUT_WR)
        got.append(read_all(s))

    r = run("call", "--send-only", peer(sink), input=data)
    assert (r.returncode, r.stdout, r.stderr) == (0, b"", b"")
    wait_until(lambda: got)
    assert got[0] == data


def test_recv_only_reads_no_input(start, peer):
    seen = []

    def source(s):
        s.sendall(b"data")
        s.shutdown(socket.SHUT_WR)
        seen.append(read_all(s))

    r, w = os.pipe()
    os.write(w, b"secret")
    call = start("call", "--recv-only", peer(source), stdin=r)
    assert call.wait() == 0
    os.close(w)
    assert call.stdout == "data" and os.read(r, 100) == b"secret"
    os.close(r)
    wait_until(lambda: seen)
    assert seen == [b""]


def test_crlf_turns_line_ends_once(run, peer):
    seen = []
    run("call", "--crlf", peer(lambda s: seen.append(read_all(s))), input=b"a\nb\r\n\n" + b"x" * 4095 + b"\n\nend")
    wait_until(lambda: seen)
    assert seen == [b"a\r\nb\r\n\r\n" + b"x" * 4095 + b"\r\n\r\nend"]


def test_local_chooses_where_to_come_from(run, peer):
    seen = []
    r = run("call", "--local", "127.0.0.3", peer(lambda s: seen.append(s.getpeername()[0])))
    assert r.returncode == 0, r.stderr
    assert seen == ["127.0.0.3"]


def test_reserved_port_is_one(run, peer):
    if os.geteuid() != 0:
        pytest.skip("needs root for a port below 1024")
    seen = []
    r = run("call", "--reserved-port", peer(lambda s: seen.append(s.getpeername()[1])))
    assert r.returncode == 0, r.stderr
    assert 512 <= seen[0] <= 1023


def test_unix_sockets_by_path_and_by_abstract_name(serve, run, tmp_path):
    service = serve(f"unix:{tmp_path}/s", f"unix:@hark-call-{os.getpid()}", "echo")
    for i in range(2):
        r = run("call", service.addresses[i], input=b"hello")
        assert (r.returncode, r.stdout) == (0, b"hello"), r.stderr


@pytest.mark.parametrize("scheme", ["unix", "unixgram"])
def test_a_local_path_is_gone_after_the_call(serve, run, tmp_path, scheme):
    """Whoever binds a path removes it: or the same call fails the second time."""
    service = serve(f"{scheme}:{tmp_path}/s", "echo")
    for _ in range(2):
        r = run("call", "--wait", "200ms", "--local", tmp_path / "mine", service.at(), input=b"hello")
        assert (r.returncode, r.stdout) == (0, b"hello"), r.stderr
        assert not (tmp_path / "mine").exists()
    service.stop()
    r = run("call", "--local", tmp_path / "mine", service.at())
    one_line(r, "No such file")
    assert not (tmp_path / "mine").exists()


def test_a_local_path_that_was_there_before_is_left_alone(serve, run, tmp_path):
    service = serve(f"unix:{tmp_path}/s", "echo")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(f"{tmp_path}/theirs")
        one_line(run("call", "--local", tmp_path / "theirs", service.at()), "Address already in use")
        assert (tmp_path / "theirs").is_socket()


# ---- failures


def one_line(r, *words):
    err = r.stderr.decode()
    assert r.returncode == 1, err
    assert err.startswith("hark: call: ") and err.count("\n") == 1, err
    for word in words:
        assert word in err, err
    return err


def unused_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_refused_says_so(run):
    address = f"tcp://127.0.0.1:{unused_port()}"
    one_line(run("call", address), address, "refused")


def test_a_port_without_datagram_service_is_refused_too(run):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        address = "udp://127.0.0.1:%d" % s.getsockname()[1]
    one_line(run("call", address, input=b"x"), address, "refused")


def test_no_such_service_says_so(run):
    one_line(run("call", "tcp://127.0.0.1:nosuchservice"), "nosuchservice")


def test_a_missing_unix_path_says_so(run, tmp_path):
    one_line(run("call", f"unix:{tmp_path}/none"), f"{tmp_path}/none", "No such file")


@pytest.fixture
def deaf():
    """An address where a connection is neither taken nor refused: the backlog is full."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        pending = []
        for _ in range(3):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(listening.getsockname())
            pending.append(s)
        yield "tcp://127.0.0.1:%d" % listening.getsockname()[1]
        for s in pending:
            s.close()


def test_timed_out_says_so_in_time(run, deaf):
    begin = time.monotonic()
    one_line(run("call", "--connect-timeout", "300ms", deaf), deaf, "timed out")
    assert 0.25 < time.monotonic() - begin < 5


def test_a_reset_is_not_an_end(run, peer):
    def cut(s):
        s.sendall(b"half an ans")
        s.recv(1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    r = run("call", peer(cut), input=b"x")
    one_line(r, "reset")
    assert r.stdout == b"half an ans"


@pytest.mark.parametrize("engine", ["epoll", "uring", "poll"])
def test_a_reset_that_the_sender_meets_is_not_an_end_either(run, peer, engine):
    """The kernel tells a reset once: whoever reads after the one that it was told to finds an end."""

    def cut(s):
        s.sendall(b"half an ans")
        select.select([s], [], [], PATIENCE)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    for _ in range(5):
        r = run("call", peer(cut), input=noise(5_000_000), env={**os.environ, "HARK_ENGINE": engine})
        if engine == "uring" and b"reset" not in r.stderr and r.returncode != 0:
            pytest.skip("io_uring is not to be had here")
        one_line(r, "reset")
        assert r.stdout == b"half an ans"


def test_an_end_before_the_reset_is_an_end(run, peer):
    """Who has ended its half has said everything, whatever it does with the rest of ours."""

    def end_then_cut(s):
        s.sendall(b"the answer")
        s.shutdown(socket.SHUT_WR)
        select.select([s], [], [], PATIENCE)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    for _ in range(5):
        r = run("call", peer(end_then_cut), input=noise(5_000_000))
        assert (r.returncode, r.stdout, r.stderr) == (0, b"the answer", b"")


def test_idle_ends_a_silent_call(start, peer):
    done = threading.Event()
    address = peer(lambda s: done.wait(PATIENCE))
    begin = time.monotonic()
    call = start("call", "--idle-timeout", "300ms", address, stdin=subprocess.PIPE)
    assert call.wait() == 1
    done.set()
    assert "nothing came or went" in call.stderr
    assert 0.25 < time.monotonic() - begin < 5


def test_idle_does_not_end_a_busy_call(run, serve):
    """One direction's silence is not the call's."""
    service = serve("tcp://127.0.0.1:0", "--", "sh", "-c", "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.1; done")
    r = run("call", "--idle-timeout", "500ms", service.at())
    assert (r.returncode, r.stdout) == (0, b"1\n2\n3\n4\n5\n6\n7\n8\n"), r.stderr


@pytest.mark.parametrize(
    "args, words",
    [
        ([], "no address"),
        (["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"], "one address"),
        (["127.0.0.1"], "127.0.0.1"),
        (["tcp://127.0.0.1:70000"], "70000"),
        (["--connect-timeout", "soon", "tcp://127.0.0.1:1"], "soon"),
        (["--send-only", "--recv-only", "tcp://127.0.0.1:1"], "exclude"),
        (["--verbos", "tcp://127.0.0.1:1"], "did you mean --verbose?"),
        (["-Q", "tcp://127.0.0.1:1"], "-Q"),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(run, args, words):
    r = run("call", *args)
    err = r.stderr.decode()
    assert r.returncode == 100 and words in err and err.count("\n") == 1, err


# ---- attempts


def test_verbose_tells_the_attempt_and_the_bytes(run, serve):
    service = serve("tcp://127.0.0.1:0", "echo")
    r = run("call", "-v", service.at(), input=b"12345")
    assert r.stdout == b"12345"
    assert re.search(
        rf"^hark: call: {service.at()}: connected after [\d.]+ (us|ms)$", r.stderr.decode(), re.M
    ), r.stderr
    assert re.search(r"sent 5 bytes, received 5$", r.stderr.decode(), re.M), r.stderr


def test_verbose_tells_a_failed_attempt(run):
    address = f"tcp://127.0.0.1:{unused_port()}"
    r = run("call", "-v", address)
    assert r.returncode == 1
    assert re.search(rf"^hark: call: {address}: Connection refused after ", r.stderr.decode(), re.M), r.stderr


def in_namespace(hark, hosts, script, tmp_path):
    """Runs the Python script with loopback and these hosts as its whole world; returns the JSON that it prints."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a network namespace")
    if subprocess.run(["unshare", "-mn", "true"], capture_output=True).returncode != 0:
        pytest.skip("no network namespaces here")
    (tmp_path / "hosts").write_text(hosts)
    (tmp_path / "nsswitch").write_text("hosts: files\nservices: files\n")
    (tmp_path / "script.py").write_text(
        "import json, os, socket, subprocess, sys, time\nHARK = sys.argv[1]\n" + textwrap.dedent(script)
    )
    shell = (
        f"ip link set lo up && mount --bind {tmp_path}/hosts /etc/hosts && "
        f"mount --bind {tmp_path}/nsswitch /etc/nsswitch.conf && exec {sys.executable} {tmp_path}/script.py {hark}"
    )
    r = subprocess.run(["unshare", "-mn", "sh", "-c", shell], capture_output=True, timeout=2 * PATIENCE)
    if b"mount:" in r.stderr or b"ip:" in r.stderr:
        pytest.skip("cannot set a namespace up: " + r.stderr.decode().strip())
    assert r.returncode == 0, r.stderr.decode()
    return json.loads(r.stdout)


@pytest.mark.alone
def test_a_dead_first_address_costs_less_than_300_ms(hark, tmp_path):
    """The first address neither answers nor refuses; the second one is tried 250 ms later, beside it."""
    r = in_namespace(
        hark,
        "127.0.0.2 twofaced\n127.0.0.3 twofaced\n",
        """
        live = socket.create_server(("127.0.0.3", 0))
        port = live.getsockname()[1]
        dead = socket.socket()
        dead.bind(("127.0.0.2", port))
        dead.listen(0)
        pending = []
        for _ in range(3):
            pending.append(socket.socket())
            pending[-1].setblocking(False)
            pending[-1].connect_ex(("127.0.0.2", port))
        subprocess.run([HARK, "--version"], stdout=subprocess.DEVNULL)
        begin = time.monotonic()
        call = subprocess.Popen([HARK, "call", "-v", f"tcp://twofaced:{port}"], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        s, _ = live.accept()
        took = time.monotonic() - begin
        s.sendall(b"alive")
        s.close()
        out, err = call.communicate(timeout=10)
        print(json.dumps([took, call.returncode, out.decode(), err.decode(), port]))
        """,
        tmp_path,
    )
    took, code, out, err, port = r
    assert (code, out) == (0, "alive"), err
    assert 0.2 < took < 0.3 + 0.1, f"{took} s"  # a tenth for starting the process on a busy machine
    assert re.search(rf"^hark: call: tcp://127\.0\.0\.2:{port}: given up for another after ", err, re.M), err
    assert re.search(rf"^hark: call: tcp://127\.0\.0\.3:{port}: connected after ", err, re.M), err


@pytest.mark.alone
def test_refused_then_live_does_not_wait(hark, tmp_path):
    r = in_namespace(
        hark,
        "127.0.0.2 twofaced\n127.0.0.3 twofaced\n",
        """
        live = socket.create_server(("127.0.0.3", 0))
        port = live.getsockname()[1]
        begin = time.monotonic()
        call = subprocess.Popen([HARK, "call", "-v", f"tcp://twofaced:{port}"], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        s, _ = live.accept()
        took = time.monotonic() - begin
        s.close()
        out, err = call.communicate(timeout=10)
        print(json.dumps([took, call.returncode, err.decode()]))
        """,
        tmp_path,
    )
    assert r[1] == 0 and "127.0.0.2" in r[2] and "Connection refused" in r[2], r
    assert r[0] < 0.2


def test_unknown_and_unreachable_are_told_apart(hark, tmp_path):
    r = in_namespace(
        hark,
        "127.0.0.1 localhost\n",
        """
        def call(address):
            args = [HARK, "call", "--connect-timeout", "3s", address]
            r = subprocess.run(args, stdin=subprocess.DEVNULL, capture_output=True)
            return r.returncode, r.stderr.decode()
        print(json.dumps([call("tcp://nosuchhost:80"), call("tcp://192.0.2.1:80"), call("tcp6://localhost:80")]))
        """,
        tmp_path,
    )
    assert [code for code, _ in r] == [1, 1, 1]
    assert "nosuchhost" in r[0][1] and "no such host" in r[0][1].lower(), r
    assert "192.0.2.1" in r[1][1] and "unreachable" in r[1][1].lower(), r


# ---- datagrams


def test_datagrams_go_and_come(serve, run):
    service = serve("udp://127.0.0.1:0", "echo")
    begin = time.monotonic()
    r = run("call", "--wait", "300ms", service.at(), input=b"hello")
    assert (r.returncode, r.stdout) == (0, b"hello"), r.stderr
    assert time.monotonic() - begin > 0.25


def test_each_line_may_be_a_datagram(run):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        s.settimeout(PATIENCE)
        r = run("call", "--lines", "--wait", "0", "udp://127.0.0.1:%d" % s.getsockname()[1], input=b"one\ntwo\n\nend")
        assert r.returncode == 0, r.stderr
        assert [s.recv(100) for _ in range(4)] == [b"one\n", b"two\n", b"\n", b"end"]


def test_a_large_datagram_stays_whole(serve, run):
    service = serve("udp://127.0.0.1:0", "echo")
    data = noise(60000)
    r = run("call", "--wait", "500ms", service.at(), input=data)
    assert (r.returncode, r.stdout == data) == (0, True), r.stderr


def test_datagrams_that_come_later_prolong_the_wait(run):
    """Silence is what ends the call, not time."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        s.settimeout(PATIENCE)

        def slowly():
            data, a = s.recvfrom(100)
            for i in range(6):
                s.sendto(b"%d" % i, a)
                time.sleep(0.2)

        t = threading.Thread(target=slowly)
        t.start()
        r = run("call", "--wait", "600ms", "udp://127.0.0.1:%d" % s.getsockname()[1], input=b"go")
        t.join()
        assert (r.returncode, r.stdout) == (0, b"012345"), r.stderr


def test_unixgram_answers_find_their_way(serve, run, tmp_path):
    service = serve(f"unixgram:{tmp_path}/g", "echo")
    r = run("call", "--wait", "300ms", service.at(), input=b"hello")
    assert (r.returncode, r.stdout) == (0, b"hello"), r.stderr


# ---- standard descriptors


def shell(hark, redirection, address):
    return subprocess.run(
        ["sh", "-c", f'exec "$0" call "$1" {redirection}', hark, address],
        input=b"",
        capture_output=True,
        timeout=PATIENCE,
    )


def test_closed_input_is_an_empty_one(hark, peer):
    r = shell(hark, "<&-", peer(lambda s: s.sendall(b"got " + read_all(s) + b".")))
    assert (r.returncode, r.stdout) == (0, b"got ."), r.stderr


def test_closed_output_is_an_error(hark, peer):
    one_line(shell(hark, ">&-", peer(lambda s: s.sendall(b"data"))), "standard output")


def test_full_output_is_an_error(hark, peer):
    one_line(shell(hark, ">/dev/full", peer(lambda s: s.sendall(b"data"))), "standard output", "No space left")


def test_a_reader_that_has_gone_is_an_error_and_no_signal(hark, peer):
    def source(s):
        try:
            while True:
                s.sendall(b"x" * 100000)
        except OSError:
            pass

    r, w = os.pipe()
    call = subprocess.Popen([hark, "call", peer(source)], stdin=subprocess.DEVNULL, stdout=w, stderr=subprocess.PIPE)
    try:
        os.close(w)
        os.read(r, 10)
        os.close(r)
        _, err = call.communicate(timeout=PATIENCE)
        assert call.returncode == 1 and b"standard output: Broken pipe" in err
    finally:
        call.kill()
        call.wait()
