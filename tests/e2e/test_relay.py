"""The relay box: each connection joined to another address, both ways, under every model."""
import os
import pathlib
import signal
import socket
import struct
import threading
import time
import hashlib

import pytest

from conftest import MODELS, PATIENCE, echo_many, read_all, wait_until
from harkd_support import HEAD, free_port, run_test, service
from relay_support import accept, address_of, closes, reset, target  # noqa: F401


SIDE_BY_SIDE = ["process", "thread", "fiber"]  # a test with two connections at once cannot have the iterative server


def exchange(s, data):
    """Sends all and the end, from a thread of its own, and reads all."""

    def send():
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    got = read_all(s)
    thread.join(PATIENCE)
    return got


# streams
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("workers", [1, 2])
def test_echo_through_a_relay_under_every_model(serve, model, workers):
    echo = serve("tcp://127.0.0.1:0", "echo")
    relay = serve("--model", model, "--workers", workers, "tcp://127.0.0.1:0", "relay", echo.at())
    echo_many(relay, 20)


@pytest.mark.parametrize("engine", ["epoll", "uring", "poll"])
def test_echo_through_a_relay_on_every_engine(serve, start, engine):
    echo = serve("tcp://127.0.0.1:0", "echo")
    relay = start("serve", "--engine", engine, "tcp://127.0.0.1:0", "relay", echo.at(), kind=type(echo))
    wait_until(lambda: relay.addresses or relay.process.poll() is not None)
    if not relay.addresses and "not available" in relay.stderr:
        pytest.skip(f"{engine} is not to be had here")
    echo_many(relay, 50)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("engine", ["epoll", "uring"])
def test_a_hundred_megabytes_pass_both_ways_unharmed(serve, target, model, engine):
    if engine == "uring" and model != "fiber":
        pytest.skip("the server's engine is not that of a box's own loop")
    listener = target()
    relay = serve("--model", model, "--engine", engine, "tcp://127.0.0.1:0", "relay", address_of(listener))
    block, blocks = os.urandom(1 << 20), 100
    sums = {}

    def one_side(name, s, seed):
        def send():
            for i in range(blocks):
                s.sendall(bytes([seed, i]) + block)
            s.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        got = hashlib.sha256()
        while chunk := s.recv(1 << 18):
            got.update(chunk)
        sender.join(PATIENCE)
        sums[name] = got.hexdigest()

    def sent_by(seed):
        all_of_it = hashlib.sha256()
        for i in range(blocks):
            all_of_it.update(bytes([seed, i]) + block)
        return all_of_it.hexdigest()

    with relay.connect() as client, accept(listener) as server:
        sides = [
            threading.Thread(target=one_side, args=a, daemon=True)
            for a in [("client", client, 1), ("server", server, 2)]
        ]
        for side in sides:
            side.start()
        for side in sides:
            side.join(3 * PATIENCE)
    assert sums == {"client": sent_by(2), "server": sent_by(1)}


@pytest.mark.parametrize("model", MODELS)
def test_the_end_of_one_direction_leaves_the_other_open(serve, target, model):
    listener = target()
    relay = serve("--model", model, "tcp://127.0.0.1:0", "relay", address_of(listener))
    with relay.connect() as client, accept(listener) as server:
        client.sendall(b"request")
        client.shutdown(socket.SHUT_WR)
        assert read_all(server) == b"request"
        for word in [b"one", b"two", b"three"]:
            server.sendall(word)
            assert client.recv(100) == word
        server.close()
        assert client.recv(100) == b""
    with relay.connect() as client, accept(listener) as server:
        server.sendall(b"greeting")
        server.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"greeting"
        for word in [b"one", b"two", b"three"]:
            client.sendall(word)
            assert server.recv(100) == word


def segments_in(s):
    """TCP_INFO's tcpi_segs_in."""
    return struct.unpack_from("I", s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144), 140)[0]


def test_an_end_that_has_come_with_the_last_bytes_leaves_in_one_segment_with_them(serve, target):
    listener = target()
    relay = serve("tcp://127.0.0.1:0", "relay", address_of(listener))
    with relay.connect() as client:
        server = accept(listener)
        server.sendall(b"one")  # both directions wait from here on
        assert client.recv(100) == b"one"
        before = segments_in(client)
        relay.send(signal.SIGSTOP)
        wait_until(lambda: pathlib.Path(f"/proc/{relay.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T")
        server.sendall(b"two")
        server.close()
        relay.send(signal.SIGCONT)
        assert read_all(client) == b"two"
        assert segments_in(client) == before + 1


@pytest.mark.parametrize("model", MODELS)
def test_a_reset_of_the_target_is_a_reset_for_the_client(serve, target, model):
    listener = target()
    relay = serve("--json", "--model", model, "tcp://127.0.0.1:0", "relay", address_of(listener))
    with relay.connect() as client, accept(listener) as server:
        client.sendall(b"hello")
        assert server.recv(100) == b"hello"
        reset(server)
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    end = closes(relay)[0]
    assert end["error"] == os.strerror(104) and end["status"] == 0


@pytest.mark.parametrize("model", MODELS)
def test_a_reset_of_the_client_is_a_reset_for_the_target(serve, target, model):
    listener = target()
    relay = serve("--model", model, "tcp://127.0.0.1:0", "relay", address_of(listener))
    client = relay.connect()
    with accept(listener) as server:
        client.sendall(b"hello")
        assert server.recv(100) == b"hello"
        reset(client)
        with pytest.raises(ConnectionResetError):
            server.recv(100)


def test_a_reset_after_a_half_close_still_gets_through(serve, target):
    listener = target()
    relay = serve("tcp://127.0.0.1:0", "relay", address_of(listener))
    with relay.connect() as client, accept(listener) as server:
        client.shutdown(socket.SHUT_WR)
        assert server.recv(100) == b""
        reset(server)
        with pytest.raises(ConnectionResetError):
            client.recv(100)


@pytest.mark.parametrize("model", MODELS)
def test_a_target_that_is_down_resets_the_client_and_the_log_says_why(serve, target, model):
    gone = target()
    where = address_of(gone)
    gone.close()
    relay = serve("--json", "--model", model, "tcp://127.0.0.1:0", "relay", where)
    with pytest.raises(ConnectionResetError):  # it may come before connect() has returned
        with relay.connect() as client:
            client.recv(100)
    assert closes(relay)[0]["error"] == "Connection refused"


def test_a_target_without_an_address_resets_the_client_and_the_log_says_why(serve):
    relay = serve("-v", "tcp://127.0.0.1:0", "relay", "no-such-host.invalid:7")
    with pytest.raises(ConnectionResetError):
        with relay.connect() as client:
            client.recv(100)
    relay.expect(r" relay .*, in 0 out 0, .*(No such host|Name server)")


def test_a_target_that_does_not_answer_is_given_up_after_the_timeout(serve, target):
    listener = target()
    listener.listen(0)
    filling = [socket.socket() for _ in range(4)]
    try:
        for s in filling:  # a full backlog drops what comes
            s.setblocking(False)
            s.connect_ex(listener.getsockname())
        relay = serve("--json", "tcp://127.0.0.1:0", "relay", "--connect-timeout", "300ms", address_of(listener))
        with relay.connect() as client:
            begun = time.monotonic()
            with pytest.raises(ConnectionResetError):
                client.recv(100)
            assert time.monotonic() - begun > 0.2
        assert closes(relay)[0]["error"] == "Connection timed out"
    finally:
        for s in filling:
            s.close()


def test_the_target_comes_back(serve, target):
    listener = target()
    where = listener.getsockname()
    relay = serve("tcp://127.0.0.1:0", "relay", address_of(listener))
    listener.close()
    with pytest.raises(ConnectionResetError), relay.connect() as client:  # perhaps as soon as it connects
        client.recv(100)
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(where)
        again.listen()
        again.settimeout(PATIENCE)
        with relay.connect() as client, accept(again) as server:
            server.sendall(b"here")
            assert client.recv(100) == b"here"


@pytest.mark.parametrize("front, back", [("unix", "tcp"), ("tcp", "unix"), ("unix", "unix"), ("abstract", "tcp")])
def test_unix_and_tcp_are_joined_either_way(serve, tmp_path, front, back):
    def address(kind, name):
        return {
            "tcp": "tcp://127.0.0.1:0",
            "unix": f"unix:{tmp_path}/{name}",
            "abstract": f"unix:@hark-relay-{os.getpid()}",
        }[kind]

    echo = serve(address(back, "back"), "echo")
    relay = serve(address(front, "front"), "relay", echo.at())
    with relay.connect() as s:
        data = os.urandom(300000)
        assert exchange(s, data) == data


@pytest.mark.parametrize("model", MODELS)
def test_a_name_with_two_addresses_is_tried_at_both(serve_with_hosts, target, model):
    listener = target()  # on 127.0.0.1 alone: the others refuse
    relay, _ = serve_with_hosts(
        "::1 there\n127.0.0.8 there\n127.0.0.1 there\n",
        "--model",
        model,
        "tcp://127.0.0.1:0",
        "relay",
        f"there:{listener.getsockname()[1]}",
    )
    with relay.connect() as client, accept(listener) as server:
        server.sendall(b"here")
        assert client.recv(100) == b"here"


def test_a_name_is_looked_up_anew_for_each_connection(serve_with_hosts, target):
    listener = target()
    relay, hosts = serve_with_hosts(
        "127.0.0.8 there\n", "tcp://127.0.0.1:0", "relay", f"there:{listener.getsockname()[1]}"
    )
    with pytest.raises(ConnectionResetError), relay.connect() as client:  # perhaps as soon as it connects
        client.recv(100)
    hosts.write_text("127.0.0.1 there\n")
    with relay.connect() as client, accept(listener) as server:
        server.sendall(b"here")
        assert client.recv(100) == b"here"


def test_the_local_address_may_be_chosen(serve, target):
    listener = target()
    relay = serve("tcp://127.0.0.1:0", "relay", "--local", "127.0.0.9", address_of(listener))
    with relay.connect():
        server, peer = listener.accept()
        server.close()
        assert peer[0] == "127.0.0.9"


@pytest.mark.parametrize("model", SIDE_BY_SIDE)
def test_a_chain_of_three_relays_carries_both_ways(serve, model):
    where = serve("tcp://127.0.0.1:0", "echo").at()
    for _ in range(3):
        last = serve("--model", model, "tcp://127.0.0.1:0", "relay", where)
        where = last.at()
    echo_many(last, 10, size=200000)


@pytest.mark.parametrize("scheme", ["tcp", "unix", "udp"])
def test_a_relay_to_itself_is_noticed(serve, tmp_path, target, scheme):
    if scheme == "unix":
        where = f"unix:{tmp_path}/self"
    else:
        s = target(socket.SOCK_STREAM if scheme == "tcp" else socket.SOCK_DGRAM)
        where = address_of(s)
        s.close()
    relay = serve("--json", where, "relay", "--connect-timeout", "5s", where)
    if scheme == "tcp":
        with pytest.raises(ConnectionResetError), relay.connect() as client:  # perhaps before connect(2) has returned
            client.recv(100)
    else:
        with relay.connect() as client:
            if scheme == "udp":
                client.send(b"hello")
            else:
                assert client.recv(100) == b""  # the kernel has no reset there
    assert all(e["error"] == os.strerror(40) for e in closes(relay))


def test_five_hundred_connections_at_once(serve):
    echo = serve("tcp://127.0.0.1:0", "echo")
    relay = serve("tcp://127.0.0.1:0", "relay", echo.at(), nofile=4096)
    clients = []
    try:
        for i in range(500):
            clients.append(relay.connect())
            clients[-1].sendall(b"%d" % i)
        for _ in range(2):
            for i, s in enumerate(clients):
                assert s.recv(100) == b"%d" % i
                s.sendall(b"%d" % i)
    finally:
        for s in clients:
            s.close()
    relay.stop()


def test_many_short_connections_leave_no_descriptor_behind(serve):
    echo = serve("tcp://127.0.0.1:0", "echo")
    relay = serve("tcp://127.0.0.1:0", "relay", echo.at())
    echo_many(relay, 10)
    count = lambda: len(os.listdir(f"/proc/{relay.pid}/fd"))
    before = wait_until(lambda: count())
    for _ in range(5):
        echo_many(relay, 20)
    wait_until(lambda: count() <= before)


def test_what_moves_in_one_direction_alone_is_not_idle(serve, target):
    listener = target()
    relay = serve("--json", "--idle-timeout", "400ms", "tcp://127.0.0.1:0", "relay", address_of(listener))
    with relay.connect() as client, accept(listener) as server:
        begun = time.monotonic()
        while time.monotonic() - begun < 1.5:
            server.sendall(b"tick")
            assert client.recv(100) == b"tick"
            time.sleep(0.1)  # what is tested is the passing of time
        begun = time.monotonic()
        with pytest.raises(ConnectionResetError):
            while client.recv(100):
                pass
        assert 0.2 < time.monotonic() - begun < 3
    assert closes(relay)[0]["error"] == "Connection timed out"


@pytest.mark.parametrize("model", MODELS)
def test_the_lifetime_covers_both_sides(serve, target, model):
    listener = target()
    relay = serve("--json", "--model", model, "--lifetime", "300ms", "tcp://127.0.0.1:0", "relay", address_of(listener))
    with relay.connect() as client, accept(listener) as server:
        for s in (client, server):
            with pytest.raises(ConnectionResetError):
                s.recv(100)
    assert closes(relay)[0]["error"] == "Connection timed out"


# draining
@pytest.mark.parametrize("model", MODELS)
def test_a_drain_ends_a_quiet_connection_in_order(serve, target, model):
    listener = target()
    relay = serve("--model", model, "--grace", "8s", "tcp://127.0.0.1:0", "relay", address_of(listener))
    with relay.connect() as client, accept(listener) as server:
        client.sendall(b"hello")
        assert server.recv(100) == b"hello"
        begun = time.monotonic()
        relay.send(signal.SIGTERM)
        assert server.recv(100) == b""  # the end of the client's input
        server.sendall(b"goodbye")
        server.close()
        assert read_all(client) == b"goodbye"
        assert relay.wait() == 0
        assert time.monotonic() - begun < 6


@pytest.mark.parametrize("model", MODELS)
def test_a_drain_ends_a_target_that_does_not_listen_to_the_end(serve, target, model):
    listener = target()
    relay = serve("--model", model, "--grace", "8s", "tcp://127.0.0.1:0", "relay", address_of(listener))
    with relay.connect() as client, accept(listener) as server:
        server.sendall(b"hello")
        assert client.recv(100) == b"hello"
        relay.send(signal.SIGTERM)
        assert client.recv(100) == b""  # in order
        client.close()
        assert relay.wait() == 0


@pytest.mark.parametrize("model", MODELS)
def test_a_drain_lets_finish_what_moves(serve, target, model):
    listener = target()
    relay = serve("--model", model, "--grace", "20s", "tcp://127.0.0.1:0", "relay", address_of(listener))
    with relay.connect() as client, accept(listener) as server:
        client.sendall(b"hello")
        assert server.recv(100) == b"hello"
        relay.send(signal.SIGTERM)
        begun = time.monotonic()
        while time.monotonic() - begun < 3:
            server.sendall(b"tick")
            assert client.recv(100) == b"tick"
            client.sendall(b"tock")
            assert server.recv(100) == b"tock"
            time.sleep(0.1)
        server.close()
        assert client.recv(100) == b""
        client.close()
        assert relay.wait() == 0


@pytest.mark.parametrize("model", MODELS)
def test_a_drain_without_grace_cuts_what_moves(serve, target, model):
    listener = target()
    relay = serve("--model", model, "--grace", "0", "tcp://127.0.0.1:0", "relay", address_of(listener))
    with relay.connect() as client, accept(listener) as server:
        client.sendall(b"hello")
        assert server.recv(100) == b"hello"
        relay.send(signal.SIGTERM)
        relay.wait()
        for s in (client, server):
            try:
                assert s.recv(100) == b""
            except ConnectionResetError:
                pass


# datagrams
@pytest.mark.parametrize("model", SIDE_BY_SIDE)
def test_two_udp_peers_have_sessions_of_their_own(serve, target, model):
    s = target(socket.SOCK_DGRAM)
    relay = serve("--model", model, "udp://127.0.0.1:0", "relay", address_of(s))
    with relay.connect() as one, relay.connect() as other:
        seen = {}
        for round in range(3):
            for name, client in [(b"one", one), (b"other", other)]:
                client.send(b"%s %d" % (name, round))
                data, peer = s.recvfrom(1000)
                assert data == b"%s %d" % (name, round)
                assert seen.setdefault(name, peer) == peer
        assert seen[b"one"] != seen[b"other"]
        for name, client in [(b"other", other), (b"one", one)]:
            for word in [b"to " + name, b"", b"and more"]:  # an empty one is one
                s.sendto(word, seen[name])
            assert [client.recv(100) for _ in range(3)] == [b"to " + name, b"", b"and more"]


@pytest.mark.parametrize("model", MODELS)
def test_datagrams_stay_apart_and_whole(serve, target, model):
    s = target(socket.SOCK_DGRAM)
    relay = serve("--model", model, "udp://127.0.0.1:0", "relay", address_of(s))
    with relay.connect() as client:
        for size in [1, 0, 1400, 0, 9000, 65507, 5]:
            data = os.urandom(size)
            client.send(data)
            got, peer = s.recvfrom(70000)
            assert got == data
            s.sendto(data[::-1], peer)
            assert client.recv(70000) == data[::-1]


def test_a_udp_session_ends_when_nothing_moves_and_the_next_datagram_begins_another(serve, target):
    s = target(socket.SOCK_DGRAM)
    relay = serve("--json", "--idle-timeout", "200ms", "udp://127.0.0.1:0", "relay", address_of(s))
    peers = set()
    with relay.connect() as client:
        for round in range(1, 4):
            client.send(b"hello")
            data, peer = s.recvfrom(100)
            assert data == b"hello"
            peers.add(peer)
            s.sendto(b"answer", peer)
            assert client.recv(100) == b"answer"
            assert len(closes(relay, round)) == round
    assert len(peers) == 3
    assert all(e["error"] is None and e["status"] == 0 for e in closes(relay, 3))


def test_a_udp_target_that_is_down_ends_the_session_and_the_log_says_why(serve, target):
    gone = target(socket.SOCK_DGRAM)
    where = address_of(gone)
    gone.close()
    relay = serve("--json", "udp://127.0.0.1:0", "relay", where)
    with relay.connect() as client:
        client.send(b"hello")
        assert closes(relay)[0]["error"] == "Connection refused"


def test_a_udp_client_that_has_gone_ends_its_session_without_an_error(serve, target):
    s = target(socket.SOCK_DGRAM)
    relay = serve("--json", "udp://127.0.0.1:0", "relay", address_of(s))
    with relay.connect() as client:
        client.send(b"hello")
        _, peer = s.recvfrom(100)
    s.sendto(b"answer", peer)
    end = closes(relay)[0]
    assert end["error"] is None and end["status"] == 0


@pytest.mark.parametrize("model", SIDE_BY_SIDE)
def test_a_drain_ends_udp_sessions(serve, target, model):
    s = target(socket.SOCK_DGRAM)
    relay = serve("--model", model, "--grace", "10s", "udp://127.0.0.1:0", "relay", address_of(s))
    with relay.connect() as client:
        client.send(b"hello")
        _, peer = s.recvfrom(100)
        relay.send(signal.SIGTERM)
        s.sendto(b"answer", peer)
        assert client.recv(100) == b"answer"
        assert relay.wait() == 0


def test_udp_is_joined_to_a_unix_datagram_socket(serve, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.settimeout(PATIENCE)
        s.bind(str(tmp_path / "target"))
        relay = serve("udp://127.0.0.1:0", "relay", f"unixgram:{tmp_path}/target")
        with relay.connect() as client:
            for _ in range(3):
                client.send(b"hello")
                data, peer = s.recvfrom(100)
                assert data == b"hello"
                s.sendto(b"answer", peer)
                assert client.recv(100) == b"answer"


def test_unix_datagrams_are_passed_on_to_udp(serve, target, tmp_path):
    s = target(socket.SOCK_DGRAM)
    relay = serve("--json", f"unixgram:{tmp_path}/front", "relay", address_of(s))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless:
        nameless.sendto(b"log this", str(tmp_path / "front"))
        assert s.recvfrom(100)[0] == b"log this"
        closes(relay)  # nobody to answer to: done with
    with relay.connect() as named:
        named.send(b"question")
        data, peer = s.recvfrom(100)
        s.sendto(b"answer", peer)
        assert (data, named.recv(100)) == (b"question", b"answer")


# what is refused
@pytest.mark.parametrize(
    "listen, args, words",
    [
        ("tcp://127.0.0.1:0", [], "no address to relay to"),
        ("tcp://127.0.0.1:0", ["nothing"], "nothing"),
        ("tcp://127.0.0.1:0", ["127.0.0.1:1", "more"], "more"),
        ("tcp://127.0.0.1:0", ["127.0.0.1:1", "udp://127.0.0.1:1"], "goes on to streams or to datagrams"),
        ("tcp://127.0.0.1:0", ["127.0.0.1:1"] * 257, "more than 256 addresses"),
        ("tcp://127.0.0.1:0", ["--retry-after", "-1", "127.0.0.1:1"], "--retry-after"),
        ("tcp://127.0.0.1:0", ["fd:3"], "cannot share one descriptor"),
        ("tcp://127.0.0.1:0", ["--connect-timeout", "0", "127.0.0.1:1"], "--connect-timeout"),
        ("tcp://127.0.0.1:0", ["--connect-timeout", "x", "127.0.0.1:1"], '"x" is not a duration'),
        ("tcp://127.0.0.1:0", ["--local", "bad host", "127.0.0.1:1"], "--local"),
        ("tcp://127.0.0.1:0", ["--local", "/x", "unix:/y"], "--local is for tcp and udp"),
        ("tcp://127.0.0.1:0", ["udp://127.0.0.1:1"], "serves datagrams alone with these arguments"),
        ("udp://127.0.0.1:0", ["127.0.0.1:1"], "serves streams alone with these arguments"),
        ("udp://127.0.0.1:0", ["unix:/nowhere"], "serves streams alone with these arguments"),
    ],
)
def test_what_cannot_be_joined_is_refused_at_the_start(run, listen, args, words):
    done = run("serve", listen, "relay", *args)
    assert done.returncode == 100 and words in done.stderr.decode()
    assert done.stdout == b""


def test_the_configuration_names_a_loop_of_relays(hark, tmp_path):
    a, b = free_port(), free_port()
    (tmp_path / "hark.conf").write_text(
        HEAD.format(dir=tmp_path)
        + service("one", f"relay = tcp://localhost:{b}", listen=f"tcp://*:{a}")
        + service("two", f"relay = tcp://127.0.0.1:{a}", listen=f"tcp://127.0.0.1:{b}")
        + service("own", f"relay = unix:{tmp_path}/s", listen=f"unix:{tmp_path}/s")
        + service("fine", f"relay = tcp://192.0.2.1:{a + 1} unix:/nowhere", listen=f"tcp://*:{a + 1}")
        + service("three", f"relay = tcp://192.0.2.1:1 unix:{tmp_path}/4", listen=f"unix:{tmp_path}/3")
        + service("four", f"relay = unix:{tmp_path}/s unix:{tmp_path}/3", listen=f"unix:{tmp_path}/4")
    )
    done = run_test(hark, tmp_path)
    text = done.stderr.decode()
    assert done.returncode == 100, text
    assert "relays that lead back to themselves: [one] -> [two] -> [one]" in text
    assert "relays that lead back to themselves: [own] -> [own]" in text
    assert "relays that lead back to themselves: [three] -> [four] -> [three]" in text
    assert text.count("relays that lead back") == 3
    assert "fine" not in text


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_hop_limit_ends_a_loop_of_relays(serve, hark, host):
    port = free_port()
    one = serve(f"tcp://{host}:0", "relay", f"tcp://{host}:{port}")
    serve(f"tcp://{host}:{port}", "relay", f"tcp://{host}:{one.port()}")
    before = time.monotonic()
    with socket.create_connection((host.strip("[]"), one.port()), PATIENCE) as s:
        try:
            assert s.recv(10) == b""
        except ConnectionResetError:
            pass
    assert time.monotonic() - before < PATIENCE / 2
    wait_until(lambda: len(os.listdir(f"/proc/{one.pid}/fd")) < 20)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_hop_limit_ends_a_loop_of_relays_of_datagrams(serve, host):
    port = free_port(socket.SOCK_DGRAM)
    one = serve("-v", f"udp://{host}:0", "relay", f"udp://{host}:{port}")
    two = serve("-v", f"udp://{host}:{port}", "relay", f"udp://{host}:{one.port()}")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((host.strip("[]"), one.port()))
        s.send(b"round and round")
        wait_until(lambda: "Too many levels" in one.stderr + two.stderr)  # ELOOP
        assert 50 < len(os.listdir(f"/proc/{one.pid}/fd")) < 150  # two a session, of which there are 64 in all
