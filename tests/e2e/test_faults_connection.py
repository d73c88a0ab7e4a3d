"""Each system call and allocation of a worker that serves behind proxies and TLS fails at its Nth use: it costs its own
connection at most. Nobody is served without TLS, without a proxy's header or without a certificate that is accepted; a
program sees the client that the proxy told, or does not run; nothing crashes, hangs or leaks."""
import socket
import ssl

import pytest

from conftest import wait_until
from fault_support import HANG, descriptors, faults, naming, wait_for_descriptors  # noqa: F401
from harkd_support import free_port, harkd  # noqa: F401
from pki_support import context, pki, server_lines  # noqa: F401

PEER = "192.0.2.1"
HEADER = f"PROXY TCP4 {PEER} 198.51.100.2 1000 443\r\n".encode()
ASK = "exec = /bin/sh -c 'read x; echo \"$x $TCPREMOTEIP $REMOTE_ADDR $SSL_CLIENT_VERIFY $SSL_CLIENT_S_DN\"'"
ANSWER = f"hello {PEER} {PEER} SUCCESS CN=a client,O=hark\n".encode()


class Clients:
    """Of the service t: those that it is for, and those that it must never serve."""

    def __init__(self, pki):
        self.good, self.bare = context(pki, "client"), context(pki)
        self.gone, self.other = context(pki, "gone"), context(pki, "other")
        self.port = self.answer = None

    def call(self, c, name="b.example", header=HEADER, session=None):
        """What was answered; None: it was cut, or refused. A certificate for another name is a failure."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), HANG) as s:
                s.sendall(header)
                if c is None:
                    s.sendall(b"hello\n")
                    return s.recv(100) or None
                with c.wrap_socket(s, server_hostname=name, session=session, suppress_ragged_eofs=False) as tls:
                    return self.talk(tls)
        except ssl.SSLCertVerificationError:
            raise
        except TimeoutError as e:
            raise AssertionError("it hangs") from e
        except (ssl.SSLError, OSError):
            return None

    def talk(self, tls):
        tls.sendall(b"hello\n")
        answer = b""
        while not answer.endswith(b"\n"):
            chunk = tls.recv(1000)
            if not chunk:
                return None
            answer += chunk
        self.session = tls.session
        return answer

    def well(self):
        assert self.call(self.good) == self.answer

    def good_ones(self):
        for name in ("a.example", "b.example"):
            assert self.call(self.good, name) in (None, self.answer)
        assert self.call(self.good, session=self.session) in (None, self.answer)

    def bad_ones(self):
        plain = self.call(None)
        assert plain is None or plain.startswith(b"\x15\x03"), plain  # an alert
        assert self.call(self.good, header=b"") is None
        for c in (self.bare, self.gone, self.other):
            assert self.call(c) is None


def service(pki, more="box = echo"):
    return (
        f"[t]\nlisten = tls://127.0.0.1:0\n{server_lines(pki, 'a', 'b')}client_ca = {pki / 'ca.pem'}\n"
        f"client_crl = {pki / 'ca.crl'}\nproxy_from = 127.0.0.1\nproxy_timeout = 3s\ntls_handshake_timeout = 4s\n"
        f"max_per_source = 100\n{more}\n"
    )


@pytest.fixture
def sweep(faults, harkd, pki):
    """sweep(text, answer): a harkd with that service, and each case over it."""

    def sweep(text, answer=b"hello\n", many=40, bad=True, but=(), **more):
        d = harkd(text, env=faults.env(**more))
        clients = Clients(pki)
        clients.port, clients.answer = d.port("t"), answer
        (worker,) = d.workers("t")
        does = [clients.good_ones] + ([clients.bad_ones] if bad else [])
        for _ in range(3):
            clients.well()
            [do() for do in does]
        wait_until(lambda: d.service("t")["now"] == 0)
        before = descriptors(worker)
        alive, cases = 0, 0
        for do in does:
            uses = faults.uses(do, of=worker)
            for case in faults.cases(uses, many, but):
                with naming(case):
                    with faults.armed(case, of=worker) as b:
                        do()
                    if b.fired:
                        clients.well()
                    wait_for_descriptors(worker, before)
                    cases += 1
                    alive = alive or b.live
        with naming(case):
            grown = faults.board.live - alive
            assert grown < cases / 4 + 100, f"{grown} allocations more are held after {cases} cases"
            assert d.workers("t") == [worker] and d.service("t")["crashes"] == 0
            wait_until(lambda: d.service("t")["now"] == 0)
        assert d.stop() == 0
        assert "Sanitizer" not in d.stderr and "runtime error" not in d.stderr, d.stderr
        print(f"{cases} cases, {faults.seen} struck")

    return sweep


def test_of_fibers(sweep, pki):
    sweep(service(pki), many=40)


@pytest.mark.parametrize("model, engine", [("inline", "epoll"), ("process", "epoll"), ("thread", "poll")])
def test_of_other_models(sweep, pki, model, engine):
    sweep(service(pki, f"box = echo\nmodel = {model}\nengine = {engine}\n"), many=6)


@pytest.mark.parametrize("model", ["process", "fiber"])
def test_of_a_program_behind_tls(sweep, pki, model):
    """It runs with all that is to be told of the client, or not at all."""
    sweep(service(pki, f"{ASK}\nmodel = {model}\n"), ANSWER, many=8, bad=False, HARK_FAIL_CLONE="1")


def behind(pki, name, cert, port, more=""):
    ask = "exec = /bin/sh -c 'read x; echo \"$x $TCPREMOTEIP $PROXY_SSL_CN $PROXY_SSL_VERIFY\"'"
    return (
        f"[{name}]\nlisten = tls://127.0.0.1:{port}\n{server_lines(pki, cert)}proxy_from = 127.0.0.1\n"
        f"{ask}\n{more}\n"
    )


def test_of_a_relay_with_tls_and_proxy_headers_both_ways(sweep, pki):
    """The target is told of the client and its certificate, or of nobody."""
    port = free_port()
    relay = (
        f"relay = tls://127.0.0.1:{port}\nsend_proxy = v2\nca = {pki / 'ca.pem'}\nserver_name = a.example\n"
        f"target_cert = {pki / 'client.pem'}\ntarget_key = {pki / 'client.key'}\n"
    )
    text = service(pki, relay) + behind(pki, "back", "a", port, f"client_ca = {pki / 'ca.pem'}\n")
    sweep(text, f"hello {PEER} a client 0\n".encode(), many=8)


def test_of_a_relay_that_routes_by_name(sweep, pki):
    """Nobody gets to the other one's target: its certificate would tell."""
    ports = free_port(), free_port()
    text = (
        f"[t]\nlisten = tcp://127.0.0.1:0\nproxy_from = 127.0.0.1\nsend_proxy = v2\n"
        f"relay = a.example=tcp://127.0.0.1:{ports[0]} b.example=tcp://127.0.0.1:{ports[1]}\n"
    )
    text += behind(pki, "a", "a", ports[0]) + behind(pki, "b", "b", ports[1])
    sweep(text, f"hello {PEER}  \n".encode(), many=8, bad=False)
