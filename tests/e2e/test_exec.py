"""The exec box: programs as services, in the manner of inetd and tcpserver."""
import json
import os
import pathlib
import signal
import socket
import sys
import time

import pytest

from conftest import MODELS, PATIENCE, read_all, wait_until


def run_program(server, data=b""):
    with server.connect() as s:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        return read_all(s)


def read_line(s):
    """One line, and no byte of what follows."""
    line = b""
    while not line.endswith(b"\n"):
        byte = s.recv(1)
        assert byte, f"the end after {line!r}"
        line += byte
    return line


def closes(server, count=1):
    """The first count CLOSE events of a server that was started with --json; its programs may print between them."""

    def events():
        lines = [
            line for line in server.stderr.splitlines(keepends=True) if line.startswith("{") and line.endswith("}\n")
        ]
        return [e for e in map(json.loads, lines) if e["event"] == "close"]

    return wait_until(lambda: len(events()) >= count and events()[:count])


def variables(text):
    return dict(line.split("=", 1) for line in text.decode().splitlines() if "=" in line)


def about_connection(env):
    return {k: v for k, v in env.items() if k == "PROTO" or k.startswith(("TCP", "UDP", "UNIX"))}


def is_running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def python(source):
    return ["--", sys.executable, "-c", source]


# programs as services


@pytest.mark.parametrize(
    "program",
    [
        ["sh", "-c", 'while read -r line; do echo "<$line>"; done'],
        ["perl", "-ne", '$| = 1; chomp; print "<$_>\\n"'],
        [sys.executable, "-uc", "import sys\nfor line in sys.stdin: print('<' + line.rstrip() + '>')"],
    ],
    ids=["sh", "perl", "python"],
)
def test_a_script_serves_a_dialogue(serve, program):
    server = serve("tcp://127.0.0.1:0", "--", *program)
    with server.connect() as s:
        for word in [b"one", b"two", b"three"]:
            s.sendall(word + b"\n")
            assert read_line(s) == b"<" + word + b">\n"
        s.shutdown(socket.SHUT_WR)
        assert read_all(s) == b""


@pytest.mark.parametrize("model", MODELS)
def test_programs_serve_under_every_model(serve, model):
    server = serve("--model", model, "tcp://127.0.0.1:0", "--", "tr", "a-z", "A-Z")
    for _ in range(3):
        assert run_program(server, b"hello\n") == b"HELLO\n"


def test_arguments_arrive_exactly_as_given(serve):
    server = serve("tcp://127.0.0.1:0", "--", "printf", "[%s]", "a b", "*", "", "$HOME", "--stderr")
    assert run_program(server) == b"[a b][*][][$HOME][--stderr]"


def test_programs_run_side_by_side(serve):
    server = serve("tcp://127.0.0.1:0", "--", "cat")
    with server.connect() as slow, server.connect() as quick:
        quick.sendall(b"first")
        assert quick.recv(100) == b"first"
        slow.sendall(b"second")
        assert slow.recv(100) == b"second"


@pytest.mark.parametrize("model", MODELS)
def test_a_long_answer_arrives_whole_though_input_stays_unread(serve, model):
    server = serve("--model", model, "tcp://127.0.0.1:0", "--", "sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x")
    for _ in range(20):
        with server.connect() as s:
            s.sendall(bytes(100000))
            assert read_all(s) == b"x" * 1000000


def test_a_program_that_closes_at_once_ends_its_connection(serve):
    server = serve("tcp://127.0.0.1:0", "--", "true")
    for _ in range(10):
        with server.connect() as s:
            assert read_all(s) == b""


# what a program finds


def test_environment_over_tcp(serve, monkeypatch):
    monkeypatch.setenv("TCPREMOTEHOST", "left.over.example")
    monkeypatch.setenv("TCP6LOCALIP", "::5")
    monkeypatch.setenv("LISTEN_FDNAMES", "left over")
    monkeypatch.setenv("KEPT", "as it was")
    server = serve("tcp://127.0.0.1:0", "--", "env")
    with server.connect() as s:
        port = s.getsockname()[1]
        env = variables(read_all(s))
    assert about_connection(env) == {
        "PROTO": "TCP",
        "TCPLOCALIP": "127.0.0.1",
        "TCPLOCALPORT": str(server.port(0)),
        "TCPREMOTEIP": "127.0.0.1",
        "TCPREMOTEPORT": str(port),
    }
    assert env["KEPT"] == "as it was" and "LISTEN_FDNAMES" not in env


def test_environment_over_ipv6_has_both_forms(serve):
    server = serve("tcp6://[::1]:0", "--", "env")
    with socket.create_connection(("::1", server.port(0)), timeout=PATIENCE) as s:
        port = s.getsockname()[1]
        env = about_connection(variables(read_all(s)))
    assert env == {"PROTO": "TCP6"} | {
        prefix + name: value
        for prefix in ("TCP", "TCP6")
        for name, value in {
            "LOCALIP": "::1",
            "LOCALPORT": str(server.port(0)),
            "REMOTEIP": "::1",
            "REMOTEPORT": str(port),
        }.items()
    }


def test_an_ipv4_peer_of_a_dual_stack_socket_is_ipv4_to_the_program(serve):
    server = serve("tcp://*:0", "--", "env")
    env = about_connection(variables(run_program(server)))
    assert env["PROTO"] == "TCP" and env["TCPREMOTEIP"] == env["TCPLOCALIP"] == "127.0.0.1"
    assert not any(name.startswith("TCP6") for name in env)


def test_the_peers_name_is_looked_up_by_choice(serve):
    try:
        name = socket.gethostbyaddr("127.0.0.1")[0].lower()
    except OSError:
        pytest.skip("127.0.0.1 has no name on this machine")
    server = serve("tcp://127.0.0.1:0", "exec", "--lookup-host", "env")
    assert variables(run_program(server))["TCPREMOTEHOST"] == name


@pytest.mark.parametrize("abstract", [False, True])
def test_environment_over_a_unix_socket(serve, tmp_path, abstract):
    path = f"@hark-test-{os.getpid()}" if abstract else str(tmp_path / "service")
    server = serve(f"unix:{path}", "--", "env")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.settimeout(PATIENCE)
        s.connect(path.replace("@", "\0"))
        env = about_connection(variables(read_all(s)))
    assert env == {
        "PROTO": "UNIX",
        "UNIXLOCALPATH": path,
        "UNIXLOCALPID": str(server.pid),
        "UNIXLOCALUID": str(os.geteuid()),
        "UNIXLOCALGID": str(os.getegid()),
        "UNIXREMOTEPID": str(os.getpid()),
        "UNIXREMOTEEUID": str(os.geteuid()),
        "UNIXREMOTEEGID": str(os.getegid()),
    }


def test_environment_over_udp(serve):
    server = serve("udp://127.0.0.1:0", "--", "sh", "-c", "env | grep -a -e ^PROTO -e ^UDP | tr '\\n' ';'")
    with server.connect() as s:
        s.send(b"?")
        env = variables(s.recv(2000).replace(b";", b"\n"))
        assert env == {
            "PROTO": "UDP",
            "UDPLOCALIP": "127.0.0.1",
            "UDPLOCALPORT": str(server.port(0)),
            "UDPREMOTEIP": "127.0.0.1",
            "UDPREMOTEPORT": str(s.getsockname()[1]),
        }


@pytest.mark.parametrize("model", MODELS)
def test_no_descriptor_leaks_into_a_program(serve, model):
    server = serve(
        "--model",
        model,
        "tcp://127.0.0.1:0",
        "udp://127.0.0.1:0",
        *python(
            "import os\n"
            "print(sorted(int(n) for n in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + n)))"
        ),
    )
    with server.connect() as first, server.connect() as second:
        assert read_all(first) == read_all(second) == b"[0, 1, 2]\n"


def test_what_the_server_inherited_open_does_not_leak_either(serve):
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    try:
        server = serve("tcp://127.0.0.1:0", "--", "ls", "/proc/self/fd", pass_fds=[write_end])
        assert run_program(server).split() == [b"0", b"1", b"2", b"3"]  # 3: the directory that ls reads
    finally:
        os.close(read_end)
        os.close(write_end)


@pytest.mark.parametrize("model", MODELS)
def test_a_program_starts_with_default_signals_and_blocking_descriptors(serve, model):
    server = serve(
        "--model",
        model,
        "tcp://127.0.0.1:0",
        *python(
            "import os\n"
            "status = dict(l.split(':\\t', 1) for l in open('/proc/self/status'))\n"
            # Python itself ignores SIGPIPE and SIGXFSZ; 32 and 33 are the C library's own, which make(1) leaves
            # ignored.
            "ignored = int(status['SigIgn'], 16) & ~(1 << 12 | 1 << 24 | 3 << 31)\n"
            "print(ignored, int(status['SigBlk'], 16), os.get_blocking(0), os.get_blocking(1))"
        ),
    )
    assert run_program(server) == b"0 0 True True\n"


def test_an_ignored_sigpipe_of_the_server_is_not_the_programs(serve):
    server = serve("tcp://127.0.0.1:0", "--", "grep", "SigIgn", "/proc/self/status")
    assert int(run_program(server).split()[1], 16) & ~(3 << 31) == 0  # 32 and 33: see above


def test_a_program_leads_a_process_group_of_its_own(serve):
    server = serve("tcp://127.0.0.1:0", *python("import os\nprint(os.getpid() == os.getpgrp(), os.getppid())"))
    assert run_program(server) == b"True %d\n" % server.pid


def test_standard_error_is_the_servers_own(serve):
    server = serve("tcp://127.0.0.1:0", "--", "sh", "-c", "echo said; echo oops >&2")
    assert run_program(server) == b"said\n"
    wait_until(lambda: "oops\n" in server.stderr)


def test_standard_error_is_the_connection_by_choice(serve):
    server = serve("tcp://127.0.0.1:0", "exec", "--stderr", "sh", "-c", "echo said; echo oops >&2")
    assert run_program(server) == b"said\noops\n"


def test_a_program_starts_in_the_directory_that_was_asked_for(serve, tmp_path):
    server = serve("--directory", str(tmp_path), "tcp://127.0.0.1:0", "exec", "pwd")
    assert run_program(server).decode().strip() == os.path.realpath(tmp_path)


def test_a_relative_program_is_found_from_where_the_server_was_started(serve, tmp_path):
    script = tmp_path / "service"
    script.write_text("#!/bin/sh\necho here\n")
    script.chmod(0o755)
    server = serve("--directory", "/", "tcp://127.0.0.1:0", "exec", "./service", cwd=tmp_path)
    assert run_program(server) == b"here\n"


@pytest.mark.parametrize("model", MODELS)
def test_standard_input_is_dev_null_by_choice(serve, model):
    server = serve(
        "--model",
        model,
        "tcp://127.0.0.1:0",
        "exec",
        "--stdin-null",
        "sh",
        "-c",
        "readlink /proc/self/fd/0; cat; echo end",
    )
    for _ in range(3):
        assert run_program(server, b"not for you\n") == b"/dev/null\nend\n"


def test_a_program_may_be_called_by_another_name(serve):
    server = serve("tcp://127.0.0.1:0", "exec", "--argv0", "-other name", "sh", "-c", "tr '\\0' '|' </proc/$$/cmdline")
    assert run_program(server).startswith(b"-other name|-c|")


# how it ends


def test_the_programs_pid_is_noted(serve):
    server = serve("-v", "--json", "tcp://127.0.0.1:0", "--", "sh", "-c", "echo $$")
    pid = int(run_program(server))
    assert closes(server)[0]["pid"] == pid
    words = serve("-v", "tcp://127.0.0.1:0", "--", "sh", "-c", "echo $$")
    pid = int(run_program(words))
    words.expect(rf"-> tcp://\S+ \S*sh .*, pid {pid}, done$")


def test_the_pid_of_a_program_that_could_not_be_started_is_none(serve, tmp_path):
    script = tmp_path / "service"
    script.write_text("#!/nowhere\n")
    script.chmod(0o755)
    server = serve("--json", "tcp://127.0.0.1:0", "--", str(script))
    assert run_program(server) == b""
    end = closes(server)[0]
    assert end["status"] == 127 and end["pid"] == end["process"]


def test_the_exit_status_is_noted(serve):
    server = serve(
        "--json", "tcp://127.0.0.1:0", "--", "sh", "-c", "read word; case $word in die) kill -9 $$;; esac; exit $word"
    )
    for word in [b"0\n", b"7\n", b"die\n"]:
        run_program(server, word)
    ends = sorted((e.get("signal", 0), e.get("status", 0)) for e in closes(server, 3))
    assert ends == [(0, 0), (0, 7), (9, 0)]


@pytest.mark.parametrize(
    "args, words",
    [
        (["no-such-program-anywhere"], "not found in $PATH"),
        (["/nowhere/at/all"], "No such file or directory"),
        (["/etc/passwd"], "Permission denied"),
        (["/etc"], "Is a directory"),
        ([], "no program"),
        (["--directory", "/", "true"], "no such option: --directory"),
        (["--term-after", "soon", "true"], '--term-after: "soon" is not a duration'),
        (["--kill-after=1000000d", "true"], '--kill-after: "1000000d" is too long'),
        (["--term-after", "4s", "true"], "--kill-after is sooner than --term-after"),
        (["--argv0"], "--argv0 wants a value"),
    ],
)
def test_a_program_that_cannot_run_is_told_at_the_start(run, args, words):
    done = run("serve", "tcp://127.0.0.1:0", "exec", *args)
    assert done.returncode != 0
    assert words in done.stderr.decode()
    assert "listening" not in done.stdout.decode()


def test_a_program_that_has_gone_since_ends_the_connection_with_127_and_a_useless_one_with_126(serve, tmp_path):
    script = tmp_path / "service"
    script.write_text("#!/bin/sh\necho here\n")
    script.chmod(0o755)
    server = serve("--json", "tcp://127.0.0.1:0", "--", str(script))
    assert run_program(server) == b"here\n"
    script.chmod(0o644)
    assert run_program(server) == b""
    script.unlink()
    assert run_program(server) == b""
    script.write_text("#!/bin/sh\necho again\n")
    script.chmod(0o755)
    assert run_program(server) == b"again\n"
    assert [e["status"] for e in closes(server, 4)] == [0, 126, 127, 0]


def test_what_a_program_leaves_running_goes_on(serve, tmp_path):
    server = serve("tcp://127.0.0.1:0", "--", "sh", "-c", "sleep 1000 </dev/null >/dev/null 2>&1 & echo $!")
    pid = int(run_program(server))
    try:
        assert is_running(pid)
        server.stop()
        assert is_running(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


POLITE = "cat >/dev/null; echo ended in peace"
ASKS = "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child:
    print(os.getpid(), child, flush=True)
while True:
    time.sleep(1000)
"""


@pytest.mark.parametrize("model", MODELS)
def test_a_program_whose_time_is_over_reads_the_end_of_its_input(serve, model):
    server = serve("--model", model, "--json", "--lifetime", "200ms", "tcp://127.0.0.1:0", "--", "sh", "-c", POLITE)
    with server.connect() as s:
        assert read_all(s) == b"ended in peace\n"
    assert closes(server)[0]["status"] == 0


def test_a_program_whose_time_is_over_is_asked_to_end_by_sigterm(serve):
    server = serve("--json", "--lifetime", "100ms", "tcp://127.0.0.1:0", "--", "sh", "-c", ASKS)
    with server.connect() as s:
        assert read_all(s) == b"ready\nasked\n"
    assert closes(server)[0]["status"] == 3


@pytest.mark.parametrize("model", MODELS)
def test_the_longest_times_that_can_be_asked_for_end_nothing_early(serve, model):
    longest = "3650d"
    server = serve(
        "--json",
        "--model",
        model,
        "--lifetime",
        longest,
        "--grace",
        longest,
        "tcp://127.0.0.1:0",
        "exec",
        "--term-after",
        longest,
        "--kill-after",
        longest,
        "sh",
        "-c",
        "echo ready; " + POLITE,
    )
    with server.connect() as s:
        assert read_line(s) == b"ready\n"
        server.send(signal.SIGTERM)
        assert read_all(s) == b"ended in peace\n"
    assert server.wait() == 0
    assert closes(server)[0]["status"] == 0


@pytest.mark.alone
@pytest.mark.parametrize(
    "rungs, number, within",
    [
        (["--term-after", "0", "--kill-after", "1h"], signal.SIGTERM, 0.9),
        (["--term-after=0", "--kill-after=0s"], signal.SIGKILL, 0.9),
    ],
)
def test_the_ladders_steps_are_as_far_apart_as_was_asked_for(serve, rungs, number, within):
    server = serve("--json", "--lifetime", "100ms", "tcp://127.0.0.1:0", "exec", *rungs, "sleep", "1000")
    with server.connect() as s:
        begun = time.monotonic()
        assert read_all(s) == b""
        assert time.monotonic() - begun < within  # by default a second would pass before SIGTERM
    assert closes(server)[0]["signal"] == number


@pytest.mark.parametrize("model", MODELS)
def test_a_stubborn_group_whose_time_is_over_is_killed(serve, model):
    server = serve("--model", model, "--json", "--lifetime", "100ms", "tcp://127.0.0.1:0", *python(STUBBORN))
    with server.connect() as s:
        pids = [int(pid) for pid in read_all(s).split()]
    assert closes(server)[0]["signal"] == signal.SIGKILL
    assert len(pids) == 2
    wait_until(lambda: not any(map(is_running, pids)))


@pytest.mark.parametrize("model", MODELS)
def test_a_drain_lets_a_polite_program_finish(serve, model):
    server = serve("--model", model, "tcp://127.0.0.1:0", "--", "sh", "-c", POLITE)
    with server.connect() as s:
        s.sendall(b"something")
        wait_until(lambda: programs(server))
        os.kill(server.pid, signal.SIGTERM)
        assert read_all(s) == b"ended in peace\n"
    assert server.wait() == 0


def is_pending(pid, number):
    """Whether a signal was sent and is not yet delivered."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return any(int(line.split()[1], 16) >> (number - 1) & 1 for line in lines if line.startswith(("SigPnd", "ShdPnd")))


def programs(server):
    """Processes under the server that run something else."""
    todo, found = [server.pid], []
    while todo:
        for task in pathlib.Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            for pid in map(int, task.read_text().split()):
                todo.append(pid)
                if os.path.realpath(f"/proc/{pid}/exe") != os.path.realpath(f"/proc/{server.pid}/exe"):
                    found.append(pid)
    return found


@pytest.mark.parametrize("model", MODELS)
def test_a_drain_kills_a_stubborn_group_before_its_grace_ends(serve, model):
    server = serve("--model", model, "--grace", "2s", "tcp://127.0.0.1:0", *python(STUBBORN))
    with server.connect() as s:
        pids = [int(pid) for pid in read_line(s).split()]
        begun = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        assert read_all(s) == b""
        assert server.wait() == 0  # nothing had to be cut
    assert 1 < time.monotonic() - begun < 2.5
    wait_until(lambda: not any(map(is_running, pids)))


@pytest.mark.parametrize("model", MODELS)
def test_a_second_signal_kills_at_once(serve, model):
    server = serve("--model", model, "--json", "--grace", "1h", "tcp://127.0.0.1:0", *python(STUBBORN))
    with server.connect() as s:
        pids = [int(pid) for pid in read_line(s).split()]
        begun = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: not is_pending(server.pid, signal.SIGTERM))  # two signals must not become one
        os.kill(server.pid, signal.SIGTERM)
        server.wait()
    assert time.monotonic() - begun < 3
    wait_until(lambda: not any(map(is_running, pids)))


# datagrams


ANSWERS = """
import os, socket
s = socket.socket(fileno=0)
while data := s.recv(65536):
    s.send(b"%d %s" % (os.getpid(), data))
    if data == b"bye":
        break
"""


@pytest.mark.parametrize("model", ["process", "thread", "fiber"])
def test_each_udp_peer_has_a_program_of_its_own_that_gets_the_first_datagram_too(serve, model):
    server = serve("--model", model, "udp://127.0.0.1:0", *python(ANSWERS))
    with server.connect() as one, server.connect() as other:
        pids = {}
        for s in (one, other):
            s.send(b"first")
            pid, word = s.recv(100).split()
            assert word == b"first"
            pids[s] = pid
        assert pids[one] != pids[other]
        for word in (b"second", b"third", b"bye"):
            for s in (one, other):
                s.send(word)
                assert s.recv(100).split() == [pids[s], word]


@pytest.mark.parametrize("model", ["thread", "fiber"])
def test_what_a_udp_peer_sends_while_its_program_starts_goes_to_that_program(serve, model):
    server = serve("--model", model, "udp://127.0.0.1:0", *python(ANSWERS))
    words = [b"word%d" % i for i in range(10)]
    for _ in range(5):
        with server.connect() as s:
            os.kill(server.pid, signal.SIGSTOP)  # so that all of them are there before the first is taken
            for word in words:
                s.send(word)
            os.kill(server.pid, signal.SIGCONT)
            got = [s.recv(100).split() for _ in words]
            s.send(b"bye")
        assert len({pid for pid, _ in got}) == 1
        assert sorted(word for _, word in got) == words


def test_a_udp_peer_that_comes_back_gets_a_new_program(serve):
    server = serve("--json", "udp://127.0.0.1:0", *python(ANSWERS))
    pids = set()
    with server.connect() as s:
        for round in range(1, 4):
            s.send(b"bye")
            pid, word = s.recv(100).split()
            pids.add(pid)
            closes(server, round)
    assert len(pids) == 3


def test_a_udp_program_whose_time_is_over_reads_the_end(serve):
    server = serve("--json", "--lifetime", "200ms", "udp://127.0.0.1:0", *python(ANSWERS))
    with server.connect() as s:
        s.send(b"hello")
        assert s.recv(100).endswith(b"hello")
        assert closes(server)[0]["status"] == 0


WAITS_UDP = """
import os, socket
s = socket.socket(fileno=0)
names = sorted(n for n in os.environ if n == "PROTO" or n.startswith("UDP"))
for _ in range(2):
    data, peer = s.recvfrom(65536)
    s.sendto(b"%d %s %s" % (os.getpid(), data, ",".join(names).encode()), peer)
"""


@pytest.mark.parametrize("model", MODELS)
def test_the_wait_form_gives_one_program_the_datagram_socket(serve, model):
    server = serve("--model", model, "--wait", "udp://127.0.0.1:0", *python(WAITS_UDP))
    pids = []
    with server.connect() as one, server.connect() as other:
        for s in (one, other, one, other):
            s.send(b"hello")
            pid, word, names = s.recv(1000).split()
            assert word == b"hello" and names == b"PROTO,UDPLOCALIP,UDPLOCALPORT"
            pids.append(pid)
    assert pids[0] == pids[1] != pids[2] == pids[3]


WAITS_TCP = """
import os, socket
s = socket.socket(fileno=0)
for _ in range(2):
    c, peer = s.accept()
    c.sendall(b"%d %s" % (os.getpid(), os.environ["PROTO"].encode()))
    c.close()
"""


@pytest.mark.parametrize("model", MODELS)
def test_the_wait_form_gives_one_program_the_listening_socket(serve, model):
    server = serve("--model", model, "--wait", "tcp://127.0.0.1:0", *python(WAITS_TCP))
    got = []
    for _ in range(4):
        with server.connect() as s:
            pid, proto = read_all(s).split()
            assert proto == b"TCP"
            got.append(pid)
    assert got[0] == got[1] != got[2] == got[3]


def test_a_drain_ends_a_waiting_program(serve):
    server = serve("--grace", "1s", "--wait", "udp://127.0.0.1:0", *python(WAITS_UDP))
    with server.connect() as s:
        s.send(b"hello")
        s.recv(1000)
    os.kill(server.pid, signal.SIGTERM)
    assert server.wait() == 0
