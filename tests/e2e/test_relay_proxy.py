"""A relay that tells its target who the client is, by the PROXY protocol."""
import os
import socket
import struct

import pytest

from conftest import MODELS, PATIENCE, read_all, wait_until
from harkd_support import free_port
from relay_support import accept, address_of, closes, hello, line_v1, receive, target  # noqa: F401

WAYS = [(m, "epoll") for m in MODELS] + [("fiber", "uring"), ("fiber", "poll")]
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
ALPN, AUTHORITY, CRC32C, UNIQUE_ID = 1, 2, 3, 5


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def header_v2(s):
    """Command, family, addresses, and TLVs by their types, of the header that begins the stream."""
    fixed = receive(s, 16)
    assert fixed[:12] == SIGNATURE and fixed[12] >> 4 == 2
    rest = receive(s, struct.unpack("!H", fixed[14:])[0])
    size = {0x00: 0, 0x11: 12, 0x21: 36, 0x31: 216}[fixed[13]]
    tlvs, at = {}, size
    while at < len(rest):
        kind, n = struct.unpack("!BH", rest[at : at + 3])
        assert kind not in tlvs
        tlvs[kind] = rest[at + 3 : at + 3 + n]
        if kind == CRC32C:
            whole = fixed + rest[: at + 3] + bytes(4) + rest[at + 7 :]
            assert struct.unpack("!I", tlvs[kind])[0] == crc32c(whole)
        at += 3 + n
    assert at == len(rest)
    return fixed[12] & 15, fixed[13], rest[:size], tlvs


def both(a, b):
    """An exchange in which each side ends."""
    a.sendall(b"question")
    a.shutdown(socket.SHUT_WR)
    assert read_all(b) == b"question"
    b.sendall(b"answer")
    b.close()
    assert read_all(a) == b"answer"


@pytest.mark.parametrize("model, engine", WAYS)
def test_version_1_tells_the_clients_addresses(serve, target, model, engine):  # noqa: F811
    listener = target()
    relay = serve(
        *("--model", model, "--engine", engine, "tcp://127.0.0.1:0"),
        *("relay", "--send-proxy", "v1", address_of(listener)),
    )
    with relay.connect() as client, accept(listener) as server:
        port, asked = client.getsockname()[1], client.getpeername()[1]
        assert line_v1(server) == f"PROXY TCP4 127.0.0.1 127.0.0.1 {port} {asked}\r\n"
        both(client, server)


@pytest.mark.parametrize("model, engine", WAYS)
def test_version_2_tells_the_clients_addresses(serve, target, model, engine):  # noqa: F811
    listener = target()
    relay = serve(
        *("--model", model, "--engine", engine, "tcp://127.0.0.1:0"),
        *("relay", "--send-proxy=v2", address_of(listener)),
    )
    with relay.connect() as client, accept(listener) as server:
        command, family, addresses, tlvs = header_v2(server)
        ends = struct.pack("!HH", client.getsockname()[1], client.getpeername()[1])
        assert (command, family) == (1, 0x11)
        assert addresses == bytes([127, 0, 0, 1]) * 2 + ends
        assert set(tlvs) == {CRC32C, UNIQUE_ID}
        assert tlvs[UNIQUE_ID].decode().endswith("_127.0.0.1:%d_127.0.0.1:%d" % (client.getsockname()[1], relay.port()))
        both(client, server)


def test_a_client_over_ipv6_is_told_as_one_and_a_mapped_one_as_ipv4(serve, target):  # noqa: F811
    listener = target()
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    relay = serve("tcp://*:0", "relay", "--send-proxy", "v1", address_of(listener))
    for host, family in [("::1", "TCP6"), ("127.0.0.1", "TCP4")]:
        with socket.create_connection((host, relay.port())) as client, accept(listener) as server:
            assert line_v1(server).startswith(f"PROXY {family} {host} {host} {client.getsockname()[1]} ")


def test_a_unix_client_has_no_address_that_version_1_knows(serve, target, tmp_path):  # noqa: F811
    listener = target()
    relay = serve(f"unix:{tmp_path}/s", "relay", "--send-proxy", "v1", address_of(listener))
    with relay.connect() as client, accept(listener) as server:
        assert line_v1(server) == "PROXY UNKNOWN\r\n"
        both(client, server)


def test_the_name_that_the_client_asks_for_is_told(serve, target):  # noqa: F811
    listener = target()
    relay = serve("tcp://127.0.0.1:0", "relay", "--send-proxy", "v2", f"*.example={address_of(listener)}")
    data = hello("a.example", ["h2"])
    with relay.connect() as client:
        client.sendall(data)
        with accept(listener) as server:
            _, _, _, tlvs = header_v2(server)
            assert tlvs[AUTHORITY] == b"a.example" and ALPN not in tlvs  # which one is taken the target will know
            assert receive(server, len(data)) == data
            server.sendall(b"yes")
            assert client.recv(100) == b"yes"


def test_the_next_address_gets_a_header_as_well(serve, target):  # noqa: F811
    gone, listener = target(), target()
    where = address_of(gone)
    gone.close()
    relay = serve("tcp://127.0.0.1:0", "relay", "--send-proxy", "v1", where, address_of(listener))
    with relay.connect() as client, accept(listener) as server:
        assert line_v1(server).startswith("PROXY TCP4 127.0.0.1 ")
        both(client, server)


def test_a_target_that_speaks_first_is_heard_before_the_client_says_anything(serve, target):  # noqa: F811
    listener = target()
    relay = serve("tcp://127.0.0.1:0", "relay", "--send-proxy", "v1", address_of(listener))
    with relay.connect() as client, accept(listener) as server:
        assert line_v1(server)
        server.sendall(b"220 ready")
        assert client.recv(100) == b"220 ready"


def test_datagrams_have_no_header(run):
    done = run("serve", "udp://127.0.0.1:0", "relay", "--send-proxy", "v1", "udp://127.0.0.1:1")
    assert done.returncode == 100 and b"--send-proxy is for streams" in done.stderr


def test_a_version_that_there_is_not_is_refused(run):
    done = run("serve", "tcp://127.0.0.1:0", "relay", "--send-proxy", "v3", "127.0.0.1:1")
    assert done.returncode == 100 and b'"v3" is not no|v1|v2' in done.stderr


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_much_passes_behind_a_header(serve, target, version):  # noqa: F811
    listener = target()
    relay = serve("tcp://127.0.0.1:0", "relay", "--send-proxy", version, address_of(listener))
    data = os.urandom(1 << 20)
    with relay.connect() as client, accept(listener) as server:
        header_v2(server) if version == "v2" else line_v1(server)
        server.sendall(data)
        server.close()
        assert read_all(client) == data


@pytest.mark.parametrize("model", MODELS)
def test_a_chain_of_relays_tells_of_the_first_client(serve, target, model):  # noqa: F811
    listener = target()
    behind = "--proxy-from=127.0.0.0/8"
    last = serve(
        *("--json", "--model", model, behind, "tcp://127.0.0.1:0"),
        *("relay", "--send-proxy", "v2", address_of(listener)),
    )
    middle = serve("--model", model, behind, "tcp://127.0.0.1:0", "relay", "--send-proxy", "v2", last.at())
    first = serve("--model", model, "tcp://127.0.0.1:0", "relay", "--send-proxy", "v2", middle.at())
    with first.connect() as client, accept(listener) as server:
        _, _, addresses, tlvs = header_v2(server)
        port = client.getsockname()[1]
        assert addresses == bytes([127, 0, 0, 1]) * 2 + struct.pack("!HH", port, first.port())
        assert tlvs[UNIQUE_ID].endswith(b"_127.0.0.1:%d_127.0.0.1:%d" % (port, first.port()))
        both(client, server)
    assert closes(last)[0]["peer"] == f"tcp://127.0.0.1:{port}"


def test_a_hop_limit_ends_a_loop_of_relays_that_tell_headers(serve):
    port = free_port()
    behind = ["--proxy-from=127.0.0.1", "--proxy-direct", f"tcp://127.0.0.1:{port}"]
    other = serve(
        *("--proxy-from=127.0.0.1", "tcp://127.0.0.1:0"),
        *("relay", "--send-proxy", "v1", f"tcp://127.0.0.1:{port}"),
    )
    serve(*behind, "relay", "--send-proxy", "v1", other.at())
    with socket.create_connection(("127.0.0.1", port), PATIENCE, ("127.0.0.9", 0)) as client:
        with pytest.raises(ConnectionResetError):
            client.recv(10)
    wait_until(lambda: len(os.listdir(f"/proc/{other.pid}/fd")) < 20)
