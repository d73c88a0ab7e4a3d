"""A running harkd for the end-to-end tests: its configuration file, what its control socket says, and its end.

Ports are the kernel's choice: `listen = tcp://127.0.0.1:0`, and the control socket tells what it became.
"""
import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

from conftest import PATIENCE, Process, read_all, wait_until

HEAD = "[harkd]\ncontrol = {dir}/control\nlog = stderr\n\n"


class Harkd(Process):
    """A running harkd, its configuration file, and what its control socket says."""

    def __init__(self, argv, directory, head, **more):
        self.directory, self.head = directory, head
        self.generations = []
        super().__init__(argv, **more)

    def await_ready(self):
        wait_until(lambda: "ready: " in self.stderr or self.process.poll() is not None)
        assert self.process.poll() is None, self.stderr

    def ask(self, request, at="control"):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(PATIENCE)
            s.connect(str(self.directory / at))
            s.sendall(request.encode() + b"\n")
            answer = bytearray()
            while not answer.endswith(b"\n"):
                chunk = s.recv(1 << 16)
                assert chunk, "the control socket was closed without an answer"
                answer += chunk
        return json.loads(answer)

    def answers(self):
        """Whether it listens on its control socket, whose path is there before."""
        with contextlib.suppress(OSError):
            return self.status()["ok"]

    def status(self):
        return self.ask("status")

    def service(self, name):
        answer = self.ask(f"status {name}")
        assert answer["ok"], answer
        return answer["services"][0]

    def port(self, name, i=0):
        return int(self.service(name)["listen"][i].rsplit(":", 1)[1])

    def workers(self, name):
        return [w["pid"] for w in self.service(name)["workers"] if not w["draining"]]

    def connect(self, name, i=0):
        return socket.create_connection(("127.0.0.1", self.port(name, i)), PATIENCE)

    def configure(self, text):
        (self.directory / "hark.conf").write_text(self.head.format(dir=self.directory) + text)

    def upgrade(self):
        """A new generation, once it serves; ended at teardown."""
        before = self.status()
        answer = self.ask("upgrade")
        assert answer["ok"], answer

        def is_next():
            with contextlib.suppress(OSError, AssertionError):
                now = self.status()
                return now if now["generation"] == before["generation"] + 1 else None

        now = wait_until(is_next)
        self.generations.append(now["pid"])
        return now

    def end(self):
        for pid in self.generations:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        super().end()
        for pid in self.generations:
            wait_until(lambda pid=pid: not os.path.exists(f"/proc/{pid}") or is_zombie(pid))


sanitized = pytest.mark.skipif(
    "san" in os.path.basename(os.environ.get("HARK_BUILD", "build").rstrip("/")),
    reason="a sanitizer keeps what was freed",
)


def is_zombie(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture
def harkd(hark, tmp_path):
    running = []

    def start(text, *args, ready=True, head=HEAD, **more):
        (tmp_path / "hark.conf").write_text(head.format(dir=tmp_path) + text)
        process = Harkd([hark + "d", "-c", str(tmp_path / "hark.conf"), *map(str, args)], tmp_path, head, **more)
        running.append(process)
        if ready:
            process.await_ready()
        return process

    yield start
    for process in running:
        process.end()


def service(name, what, *more, listen="tcp://127.0.0.1:0"):
    return f"[{name}]\nlisten = {listen}\n{what}\n" + "".join(f"{line}\n" for line in more) + "\n"


ECHO = service("echo", "box = echo")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def skip_unless_run_by(hark, uid):
    """Skips the test where hark cannot be run as that user."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    try:
        subprocess.run([hark, "--version"], user=uid, cwd="/", stdout=subprocess.DEVNULL, check=True, timeout=PATIENCE)
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("another user cannot run what was built here")


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def connect_to(port, host="127.0.0.1"):
    return socket.create_connection((host, port), PATIENCE)


def ping(s, text=b"ping"):
    s.sendall(text)
    assert s.recv(100) == text


REPORT = (
    "for f in status limits environ cmdline stat; do echo @$f; cat /proc/$$/$f; echo; done; "
    "for f in cwd root; do echo @$f; readlink /proc/$$/$f; done; echo @fd; ls -l /proc/$$/fd; echo @end"
)


PROBE = f"exec = /bin/sh -c '{REPORT}' probe 'two words' $HOME \"\""


class Report(dict):
    """What REPORT printed, a text for each file."""

    def __init__(self, text):
        parts = re.split(rb"^@(\w+)\n", text, flags=re.M)
        assert parts[-2:-1] == [b"end"], text
        super().__init__((parts[i].decode(), parts[i + 1].decode()) for i in range(1, len(parts), 2))

    def status(self, name):
        return re.search(rf"^{name}:[ \t]*(.*)$", self["status"], re.M)[1].split()

    def limit(self, name):
        return tuple(re.search(rf"^{name}\s+(\S+)\s+(\S+)", self["limits"], re.M).groups())

    @property
    def stat_fields(self):
        """From field 3 of proc_pid_stat(5) on."""
        return self["stat"].rsplit(")", 1)[1].split()

    @property
    def environ(self):
        return dict(e.split("=", 1) for e in self["environ"].rstrip("\n").split("\0") if e)

    @property
    def fds(self):
        return dict(re.findall(r"(\d+) -> (\S+)$", self["fd"], re.M))


def report(d, name="probe"):
    with d.connect(name) as s:
        return Report(read_all(s))


def say(d, name, text=b"", i=0):
    with d.connect(name, i) as s:
        s.sendall(text)
        s.shutdown(socket.SHUT_WR)
        return read_all(s)


def dial(address):
    """A client socket for what status calls listen."""
    scheme, rest = address.split(":", 1)
    kind = socket.SOCK_DGRAM if scheme.startswith("udp") or scheme == "unixgram" else socket.SOCK_STREAM
    if scheme.startswith("unix"):
        s = socket.socket(socket.AF_UNIX, kind)
        if kind == socket.SOCK_DGRAM:
            s.bind("")
        to = "\0" + rest[1:] if rest[0] == "@" else rest
    else:
        host, port = rest[2:].rsplit(":", 1)
        s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
        to = (host.strip("[]"), int(port))
    s.settimeout(PATIENCE)
    s.connect(to)
    return s


def gone(pid):
    return not os.path.exists(f"/proc/{pid}") or is_zombie(pid)


def is_traced(pid):
    """LeakSanitizer, for one, cannot look at a process that is."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as f:
        return "TracerPid:\t0\n" not in f.read()


def run_test(hark, tmp_path):
    return subprocess.run([hark + "d", "-t", "-c", tmp_path / "hark.conf"], capture_output=True, timeout=PATIENCE)


class Newborn(threading.Thread):
    """Holds each worker that harkd forks, for so many seconds, before its first instruction: ptrace(2)."""

    CONT, DETACH, GETEVENTMSG, SEIZE, TRACEFORK, EVENT_FORK, WALL = 7, 17, 0x4201, 0x4206, 2, 1, 0x40000000

    def __init__(self, pid, seconds):
        super().__init__(daemon=True)
        self.pid, self.seconds, self.held, self.works = pid, seconds, {}, False
        self.seized, self.stopped = threading.Event(), threading.Event()

    def ptrace(self, request, pid, data=0):
        return ctypes.CDLL(None).ptrace(ctypes.c_long(request), pid, None, ctypes.c_void_p(data))

    def run(self):
        self.works = self.ptrace(self.SEIZE, self.pid, self.TRACEFORK) == 0
        self.seized.set()
        while self.works and not self.stopped.is_set():
            self.look()
            time.sleep(0.005)

    def look(self):
        pid, status = os.waitpid(self.pid, os.WNOHANG | self.WALL)
        if pid and os.WIFSTOPPED(status):
            if status >> 16 == self.EVENT_FORK:
                child = ctypes.c_ulong()
                self.ptrace(self.GETEVENTMSG, pid, ctypes.addressof(child))
                self.held[child.value] = time.monotonic() + self.seconds
            self.ptrace(self.CONT, pid, 0 if status >> 16 else os.WSTOPSIG(status))
        for child in [c for c, until in self.held.items() if time.monotonic() >= until]:
            os.waitpid(child, self.WALL)
            self.ptrace(self.DETACH, child)
            del self.held[child]


@contextlib.contextmanager
def slow_starts(d, seconds):
    newborn = Newborn(d.pid, seconds)
    newborn.start()
    newborn.seized.wait(PATIENCE)
    if not newborn.works:
        pytest.skip("ptrace(2) is not allowed here")
    try:
        yield newborn
    finally:
        wait_until(lambda: not newborn.held)
        newborn.stopped.set()
        newborn.join(PATIENCE)
        wait_until(lambda: gone(d.pid) or not is_traced(d.pid))  # until the kernel's thread has ended, too


def shell_root(root):
    """A directory that has /bin/sh and its libraries, for chroot."""
    for path in [
        "/bin/sh",
        *re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True).stdout),
    ]:
        (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(path), root / path[1:])
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755)
    return root
