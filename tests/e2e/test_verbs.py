"""hark daytime, time, ping, users, loggedin: against hark's own services and against peers that misbehave."""
import calendar
import datetime
import json
import re
import signal
import socket
import struct
import threading
import time

import pytest

from conftest import PATIENCE, wait_until


@pytest.fixture
def udp_peer():
    """udp_peer(fn) answers datagrams on loopback: fn(data, k) is the answer to the k-th one, None for none."""
    opened = []

    def udp_peer(fn):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind(("127.0.0.1", 0))
        s.settimeout(0.2)
        stop = threading.Event()

        def loop():
            k = 0
            while not stop.is_set():
                try:
                    data, a = s.recvfrom(65536)
                except TimeoutError:
                    continue
                answer = fn(data, k)
                k += 1
                if answer is not None:
                    s.sendto(answer, a)

        t = threading.Thread(target=loop)
        t.start()
        opened.append((s, stop, t))
        return "udp://127.0.0.1:%d" % s.getsockname()[1]

    yield udp_peer
    for s, stop, t in opened:
        stop.set()
        t.join()
        s.close()


@pytest.fixture
def tcp_peer():
    """tcp_peer(fn) listens on loopback and runs fn(connection, k) for the k-th one; it is open until the test's end."""
    opened, stop = [], threading.Event()

    def tcp_peer(fn):
        listening = socket.create_server(("127.0.0.1", 0))
        listening.settimeout(0.2)

        def loop():
            k, taken = 0, []
            while not stop.is_set():
                try:
                    s, _ = listening.accept()
                except TimeoutError:
                    continue
                s.settimeout(PATIENCE)
                taken.append(s)
                try:
                    fn(s, k)
                except OSError:
                    pass
                k += 1
            for s in taken:
                s.close()

        t = threading.Thread(target=loop)
        t.start()
        opened.append((listening, t))
        return "tcp://127.0.0.1:%d" % listening.getsockname()[1]

    yield tcp_peer
    stop.set()
    for listening, t in opened:
        t.join()
        listening.close()


@pytest.fixture
def utmp(tmp_path):
    """A utmp file (utmp(5)) with alice twice, bob, and eve, who has logged out."""

    def entry(kind, user, line):
        return struct.pack(
            "hi32s4s32s256shhiii4i20s", kind, 1, line, b"", user, b"", 0, 0, 0, int(time.time()), 0, 0, 0, 0, 0, b""
        )

    path = tmp_path / "utmp"
    path.write_bytes(
        entry(7, b"alice", b"pts/0")
        + entry(7, b"bob", b"pts/1")
        + entry(7, b"alice", b"pts/2")
        + entry(8, b"eve", b"pts/3")
    )
    return path


def refused():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return "127.0.0.1:%d" % s.getsockname()[1]


# ---- daytime


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
def test_daytime_tells_the_time(serve, run, scheme):
    service = serve(f"{scheme}://127.0.0.1:0", "daytime")
    r = run("daytime", service.at())
    assert r.returncode == 0, r.stderr
    told = datetime.datetime.fromisoformat(r.stdout.decode().strip().replace("Z", "+00:00"))
    assert abs((told - datetime.datetime.now(datetime.timezone.utc)).total_seconds()) < 5


def test_a_host_may_be_given_in_many_ways(serve, run):
    service = serve("tcp://127.0.0.1:0", "udp://127.0.0.1:0", "tcp://[::1]:0", "daytime")
    tcp, udp, six = (service.port(i) for i in range(3))
    for args in (
        [f"127.0.0.1:{tcp}"],
        [f"localhost:{tcp}"],
        ["--port", tcp, "127.0.0.1"],
        ["-p", tcp, "tcp://127.0.0.1"],
        ["--udp", f"127.0.0.1:{udp}"],
        ["-u", "-p", udp, "127.0.0.1"],
        ["-p", udp, "udp://127.0.0.1"],
        ["-p", six, "::1"],
        ["-p", six, "[::1]"],
        [f"[::1]:{six}"],
        ["127.0.0.1", "-p", tcp],
    ):
        r = run("daytime", *args)
        assert r.returncode == 0 and r.stdout.startswith(b"20"), (args, r.stderr)


def test_several_hosts_are_told_in_order_and_a_failure_hides_none(serve, run):
    service = serve("tcp://127.0.0.1:0", "daytime")
    good, bad = f"127.0.0.1:{service.port()}", refused()
    r = run("daytime", good, bad, good)
    lines = r.stdout.decode().splitlines()
    assert r.returncode == 1
    assert len(lines) == 2 and all(line.startswith(good + ": 20") for line in lines)
    assert bad in r.stderr.decode() and "refused" in r.stderr.decode() and r.stderr.count(b"\n") == 1


def test_hosts_are_asked_at_once(udp_peer, run):
    silent = [udp_peer(lambda data, k: None) for _ in range(5)]
    begin = time.monotonic()
    r = run("daytime", "--timeout", "400ms", "--tries", "1", *silent)
    assert r.returncode == 1 and r.stderr.count(b"no answer") == 5, r.stderr
    assert time.monotonic() - begin < 1.5


def test_a_lost_datagram_is_sent_again(udp_peer, run):
    address = udp_peer(lambda data, k: b"at last\r\n" if k == 2 else None)
    r = run("daytime", "--timeout", "200ms", address)
    assert (r.returncode, r.stdout) == (0, b"at last\n"), r.stderr


def test_hostile_bytes_do_not_reach_the_terminal(udp_peer, run):
    r = run("daytime", udp_peer(lambda data, k: b"\x1b[2Jboo\x07\xc2\x9b\x00\r\nnext\r\n"))
    assert r.stdout == b"\\x1b[2Jboo\\x07\\xc2\\x9b\\x00\nnext\n"


def test_daytime_as_json(udp_peer, run):
    address = udp_peer(lambda data, k: b'say "when" \xff\x01\r\n')
    r = run("daytime", "--json", address)
    told = json.loads(r.stdout)
    assert told["daytime"] == 'say "when" \ufffd\x01' and told["host"] == told["address"] == address
    assert 0 < told["round_trip_s"] < PATIENCE


@pytest.mark.parametrize("verb", ["daytime", "users"])
def test_hostile_bytes_do_not_reach_the_terminal_as_json_either(udp_peer, run, verb):
    """U+0080 to U+009F are valid UTF-8, and U+009B is ESC [ to many a terminal."""
    r = run(verb, "--json", udp_peer(lambda data, k: b"\x1b[2Jboo\xc2\x9b\xc2\x80\xc2\xa0\x9b"))
    assert not set(r.stdout.decode()) & {chr(c) for c in [*range(0, 10), *range(11, 32), *range(0x7F, 0xA0)]}
    told = json.loads(r.stdout)[verb]
    assert "\x1b[2Jboo\x9b\x80\xa0\ufffd" == (told if verb == "daytime" else told[0])


def test_an_empty_answer_is_a_failure(serve, run):
    service = serve("tcp://127.0.0.1:0", "--", "true")
    r = run("daytime", service.at())
    assert r.returncode == 1 and b"without an answer" in r.stderr


@pytest.mark.parametrize("form", [[], ["--json"]])
@pytest.mark.parametrize("answer", [b"", b"\r\n\r\n"])
def test_a_datagram_that_says_nothing_is_a_failure(udp_peer, run, answer, form):
    r = run("daytime", *form, udp_peer(lambda data, k: answer))
    assert (r.returncode, r.stdout) == (1, b"") and b"empty" in r.stderr


def test_an_answer_that_is_too_long_is_not_our_message_that_was(udp_peer, run):
    r = run("daytime", udp_peer(lambda data, k: b"x" * 20000))
    assert r.returncode == 1 and b"the answer is longer than 16384 bytes" in r.stderr


# ---- time


def test_the_time_is_not_that_of_the_last_tick(serve):
    """time(2) is still in the second before for some milliseconds after it has ended."""
    host, port = serve("udp://127.0.0.1:0", "time").at().removeprefix("udp://").rsplit(":", 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(5)
        time.sleep(1 - time.time() % 1)
        for _ in range(20):
            before = int(time.time())
            s.sendto(b"abcd", (host, int(port)))
            assert struct.unpack(">I", s.recv(8))[0] - 2208988800 >= before


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
def test_our_own_clock_is_ours(serve, run, scheme):
    service = serve(f"{scheme}://127.0.0.1:0", "time")
    r = run("time", "--json", service.at())
    assert r.returncode == 0, r.stderr
    told = json.loads(r.stdout)
    assert abs(told["offset_s"]) <= told["uncertainty_s"] < 2


@pytest.mark.parametrize("offset", [-3600, -10, 0, 10, 86400 * 365])
def test_the_difference_is_told(udp_peer, run, offset):
    address = udp_peer(lambda data, k: struct.pack("!I", (int(time.time()) + offset + 2208988800) % 2**32))
    told = json.loads(run("time", "--json", address).stdout)
    assert abs(told["offset_s"] - offset) <= told["uncertainty_s"] + 0.001
    words = run("time", address).stdout.decode()
    m = re.fullmatch(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC, (.+) \(\+-([\d.]+) s\)\n", words)
    assert m, words
    assert abs(calendar.timegm(time.strptime(m[1], "%Y-%m-%d %H:%M:%S")) - time.time() - offset) < 3
    if offset:
        assert re.fullmatch(r"[\d.]+ s %s ours" % ("behind" if offset < 0 else "ahead of"), m[2])
    else:
        assert m[2] == "the same as ours within the error"


def test_half_the_round_trip_is_in_the_uncertainty(udp_peer, run):
    def late(data, k):
        time.sleep(0.6)
        return struct.pack("!I", int(time.time()) + 2208988800)

    told = json.loads(run("time", "--json", udp_peer(late)).stdout)
    assert told["uncertainty_s"] > 0.79 and abs(told["offset_s"]) <= told["uncertainty_s"]


def seconds_since_1900():
    return struct.pack("!I", int(time.time()) + 2208988800)


def test_the_client_may_be_the_one_who_closes(tcp_peer, run):
    """RFC 868 has the user close first: a server may wait for that."""
    r = run("time", "--json", tcp_peer(lambda s, k: s.sendall(seconds_since_1900())))
    assert r.returncode == 0, r.stderr
    assert abs(json.loads(r.stdout)["offset_s"]) < 5


@pytest.mark.parametrize(
    "extra",
    [lambda s: s.sendall(seconds_since_1900() + b"x"), lambda s: (s.sendall(seconds_since_1900()), s.sendall(b"x"))],
)
def test_a_stream_that_is_longer_than_a_time_is_none(tcp_peer, run, extra):
    r = run("time", tcp_peer(lambda s, k: extra(s)))
    assert r.returncode == 1 and r.stdout == b"" and b"at least 5 bytes where RFC 868 has 4" in r.stderr


def test_a_datagram_that_is_longer_than_a_time_is_none(udp_peer, run):
    r = run("time", udp_peer(lambda data, k: seconds_since_1900() + b"\r\n"))
    assert r.returncode == 1 and r.stdout == b"" and b"6 bytes where RFC 868 has 4" in r.stderr


def test_too_short_a_time_is_a_failure(udp_peer, run):
    r = run("time", udp_peer(lambda data, k: b"abc"))
    assert r.returncode == 1 and b"RFC 868" in r.stderr


# ---- ping


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
def test_ping_measures_round_trips(serve, run, scheme):
    service = serve(f"{scheme}://127.0.0.1:0", "echo")
    r = run("ping", "-c", 5, "-i", "10ms", service.at())
    lines = r.stdout.decode().splitlines()
    assert r.returncode == 0, r.stderr
    assert (
        len([line for line in lines if re.fullmatch(rf"64 bytes from {service.at()}: trip \d, [\d.]+ ms", line)]) == 5
    )
    assert f"{service.at()}: 5 sent, 5 answered, 0.0% lost" in lines
    m = re.fullmatch(r"round trip: min ([\d.]+), p50 ([\d.]+), p90 ([\d.]+), p99 ([\d.]+), max ([\d.]+) ms", lines[-1])
    assert m and list(map(float, m.groups())) == sorted(map(float, m.groups()))


@pytest.mark.parametrize("size", [8, 1000, 65507])
@pytest.mark.parametrize("scheme", ["tcp", "udp"])
def test_ping_sizes(serve, run, scheme, size):
    service = serve(f"{scheme}://127.0.0.1:0", "echo")
    r = run("ping", "-q", "-c", 20, "-i", 0, "-s", size, service.at())
    assert r.returncode == 0 and b"20 sent, 20 answered" in r.stdout, (r.stdout, r.stderr)


def test_ping_counts_what_is_lost(udp_peer, run):
    address = udp_peer(lambda data, k: None if k % 4 == 3 else data)
    r = run("ping", "-c", 8, "-i", 0, "--timeout", "200ms", "--json", address)
    told = [json.loads(line) for line in r.stdout.splitlines()]
    assert (told[-1]["sent"], told[-1]["answered"]) == (8, 6)
    assert [t["trip"] for t in told[:-1] if "error" in t] == [4, 8]
    assert told[-1]["min_s"] <= told[-1]["p50_s"] <= told[-1]["p99_s"] <= told[-1]["max_s"]


def test_ping_knows_late_echoes_and_false_ones(udp_peer, run):
    kept = []

    def answer(data, k):
        kept.append(data)
        return [None, kept[0], b"nonsense", data, data][k] if k < 5 else data

    r = run("ping", "-c", 5, "-i", 0, "--timeout", "200ms", udp_peer(answer))
    assert b"5 sent, 2 answered, 60.0% lost, 1 late" in r.stdout, r.stdout


def test_ping_of_something_else_is_no_round_trip(serve, run):
    service = serve("tcp://127.0.0.1:0", "--", "tr", "a-z!-9", "b-za0")
    r = run("ping", "-c", 1, "--timeout", "500ms", service.at())
    assert r.returncode == 1 and b"0 answered" in r.stdout


def test_ctrl_c_prints_the_summary(serve, start):
    service = serve("tcp://127.0.0.1:0", "echo")
    ping = start("ping", "-i", "20ms", service.at())
    wait_until(lambda: "trip 3" in ping.stdout)
    ping.send(signal.SIGINT)
    assert ping.wait() == 0
    assert re.search(r"(\d+) sent, \1 answered, 0.0% lost\nround trip: min ", ping.stdout)


def test_ctrl_c_within_a_trip_is_no_loss(udp_peer, start):
    ping = start("ping", "-i", "20ms", "--timeout", "60s", udp_peer(lambda data, k: data if k < 2 else None))
    wait_until(lambda: "trip 2" in ping.stdout)
    ping.send(signal.SIGINT)
    assert ping.wait() == 0
    assert "2 sent, 2 answered" in ping.stdout


def test_ping_without_service_is_refused(run):
    r = run("ping", "-c", 1, refused())
    assert r.returncode == 1 and b"refused" in r.stderr and r.stdout == b""


def test_ping_connects_anew_after_a_cut(serve, run):
    service = serve(
        "tcp://127.0.0.1:0", "--", "perl", "-e", "sysread(STDIN, $_, 64); syswrite(STDOUT, $_)"
    )  # one trip each
    r = run("ping", "-c", 5, "-i", "10ms", service.at())
    assert b"5 sent, 3 answered, 40.0% lost" in r.stdout, r.stdout


def test_ping_says_that_the_echo_was_cut(tcp_peer, run):
    def cut(s, k):
        s.sendall(s.recv(100)[:20])
        s.shutdown(socket.SHUT_WR)

    r = run("ping", "--count", "1", tcp_peer(cut))
    assert r.returncode == 1 and b"trip 1: the connection ended before the whole echo had come\n" in r.stdout


def test_ping_tells_an_odd_address_as_json(serve, run, tmp_path):
    """Quotes and backslashes are good characters in a path."""
    service = serve(f"unix:{tmp_path}/a\"b\\c", "echo")
    r = run("ping", "--json", "--count", "1", service.at())
    assert r.returncode == 0, r.stderr
    assert json.loads(r.stdout.splitlines()[-1])["address"] == service.at()


def test_ping_says_that_the_echo_was_cut(tcp_peer, run):
    def cut(s, k):
        s.sendall(s.recv(100)[:20])
        s.shutdown(socket.SHUT_WR)

    r = run("ping", "--count", "1", tcp_peer(cut))
    assert r.returncode == 1 and b"trip 1: the connection ended before the whole echo had come\n" in r.stdout


def test_ping_tells_an_odd_address_as_json(serve, run, tmp_path):
    """Quotes and backslashes are good characters in a path."""
    service = serve(f"unix:{tmp_path}/a\"b\\c", "echo")
    r = run("ping", "--json", "--count", "1", service.at())
    assert r.returncode == 0, r.stderr
    assert json.loads(r.stdout.splitlines()[-1])["address"] == service.at()


# ---- users and loggedin


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
def test_users_are_listed(serve, run, utmp, scheme):
    service = serve(f"{scheme}://127.0.0.1:0", "users", "--utmp", utmp)
    r = run("users", service.at())
    assert (r.returncode, sorted(r.stdout.split())) == (0, [b"alice", b"bob"]), r.stderr
    assert sorted(json.loads(run("users", "--json", service.at()).stdout)["users"]) == ["alice", "bob"]


def test_nobody_is_an_answer(serve, run, tmp_path):
    (tmp_path / "utmp").write_bytes(b"")
    service = serve("tcp://127.0.0.1:0", "udp://127.0.0.1:0", "users", "--utmp", tmp_path / "utmp")
    for i in range(2):
        r = run("users", service.at(i))
        assert (r.returncode, r.stdout) == (0, b""), r.stderr


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
def test_loggedin_says_yes_or_no(serve, run, utmp, scheme):
    service = serve(f"{scheme}://127.0.0.1:0", "loggedin", "--utmp", utmp)
    r = run("loggedin", "alice", service.at())
    assert (r.returncode, r.stdout) == (0, b"alice is logged in on %s\n" % service.at().encode()), r.stderr
    r = run("loggedin", "eve", service.at())
    assert (r.returncode, r.stdout) == (1, b"eve is not logged in on %s\n" % service.at().encode()), r.stderr
    r = run("loggedin", "x", service.at())
    assert (r.returncode, r.stdout) == (1, b"x is not logged in on %s\n" % service.at().encode()), r.stderr
    assert json.loads(run("loggedin", "--json", "bob", service.at()).stdout)["logged_in"] is True


def test_loggedin_asks_again_and_then_the_next(udp_peer, run):
    asked = []
    silent = udp_peer(lambda data, k: asked.append(data))
    slow = udp_peer(lambda data, k: b"yes\r\n" if k == 1 else None)
    r = run("loggedin", "--timeout", "200ms", "--tries", 2, "alice", silent, slow)
    assert (r.returncode, r.stdout) == (0, b"alice is logged in on %s\n" % slow.encode()), r.stderr
    assert len(asked) == 2 and asked[0] == b"alice\r\n"
    assert silent in r.stderr.decode() and "no answer to 2 datagrams" in r.stderr.decode()


def test_loggedin_stops_at_the_first_answer(udp_peer, run):
    asked = []
    first, second = udp_peer(lambda data, k: b"no"), udp_peer(lambda data, k: asked.append(data))
    assert run("loggedin", "alice", first, second).returncode == 1
    assert asked == []


def test_loggedin_without_an_answer_is_111(udp_peer, run):
    r = run(
        "loggedin", "--timeout", "100ms", "alice", udp_peer(lambda data, k: None), udp_peer(lambda data, k: b"perhaps")
    )
    assert r.returncode == 111 and r.stdout == b"" and b"neither yes nor no" in r.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["daytime"],
        ["time"],
        ["users"],
        ["ping"],
        ["loggedin"],
        ["loggedin", "alice"],
        ["loggedin", "a b", "localhost"],
        ["loggedin", "", "localhost"],
        ["ping", "a", "b"],
        ["daytime", "host:99999"],
        ["time", "x://host"],
        ["ping", "-s", "7", "localhost"],
        ["ping", "-c", "0", "localhost"],
        ["daytime", "h" * 400],
        ["users", "--tries", "0", "h"],
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(run, args):
    r = run(*args)
    err = r.stderr.decode()
    assert r.returncode == 100 and err.startswith(f"hark: {args[0]}: ") and err.count("\n") == 1, err
    assert r.stdout == b""
