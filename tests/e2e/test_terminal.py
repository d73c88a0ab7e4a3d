"""Services and the terminal that they were started at: none reaches it; its keys and its reader lose nothing."""
import contextlib
import os
import pty
import re
import signal
import socket
import sys
import threading

import pytest

from conftest import MODELS, PATIENCE, read_all, wait_until
from harkd_support import service

# What of the terminal a program reaches: nothing. TIOCSTI puts in what seems typed; 0x5401 (TCGETS) works on any
# terminal, whoever's it is.
SPY = """
import fcntl, os
found = []
try:
    os.open("/dev/tty", os.O_RDWR)
    found.append("/dev/tty")
except OSError:
    pass
for fd in 0, 1, 2:
    if os.isatty(fd):
        found.append(fd)
    try:
        fcntl.ioctl(fd, 0x5412, b"x")
        found.append("TIOCSTI %d" % fd)
    except OSError:
        pass
if open("/proc/self/stat").read().rsplit(")", 1)[1].split()[4] != "0":
    found.append("tty_nr")
if os.getpgid(0) != os.getpid():
    found.append("group")
print(found)
os.write(2, b"told \\x1b[31mwhat\\xc2\\x9bis \\xc3\\xa9\\n")
"""


class AtTerminal:
    """A process whose controlling terminal, standard input, output and error are a new pseudo-terminal."""

    def __init__(self, argv):
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execv(argv[0], argv)
        self.shown = ""
        self.code = None
        self.reader = threading.Thread(target=self._collect, daemon=True)
        self.reader.start()

    def _collect(self):
        with contextlib.suppress(OSError):  # EIO: nobody has it any more
            while data := os.read(self.master, 65536):
                self.shown += data.decode(errors="backslashreplace")

    def expect(self, pattern):
        return wait_until(lambda: re.search(pattern, self.shown, re.M))

    def type(self, keys):
        os.write(self.master, keys)

    def ended(self):
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def end(self):
        if not self.ended():
            os.kill(self.pid, signal.SIGTERM)
            with contextlib.suppress(AssertionError):
                wait_until(self.ended, 5)
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
            wait_until(self.ended)
        self.reader.join(5)
        os.close(self.master)


@pytest.fixture
def at_terminal():
    started = []

    def start(*argv):
        started.append(AtTerminal([str(a) for a in argv]))
        return started[-1]

    yield start
    for process in started:
        process.end()


def connect_to(port):
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


def ask(port):
    with connect_to(port) as s:
        return read_all(s)


@pytest.fixture
def foreground(at_terminal, hark, tmp_path):
    """harkd in the foreground with one service, spy, and the port it listens on."""

    def start(*more):
        (tmp_path / "spy.py").write_text(SPY)
        (tmp_path / "hark.conf").write_text(
            f"[harkd]\ncontrol = {tmp_path}/control\n\n"
            + service("spy", f"exec = {sys.executable} {tmp_path}/spy.py", *more)
        )
        process = at_terminal(hark + "d", "-c", tmp_path / "hark.conf")
        process.expect("ready: ")
        asked = os.popen(f"{hark} status --json --control {tmp_path}/control").read()
        return process, int(re.search(r'"tcp://127.0.0.1:(\d+)"', asked)[1])

    return start


@pytest.mark.parametrize("model", MODELS)
def test_a_program_of_hark_serve_does_not_reach_the_terminal(at_terminal, hark, model):
    process = at_terminal(hark, "serve", "--model", model, "tcp://127.0.0.1:0", "--", sys.executable, "-c", SPY)
    port = int(process.expect(r"listening on tcp://127.0.0.1:(\d+)")[1])
    assert ask(port) == b"[]\n"
    process.expect(r"told \?\[31mwhat\?+is é")


@pytest.mark.parametrize("model", MODELS)
def test_a_program_of_harkd_does_not_reach_the_terminal(foreground, model):
    process, port = foreground(f"model = {model}")
    assert ask(port) == b"[]\n"
    process.expect(r"spy: told \\x1b\[31mwhat\\xc2\\x9bis ")


def test_a_worker_of_harkd_does_not_reach_the_terminal(foreground):
    process, _ = foreground()
    for worker in open(f"/proc/{process.pid}/task/{process.pid}/children").read().split():
        if open(f"/proc/{worker}/comm").read() == "spy\n":
            break
    else:
        pytest.fail("there is no worker")
    fields = open(f"/proc/{worker}/stat").read().rsplit(")", 1)[1].split()
    assert fields[3] == worker and fields[4] == "0", "session and terminal"
    links = [os.readlink(f"/proc/{worker}/fd/{fd}") for fd in os.listdir(f"/proc/{worker}/fd")]
    assert not [link for link in links if link.startswith("/dev/") and link != "/dev/null"]


def test_ctrl_c_drains_hark_serve(at_terminal, hark):
    process = at_terminal(
        hark, "serve", "-v", "tcp://127.0.0.1:0", "--", "sh", "-c", "echo hello; cat >/dev/null; echo bye"
    )
    port = int(process.expect(r"listening on tcp://127.0.0.1:(\d+)")[1])
    with connect_to(port) as s:
        assert s.recv(6) == b"hello\n"
        process.type(b"\x03")
        assert read_all(s) == b"bye\n"
    wait_until(process.ended)
    assert process.code == 0
    process.expect("done")  # the last words, too


def test_ctrl_c_drains_harkd(foreground):
    process, _ = foreground()
    process.type(b"\x03")
    wait_until(process.ended)
    assert process.code == 0
