"""A relay to tls:// addresses: TLS begins at the relay, and ends with its own ends kept apart from cuts."""
import contextlib
import os
import socket
import ssl
import threading
import time

import pytest

from conftest import MODELS, PATIENCE, read_all
from relay_support import TlsEnd, accept, certs, closes, line_v1, reset, target  # noqa: F401

WAYS = [(m, "epoll") for m in MODELS] + [("fiber", "uring"), ("fiber", "poll")]


def tls_address(listener, host="127.0.0.1"):
    return f"tls://{host}:{listener.getsockname()[1]}"


class Server:
    """Takes one connection, and does TLS's handshake beside; got() is it, or raises why not."""

    def __init__(self, listener, context, first=lambda s: None):
        self.thread = threading.Thread(target=self.take, args=(listener, context, first), daemon=True)
        self.end = self.error = None
        self.thread.start()

    def take(self, listener, context, first):
        try:
            s = accept(listener)
            self.first = first(s)
            self.end = TlsEnd(s, context, server_side=True)
        except (OSError, ssl.SSLError) as e:
            self.error = e

    def got(self):
        self.thread.join(PATIENCE)
        if self.error:
            raise self.error
        return self.end


@pytest.fixture(scope="session")
def context(certs):  # noqa: F811
    return certs.server()


@pytest.fixture
def start_relay(serve, certs):  # noqa: F811
    def start_relay(*args, options=(), trusted=True):
        ca = ["--ca", certs.ca] if trusted else []
        return serve("--json", *options, "tcp://127.0.0.1:0", "relay", *ca, *args)

    return start_relay


@pytest.mark.parametrize("model, engine", WAYS)
def test_each_end_is_passed_on_and_leaves_the_other_direction_open(
    start_relay, target, context, model, engine
):  # noqa: F811
    listener = target()
    relay = start_relay(tls_address(listener), options=["--model", model, "--engine", engine])
    data = os.urandom(300000)
    server = Server(listener, context)
    with relay.connect() as client, server.got() as end:
        sender = threading.Thread(target=client.sendall, args=(data,), daemon=True)
        sender.start()
        got = b""
        while len(got) < len(data):
            got += end.read()
        assert got == data
        client.shutdown(socket.SHUT_WR)
        assert end.read() == b""  # close_notify
        for word in [b"one", b"two", data]:
            end.write(word)
        end.notify()
        assert read_all(client) == b"onetwo" + data
    server = Server(listener, context)
    with relay.connect() as client, server.got() as end:
        end.write(b"greeting")
        end.notify()
        assert read_all(client) == b"greeting"
        client.sendall(b"and yet")
        assert end.read() == b"and yet"


@pytest.mark.parametrize("model, engine", WAYS)
def test_an_end_without_close_notify_is_a_cut(start_relay, target, context, model, engine):  # noqa: F811
    listener = target()
    relay = start_relay(tls_address(listener), options=["--model", model, "--engine", engine])
    server = Server(listener, context)
    with relay.connect() as client, server.got() as end:
        end.write(b"hello")
        assert client.recv(100) == b"hello"
        end.s.close()
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    assert closes(relay)[0]["error"] == "target: the stream was cut: the peer ended it without close_notify"


@pytest.mark.parametrize("model", MODELS)
def test_a_reset_on_either_side_is_one_on_the_other(start_relay, target, context, model):  # noqa: F811
    listener = target()
    relay = start_relay(tls_address(listener), options=["--model", model])
    for theirs in (True, False):
        server = Server(listener, context)
        client = relay.connect()
        with server.got() as end:
            end.write(b"hello")
            assert client.recv(100) == b"hello"
            reset(end.s if theirs else client)
            with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
                client.recv(100) if theirs else end.read()
        client.close()


@pytest.mark.parametrize("model, engine", WAYS)
def test_both_directions_at_once(start_relay, target, context, model, engine):  # noqa: F811
    listener = target()
    relay = start_relay(tls_address(listener), options=["--model", model, "--engine", engine])
    data, sums = os.urandom(1 << 20), {}
    server = Server(listener, context)
    with relay.connect() as client, server.got() as end:

        def send():
            for _ in range(8):
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        def read():
            sums["client"] = read_all(client)

        threads = [threading.Thread(target=f, daemon=True) for f in (send, read)]
        for t in threads:
            t.start()
        end.write(data * 4)  # the relay's client does not wait for that to be read
        got = end.read_all()
        end.write(data[::-1])
        end.notify()
        for t in threads:
            t.join(PATIENCE)
    assert got == data * 8
    assert sums["client"] == data * 4 + data[::-1]


@pytest.mark.parametrize(
    "host, args, trusted, words",
    [
        ("127.0.0.1", [], False, "which is not in the system's store"),
        ("127.0.0.1", ["--server-name", "other.example"], True, "its certificate is not for other.example (it is for"),
        ("127.0.0.1", [], True, None),
        ("localhost", [], True, None),
        ("127.0.0.1", ["--server-name", "localhost"], True, None),
        ("127.0.0.1", ["--insecure"], False, None),
        ("127.0.0.1", ["--insecure", "--server-name", "other.example"], False, None),
    ],
)
def test_the_servers_certificate_is_verified(start_relay, target, context, host, args, trusted, words):  # noqa: F811
    listener = target()
    relay = start_relay(*args, tls_address(listener, host), trusted=trusted)
    server = Server(listener, context)
    with relay.connect() as client:
        if words:
            with pytest.raises(ConnectionResetError):
                client.recv(100)
            error = closes(relay)[0]["error"]
            assert error.startswith("target: ") and words in error
        else:
            with server.got() as end:
                end.write(b"hello")
                assert client.recv(100) == b"hello"


def test_the_name_that_is_asked_for_is_the_hosts_or_as_it_is_told(start_relay, target, certs):  # noqa: F811
    listener, asked = target(), []
    context = certs.server("named")
    context.sni_callback = lambda s, name, c: asked.append(name)
    for args in ([], ["--server-name", "other.example", "--insecure"]):
        relay = start_relay(*args, tls_address(listener, "localhost"), trusted=not args)
        server = Server(listener, context)
        with relay.connect(), server.got():
            pass
    assert asked == ["localhost", "other.example"]


def test_the_protocols_that_are_offered_are_those_of_target_alpn(start_relay, target, certs):  # noqa: F811
    listener, context = target(), certs.server("alpn")
    context.set_alpn_protocols(["http/1.1", "h2"])
    for args, agreed in (["--target-alpn", "h2 x"], "h2"), ([], None):
        relay = start_relay(*args, tls_address(listener))
        server = Server(listener, context)
        with relay.connect(), server.got() as end:
            assert end.tls.selected_alpn_protocol() == agreed


def test_a_certificate_of_the_relays_own_is_shown(start_relay, target, certs):  # noqa: F811
    listener = target()
    context = certs.server("asking")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certs.ca)
    own = certs.make("relay", "DNS:relay.example")
    for args in (
        ["--target-cert", own],
        ["--target-cert", own.with_suffix(".crt"), "--target-key", own.with_suffix(".key")],
    ):
        relay = start_relay(*args, tls_address(listener))
        server = Server(listener, context)
        with relay.connect() as client, server.got() as end:
            end.write(b"hello")
            assert client.recv(100) == b"hello"
            assert (("commonName", "relay"),) in end.tls.getpeercert()["subject"]


def test_the_next_address_is_tried_where_the_handshake_fails(start_relay, target, context, certs):  # noqa: F811
    bad, silent, plain, good = target(), target(), target(), target()
    wrong = certs.server("wrong", "DNS:wrong.example")
    relay = start_relay(
        *("--connect-timeout", "500ms", "--retry-after", "1h"), *map(tls_address, (bad, silent, plain, good))
    )
    Server(bad, wrong)
    server = Server(good, context)

    def say():
        s = accept(plain)
        s.sendall(b"220 no TLS here\r\n" * 10)
        with contextlib.suppress(ConnectionResetError):
            read_all(s)

    threading.Thread(target=say, daemon=True).start()
    with relay.connect() as client, server.got() as end:
        end.write(b"hello")
        assert client.recv(100) == b"hello"
    begun = time.monotonic()
    server = Server(good, context)  # the others are left alone
    with relay.connect() as client, server.got() as end:
        end.write(b"hello")
        assert client.recv(100) == b"hello"
    assert time.monotonic() - begun < 0.4
    assert closes(relay, 2)[1]["target"] == tls_address(good)


@pytest.mark.parametrize("model", MODELS)
def test_a_proxy_header_stands_before_tls(start_relay, target, context, model):  # noqa: F811
    listener = target()
    relay = start_relay("--send-proxy", "v1", tls_address(listener), options=["--model", model])
    server = Server(listener, context, first=line_v1)
    with relay.connect() as client, server.got() as end:
        assert server.first.startswith("PROXY TCP4 127.0.0.1 127.0.0.1 %d " % client.getsockname()[1])
        end.write(b"hello")
        assert client.recv(100) == b"hello"


@pytest.mark.parametrize("model", MODELS)
def test_a_drain_ends_a_quiet_connection_in_order(start_relay, target, context, model):  # noqa: F811
    listener = target()
    relay = start_relay(tls_address(listener), options=["--model", model, "--grace", "8s"])
    server = Server(listener, context)
    with relay.connect() as client, server.got() as end:
        client.sendall(b"hello")
        assert end.read() == b"hello"
        relay.process.terminate()
        assert end.read() == b""
        end.write(b"goodbye")
        end.notify()
        end.s.close()
        assert read_all(client) == b"goodbye"
        assert relay.wait() == 0


def test_a_relay_to_itself_is_noticed(serve, target):  # noqa: F811
    s = target()
    port = s.getsockname()[1]
    s.close()
    relay = serve("--json", f"tcp://127.0.0.1:{port}", "relay", "--insecure", f"tls://127.0.0.1:{port}")
    with pytest.raises(ConnectionResetError), relay.connect() as client:
        client.recv(100)
    assert all(e["error"] == os.strerror(40) for e in closes(relay))


@pytest.mark.parametrize(
    "args, code, words",
    [
        (["--ca", "/nowhere", "tls://localhost:1"], 100, "/nowhere"),
        (["--insecure", "localhost:1"], 100, "--insecure is for tls:// addresses"),
        (["--ca", "/x", "localhost:1"], 100, "--ca is for tls:// addresses"),
        (["--target-alpn", "h2", "localhost:1"], 100, "--target-alpn is for tls:// addresses"),
        (["--server-name", "x", "localhost:1"], 100, "--server-name is for tls:// addresses"),
        (["--ca", "/x", "--insecure", "tls://localhost:1"], 100, "--insecure: one of them"),
        (["--target-key", "/x", "tls://localhost:1"], 100, "--target-key goes with --target-cert"),
        (["tls://localhost:1", "udp://localhost:1"], 100, "goes on to streams or to datagrams"),
    ],
)
def test_what_does_not_go_together_is_refused(run, args, code, words):
    done = run("serve", "tcp://127.0.0.1:0", "relay", *args)
    assert words in done.stderr.decode()
    assert done.returncode == code if code == 100 and "nowhere" not in words else done.returncode in (100, 111)
