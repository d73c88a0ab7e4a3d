"""Each system call and allocation of a reload, of a renewal and of an upgrade fails at its Nth use: in the supervisor,
and in the workers that are tried. It fails as a whole then, with a reason, and the old configuration goes on; or it
takes place as a whole. No certificate is loaded by half, nobody is served without TLS or without a certificate that is
accepted; sessions are resumed afterwards."""
import contextlib
import errno
import socket
import ssl

import pytest

from conftest import wait_until
from fault_support import HANG, Case, descriptors, faults, naming, wait_for_descriptors  # noqa: F401
from harkd_support import harkd  # noqa: F401
from pki_support import context, dial, pki  # noqa: F401

NAMES = ("a.example", "b.example")
READ_AGAIN = "certificates: read again"
SHOWN = [{f"{n} of {name}" for name in NAMES} for n in "12"]


class Live:
    """Two sets of certificates; which one lies in the service's place is a link's matter, so that to go back to one is
    no change that anybody looks at."""

    def __init__(self, pki, directory):
        self.pki, self.link, self.now = pki, directory / "live", "1"
        for n in "12":
            (pki / f"set{n}").mkdir(exist_ok=True)
            for name in NAMES:
                if not (pki / f"set{n}/{name}.pem").exists():
                    pki.make(f"set{n}/{name}", f"{n} of {name}", f"DNS:{name}")
        self.put("1")
        self.clients = context(pki, "client"), context(pki)
        self.session = None

    def put(self, which):
        new = self.link.with_suffix(".new")
        new.symlink_to(self.pki / f"set{which}")
        new.rename(self.link)

    def other(self):
        return "2" if self.now == "1" else "1"

    def service(self, more=""):
        pairs = "".join(f"cert = {self.link}/{n}.pem\nkey = {self.link}/{n}.key\n" for n in NAMES)
        clients = f"client_ca = {self.pki / 'ca.pem'}\nclient_crl = {self.pki / 'ca.crl'}\n"
        return f"[t]\nlisten = tls://127.0.0.1:0\nbox = echo\n{pairs}{clients}{more}\n"

    def shown(self, d, port):
        """Which set is served: one and the same for both names, but while harkd itself renews them."""
        while True:
            settle(d)
            before, sets = d.stderr.count(READ_AGAIN), set()
            for name in NAMES:
                with dial(port, self.clients[0], name) as s:
                    sets.add(dict(x[0] for x in s.getpeercert()["subject"])["commonName"])
                    s.sendall(b"x")
                    assert s.recv(1) == b"x"
            settle(d)
            if d.stderr.count(READ_AGAIN) == before:
                assert sets in SHOWN, sets
                return sets.pop()[0]

    def nobody_else(self, port):
        with contextlib.suppress(ssl.SSLError, ConnectionError), dial(port, self.clients[1]) as s:
            s.sendall(b"x")
            assert s.recv(1) == b"", "served without a certificate"
        with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), HANG) as s:
            s.sendall(b"plain\n")
            assert not s.recv(6).startswith(b"plain"), "served without TLS"

    def resumes(self, port):
        with dial(port, self.clients[0], session=self.session) as s:
            s.sendall(b"x")
            assert s.recv(1) == b"x"
            was, self.session = s.session_reused, s.session
        return was


@pytest.fixture
def live(pki, tmp_path):
    return Live(pki, tmp_path)


def settle(d):
    """No reload is under way, and its other workers have ended."""
    wait_until(lambda: len(d.service("t")["workers"]) == 1)


def ask(d, what):
    """None: the control socket itself has failed."""
    with contextlib.suppress(AssertionError, OSError, ValueError):
        return d.ask(what)


def reload_once(d, live, port, faults, case, **where):
    live.put(live.other())
    with faults.armed(case, **where) as b:
        answer = ask(d, "reload")
    if answer is None or not answer["ok"]:
        live.put(live.now)
    shown = live.shown(d, port)
    if answer is None:
        assert b.fired
    elif answer["ok"]:
        assert shown == live.other() or answer["changed"] == 0
    else:  # the old ones go on, but where harkd has looked at the files by itself
        assert b.fired and any([answer.get("error"), *answer.get("errors", [])]), answer
    live.now = shown
    live.put(shown)
    live.nobody_else(port)


def sweep(d, live, faults, many, but=(), **where):
    port = d.port("t")
    for _ in range(3):
        reload_once(d, live, port, faults, None)
    live.resumes(port)
    before = descriptors(d.pid)
    live.put(live.other())
    uses = faults.uses(lambda: d.ask("reload"), **where)
    live.now = live.other()
    settle(d)
    for case in faults.cases(uses, many, but):
        with naming(case):
            reload_once(d, live, port, faults, case, **where)
            wait_for_descriptors(d.pid, before)
    assert live.resumes(port), "the tickets' keys are lost"
    assert d.stop() == 0
    assert "Sanitizer" not in d.stderr and "runtime error" not in d.stderr, d.stderr
    print(f"{faults.seen} struck")


def test_in_the_supervisor(harkd, live, faults):
    d = harkd(live.service(), env=faults.env())
    sweep(d, live, faults, 10, of=d.pid, alone=True)


def test_in_the_new_workers(harkd, live, faults):
    d = harkd(live.service(), env=faults.env())
    sweep(d, live, faults, 12, of=d.pid, new=True)


# ---- by file change ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call, error", [("fork", errno.EAGAIN), ("dlopen", errno.ENOENT)])
def test_a_renewal_that_lacked_something_is_tried_again(harkd, live, faults, call, error):
    """Without a further change; the old ones go on meanwhile."""
    d = harkd(live.service(), env=faults.env())
    port = d.port("t")
    live.put("2")
    with faults.armed(Case(call, error, 1), of=d.pid) as b:
        wait_until(lambda: b.fired)
    d.expect("certificates: read again by 0 services, 1 goes on with the old ones$")
    assert live.shown(d, port) == "1"
    d.expect("certificates: read again by 1 service, 0 go on with the old ones$", 30)
    assert live.shown(d, port) == "2"


# ---- upgrades ------------------------------------------------------------------------------------------------------


# What each of these lacks would leave the next generation with less than it was handed; or the older one without it.
UPGRADES = {"malloc": (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 40, 80, 160, 320), "mmap": (1, 2, 3, 4), "memfd_create": (1,)}
UPGRADES.update({call: (1, 2) for call in ("pipe2", "fork", "dup2", "open", "fcntl", "socketpair", "stat", "read")})


def upgrade_once(d, live, port, faults, case):
    """True: the next generation serves."""
    with faults.armed(case, of=d.pid) as b:
        answer = ask(d, "upgrade wait")
    with contextlib.suppress(OSError, AssertionError):
        now = d.status()
        if now["generation"] > 1:
            d.generations.append(now["pid"])
    assert live.shown(d, port) == "1"
    live.nobody_else(port)
    assert live.resumes(port), "the tickets' keys are lost"
    if answer is None or not answer["ok"]:
        assert b.fired and (answer is None or answer["error"]), answer
    return len(d.generations) > 0


def test_an_upgrade_takes_place_as_a_whole_or_not_at_all(harkd, live, faults):
    """Where it does not, the older generation goes on, which tells why; tickets are good in either."""
    d, ends = None, []
    for call, nths in UPGRADES.items():
        for nth in nths:
            case = Case(call, faults.errors(call)[0], nth)
            with naming(case):
                if d is None:
                    d = harkd(live.service(), env=faults.env())
                    live.session = None
                    live.resumes(d.port("t"))
                if upgrade_once(d, live, d.port("t"), faults, case):
                    d.end()
                    ends.append(d.stderr)
                    d = None
    assert not [e for e in ends if "Sanitizer" in e or "runtime error" in e]
