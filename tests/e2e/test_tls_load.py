"""OpenSSL is loaded where TLS is used, and by nobody else; what cannot be loaded is told. In a chroot it is there."""
import os
import re
import subprocess
from pathlib import Path

import pytest

from conftest import MODELS, PATIENCE, read_all
from harkd_support import harkd, service  # noqa: F401
from tls_support import HAS_OPENSSL, certs, hello, tls  # noqa: F401

pytestmark = pytest.mark.skipif(not HAS_OPENSSL, reason="openssl is not installed")


def has_openssl(pid):
    return "/libssl.so" in Path(f"/proc/{pid}/maps").read_text()


@pytest.fixture
def no_openssl(hark, tmp_path):
    """An environment where its file is broken."""
    name = re.search(rb"libssl\.so\.\d+", Path(hark).read_bytes())[0].decode()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / name).touch()
    return {**os.environ, "LD_LIBRARY_PATH": str(tmp_path / "lib")}


def test_a_service_without_tls_does_not_have_it(serve):
    s = serve("tcp://127.0.0.1:0", "echo")
    s.connect().close()
    assert not has_openssl(s.pid)


@pytest.mark.parametrize("more, status", [([], 1), (["--insecure"], 111)])
def test_call_tells_why_there_is_no_tls(run, no_openssl, target_port, more, status):
    r = run("call", *more, f"tls://127.0.0.1:{target_port}", env=no_openssl)
    assert (r.returncode, r.stdout) == (status, b"")
    assert re.search(rb"TLS: \S*libssl\.so\.\d+: file too short$", r.stderr.strip()), r.stderr


@pytest.fixture
def target_port(serve):
    return serve("tcp://127.0.0.1:0", "discard").port()


def test_a_relay_tells_why_there_is_no_tls(run, no_openssl):
    r = run("serve", "tcp://127.0.0.1:0", "relay", "tls://127.0.0.1:1", env=no_openssl)
    assert r.returncode == 111
    assert re.search(rb"TLS: \S*libssl\.so\.\d+: file too short", r.stderr), r.stderr


def test_a_dry_run_tells_why_there_is_no_tls(hark, tmp_path, no_openssl):
    (tmp_path / "hark.conf").write_text(service("r", "relay = tls://127.0.0.1:1"))
    r = subprocess.run(
        [hark + "d", "-t", "-c", tmp_path / "hark.conf"], capture_output=True, timeout=PATIENCE, env=no_openssl
    )
    assert r.returncode != 0
    assert re.search(rb"TLS: \S*libssl\.so\.\d+: file too short", r.stderr), r.stderr


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@needs_root
@pytest.mark.parametrize("model", MODELS)
def test_a_relay_in_a_chroot_has_it_and_its_supervisor_has_not(harkd, tls, certs, tmp_path, model):  # noqa: F811
    root = tmp_path / "root"
    root.mkdir()
    address = tls(hello).at("127.0.0.1")
    d = harkd(service("r", f"relay = {address}", f"ca = {certs.ca.cert}", f"chroot = {root}", f"model = {model}"))
    for _ in range(2):
        with d.connect("r") as s:
            s.settimeout(PATIENCE)
            assert read_all(s) == b"hello\n"
    assert has_openssl(d.workers("r")[0])
    assert not has_openssl(d.pid)


@needs_root
@pytest.mark.parametrize("model", MODELS)
def test_a_relay_of_hark_serve_in_a_chroot_has_it(serve, tls, certs, tmp_path, model):  # noqa: F811
    address = tls(hello).at("127.0.0.1")
    more = ["--model", model, "--chroot", tmp_path, "--user", "nobody"]
    with serve(*more, "tcp://127.0.0.1:0", "relay", "--ca", certs.ca.cert, address).connect() as s:
        s.settimeout(PATIENCE)
        assert read_all(s) == b"hello\n"
