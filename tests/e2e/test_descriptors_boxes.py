"""A box that opens descriptors of its own, at the descriptor limit: connections wait in the backlog until there is room
for all that they need; none is taken and then lost."""

import concurrent.futures

LIMIT = 48
CONNECTIONS = 100


def talk(service):
    """Holds its place until it was answered."""
    with service.connect() as s:
        s.settimeout(30)
        s.sendall(b"x\n")
        return s.recv(10)


def all_are_answered(service):
    with concurrent.futures.ThreadPoolExecutor(CONNECTIONS) as pool:
        answers = list(pool.map(lambda _: talk(service), range(CONNECTIONS)))
    assert answers == [b"x\n"] * CONNECTIONS
    service.expect("accepting pauses")


def test_programs_that_there_is_no_descriptor_for_wait_in_the_backlog(serve):
    all_are_answered(serve("-v", "tcp://127.0.0.1:0", "exec", "cat", nofile=LIMIT))


def test_relays_that_there_is_no_descriptor_for_wait_in_the_backlog(serve):
    echo = serve("tcp://127.0.0.1:0", "echo")
    all_are_answered(serve("-v", "tcp://127.0.0.1:0", "relay", echo.at(), nofile=LIMIT))
