"""harkd under a service manager that listens to the main process alone, as systemd does (NotifyAccess=main), and ends
what is left when the main process has ended (KillMode=mixed)."""
import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest

from conftest import PATIENCE, read_all, wait_until
from harkd_support import gone, harkd, is_zombie, service  # noqa: F401 a fixture

ECHO = service("echo", "box = echo", "grace = 5s")


class Manager(threading.Thread):
    """What systemd believes."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(str(path))
        self.main = None  # until it is known, anybody's word counts
        self.said = []
        self.start()

    def run(self):
        while True:
            text, ancillary, _, _ = self.socket.recvmsg(1000, 1000)
            sender = struct.unpack("3i", ancillary[0][2])[0]
            if text == b"end":
                return
            if self.main not in (None, sender):
                continue
            for line in text.decode().split("\n"):
                if line.startswith("MAINPID="):
                    self.main = int(line[8:])
                self.said.append(line)

    def end(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.sendto(b"end", self.socket.getsockname())
        self.join(PATIENCE)
        self.socket.close()


def has_pending(pid, signum):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"^ShdPnd:\t(\w+)$", f.read(), re.M)[1], 16) >> signum - 1 & 1


@pytest.fixture
def manager(tmp_path):
    m = Manager(tmp_path / "notify")
    yield m
    m.end()


@pytest.fixture
def managed(harkd, manager, tmp_path):  # noqa: F811
    d = harkd(ECHO, env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")})
    wait_until(lambda: manager.main == d.pid)
    return d


def test_the_main_process_is_the_new_generation_once_it_is_relied_on(managed, manager):
    heir = managed.upgrade()["pid"]
    assert manager.main == managed.pid
    wait_until(lambda: manager.main == heir)


def test_of_a_new_generation_that_died_at_once_the_manager_never_heard(managed, manager):
    heir = managed.upgrade()["pid"]
    os.kill(heir, signal.SIGKILL)
    managed.expect("died as soon as it served")
    wait_until(lambda: managed.status()["pid"] == managed.pid)
    assert manager.main == managed.pid
    with managed.connect("echo") as s:
        s.sendall(b"hello")
        assert s.recv(10) == b"hello"


def test_a_reload_that_a_new_generation_was_asked_for_and_died_of_is_the_old_ones(managed):
    heir = managed.upgrade()["pid"]
    os.kill(heir, signal.SIGSTOP)  # so it has not reloaded when it dies
    managed.configure(ECHO + service("more", "box = echo"))
    managed.send(signal.SIGHUP)
    wait_until(lambda: has_pending(heir, signal.SIGHUP))
    os.kill(heir, signal.SIGKILL)
    managed.expect("died as soon as it served")
    wait_until(lambda: "more" in [s["name"] for s in managed.status()["services"]])


def test_a_signal_to_the_main_process_reaches_the_new_generation(managed):
    managed.upgrade()
    managed.configure(ECHO + service("more", "box = echo"))
    managed.send(signal.SIGHUP)
    wait_until(lambda: "more" in [s["name"] for s in managed.status()["services"]])


def test_the_end_of_the_main_process_is_the_end_of_all(managed):
    with managed.connect("echo") as old:
        old.sendall(b"one")
        assert old.recv(10) == b"one"
        heir = managed.upgrade()["pid"]
        with managed.connect("echo") as new:
            new.sendall(b"two")
            assert new.recv(10) == b"two"
            managed.send(signal.SIGTERM)
            old.settimeout(PATIENCE)
            new.settimeout(PATIENCE)
            assert old.recv(10) == b"" == new.recv(10)
    with contextlib.suppress(ProcessLookupError):
        os.waitid(os.P_PID, managed.pid, os.WEXITED | os.WNOWAIT)
    assert is_zombie(heir) or not os.path.exists(f"/proc/{heir}")  # it is not the first that ends


def test_the_end_of_a_new_generation_waits_for_no_older_one_that_waits_for_it(managed, manager, tmp_path):
    """The older one has let go of the sockets by then: their paths are removed."""
    managed.configure(ECHO + service("local", "box = echo", listen=f"unix:{tmp_path}/sock"))
    assert managed.ask("reload")["ok"]
    managed.configure(ECHO)
    heir = managed.upgrade()["pid"]
    began = time.monotonic()
    managed.send(signal.SIGTERM)
    assert managed.wait() == 0
    assert time.monotonic() - began < 0.9 and gone(heir)
    assert not (tmp_path / "sock").exists() and not (tmp_path / "control").exists()


def test_a_second_sigterm_waits_for_no_new_generation_that_hangs(managed):
    heir = managed.upgrade()["pid"]
    os.kill(heir, signal.SIGSTOP)
    try:
        managed.send(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            managed.process.wait(0.5)
        managed.send(signal.SIGTERM)
        managed.process.wait(PATIENCE)
    finally:
        os.kill(heir, signal.SIGKILL)


def family(pid):
    """It and all that descends from it."""
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [pid] + [p for child in f.read().split() for p in family(int(child))]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("relied_on", [False, True])
def test_a_manager_that_tells_the_whole_group_to_end_cuts_nobodys_grace(harkd, manager, tmp_path, order, relied_on):
    """KillMode=control-group: who hands it on to the next generation, or to workers, tells them again."""
    slow = "exec = /bin/sh -c 'trap : TERM; echo up; read x; for i in 1 2 3 4 5 6; do sleep 0.2; done; echo whole'"
    d = harkd(
        service("slow", slow, "grace = 10s", "workers = 2") + ECHO,
        env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
    )
    with d.connect("slow") as old:
        old.settimeout(PATIENCE)
        assert old.recv(10) == b"up\n"
        heir = d.upgrade()["pid"]
        with d.connect("slow") as new:
            new.settimeout(PATIENCE)
            assert new.recv(10) == b"up\n"
            if relied_on:
                wait_until(lambda: manager.main == heir)
            for pid in family(d.pid)[::order]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            assert read_all(old) == b"whole\n" == read_all(new)
    wait_until(lambda: gone(heir))
