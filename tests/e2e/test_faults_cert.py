"""hark cert, as its Nth system call or allocation fails: it tells why, or the truth; it never takes for verified what
is not."""
import json
import subprocess

from conftest import PATIENCE
from fault_support import faults, naming  # noqa: F401
from harkd_support import harkd  # noqa: F401
from pki_support import pki, server_lines  # noqa: F401


def test_each_failure_is_told(hark, harkd, pki, faults):
    d = harkd(f"[t]\nlisten = tls://127.0.0.1:0\nbox = echo\n{server_lines(pki, 'a', 'b')}")

    def cert(ca, case=None):
        args = [hark, "cert", "--json", "--timeout", "3s", "--control", d.directory / "control", "--ca", pki / ca]
        with faults.armed(case) as b:
            r = subprocess.run(args, env=faults.env(), capture_output=True, timeout=PATIENCE)
        assert r.returncode in (0, 1, 2, 111) and b"anitizer" not in r.stderr, (r.returncode, r.stderr)
        seen = [json.loads(line) for line in r.stdout.splitlines()]
        if r.returncode != 0:
            assert r.stderr or any(s["error"] or not s["verified"] for s in seen), "nothing tells why"
        return r.returncode, seen, b.fired

    def complete(seen):
        return [s["subject"] for s in seen] == ["CN=a.example", "CN=b.example"] and all(s["verified"] for s in seen)

    code, seen, _ = cert("ca.pem")
    assert code == 0 and complete(seen)
    uses = faults.uses(lambda: cert("ca.pem"))
    for case in faults.cases(uses, 12, but=("close", "kill")):
        with naming(case):
            code, seen, _ = cert("ca.pem", case)
            assert code != 0 or complete(seen), seen
    for case in faults.cases({"malloc": uses["malloc"]}, 12):
        with naming(case):
            code, seen, _ = cert("other.pem", case)
            assert code != 0 and not any(s["verified"] for s in seen), seen
