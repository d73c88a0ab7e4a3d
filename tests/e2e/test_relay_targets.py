"""A relay's addresses, tried in turn: the next one when one fails, and a failed one left alone for a while."""
import contextlib
import os
import socket
import time

import pytest

from conftest import MODELS, PATIENCE, read_all, wait_until
from relay_support import accept, address_of, closes, target  # noqa: F401

WAYS = [(m, "epoll") for m in MODELS] + [("fiber", "uring"), ("fiber", "poll")]


@contextlib.contextmanager
def silent(listener):
    """A listener whose backlog is full drops what comes: nobody who dials it hears anything."""
    listener.listen(0)
    filling = [socket.socket() for _ in range(4)]
    try:
        for s in filling:
            s.setblocking(False)
            s.connect_ex(listener.getsockname())
        yield address_of(listener)
    finally:
        for s in filling:
            s.close()


@pytest.fixture
def gone(target):  # noqa: F811
    """Nobody listens there; gone.back() does."""

    class Gone:
        def __init__(self):
            s = target()
            self.where, self.address = s.getsockname(), address_of(s)
            s.close()
            self.back_again = None

        def back(self):
            self.back_again = socket.socket()
            self.back_again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.back_again.bind(self.where)
            self.back_again.listen()
            self.back_again.settimeout(PATIENCE)
            return self.back_again

    g = Gone()
    yield g
    if g.back_again:
        g.back_again.close()


def served_by(relay, listener):
    """A connection of the relay's that listener gets."""
    with relay.connect() as client, accept(listener) as server:
        server.sendall(b"here")
        assert client.recv(100) == b"here"


def refused(relay):
    with pytest.raises(ConnectionResetError), relay.connect() as client:  # perhaps as soon as it connects
        client.recv(100)


@pytest.mark.parametrize("model, engine", WAYS)
def test_the_next_address_has_the_connection_when_one_refuses(serve, target, gone, model, engine):  # noqa: F811
    well = target()
    relay = serve(
        *("--json", "--model", model, "--engine", engine, "tcp://127.0.0.1:0"),
        *("relay", gone.address, "no-such-host.invalid:7", "unix:/nowhere", address_of(well)),
    )
    for i in range(3):
        served_by(relay, well)
        end = closes(relay, i + 1)[i]
        assert (end["target"], end["error"]) == (address_of(well), None)


@pytest.mark.parametrize("model", MODELS)
def test_an_address_that_failed_is_left_alone_by_all(serve, target, gone, model):  # noqa: F811
    well = target()
    relay = serve("--model", model, "tcp://127.0.0.1:0", "relay", "--retry-after", "1h", gone.address, address_of(well))
    served_by(relay, well)
    gone.back()
    for _ in range(3):
        served_by(relay, well)


@pytest.mark.parametrize("model", MODELS)
def test_an_address_that_failed_is_tried_again_after_a_while(serve, target, gone, model):  # noqa: F811
    well = target()
    relay = serve(
        "--model", model, "tcp://127.0.0.1:0", "relay", "--retry-after", "100ms", gone.address, address_of(well)
    )
    served_by(relay, well)
    again = gone.back()
    well.settimeout(0.1)
    again.settimeout(0.1)

    def came_back():
        with relay.connect():
            for listener in (well, again):
                with contextlib.suppress(TimeoutError):
                    listener.accept()[0].close()
                    return listener is again

    wait_until(came_back)
    again.settimeout(PATIENCE)
    for _ in range(3):
        served_by(relay, again)


@pytest.mark.parametrize("model, engine", WAYS)
def test_an_address_that_does_not_answer_has_its_time_and_the_next_one_its_own(
    serve, target, model, engine
):  # noqa: F811
    well = target()
    with silent(target()) as where:
        relay = serve(
            *("--model", model, "--engine", engine, "tcp://127.0.0.1:0"),
            *("relay", "--connect-timeout", "300ms", where, address_of(well)),
        )
        begun = time.monotonic()
        served_by(relay, well)
        assert time.monotonic() - begun > 0.2
        begun = time.monotonic()
        served_by(relay, well)
        assert time.monotonic() - begun < 0.2  # it is left alone


def test_one_connection_tries_again_while_the_others_pass_by(serve, target):  # noqa: F811
    well = target()
    with silent(target()) as where:
        relay = serve(
            *("tcp://127.0.0.1:0", "relay", "--connect-timeout", "3s", "--retry-after", "1ms"),
            *(where, address_of(well)),
        )
        held = relay.connect()  # the first one tries, and everybody who comes before it is known
        begun = time.monotonic()
        with accept(well):
            assert time.monotonic() - begun > 2
        held.close()
        with relay.connect(), contextlib.ExitStack() as stack:  # it tries again
            time.sleep(0.2)  # it has reached the relay
            begun = time.monotonic()
            for _ in range(5):
                stack.enter_context(relay.connect())
                stack.enter_context(accept(well))
            assert time.monotonic() - begun < 2


@pytest.mark.parametrize("model", MODELS)
def test_where_all_have_failed_all_are_tried(serve, target, gone, model):  # noqa: F811
    other = target()
    where = address_of(other)
    other.close()
    relay = serve("--json", "--model", model, "tcp://127.0.0.1:0", "relay", "--retry-after", "1h", gone.address, where)
    refused(relay)
    end = closes(relay)[0]
    assert (end["target"], end["error"]) == (where, "Connection refused")
    served_by(relay, gone.back())


def test_two_workers_know_of_the_same_failure(serve, target, gone):  # noqa: F811
    well = target()
    relay = serve("--workers", 2, "tcp://127.0.0.1:0", "relay", "--retry-after", "1h", gone.address, address_of(well))
    served_by(relay, well)
    gone.back()
    for _ in range(10):
        served_by(relay, well)


def test_a_lifetime_that_ends_at_one_address_is_no_failure_of_it(serve, target):  # noqa: F811
    well = target()
    with silent(target()) as where:
        relay = serve(
            *("--json", "--lifetime", "200ms", "tcp://127.0.0.1:0"),
            *("relay", "--connect-timeout", "5s", where, address_of(well)),
        )
        for i in range(2):
            refused(relay)
            end = closes(relay, i + 1)[i]
            assert (end["target"], end["ended"]) == (where, "lifetime")


def again(client, well):
    """A new session, once the socket of the old one is closed, which happens behind its event."""
    client.send(b"two")
    with contextlib.suppress(TimeoutError):
        return well.recvfrom(100)


@pytest.mark.parametrize("model", ["process", "thread", "fiber"])
def test_a_udp_address_that_nobody_listens_at_is_left_to_the_next(serve, target, model):  # noqa: F811
    gone, well = target(socket.SOCK_DGRAM), target(socket.SOCK_DGRAM)
    where = address_of(gone)
    gone.close()
    relay = serve(
        *("--json", "--model", model, "udp://127.0.0.1:0"),
        *("relay", "--retry-after", "1h", where, address_of(well)),
    )
    with relay.connect() as client:
        client.send(b"one")
        end = closes(relay)[0]
        assert (end["target"], end["error"]) == (where, "Connection refused")
        well.settimeout(0.1)
        data, peer = wait_until(lambda: again(client, well))
        assert data == b"two"
        well.sendto(b"answer", peer)
        assert client.recv(100) == b"answer"


def test_no_descriptor_stays_behind_where_addresses_fail(serve, target, gone):  # noqa: F811
    well = target()
    relay = serve("tcp://127.0.0.1:0", "relay", "--retry-after", "0", gone.address, "unix:/nowhere", address_of(well))
    served_by(relay, well)
    count = lambda: len(os.listdir(f"/proc/{relay.pid}/fd"))
    before = wait_until(count)
    for _ in range(20):
        served_by(relay, well)
    wait_until(lambda: count() <= before)


def test_a_half_close_reaches_the_address_that_answered(serve, target, gone):  # noqa: F811
    well = target()
    relay = serve("tcp://127.0.0.1:0", "relay", gone.address, address_of(well))
    with relay.connect() as client, accept(well) as server:
        client.sendall(b"request")
        client.shutdown(socket.SHUT_WR)
        assert read_all(server) == b"request"
        server.sendall(b"answer")
        server.close()
        assert read_all(client) == b"answer"
