"""Reloads and upgrades that do not come out as wished, and what they say; addresses that come and go."""
import contextlib
import ctypes
import json
import os
import resource
import select
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time

import pytest

from conftest import MODELS, PATIENCE, read_all, wait_until
from harkd_support import HEAD, harkd, service  # noqa: F401 a fixture

ECHO = service("echo", "box = echo")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ping(s, text=b"ping"):
    s.sendall(text)
    assert s.recv(100) == text


def dial(port, host="127.0.0.1"):
    return socket.create_connection((host, port), PATIENCE)


# ---- new workers that cannot start -----------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_a_service_whose_new_worker_cannot_start_goes_on_with_the_old_one_and_says_so(harkd, run, tmp_path, model):
    good = service("echo", "box = echo", f"model = {model}", "workers = 2")
    d = harkd(good + service("other", "box = daytime"))
    before, port = d.workers("echo"), d.port("echo")
    d.configure(good.replace("workers = 2", "workers = 2\nrlimit_nofile = 5") + service("other", "box = discard"))
    answer = run("reload", "--control", tmp_path / "control")
    assert answer.returncode == 1, answer
    assert b"[echo] goes on as it was" in answer.stderr and b"Too many open files" in answer.stderr, answer.stderr
    d.expect(r"echo: reload: goes on as it was, its new settings do not work: a worker cannot start")
    assert sorted(d.workers("echo")) == sorted(before)
    assert "goes on as it was" in d.service("echo")["error"]
    assert d.service("other")["box"] == "discard"  # it is that service alone
    with dial(port) as s:
        ping(s)
    d.configure(good + service("other", "box = discard"))
    assert run("reload", "--control", tmp_path / "control").stdout == (
        b"reloaded: 0 added, 0 changed, 0 removed, 2 unchanged\n"
    )
    d.configure(good.replace("workers = 2", "workers = 1") + service("other", "box = discard"))
    assert d.ask("reload")["changed"] == 1
    wait_until(lambda: len(d.service("echo")["workers"]) == 1)
    with dial(port) as s:
        ping(s)


def test_a_new_service_that_cannot_start_is_told_by_the_reload(harkd, run, tmp_path):
    d = harkd(ECHO)
    d.configure(ECHO + service("bad", "box = echo", "rlimit_nofile = 5"))
    answer = run("reload", "--control", tmp_path / "control", "--json")
    assert answer.returncode == 1
    assert b"[bad] does not start" in answer.stderr + answer.stdout, answer
    d.expect("bad: reload: does not start, and is tried again: a worker cannot start")


def test_a_new_service_for_which_there_are_no_descriptors_is_told_by_the_reload(harkd, tmp_path):
    d = harkd(ECHO, ready=False, head=HEAD.replace("log = stderr", "log = {dir}/log"))
    wait_until(lambda: (tmp_path / "log").exists() and "ready: " in (tmp_path / "log").read_text())
    d.configure(ECHO + service("more", "box = echo"))
    limit = resource.prlimit(d.pid, resource.RLIMIT_NOFILE)
    used = {int(fd) for fd in os.listdir(f"/proc/{d.pid}/fd")}
    free = [n for n in range(len(used) + 3) if n not in used]
    resource.prlimit(d.pid, resource.RLIMIT_NOFILE, (free[2], limit[1]))  # for a client and the service's socket
    answer = d.ask("reload")
    resource.prlimit(d.pid, resource.RLIMIT_NOFILE, limit)
    assert (answer["ok"], answer["added"]) == (False, 0) and "[more] does not start" in answer["errors"][0], answer
    d.configure(ECHO)
    assert d.ask("reload")["ok"]


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
        newborn.stopped.set()  # harkd goes on untraced when the thread has ended
        newborn.join(PATIENCE)


def test_a_reload_tells_of_a_service_that_takes_long_to_fail(harkd):
    d = harkd(ECHO)
    d.configure(ECHO + service("bad", "box = echo", "rlimit_nofile = 5"))
    with slow_starts(d, 1.2):
        answer = d.ask("reload")
    assert not answer["ok"] and "[bad] does not start" in answer["errors"][0], answer


def test_a_reload_that_a_drain_cuts_off_is_refused_with_the_reason(harkd):
    d = harkd(ECHO)
    d.configure(ECHO + service("more", "box = discard"))
    with d.connect("echo") as busy, slow_starts(d, 1) as newborn, socket.socket(socket.AF_UNIX) as control:
        ping(busy)
        control.settimeout(PATIENCE)
        control.connect(str(d.directory / "control"))
        control.sendall(b"reload\n")
        wait_until(lambda: newborn.held)
        d.send(signal.SIGTERM)
        answer = json.loads(control.recv(4096))
        assert answer == {"ok": False, "error": "given up: harkd is draining"}
        control.sendall(b"reload\n")
        assert json.loads(control.recv(4096)) == {"ok": False, "error": "harkd is draining"}
    assert "reload: given up: harkd is draining\n" in d.stderr and "reloaded " not in d.stderr


def test_new_settings_are_tried_to_the_end_though_the_old_worker_is_idle(harkd):
    old = service("echo", "box = echo", "start = demand", "stop_idle = 300ms")
    d = harkd(old)
    with d.connect("echo") as s:
        ping(s)
        d.configure(ECHO)
        with slow_starts(d, 1), socket.socket(socket.AF_UNIX) as control:
            control.settimeout(PATIENCE)
            control.connect(str(d.directory / "control"))
            control.sendall(b"reload\n")
            time.sleep(0.1)
            s.close()
            assert control.recv(4096).startswith(b'{"ok":true'), d.stderr
    assert d.service("echo")["state"] == "running"


def test_requests_that_change_services_wait_for_the_end_of_a_reload(harkd):
    d = harkd(ECHO)
    d.configure(service("echo", "box = echo", "workers = 8"))
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(PATIENCE)
        one.connect(str(d.directory / "control"))
        one.sendall(b"reload\nstop echo\nstatus echo\nreload\nstart echo\n")
        one.shutdown(socket.SHUT_WR)
        answers = read_all(one).splitlines()
    assert [a.startswith(b'{"ok":true') for a in answers] == [True] * 5, answers
    assert b'"state":"stopped"' in answers[2] or b'"state":"draining"' in answers[2]
    with d.connect("echo") as s:
        ping(s)


def test_a_reload_to_no_services_is_refused_unless_forced(harkd, run, tmp_path):
    d = harkd(ECHO)
    d.configure("")
    d.send(signal.SIGHUP)
    d.expect(r"reload: nothing was changed: .*no services")
    answer = run("reload", "--control", tmp_path / "control")
    assert answer.returncode == 1 and b"--force" in answer.stderr
    with d.connect("echo") as s:
        ping(s)
    answer = run("reload", "--control", tmp_path / "control", "--force")
    assert answer.stdout == b"reloaded: 0 added, 0 changed, 1 removed, 0 unchanged\n", answer


def test_a_dry_run_says_what_would_change_and_changes_nothing(harkd, run, tmp_path):
    d = harkd(ECHO + service("gone", "box = discard") + service("same", "box = daytime"))
    before = d.status()["services"]
    d.configure(
        service("echo", "box = echo", "idle_timeout = 1m")
        + service("same", "box = daytime")
        + service("new", "box = chargen")
    )
    answer = run("reload", "--control", tmp_path / "control", "--dry-run")
    text = answer.stdout.decode()
    assert answer.returncode == 0, answer
    for line in ("[gone] removed", "[echo] changed", "  + idle_timeout = 1m", "[new] added", "  + box = chargen"):
        assert line + "\n" in text, text
    assert text.endswith("would be: 1 added, 1 changed, 1 removed, 1 unchanged\n")
    assert [s["workers"][0]["pid"] for s in d.status()["services"]] == [s["workers"][0]["pid"] for s in before]
    d.configure("[echo]\nbox = eccho\n")
    answer = run("reload", "--control", tmp_path / "control", "--dry-run")
    assert answer.returncode == 1 and b"eccho" in answer.stderr


def test_a_reload_that_is_asked_for_before_harkd_is_ready_is_answered_and_takes_hold(harkd, tmp_path):
    many = "".join(service(f"many{i}", "box = echo", "workers = 64") for i in range(4))
    d = harkd(ECHO + many, ready=False)

    def workers():
        with open(f"/proc/{d.pid}/task/{d.pid}/children") as f:
            return f.read().split()

    wait_until(workers)  # it has read its configuration
    d.configure(ECHO.replace("box", "idle_timeout = 1h\nbox") + many)
    until = time.monotonic() + PATIENCE
    while not (tmp_path / "control").exists():  # at once: the last workers are about to be ready
        assert time.monotonic() < until
    last = int(workers()[-1])
    os.kill(last, signal.SIGSTOP)
    threading.Timer(0.3, os.kill, (last, signal.SIGCONT)).start()
    answer = d.ask("reload")
    assert answer["ok"] and answer["changed"] == 1, answer
    d.await_ready()
    wait_until(lambda: len(d.service("echo")["workers"]) == 1)


# ---- addresses --------------------------------------------------------------------------------------


class Dialer(threading.Thread):
    """Dials again and again; each connection must be echoed to."""

    def __init__(self, port, stop):
        super().__init__(daemon=True)
        self.port, self.stopped, self.failures, self.done = port, stop, [], 0

    def run(self):
        while not self.stopped.is_set() and len(self.failures) < 20:
            try:
                with dial(self.port) as s:
                    ping(s)
                    s.shutdown(socket.SHUT_WR)
                    assert read_all(s) == b""
                self.done += 1
            except Exception as e:  # noqa: BLE001 each is a failure to report
                self.failures.append(repr(e))


@pytest.mark.parametrize(
    "one, other",
    [
        ("tcp://127.0.0.1:{}", "tcp://*:{}"),
        ("tcp4://*:{}", "tcp://*:{}"),
        ("tcp://127.0.0.1:{}", "tcp4://*:{}"),
        ("tcp4://127.0.0.1:{} tcp6://[::1]:{}", "tcp://*:{}"),
    ],
)
def test_nobody_is_refused_while_reloads_go_between_an_address_and_its_wildcard(harkd, one, other):
    port = free_port()

    def text(address):
        return service("echo", "box = echo", listen=address.replace("{}", str(port)))

    d = harkd(text(one))
    stop = threading.Event()
    dialers = [Dialer(port, stop) for _ in range(4)]
    with dial(port) as held:
        ping(held)
        for t in dialers:
            t.start()
        for i in range(6):
            d.configure(text(one if i % 2 else other))
            answer = d.ask("reload")
            assert answer["ok"] and answer["changed"] == 1, answer
            done = sum(t.done for t in dialers)
            wait_until(lambda done=done: sum(t.done for t in dialers) > done + 8)
        stop.set()
        for t in dialers:
            t.join(PATIENCE)
        ping(held)
    assert [f for t in dialers for f in t.failures] == []
    assert d.service("echo")["failed"] == 0


def test_an_address_goes_from_one_service_to_anothers_wildcard(harkd):
    port = free_port()
    d = harkd(service("a", "box = echo", listen=f"tcp://127.0.0.1:{port}"))
    with dial(port) as held:
        ping(held)
        d.configure(service("b", "exec = /bin/echo b", listen=f"tcp://*:{port}"))
        answer = d.ask("reload")
        assert (answer["ok"], answer["added"], answer["removed"]) == (True, 1, 1), answer
        with dial(port) as s:
            assert read_all(s) == b"b\n"


def run_test(hark, tmp_path):
    return subprocess.run([hark + "d", "-t", "-c", tmp_path / "hark.conf"], capture_output=True, timeout=PATIENCE)


def test_who_holds_an_address_is_told_when_it_is_harkd_itself(harkd, hark, tmp_path):
    port = free_port()
    d = harkd(
        service("a", "box = echo", listen=f"tcp://127.0.0.1:{port}")
        + service("b", "box = echo", listen=f"tcp://localhost:{port}"),
        ready=False,
    )
    assert d.wait() == 100
    told = f"listen: tcp://localhost:{port}: [a] ("
    assert told in d.stderr and f"listens on tcp://127.0.0.1:{port}" in d.stderr, d.stderr
    checked = run_test(hark, tmp_path)
    assert checked.returncode == 100 and told in checked.stderr.decode()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", ["changed", "removed"])
def test_who_waits_in_the_backlog_of_an_address_that_is_taken_away_is_served(harkd, tmp_path, model, kind):
    port, more = free_port(), (f"model = {model}", "max_conns = 1", "start = demand", "grace = 20s")
    path = tmp_path / "sock"
    old = service("echo", "box = echo", *more, listen=f"tcp://127.0.0.1:{port} unix:{path}")
    d = harkd(old)
    with dial(port) as first, dial(port) as second, socket.socket(socket.AF_UNIX) as third:
        third.settimeout(PATIENCE)
        third.connect(str(path))
        ping(first)
        second.sendall(b"waits")
        third.sendall(b"waits")
        d.configure(ECHO if kind == "removed" else ECHO.replace("box", "lifetime = 1h\nbox"))
        if kind == "removed":
            d.configure(service("other", "box = discard"))
        assert d.ask("reload")["ok"]
        first.close()
        waiting = {second, third}
        while waiting:  # one at a time, as max_conns says
            ready = select.select(waiting, [], [], PATIENCE)[0]
            assert ready
            assert ready[0].recv(10) == b"waits"
            ready[0].close()
            waiting.remove(ready[0])
    assert not path.exists()

    def refused():
        try:
            dial(port).close()
        except OSError:
            return True
        return False

    wait_until(refused)


def handed_over(sockets, names):
    """preexec_fn for a child to which they are handed over, and its environment but for LISTEN_PID."""

    def prepare():
        for i, s in enumerate(sockets):
            os.dup2(s.fileno(), 50 + i)
        for i in range(len(sockets)):
            os.dup2(50 + i, 3 + i)
            os.close(50 + i)

    return prepare, {"LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": ":".join(names)}


def test_one_inherited_name_for_several_sockets_serves_them_all_and_what_is_not_claimed_is_told(hark, tmp_path):
    (tmp_path / "hark.conf").write_text(HEAD.format(dir=tmp_path) + service("echo", "box = echo", listen="fd:web"))
    with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b, socket.create_server(
        ("127.0.0.1", 0)
    ) as c:
        prepare, environment = handed_over([a, b, c], ["web", "web", "rest"])
        command = f'LISTEN_PID=$$ exec {hark}d -c {tmp_path}/hark.conf'
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            preexec_fn=prepare,
            env={**os.environ, **environment},
            close_fds=False,
            stderr=open(tmp_path / "err", "w"),
        )
        try:
            wait_until(lambda: "ready: " in (tmp_path / "err").read_text())
            for listener in (a, b):
                with dial(listener.getsockname()[1]) as s:
                    ping(s)
            text = (tmp_path / "err").read_text()
            assert f"rest (tcp://127.0.0.1:{c.getsockname()[1]}) was handed over, and no listen has it" in text, text
        finally:
            process.terminate()
            process.wait(PATIENCE)


# ---- upgrades ---------------------------------------------------------------------------------------


@pytest.fixture
def own(harkd, hark, tmp_path):
    """own(text, ...) is harkd(text, ...) from a binary that the test may replace: own.binary."""
    (tmp_path / "bin").mkdir()
    binary = tmp_path / "bin" / "harkd"
    shutil.copy(hark + "d", binary)

    def start(text, *args, **more):
        return harkd(text, *args, executable=str(binary), **more)

    start.binary = binary
    return start


def replace(binary, text):
    new = binary.with_name("new")
    new.write_text(text)
    new.chmod(0o755)
    new.rename(binary)


READY_THEN = """#!/usr/bin/python3
import os, signal, time
os.write(int(os.environ["HARKD_HEIR"].split()[0]), b"\\0")
{}
"""


@pytest.mark.parametrize(
    "then, why",
    [
        ("", "died as soon as it served"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
        ("time.sleep(0.5); os._exit(3)", "died as soon as it served"),
    ],
)
def test_a_binary_that_says_ready_and_dies_leaves_the_old_one_serving_and_why_in_the_log(own, run, tmp_path, then, why):
    path = tmp_path / "sock"
    d = own(service("echo", "box = echo", listen=f"tcp://127.0.0.1:0 unix:{path}") + service("off", "box = echo"))
    port = d.port("echo")
    assert d.ask("stop off")["ok"]
    with dial(port) as held:
        ping(held)
        replace(own.binary, READY_THEN.format(then))
        answer = run("upgrade", "--control", tmp_path / "control")
        assert answer.returncode == 1 and why.encode() in answer.stderr, answer
        d.expect(rf"upgrade: generation 2 .*{why}.*: this one goes on")
        ping(held)
        with dial(port) as s:
            ping(s)
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(PATIENCE)
            s.connect(str(path))
            ping(s)
    assert (d.status()["generation"], d.service("off")["state"]) == (1, "stopped")
    d.configure(ECHO)
    assert d.ask("reload")["ok"]
    assert d.stop() == 0 and not (tmp_path / "control").exists()


def test_silent_control_clients_do_not_take_the_place_of_one_that_awaits_its_answer(own, tmp_path):
    d, go = own(ECHO), tmp_path / "go"
    replace(own.binary, f"#!/bin/sh\nwhile [ ! -e {go} ]; do sleep 0.05; done\nexit 3\n")
    with contextlib.ExitStack() as stack:

        def client(request):
            s = stack.enter_context(socket.socket(socket.AF_UNIX))
            s.settimeout(PATIENCE)
            s.connect(str(tmp_path / "control"))
            s.sendall(request)
            return s

        awaiting = client(b"upgrade wait\n")
        wait_until(lambda: not d.ask("stop echo")["ok"])  # it is under way
        for _ in range(40):
            client(b"stat")
        assert d.status()["ok"]
        go.touch()
        answer = awaiting.recv(4096)
    assert answer.startswith(b'{"ok":false') and b"ended before it was ready" in answer, answer
    assert d.stop() == 0


@pytest.mark.parametrize("kind", ["has asked", "waits for a reload"])
def test_who_asks_as_a_new_generation_says_that_it_is_ready_has_an_answer(own, tmp_path, kind):
    d, go = own(ECHO), tmp_path / "go"
    wait = f'while not os.path.exists("{go}"): time.sleep(0.01)\n'
    replace(own.binary, READY_THEN.replace("os.write", wait + "os.write").format(f'os.unlink("{go}"); time.sleep(0.5)'))
    with contextlib.ExitStack() as stack:

        def client(request):
            s = stack.enter_context(socket.socket(socket.AF_UNIX))
            s.settimeout(PATIENCE)
            s.connect(str(tmp_path / "control"))
            s.sendall(request)
            return s

        one = client(b"status\n")
        assert one.recv(4096).startswith(b'{"ok":true')
        if kind == "waits for a reload":
            newborn = stack.enter_context(slow_starts(d, 5))
            d.configure(ECHO.replace("box", "idle_timeout = 1h\nbox"))
            client(b"reload\n")
            wait_until(lambda: newborn.held)
            newborn.seconds = 0
            one.sendall(b"stop echo\n")
        upgrade = client(b"upgrade wait\n")
        wait_until(lambda: not d.ask("upgrade")["ok"])
        if kind == "has asked":
            d.send(signal.SIGSTOP)
            wait_until(lambda: ") T " in open(f"/proc/{d.pid}/stat").read())
            one.sendall(b"status\n")
        go.touch()
        wait_until(lambda: not go.exists())
        d.send(signal.SIGCONT)
        answer = one.recv(4096)
        assert answer.startswith(b'{"ok":true' if kind == "has asked" else b'{"ok":false,"error":"an upgrade'), answer
        assert b"died as soon as it served" in upgrade.recv(4096)


def test_a_new_generation_that_is_told_to_end_before_it_is_ready_leaves_the_old_ones_paths(own, hark, tmp_path):
    path = tmp_path / "sock"
    d = own(service("echo", "box = echo", listen=f"unix:{path}"))
    told = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); os.kill(os.getpid(), signal.SIGTERM)"
    replace(own.binary, f'#!/usr/bin/python3\nimport os, signal, sys\n{told}\nos.execv("{hark}d", sys.argv)\n')
    answer = d.ask("upgrade wait")
    assert not answer["ok"] and "ended before it was ready" in answer["error"], answer
    assert d.status()["generation"] == 1
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(PATIENCE)
        s.connect(str(path))
        ping(s)


def test_an_upgrade_waits_for_the_outcome(harkd, run, tmp_path):
    d = harkd(ECHO)
    answer = run("upgrade", "--control", tmp_path / "control")
    assert answer.returncode == 0, answer
    now = d.status()
    d.generations.append(now["pid"])
    assert answer.stdout == f"upgraded: generation 2 serves, process {now['pid']}\n".encode()
    with d.connect("echo") as s:
        ping(s)


@pytest.mark.parametrize(
    "text, why",
    [
        ("[echo]\nlisten = tcp://127.0.0.1:0\nbox = eccho\n", "eccho"),
        (service("echo", "box = echo", "rlimit_nofile = 5"), "Too many open files"),
    ],
)
def test_why_an_upgrade_failed_is_told_and_logged_in_the_background_as_well(hark, run, tmp_path, text, why):
    head = HEAD.replace("log = stderr", "log = {dir}/log\npid_file = {dir}/pid").format(dir=tmp_path)
    (tmp_path / "hark.conf").write_text(head + ECHO)
    subprocess.run([hark + "d", "-c", tmp_path / "hark.conf", "--daemon"], check=True, timeout=PATIENCE)
    pid = int((tmp_path / "pid").read_text())
    try:
        (tmp_path / "hark.conf").write_text(head + text)
        answer = run("upgrade", "--control", tmp_path / "control")
        assert answer.returncode == 1 and why in answer.stderr.decode(), answer
        log = (tmp_path / "log").read_text()
        assert any("this one goes on" in line and why in line for line in log.splitlines()), log
        assert int((tmp_path / "pid").read_text()) == pid
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))


@pytest.mark.parametrize(
    "new, why",
    [
        (b"no program at all", "Exec format error"),
        (b"#!/no/such/interpreter\n", "No such file or directory"),
        (b"#!/bin/sh\nexit 7\n", "exit status 7"),
        (b"#!/bin/sh\nkill -SEGV $$\n", "signal 11"),
    ],
)
def test_a_binary_that_does_not_run_is_told_by_what_it_ended_with(own, run, tmp_path, new, why):
    d = own(ECHO)
    for _ in range(3):  # its end may be seen by its pipe or by its signal first
        own.binary.with_name("new").write_bytes(new)
        own.binary.with_name("new").chmod(0o755)
        own.binary.with_name("new").rename(own.binary)
        answer = run("upgrade", "--control", tmp_path / "control")
        assert answer.returncode == 1 and why in answer.stderr.decode(), answer
    with d.connect("echo") as s:
        ping(s)


def test_an_upgrade_that_is_refused_is_told_once_and_logged(own, run, tmp_path):
    d = own(ECHO)
    own.binary.unlink()
    said = run("upgrade", "--control", tmp_path / "control").stderr.decode()
    assert said.count("upgrade:") == 1 and "No such file" in said
    wait_until(lambda: "harkd: No such file" in d.stderr)


def test_a_daemon_says_which_service_does_not_start(hark, tmp_path):
    head = HEAD.replace("log = stderr", "log = {dir}/log\npid_file = {dir}/pid").format(dir=tmp_path)
    (tmp_path / "hark.conf").write_text(head + ECHO + service("bad", "box = echo", "rlimit_nofile = 5"))
    r = subprocess.run(
        [hark + "d", "-c", tmp_path / "hark.conf", "--daemon"], capture_output=True, text=True, timeout=PATIENCE
    )
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    assert r.returncode == 0
    assert "[bad] does not start, and is tried again: " in r.stderr and "Too many open files" in r.stderr


@pytest.mark.parametrize("kept", [False, True])
def test_an_upgrade_leaves_a_foreign_socket_at_a_services_path_alone(harkd, run, tmp_path, kept):
    path = tmp_path / "sock"
    local = service("local", "box = echo", listen=f"unix:{path}")
    d = harkd(ECHO + local)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(path))
        foreign.listen()
        d.configure(ECHO + (local if kept else ""))
        assert run("upgrade", "--control", tmp_path / "control").returncode == 0
        d.generations.append(d.status()["pid"])
        assert d.wait() == 0
        os.kill(d.generations[0], signal.SIGTERM)
        wait_until(lambda: not (tmp_path / "control").exists())
        assert stat.S_ISSOCK(path.stat().st_mode)
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(PATIENCE)
            s.connect(str(path))


def test_a_generation_that_is_told_to_end_at_once_ends_for_good(harkd):
    d = harkd(ECHO)
    now = d.upgrade()
    began = time.monotonic()
    os.kill(now["pid"], signal.SIGTERM)
    assert d.wait() == 0
    assert time.monotonic() - began < 2 and "this one goes on" not in d.stderr


def test_a_reload_and_an_upgrade_go_from_an_address_to_its_wildcard(harkd):
    port = free_port()
    d = harkd(service("echo", "box = echo", listen=f"tcp://127.0.0.1:{port}"))
    with dial(port) as held:
        ping(held)
        d.configure(service("echo", "box = echo", listen=f"tcp://*:{port}"))
        d.upgrade()
        ping(held)
        with dial(port) as s:
            ping(s)


# ---- relays that lead to each other -----------------------------------------------------------------


def test_the_configuration_names_a_loop_of_relays(hark, tmp_path):
    a, b = free_port(), free_port()
    (tmp_path / "hark.conf").write_text(
        HEAD.format(dir=tmp_path)
        + service("one", f"relay = tcp://localhost:{b}", listen=f"tcp://*:{a}")
        + service("two", f"relay = tcp://127.0.0.1:{a}", listen=f"tcp://127.0.0.1:{b}")
        + service("own", f"relay = unix:{tmp_path}/s", listen=f"unix:{tmp_path}/s")
        + service("fine", f"relay = tcp://192.0.2.1:{a + 1}", listen=f"tcp://*:{a + 1}")
    )
    done = run_test(hark, tmp_path)
    text = done.stderr.decode()
    assert done.returncode == 100, text
    assert "relays that lead back to themselves: [one] -> [two] -> [one]" in text
    assert "relays that lead back to themselves: [own] -> [own]" in text
    assert "fine" not in text


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_hop_limit_ends_a_loop_of_relays(serve, hark, host):
    port = free_port()
    one = serve(f"tcp://{host}:0", "relay", f"tcp://{host}:{port}")
    serve(f"tcp://{host}:{port}", "relay", f"tcp://{host}:{one.port()}")
    before = time.monotonic()
    with socket.create_connection((host.strip("[]"), one.port()), PATIENCE) as s:
        try:
            assert s.recv(10) == b""
        except ConnectionResetError:
            pass
    assert time.monotonic() - before < PATIENCE / 2
    wait_until(lambda: len(os.listdir(f"/proc/{one.pid}/fd")) < 20)


# ---- drains -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("limit", ["rate = 1/h", "max_load = 0.0001"])
def test_a_drain_ends_at_once_where_a_rate_holds_the_backlog_and_nobody_is_connected(harkd, model, limit):
    d = harkd(service("echo", "box = echo", f"model = {model}", limit, "grace = 1m", "workers = 2"))
    clients = [d.connect("echo") for _ in range(3)]
    if limit.startswith("rate"):
        ping(clients[0])
        clients[0].close()
        wait_until(lambda: d.service("echo")["now"] == 0)
    wait_until(lambda: sum(d.service("echo")["held"].values()) > 0)
    began = time.monotonic()
    assert d.stop() == 0
    assert time.monotonic() - began < 5
    assert "who still waited in the backlog has been turned away" in d.stderr and "grace ended" not in d.stderr
    for s in clients:
        s.close()


@pytest.mark.parametrize("what", ["box = echo", "relay = tcp://127.0.0.1:{}"])
@pytest.mark.parametrize("kind", ["reload", "stop"])
def test_an_inline_workers_sockets_close_while_its_box_runs(harkd, serve, what, kind):
    what = what.format(serve("tcp://127.0.0.1:0", "echo").port())
    kept, dropped = free_port(), free_port()
    both = service("echo", what, "model = inline", listen=f"tcp://127.0.0.1:{kept} tcp://127.0.0.1:{dropped}")
    d = harkd(both)
    with dial(dropped) as held:
        ping(held)
        if kind == "reload":
            d.configure(service("echo", what, "model = inline", listen=f"tcp://127.0.0.1:{kept}"))
            assert d.ask("reload")["changed"] == 1
        else:
            assert d.ask("stop echo")["ok"]

        def refused():
            try:
                dial(dropped).close()
            except ConnectionRefusedError:
                return True
            except ConnectionResetError:
                pass
            return False

        wait_until(refused)
        if kind == "stop":
            assert d.ask("start echo")["ok"]
            with dial(dropped) as s:
                ping(s)
        else:
            ping(held)


# ---- names and addresses ----------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="a hosts file of its own needs root")
def test_a_name_with_several_addresses_is_listened_on_at_all_of_them(harkd, hark, tmp_path):
    (tmp_path / "hosts").write_text("127.0.0.1 both\n::1 both\n")
    wrapper = tmp_path / "harkd"
    wrapper.write_text(
        "#!/bin/sh\nexec unshare -m sh -c"
        f" 'mount --bind {tmp_path}/hosts /etc/hosts && exec {hark}d \"$@\"' sh \"$@\"\n"
    )
    wrapper.chmod(0o755)
    d = harkd(service("echo", "box = echo", listen="tcp://both:0 udp://both:0"), executable=str(wrapper))
    assert sorted(a.rsplit(":", 1)[0] for a in d.service("echo")["listen"]) == [
        "tcp://127.0.0.1",
        "tcp://[::1]",
        "udp://127.0.0.1",
        "udp://[::1]",
    ]
    ports = {a.rsplit(":", 1)[0]: int(a.rsplit(":", 1)[1]) for a in d.service("echo")["listen"]}
    assert ports["tcp://127.0.0.1"] == ports["tcp://[::1]"]
    for round in range(2):
        for host in ("127.0.0.1", "::1"):
            with dial(ports["tcp://127.0.0.1"], host) as s:
                ping(s)
        if round == 0:
            d.upgrade()


def test_programs_of_both_families_get_a_socket_of_their_clients(harkd):
    port = free_port()
    family = "/usr/bin/python3 -c 'import socket; print(int(socket.socket(fileno=0).family), flush=True)'"
    d = harkd(service("two", f"exec = {family}", listen=f"tcp4://*:{port} tcp6://*:{port}"))
    for host, is_family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
        with dial(port, host) as s:
            assert int(read_all(s)) == is_family
    assert d.status()["services"][0]["state"] == "running"


@pytest.mark.parametrize("address", ["tcp://192.0.2.77:0", "tcp://[2001:db8::77]:0", "udp://192.0.2.77:0"])
def test_freebind_listens_at_an_address_that_is_not_there_yet(harkd, address):
    d = harkd(service("echo", "box = echo", "freebind = yes", listen=address))
    assert d.service("echo")["listen"][0].startswith(address[:-1])
    d.configure(service("echo", "box = echo", listen="tcp://192.0.2.78:0"))
    assert "no interface here has this address" in d.ask("reload")["error"]


def test_what_a_killed_generation_counted_is_taken_back(harkd):
    d = harkd(service("echo", "box = echo", "max_conns = 1"))
    with d.connect("echo") as held:
        ping(held)
        workers = d.workers("echo")
        d.upgrade()
        assert d.service("echo")["now"] == 1
        for pid in (d.pid, *workers):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: d.service("echo")["now"] == 0)
    with d.connect("echo") as s:
        ping(s)
