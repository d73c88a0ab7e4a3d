"""Upgrades: a new binary with the sockets of the old one, and all the ways in which it fails."""
import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import time

import pytest

from conftest import PATIENCE, read_all, wait_until
from harkd_support import (
    ECHO,
    HEAD,
    connect_to,
    gone,
    harkd,
    ping,
    service,
    slow_starts,
)  # noqa: F401 harkd is a fixture


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


def heir_of(d):
    return int(d.expect(r"upgrade: generation \d+ is process (\d+)")[1])


def pipes(pid):
    links = set()
    for n in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.add(os.readlink(f"/proc/{pid}/fd/{n}"))
    return {link for link in links if link.startswith("pipe:")}


def test_an_upgrade_starts_what_has_taken_the_binarys_place(own, hark):
    d = own(ECHO)
    replace(own.binary, copy=hark + "d")  # the old file is gone now
    now = d.upgrade()
    assert os.readlink(f"/proc/{now['pid']}/exe") == str(own.binary)
    replace(own.binary, copy=hark + "d")
    later = d.upgrade()  # of what was itself an upgrade
    assert (later["generation"], os.readlink(f"/proc/{later['pid']}/exe")) == (3, str(own.binary))
    with d.connect("echo") as s:
        ping(s)


def test_an_upgrade_goes_where_a_symbolic_link_points_now(harkd, hark, own, tmp_path):
    (tmp_path / "v2").mkdir()
    shutil.copy(hark + "d", tmp_path / "v2" / "harkd")
    (tmp_path / "current").symlink_to(tmp_path / "bin")
    d = harkd(ECHO, executable=str(tmp_path / "current" / "harkd"))
    (tmp_path / "next").symlink_to(tmp_path / "v2")
    (tmp_path / "next").rename(tmp_path / "current")
    now = d.upgrade()
    assert os.readlink(f"/proc/{now['pid']}/exe") == str(tmp_path / "v2" / "harkd")


def test_an_upgrade_to_nothing_says_what_is_missing(own):
    d = own(ECHO)
    own.binary.unlink()
    answer = d.ask("upgrade")
    assert not answer["ok"] and str(own.binary) in answer["error"] and "No such file" in answer["error"], answer
    d.send(signal.SIGUSR2)
    d.expect(r"upgrade: .*No such file")
    with d.connect("echo") as s:
        ping(s)


def test_a_background_harkd_with_relative_paths_is_upgraded(hark, tmp_path):
    (tmp_path / "hark.conf").write_text(HEAD.format(dir=tmp_path) + ECHO)
    subprocess.run(
        [hark + "d", "-chark.conf", "--daemon", "--pid-file", "pid"],
        cwd=tmp_path,
        check=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    pid = int((tmp_path / "pid").read_text())
    try:
        for _ in range(2):
            os.kill(pid, signal.SIGUSR2)
            pid = wait_until(lambda pid=pid: (now := int((tmp_path / "pid").read_text())) != pid and now)
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: gone(pid))


def test_an_upgrade_has_the_same_control_socket(harkd, tmp_path):
    d = harkd(ECHO, "--control", tmp_path / "mine", head=HEAD.replace("/control\n", "/unused\n"))
    (tmp_path / "control").symlink_to(tmp_path / "mine")  # where the tests ask
    assert d.upgrade()["generation"] == 2
    assert not (tmp_path / "unused").exists()


def test_an_end_during_an_upgrade_is_the_end_of_both(own, tmp_path):
    d = own(service("echo", "box = echo", listen=f"unix:{tmp_path}/sock"))
    replace(own.binary, "#!/bin/sh\nexec sleep 1000\n")
    assert d.ask("upgrade")["ok"]
    heir = heir_of(d)
    assert d.stop() == 0, d.stderr
    wait_until(lambda: gone(heir))
    assert not (tmp_path / "sock").exists() and not (tmp_path / "control").exists()


def test_what_is_asked_for_during_an_upgrade_is_not_lost(own):
    d = own(ECHO, head=HEAD.replace("log = stderr", "log = stderr\nupgrade_timeout = 1s"))
    replace(own.binary, "#!/bin/sh\nexec sleep 1000\n")
    assert d.ask("upgrade")["ok"]
    for request in ("reload", "stop echo", "upgrade"):
        answer = d.ask(request)
        assert not answer["ok"] and "under way" in answer["error"], answer
    d.configure(ECHO + service("two", "box = discard"))
    d.send(signal.SIGHUP)  # whoever serves in the end reloads
    d.expect(r"was not ready in time: this one goes on")
    d.expect(r"reloaded .*1 added")


def test_a_number_that_a_generation_before_has_left_is_no_descriptor_of_ours(own, hark):
    """As an older binary does that knows nothing of HARKD_OPENED."""
    d = own(ECHO)
    real = own.binary.with_name("real")
    shutil.copy(hark + "d", real)
    replace(own.binary, f'#!/bin/sh\nHARKD_OPENED=3 exec {real} "$@"\n')
    now = d.upgrade()
    common = pipes(d.pid) & pipes(now["pid"])
    wait_until(lambda: common - pipes(now["pid"]))  # it is relied on, and has closed what was for the time before
    assert os.readlink(f"/proc/{now['pid']}/fd/3").startswith("socket:")
    os.kill(d.workers("echo")[0], signal.SIGKILL)
    d.expect("crashed|died|killed|signal 9")
    with d.connect("echo") as s:
        ping(s)


def test_a_reload_during_an_upgrade_is_the_new_generations(own, hark):
    d = own(ECHO)
    go, real = own.binary.with_name("go"), own.binary.with_name("real")
    shutil.copy(hark + "d", real)
    # It has read the old configuration, as it were, and takes its time.
    replace(own.binary, f'#!/bin/sh\nwhile ! [ -e {go} ]; do sleep 0.02; done\nexec {real} "$@"\n')
    assert d.ask("upgrade")["ok"]
    d.generations.append(heir_of(d))
    d.send(signal.SIGHUP)
    d.expect(r"reload: .*upgrade")
    go.touch()
    d.expect(r"reloaded ")
    assert d.wait() == 0
    assert d.status()["generation"] == 2


def test_no_zombie_is_left_of_a_generation_that_ends_before_an_older_one(harkd):
    d = harkd(ECHO)
    with d.connect("echo") as s:
        ping(s)
        now = d.upgrade()
        os.kill(now["pid"], signal.SIGTERM)
        wait_until(lambda: not os.path.exists(f"/proc/{now['pid']}"))
        d.generations.clear()
        ping(s)
    wait_until(lambda: d.process.poll() is not None)


def test_a_generation_that_drains_and_is_told_to_end_keeps_to_the_grace(harkd):
    d = harkd(service("slow", "exec = /bin/sh -c 'sleep 7; echo done'", "grace = 20s"))
    with d.connect("slow") as s:
        wait_until(lambda: d.service("slow")["now"] == 1)
        worker = d.workers("slow")[0]
        d.upgrade()
        d.send(signal.SIGTERM)
        assert read_all(s) == b"done\n"  # after more than what a worker has once its grace is over
    assert d.wait() == 0
    assert gone(worker) and "killed" not in d.stderr


def test_an_upgrade_whose_workers_cannot_start_fails_however_that_becomes_known(harkd):
    d = harkd(ECHO)
    d.configure(service("echo", "box = echo", "rlimit_nofile = 5"))
    for i in range(20):  # the worker's word and its end come together, or one after the other
        assert d.ask("upgrade")["ok"]
        wait_until(lambda n=i + 1: d.stderr.count("this one goes on") == n)
    assert d.status()["generation"] == 1
    with d.connect("echo") as s:
        ping(s)


def test_an_upgrade_that_cannot_open_an_address_leaves_the_paths_of_the_old_one(harkd, tmp_path):
    path = str(tmp_path / "sock")
    at_path = service("local", "box = echo", listen=f"unix:{path}")
    d = harkd(at_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        d.configure(at_path + service("echo", "box = echo", listen=f"tcp://127.0.0.1:{taken.getsockname()[1]}"))
        assert d.ask("upgrade")["ok"]
        d.expect(r"upgrade: generation 2 ended before it was ready \(exit status [0-9]+\): this one goes on")
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(PATIENCE)
        s.connect(path)
        ping(s)


def test_a_pid_file_that_a_reload_moves_is_moved(harkd, tmp_path):
    head = HEAD.replace("log = stderr", "log = stderr\npid_file = {dir}/one")
    d = harkd(ECHO, head=head)
    assert int((tmp_path / "one").read_text()) == d.pid
    d.head = head.replace("one", "two")
    d.configure(ECHO)
    assert d.ask("reload")["ok"]
    assert int((tmp_path / "two").read_text()) == d.pid
    assert not (tmp_path / "one").exists()
    assert d.stop() == 0
    assert not (tmp_path / "two").exists()


def test_paths_that_the_new_generation_does_not_want_are_removed_by_it(harkd, tmp_path):
    d = harkd(
        ECHO
        + service("gone", "box = echo", listen=f"unix:{tmp_path}/gone")
        + service("kept", "box = echo", listen=f"unix:{tmp_path}/kept")
    )
    d.head = HEAD.replace("/control\n", "/elsewhere\n")
    d.configure(ECHO + service("kept", "box = echo", listen=f"unix:{tmp_path}/kept"))  # and no reload
    d.send(signal.SIGUSR2)
    d.generations.append(heir_of(d))
    d.process.wait(PATIENCE)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_socket()) == ["elsewhere", "kept"]
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(tmp_path / "kept"))
        ping(s)
    os.kill(d.generations[0], signal.SIGTERM)
    wait_until(lambda: gone(d.generations[0]))
    assert not [p for p in tmp_path.iterdir() if p.is_socket()]


def replace(binary, text=None, copy=None):
    """As a package manager does: another file in its place."""
    new = binary.with_name("new")
    if copy is not None:
        shutil.copy(copy, new)
    else:
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
    with connect_to(port) as held:
        ping(held)
        replace(own.binary, READY_THEN.format(then))
        answer = run("upgrade", "--control", tmp_path / "control")
        assert answer.returncode == 1 and why.encode() in answer.stderr, answer
        d.expect(rf"upgrade: generation 2 .*{why}.*: this one goes on")
        ping(held)
        with connect_to(port) as s:
            ping(s)
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(PATIENCE)
            s.connect(str(path))
            ping(s)
    assert (d.status()["generation"], d.service("off")["state"]) == (1, "stopped")
    d.configure(ECHO)
    assert d.ask("reload")["ok"]
    assert d.stop() == 0 and not (tmp_path / "control").exists()


def control_client(stack, tmp_path, request):
    """Somebody who has asked, and reads the answer when he likes."""
    s = stack.enter_context(socket.socket(socket.AF_UNIX))
    s.settimeout(PATIENCE)
    s.connect(str(tmp_path / "control"))
    s.sendall(request)
    return s


def test_silent_control_clients_do_not_take_the_place_of_one_that_awaits_its_answer(own, tmp_path):
    d, go = own(ECHO), tmp_path / "go"
    replace(own.binary, f"#!/bin/sh\nwhile [ ! -e {go} ]; do sleep 0.05; done\nexit 3\n")
    with contextlib.ExitStack() as stack:
        awaiting = control_client(stack, tmp_path, b"upgrade wait\n")
        wait_until(lambda: not d.ask("stop echo")["ok"])  # it is under way
        for _ in range(40):
            control_client(stack, tmp_path, b"stat")
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
        one = control_client(stack, tmp_path, b"status\n")
        assert one.recv(4096).startswith(b'{"ok":true')
        if kind == "waits for a reload":
            newborn = stack.enter_context(slow_starts(d, 5))
            d.configure(ECHO.replace("box", "idle_timeout = 1h\nbox"))
            control_client(stack, tmp_path, b"reload\n")
            wait_until(lambda: newborn.held)
            newborn.seconds = 0
            one.sendall(b"stop echo\n")
        upgrade = control_client(stack, tmp_path, b"upgrade wait\n")
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


def test_what_a_new_binary_says_before_it_can_speak_is_told_and_logged_in_the_background(own, hark, run, tmp_path):
    """As the dynamic linker does, whose harkd lacks a library."""
    head = HEAD.replace("log = stderr", "log = {dir}/log\npid_file = {dir}/pid").format(dir=tmp_path)
    (tmp_path / "hark.conf").write_text(head + ECHO)
    subprocess.run([own.binary, "-c", tmp_path / "hark.conf", "--daemon"], check=True, timeout=PATIENCE)
    pid = int((tmp_path / "pid").read_text())
    try:
        replace(own.binary, "#!/bin/sh\necho cannot open libhark.so.9 >&2\necho more >&2\nexit 127\n")
        answer = run("upgrade", "--control", tmp_path / "control")
        assert answer.returncode == 1, answer
        assert b"exit status 127): this one goes on: cannot open libhark.so.9\n" in answer.stderr
        log = (tmp_path / "log").read_text()
        assert "upgrade: generation 2 said: cannot open libhark.so.9\n" in log and "said: more\n" in log, log
        replace(own.binary, copy=hark + "d")
        assert run("upgrade", "--control", tmp_path / "control").returncode == 0
        pid = int((tmp_path / "pid").read_text())
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: gone(pid))


@pytest.mark.parametrize("how", ["sleep 1000", "setsid sleep 1000", "exec 1>&- 2>&-; sleep 1000"])
def test_what_a_failed_binary_has_started_is_not_left_behind(own, run, tmp_path, how):
    """As one that goes into the background by itself."""
    d = own(ECHO)
    started = tmp_path / "started"
    replace(own.binary, f"#!/bin/sh\n({how}) & echo $! > {started}\nwhile ! [ -s {started} ]; do :; done\nexit 0\n")
    answer = run("upgrade", "--control", tmp_path / "control")
    assert answer.returncode == 1 and b"ended before it was ready (exit status 0)" in answer.stderr, answer
    left = int(started.read_text())
    wait_until(lambda: gone(left))
    assert "upgrade: generation 2 left processes behind, which are killed" in d.stderr
    with d.connect("echo") as s:
        ping(s)


def test_a_worker_that_is_just_being_started_is_not_what_a_failed_binary_left_behind(own, tmp_path):
    d, go = own(ECHO + service("late", "box = echo", "start = demand")), tmp_path / "go"
    replace(own.binary, f"#!/bin/sh\nwhile [ ! -e {go} ]; do sleep 0.05; done\nexit 3\n")
    assert d.ask("upgrade")["ok"]
    with slow_starts(d, 60) as newborn, d.connect("late") as s:
        wait_until(lambda: newborn.held)
        go.touch()
        d.expect("this one goes on")
        assert "left processes behind" not in d.stderr
        newborn.held = {child: 0 for child in newborn.held}
        ping(s)


def test_a_generation_that_ends_at_once_removes_the_paths_that_it_did_not_want(harkd, tmp_path):
    d = harkd(ECHO + service("local", "box = echo", listen=f"unix:{tmp_path}/sock"))
    d.configure(ECHO)
    now = d.upgrade()
    os.kill(now["pid"], signal.SIGTERM)
    assert d.wait() == 0
    wait_until(lambda: gone(now["pid"]))
    assert not (tmp_path / "sock").exists()


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
