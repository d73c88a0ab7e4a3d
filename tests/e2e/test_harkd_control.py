"""The control socket itself: hostile and unlucky clients."""
import contextlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import time

from conftest import PATIENCE, read_all, wait_until
from harkd_support import ECHO, HEAD, harkd, service  # noqa: F401 harkd is a fixture


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_it_does_not_spin_when_it_has_no_descriptor_for_a_client(harkd):
    d = harkd(ECHO)
    d.ask("status")
    most = max(int(fd) for fd in os.listdir(f"/proc/{d.pid}/fd")) + 1
    _, hard = resource.prlimit(d.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(d.pid, resource.RLIMIT_NOFILE, (most, hard))
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            s = stack.enter_context(socket.socket(socket.AF_UNIX))
            s.connect(str(d.directory / "control"))
        before = cpu_seconds(d.pid)
        time.sleep(1)
        assert cpu_seconds(d.pid) - before < 0.2
    resource.prlimit(d.pid, resource.RLIMIT_NOFILE, (1000, hard))
    assert d.status()["ok"]


def test_a_half_closed_client_that_reads_nothing_costs_no_time(harkd):
    d = harkd(ECHO)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(d.directory / "control"))
        s.sendall(b"status\n" * 60)
        s.sendall(b"status\n" * 60)
        s.shutdown(socket.SHUT_WR)
        d.status()
        before = cpu_seconds(d.pid)
        time.sleep(1)
        assert cpu_seconds(d.pid) - before < 0.2


MANY = "".join(service(f"many{i}", "box = echo", "start = demand") for i in range(300))


def resident_kb(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"^VmRSS:\s+(\d+) kB", f.read(), re.M)[1])


def ask_without_reading(path, n):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(PATIENCE)
    s.connect(path)
    s.sendall(b"status\n" * n)
    return s


def test_clients_that_do_not_read_take_neither_memory_nor_others_places(harkd):
    d = harkd(MANY)
    answer = len(json.dumps(d.status(), separators=(",", ":")))
    before = resident_kb(d.pid)
    deaf = [ask_without_reading(str(d.directory / "control"), (3 << 20) // answer) for _ in range(15)]
    assert d.status()["ok"]  # after all of them
    if "build-asan" not in os.environ.get("HARK_BUILD", ""):  # which keeps what was freed
        assert resident_kb(d.pid) - before < 16 << 10
    deaf += [ask_without_reading(str(d.directory / "control"), 1) for _ in range(2)]
    assert d.status()["ok"]
    for s in deaf:
        s.close()
    assert d.status()["ok"]


def test_who_reads_late_has_an_answer_to_all_that_was_asked(harkd):
    d = harkd(MANY)
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(PATIENCE)
        s.connect(str(d.directory / "control"))
        s.sendall(b"status\n" * 100)
        s.shutdown(socket.SHUT_WR)
        assert d.status()["ok"]
        answers = read_all(s).splitlines()
    assert len(answers) == 100 and all(len(json.loads(a)["services"]) == 300 for a in answers)


def test_an_answer_that_is_read_as_harkd_ends_is_whole(harkd):
    d = harkd("".join(service(f"{'m' * 50}{i}", "box = echo", "start = demand") for i in range(1000)))
    assert len(json.dumps(d.status())) > 400_000  # more than the kernel holds
    at = str(d.directory / "control")
    with ask_without_reading(at, 1) as deaf, ask_without_reading(at, 1) as s:
        for one in (deaf, s):
            wait_until(lambda one=one: one.recv(1, socket.MSG_PEEK))
        d.send(signal.SIGTERM)
        wait_until(lambda: "ended: generation 1" in d.stderr)
        answer = read_all(s)
        assert answer.endswith(b"\n") and len(json.loads(answer)["services"]) == 1000
        assert d.process.wait(PATIENCE) == 0  # though one reads nothing


def test_its_answers_are_whole_however_long_a_path_is(hark, tmp_path):
    deep = tmp_path
    for _ in range(14):
        deep = deep / ("d" * 200)
        os.mkdir(deep)
    (deep / "hark.conf").write_text(HEAD.format(dir=tmp_path) + ECHO)
    process = subprocess.Popen([hark + "d", "-c", str(deep / "hark.conf")], stderr=subprocess.DEVNULL)
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(PATIENCE)
            wait_until(lambda: s.connect_ex(str(tmp_path / "control")) == 0)  # the path is there before it listens
            s.sendall(b"status\n")
            answer = b""
            while not answer.endswith(b"\n"):
                answer += s.recv(1 << 16)
        assert json.loads(answer)["config"] == str(deep / "hark.conf")
    finally:
        process.terminate()
        process.wait(PATIENCE)
