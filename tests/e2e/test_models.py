"""One box, one object file, every server model: 1,000 connections and 100 MB both ways under each setting of the dials;
and no model loses an answer's tail when a box or program ends with the peer's bytes unread.

`tests/e2e/test_models.py` run as a program prints the first as a table.
"""
import hashlib
import os
import resource
import selectors
import socket
import sys
import threading
import time

import pytest

from conftest import MODELS

ENGINES = ["epoll", "uring", "poll"]
CONNECTIONS = 1000
AT_ONCE = {
    "inline": 1,
    "process": 200,
    "thread": 1000,
    "fiber": 1000,
}  # what suits each: inline serves one after the other
STREAM = 100 << 20


def echo_many(port, count, at_once):
    """count connections, at_once of them together: each sends a message of its own and gets just that, then the end."""
    done = 0
    while done < count:
        batch = min(at_once, count - done)
        socks = []
        for i in range(batch):
            s = socket.create_connection(("127.0.0.1", port), 20)
            message = b"%d " % (done + i) * 100
            s.sendall(message)
            socks.append((s, message))
        for s, message in socks:
            got = b""
            while len(got) < len(message):
                chunk = s.recv(65536)
                assert chunk, "the connection ended early"
                got += chunk
            assert got == message
        for s, _ in socks:
            s.shutdown(socket.SHUT_WR)
            assert s.recv(1) == b""
            s.close()
        done += batch
    return done


def echo_stream(port, size):
    """size bytes there and back over one connection. The digest of each direction."""
    block = os.urandom(1 << 20)
    sent, received, n = hashlib.sha1(), hashlib.sha1(), 0
    with socket.create_connection(("127.0.0.1", port), 20) as s:

        def send():
            for _ in range(size >> 20):
                s.sendall(block)
                sent.update(block)
            s.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        while chunk := s.recv(1 << 18):
            received.update(chunk)
            n += len(chunk)
        sender.join()
    assert n == size
    return sent.hexdigest(), received.hexdigest()


def check(serve, model, workers, engine):
    server = serve("--model", model, "--workers", str(workers), "--engine", engine, "tcp://127.0.0.1:0", "echo")
    begun = time.monotonic()
    n = echo_many(server.port(), CONNECTIONS, AT_ONCE[model])
    many = time.monotonic() - begun
    begun = time.monotonic()
    there, back = echo_stream(server.port(), STREAM)
    assert there == back
    stream = time.monotonic() - begun
    assert server.stop() == 0
    return n, many, stream, back


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("model", MODELS)
def test_one_box_serves_under_every_model(serve, model, workers, engine):
    check(serve, model, workers, engine)


ANSWER = 1 << 20
TIMES = 100


def ask_without_listening(port):
    """Sends for as long as the service takes it, and reads only then: the service ends with input unread."""
    with socket.create_connection(("127.0.0.1", port), 20) as s:
        s.setblocking(False)
        rubbish, got = b"x" * 65536, 0
        with selectors.DefaultSelector() as sel:
            sel.register(s, selectors.EVENT_READ | selectors.EVENT_WRITE)
            while True:
                assert sel.select(20), "neither an answer nor its end"
                for _, events in sel.select(0):
                    if events & selectors.EVENT_WRITE:
                        try:
                            s.send(rubbish)
                        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                            sel.modify(s, selectors.EVENT_READ)
                    if events & selectors.EVENT_READ:
                        try:
                            chunk = s.recv(1 << 18)
                        except BlockingIOError:
                            continue
                        if not chunk:
                            return got
                        got += len(chunk)


@pytest.mark.parametrize("model", MODELS)
def test_a_program_that_ends_with_input_unread_still_gets_its_answer_out(serve, model):
    server = serve("--model", model, "tcp://127.0.0.1:0", "--", "head", "-c", str(ANSWER), "/dev/zero")
    for _ in range(TIMES):
        assert ask_without_listening(server.port()) == ANSWER


def main():
    from conftest import Service

    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    hark = os.path.join(os.environ.get("HARK_BUILD", "build"), "hark")
    print(
        f"{'model':8} {'workers':>7} {'engine':6} {'connections':>11} {'s':>6} {'100 MB both ways, s':>20}"
        "  SHA-1 of what came back"
    )

    def serve(*args):
        service = Service([hark, "serve", *args])
        while not service.addresses:
            time.sleep(0.01)
        return service

    for model in MODELS:
        for workers in (1, 2):
            for engine in ENGINES:
                n, many, stream, digest = check(serve, model, workers, engine)
                print(
                    f"{model:8} {workers:7} {engine:6} {n:11} {many:6.2f} {stream:20.2f}  {digest} = sent", flush=True
                )


if __name__ == "__main__":
    sys.exit(main())
