"""harkd's log: what it tells of connections and of harkd itself, and that it follows a file that was rotated."""
import contextlib
import json
import os
import re
import signal
import socket
import time

import pytest

from conftest import MODELS, PATIENCE, read_all, wait_until
from harkd_support import HEAD, dial, harkd, needs_root, say, service  # noqa: F401 harkd is a fixture


JSON = "[harkd]\ncontrol = {dir}/control\nlog = {dir}/log\nlog_format = json\n\n"


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


def flood(connect, n):
    """n connections, each refused; returns how many seconds it may have taken, begun ones included."""
    began = int(time.monotonic())
    for _ in range(n):
        with contextlib.suppress(OSError), connect() as s:
            s.recv(1)
    return int(time.monotonic()) - began + 2


def refusals(text, json_lines):
    """How many have lines of their own, how many such lines there are, and how many others are told of."""
    more = [int(n) for n in re.findall(r"(\d+) more refused: max_per_source", text)]
    own = '"event":"refused"' if json_lines else " refused: max_per_source\n"
    return len(re.findall(own, text)) - (0 if json_lines else len(more)), more


@pytest.mark.parametrize("model", ["process", "fiber"])
def test_a_flood_of_refusals_is_no_flood_of_lines_and_none_is_forgotten(harkd, model):  # noqa: F811
    h = start(harkd, service("echo", "box = echo", "max_per_source = 1", "workers = 2", f"model = {model}"))
    with h.connect("echo") as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"
        seconds = flood(lambda: h.connect("echo"), 300)
        wait_until(lambda: h.service("echo")["refused"]["max_per_source"] == 300)
    assert h.stop() == 0
    own, more = refusals((h.directory / "log").read_text(), True)
    assert 10 <= own <= 10 * seconds
    assert own + sum(more) == 300 and 1 <= len(more) <= seconds


@pytest.mark.parametrize("how", ["-v", "--json"])
def test_serve_bounds_the_lines_of_refusals_too(serve, how):
    s = serve(how, "--max-per-source", "1", "--workers", "2", "tcp://127.0.0.1:0", "echo")
    with s.connect() as c:
        c.sendall(b"x")
        assert c.recv(1) == b"x"
        seconds = flood(s.connect, 100)
    assert s.stop() == 0
    own, more = refusals(s.stderr, how == "--json")
    assert 10 <= own <= 10 * seconds
    assert own + sum(more) == 100 and 1 <= len(more) <= seconds


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


LOG_HEAD = "[harkd]\ncontrol = {dir}/control\nlog = {dir}/log\nlog_format = %s\n\n"


LOGGED = (
    service("echo", "box = echo")
    + service("upper", "exec = /usr/bin/tr a-z A-Z")
    + service("fails", "exec = /bin/sh -c 'cat; exit 3'")
    + service("dies", "exec = /bin/sh -c 'read x; kill -9 $$'")
    + service("few", "box = echo", "max_per_source = 1")
    + service("slow", "box = echo", "rate_per_source = 1/h burst 1")
    + service("gram", "box = echo", listen="udp://127.0.0.1:0")
)


def be_refused(d, name):
    """Returns the address that the connection came from. The reset may come before connect() has returned."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.settimeout(PATIENCE)
        with pytest.raises(ConnectionResetError):
            s.connect(("127.0.0.1", d.port(name)))
            assert s.recv(1) == b"?"
        return f"tcp://127.0.0.1:{s.getsockname()[1]}"


def use_all(d):
    """One connection of each kind. Returns the clients' addresses and the worker of echo."""
    peers = {}
    for name in ("echo", "upper", "fails", "dies"):
        with d.connect(name) as s:
            peers[name] = f"tcp://127.0.0.1:{s.getsockname()[1]}"
            s.sendall(b"hello\n")
            s.shutdown(socket.SHUT_WR)
            read_all(s)
    with d.connect("few") as first:
        first.sendall(b"x")
        assert first.recv(1) == b"x"
        peers["few"] = be_refused(d, "few")
    assert say(d, "slow", b"x") == b"x"
    peers["slow"] = be_refused(d, "slow")
    with dial(d.service("gram")["listen"][0]) as s:
        peers["gram"] = f"udp://127.0.0.1:{s.getsockname()[1]}"
        s.send(b"12345")
        assert s.recv(10) == b"12345"
    return peers


def test_the_log_as_text(harkd, tmp_path):
    d = harkd(LOGGED, head=LOG_HEAD % "text", ready=False)
    wait_until(lambda: (tmp_path / "log").exists() and "ready: " in (tmp_path / "log").read_text())
    ports = {s["name"]: s["listen"][0] for s in d.status()["services"]}
    worker = d.workers("echo")[0]
    peers = use_all(d)

    def line(name):
        fields = wait_until(
            lambda: [x for x in (tmp_path / "log").read_text().splitlines() if f" {name} {peers[name]} " in x]
        )
        assert len(fields) == 1
        fields = fields[0].split(" ", 14)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fields[0])
        assert fields[1:4] == [name, peers[name], "->"] and fields[4] == ports[name]
        assert fields[6] == "pid" and re.fullmatch(r"\d+\.\d{3}", fields[8]) and fields[9] == "ms"
        return fields[5], int(fields[7]), fields[11], fields[13], fields[14]

    assert line("echo") == ("echo", worker, "6", "6", "done")
    program, pid, *rest = line("upper")
    assert (program, rest) == ("tr", ["6", "6", "done"]) and pid != d.workers("upper")[0]
    assert line("fails")[::2][0] == "sh" and line("fails")[4] == "exit status 3"
    assert line("dies")[4].startswith("killed by signal 9 ")
    assert line("few")[4] == "refused: max_per_source"
    assert line("slow")[4] == "refused: rate_per_source"
    assert line("gram")[2:] == ("5", "5", "done")
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o640
    assert re.search(r"^\S+Z harkd: ready: 7 services", (tmp_path / "log").read_text(), re.M)
    assert d.stderr == ""


def test_the_log_as_json(harkd, tmp_path):
    d = harkd(LOGGED, head=LOG_HEAD % "json", ready=False)
    wait_until(lambda: (tmp_path / "log").exists() and "ready: " in (tmp_path / "log").read_text())
    ports = {s["name"]: s["listen"][0] for s in d.status()["services"]}
    peers = use_all(d)

    def find(name):
        def look():
            lines = [json.loads(x) for x in (tmp_path / "log").read_text().splitlines()]
            return [x for x in lines if x["service"] == name and x.get("peer") == peers[name]]

        (one,) = wait_until(look)
        assert one["local"] == ports[name] and one["level"] == "info" and one["seconds"] < 10
        return one

    def some(one, *names):
        return tuple(one[name] for name in names)

    outcome = ("box", "bytes_in", "bytes_out", "refused", "error")
    assert some(find("echo"), *outcome, "status", "pid") == ("echo", 6, 6, None, None, 0, d.workers("echo")[0])
    assert some(find("upper"), *outcome, "status") == ("tr", 6, 6, None, None, 0)
    assert some(find("fails"), *outcome, "status") == ("sh", 6, 6, None, None, 3)
    assert some(find("dies"), "box", "refused", "error", "signal") == ("sh", None, None, 9)
    assert some(find("few"), *outcome) == ("echo", None, None, "max_per_source", None)
    assert some(find("slow"), *outcome) == ("echo", None, None, "rate_per_source", None)
    events = [json.loads(x) for x in (tmp_path / "log").read_text().splitlines() if '"message"' in x]
    assert events[-1]["level"] == "notice" and events[-1]["message"].startswith("ready: 7 services")


def test_log_connections_no_and_what_a_reload_changes_of_the_log(harkd, tmp_path):
    head = HEAD.rstrip("\n") + "\nlog_connections = {log}\n\n".replace("{log}", "no")
    d = harkd(service("echo", "box = echo"), head=head)
    assert say(d, "echo", b"unseen") == b"unseen"
    wait_until(lambda: d.service("echo")["closed"] == 1)
    assert " echo tcp://" not in d.stderr
    d.head = HEAD
    d.configure(service("echo", "box = echo"))
    assert d.ask("reload")["ok"]
    wait_until(lambda: say(d, "echo", b"seen") == b"seen" and " in 4 out 4 done" in d.stderr)
    d.head = LOG_HEAD % "json"
    d.configure(service("echo", "box = echo"))
    assert d.ask("reload")["ok"]
    wait_until(
        lambda: say(d, "echo", b"in json")
        and (tmp_path / "log").exists()
        and '"bytes_in":7' in (tmp_path / "log").read_text()
    )
    assert " in 6 " not in d.stderr


def test_a_log_that_was_moved_away_is_made_anew_by_a_reload(harkd, tmp_path):
    d = harkd(service("echo", "box = echo"), head=LOG_HEAD % "text", ready=False)
    wait_until(lambda: (tmp_path / "log").exists() and "ready: " in (tmp_path / "log").read_text())
    before = d.workers("echo")
    assert say(d, "echo", b"before") == b"before"
    wait_until(lambda: " in 6 out 6 done" in (tmp_path / "log").read_text())
    (tmp_path / "log").rename(tmp_path / "log.1")
    d.send(signal.SIGHUP)
    wait_until(lambda: (tmp_path / "log").exists() and "reloaded " in (tmp_path / "log").read_text())
    assert say(d, "echo", b"afterwards") == b"afterwards"
    wait_until(lambda: " in 10 out 10 done" in (tmp_path / "log").read_text())
    assert d.workers("echo") == before
    assert " in 10 " not in (tmp_path / "log.1").read_text()
