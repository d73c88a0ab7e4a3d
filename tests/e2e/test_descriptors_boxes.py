"""A box that opens descriptors of its own, at the descriptor limit: connections wait in the backlog until there is room
for all that they need; none is taken and then lost."""

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


def test_relays_that_there_is_no_descriptor_for_wait_in_the_backlog(serve):
    echo = serve("tcp://127.0.0.1:0", "echo")
    all_are_answered(serve("-v", "tcp://127.0.0.1:0", "relay", echo.at(), nofile=LIMIT))
