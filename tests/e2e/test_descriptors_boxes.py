"""A box that opens descriptors of its own, at the descriptor limit: connections wait in the backlog until there is room
for all that they need; none is taken and then lost."""

import threading

import pytest

LIMIT = 48
CONNECTIONS = 100


def all_are_answered(service):
    """Each holds its place until it was answered and hangs up; there are more of them than places."""
    clients = []
    try:
        for _ in range(CONNECTIONS):
            s = service.connect()
            clients.append(s)
            s.sendall(b"x\n")
        service.expect("accepting pauses")
        for s in clients:
            s.settimeout(30)
            assert s.recv(10) == b"x\n"
            s.close()
    finally:
        for s in clients:
            s.close()


def test_programs_that_there_is_no_descriptor_for_wait_in_the_backlog(serve):
    all_are_answered(serve("-v", "tcp://127.0.0.1:0", "exec", "cat", nofile=LIMIT))


@pytest.mark.parametrize("model", ["process", "thread", "fiber"])
def test_relays_that_there_is_no_descriptor_for_wait_in_the_backlog(serve, model):
    echo = serve("tcp://127.0.0.1:0", "echo")
    all_are_answered(serve("-v", "--model", model, "tcp://127.0.0.1:0", "relay", echo.at(), nofile=LIMIT))


def move_much(s, n=4 << 20):
    """As bulk does: what is moved through pipes of the relay's, which it keeps."""
    sender = threading.Thread(target=s.sendall, args=(bytes(n),))
    sender.start()
    left = n
    while left > 0:
        got = len(s.recv(min(left, 1 << 18)))
        assert got > 0
        left -= got
    sender.join()


@pytest.mark.parametrize("model", ["thread", "fiber"])
def test_the_pipes_of_bulk_relays_take_no_descriptor_that_is_kept_free_for_others(serve, model):
    echo = serve("tcp://127.0.0.1:0", "echo")
    relay = serve("-v", "--model", model, "tcp://127.0.0.1:0", "relay", echo.at(), nofile=LIMIT)
    bulk = [relay.connect() for _ in range(3)]
    try:
        for s in bulk:
            move_much(s)
        all_are_answered(relay)
    finally:
        for s in bulk:
            s.close()
