"""hark status, reload, stop, start, drain, upgrade: against a control socket that the test plays, well and badly."""
import fcntl
import json
import os
import pathlib
import pty
import re
import signal
import socket
import struct
import subprocess
import termios
import threading

import pytest

from conftest import PATIENCE, wait_until
from harkd_support import skip_unless_run_by

COMMANDS = ["reload", "stop", "start", "drain", "upgrade"]
NAMED = ["stop", "start"]


def service(name="daytime", **more):
    """A service as harkd tells of it."""
    return {
        "name": name,
        "state": "running",
        "listen": ["tcp://127.0.0.1:13", "udp://127.0.0.1:13"],
        "box": "daytime",
        "model": "fiber",
        "workers": [{"pid": 72, "now": 3, "draining": False, "uptime_s": 12.3}],
        "now": 3,
        "accepted": 1042,
        "closed": 1039,
        "failed": 2,
        "bytes_in": 0,
        "bytes_out": 27092,
        "refused": {"max_per_source": 0, "rate_per_source": 17},
        "held": {"max_conns": 0, "rate": 4, "max_load": 0, "resources": 0},
        "starts": 1,
        "restarts": 0,
        "crashes": 0,
        "log_dropped": 0,
        "error": None,
        **more,
    }


def status(*services, **more):
    return {
        "ok": True,
        "version": "0.2.0",
        "pid": 71,
        "generation": 1,
        "config": "/etc/hark/hark.conf",
        "uptime_s": 93784.5,
        "time": "2026-11-21T15:00:00.000Z",
        "services": list(services),
        **more,
    }


class Fake:
    """Answers each line on a control socket with answer(line, k): a dict, or bytes as they are; None closes, ... stays
    silent."""

    def __init__(self, path, answer):
        self.path, self.answer, self.asked = str(path), answer, []
        self._open = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen(16)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self._open.append(client)
            try:
                self._converse(client)
            except OSError:
                pass

    def _converse(self, client):
        line = b""
        while not line.endswith(b"\n"):
            if not (byte := client.recv(1)):
                return
            line += byte
        self.asked.append(line)
        answer = self.answer(line, len(self.asked) - 1)
        if answer is ...:
            return
        if isinstance(answer, dict):
            answer = json.dumps(answer).encode() + b"\n"
        if answer:
            client.sendall(answer)
        client.close()

    def stop(self):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        self._socket.close()
        for client in self._open:
            client.close()
        if os.path.exists(self.path):
            os.unlink(self.path)


@pytest.fixture
def fake(tmp_path):
    """fake(answer) plays harkd at tmp_path/control; answer is a function, or the one answer."""
    running = []

    def fake(answer, path=tmp_path / "control"):
        server = Fake(path, answer if callable(answer) else lambda line, k: answer)
        running.append(server)
        return server

    yield fake
    for server in running:
        if server._thread.is_alive():
            server.stop()


@pytest.fixture
def ask(run, tmp_path):
    """ask("status", …) of the fake one."""

    def ask(verb, *args, **more):
        return run(verb, "--control", tmp_path / "control", *args, **more)

    return ask


def one_line(r, code):
    err = r.stderr.decode()
    assert (r.returncode, r.stdout) == (code, b"") and err.count("\n") == 1 and err.startswith("hark: "), (r, err)
    return err


# ---- the table


def test_status_is_a_table_of_services(fake, ask):
    server = fake(
        status(
            service(), service("echo", state="waiting", workers=[], now=0, accepted=0, bytes_out=0, refused={}, held={})
        )
    )
    r = ask("status")
    assert (r.returncode, r.stderr) == (0, b"")
    assert server.asked == [b"status\n"]
    head, *table = r.stdout.decode().splitlines()
    assert head == "harkd 0.2.0, pid 71, generation 1, up 1d 2h, /etc/hark/hark.conf"
    assert [line.split() for line in table] == [
        "SERVICE STATE PIDS NOW TOTAL IN OUT REFUSED HELD RESTARTS LISTENS".split(),
        "daytime running 72 3 1042 0 27092 17 4 0 tcp://127.0.0.1:13 +1".split(),
        "echo waiting - 0 0 0 0 0 0 0 tcp://127.0.0.1:13 +1".split(),
    ]
    assert len({re.search("LISTENS|tcp:", line).start() for line in table}) == 1  # aligned
    assert table[0].index("LISTENS") <= 82  # addresses end the line, wherever that is
    assert table[1].index("running") == table[2].index("waiting") == table[0].index("STATE")


def test_a_table_fits_80_columns_where_it_can(fake, ask):
    workers = [{"pid": 4190000 + i, "now": 1, "draining": False, "uptime_s": 1} for i in range(12)]
    fake(
        status(
            service(
                "a-service-with-a-long-name-" + "x" * 30,
                state="backing-off",
                workers=workers,
                accepted=10**9,
                bytes_in=10**15,
                bytes_out=9007199254740993,
                restarts=123456,
                now=99999,
            )
        )
    )
    r = ask("status")
    rows = r.stdout.decode().splitlines()[1:]
    rows = [re.sub(r" +(LISTENS|tcp:.*)$", "", row) for row in rows]
    assert max(map(len, rows)) <= 80 and len(rows) == 2
    assert re.fullmatch(r"a-service-~ backing-off 4190000\+11 +99999 1\.00G 1\.00P 9\.01P +17 +4 +123k", rows[1]), rows[
        1
    ]


@pytest.mark.parametrize(
    "n, shown",
    [
        (0, "0"),
        (99999, "99999"),
        (100000, "100k"),
        (123456, "123k"),
        (999499, "999k"),
        (999500, "1.00M"),
        (9994000, "9.99M"),
        (9996000, "10.0M"),
        (99940000, "99.9M"),
        (99960000, "100M"),
        (2**63 - 1, "9.22E"),
        (-5, "-5"),
    ],
)
def test_large_numbers_keep_three_digits(fake, ask, n, shown):
    fake(status(service(bytes_in=n)))
    assert ask("status").stdout.decode().splitlines()[2].split()[5] == shown


def test_what_ails_a_service_follows_the_table(fake, ask):
    fake(status(service(state="backing-off", workers=[], error="worker 72: killed by signal 11"), service("echo")))
    assert ask("status").stdout.decode().splitlines()[-1] == "daytime: worker 72: killed by signal 11"


def test_no_services_is_an_answer(fake, ask):
    fake(status(draining=True))
    r = ask("status")
    assert (
        r.returncode == 0
        and r.stdout.decode().splitlines()[0].endswith(", draining")
        and b"\nno services\n" in r.stdout
    )


def test_one_service_is_told_whole(fake, ask):
    server = fake(
        status(
            service(
                refused={"max_per_source": 1, "rate_per_source": 17, "yet_unknown": 5},
                error="it limps",
                log_dropped=9,
                workers=[
                    {"pid": 72, "now": 3, "draining": False, "uptime_s": 4000},
                    {"pid": 60, "now": 1, "draining": True, "uptime_s": 61.5},
                ],
            )
        )
    )
    r = ask("status", "daytime")
    assert (r.returncode, r.stderr, server.asked) == (0, b"", [b"status daytime\n"])
    assert r.stdout.decode().splitlines()[1:] == [
        "daytime: running",
        "  error     it limps",
        "  box       daytime, model fiber",
        "  listens   tcp://127.0.0.1:13",
        "            udp://127.0.0.1:13",
        "  workers   pid 72, 3 now, up 1h 6m",
        "            pid 60, 1 now, up 1m 1s, draining",
        "  total     1042 accepted, 1039 closed, 2 failed, 3 now",
        "  bytes     0 in, 27092 out",
        "  refused   max_per_source 1, rate_per_source 17, yet_unknown 5",
        "  held      max_conns 0, rate 4, max_load 0, resources 0",
        "  started   1 workers, 0 restarted, 0 crashed",
        "  log       9 lines lost",
    ]


def test_json_is_printed_as_it_came(fake, ask):
    raw = b'{ "ok":true,  "services":[],"x":"\\u00fc\xc3\xbc" }'
    fake(raw + b"\n")
    r = ask("status", "--json")
    assert (r.returncode, r.stdout, r.stderr) == (0, raw + b"\n", b"")


def test_an_answer_in_pieces_is_one_answer(fake, ask, tmp_path):
    answer = json.dumps(status(*[service("s%d" % i) for i in range(1000)])).encode() + b"\n"
    fake(answer + b"and what follows is not read\n")
    r = ask("status")
    assert r.returncode == 0 and len(r.stdout.splitlines()) == 1002


# ---- commands


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_command_is_asked_and_its_success_told(fake, ask, verb):
    upgraded = {"generation": 2, "pid": 90}
    server = fake({"ok": True, "added": 1, "changed": 2, "removed": 3, "unchanged": 4} | upgraded)
    name = ["daytime"] if verb in NAMED else []
    how = ["wait"] if verb == "upgrade" else []
    r = ask(verb, *name)
    assert (r.returncode, r.stderr) == (0, b"")
    assert server.asked == [" ".join([verb, *how, *name]).encode() + b"\n"]
    words = {
        "reload": "1 added, 2 changed, 3 removed, 4 unchanged",
        "stop": "daytime stops",
        "start": "daytime starts",
        "drain": "harkd drains",
        "upgrade": "upgraded: generation 2 serves, process 90",
    }[verb]
    assert words in r.stdout.decode() and r.stdout.count(b"\n") == 1
    assert json.loads(ask(verb, "--json", *name).stdout)["ok"] is True


@pytest.mark.parametrize("verb", ["status", *COMMANDS])
def test_harkd_says_no(fake, ask, verb):
    fake({"ok": False, "error": "no such service: dayttime (did you mean daytime?)"})
    name = ["dayttime"] if verb in [*NAMED, "status"] else []
    assert one_line(ask(verb, *name), 1) == f"hark: {verb}: no such service: dayttime (did you mean daytime?)\n"
    r = ask(verb, "--json", *name)
    assert r.returncode == 1 and json.loads(r.stdout)["ok"] is False


def test_each_mistake_of_a_reload_is_a_line(fake, ask):
    fake(
        {
            "ok": False,
            "error": "2 errors",
            "errors": ["hark.conf:3: unknown key: lisen", "hark.conf:9: no such box", 7, "\x1b[2J"],
        }
    )
    r = ask("reload")
    assert (r.returncode, r.stdout) == (1, b"")
    assert r.stderr.decode().splitlines() == [
        "hark: reload: 2 errors",
        "hark: reload: hark.conf:3: unknown key: lisen",
        "hark: reload: hark.conf:9: no such box",
        "hark: reload: \\x1b[2J",
    ]


def test_a_mistake_that_is_the_summary_as_well_is_told_once(fake, ask):
    fake({"ok": False, "error": "hark.conf:3: bad", "errors": ["hark.conf:3: bad", "hark.conf:4: worse"]})
    assert ask("reload").stderr.decode().splitlines() == [
        "hark: reload: hark.conf:3: bad",
        "hark: reload: hark.conf:4: worse",
    ]


def test_no_without_a_reason_is_still_no(fake, ask):
    fake({"ok": False})
    assert "said no" in one_line(ask("drain"), 1)


# ---- where harkd is


@pytest.mark.parametrize("verb", ["status", *COMMANDS])
def test_who_cannot_be_reached_is_named_with_what_to_do(ask, tmp_path, verb):
    name = ["x"] if verb in NAMED else []
    words = one_line(ask(verb, *name), 111)
    assert str(tmp_path / "control") in words and "harkd does not run" in words and "--control" in words
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "control"))
    dead.close()
    words = one_line(ask(verb, *name), 111)
    assert str(tmp_path / "control") in words and "refused" in words and "harkd does not run" in words


def test_a_path_that_cannot_be_one_is_wrong_usage(run):
    assert "--control" in one_line(run("status", "--control", "/" + "x" * 200), 100)
    assert "--control" in one_line(run("status", "--control", ""), 100)
    assert "$HARKD_CONTROL" in one_line(run("status", env={**os.environ, "HARKD_CONTROL": "/" + "x" * 108}), 100)


def test_the_environment_names_the_socket_and_the_option_wins(fake, run, tmp_path):
    fake({"ok": False, "error": "I am one"}, tmp_path / "one")
    fake({"ok": False, "error": "I am two"}, tmp_path / "two")
    env = {**os.environ, "HARKD_CONTROL": str(tmp_path / "one")}
    assert "I am one" in one_line(run("drain", env=env), 1)
    assert "I am two" in one_line(run("drain", "--control", tmp_path / "two", env=env), 1)


def as_user(hark, uid, env):
    r = subprocess.run([hark, "status"], capture_output=True, timeout=PATIENCE, user=uid, env=env, cwd="/")
    return one_line(r, 111)


def test_each_user_has_a_socket_of_his_own(hark):
    skip_unless_run_by(hark, 54321)
    env = {k: v for k, v in os.environ.items() if k not in ("HARKD_CONTROL", "XDG_RUNTIME_DIR")}
    assert "/tmp/harkd-54321.sock: " in as_user(hark, 54321, env)
    assert "/run/user/54321/harkd.sock: " in as_user(hark, 54321, {**env, "XDG_RUNTIME_DIR": "/run/user/54321"})
    assert "/tmp/harkd-54321.sock: " in as_user(hark, 54321, {**env, "XDG_RUNTIME_DIR": "not/absolute"})
    assert "/run/harkd.sock: " in one_line(
        subprocess.run(
            [hark, "status"], capture_output=True, timeout=PATIENCE, env={**env, "XDG_RUNTIME_DIR": "/run/user/0"}
        ),
        111,
    )


def test_in_tmp_another_users_harkd_is_not_asked(hark):
    skip_unless_run_by(hark, 54321)
    path = "/tmp/harkd-54321.sock"
    script = (
        "import os, socket; s = socket.socket(socket.AF_UNIX); s.bind(%r); os.chmod(%r, 0o777); s.listen();"
        "print('ready', flush=True);"
        "c = s.accept()[0]; print(c.recv(100), flush=True); os.unlink(%r)" % (path, path, path)
    )
    pathlib.Path(path).unlink(missing_ok=True)
    server = subprocess.Popen(["/usr/bin/python3", "-c", script], stdout=subprocess.PIPE, user=54322, cwd="/")
    try:
        assert server.stdout.readline() == b"ready\n"
        env = {k: v for k, v in os.environ.items() if k not in ("HARKD_CONTROL", "XDG_RUNTIME_DIR")}
        assert "another user's process listens there" in as_user(hark, 54321, env)
        assert server.stdout.readline() == b"b''\n"  # nothing was said to it
    finally:
        server.kill()
        server.wait(PATIENCE)
        server.stdout.close()
        pathlib.Path(path).unlink(missing_ok=True)


# ---- who is not harkd


@pytest.mark.parametrize(
    "answer, words",
    [
        (b"", "ended without an answer"),
        (b'{"ok":true', "ended within the answer"),
        (b"SSH-2.0-x\n", "not harkd's answer: "),
        (b"\n", "not harkd's answer: "),
        (b"[]\n", 'no "ok" in it'),
        (b'{"ok":1}\n', 'no "ok" in it'),
        (b'{"ok":true,"x":"\xff"}\n', "not harkd's answer: "),
        (b'{"ok":true}\0{"ok":false}\n', "a NUL byte"),
        (b"[" * 100000 + b"\n", "not harkd's answer: "),
        (b'{"ok":true,"pid":99999999999999999999999999}\n', "not harkd's answer: "),
        (b'"\x1b[2J\x07\x9b\n', "not harkd's answer: "),
        (b'{"ok":true}\n', "not the services that were asked for"),
        (b'{"ok":true,"services":{}}\n', "not the services"),
        (b'{"ok":true,"services":[1]}\n', "not the services"),
        (b" " * (9 << 20), "it does not end"),
    ],
    ids=lambda value: f"{len(value)} bytes",
)
def test_what_is_not_harkd_is_told_in_one_line(fake, ask, answer, words):
    server = fake(answer)
    err = one_line(ask("status"), 111)
    assert words in err and server.path in err
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", err)


@pytest.mark.parametrize("verb", ["status", *COMMANDS])
def test_who_does_not_answer_is_not_waited_for(fake, ask, verb):
    fake(...)
    name = ["x"] if verb in NAMED else []
    assert "did not answer in time" in one_line(ask(verb, "--timeout", "200ms", *name), 111)


def test_a_trickle_does_not_put_the_end_off(fake, ask, tmp_path):
    path = tmp_path / "control"
    s = socket.socket(socket.AF_UNIX)
    s.bind(str(path))
    s.listen()
    done = threading.Event()

    def trickle():
        client, _ = s.accept()
        try:
            while not done.wait(0.02):
                client.send(b" ")
        except OSError:
            pass
        client.close()

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        assert "did not answer in time" in one_line(ask("status", "--timeout", "300ms"), 111)
    finally:
        done.set()
        thread.join(PATIENCE)
        s.close()


WRONG = [
    None,
    True,
    -1,
    1.5,
    1e300,
    "text",
    "\x1b]0;x\x07\u009b",
    [],
    {},
    [None],
    {"a": {}},
    {"\x1b": 1},
    [[1]],
    [{"pid": "x"}],
]


@pytest.mark.parametrize("wrong", WRONG, ids=ascii)
def test_members_of_any_kind_do_no_harm(fake, ask, wrong):
    whole = status(service())
    fake(
        lambda line, k: {
            **status(service(**{key: wrong for key in service()})),
            **{key: wrong for key in whole if key not in ("ok", "services")},
        }
    )
    for args in ([], ["daytime"]):
        r = ask("status", *args)
        assert (r.returncode, r.stderr) == (0, b""), r
        assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f-\xff]", r.stdout)


# ---- watching


def blocks(process):
    return [b.splitlines() for b in process.stdout.split("\n\n")]


def watch(start, fake, answer, *args):
    server = fake(answer)
    return server, start("status", "--watch=100ms", "--control", server.path, *args)


def interrupt(process, number=signal.SIGINT):
    process.send(number)
    assert process.wait() == 0


def test_watch_tells_again_and_again_with_rates(fake, start):
    server, process = watch(
        start, fake, lambda line, k: status(service(accepted=1000 * k), service("echo", accepted=1000 - k))
    )
    wait_until(lambda: len(blocks(process)) > 3)
    interrupt(process)
    first, second, *_ = blocks(process)
    assert first[0].endswith(", 2026-11-21T15:00:00.000Z") and "RATE/S" in first[1]
    assert first[2].split()[5] == "-"
    rate = second[2].split()[5]
    assert 0 < float(rate.replace("k", "e3")) <= 10500  # 1,000 in at least 100 ms
    assert second[3].split()[5] == "-"  # counted backwards
    assert process.stderr == "" and "\033" not in process.stdout


def test_watch_of_one_service(fake, start):
    server, process = watch(start, fake, lambda line, k: status(service(accepted=10 * k)), "daytime")
    wait_until(lambda: len(blocks(process)) > 2)
    interrupt(process, signal.SIGTERM)
    assert "  rate      - a second" in process.stdout and re.search(
        r"^  rate      \d+\.\d a second$", process.stdout, re.M
    )
    assert set(server.asked) == {b"status daytime\n"}


def test_watch_goes_on_after_a_restart(fake, start):
    server, process = watch(start, fake, lambda line, k: status(service(accepted=500)))
    wait_until(lambda: len(blocks(process)) > 1)
    server.stop()
    wait_until(lambda: "harkd does not run" in process.stdout)
    fake(lambda line, k: status(service(accepted=700), pid=90))
    wait_until(lambda: "harkd was restarted: pid 90 in place of 71" in process.stdout)
    wait_until(lambda: process.stdout.split("restarted", 1)[1].count("RATE/S") > 1)
    interrupt(process)
    assert process.stdout.count("trying again") == 1 and process.stdout.count("restarted") == 1 and process.stderr == ""
    after = [b for b in blocks(process) if "restarted" in b[0]][0]
    assert after[3].split()[5] == "-"  # its counts began anew: no rate over both


def test_watch_goes_on_after_an_upgrade(fake, start):
    server, process = watch(
        start, fake, lambda line, k: status(service(accepted=k), **({"pid": 90, "generation": 2} if k >= 2 else {}))
    )
    wait_until(lambda: "harkd was upgraded: generation 2, pid 90, in place of 71\n" in process.stdout)
    wait_until(lambda: len(blocks(process)) > 4)
    interrupt(process)
    assert process.stdout.count("upgraded") == 1
    after = [b for b in blocks(process) if "upgraded" in b[0]][0]
    assert float(after[3].split()[5]) > 0  # the counters live on


def test_watch_goes_on_when_the_service_is_gone(fake, start):
    no = {"ok": False, "error": "no such service: daytime"}
    server, process = watch(start, fake, lambda line, k: no if k in (1, 2) else status(service()), "daytime")
    wait_until(lambda: process.stdout.count("daytime: running") > 1)
    interrupt(process)
    assert process.stdout.count("trying again: no such service: daytime") == 1


def test_watch_that_cannot_begin_ends(fake, run, ask):
    one_line(ask("status", "--watch"), 111)
    fake({"ok": False, "error": "no such service: x"})
    one_line(ask("status", "--watch", "x"), 1)


def test_watch_as_json_is_a_line_each(fake, start):
    server, process = watch(
        start, fake, lambda line, k: status(service(accepted=k), pid=90 if k >= 3 else 71), "--json"
    )
    wait_until(lambda: process.stdout.count("\n") > 4)
    interrupt(process)
    told = [json.loads(line) for line in process.stdout.splitlines()]
    assert [t["services"][0]["accepted"] for t in told] == list(range(len(told)))
    assert process.stderr == "hark: status: harkd was restarted: pid 90 in place of 71\n"


def test_watch_ends_when_nobody_reads(hark, fake):
    server = fake(status(service()))
    r, w = os.pipe()
    process = subprocess.Popen(
        [hark, "status", "--watch=100ms", "--control", server.path], stdout=w, stderr=subprocess.PIPE
    )
    os.close(w)
    assert os.read(r, 10)
    os.close(r)
    assert process.wait(PATIENCE) == 1
    assert b"standard output" in process.stderr.read()
    process.stderr.close()


def test_watch_redraws_a_terminal(hark, fake):
    server = fake(lambda line, k: status(*[service("s%d" % i) for i in range(30)], uptime_s=k))
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 60, 0, 0))
    process = subprocess.Popen(
        [hark, "status", "--watch=100ms", "--control", server.path], stdout=slave, stderr=subprocess.DEVNULL
    )
    os.close(slave)
    seen = b""
    try:
        while seen.count(b"\033[J") < 3:
            seen += os.read(master, 65536)
        server.stop()
        while b"\033[J" not in seen.partition(b"trying again")[2]:
            seen += os.read(master, 65536)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait(PATIENCE)
        os.close(master)
    screens = seen.decode().replace("\033[2J", "").split("\033[H")[1:]
    for screen in screens[:3]:
        lines = screen.replace("\033[J", "").replace("\033[K", "").splitlines()
        assert len(lines) == 9 and max(map(len, lines)) <= 60  # the last row is the cursor's
    assert seen.count(b"\033[2J") == 1 and seen.startswith(b"\033[H\033[2J")
    outage = next(s for s in screens if "trying again" in s)
    assert "s0" in outage  # the last that was known stays


# ---- the command line


@pytest.mark.parametrize(
    "args",
    [
        ["stop"],
        ["start"],
        ["stop", "a", "b"],
        ["status", "a", "b"],
        ["reload", "x"],
        ["drain", "x"],
        ["upgrade", "x"],
        ["stop", "a b"],
        ["stop", "a\nstatus"],
        ["start", ""],
        ["status", ""],
        ["stop", "x" * 64],
        ["status", "--watch=0"],
        ["status", "--watch=x"],
        ["status", "--watch=50ms"],
        ["drain", "--timeout", "0"],
        ["status", "--json=1"],
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(fake, ask, args):
    server = fake(status())
    words = one_line(ask(*args), 100)
    assert words.startswith(f"hark: {args[0]}: ") and server.asked == []


def test_completion_offers_the_services_that_run(hark, fake):
    server = fake(json.dumps(status(service("alpha"), service("beta-2"))).replace(" ", "").encode() + b"\n")
    script = pathlib.Path(__file__).resolve().parents[2] / "tool/completion/hark.bash"
    bash = 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _hark; echo "${COMPREPLY[@]}"'
    r = subprocess.run(
        ["bash", "-c", bash, script, hark, "stop", ""],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "HARKD_CONTROL": server.path},
    )
    assert (r.stdout, r.stderr) == ("alpha beta-2\n", "")
