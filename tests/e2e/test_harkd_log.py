"""harkd's log: what it tells of connections and of harkd itself, and that it follows a file that was rotated."""
import contextlib
import json
import os
import re
import signal
import socket

import pytest

from conftest import wait_until
from harkd_support import harkd, service  # noqa: F401 harkd is a fixture

MODELS = ["inline", "process", "thread", "fiber"]
JSON = "[harkd]\ncontrol = {dir}/control\nlog = {dir}/log\nlog_format = json\n\n"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def lines(h, event="close", n=1):
    """n lines of that event, once there are so many."""

    def look():
        text = (h.directory / "log").read_text() if (h.directory / "log").exists() else ""
        found = [json.loads(line) for line in text.splitlines()]
        found = [line for line in found if line["event"] == event]
        return found if len(found) >= n else None

    return wait_until(look)


def start(harkd, text, **more):  # noqa: F811
    h = harkd(text, ready=False, head=JSON, **more)
    wait_until(lambda: any("ready: " in line["message"] for line in lines(h, "message")))
    return h


def talk(h, name="echo"):
    with h.connect(name) as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"


@needs_root
@pytest.mark.parametrize("model", MODELS)
def test_a_service_with_a_user_follows_a_rotated_log(harkd, model):  # noqa: F811
    h = start(harkd, service("echo", "box = echo", f"model = {model}", "user = nobody"))
    log = h.directory / "log"
    talk(h)
    lines(h)
    worker = h.workers("echo")
    for i in range(3):
        os.rename(log, f"{log}.{i}")
        h.send(signal.SIGHUP)
        wait_until(log.exists)
        wait_until(lambda: any("reloaded" in line["message"] for line in lines(h, "message")))
        talk(h)
        assert len(lines(h)) == 1
    assert h.workers("echo") == worker
    assert os.stat(log).st_uid == 0


def test_what_cut_a_connection_is_told(harkd):  # noqa: F811
    h = start(harkd, service("echo", "box = echo", "lifetime = 200ms") + service("other", "box = echo", "grace = 0"))
    with h.connect("echo") as s:
        assert s.recv(1) == b""
    (line,) = lines(h)
    assert (line["service"], line["ended"]) == ("echo", "lifetime")
    with h.connect("other") as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"
        h.send(signal.SIGTERM)
        h.wait()
    assert lines(h, n=2)[1]["ended"] == "drain"
    words = [line["message"] for line in lines(h, "message")]
    assert any(w.startswith("draining") for w in words) and words[-1] == "ended: generation 1"


def test_a_relay_tells_its_target(harkd):  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as target:
        where = "tcp://127.0.0.1:%d" % target.getsockname()[1]
        h = start(harkd, service("front", f"relay = {where}"))
        with h.connect("front"):
            target.accept()[0].close()
        (line,) = lines(h)
        assert (line["box"], line["target"]) == ("relay", where)


def test_a_unix_peer_is_told_by_its_user(harkd, tmp_path):  # noqa: F811
    h = start(harkd, service("echo", "box = echo", listen=f"unix:{tmp_path}/echo"))
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(tmp_path / "echo"))
        s.sendall(b"x")
        assert s.recv(1) == b"x"
    (line,) = lines(h)
    assert (line["peer_uid"], line["peer_pid"], line["error"]) == (os.getuid(), os.getpid(), None)


def test_a_refused_connection_has_no_status(harkd):  # noqa: F811
    h = start(harkd, service("echo", "box = echo", "max_per_source = 1"))
    with h.connect("echo") as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"
        with contextlib.suppress(OSError):
            h.connect("echo").close()
        (line,) = lines(h, "refused")
    assert line["refused"] == "max_per_source"
    assert "status" not in line and "signal" not in line


def test_harkd_and_serve_tell_a_connection_by_the_same_keys(harkd, serve):  # noqa: F811
    h = start(harkd, service("echo", "box = echo"))
    talk(h)
    (line,) = lines(h)
    server = serve("--json", "tcp://127.0.0.1:0", "echo")
    with server.connect() as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"
    assert server.stop() == 0
    (other,) = [e for e in map(json.loads, server.stderr.splitlines()) if e["event"] == "close"]
    assert list(other) == list(line)
    page = os.path.join(os.path.dirname(__file__), "../../man/hark-log.5")
    with open(page) as f:
        documented = set(re.findall(r"\b[a-z_]+\b", " ".join(re.findall(r"^\.It Va (.*)$", f.read(), re.M))))
    assert set(line) <= documented


@pytest.mark.parametrize("listen, known", [("tcp://127.0.0.1:0", True), ("unix:{dir}/socket", False)])
def test_bytes_that_only_a_program_knows_are_not_0(harkd, run, tmp_path, listen, known):  # noqa: F811
    listen = listen.format(dir=tmp_path)
    h = start(harkd, service("cat", "exec = /bin/cat", listen=listen))
    assert (h.service("cat")["bytes_in"] is not None) == known
    table = run("status", "--control", str(tmp_path / "control")).stdout.decode().splitlines()
    assert table[-1].split()[-1] == h.service("cat")["listen"][0]
    assert (table[-1].split()[5] == "-") == (not known)
