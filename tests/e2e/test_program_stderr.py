"""Where the standard error of harkd's programs goes."""
import json
import os
import pwd
import re
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from conftest import MODELS, PATIENCE, read_all, wait_until
from harkd_support import gone, harkd, service, shell_root  # noqa: F401 harkd is a fixture

NOBODY = pwd.getpwnam("nobody")
SAYS = "exec = /bin/sh -c 'echo one >&2; printf \"two\\\\033[1m\" >&2; echo out'"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")


@pytest.fixture
def logged(harkd, tmp_path):
    """logged(text, log_format): a harkd whose log is a file, and that file."""

    def start(text, log_format="text"):
        head = "[harkd]\ncontrol = {dir}/control\nlog = {dir}/log\nlog_format = " + log_format + "\n\n"
        log = tmp_path / "log"
        d = harkd(text, head=head, ready=False)
        wait_until(lambda: (log.exists() and "ready: " in log.read_text()) or d.process.poll() is not None)
        return d, log

    return start


def ask(d, name):
    with d.connect(name) as s:
        return read_all(s)


@pytest.mark.parametrize("model", MODELS)
def test_what_a_program_says_goes_to_the_log_line_by_line(logged, model):
    d, log = logged(service("says", SAYS, f"model = {model}"))
    assert ask(d, "says") == b"out\n"
    wait_until(lambda: "harkd: says: one\n" in log.read_text())
    d.stop()
    assert "harkd: says: two\\x1b[1m\n" in log.read_text()
    assert d.stderr == ""


def test_in_a_log_of_json_what_a_program_says_is_an_object(logged):
    d, log = logged(service("says", SAYS), "json")
    assert ask(d, "says") == b"out\n"

    def said():
        events = [json.loads(line) for line in log.read_text().splitlines()]
        return [e for e in events if e.get("message") == "one"]

    assert wait_until(said)[0]["service"] == "says"


def test_so_does_what_a_program_behind_tcpmux_says_and_the_kernel_counts_its_bytes(logged, tmp_path):
    (tmp_path / "says").write_text("echo one >&2; echo out\n")
    d, log = logged(service("mux", f"box = tcpmux 'says=exec /bin/sh {tmp_path}/says'", "wait = yes"), "json")
    with d.connect("mux") as s:
        s.sendall(b"says\r\n")
        assert read_all(s) == b"out\n"
    events = wait_until(lambda: [e for e in map(json.loads, log.read_text().splitlines()) if "bytes_out" in e])
    assert (events[0]["bytes_in"], events[0]["bytes_out"]) == (6, 4)
    assert wait_until(lambda: '"one"' in log.read_text())
    assert d.stop() == 0 and d.stderr == ""


def test_a_program_may_say_more_than_a_pipe_holds(logged):
    d, log = logged(service("says", "exec = /bin/sh -c 'seq 100000 >&2; echo out'", "model = inline"))
    assert ask(d, "says") == b"out\n"
    wait_until(lambda: "harkd: says: 100000\n" in log.read_text())


def test_what_outlives_its_worker_is_logged_on(logged, tmp_path):
    os.mkfifo(tmp_path / "go")
    source = f"(read go <{tmp_path}/go; echo late >&2) </dev/null >/dev/null & echo out"
    d, log = logged(service("says", f"exec = /bin/sh -c '{source}'"))
    assert ask(d, "says") == b"out\n"
    (worker,) = d.workers("says")
    d.configure(service("says", f"exec = /bin/sh -c '{source}'", "grace = 1s"))
    d.send(signal.SIGHUP)
    wait_until(lambda: d.workers("says") and d.workers("says") != [worker] and not os.path.exists(f"/proc/{worker}"))
    (tmp_path / "go").write_text("now\n")
    wait_until(lambda: "harkd: says: late\n" in log.read_text())


@pytest.mark.parametrize("model", MODELS)
def test_what_is_being_said_as_the_worker_ends_is_logged_whole_and_in_its_order(logged, tmp_path, model):
    (tmp_path / "count").write_text(
        f"""exec </dev/null >/dev/null
i=0
while [ ! -e {tmp_path}/end ]; do i=$((i+1)); echo "line $i" >&2; done
echo $i >{tmp_path}/said
"""
    )
    d, log = logged(service("says", f"exec = /bin/sh -c 'setsid sh {tmp_path}/count & echo out'", f"model = {model}"))
    assert ask(d, "says") == b"out\n"
    wait_until(lambda: "harkd: says: line 1000\n" in log.read_text())
    (worker,) = d.workers("says")
    assert d.ask("stop says")["ok"]
    wait_until(lambda: gone(worker))
    (tmp_path / "end").touch()
    said = int(wait_until(lambda: (tmp_path / "said").exists() and (tmp_path / "said").read_text()))
    wait_until(lambda: f"harkd: says: line {said}\n" in log.read_text())
    told = re.findall(r"harkd: says: (line .*)", log.read_text())
    assert told == [f"line {i + 1}" for i in range(said)], len(told)


@pytest.fixture
def own():
    """A directory of nobody's, beside which is one that is not, in one that others may enter (pytest's is closed)."""
    with tempfile.TemporaryDirectory() as at:
        Path(at).chmod(0o711)
        (Path(at) / "own").mkdir()
        (Path(at) / "others").mkdir()
        os.chown(Path(at) / "own", NOBODY.pw_uid, NOBODY.pw_gid)
        yield Path(at) / "own"


@needs_root
def test_a_file_is_opened_as_the_services_user(harkd, own):
    says = "exec = /bin/sh -c 'echo one >&2; echo out'"
    others = own.parent / "others"
    d = harkd(
        service("may", says, "user = nobody", f"stderr = {own}/err")
        + service("may_not", says, "user = nobody", f"stderr = {others}/err")
    )
    assert ask(d, "may") == b"out\n"
    assert (own / "err").read_text() == "one\n" and (own / "err").stat().st_uid == NOBODY.pw_uid
    d.expect(rf"may_not: a worker cannot start: exec: stderr: {others}/err: Permission denied")
    assert not (others / "err").exists()


@needs_root
def test_a_file_is_opened_outside_the_services_chroot(harkd, own):
    root = shell_root(own.parent / "root")
    says = "exec = /bin/sh -c 'echo one >&2; echo out'"
    d = harkd(service("says", says, "user = nobody", f"chroot = {root}", f"stderr = {own}/err"))
    assert ask(d, "says") == b"out\n"
    assert (own / "err").read_text() == "one\n" and (own / "err").stat().st_uid == NOBODY.pw_uid


def test_a_link_is_not_followed(harkd, tmp_path):
    (tmp_path / "err").symlink_to(tmp_path / "target")
    d = harkd(service("says", SAYS, f"stderr = {tmp_path}/err"))
    d.expect(rf"says: a worker cannot start: exec: stderr: {tmp_path}/err: a symbolic link is not followed")
    assert not (tmp_path / "target").exists()


def test_a_fifo_without_a_reader_is_told_and_waited_for_by_nobody(harkd, tmp_path):
    os.mkfifo(tmp_path / "err")
    d = harkd(service("says", SAYS, f"stderr = {tmp_path}/err"))
    d.expect(r"says: a worker cannot start: exec: stderr: \S+: No such device or address")


ONE = "exec = /bin/sh -c 'echo one >&2; echo out'"


@needs_root
@pytest.mark.parametrize("model", MODELS)
def test_after_a_rotation_programs_write_into_the_new_file(harkd, own, model):
    d = harkd(service("says", ONE, "user = nobody", f"model = {model}", f"stderr = {own}/err"))
    assert ask(d, "says") == b"out\n"
    (own / "err").rename(own / "err.1")
    assert d.ask("reload")["ok"]
    assert ask(d, "says") == b"out\n" and ask(d, "says") == b"out\n"
    assert (own / "err.1").read_text() == "one\n" and (own / "err").read_text() == "one\none\n"
    assert (own / "err").stat().st_uid == NOBODY.pw_uid


def test_of_a_rotated_file_a_link_in_its_place_is_not_followed_and_no_program_fails(harkd, tmp_path):
    d = harkd(service("says", ONE, f"stderr = {tmp_path}/err"))
    assert ask(d, "says") == b"out\n"
    (tmp_path / "err").rename(tmp_path / "err.1")
    (tmp_path / "err").symlink_to(tmp_path / "target")
    assert ask(d, "says") == b"out\n"
    assert (tmp_path / "err.1").read_text() == "one\none\n" and not (tmp_path / "target").exists()


@needs_root
def test_a_worker_in_a_chroot_keeps_nothing_that_leads_out_of_it(harkd, own):
    root = shell_root(own.parent / "root")
    d = harkd(service("says", ONE, "user = nobody", f"chroot = {root}", f"stderr = {own}/err"))
    assert ask(d, "says") == b"out\n"
    (worker,) = d.workers("says")
    assert not [fd for fd in Path(f"/proc/{worker}/fd").iterdir() if fd.is_dir()]
    (own / "err").rename(own / "err.1")
    assert ask(d, "says") == b"out\n" and (own / "err.1").read_text() == "one\none\n"


@needs_root
def test_a_check_makes_no_file(hark, tmp_path, own):
    def check(at):
        text = f"[m]\nlisten = tcp://127.0.0.1:0\nbox = tcpmux 'x=exec --stderr={at} cat'\nuser = nobody\n"
        (tmp_path / "t.conf").write_text(text)
        command = [Path(hark).parent / "harkd", "-t", "-c", tmp_path / "t.conf"]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)

    assert check(own / "err").returncode == 0 and not (own / "err").exists()
    bad = check(own.parent / "others" / "err")
    assert bad.returncode == 100 and re.search(r"t\.conf:3: box: x: exec: stderr: .* Permission denied", bad.stderr)
    (own / "err").write_text("kept\n")
    assert check(own / "err").returncode == 100 and (own / "err").read_text() == "kept\n"  # root's, not nobody's
