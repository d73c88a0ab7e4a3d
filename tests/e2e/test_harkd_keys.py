"""Every key of hark.conf(5), served: what a program finds around it, what a client sees of a socket, what the log says.

The program that reports is a shell: it alters neither signals nor descriptors before it looks, as perl and python do.
"""
import grp
import json
import os
import pwd
import re
import resource
import signal
import socket
import stat
import struct
import subprocess
import threading
import time

import pytest

from conftest import MODELS, PATIENCE, read_all, wait_until
from harkd_support import HEAD, harkd, service, shell_root  # noqa: F401 harkd is a fixture

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

REPORT = (
    "for f in status limits environ cmdline stat; do echo @$f; cat /proc/$$/$f; echo; done; "
    "for f in cwd root; do echo @$f; readlink /proc/$$/$f; done; echo @fd; ls -l /proc/$$/fd; echo @end"
)
PROBE = f"exec = /bin/sh -c '{REPORT}' probe 'two words' $HOME \"\""


class Report(dict):
    """What REPORT printed, a text for each file."""

    def __init__(self, text):
        parts = re.split(rb"^@(\w+)\n", text, flags=re.M)
        assert parts[-2:-1] == [b"end"], text
        super().__init__((parts[i].decode(), parts[i + 1].decode()) for i in range(1, len(parts), 2))

    def status(self, name):
        return re.search(rf"^{name}:[ \t]*(.*)$", self["status"], re.M)[1].split()

    def limit(self, name):
        return tuple(re.search(rf"^{name}\s+(\S+)\s+(\S+)", self["limits"], re.M).groups())

    @property
    def stat_fields(self):
        """From field 3 of proc_pid_stat(5) on."""
        return self["stat"].rsplit(")", 1)[1].split()

    @property
    def environ(self):
        return dict(e.split("=", 1) for e in self["environ"].rstrip("\n").split("\0") if e)

    @property
    def fds(self):
        return dict(re.findall(r"(\d+) -> (\S+)$", self["fd"], re.M))


def report(d, name="probe"):
    with d.connect(name) as s:
        return Report(read_all(s))


def say(d, name, text=b"", i=0):
    with d.connect(name, i) as s:
        s.sendall(text)
        s.shutdown(socket.SHUT_WR)
        return read_all(s)


# ---- what a program gets ------------------------------------------------------------------------


def make_dirty():
    """What whoever starts harkd may leave behind."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD, signal.SIGUSR1, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGUSR1, signal.SIGCHLD, signal.SIGTERM})
    os.dup2(os.open("/dev/zero", os.O_RDONLY), 50)


@pytest.mark.parametrize("model", MODELS)
def test_a_program_finds_its_connection_and_nothing_else(harkd, model):
    d = harkd(
        service("probe", PROBE, f"model = {model}")
        + service("fails", "exec = /bin/sh -c 'exit 7'", f"model = {model}")
        + service("status", "exec = /bin/cat /proc/self/status", f"model = {model}"),
        preexec_fn=make_dirty,
        close_fds=False,
        env={
            "PATH": os.environ["PATH"],
            "TZ": "UTC",
            "LANG": "C",
            "HOME": "/x",
            "LC_TIME": "C",
            "TCPREMOTEIP": "forged",
            "LISTEN_FDS": "3",
        },
    )
    with d.connect("probe") as s:
        me = s.getsockname()
        got = Report(read_all(s))
    assert sorted(got.fds) == ["0", "1", "2"], got["fd"]
    assert got.fds["0"] == got.fds["1"] and got.fds["0"].startswith("socket:")
    assert got.fds["2"].startswith("pipe:")  # harkd's own standard error
    mine = say(d, "status").decode()  # a shell's mask changes as it forks
    for mask in ("SigBlk", "SigIgn"):  # 32 and 33 are the C library's own: nobody can set them through it
        assert int(re.search(rf"^{mask}:\t(\w+)$", mine, re.M)[1], 16) & ~(3 << 31) == 0, mask
    assert got["cmdline"].rstrip("\n").split("\0")[2:] == [REPORT, "probe", "two words", "$HOME", "", ""]
    assert got.environ == {
        "PATH": os.environ["PATH"],
        "TZ": "UTC",
        "LANG": "C",
        "LC_TIME": "C",
        "PROTO": "TCP",
        "TCPLOCALIP": "127.0.0.1",
        "TCPLOCALPORT": str(d.port("probe")),
        "TCPREMOTEIP": "127.0.0.1",
        "TCPREMOTEPORT": str(me[1]),
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": str(me[1]),
        "REMOTE_HOST": "127.0.0.1",
    }
    pid, group = got.status("Pid")[0], got.stat_fields[2]
    assert pid == group  # a group of its own, which can be ended as a whole
    say(d, "fails")
    d.expect(r"fails .* exit status 7$")  # though SIGCHLD was ignored
    wait_until(lambda: d.service("fails")["failed"] == 1)


def test_a_worker_has_its_own_sockets_and_no_others(harkd):
    d = harkd(
        service("one", "box = echo", listen="tcp://127.0.0.1:0 udp://127.0.0.1:0")
        + service("two", "box = echo")
        + service("three", "box = echo", "workers = 3")
    )

    def listening(pid):
        """Inode numbers of the sockets that it has."""
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        return {link for link in links if link.startswith("socket:")}

    sets = {name: listening(d.workers(name)[0]) for name in ("one", "two", "three")}
    assert [len(s) for s in sets.values()] == [2, 1, 1]
    assert len(set.union(*sets.values())) == 4
    assert set.union(*sets.values()) <= listening(d.pid)


@needs_root
def test_user_group_and_groups(harkd):
    nobody = pwd.getpwnam("nobody")
    daemon, users = grp.getgrnam("daemon").gr_gid, grp.getgrnam("users").gr_gid
    d = harkd(
        service("plain", PROBE)
        + service("user", PROBE, "user = nobody")
        + service("group", PROBE, "user = nobody", "group = daemon")
        + service("groups", PROBE, "user = nobody", "groups = daemon users")
        + service("none", PROBE, "user = nobody", "groups = none")
        + service("group-alone", PROBE, "group = daemon")
        + service("groups-alone", PROBE, "groups = daemon users")
        + service("none-alone", PROBE, "groups = none")
        + service("number", PROBE, "user = 12345", "group = 54321")
    )

    def ids(name):
        got = report(d, name)
        uid, gid = set(got.status("Uid")), set(got.status("Gid"))
        assert len(uid) == len(gid) == 1, (uid, gid)  # real, effective, saved and of the file system
        return int(uid.pop()), int(gid.pop()), sorted(map(int, got.status("Groups")))

    own = sorted(os.getgroups())
    assert ids("plain") == (0, os.getgid(), own)
    assert ids("user") == (nobody.pw_uid, nobody.pw_gid, sorted(os.getgrouplist("nobody", nobody.pw_gid)))
    assert ids("group") == (nobody.pw_uid, daemon, sorted(os.getgrouplist("nobody", daemon)))
    assert ids("groups") == (nobody.pw_uid, nobody.pw_gid, sorted([daemon, users]))
    assert ids("none") == (nobody.pw_uid, nobody.pw_gid, [])
    assert ids("group-alone")[:2] == (0, daemon)
    assert ids("groups-alone") == (0, os.getgid(), sorted([daemon, users]))
    assert ids("none-alone") == (0, os.getgid(), [])
    assert ids("number") == (12345, 54321, [54321]) or ids("number") == (12345, 54321, [])
    for capabilities in ("CapEff", "CapPrm", "CapInh"):
        assert int(report(d, "user").status(capabilities)[0], 16) == 0


@needs_root
def test_chroot_holds_the_program_and_its_directory(harkd, tmp_path):
    root = shell_root(tmp_path / "root")
    (root / "inner").mkdir()
    (root / "mark").write_text("here\n")
    (root / "inner" / "mark").write_text("inner\n")
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755)
    exec_ = "exec = /bin/sh -c 'read x < mark; echo $x; cd /; cd ..; read x < mark; echo $x'"
    d = harkd(
        service("top", exec_, f"chroot = {root}")
        + service(
            "below", exec_, f"chroot = {root}", "directory = /inner", "user = nobody", "stdin = null", "stderr = null"
        )
    )
    assert say(d, "top") == b"here\nhere\n"
    assert say(d, "below") == b"inner\nhere\n"


def test_directory_umask_nice_and_environment(harkd, tmp_path):
    d = harkd(
        service(
            "probe",
            PROBE,
            f"directory = {tmp_path}",
            "umask = 027",
            "nice = 5",
            "env = A=1 'B=two words' PATH=/bin:/usr/bin",
            "env = C=",
            "pass_env = KEEP LC_*",
        )
        + service("all", PROBE, "pass_env = *", "env = KEEP=mine")
        + service("none", PROBE, "pass_env = none"),
        env={"PATH": os.environ["PATH"], "KEEP": "kept", "LC_ALL": "C", "LCX": "x", "DROP": "dropped"},
    )
    got = report(d)
    assert got["cwd"].strip() == str(tmp_path)
    assert got.status("Umask") == ["0027"]
    assert int(got.stat_fields[16]) == os.nice(0) + 5
    own = {k: v for k, v in got.environ.items() if k != "PROTO" and not k.startswith(("TCP", "REMOTE_"))}
    assert own == {"A": "1", "B": "two words", "C": "", "PATH": "/bin:/usr/bin", "KEEP": "kept", "LC_ALL": "C"}
    everything = report(d, "all").environ
    assert (everything["KEEP"], everything["DROP"], everything["LCX"]) == ("mine", "dropped", "x")
    assert {k for k in report(d, "none").environ if not k.startswith(("TCP", "REMOTE_"))} == {"PROTO"}


def test_rlimits(harkd):
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = {
        "as": ("4g:8g", "Max address space", ("4294967296", "8589934592")),
        "core": ("0:1m", "Max core file size", ("0", "1048576")),
        "cpu": ("60", "Max cpu time", ("60", "60")),
        "data": ("1g", "Max data size", ("1073741824", "1073741824")),
        "fsize": ("100m", "Max file size", ("104857600", "104857600")),
        "locks": ("100", "Max file locks", ("100", "100")),
        "memlock": ("64k", "Max locked memory", ("65536", "65536")),
        "msgqueue": ("800k", "Max msgqueue size", ("819200", "819200")),
        "nice": ("0", "Max nice priority", ("0", "0")),
        "nofile": (f"100:{min(most, 4096)}", "Max open files", ("100", str(min(most, 4096)))),
        "nproc": ("5000", "Max processes", ("5000", "5000")),
        "rss": ("64m", "Max resident set", ("67108864", "67108864")),
        "rtprio": ("0", "Max realtime priority", ("0", "0")),
        "rttime": ("200000", "Max realtime timeout", ("200000", "200000")),
        "sigpending": ("1000", "Max pending signals", ("1000", "1000")),
        "stack": ("1m:8m", "Max stack size", ("1048576", "8388608")),
    }
    if "build-asan" in os.environ.get("HARK_BUILD", "") or "build-tsan" in os.environ.get("HARK_BUILD", ""):
        del wanted["as"], wanted["data"]  # a sanitized worker needs all the address space there is
    d = harkd(service("probe", PROBE, *(f"rlimit_{name} = {value[0]}" for name, value in wanted.items())))
    got = report(d)
    assert {name: got.limit(title) for name, (_, title, _) in wanted.items()} == {
        name: v[2] for name, v in wanted.items()
    }


def test_stdin_and_the_ways_of_stderr(harkd, tmp_path):
    both = "exec = /bin/sh -c 'cat; echo out; echo err >&2'"
    d = harkd(
        service("null", both, "stdin = null")
        + service("log", both)
        + service("connection", both, "stderr = connection")
        + service("silent", both, "stderr = null")
        + service("file", both, f"stderr = {tmp_path}/err")
    )
    assert say(d, "null", b"never read\n") == b"out\n"
    assert say(d, "log", b"in\n") == b"in\nout\n"
    d.expect(r"^harkd: log: err$")
    assert say(d, "connection") == b"out\nerr\n"
    assert say(d, "silent") == b"out\n"
    assert say(d, "file") == b"out\n"
    assert (tmp_path / "err").read_text() == "err\n"
    assert (tmp_path / "err").stat().st_mode & 0o777 == 0o640
    assert len(re.findall(r"^harkd: (?:null|log): err$", d.stderr, re.M)) == 2  # null's and log's


def test_lookup_host_tells_the_peers_name(harkd):
    name = socket.getnameinfo(("127.0.0.1", 1), socket.NI_NUMERICSERV)[0]
    d = harkd(service("probe", PROBE, "lookup_host = yes"))
    assert report(d).environ["TCPREMOTEHOST"] == name.lower()


@pytest.mark.parametrize("model", MODELS)
def test_programs_are_served_by_every_model_and_several_workers(harkd, model):
    d = harkd(service("upper", "exec = /usr/bin/tr a-z A-Z", f"model = {model}", "workers = 2"))
    assert len(d.workers("upper")) == 2
    for i in range(8):
        assert say(d, "upper", b"hello %d" % i) == b"HELLO %d" % i
    wait_until(lambda: d.service("upper")["closed"] == 8 and d.service("upper")["now"] == 0)
    assert d.service("upper")["failed"] == 0


# ---- how a connection is treated ------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_the_banner_comes_first_for_boxes_and_programs(harkd, model):
    banner = r"banner = Good day.\r\n\tYes \x21\\"
    d = harkd(
        service("echo", "box = echo", banner, f"model = {model}", listen="tcp://127.0.0.1:0 udp://127.0.0.1:0")
        + service("cat", "exec = /bin/cat", banner, "first = client", f"model = {model}")
    )
    want = b"Good day.\r\n\tYes !\\"
    for name in ("echo", "cat"):
        with d.connect(name) as s:
            first = bytearray()
            while len(first) < len(want):  # before we said a word
                first += s.recv(100)
            assert first == want
            s.sendall(b"and on")
            s.shutdown(socket.SHUT_WR)
            assert read_all(s) == b"and on"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(PATIENCE)
        s.connect(("127.0.0.1", d.port("echo", 1)))
        s.send(b"x")
        assert s.recv(100) == b"x"  # a datagram has no banner


def test_first_client_starts_a_program_at_the_first_byte(harkd, tmp_path):
    start = f"exec = /bin/sh -c 'echo x >> {tmp_path}/%s; cat'"
    d = harkd(
        service("client", start % "client", "first = client") + service("server", start % "server", "first = server")
    )
    with d.connect("client") as c, d.connect("server") as s:
        wait_until(lambda: (tmp_path / "server").exists())
        assert not (tmp_path / "client").exists()
        c.sendall(b"now")
        assert c.recv(10) == b"now"
        assert (tmp_path / "client").read_text() == "x\n"
        s.sendall(b"and me")
        assert s.recv(10) == b"and me"


def test_backlog_is_how_many_wait(harkd, monkeypatch):
    monkeypatch.setenv("LISTENQ", "5")  # of whoever starts harkd: no business of its services
    d = harkd(service("small", "box = echo", "backlog = 3") + service("large", "box = echo", "backlog = 77"))

    def backlog(name):
        lines = subprocess.run(
            ["ss", "-Hltn", f"sport = :{d.port(name)}"], capture_output=True, text=True
        ).stdout.split()
        return int(lines[2])

    assert (backlog("small"), backlog("large")) == (3, 77)
    d.configure(service("small", "box = echo", "backlog = 50") + service("large", "box = echo", "backlog = 77"))
    assert d.ask("reload")["changed"] == 1
    assert (backlog("small"), backlog("large")) == (50, 77)


@needs_root
def test_unix_sockets_have_their_owner_and_mode(harkd, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    d = harkd(
        service(
            "both",
            "box = echo",
            "socket_user = nobody",
            "socket_group = daemon",
            "socket_mode = 660",
            listen=f"unix:{a} unixgram:{b}",
        )
    )
    for path in (a, b):
        st = path.stat()
        assert stat.S_ISSOCK(st.st_mode) and stat.S_IMODE(st.st_mode) == 0o660
        assert (st.st_uid, st.st_gid) == (pwd.getpwnam("nobody").pw_uid, grp.getgrnam("daemon").gr_gid)
    inode = a.stat().st_ino
    d.configure(
        service(
            "both",
            "box = echo",
            "socket_user = nobody",
            "socket_group = daemon",
            "socket_mode = 600",
            listen=f"unix:{a} unixgram:{b}",
        )
    )
    assert d.ask("reload")["changed"] == 1
    assert (a.stat().st_ino, stat.S_IMODE(a.stat().st_mode)) == (inode, 0o600)
    assert d.stop() == 0
    assert not a.exists() and not b.exists()


def dial(address):
    """A client socket for what status calls listen."""
    scheme, rest = address.split(":", 1)
    kind = socket.SOCK_DGRAM if scheme.startswith("udp") or scheme == "unixgram" else socket.SOCK_STREAM
    if scheme.startswith("unix"):
        s = socket.socket(socket.AF_UNIX, kind)
        if kind == socket.SOCK_DGRAM:
            s.bind("")
        to = "\0" + rest[1:] if rest[0] == "@" else rest
    else:
        host, port = rest[2:].rsplit(":", 1)
        s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
        to = (host.strip("[]"), int(port))
    s.settimeout(PATIENCE)
    s.connect(to)
    return s


def test_one_service_on_every_kind_of_socket(harkd, tmp_path):
    name = f"hark-test-{os.getpid()}"
    d = harkd(
        service(
            "echo",
            "box = echo",
            "listen = udp6://[::1]:0",
            f"listen = unix:{tmp_path}/stream unixgram:{tmp_path}/gram",
            f"listen = unix:@{name} unixgram:@{name}-gram",
            "workers = 2",
            listen="tcp://127.0.0.1:0 tcp4://127.0.0.2:0 tcp6://[::1]:0 udp://127.0.0.1:0",
        )
    )
    addresses = d.service("echo")["listen"]
    assert [a.split(":")[0] for a in addresses] == [
        "tcp",
        "tcp",
        "tcp",
        "udp",
        "udp",
        "unix",
        "unixgram",
        "unix",
        "unixgram",
    ]
    for _ in range(3):
        for address in addresses:
            with dial(address) as s:
                s.send(address.encode())
                assert s.recv(1000) == address.encode()
    wait_until(lambda: d.service("echo")["now"] == 0 and d.service("echo")["closed"] == 27)
    assert d.service("echo")["accepted"] == 27
    assert d.service("echo")["failed"] == 0


def test_idle_timeout_and_lifetime_end_connections(harkd):
    d = harkd(
        service("idle", "box = echo", "idle_timeout = 300ms") + service("short", "box = echo", "lifetime = 500ms")
    )
    began = time.monotonic()
    with d.connect("idle") as idle, d.connect("short") as short:
        for _ in range(4):
            for s in (idle, short):
                s.sendall(b"x")
                assert s.recv(1) == b"x"
            time.sleep(0.1)
        assert short.recv(1) == b""
        assert 0.4 < time.monotonic() - began < 3
        assert idle.recv(1) == b""
    assert 0.6 < time.monotonic() - began < 3


def test_the_stop_ladder_ends_a_program_that_does_not_listen(harkd):
    deaf = "exec = /bin/sh -c \"trap '' TERM; echo up; while :; do sleep 0.05; done\""
    mild = "exec = /bin/sh -c \"trap 'echo termed; exit 3' TERM; echo up; while :; do sleep 0.05; done\""
    good = "exec = /bin/sh -c 'echo up; cat; echo end of input'"
    limits = ("lifetime = 200ms", "stop_ladder = 300ms 700ms")
    d = harkd(service("deaf", deaf, *limits) + service("mild", mild, *limits) + service("good", good, *limits))
    took = {}
    with d.connect("deaf") as deaf, d.connect("mild") as mild, d.connect("good") as good:
        assert read_all(good) == b"up\nend of input\n"
        assert read_all(mild) == b"up\ntermed\n"
        assert read_all(deaf) == b"up\n"
    took = {
        name: float(d.expect(rf"{name} tcp\S+ -> \S+ sh pid \d+ ([\d.]+) ms")[1]) for name in ("deaf", "mild", "good")
    }
    assert 200 <= took["good"] < 500 <= took["mild"] < 900 <= took["deaf"], took
    d.expect(r"deaf .* killed by signal 9 ")
    d.expect(r"mild .* exit status 3$")


@pytest.mark.alone
def test_services_on_demand_do_not_keep_harkd_from_being_ready(harkd):
    began = time.monotonic()
    d = harkd("".join(service(f"echo-{i}", "box = echo", "start = demand") for i in range(20)))
    assert {s["state"] for s in d.status()["services"]} == {"waiting"}
    assert d.status()["uptime_s"] < 0.9 or time.monotonic() - began < 0.9


def test_an_address_that_a_reload_removes_is_refused_though_a_connection_of_it_goes_on(harkd):
    d = harkd(service("echo", "box = echo", listen="tcp://127.0.0.1:0 tcp://127.0.0.2:0"))
    gone = int(d.service("echo")["listen"][1].rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.2", gone), PATIENCE) as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"
        d.configure(service("echo", "box = echo"))
        assert d.ask("reload")["changed"] == 1
        with pytest.raises(ConnectionError):
            wait_until(lambda: socket.create_connection(("127.0.0.2", gone), PATIENCE).close())
        s.sendall(b"y")
        assert s.recv(1) == b"y"


@pytest.mark.parametrize("engine", ["epoll", "poll"])
def test_engine_and_stack(harkd, engine):
    d = harkd(
        service("fiber", "box = echo", f"engine = {engine}", "stack = 1m")
        + service("thread", "box = echo", f"engine = {engine}", "stack = 1m", "model = thread")
    )
    with d.connect("fiber") as a, d.connect("thread") as b:
        for s in (a, b):
            s.sendall(b"x")
            assert s.recv(1) == b"x"
        kinds = [
            os.readlink(f"/proc/{d.workers('fiber')[0]}/fd/{fd}")
            for fd in os.listdir(f"/proc/{d.workers('fiber')[0]}/fd")
        ]
        assert ("anon_inode:[eventpoll]" in kinds) == (engine == "epoll"), kinds
        maps = open(f"/proc/{d.workers('thread')[0]}/maps").read()
        sizes = [int(m[2], 16) - int(m[1], 16) for m in re.finditer(r"^(\w+)-(\w+) rw", maps, re.M)]
        assert 1 << 20 in sizes  # ThreadSanitizer makes what is smaller larger


def test_reuseport_v6only_and_defer_accept(harkd):
    with socket.socket() as mine, socket.socket(socket.AF_INET6) as four:
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        mine.bind(("127.0.0.1", 0))
        port = mine.getsockname()[1]
        four.bind(("::1", 0))
        six = four.getsockname()[1]
        four.close()
        d = harkd(
            service("shared", "box = echo", "reuseport = yes", listen=f"tcp://127.0.0.1:{port}")
            + service("six", "box = echo", "v6only = yes", listen=f"tcp://[::]:{six}")
            + service("deferred", "exec = /bin/echo first", "defer_accept = 30s")
        )
    assert say(d, "shared", b"x") == b"x"
    with socket.create_connection(("::1", six), PATIENCE) as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", six), PATIENCE)
    with d.connect("deferred") as s:
        s.settimeout(0.3)
        with pytest.raises(TimeoutError):
            s.recv(1)  # echo speaks first, but is not told of us before we have
        assert d.service("deferred")["accepted"] == 0
        s.settimeout(PATIENCE)
        s.sendall(b"x")
        assert s.recv(10) == b"first\n"


def test_source_prefix_and_max_load(harkd):
    d = harkd(
        service("net", "box = echo", "max_per_source = 1", "source_prefix = 24 64")
        + service("host", "box = echo", "max_per_source = 1")
        + service("busy", "box = echo", "max_load = 0.00001")
    )

    def dial_from(source, name):
        return socket.create_connection(("127.0.0.1", d.port(name)), PATIENCE, (source, 0))

    for name, shares in (("net", True), ("host", False)):
        with dial_from("127.0.0.2", name) as first:
            first.sendall(b"1")
            assert first.recv(1) == b"1"
            try:
                with dial_from("127.0.0.3", name) as second:
                    second.sendall(b"2")
                    assert (second.recv(1) == b"2") != shares
            except ConnectionError:
                assert shares
            with dial_from("127.0.1.2", name) as third:
                third.sendall(b"3")
                assert third.recv(1) == b"3"
    if os.getloadavg()[0] > 0.01:
        with d.connect("busy") as s:
            s.sendall(b"x")
            wait_until(lambda: d.service("busy")["held"]["max_load"] >= 1)
            assert d.service("busy")["accepted"] == 0


def test_warnings_are_in_the_log_and_do_not_keep_harkd_from_serving(harkd):
    d = harkd(service("echo", "box = echo", "socket_mode = 600"))
    assert re.search(
        r"^harkd: \S+hark\.conf:8: socket_mode: the service listens on no Unix socket$", d.stderr, re.M
    ), d.stderr
    assert say(d, "echo", b"x") == b"x"
    d.stop()


# ---- relay, wait ------------------------------------------------------------------------------------


def test_relay_joins_every_kind_of_socket(harkd, tmp_path):
    name = f"@hark-relay-{os.getpid()}"
    d = harkd(service("echo", "box = echo", listen=f"tcp://127.0.0.1:0 udp://127.0.0.1:0 unix:{name}"))
    tcp, udp, _ = d.service("echo")["listen"]
    d.configure(
        service("echo", "box = echo", listen=f"tcp://127.0.0.1:0 udp://127.0.0.1:0 unix:{name}")
        + service("to-tcp", f"relay = {tcp}", listen=f"tcp://127.0.0.1:0 unix:{tmp_path}/r")
        + service("to-unix", f"relay = unix:{name}")
        + service("to-udp", f"relay = {udp}", listen="udp://127.0.0.1:0")
        + service("to-none", f"relay = --connect-timeout 1s unix:{tmp_path}/nobody")
    )
    assert d.ask("reload")["added"] == 4
    for of in ("to-tcp", "to-unix", "to-udp"):
        for address in d.service(of)["listen"]:
            with dial(address) as s:
                s.send(b"around")
                assert s.recv(100) == b"around"
                if s.type == socket.SOCK_STREAM:
                    s.shutdown(socket.SHUT_WR)
                    assert read_all(s) == b""
    try:
        with d.connect("to-none") as s:
            assert s.recv(1) == b""
    except ConnectionResetError:
        pass
    wait_until(lambda: d.service("to-none")["failed"] == 1)


STREAM_WAIT = """\
import socket, time
l = socket.socket(fileno=0)
l.settimeout(2)
try:
    while True:
        c, _ = l.accept()
        c.sendall(b"wait ")
        data = c.recv(100)
        c.sendall(data)
        c.close()
        if data == b"end":
            break
except TimeoutError:
    pass
"""
DATAGRAM_WAIT = """\
import socket
s = socket.socket(fileno=0)
s.settimeout(2)
try:
    while True:
        data, peer = s.recvfrom(100)
        s.sendto(b"wait " + data, peer)
        if data == b"end":
            break
except TimeoutError:
    pass
"""


def test_wait_programs_get_the_listening_socket(harkd, tmp_path):
    (tmp_path / "stream.py").write_text(f"open('{tmp_path}/starts', 'a').write('x')\n" + STREAM_WAIT)
    (tmp_path / "datagram.py").write_text(DATAGRAM_WAIT)
    d = harkd(
        service("stream", f"exec = /usr/bin/python3 -IS {tmp_path}/stream.py", "wait = yes", "start = demand")
        + service(
            "datagram",
            f"exec = /usr/bin/python3 -IS {tmp_path}/datagram.py",
            "wait = yes",
            listen=f"udp://127.0.0.1:0 unixgram:{tmp_path}/gram",
        )
    )
    for word in (b"one", b"two", b"end"):
        with d.connect("stream") as s:
            s.sendall(word)
            assert read_all(s) == b"wait " + word
    assert (tmp_path / "starts").read_text() == "x"
    with d.connect("stream") as s:  # it has ended: another one is started
        s.sendall(b"end")
        assert read_all(s) == b"wait end"
    assert (tmp_path / "starts").read_text() == "xx"
    for address in d.service("datagram")["listen"]:
        for word in (b"one", b"two", b"end", b"four", b"end"):
            with dial(address) as s:
                s.send(word)
                assert s.recv(100) == b"wait " + word
    d.expect(r"^\S+ stream - -> tcp://127.0.0.1:\d+ python3 pid \d+ [\d.]+ ms in - out - done$")


# ---- disable, include, defaults -----------------------------------------------------------------------


def test_disabled_services_are_not_served_and_may_lack_their_program(harkd):
    d = harkd(
        service("echo", "box = echo")
        + service("off", "exec = /no/such/program", "user = nobody-at-all", "disable = yes")
    )
    assert [(s["name"], s["state"]) for s in d.status()["services"]] == [("echo", "running"), ("off", "disabled")]
    assert (d.service("off")["state"], d.service("off")["workers"]) == ("disabled", [])
    assert d.ask("start off") == {"ok": False, "error": "off is disabled: its configuration says so"}
    d.configure(service("echo", "box = echo", "disable = yes") + service("off", "box = daytime", "disable = no"))
    assert d.ask("reload")["removed"] == 1
    assert re.match(rb"\d{4}-", say(d, "off"))
    assert {s["name"]: s["state"] for s in d.status()["services"] if s["state"] != "draining"} == {
        "off": "running",
        "echo": "disabled",
    }


def test_included_files_and_defaults_are_served(harkd, tmp_path):
    (tmp_path / "services.d").mkdir()
    for name in ("b", "a"):
        (tmp_path / "services.d" / f"{name}.conf").write_text(service(name, PROBE))
    (tmp_path / "services.d" / "ignored.off").write_text("[nonsense\n")
    head = HEAD.rstrip("\n") + "\ninclude = services.d/*.conf\n\n[defaults]\numask = 077\nenv = WHERE=defaults\n\n"
    d = harkd(service("own", PROBE, "umask = 002", "env = OWN=yes") + service("unset", PROBE, "umask ="), head=head)
    assert [s["name"] for s in d.status()["services"]] == ["a", "b", "own", "unset"]
    assert report(d, "a").status("Umask") == ["0077"] and report(d, "a").environ["WHERE"] == "defaults"
    own = report(d, "own")
    assert own.status("Umask") == ["0002"] and "WHERE" not in own.environ and own.environ["OWN"] == "yes"
    mask = os.umask(0)
    os.umask(mask)
    assert report(d, "unset").status("Umask") == [f"{mask:04o}"]
    (tmp_path / "services.d" / "c.conf").write_text(service("c", "box = echo"))
    (tmp_path / "services.d" / "a.conf").unlink()
    answer = d.ask("reload")
    assert (answer["added"], answer["removed"], answer["unchanged"]) == (1, 1, 3)


# ---- the log --------------------------------------------------------------------------------------------

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


# ---- sockets from the environment ---------------------------------------------------------------------


def test_sockets_that_a_service_manager_hands_over_are_used(hark, harkd, tmp_path):
    by_name = socket.create_server(("127.0.0.1", 0))
    by_address = socket.create_server(("127.0.0.1", 0))
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagram.bind(("127.0.0.1", 0))
    unused = socket.create_server(("127.0.0.1", 0))
    sockets = [by_name, by_address, datagram, unused]
    ports = [s.getsockname()[1] for s in sockets]
    waiting = socket.create_connection(("127.0.0.1", ports[0]))  # before harkd is there at all

    def hand_over():
        for i, s in enumerate(sockets):
            os.dup2(s.fileno(), 100 + i)
        for i in range(len(sockets)):
            os.dup2(100 + i, 3 + i)
            os.close(100 + i)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="4", LISTEN_FDNAMES="web:other:gram:none")

    text = service("named", "box = echo", listen="fd:web") + service(
        "bound", PROBE, listen=f"tcp://127.0.0.1:{ports[1]} udp://127.0.0.1:{ports[2]}"
    )
    d = harkd(text, preexec_fn=hand_over, close_fds=False)
    for s in (by_name, by_address, datagram, unused):
        s.close()
    with waiting as s:
        s.sendall(b"early")
        assert s.recv(10) == b"early"
    got = report(d, "bound")
    assert not [name for name in got.environ if name.startswith("LISTEN_")]
    assert sorted(got.fds) == ["0", "1", "2"]
    worker = d.workers("named")[0]
    assert (
        len(
            [
                1
                for fd in os.listdir(f"/proc/{worker}/fd")
                if os.readlink(f"/proc/{worker}/fd/{fd}").startswith("socket:")
            ]
        )
        == 1
    )
    assert d.ask("reload")["unchanged"] == 2
    d.upgrade()
    with socket.create_connection(("127.0.0.1", ports[0]), PATIENCE) as s:
        s.sendall(b"later")
        assert s.recv(10) == b"later"
    assert report(d, "bound").fds["0"].startswith("socket:")
