"""What the end-to-end tests share: the built program, services that end with their test, and ways to reach them.

The build directory is $HARK_BUILD, by default ./build. Ports are the kernel's choice; a service is ready once it has
printed its addresses. Every process is ended by its own id.
"""
import ctypes
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

MODELS = ["inline", "process", "thread", "fiber"]
PATIENCE = 20  # seconds: for what should take none at all, on a busy machine
ADDRESS = re.compile(r"tls://|(tcp|udp)[46]?://|unix(gram)?:|fd:|[^/]*:\d+$")


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "alone: bounds what a moment takes, or floods the machine: nothing runs beside it"
    )
    if hasattr(config, "workerinput"):
        have_own_network()


def have_own_network():
    """For one of several workers of pytest-xdist: nobody else gets the ports that its tests have, or have just left.
    Who may not have a network of its own shares everybody's."""
    clone_newnet = 0x40000000
    if ctypes.CDLL(None).unshare(clone_newnet) == 0:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


@pytest.fixture(scope="session")
def hark():
    path = os.path.join(os.path.abspath(os.environ.get("HARK_BUILD", "build")), "hark")
    if not os.access(path, os.X_OK):
        pytest.exit(f"{path} is not built (set HARK_BUILD)", returncode=2)
    return path


@pytest.fixture
def run(hark):
    """run("call", ADDRESS, input=b"…") → the finished process, its output as bytes."""

    def run(*args, input=b"", timeout=PATIENCE, **more):
        return subprocess.run([hark, *map(str, args)], input=input, capture_output=True, timeout=timeout, **more)

    return run


def wait_until(what, seconds=PATIENCE):
    """Polls what() until it is true and returns that; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not (result := what()):
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)
    return result


class Process:
    """A running hark whose output is collected while it runs."""

    def __init__(self, argv, **more):
        self.process = subprocess.Popen(
            argv,
            stdin=more.pop("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **more,
        )
        self.pid = self.process.pid
        self._out, self._err = bytearray(), bytearray()
        self._threads = [
            threading.Thread(target=self._collect, args=pair, daemon=True)
            for pair in [(self.process.stdout, self._out), (self.process.stderr, self._err)]
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _collect(pipe, into):
        while chunk := os.read(pipe.fileno(), 65536):
            into += chunk

    @property
    def stdout(self):
        return bytes(self._out).decode(errors="replace")

    @property
    def stderr(self):
        return bytes(self._err).decode(errors="replace")

    def wait(self, timeout=PATIENCE):
        """Its exit code, once it has ended and all it said was read."""
        code = self.process.wait(timeout)
        for thread in self._threads:
            thread.join(5)
        return code

    def send(self, number):
        os.kill(self.pid, number)

    def stop(self, number=signal.SIGTERM, timeout=PATIENCE):
        if self.process.poll() is None:
            self.send(number)
        return self.wait(timeout)

    def expect(self, pattern, seconds=PATIENCE):
        """Waits until standard error matches, and returns the match."""
        return wait_until(lambda: re.search(pattern, self.stderr, re.M), seconds)

    def end(self):
        """For teardown: gently, then not; its whole session, so that no worker stays behind."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is not None:
                break
            self.send(number)
            try:
                self.process.wait(2)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(5)
        for pipe in (self.process.stdout, self.process.stderr, self.process.stdin):
            if pipe is not None and not pipe.closed:
                for thread in self._threads:
                    thread.join(1)
                pipe.close()


class Service(Process):
    @property
    def addresses(self):
        return re.findall(r"^listening on (\S+)\n", self.stdout, re.M)

    def port(self, i=0):
        return int(self.addresses[i].rsplit(":", 1)[1])

    def at(self, i=0):
        """The address to dial: what was bound, loopback for every address."""
        return self.addresses[i].replace("*", "127.0.0.1")

    def connect(self, i=0):
        """A connected client socket."""
        address = self.addresses[i]
        scheme, _, rest = address.partition(":")
        kind = socket.SOCK_DGRAM if scheme.startswith("udp") or scheme == "unixgram" else socket.SOCK_STREAM
        if scheme.startswith("unix"):
            s = socket.socket(socket.AF_UNIX, kind)
            if kind == socket.SOCK_DGRAM:
                s.bind("")  # an abstract name of the kernel's choice, for the answer
            s.settimeout(PATIENCE)
            s.connect("\0" + rest[1:] if rest[0] == "@" else rest)
            return s
        family = socket.AF_INET6 if "[" in address and "[::]" not in address else socket.AF_INET
        s = socket.socket(family, kind)
        s.settimeout(PATIENCE)
        s.connect(("::1" if family == socket.AF_INET6 else "127.0.0.1", self.port(i)))
        return s


def count_addresses(args):
    """How many of serve's arguments are addresses to listen on: they stand between options and the box, or --."""
    n = 0
    for arg in args:
        if ADDRESS.match(arg):
            n += 1
        elif n > 0:
            break
    return n


@pytest.fixture
def start(hark):
    """start(*args) starts any verb in the background."""
    running = []

    def start(*args, kind=Process, nofile=None, **more):
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))) if nofile else None
        process = kind([hark, *map(str, args)], preexec_fn=limit, **more)
        running.append(process)
        return process

    yield start
    for process in running:
        process.end()


@pytest.fixture
def serve_with_hosts(hark, tmp_path):
    """serve_with_hosts(text, *args): a server that reads text in place of /etc/hosts, which can change; before: words
    before its command. Needs root."""
    running = []
    hosts = tmp_path / "hosts"

    def serve_with_hosts(text, *args, before=()):
        hosts.write_text(text)
        inside = 'mount --bind "$0" /etc/hosts && exec "$@"'
        if subprocess.run(["unshare", "-m", "sh", "-c", inside, hosts, "true"], capture_output=True).returncode != 0:
            pytest.skip("this user cannot mount anything over /etc/hosts")
        service = Service(["unshare", "-m", "sh", "-c", inside, str(hosts), *before, hark, "serve", *args])
        running.append(service)
        wait_until(lambda: service.addresses)
        return service, hosts

    yield serve_with_hosts
    for service in running:
        service.end()


@pytest.fixture
def serve(start):
    """serve(*args) starts hark serve ARGS and waits until it accepts on every address."""

    def serve(*args, **more):
        args = [str(a) for a in args]
        service = start("serve", *args, kind=Service, **more)
        wanted = count_addresses(args)
        wait_until(lambda: len(service.addresses) >= wanted or service.process.poll() is not None)
        if len(service.addresses) < wanted:
            code = service.wait()
            pytest.fail(f"hark serve {' '.join(args)} ended with {code}: {service.stderr}")
        return service

    return serve


TAKER = """
import os, socket, subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as f:
    f.write("40000 40007")
for port in range(40000, 40007):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        s = socket.socket(socket.AF_INET, kind)
        s.bind(("127.0.0.2", port))
        os.set_inheritable(s.detach(), True)
if sys.argv[1:]:
    os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def where_ports_are_taken(tmp_path):
    """Words before a command: in its network of 8 ports, 40007 alone is free at 127.0.0.2, and all are at 127.0.0.1."""
    (tmp_path / "taker").write_text(TAKER)
    words = ["unshare", "-n", sys.executable, str(tmp_path / "taker")]
    if subprocess.run(words, capture_output=True).returncode != 0:
        pytest.skip("this user cannot have a network with few ports")
    return words


def read_all(s):
    """To the end of the stream."""
    data = bytearray()
    while chunk := s.recv(1 << 16):
        data += chunk
    return bytes(data)


def echo_many(service, n, size=1000, i=0):
    """n clients at once, each with bytes of its own; each half-closes and must get exactly its own back."""
    clients = []
    try:
        for k in range(n):
            s = service.connect(i)
            clients.append(s)
            s.sendall(b"%06d" % k * (size // 6))
            s.shutdown(socket.SHUT_WR)
        for k, s in enumerate(clients):
            assert read_all(s) == b"%06d" % k * (size // 6)
    finally:
        for s in clients:
            s.close()
