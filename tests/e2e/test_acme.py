"""Certificates by ACME as the manual shows it: certbot --standalone and lacme get one from pebble, Let's Encrypt's own
test server, and renew it under load; their hook is `hark reload`. Nobody's handshake fails."""
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
from pki_support import dial, openssl, pki  # noqa: F401

NAME = "a.example"


def needs(*tools):
    lacking = [t for t in tools if not shutil.which(t, path=os.environ["PATH"] + ":/usr/sbin")]
    return pytest.mark.skipif(lacking != [], reason=f"{', '.join(lacking)} is not installed")


pytestmark = needs("pebble", "pebble-challtestsrv", "openssl")


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


class Certbot:
    """--standalone: its own server answers while a certificate is asked for."""

    def __init__(self, acme, pki, directory, hook):
        self.url, self.port, _ = acme
        self.directory, self.pki, self.hook = directory, pki, hook
        live = directory / "config" / "live" / NAME
        self.cert, self.key = live / "fullchain.pem", live / "privkey.pem"

    def run(self, *args):
        dirs = [word for kind in ("config", "work", "logs") for word in (f"--{kind}-dir", self.directory / kind)]
        common = ["--non-interactive", "--server", self.url, "--http-01-port", self.port, *dirs]
        trust = {"REQUESTS_CA_BUNDLE": str(self.pki / "ca.pem")}
        say("certbot", *args, *common, env={**os.environ, **trust})

    def get(self):
        self.run("certonly", "--standalone", "-d", NAME, "--agree-tos", "--register-unsafely-without-email")

    def renew(self):
        self.run("renew", "--force-renewal", "--no-random-sleep-on-renew", "--deploy-hook", self.hook)


class Lacme:
    """All of it as one user, without those of its own that it has where it is root."""

    def __init__(self, acme, pki, directory, hook):
        url, port, root = acme
        self.directory = directory
        self.cert, self.key = directory / "cert.pem", directory / "cert.key"
        (directory / "root.pem").write_text(root)
        for key in (self.key, directory / "account.key"):  # accounts have RSA alone
            openssl("genpkey", "-algorithm", "RSA", "-out", key)
        self.write("lacme-accountd.conf", f"privkey = file:{directory}/account.key\n")
        nobody, trust = "user =\ngroup =\n", f"PERL_LWP_SSL_CA_FILE={pki / 'ca.pem'}"
        self.write(
            "lacme.conf",
            f"[client]\n{nobody}server = {url}\ncommand = /usr/bin/env {trust} /usr/libexec/lacme/client\n"
            f"[webserver]\n{nobody}listen = 127.0.0.1:{port}\n"
            f"[accountd]\nconfig = {directory}/lacme-accountd.conf\n",
        )
        self.write(
            "lacme-certs.conf",
            f"[{NAME}]\ncertificate-chain = {self.cert}\ncertificate-key = {self.key}\nsubject = /CN={NAME}\n"
            f"subjectAltName = DNS:{NAME}\nCAfile = {directory}/root.pem\nnotify = {hook}\n",
        )
        (directory / "lacme-certs.conf.d").mkdir()

    def write(self, name, text):
        (self.directory / name).write_text(text)

    def run(self, *args):
        say(
            "lacme",
            f"--config={self.directory}/lacme.conf",
            *args,
            env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/bin"},
        )

    def get(self):
        self.run("account", "--register", "--tos-agreed", "mailto:root@a.example")
        certs = self.directory / "lacme-certs.conf"
        text = certs.read_text()
        certs.write_text(text[: text.index("notify")])  # harkd has not started yet
        self.run("newOrder")
        certs.write_text(text)

    def renew(self):
        self.run("newOrder", "--force")


def say(*argv, env):
    r = subprocess.run(list(map(str, argv)), env=env, capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r.stdout + r.stderr


@pytest.mark.parametrize(
    "client",
    [pytest.param(Certbot, marks=needs("certbot")), pytest.param(Lacme, marks=needs("lacme", "lacme-accountd"))],
)
def test_it_renews_under_load_and_no_handshake_fails(hark, harkd, acme, pki, tmp_path, client):
    c = client(acme, pki, tmp_path, f"{hark} reload --control {tmp_path}/control")
    c.get()
    d = harkd(f"[t]\nlisten = tls://127.0.0.1:0\nbox = echo\nworkers = 2\ncert = {c.cert}\nkey = {c.key}\n")
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
        c.renew()
        wait_until(lambda: len(serials) == 2)
        time.sleep(0.2)
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert failed == [] and len(serials) == 2 and "harkd: reloaded " in d.stderr
