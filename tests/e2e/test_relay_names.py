"""A relay that looks at the name in a TLS client's hello, and passes it on unopened to the address with that name."""
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest

from conftest import MODELS, PATIENCE, read_all, wait_until
from harkd_support import HEAD, harkd, run_test, service  # noqa: F401
from relay_support import accept, address_of, closes, hello, receive, refusals, target  # noqa: F401

WAYS = [(m, "epoll") for m in MODELS] + [("fiber", "uring"), ("fiber", "poll")]


def in_records(data, each):
    """The same message in records of so many bytes."""
    body = data[5:]
    parts = [body[i : i + each] for i in range(0, len(body), each)]
    return b"".join(b"\x16\x03\x01" + len(p).to_bytes(2, "big") + p for p in parts)


def expect(relay, data, listener):
    """What the client says reaches that target just as it was, and the answer the client."""
    with relay.connect() as client:
        client.sendall(data)
        with accept(listener) as server:
            assert receive(server, len(data)) == data
            server.sendall(b"hello yourself")
            assert client.recv(100) == b"hello yourself"
            client.sendall(b"and on")
            client.shutdown(socket.SHUT_WR)
            assert read_all(server) == b"and on"


def ends(client, data, finish=False):
    """What the client reads that says so; "reset" for a reset."""
    with client:
        try:
            client.sendall(data)
            if finish:
                with contextlib.suppress(OSError):  # it may be reset already
                    client.shutdown(socket.SHUT_WR)
            return read_all(client)
        except (ConnectionResetError, BrokenPipeError):
            return "reset"


@pytest.mark.parametrize("model, engine", WAYS)
def test_each_name_goes_to_its_own_address(serve, target, model, engine):  # noqa: F811
    one, below, rest = target(), target(), target()
    relay = serve(
        *("--json", "--model", model, "--engine", engine, "tcp://127.0.0.1:0"),
        *("relay", f"www.Example.org={address_of(one)}", f"*.example.org={address_of(below)}", address_of(rest)),
    )
    expect(relay, hello("www.example.org"), one)
    expect(relay, hello("WWW.EXAMPLE.ORG"), one)
    expect(relay, hello("www.example.org."), one)  # the root's dot, as some clients have it
    expect(relay, hello("a.example.org."), below)
    expect(relay, hello("a.example.org"), below)
    expect(relay, hello("b.a.example.org"), below)
    expect(relay, hello("example.org"), rest)
    expect(relay, hello("notexample.org"), rest)
    expect(relay, hello(), rest)
    wanted = [one, one, one, below, below, below, rest, rest, rest]
    assert [e["target"] for e in closes(relay, 9)] == [address_of(t) for t in wanted]


@pytest.mark.parametrize("model, engine", WAYS)
def test_a_hello_in_many_records_and_segments_is_passed_on_as_it_was(serve, target, model, engine):  # noqa: F811
    one, rest = target(), target()
    relay = serve(
        *("--model", model, "--engine", engine, "tcp://127.0.0.1:0"),
        *("relay", f"www.example.org={address_of(one)}", address_of(rest)),
    )
    expect(relay, in_records(hello("www.example.org"), 7), one)
    data = in_records(hello("www.example.org"), 50)
    with relay.connect() as client:
        for i in range(len(data)):
            client.sendall(data[i : i + 1])
        with accept(one) as server:
            assert receive(server, len(data)) == data


def test_tls_itself_goes_through(serve, target, tmp_path):  # noqa: F811
    listener, rest = target(), target()
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k -out c "
        "-subj /CN=www.example.org -addext subjectAltName=DNS:www.example.org".split(),
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=PATIENCE,
    )
    relay = serve("tcp://127.0.0.1:0", "relay", f"*.example.org={address_of(listener)}", address_of(rest))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c", tmp_path / "k")
    data = os.urandom(300000)

    def answer():
        with context.wrap_socket(accept(listener), server_side=True) as s:
            got = receive(s, len(data))
            s.sendall(got[::-1])
            s.unwrap()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    client = ssl.create_default_context(cafile=tmp_path / "c")
    with client.wrap_socket(relay.connect(), server_hostname="www.example.org") as s:
        s.sendall(data)
        assert receive(s, len(data)) == data[::-1]
        assert s.recv(1) == b""  # close_notify
    thread.join(PATIENCE)


def test_the_addresses_of_a_name_are_tried_in_turn_and_no_others(serve, target):  # noqa: F811
    gone, one, rest = target(), target(), target()
    where = address_of(gone)
    gone.close()
    relay = serve(
        *("--json", "tcp://127.0.0.1:0", "relay", f"a.example={where}", f"b.example={where}"),
        *(address_of(rest), f"a.example={address_of(one)}"),
    )
    expect(relay, hello("a.example"), one)
    assert ends(relay.connect(), hello("b.example")) == "reset"
    end = closes(relay, 2)[1]
    assert (end["target"], end["error"]) == (where, "Connection refused")


def test_a_protocol_may_have_an_address_of_its_own(serve, target):  # noqa: F811
    acme, h2, one, rest = target(), target(), target(), target()
    relay = serve(
        *("tcp://127.0.0.1:0", "relay", f"*/acme-tls/1={address_of(acme)}", f"a.example/h2={address_of(h2)}"),
        *(f"a.example={address_of(one)}", address_of(rest)),
    )
    expect(relay, hello("a.example", ["acme-tls/1"]), acme)
    expect(relay, hello("a.example", ["http/1.1", "h2"]), h2)
    expect(relay, hello("a.example", ["http/1.1"]), one)
    expect(relay, hello("a.example"), one)
    expect(relay, hello("b.example", ["h2"]), rest)


@pytest.mark.parametrize("model, engine", WAYS)
def test_a_name_that_nobody_has_is_told_by_an_alert(serve, target, model, engine):  # noqa: F811
    one = target()
    relay = serve(
        *("--json", "--model", model, "--engine", engine, "tcp://127.0.0.1:0"),
        *("relay", f"a.example={address_of(one)}"),
    )
    assert ends(relay.connect(), hello("b.example"), finish=True) == bytes([21, 3, 3, 0, 2, 2, 112])
    assert ends(relay.connect(), hello(), finish=True) == bytes([21, 3, 3, 0, 2, 2, 112])
    context = ssl.create_default_context()
    with pytest.raises(ssl.SSLError, match="(?i)unrecognized.name"):
        context.wrap_socket(relay.connect(), server_hostname="b.example")
    refused = [(e["target"], e["refused"], e["error"]) for e in refusals(relay, 3)]
    assert refused == [(None, "tls_name", name) for name in ("b.example", "it asks for no name", "b.example")]


@pytest.mark.parametrize("model", MODELS)
def test_what_is_no_hello_is_refused(serve, target, model):  # noqa: F811
    rest = target()
    relay = serve(
        *("--json", "--model", model, "tcp://127.0.0.1:0"),
        *("relay", f"a.example={address_of(rest)}", address_of(rest)),
    )
    bad = [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", b"\x16\x03\x01\x40\x01"]
    for data in bad:
        assert ends(relay.connect(), data) == "reset"
    assert ends(relay.connect(), hello("a.example")[:100], finish=True) == "reset"  # it ends in the midst
    assert ends(relay.connect(), b"\x16\x03\x01\x00\x04\x01\x00\xff\xff") == "reset"
    refused = refusals(relay, 5)
    assert [e["refused"] for e in refused] == ["tls_hello"] * 5
    assert {e["error"] for e in refused} == {"what came is no hello of TLS", "its hello is too long"}
    expect(relay, hello("a.example"), rest)  # and costs its own connection alone


@pytest.mark.parametrize("model, engine", WAYS)
def test_a_hello_that_never_ends_ends_at_its_deadline(serve, target, model, engine):  # noqa: F811
    one = target()
    relay = serve(
        *("--json", "--model", model, "--engine", engine, "tcp://127.0.0.1:0"),
        *("relay", "--hello-timeout", "300ms", f"a.example={address_of(one)}"),
    )
    with relay.connect() as client:
        begun = time.monotonic()
        with pytest.raises(ConnectionResetError):
            for byte in hello("a.example"):  # each comes in time for an idle time-out
                client.sendall(bytes([byte]))
                time.sleep(0.05)
        assert 0.2 < time.monotonic() - begun < 3
    refused = refusals(relay)[0]
    assert (refused["refused"], refused["error"]) == ("tls_hello", "its hello is late")


def test_refusals_are_counted(harkd, target):  # noqa: F811
    h = harkd(service("front", f"relay = a.example={address_of(target())}"))
    for i in range(30):
        ends(h.connect("front"), b"GET / HTTP/1.1\r\n\r\n" if i % 3 else hello("b.example"), finish=True)
    refused = wait_until(lambda: (r := h.service("front")["refused"])["tls_hello"] + r["tls_name"] == 30 and r)
    assert (refused["tls_hello"], refused["tls_name"]) == (20, 10)
    assert h.service("front")["failed"] == 0


def test_a_connection_lasts_longer_than_its_hello_might(serve, target):  # noqa: F811
    one = target()
    relay = serve(
        "tcp://127.0.0.1:0", "relay", "--hello-timeout", "200ms", f"a.example={address_of(one)}", address_of(one)
    )
    with relay.connect() as client:
        client.sendall(hello("a.example"))
        with accept(one) as server:
            time.sleep(0.5)
            server.sendall(b"late")
            assert client.recv(100) == b"late"


def test_who_leaves_without_a_word_has_done_nothing_wrong(serve, target):  # noqa: F811
    relay = serve("--json", "tcp://127.0.0.1:0", "relay", f"a.example={address_of(target())}")
    relay.connect().close()
    end = closes(relay)[0]
    assert (end["error"], end["status"]) == (None, 0)


@pytest.mark.parametrize("model", MODELS)
def test_a_drain_sends_away_who_has_not_said_anything(serve, target, model):  # noqa: F811
    relay = serve("--model", model, "--grace", "20s", "tcp://127.0.0.1:0", "relay", f"a.example={address_of(target())}")
    with relay.connect() as client:
        relay.send(signal.SIGTERM)
        assert client.recv(100) == b""
        assert relay.wait() == 0


def test_a_hundred_hellos_at_once(serve, target):  # noqa: F811
    one, rest = target(), target()
    relay = serve("tcp://127.0.0.1:0", "relay", f"a.example={address_of(one)}", address_of(rest), nofile=4096)
    clients = [relay.connect() for _ in range(100)]
    try:
        said = [hello("b.example"), hello("a.example")]
        for part in (slice(50), slice(50, None)):
            for i, s in enumerate(clients):
                s.sendall(said[i % 2][part])
        for listener in (one, rest):
            for _ in range(50):
                clients.append(accept(listener))
                clients[-1].sendall(b"here")
        for s in clients[:100]:
            assert s.recv(100) == b"here"
    finally:
        for s in clients:
            s.close()
    wait_until(lambda: len(os.listdir(f"/proc/{relay.pid}/fd")) < 20)


@pytest.mark.parametrize(
    "listen, args, words",
    [
        ("tcp://127.0.0.1:0", ["=127.0.0.1:1"], "no name of a host"),
        ("tcp://127.0.0.1:0", ["a..*=127.0.0.1:1"], "no name of a host"),
        ("tcp://127.0.0.1:0", ["*a.example=127.0.0.1:1"], "no name of a host"),
        ("tcp://127.0.0.1:0", ["a.example.=127.0.0.1:1"], "no name of a host"),
        ("tcp://127.0.0.1:0", ["a" * 256 + "=127.0.0.1:1"], "no name of a host"),
        ("tcp://127.0.0.1:0", ["a.example/=127.0.0.1:1"], "no protocol"),
        ("tcp://127.0.0.1:0", ["a.example="], ""),
        ("tcp://127.0.0.1:0", ["a.example=fd:3"], "cannot share one descriptor"),
        ("udp://127.0.0.1:0", ["a.example=udp://127.0.0.1:1"], "told by TLS, on streams"),
        ("tcp://127.0.0.1:0", ["*.b=127.0.0.1:1", "a.b=127.0.0.1:2"], "*.b stands before it"),
        ("tcp://127.0.0.1:0", ["*=127.0.0.1:1", "a.b/h2=127.0.0.1:2"], "* stands before it"),
        ("tcp://127.0.0.1:0", ["a.b=127.0.0.1:1", "A.B/h2=127.0.0.1:2"], "a.b stands before it"),
    ],
)
def test_a_bad_name_is_refused_at_the_start(run, listen, args, words):
    done = run("serve", listen, "relay", *args)
    assert done.returncode == 100 and words in done.stderr.decode()


def test_the_configuration_takes_names_and_finds_loops_through_them(hark, tmp_path):
    (tmp_path / "hark.conf").write_text(
        HEAD.format(dir=tmp_path)
        + service("one", f"relay = *.example.org=unix:{tmp_path}/b \\\n unix:/nowhere", listen=f"unix:{tmp_path}/a")
        + service("two", f"relay = unix:/nowhere a.example/h2=unix:{tmp_path}/a", listen=f"unix:{tmp_path}/b")
        + service("fine", "relay = a=unix:/x=y b=unix:/z\nhello_timeout = 3s", listen=f"unix:{tmp_path}/c")
    )
    done = run_test(hark, tmp_path)
    text = done.stderr.decode()
    assert done.returncode == 100, text
    assert "relays that lead back to themselves: [one] -> [two] -> [one]" in text
    assert "fine" not in text
