"""The small boxes, as their clients see them: over streams and datagrams; and that none becomes a reflector."""
import datetime
import os
import re
import signal
import socket
import struct
import time

import pytest

from conftest import MODELS, PATIENCE, read_all, wait_until

SECONDS_1900_TO_1970 = 2208988800
ISO = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\r\n")
NIST = re.compile(rb"(\d{5}) (\d\d-\d\d-\d\d \d\d:\d\d:\d\d) \d\d [012] [0-4] +\d+\.\d UTC\(NIST\) \*\r\n")
PATTERN = b"".join(bytes(32 + (line + i) % 95 for i in range(72)) + b"\r\n" for line in range(95))


def udp(server, index=0, source_port=0):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(PATIENCE)
    s.bind(("127.0.0.1", source_port))
    s.connect(("127.0.0.1", server.port(index)))
    return s


def read_n(s, n):
    """At least n bytes, or all up to an early end."""
    got = b""
    while len(got) < n and (chunk := s.recv(65536)):
        got += chunk
    return got


def ask(s, data):
    s.sendall(data)
    s.shutdown(socket.SHUT_WR)
    return read_all(s)


def low_port_socket(server, index=0):
    """A datagram socket with a source port below 1024, as another small server would have."""
    for port in range(1023, 900, -1):
        try:
            return udp(server, index, port)
        except PermissionError:
            pytest.skip("ports below 1024 need root or CAP_NET_BIND_SERVICE")
        except OSError:
            continue  # taken
    pytest.skip("every port tried below 1024 is taken")


def assert_unanswered(server, silent, question, index=0):
    """Later questions from elsewhere are answered; silent, which asked first, has got nothing."""
    other = udp(server, index)
    for _ in range(3):
        other.send(question)
        other.recv(65536)
    silent.setblocking(False)
    with pytest.raises(BlockingIOError):
        silent.recv(65536)


def utmp_file(path, users):
    """A utmp(5) file: (type, pid, user), in glibc's layout."""
    record = struct.Struct("hi32s4s32s256shhiii4i20s")
    with open(path, "wb") as f:
        for kind, pid, user in users:
            f.write(record.pack(kind, pid, b"pts/1", b"1", user.encode(), b"", 0, 0, 0, 0, 0, 0, 0, 0, 0, b""))
    return str(path)


@pytest.fixture
def logins(tmp_path):
    user_process, dead_process, boot = 7, 8, 2
    nobody = 2**22 + 7  # above any pid
    return utmp_file(
        tmp_path / "utmp",
        [
            (boot, 0, "reboot"),
            (user_process, os.getpid(), "ann"),
            (user_process, os.getpid(), "bob"),
            (user_process, os.getpid(), "ann"),
            (dead_process, os.getpid(), "carl"),
            (user_process, nobody, "dora"),
        ],
    )


# echo


def test_echo_returns_every_byte_of_a_stream(serve):
    server = serve("tcp://127.0.0.1:0", "echo")
    data = os.urandom(300000)
    with server.connect() as s:
        got = b""
        for at in range(0, len(data), 10000):
            s.sendall(data[at : at + 10000])
            got += read_n(s, at + 10000 - len(got))
        s.shutdown(socket.SHUT_WR)
        assert got + read_all(s) == data


@pytest.mark.parametrize("size", [0, 1, 1400, 20000, 60000])
def test_echo_returns_a_datagram_of_any_size(serve, size):
    server = serve("udp://127.0.0.1:0", "echo")
    data = os.urandom(size)
    with udp(server) as s:
        s.send(data)
        assert s.recv(65536) == data


@pytest.mark.parametrize("model", MODELS)
def test_echo_serves_streams_and_datagrams_of_one_service_under_every_model(serve, model):
    server = serve("--model", model, "tcp://127.0.0.1:0", "udp://127.0.0.1:0", "echo")
    with server.connect() as s:
        assert ask(s, b"stream") == b"stream"
    with udp(server, 1) as s:
        s.send(b"datagram")
        assert s.recv(100) == b"datagram"


# discard


def test_discard_takes_all_and_answers_nothing(serve):
    server = serve("tcp://127.0.0.1:0", "discard")
    with server.connect() as s:
        assert ask(s, bytes(1000000)) == b""


# chargen


def test_chargen_rotates_72_characters_through_all_95_and_around(serve):
    server = serve("tcp://127.0.0.1:0", "chargen")
    with server.connect() as s:
        got = read_n(s, 2 * len(PATTERN) + 74)
    assert got.startswith(PATTERN + PATTERN[:74])
    assert got[: 2 * len(PATTERN)] == 2 * PATTERN


def test_chargen_answers_a_datagram_with_no_more_than_it_had(serve):
    server = serve("udp://127.0.0.1:0", "chargen")
    with udp(server) as s:
        for _ in range(20):
            s.send(bytes(40))
            got = s.recv(1000)
            assert len(got) <= 40 and PATTERN.startswith(got)


def test_chargen_gives_up_to_512_bytes_when_told_to(serve):
    server = serve("udp://127.0.0.1:0", "chargen", "--longer")
    with udp(server) as s:
        sizes = []
        for _ in range(40):
            s.send(b"?")
            sizes.append(len(s.recv(1000)))
    assert max(sizes) > 40 and max(sizes) <= 512


def test_chargen_ends_when_the_server_drains(serve):
    server = serve("tcp://127.0.0.1:0", "chargen")
    with server.connect() as s:
        s.recv(1)
        os.kill(server.pid, signal.SIGTERM)
        got = read_all(s)
    assert got.endswith(PATTERN[-74:])


# daytime and time


def test_daytime_is_iso_8601_in_utc(serve):
    server = serve("tcp://127.0.0.1:0", "daytime")
    with server.connect() as s:
        got = read_all(s)
    assert ISO.fullmatch(got)
    said = datetime.datetime.strptime(got.decode().strip(), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc)
    assert abs(said.timestamp() - time.time()) < 5


def test_daytime_tells_the_modified_julian_date_in_the_nist_form(serve):
    server = serve("tcp://127.0.0.1:0", "daytime", "--nist")
    with server.connect() as s:
        match = NIST.fullmatch(read_all(s))
    said = datetime.datetime.strptime(match[2].decode(), "%y-%m-%d %H:%M:%S").replace(tzinfo=datetime.timezone.utc)
    assert abs(said.timestamp() - time.time()) < 5
    assert int(match[1]) == 40587 + said.timestamp() // 86400


ANSWERS = [
    (["daytime"], ISO.fullmatch),
    (["daytime", "--nist"], NIST.fullmatch),
    (["time"], lambda got: abs(int.from_bytes(got, "big") - SECONDS_1900_TO_1970 - time.time()) < 5),
]


@pytest.mark.parametrize("box, right", ANSWERS, ids=["daytime", "nist", "time"])
def test_time_and_daytime_answer_any_datagram(serve, box, right):
    """RFC 867 and 868: the empty one, or whatever it has in it."""
    server = serve("udp://127.0.0.1:0", *box)
    with udp(server) as s:
        for question in (b"", b"x", bytes(1000)):
            s.send(question)
            assert right(s.recv(100))


def answers_to(server, n, source="127.0.0.1"):
    """How many of n empty datagrams from this source are answered, and for how long that went on."""
    begin = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind((source, 0))
        s.connect(("127.0.0.1", server.port()))
        for _ in range(n):
            s.send(b"")
        s.settimeout(0.5)
        got = 0
        try:
            while s.recv(100):
                got += 1
        except TimeoutError:
            pass
    return got, time.monotonic() - begin


@pytest.mark.parametrize("box", ["time", "daytime"])
@pytest.mark.parametrize("model", MODELS)
def test_one_source_gets_so_many_answers_and_no_more(serve, model, box):
    """A forged source is not flooded; another one does not suffer for it."""
    server = serve("--model", model, "udp://127.0.0.1:0", box)
    got, took = answers_to(server, 100)
    assert 20 <= got <= 30 + 10 * took + 1
    assert answers_to(server, 1, "127.0.0.2")[0] == 1


def test_workers_share_what_a_source_gets(serve):
    server = serve("--workers", "2", "udp://127.0.0.1:0", "time")
    got, took = answers_to(server, 100)
    assert 20 <= got <= 30 + 10 * took + 1


def test_the_answers_a_second_can_be_chosen(serve):
    assert answers_to(serve("udp://127.0.0.1:0", "time", "--answers", "0"), 100)[0] == 100
    got, took = answers_to(serve("udp://127.0.0.1:0", "time", "--answers", "1"), 100)
    assert 20 <= got <= 30 + took + 1


def test_time_counts_from_1900(serve):
    server = serve("tcp://127.0.0.1:0", "time")
    with server.connect() as s:
        got = read_all(s)
    assert len(got) == 4
    assert abs(int.from_bytes(got, "big") - SECONDS_1900_TO_1970 - time.time()) < 5


def test_time_answers_a_client_that_has_already_ended_its_side(serve):
    server = serve("tcp://127.0.0.1:0", "time")
    with server.connect() as s:
        assert len(ask(s, b"what time is it?")) == 4


# qotd


def test_qotd_quotes_less_than_512_characters(serve):
    server = serve("tcp://127.0.0.1:0", "qotd")
    seen = set()
    for _ in range(30):
        with server.connect() as s:
            got = read_all(s)
        assert 0 < len(got) < 512 and got.endswith(b"\r\n")
        seen.add(got)
    assert len(seen) > 1


def test_qotd_takes_fortunes_and_leaves_out_what_is_too_long(serve, tmp_path):
    path = tmp_path / "fortunes"
    path.write_bytes(b"one\n%\n" + b"x" * 600 + b"\n%\ntwo lines,\n%% is no end\n%\n%\nlast, without a line's end")
    server = serve("tcp://127.0.0.1:0", "qotd", "--file", str(path))
    seen = set()
    for _ in range(60):
        with server.connect() as s:
            seen.add(read_all(s))
    assert seen == {b"one\r\n", b"two lines,\r\n%% is no end\r\n", b"last, without a line's end"}


def test_qotd_answers_a_datagram_with_a_quotation_that_fits(serve, tmp_path):
    path = tmp_path / "fortunes"
    path.write_text("short\n%\nrather longer than that\n")
    server = serve("udp://127.0.0.1:0", "qotd", f"--file={path}")
    with udp(server) as none_fits, udp(server) as s:
        none_fits.send(b"123456")
        for _ in range(10):
            s.send(bytes(10))
            assert s.recv(1000) == b"short\r\n"
        assert_unanswered(server, none_fits, bytes(30))


@pytest.mark.parametrize(
    "content, words", [(None, "No such file"), (b"", "no quotation"), (b"x" * 600, "no quotation")]
)
def test_qotd_says_why_a_file_will_not_do(run, tmp_path, content, words):
    path = tmp_path / "fortunes"
    if content is not None:
        path.write_bytes(content)
    done = run("serve", "tcp://127.0.0.1:0", "qotd", "--file", str(path))
    assert done.returncode != 0
    assert str(path) in done.stderr.decode() and words in done.stderr.decode()


# users and loggedin


def test_users_lists_each_live_user_once(serve, logins):
    server = serve("tcp://127.0.0.1:0", "users", "--utmp", logins)
    with server.connect() as s:
        assert read_all(s) == b"ann\r\nbob\r\n"


def test_users_gives_a_datagram_the_whole_lines_that_fit(serve, logins):
    server = serve("udp://127.0.0.1:0", "users", "--utmp", logins)
    with udp(server) as s:
        for size, answer in [(4, b""), (5, b"ann\r\n"), (9, b"ann\r\n"), (10, b"ann\r\nbob\r\n")]:
            s.send(bytes(size))
            assert s.recv(100) == answer


def test_users_shows_no_control_characters(serve, tmp_path):
    path = utmp_file(tmp_path / "utmp", [(7, os.getpid(), "e\x1b[2Jve\n")])
    server = serve("tcp://127.0.0.1:0", "users", "--utmp", path)
    with server.connect() as s:
        assert read_all(s) == b"e?[2Jve?\r\n"


def test_a_host_without_utmp_has_no_users(serve, tmp_path):
    missing = str(tmp_path / "none")
    server = serve("tcp://127.0.0.1:0", "users", "--utmp", missing)
    with server.connect() as s:
        assert read_all(s) == b""
    server = serve("tcp://127.0.0.1:0", "loggedin", "--utmp", missing)
    with server.connect() as s:
        assert ask(s, b"root\n") == b"no\r\n"


def test_this_hosts_own_users_are_what_who_says_or_none(serve):
    server = serve("tcp://127.0.0.1:0", "users")
    with server.connect() as s:
        got = set(read_all(s).decode().split())
    with os.popen("who") as who:
        assert got == {line.split()[0] for line in who}


def test_loggedin_answers_each_line_of_a_stream(serve, logins):
    server = serve("tcp://127.0.0.1:0", "loggedin", "--utmp", logins)
    with server.connect() as s:
        s.sendall(b"ann\r\n")
        assert s.recv(100) == b"yes\r\n"  # before the next is asked
        assert ask(s, b" bob \ncarl\ndora\n\nan\nannn\nbob") == b"yes\r\n" + 5 * b"no\r\n" + b"yes\r\n"


def test_loggedin_answers_a_datagram_within_its_size(serve, logins):
    server = serve("udp://127.0.0.1:0", "loggedin", "--utmp", logins)
    with udp(server) as s, udp(server) as too_short:
        too_short.send(b"a")
        for name, answer in [(b"ann", b"yes"), (b"ann\r\n", b"yes\r\n"), (b"carl", b"no\r\n"), (b"x  ", b"no")]:
            s.send(name)
            assert s.recv(100) == answer
        assert_unanswered(server, too_short, b"ann\r\n")


# message


def test_message_shows_what_came_with_its_sender_and_answers(serve):
    server = serve("tcp://127.0.0.1:0", "message")
    with server.connect() as s:
        me = "tcp://%s:%d" % s.getsockname()
        assert ask(s, b"hello\r\nworld \x1b[31m\xff\x7f\n") == b"+ got 21 bytes\r\n"
    wait_until(lambda: f"{me}: hello\n{me}: world ^[[31m\\xff\\x7f\n" in server.stdout)


@pytest.mark.parametrize("scheme, kind", [("unix", socket.SOCK_STREAM), ("unixgram", socket.SOCK_DGRAM)])
def test_no_senders_own_path_moves_the_terminals_cursor(serve, tmp_path, scheme, kind):
    """U+009B is ESC [ to many a terminal; a peer binds its socket to what path it likes."""
    server = serve("-v", f"{scheme}:{tmp_path}/message", "message")
    with socket.socket(socket.AF_UNIX, kind) as s:
        s.settimeout(PATIENCE)
        s.bind(f"{tmp_path}/\x9b31m\x1b[2J\nroot: \xe9")
        s.connect(f"{tmp_path}/message")
        s.send(b"hello")
        if kind == socket.SOCK_STREAM:
            s.shutdown(socket.SHUT_WR)
        assert s.recv(100) == b"+ got 5 bytes\r\n"
    wait_until(lambda: re.search(r"\\xc2\\x9b31m\S+ \S+: hello\n", server.stdout))
    server.expect(" message .*done$")
    for text in (server.stdout, server.stderr):
        assert not set(text) & {"\x9b", "\x1b"} and "\nroot" not in text


def test_message_takes_a_datagram_and_answers_within_its_size(serve):
    server = serve("udp://127.0.0.1:0", "message")
    with udp(server) as s:
        s.send(b"hi")
        assert s.recv(100) == b"+ "
        s.send(b"a longer message")
        assert s.recv(100) == b"+ got 16 bytes\r\n"
        wait_until(lambda: "udp://%s:%d: a longer message\n" % s.getsockname() in server.stdout)


def test_message_is_bounded(serve):
    server = serve("tcp://127.0.0.1:0", "message")
    with server.connect() as s:
        s.sendall(b"x" * 10000)
        assert read_all(s) == b"+ got 4096 bytes\r\n"


def test_message_that_was_cut_is_not_shown(serve):
    server = serve("tcp://127.0.0.1:0", "message")
    with server.connect() as s:
        s.sendall(b"half a mess")
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with server.connect() as s:
        ask(s, b"whole")
    wait_until(lambda: "whole" in server.stdout)
    assert "half" not in server.stdout


# what they must not become


@pytest.mark.parametrize(
    "box, question",
    [
        ("echo", b"x"),
        ("chargen", bytes(600)),
        ("daytime", bytes(30)),
        ("time", bytes(8)),
        ("qotd", bytes(512)),
        ("users", bytes(512)),
        ("loggedin", b"root\r\n"),
        ("message", b"psst" * 10),
    ],
)
def test_a_low_source_port_gets_no_answer_unless_told_to(serve, box, question):
    server = serve("udp://127.0.0.1:0", box)
    with low_port_socket(server) as low:
        low.send(question)
        assert_unanswered(server, low, question)
    server = serve("udp://127.0.0.1:0", box, "--any-port")
    with low_port_socket(server) as low:
        low.send(question)
        low.recv(65536)


def test_datagrams_are_answered_over_ipv6_by_the_same_rules(serve):
    server = serve("udp6://[::1]:0", "time")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
        s.settimeout(PATIENCE)
        s.connect(("::1", server.port(0)))
        s.send(bytes(4))
        assert len(s.recv(100)) == 4


def test_local_datagrams_have_no_rules(serve, tmp_path):
    path = str(tmp_path / "daytime")
    serve(f"unixgram:{path}", "daytime")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.settimeout(PATIENCE)
        s.bind("")  # an abstract address of the kernel's choice, or nobody could answer
        s.connect(path)
        s.send(b"")
        assert ISO.fullmatch(s.recv(100))


# arguments


@pytest.mark.parametrize(
    "args, words",
    [
        (["daytime", "--nits"], "no such option: --nits"),
        (["daytime", "--nist=1"], '--nist: "1" is not yes|no'),
        (["qotd", "--file"], "--file wants a value"),
        (["echo", "loud"], "unexpected argument: loud"),
        (["discard", "all"], "unexpected argument: all"),
    ],
)
def test_a_wrong_argument_is_named(run, args, words):
    done = run("serve", "tcp://127.0.0.1:0", *args)
    assert done.returncode == 100
    assert args[0] in done.stderr.decode() and words in done.stderr.decode()
