"""hark cert: the certificates of a running harkd's services as a client sees them, and any server's."""
import json

from harkd_support import harkd  # noqa: F401
from pki_support import pki, server_lines  # noqa: F401


def cert(run, d, pki, *args):
    return run("cert", "--control", d.directory / "control", "--ca", pki / "ca.pem", *args)


def service(pki, *names):
    return f"[t]\nlisten = tls://127.0.0.1:0 tcp://127.0.0.1:0\nbox = echo\n{server_lines(pki, *names)}"


def test_each_certificate_is_seen_at_each_address(harkd, run, pki):
    d = harkd(service(pki, "a", "b") + "[plain]\nlisten = tcp://127.0.0.1:0\nbox = echo\n")
    r = cert(run, d, pki)
    out = r.stdout.decode()
    assert (r.returncode, r.stderr) == (0, b""), out
    assert out.count("  verified\n") == 2 and "plain" not in out
    assert f"t: {pki / 'a.pem'}, tls://127.0.0.1:{d.port('t')} as a.example\n  CN=a.example for a.example" in out
    assert "issued by CN=hark test authority" in out
    assert "expires in 29 days" in out or "expires in 30 days" in out
    r = cert(run, d, pki, "--json", "t")
    a, b = (json.loads(line) for line in r.stdout.splitlines())
    assert (a["name"], b["name"], a["verified"], a["why"], a["error"]) == ("a.example", "b.example", True, None, None)
    assert a["tls"] == "TLSv1.3" and len(a["sha256"]) == 64 and b["names"] == ["b.example"] and a["chain"] == 1


def test_one_that_a_client_would_not_take(harkd, run, pki):
    if not (pki / "old.pem").exists():
        pki.make("old", "old", "DNS:old.example", days=30, since=31)
    d = harkd(service(pki, "old"))
    r = cert(run, d, pki)
    assert r.returncode == 1 and b"has expired" in r.stdout and b"not verified: certificate has expired" in r.stdout
    r = run("cert", "--control", d.directory / "control")  # the system's store does not know the authority
    assert r.returncode == 1 and b"not verified: " in r.stdout


def test_what_any_server_shows(harkd, run, pki):
    d = harkd(service(pki))
    at = f"127.0.0.1:{d.port('t')}"
    for address in at, f"tls://{at}":
        r = run("cert", "--ca", pki / "ca.pem", address)
        assert r.returncode == 0 and b"CN=a.example" in r.stdout and b"verified" in r.stdout
    r = run("cert", "--ca", pki / "ca.pem", f"localhost:{d.port('t')}")
    assert r.returncode == 1 and b"not verified: hostname mismatch" in r.stdout
    r = run("cert", f"127.0.0.1:{d.port('t', 1)}", "--timeout", "300ms")
    assert r.returncode == 1 and b"not seen: " in r.stdout
    r = run("cert", "127.0.0.1:1")
    assert r.returncode == 1 and b"not seen: " in r.stdout


def test_a_service_on_demand_is_started_to_be_seen(harkd, run, pki):
    d = harkd(service(pki) + "start = demand\n")
    assert d.service("t")["state"] == "waiting"
    r = cert(run, d, pki, "t")
    assert r.returncode == 0 and b"t: tls://127.0.0.1:" in r.stdout and b"CN=a.example for a.example" in r.stdout
    r = cert(run, d, pki, "t")
    assert r.returncode == 0 and b" as a.example" in r.stdout


def test_a_service_without_tls_is_told(harkd, run, pki):
    d = harkd("[plain]\nlisten = tcp://127.0.0.1:0\nbox = echo\n")
    r = cert(run, d, pki, "plain")
    assert r.returncode == 1 and r.stdout == b"" and b"plain has no TLS" in r.stderr
    assert cert(run, d, pki).returncode == 0


def test_a_service_behind_proxies_is_told(harkd, run, pki):
    d = harkd(service(pki) + "proxy_from = 127.0.0.1\n")
    r = cert(run, d, pki, "t")
    assert r.returncode == 1 and b"not seen: it takes proxies alone (proxy_from)" in r.stdout
    assert set(d.service("t")["refused"].values()) == {0}


def test_a_look_ends_in_order(harkd, run, pki):
    d = harkd(service(pki))
    assert cert(run, d, pki, "t").returncode == 0
    d.expect(r" echo .* done$")
    assert d.service("t")["failed"] == 0


def test_mistakes(harkd, run, pki):
    d = harkd(service(pki))
    r = cert(run, d, pki, "none")
    assert r.returncode == 1 and b"no such service: none" in r.stderr
    for address, why in (
        ("tcp://127.0.0.1:1", b"tcp://127.0.0.1:1: certificates are at tls:// addresses"),
        (":1", b"host is missing"),
        ("a:99999", b"port 99999 is"),
    ):
        r = run("cert", address)
        assert r.returncode == 100 and why in r.stderr
    r = run("cert", "--ca", "/none.pem")
    assert r.returncode == 111 and b"/none.pem: No such file" in r.stderr
    r = run("cert", "--control", d.directory / "nobody")
    assert r.returncode == 111
