"""hark serve: what it listens on, where an address stands for several sockets."""
import os
import socket

import pytest

from conftest import MODELS, PATIENCE, Service, wait_until


def echoed(service, i):
    with service.connect(i) as s:
        s.send(b"x")
        return s.recv(1) == b"x"


@pytest.mark.parametrize("model", MODELS)
def test_a_name_is_listened_on_at_all_of_its_addresses(serve_with_hosts, model):
    service, _ = serve_with_hosts(
        "127.0.0.1 both\n::1 both\n192.0.2.1 both\n", "--model", model, "tcp://both:0", "udp://both:0", "echo"
    )
    wait_until(lambda: len(service.addresses) == 4)
    hosts = [a.rsplit(":", 1)[0] for a in service.addresses]
    assert sorted(hosts) == [
        "tcp://127.0.0.1",
        "tcp://[::1]",
        "udp://127.0.0.1",
        "udp://[::1]",
    ]  # 192.0.2.1 is not here
    assert service.port(0) == service.port(1) and service.port(2) == service.port(3)
    for i in range(4):
        assert echoed(service, i)


def test_a_port_for_a_name_is_free_at_all_of_its_addresses(serve_with_hosts, where_ports_are_taken):
    service, _ = serve_with_hosts(
        "127.0.0.1 both\n127.0.0.2 both\n", "tcp://both:0", "udp://both:0", "echo", before=where_ports_are_taken
    )
    wait_until(lambda: len(service.addresses) == 4)
    assert sorted(service.addresses) == [f"{s}://127.0.0.{n}:40007" for s in ("tcp", "udp") for n in (1, 2)]


def test_a_name_of_which_nothing_is_here_is_told(run):
    assert b"listen tcp://192.0.2.1:7000: " in run("serve", "tcp://192.0.2.1:7000", "echo").stderr
    r = run("serve", "tcp://name.invalid:7000", "echo")
    assert r.returncode == 111 and b"listen tcp://name.invalid:7000: " in r.stderr


def handing_over(hark, sockets, names, *words):
    """For Popen's preexec_fn: hark serve with these sockets."""

    def hand_over():
        for i, s in enumerate(sockets):
            os.dup2(s.fileno(), 50 + i)
        for i in range(len(sockets)):
            os.dup2(50 + i, 3 + i)
            os.set_inheritable(3 + i, True)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(sockets)), LISTEN_FDNAMES=names)
        os.execve(hark, [hark, "serve", *words], os.environ)

    return {"preexec_fn": hand_over, "close_fds": False}


def test_all_sockets_that_were_handed_over_by_one_name_are_served(hark):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    words = ["fd:web", "echo"]
    service = Service([hark, "serve", *words], **handing_over(hark, sockets, "web:other:web", *words))
    try:
        wait_until(lambda: len(service.addresses) == 2)
        ports = {s.getsockname()[1] for s in (sockets[0], sockets[2])}
        assert {service.port(0), service.port(1)} == ports
        for port in ports:
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as s:
                s.sendall(b"y")
                assert s.recv(1) == b"y"
    finally:
        service.end()
        for s in sockets:
            s.close()


@pytest.mark.parametrize(
    "words, said",
    [
        (["fd:web", "unixgram:@hark-test-none", "--", "cat"], "unixgram:@hark-test-none: the box exec takes unix data"),
        (["fd:web", "tcpmux", "x=echo"], "fd:web: the box tcpmux serves streams alone"),
    ],
)
def test_every_socket_of_every_address_is_one_that_the_box_can_serve(hark, words, said):
    with socket.create_server(("127.0.0.1", 0)) as a, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as b:
        b.bind(("127.0.0.1", 0))
        service = Service([hark, "serve", *words], **handing_over(hark, [a, b], "web:web", *words))
        try:
            wait_until(lambda: service.process.poll() is not None or service.addresses)
            assert not service.addresses and service.process.wait(PATIENCE) == 100
        finally:
            service.end()
        assert said in service.stderr
