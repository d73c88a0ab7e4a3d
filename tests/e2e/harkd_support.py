"""A running harkd for the end-to-end tests: its configuration file, what its control socket says, and its end.

Ports are the kernel's choice: `listen = tcp://127.0.0.1:0`, and the control socket tells what it became.
"""
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess

import pytest

from conftest import PATIENCE, Process, wait_until

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
