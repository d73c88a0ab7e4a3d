"""Where harkd puts its control socket when nothing names it, and where hark looks for it: the two agree, whatever the
environment of the session that each was started from.
"""
import os
import pathlib
import subprocess

import pytest

from conftest import PATIENCE
from harkd_support import Harkd, service, skip_unless_run_by

UID = 54323


@pytest.fixture
def as_user(hark, tmp_path):
    """as_user(environment, *args) runs hark as somebody who is not root, in a session that sets environment."""
    skip_unless_run_by(hark, UID)
    pathlib.Path(f"/tmp/harkd-{UID}.sock").unlink(missing_ok=True)

    def run(more, *args):
        return subprocess.run(
            [hark, *args], user=UID, cwd="/", env=session(more), capture_output=True, text=True, timeout=PATIENCE
        )

    yield run
    pathlib.Path(f"/tmp/harkd-{UID}.sock").unlink(missing_ok=True)


def session(more):
    return {k: v for k, v in os.environ.items() if k not in ("HARKD_CONTROL", "XDG_RUNTIME_DIR")} | more


@pytest.fixture
def users_harkd(hark, tmp_path_factory):
    """users_harkd(environment) starts the user's harkd, with a configuration that names no control socket."""
    running = []

    def start(more):
        directory = pathlib.Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
        directory.chmod(0o755)
        (directory / "hark.conf").write_text(service("hello", "box = daytime"))
        process = Harkd(
            [hark + "d", "-c", str(directory / "hark.conf")], directory, "", user=UID, cwd="/", env=session(more)
        )
        running.append(process)
        process.await_ready()
        return process

    yield start
    for process in running:
        process.end()
        subprocess.run(["rm", "-r", str(process.directory)], check=True)


@pytest.fixture
def own_directory():
    directory = pathlib.Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    os.chown(directory, UID, UID)
    yield str(directory)
    subprocess.run(["rm", "-r", str(directory)], check=True)


def test_without_a_runtime_directory_harkd_and_hark_agree_on_a_place(as_user, users_harkd):
    d = users_harkd({})
    assert f"control socket /tmp/harkd-{UID}.sock\n" in d.stderr
    r = as_user({}, "status")
    assert r.returncode == 0 and "hello" in r.stdout, r.stderr
    r = as_user({}, "reload")
    assert r.returncode == 0, r.stderr


def test_hark_of_a_session_with_a_runtime_directory_finds_a_harkd_of_one_without(as_user, users_harkd, own_directory):
    users_harkd({})
    r = as_user({"XDG_RUNTIME_DIR": own_directory}, "status")
    assert r.returncode == 0 and "hello" in r.stdout, r.stderr


def test_a_runtime_directory_of_another_user_is_no_place(as_user, users_harkd):
    """su(1) leaves the variable as it was."""
    d = users_harkd({"XDG_RUNTIME_DIR": "/root"})
    assert f"control socket /tmp/harkd-{UID}.sock\n" in d.stderr
    r = as_user({"XDG_RUNTIME_DIR": "/root"}, "status")
    assert r.returncode == 0 and "hello" in r.stdout, r.stderr


def test_the_runtime_directory_of_the_user_comes_first(as_user, users_harkd, own_directory):
    d = users_harkd({"XDG_RUNTIME_DIR": own_directory})
    assert f"control socket {own_directory}/harkd.sock\n" in d.stderr
    assert as_user({"XDG_RUNTIME_DIR": own_directory}, "status").returncode == 0


def test_where_no_harkd_is_found_all_places_and_the_way_to_name_one_are_told(as_user, own_directory):
    r = as_user({"XDG_RUNTIME_DIR": own_directory}, "reload")
    assert r.returncode == 111
    assert f"{own_directory}/harkd.sock: No such file" in r.stderr
    assert f"/tmp/harkd-{UID}.sock" in r.stderr
    assert "--control" in r.stderr and "$HARKD_CONTROL" in r.stderr and "its log says where" in r.stderr


def test_a_file_of_another_user_in_its_place_keeps_no_harkd_from_starting(as_user, users_harkd):
    path = pathlib.Path(f"/tmp/harkd-{UID}.sock")
    path.write_text("somebody else's")
    d = users_harkd({})
    d.expect(rf"no control socket .*: listen unix:{path}: ")
    assert path.read_text() == "somebody else's"
