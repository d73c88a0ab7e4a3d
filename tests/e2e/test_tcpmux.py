"""The box tcpmux: the client names a service, which then has the connection (RFC 1078)."""
import socket
import struct
import time

import pytest

from conftest import MODELS, read_all


def ask(server, said):
    with server.connect() as s:
        s.sendall(said)
        s.shutdown(socket.SHUT_WR)
        return read_all(s)


@pytest.mark.parametrize("model", MODELS)
def test_a_service_gets_what_follows_its_name(serve, model):
    server = serve("--model", model, "tcp://127.0.0.1:0", "tcpmux", "+echo=echo", "+cat=exec cat")
    for name in (b"echo\r\n", b"CAT\r\n", b"cat\n"):
        assert ask(server, name + b"all of this\n") == b"+Go\r\nall of this\n"


def test_without_a_plus_the_service_answers_itself(serve):
    server = serve("tcp://127.0.0.1:0", "tcpmux", "+time=daytime --nist", "bare=exec echo +mine")
    assert ask(server, b"bare\r\n") == b"+mine\n"
    answer = ask(server, b"time\r\n")
    assert answer.startswith(b"+Go\r\n") and b"UTC(NIST)" in answer


def test_help_lists_the_names_and_others_are_refused(serve):
    server = serve("tcp://127.0.0.1:0", "tcpmux", "+echo=echo", "b=echo")
    assert ask(server, b"HELP\r\n") == b"echo\r\nb\r\n"
    for name in (b"nothing\r\n", b"\r\n", b"echo \r\n", b"x" * 1000 + b"\r\n", b"\0echo\r\n", b"echo\0\r\n"):
        assert ask(server, name).startswith(b"-"), name
    assert ask(server, b"ech") == b"" == ask(server, b"")


@pytest.mark.parametrize("model", MODELS)
def test_who_resets_or_says_no_name_holds_up_nobody(serve, model):
    server = serve("--model", model, "--lifetime", "1s", "tcp://127.0.0.1:0", "tcpmux", "+echo=echo")
    with server.connect() as s:
        s.sendall(b"ech")
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with server.connect() as s:
        s.sendall(b"ech")
        try:
            assert read_all(s) == b""
        except ConnectionResetError:
            pass
    assert ask(server, b"echo\r\nx") == b"+Go\r\nx"


@pytest.mark.parametrize("model", MODELS)
def test_a_drain_does_not_wait_for_a_name(serve, model):
    server = serve("--model", model, "--grace=20s", "--banner=hi", "tcp://127.0.0.1:0", "tcpmux", "+echo=echo")
    with server.connect() as s:
        s.sendall(b"ech")
        assert s.recv(10) == b"hi"
        begun = time.monotonic()
        assert server.stop() == 0 and time.monotonic() - begun < 10
        assert read_all(s) == b""


@pytest.mark.parametrize(
    "args, words",
    [
        ([], "no service is named"),
        (["echo"], '"echo" is not NAME=BOX'),
        (["=echo"], "is not NAME=BOX"),
        (["a="], "a: no box is named"),
        (["a=ecko"], "a: no such box: ecko"),
        (["a=tcpmux b=echo"], "a: no such box: tcpmux"),
        (["a=echo", "A=echo"], "A is named twice"),
        (["a=echo --what"], "a: echo: no such option: --what"),
        (["a=relay udp://localhost:1"], "a: relay serves no streams"),
        (["a=exec /no/such"], "a: exec: cannot run /no/such"),
    ],
)
def test_what_cannot_be_served_is_told_at_the_start(run, args, words):
    r = run("serve", "tcp://127.0.0.1:0", "tcpmux", *args)
    assert r.returncode != 0 and words in r.stderr.decode(), r.stderr
