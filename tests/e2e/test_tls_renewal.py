"""Certificates that are renewed: by a reload, and as their files change; nobody is refused meanwhile, connections keep
theirs, and a half-written pair keeps the old one."""
import contextlib
import os
import re
import resource
import shutil
import ssl
import threading
import time
import types

import pytest

from conftest import read_all, wait_until
from fault_support import descriptors
from harkd_support import harkd  # noqa: F401
from pki_support import context, dial, pki, server_lines  # noqa: F401
from tls_support import TlsServer


@pytest.fixture
def live(pki, tmp_path):
    """live(name) puts that certificate and its key in the place of the live ones, by rename as certbot does."""

    def live(name, what=("pem", "key")):
        for suffix in what:
            shutil.copy(pki / f"{name}.{suffix}", tmp_path / f"new.{suffix}")
            (tmp_path / f"new.{suffix}").rename(tmp_path / f"live.{suffix}")

    for name, more in (("r1", {}), ("r2", {})):
        if not (pki / f"{name}.pem").exists():
            pki.make(name, name, "DNS:a.example", **more)
    live("r1")
    live.lines = f"cert = {tmp_path}/live.pem\nkey = {tmp_path}/live.key\n"
    return live


def name_of(cert):
    return dict(x[0] for x in cert["subject"])["commonName"]


def shown_at(port, pki):
    with dial(port, context(pki)) as s:
        return name_of(s.getpeercert())


def shown(d, pki, name="t"):
    return shown_at(d.port(name), pki)


def service(live, more=""):
    return (
        f"[t]\nlisten = tls://127.0.0.1:0\nbox = echo\n{live.lines}{more}[u]\nlisten = tcp://127.0.0.1:0\nbox = echo\n"
    )


def test_a_reload_reads_them_again_and_touches_nobody_else(harkd, pki, live):
    d = harkd(service(live))
    other, before = d.workers("u"), d.workers("t")
    with dial(d.port("t"), context(pki)) as old:
        answer = d.ask("reload")
        assert answer["ok"] and answer["unchanged"] == 2
        live("r2")
        answer = d.ask("reload")
        assert answer["ok"] and (answer["changed"], answer["unchanged"]) == (1, 1)
        assert shown(d, pki) == "r2" and d.workers("u") == other and d.workers("t") != before
        old.sendall(b"x")  # what was connected goes on
        assert old.recv(1) == b"x"


@pytest.mark.parametrize("more", ["", "model = process\nworkers = 2\n", "start = demand\n"])
def test_a_changed_file_is_read_without_a_reload(harkd, pki, live, more):
    d = harkd(service(live, more))
    other = d.workers("u")
    assert shown(d, pki) == "r1"
    live("r2")
    d.expect("certificates: read again by 1 service, 0 go on with the old ones$")
    wait_until(lambda: shown(d, pki) == "r2")
    assert d.workers("u") == other


def test_a_half_written_pair_keeps_the_old_one_and_is_told(harkd, pki, live):
    d = harkd(service(live))
    live("r2", ["pem"])
    d.expect("goes on as it was, .*live")
    assert shown(d, pki) == "r1"
    assert "live" in d.service("t")["error"]
    live("r2", ["key"])
    wait_until(lambda: shown(d, pki) == "r2")
    wait_until(lambda: d.service("t")["error"] is None)


def test_a_renewal_under_load_fails_no_handshake(harkd, pki, live):
    d = harkd(service(live, "workers = 2\n"))
    port, stop, failed, done = d.port("t"), threading.Event(), [], []

    def load():
        while not stop.is_set():
            try:
                with dial(port, context(pki)) as s:
                    s.sendall(b"x")
                    assert s.recv(1) == b"x"
                done.append(1)
            except (ssl.SSLError, OSError, AssertionError) as e:
                failed.append(e)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for t in threads:
        t.start()
    try:
        for name in ("r2", "r1", "r2"):
            live(name)
            assert d.ask("reload")["ok"]
        live("r1")
        d.expect("certificates: read again by 1 service")
        time.sleep(0.3)
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert failed == [] and len(done) > 50


def test_an_upgrade_reads_them_again(harkd, pki, live):
    d = harkd(service(live))
    live("r2")
    d.upgrade()
    assert shown(d, pki) == "r2"


def test_a_bad_file_fails_a_reload_as_a_whole(harkd, pki, live, tmp_path):
    d = harkd(service(live))
    (tmp_path / "live.pem").write_text("nothing")
    answer = d.ask("reload")
    assert not answer["ok"] and "live.pem" in str(answer)
    assert shown(d, pki) == "r1"


def test_what_expires_soon_is_told_by_the_log_and_hark_status(harkd, run, pki):
    """A third of its time is left; the lifetime itself says when."""
    if not (pki / "due.pem").exists():
        pki.make("due", "due", "DNS:due.example", days=30, since=25)
    d = harkd(f"[t]\nlisten = tls://127.0.0.1:0\nbox = echo\n{server_lines(pki, 'a', 'due')}")
    d.expect(rf"t: certificate {pki / 'due.pem'} \(due.example\) expires in \d days?: less than a third of its time")
    a, due = d.service("t")["certificates"]
    assert (a["age"], a["file"], due["age"], due["names"]) == ("fresh", str(pki / "a.pem"), "due", "due.example")
    assert due["not_after"] - due["not_before"] == 30 * 24 * 3600
    r = run("status", "--control", d.directory / "control")
    words = rf"t: certificate {pki / 'due.pem'} \(due.example\) expires in [45] days: renew it".encode()
    assert re.search(words, r.stdout), r.stdout
    assert b"a.pem" not in r.stdout
    r = run("status", "--control", d.directory / "control", "t")
    assert f"certificate {pki / 'a.pem'} (a.example *.w.example 127.0.0.1) expires in".encode() in r.stdout


def test_what_has_expired_is_told(harkd, run, pki):
    if not (pki / "old.pem").exists():
        pki.make("old", "old", "DNS:old.example", days=30, since=31)
    d = harkd(f"[t]\nlisten = tls://127.0.0.1:0\nbox = echo\n{server_lines(pki, 'old')}")
    d.expect(rf"t: certificate {pki / 'old.pem'} \(old.example\) has expired")
    assert d.service("t")["certificates"][0]["age"] == "expired"
    assert b"(old.example) has expired" in run("status", "--control", d.directory / "control").stdout


# ---- hark serve


@pytest.mark.parametrize(
    "options",
    [["--model", m] for m in ("inline", "process", "thread", "fiber")] + [["--workers", "2"]],
    ids=lambda o: "".join(o),
)
def test_hark_serve_shows_a_renewed_certificate_to_the_first_who_comes_a_second_later(
    serve, pki, live, tmp_path, options
):
    s = serve(
        "-v", *options, "--cert", f"{tmp_path}/live.pem", "--key", f"{tmp_path}/live.key", "tls://127.0.0.1:0", "echo"
    )
    assert shown_at(s.port(), pki) == "r1"
    old = None if "inline" in options else dial(s.port(), context(pki))
    live("r2")
    time.sleep(1.1)  # files that are younger may not be complete
    assert shown_at(s.port(), pki) == "r2"
    s.expect("^hark: serve: certificates: read again$")
    if old:
        with old:
            old.sendall(b"x")  # what was connected goes on
            assert old.recv(1) == b"x"


def test_hark_serve_goes_on_with_the_old_one_and_says_why(serve, pki, live, tmp_path):
    s = serve("--cert", f"{tmp_path}/live.pem", "--key", f"{tmp_path}/live.key", "tls://127.0.0.1:0", "echo")
    live("r2", ["pem"])
    wait_until(lambda: shown_at(s.port(), pki) == "r1" and "certificates" in s.stderr)
    assert "hark: serve: certificates: not read again, and the old ones go on: key " in s.stderr
    live("r2", ["key"])
    wait_until(lambda: shown_at(s.port(), pki) == "r2")
    assert s.stderr.count("certificates:") == 1


def test_hark_serve_tries_again_what_it_had_no_descriptor_for(serve, pki, live, tmp_path):
    s = serve("--cert", f"{tmp_path}/live.pem", "--key", f"{tmp_path}/live.key", "tls://127.0.0.1:0", "echo")
    sockets = descriptors(s.pid)["socket:"]
    assert shown_at(s.port(), pki) == "r1"
    wait_until(lambda: descriptors(s.pid)["socket:"] == sockets)
    found = resource.prlimit(s.pid, resource.RLIMIT_NOFILE)
    first_free = next(n for n in range(1024) if not os.path.exists(f"/proc/{s.pid}/fd/{n}"))
    live("r2")
    resource.prlimit(s.pid, resource.RLIMIT_NOFILE, (first_free + 1, found[1]))  # who comes has the last one
    wait_until(lambda: shown_at(s.port(), pki) == "r1" and "not read again" in s.stderr)
    assert "Too many open files" in s.stderr
    resource.prlimit(s.pid, resource.RLIMIT_NOFILE, found)
    wait_until(lambda: shown_at(s.port(), pki) == "r2")


def test_hark_serve_elsewhere_says_nothing_of_files_that_it_cannot_see(serve, pki, live, tmp_path):
    names = [os.path.relpath(tmp_path / f"live.{x}") for x in ("pem", "key")]
    s = serve("--directory", "/", "--cert", names[0], "--key", names[1], "tls://127.0.0.1:0", "echo")
    for _ in range(2):
        time.sleep(1.1)
        assert shown_at(s.port(), pki) == "r1"
    assert s.stderr == ""


# ---- relays


@pytest.fixture
def asks(pki):
    """A server that wants a certificate, and says whose it was shown."""
    a, ca = (types.SimpleNamespace(cert=pki / f"{n}.pem", key=pki / f"{n}.key") for n in ("a", "ca"))
    server = TlsServer(a, lambda s: (s.sendall(name_of(s.getpeercert()).encode()), s.unwrap()), ca=ca)
    yield server
    server.close()


def relayed(connect):
    with connect() as s:
        return read_all(s).decode()


def relay_words(pki, live, tmp_path, asks):
    return {"ca": pki / "ca.pem", "target_cert": tmp_path / "live.pem", "target_key": tmp_path / "live.key"}


@pytest.mark.parametrize("by_reload", [True, False], ids=["reload", "file"])
def test_a_relay_of_harkds_reads_its_files_again(harkd, pki, live, tmp_path, asks, by_reload):
    keys = "".join(f"{k} = {v}\n" for k, v in relay_words(pki, live, tmp_path, asks).items())
    d = harkd(f"[t]\nlisten = tcp://127.0.0.1:0\nrelay = {asks.at('127.0.0.1')}\n{keys}")
    assert relayed(lambda: d.connect("t")) == "r1"
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(d.connect("t"))
        live("r2")
        if by_reload:
            assert d.ask("reload")["changed"] == 1
        else:
            d.expect("certificates: read again by 1 service, 0 go on with the old ones$")
        assert relayed(lambda: d.connect("t")) == "r2"
        assert read_all(old) == b"r1"


def test_a_relay_of_harkds_goes_on_with_the_old_files_where_the_new_ones_are_bad(harkd, pki, live, tmp_path, asks):
    keys = "".join(f"{k} = {v}\n" for k, v in relay_words(pki, live, tmp_path, asks).items())
    d = harkd(f"[t]\nlisten = tcp://127.0.0.1:0\nrelay = {asks.at('127.0.0.1')}\n{keys}")
    live("r2", ["key"])
    d.expect("t: goes on as it was, its new settings do not work: .*live")
    assert relayed(lambda: d.connect("t")) == "r1"


@pytest.mark.parametrize("model", ["inline", "process", "thread", "fiber"])
def test_a_relay_of_hark_serve_reads_its_files_again(serve, pki, live, tmp_path, asks, model):
    words = [x for k, v in relay_words(pki, live, tmp_path, asks).items() for x in (f"--{k.replace('_', '-')}", v)]
    s = serve("--model", model, "tcp://127.0.0.1:0", "relay", *words, asks.at("127.0.0.1"))
    assert relayed(s.connect) == "r1"
    live("r2", ["pem"])
    wait_until(lambda: relayed(s.connect) == "r1" and "certificates" in s.stderr)
    assert "certificates: not read again, and the old ones go on: key " in s.stderr
    live("r2", ["key"])
    wait_until(lambda: relayed(s.connect) == "r2")
