"""What a program finds under harkd: its connection, user, directory, limits, environment, and nothing else.

The program that reports is a shell: it alters neither signals nor descriptors before it looks, as perl and python do.
"""
import ctypes
import grp
import os
import pwd
import re
import resource
import signal
import socket
import subprocess

import pytest

from conftest import MODELS, PATIENCE, Service, read_all, wait_until
from harkd_support import (
    PROBE,
    REPORT,
    Report,
    harkd,
    needs_root,
    report,
    say,
    service,
    shell_root,
)  # noqa: F401 harkd is a fixture


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


def few():
    """Hard limits that not even root may raise: capabilities(7)."""
    ctypes.CDLL(None).prctl(24, 24)  # PR_CAPBSET_DROP, CAP_SYS_RESOURCE
    resource.setrlimit(resource.RLIMIT_CORE, (0, 5000))
    resource.setrlimit(resource.RLIMIT_NPROC, (3000, 4000))


RAISED = ["rlimit_core = unlimited", "rlimit_nproc = 3500:unlimited"]


def test_a_hard_limit_that_cannot_be_raised_stays_and_is_told(harkd, hark, tmp_path):
    d = harkd(service("probe", PROBE, *RAISED), preexec_fn=few)
    got = report(d)
    assert (got.limit("Max core file size"), got.limit("Max processes")) == (("5000", "5000"), ("3500", "4000"))
    words = ["rlimit_core: the hard limit is 5000, and cannot be raised here: it stays",
             "rlimit_nproc: the hard limit is 4000, and cannot be raised here: it stays"]  # fmt: skip
    assert all(w in d.stderr for w in words)
    r = subprocess.run(
        [hark + "d", "-t", "-c", tmp_path / "hark.conf"], capture_output=True, preexec_fn=few, timeout=PATIENCE
    )
    assert r.returncode == 0
    assert all(f"hark.conf:{line}: {w}" in r.stderr.decode() for line, w in zip((8, 9), words)), r.stderr
    d.configure(service("probe", PROBE, *RAISED, "nice = 1"))
    assert d.ask("reload")["warnings"] == [f"{tmp_path}/hark.conf:{line}: {w}" for line, w in zip((8, 9), words)]
    assert report(d).limit("Max processes") == ("3500", "4000")


def test_a_limit_that_can_be_raised_is_and_nothing_is_told(harkd):
    d = harkd(service("probe", PROBE, "rlimit_msgqueue = unlimited"))
    if report(d).limit("Max msgqueue size") != ("unlimited", "unlimited"):
        assert "rlimit_msgqueue: the hard limit is" in d.stderr
    else:
        assert "rlimit_" not in d.stderr


def test_hark_serve_tells_a_hard_limit_that_cannot_be_raised(hark, tmp_path):
    server = Service([hark, "serve", "--rlimit-core", "unlimited", "unix:s", "--", "/bin/sh", "-c", "ulimit -c"],
                     cwd=tmp_path, preexec_fn=few)  # fmt: skip
    try:
        server.expect("^hark: serve: --rlimit-core: the hard limit is 5000, and cannot be raised here: it stays$")
        wait_until(lambda: server.addresses)
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(tmp_path / "s"))
            assert read_all(s)
    finally:
        server.end()


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
