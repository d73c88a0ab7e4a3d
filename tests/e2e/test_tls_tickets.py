"""TLS sessions are resumed by any worker of the service, over reloads and an upgrade, and by no other service; a ticket
past its time is refused; and tickets are in nobody's way."""
import os
import ssl
import time

import pytest

from conftest import MODELS, wait_until
from harkd_support import harkd  # noqa: F401
from pki_support import Tls, context, dial, pki, server_lines  # noqa: F401

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def service(pki, more="", name="t"):
    return f"[{name}]\nlisten = tls://127.0.0.1:0\nbox = echo\n{server_lines(pki)}{more}"


def client(pki, version):
    return context(pki, minimum_version=version, maximum_version=version)


def session_of(port, c, session=None):
    """(resumed, the session for the next time)"""
    with dial(port, c, session=session) as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"  # TLS 1.3: the tickets come before it
        return s.session_reused, s.session


def resumed(d, c, session, name="t", times=6):
    return {session_of(d.port(name), c, session)[0] for _ in range(times)}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("model", ["fiber", "process"])
def test_any_worker_resumes_over_reloads_and_an_upgrade(harkd, pki, version, model):
    text = service(pki, f"model = {model}\nworkers = 3\n")
    d = harkd(text)
    c = client(pki, version)
    fresh, session = session_of(d.port("t"), c)
    assert not fresh and resumed(d, c, session) == {True}
    for i in range(20):
        d.configure(text + f"max_conns = {1000 + i}\n")
        answer = d.ask("reload")
        assert answer["ok"] and answer["changed"] == 1
    assert resumed(d, c, session) == {True}
    d.upgrade()
    assert resumed(d, c, session) == {True}


def test_another_service_does_not(harkd, pki):
    d = harkd(service(pki) + service(pki, name="u"))
    c = client(pki, VERSIONS[1])
    _, session = session_of(d.port("t"), c)
    assert resumed(d, c, session, "u", 2) == {False}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_ticket_past_its_time_is_refused(harkd, pki, version):
    d = harkd(service(pki, "tls_tickets = 1s\n"))
    c = client(pki, version)
    _, session = session_of(d.port("t"), c)
    assert session_of(d.port("t"), c, session)[0]
    time.sleep(2.5)
    assert not session_of(d.port("t"), c, session)[0]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_past_its_time_is_not_resumed_though_it_was_so_again_and_again(harkd, pki, version):
    d = harkd(service(pki, "tls_tickets = 2s\n"))
    c = client(pki, version)
    _, session = session_of(d.port("t"), c)
    began, again = time.monotonic(), True
    while again and time.monotonic() < began + 6:
        time.sleep(0.4)
        again, session = session_of(d.port("t"), c, session)
    assert not again and time.monotonic() > began + 1


@pytest.mark.parametrize("version", VERSIONS)
def test_none_are_made_where_none_are_wanted(harkd, pki, version):
    d = harkd(service(pki, "tls_tickets = 0\n"))
    c = client(pki, version)
    _, session = session_of(d.port("t"), c)
    assert session is None or not session_of(d.port("t"), c, session)[0]


def test_workers_of_hark_serve_share_them(serve, pki):
    s = serve("--workers", "3", "--cert", pki / "a.pem", "--key", pki / "a.key", "tls://127.0.0.1:0", "echo")
    c = client(pki, VERSIONS[1])
    _, session = session_of(s.port(), c)
    assert {session_of(s.port(), c, session)[0] for _ in range(9)} == {True}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("engine", ["epoll", "uring", "poll"])
@pytest.mark.parametrize("version", VERSIONS)
def test_who_says_all_and_leaves_without_reading_is_heard_whole(serve, pki, tmp_path, version, model, engine):
    s = serve(
        *("--model", model, "--engine", engine, "--cert", pki / "a.pem", "--key", pki / "a.key", "tls://127.0.0.1:0"),
        *("--", "/bin/sh", "-c", f"cat >{tmp_path}/part.$$ && mv {tmp_path}/part.$$ {tmp_path}/whole.$$"),
    )
    data = os.urandom(150_000)
    for _ in range(3):
        with Tls(s.port(), client(pki, version)) as c:
            c.send(data)
            c.end()
    files = wait_until(lambda: len(files := list(tmp_path.glob("whole.*"))) == 3 and files)
    assert [f.read_bytes() == data for f in files] == [True] * 3
