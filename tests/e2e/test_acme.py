"""Certificates by ACME as the manual shows it: certbot --standalone gets one from pebble, Let's Encrypt's own test
server, and renews it under load; its deploy hook is `hark reload`. Nobody's handshake fails."""
import json
import os
import shutil
import ssl
import subprocess
import threading
import time
import urllib.request

import pytest

from conftest import PATIENCE, wait_until
from harkd_support import free_port, harkd  # noqa: F401
from pki_support import dial, pki  # noqa: F401

TOOLS = ["pebble", "pebble-challtestsrv", "certbot"]
pytestmark = pytest.mark.skipif(
    not all(shutil.which(tool) for tool in TOOLS), reason=f"not all of {', '.join(TOOLS)} are installed"
)
NAME = "a.example"


@pytest.fixture
def acme(pki, tmp_path):
    """An ACME server that asks back at loopback, whatever the name: its URL, port for HTTP-01, and its root."""
    if not (pki / "acme.pem").exists():
        pki.make("acme", "acme", "IP:127.0.0.1,DNS:localhost")
    ports = {name: free_port() for name in ("api", "management", "http", "tls", "dns", "dns_management")}
    config = {
        "pebble": {
            "listenAddress": f"127.0.0.1:{ports['api']}",
            "managementListenAddress": f"127.0.0.1:{ports['management']}",
            "certificate": str(pki / "acme.pem"),
            "privateKey": str(pki / "acme.key"),
            "httpPort": ports["http"],
            "tlsPort": ports["tls"],
            "ocspResponderURL": "",
            "externalAccountBindingRequired": False,
        }
    }
    (tmp_path / "pebble.json").write_text(json.dumps(config))
    off = ["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", "", "-defaultIPv4", "127.0.0.1"]
    places = ["-dns01", f"127.0.0.1:{ports['dns']}", "-management", f"127.0.0.1:{ports['dns_management']}"]
    env = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = [
        subprocess.Popen(["pebble-challtestsrv", *off, *places], **quiet),
        subprocess.Popen(
            ["pebble", "-config", tmp_path / "pebble.json", "-dnsserver", f"127.0.0.1:{ports['dns']}"], env=env, **quiet
        ),
    ]
    trust = ssl.create_default_context(cafile=str(pki / "ca.pem"))

    def root():
        try:
            url = f"https://127.0.0.1:{ports['management']}/roots/0"
            return urllib.request.urlopen(url, context=trust, timeout=PATIENCE).read().decode()
        except OSError:
            return None

    try:
        yield f"https://127.0.0.1:{ports['api']}/dir", ports["http"], wait_until(root)
    finally:
        for process in running:
            process.terminate()
            process.wait(PATIENCE)


def certbot(acme, pki, directory, *args):
    url, port, _ = acme
    dirs = [word for kind in ("config", "work", "logs") for word in (f"--{kind}-dir", directory / kind)]
    common = ["--non-interactive", "--server", url, "--http-01-port", str(port), *dirs]
    r = subprocess.run(
        ["certbot", *map(str, args), *map(str, common)],
        env={**os.environ, "REQUESTS_CA_BUNDLE": str(pki / "ca.pem")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert r.returncode == 0, r.stdout + r.stderr


def test_certbot_renews_under_load_and_no_handshake_fails(hark, harkd, acme, pki, tmp_path):
    get = ["certonly", "--standalone", "-d", NAME, "--agree-tos", "--register-unsafely-without-email"]
    certbot(acme, pki, tmp_path, *get)
    live = tmp_path / "config" / "live" / NAME
    d = harkd(
        "[t]\nlisten = tls://127.0.0.1:0\nbox = echo\nworkers = 2\n"
        f"cert = {live}/fullchain.pem\nkey = {live}/privkey.pem\n"
    )
    port, trust = d.port("t"), ssl.create_default_context(cadata=acme[2])
    failed, serials, stop = [], set(), threading.Event()

    def load():
        while not stop.is_set():
            try:
                with dial(port, trust, NAME) as s:
                    s.sendall(b"x")
                    assert s.recv(1) == b"x"
                    serials.add(s.getpeercert()["serialNumber"])
            except (OSError, AssertionError) as e:
                failed.append(e)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for t in threads:
        t.start()
    try:
        hook = f"{hark} reload --control {tmp_path}/control"
        certbot(acme, pki, tmp_path, "renew", "--force-renewal", "--no-random-sleep-on-renew", "--deploy-hook", hook)
        wait_until(lambda: len(serials) == 2)
        time.sleep(0.2)
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert failed == [] and len(serials) == 2 and "harkd: reloaded " in d.stderr
