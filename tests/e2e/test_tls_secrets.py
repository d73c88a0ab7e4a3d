"""Keys stay where they are: a program of the same user, started by the service itself or by hand, can neither trace a
worker that has keys nor read its memory; no other service's worker has them; programs inherit nothing of them."""
import os
import pathlib
import pwd
import re
import shutil
import subprocess
import tempfile

import pytest

from conftest import MODELS, PATIENCE, wait_until
from harkd_support import harkd  # noqa: F401
from pki_support import context, dial, pki, server_lines  # noqa: F401

root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: needs root")

SPY = """
import ctypes, os, sys
pid = int(sys.argv[1])
def attempt(what):
    try:
        what()
        return "done"
    except OSError as e:
        return "refused"
def trace():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, pid, 0, 0) < 0:  # PTRACE_ATTACH
        raise OSError(ctypes.get_errno(), "ptrace")
def memory():
    with open(f"/proc/{pid}/mem", "rb") as f:
        f.seek(int(open(f"/proc/{pid}/maps").readline().split("-")[0], 16))
        f.read(16)
def descriptors():
    os.listdir(f"/proc/{pid}/fd")
print(attempt(trace), attempt(memory), attempt(descriptors), os.geteuid())
"""


def private_scalar(key):
    """The secret number of an EC key, as it lies in memory: big-endian; OpenSSL's own limbs are little-endian."""
    text = subprocess.run(["openssl", "ec", "-in", key, "-noout", "-text"], capture_output=True, text=True).stdout
    digits = re.search(r"priv:\n((?:\s+[0-9a-f:]+\n)+)", text)[1]
    return bytes.fromhex(re.sub(r"[\s:]", "", digits).rjust(64, "0"))[-32:]


def memory_of(pid):
    """All that can be read of it, by root."""
    data = bytearray()
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in maps:
            area, rights = line.split()[:2]
            low, high = (int(x, 16) for x in area.split("-"))
            if "r" not in rights or "w" not in rights or high - low > 64 << 20:
                continue
            try:
                mem.seek(low)
                data += mem.read(high - low)
            except (OSError, ValueError, OverflowError):
                pass
    return bytes(data)


def has_key(pid, key):
    memory, secret = memory_of(pid), private_scalar(key)
    return secret in memory or secret[::-1] in memory or pathlib.Path(key).read_bytes()[40:120] in memory


def spy_on(pid, user):
    r = subprocess.run(
        ["/usr/bin/python3", "-c", SPY, str(pid)],
        user=user,
        group=pwd.getpwnam(user).pw_gid,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return r.stdout.strip()


@root
@pytest.mark.parametrize("model", MODELS)
def test_nobody_of_the_same_user_reads_a_worker_with_keys(harkd, pki, model):
    d = harkd(
        f"[t]\nlisten = tls://127.0.0.1:0\nbox = echo\nuser = nobody\nmodel = {model}\n{server_lines(pki)}"
        f"[plain]\nlisten = tcp://127.0.0.1:0\nbox = echo\nuser = nobody\n"
    )
    uid = pwd.getpwnam("nobody").pw_uid
    with dial(d.port("t"), context(pki)) as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"
        worker = d.workers("t")[0]
        children = pathlib.Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
        for pid in [worker, *map(int, children)]:
            assert os.stat(f"/proc/{pid}/status").st_uid == 0  # not dumpable
            assert spy_on(pid, "nobody") == f"refused refused refused {uid}"
            assert has_key(pid, pki / "a.key")


@root
def test_nobody_of_the_same_user_reads_a_relay_with_keys(harkd, pki):
    d = harkd(
        "[r]\nlisten = tcp://127.0.0.1:0\nrelay = tls://127.0.0.1:1\nuser = nobody\n"
        f"target_cert = {pki / 'a.pem'}\ntarget_key = {pki / 'a.key'}\n"
    )
    uid = pwd.getpwnam("nobody").pw_uid
    assert spy_on(d.workers("r")[0], "nobody") == f"refused refused refused {uid}"


@root
def test_a_service_that_a_reload_gave_its_keys_is_not_readable_either(harkd, pki):
    """Nothing changes its user, so that PR_SET_DUMPABLE alone keeps others out: its files in /proc are root's."""
    group = pwd.getpwnam("nobody").pw_gid
    plain = "[t]\nlisten = tcp://127.0.0.1:0\nbox = echo\n"
    d = harkd(plain, group=group)
    before = d.workers("t")
    assert os.stat(f"/proc/{before[0]}/status").st_gid == group
    d.configure(plain.replace("tcp:", "tls:") + server_lines(pki))
    assert d.ask("reload")["ok"]
    wait_until(lambda: d.workers("t") and not set(d.workers("t")) & set(before))
    assert os.stat(f"/proc/{d.workers('t')[0]}/status").st_gid == 0


@root
def test_the_supervisor_and_other_services_have_no_key(harkd, pki):
    d = harkd(
        f"[t]\nlisten = tls://127.0.0.1:0\nbox = echo\n{server_lines(pki)}"
        f"[u]\nlisten = tls://127.0.0.1:0\nbox = echo\n{server_lines(pki, 'b')}"
        "[plain]\nlisten = tcp://127.0.0.1:0\nbox = echo\n"
    )
    assert d.ask("reload")["ok"]
    t, u, plain = (d.workers(name)[0] for name in ("t", "u", "plain"))
    a, b = pki / "a.key", pki / "b.key"
    assert has_key(t, a) and not has_key(t, b)
    assert has_key(u, b) and not has_key(u, a)
    for pid in plain, d.pid:
        assert not has_key(pid, a) and not has_key(pid, b)


def test_hark_serve_of_an_ordinary_user_is_not_readable_either(hark, pki, tmp_path):
    """The same user all along: nothing changes its user, and only PR_SET_DUMPABLE keeps others out."""
    if os.geteuid() != 0:
        pytest.skip("starts it as another user: needs root")
    pathlib.Path(tmp_path).chmod(0o755)
    places = {}
    with tempfile.TemporaryDirectory() as made:
        directory = pathlib.Path(made)
        directory.chmod(0o755)
        for name in "a.pem", "a.key":
            places[name] = shutil.copy(pki / name, directory)
            os.chown(places[name], pwd.getpwnam("nobody").pw_uid, -1)
            os.chmod(places[name], 0o400)
        shutil.copy(hark, directory / "hark")
        os.chmod(directory / "hark", 0o755)
        service = subprocess.Popen(
            [
                directory / "hark",
                "serve",
                "--cert",
                places["a.pem"],
                "--key",
                places["a.key"],
                "tls://127.0.0.1:0",
                "echo",
            ],
            user="nobody",
            group=pwd.getpwnam("nobody").pw_gid,
            extra_groups=[],
            cwd="/",
            stdout=subprocess.PIPE,
        )
        try:
            assert service.stdout.readline().startswith(b"listening on tls://")
            assert spy_on(service.pid, "nobody").startswith("refused refused refused")
        finally:
            service.terminate()
            service.communicate(timeout=PATIENCE)


def test_a_worker_with_keys_leaves_no_core(harkd, pki):
    d = harkd(f"[t]\nlisten = tls://127.0.0.1:0\nbox = echo\nrlimit_core = unlimited\n{server_lines(pki)}")
    worker = d.workers("t")[0]
    assert os.stat(f"/proc/{worker}/status").st_uid == 0
    os.kill(worker, 6)
    wait_until(lambda: "signal 6" in d.stderr)
    assert not list(d.directory.glob("core*"))
