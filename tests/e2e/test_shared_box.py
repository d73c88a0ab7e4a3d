"""A box of one's own: a shared object, for hark serve and harkd, loaded by the user that serves."""
import contextlib
import os
import pathlib
import pwd
import re
import resource
import shutil
import socket
import subprocess
import tempfile

import pytest

from conftest import MODELS, PATIENCE, wait_until
from harkd_support import free_port, harkd, sanitized  # noqa: F401

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("HARK_BUILD", ROOT / "build")).resolve()
UPPER = BUILD / "examples" / "box_upper.so"

ROW = """#include <stdio.h>
#include <unistd.h>
#include "hark.h"
static void serve(struct hark_conn *c, void *arg) { (void)arg; hark_printf(c, "%d\\n", (int)geteuid()); }
"""


@pytest.fixture
def build():
    """build(ROW'S FIELDS, MORE CODE) compiles a box that everybody can load; its path. No fields: the code is all."""
    if not shutil.which("cc"):
        pytest.skip("no compiler is here")
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)

        def build(fields, more=""):
            source, shared = pathlib.Path(directory, "mine.c"), pathlib.Path(directory, "mine.so")
            row = f"const struct hark_box_row hark_box_row = {{{fields}}};\n"
            source.write_text(more if fields is None else ROW + more + row)
            command = ["cc", "-shared", "-fPIC", f"-I{ROOT}/include", "-o", f"{shared}.new", source]
            subprocess.run(command, check=True, timeout=PATIENCE)
            return pathlib.Path(f"{shared}.new").rename(shared)

        yield build


RATE = 'static const struct hark_option options[] = {{"rate", HARK_OPTION_FLAG, 0, .help = "x"}, {NULL}};\n'
GOOD = '.version = HARK_BOX_VERSION, .name = "mine", .summary = "x", .stream = true, .serve = serve'
RATED = GOOD + ", .options = options, .state_bytes = sizeof(struct state)"


def talk(address, said):
    host, port = re.fullmatch(r"tcp://(.*):(\d+)", address).groups()
    with socket.create_connection((host, int(port)), PATIENCE) as s:
        s.sendall(said)
        s.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: s.recv(4096), b""))


@pytest.mark.parametrize("model", MODELS)
def test_hark_serve_loads_a_box_and_gives_it_its_options(serve, model):
    server = serve("--model", model, "tcp://127.0.0.1:0", str(UPPER), "--greeting=hello", "--lines", "2")
    assert talk(server.addresses[0], b"one\ntwo\nthree\n") == b"hello\r\nONE\nTWO\n"


def test_the_box_of_the_manual_page_is_one(serve, build):
    page = (ROOT / "man" / "hark-box.7").read_text()
    code = page[page.index("#include <ctype.h>") : page.index("\n.Ed\n", page.index("#include <ctype.h>"))]
    upper = build(None, code)
    server = serve("tcp://127.0.0.1:0", str(upper), "--lines", "2")
    assert talk(server.addresses[0], b"one\ntwo\nthree\n") == b"ONE\nTWO\n"


def test_a_relative_path_is_meant_from_where_hark_was_started(serve):
    server = serve("--directory", "/", "tcp://127.0.0.1:0", "./box_upper.so", cwd=UPPER.parent)
    assert talk(server.addresses[0], b"one\n") == b"ONE\n"


@pytest.mark.parametrize(
    "fields, more, words",
    [
        (GOOD.replace("HARK_BOX_VERSION", "99"), "", "a box of version 99; this is version 1"),
        (GOOD.replace(".serve = serve", ".serve = NULL"), "", "no serve()"),
        (GOOD.replace(".stream = true", ".stream = false"), "", "serves neither streams nor datagrams"),
        (
            GOOD + ", .open = no",
            "static int no(void *s, struct hark_why *w)\n"
            '{ (void)s; snprintf(w->text, sizeof w->text, "not today"); return -13; }\n',
            "mine: not today",
        ),
        (
            GOOD + ", .options = options, .state_bytes = 9",
            'static const struct hark_option options[] = {{"n", HARK_OPTION_NUMBER, 8, "N", "x"}, {NULL}};\n',
            "its options are not such as this version knows",
        ),
    ],
)
def test_a_box_that_cannot_be_one_is_refused_with_the_reason(run, build, fields, more, words):
    r = run("serve", "tcp://127.0.0.1:0", str(build(fields, more)))
    assert r.returncode != 0 and words in r.stderr.decode() and r.stdout == b""


CLOSE = """#include <fcntl.h>
static void end(void *s) { (void)s; close(open("%s", O_CREAT | O_WRONLY, 0600)); }
"""


@pytest.mark.parametrize("model", MODELS)
def test_harkd_closes_a_box_when_it_has_served(harkd, build, tmp_path, model):
    shared = build(GOOD + ", .close = end", CLOSE % (tmp_path / "closed"))
    d = harkd(f"[mine]\nlisten = tcp://127.0.0.1:0\nbox = {shared}\nmodel = {model}\n")
    with d.connect("mine") as s:
        assert s.recv(100)
    (tmp_path / "closed").unlink(missing_ok=True)  # of the look at it
    assert d.stop() == 0, d.stderr
    assert (tmp_path / "closed").exists()


def test_a_box_that_still_serves_is_not_closed(serve, build, tmp_path):
    busy = (
        CLOSE % (tmp_path / "closed") + "static void busy(struct hark_conn *c, void *s) { serve(c, s); sleep(60); }\n"
    )
    shared = build(GOOD.replace("= serve", "= busy") + ", .close = end", busy)
    server = serve("--model", "thread", "--grace", "10ms", "tcp://127.0.0.1:0", str(shared))
    host, port = re.fullmatch(r"tcp://(.*):(\d+)", server.addresses[0]).groups()
    with socket.create_connection((host, int(port)), PATIENCE) as s:
        s.sendall(b"x")
        wait_until(lambda: len(list(pathlib.Path(f"/proc/{server.process.pid}/task").iterdir())) > 1)
        assert server.stop() == 1
    assert not (tmp_path / "closed").exists()


def test_a_box_without_a_title_has_its_name(serve, build):
    shared = build(GOOD + ", .title = none", "static const char *none(const void *s) { (void)s; return NULL; }\n")
    server = serve("-v", "tcp://127.0.0.1:0", str(shared))
    assert talk(server.addresses[0], b"")
    assert server.stop() == 0 and " mine " in server.stderr


# Looks for a secret on the heap, the stack and in the environment; the search itself has it otherwise.
SEARCH = """#include <stdlib.h>
#include <string.h>
void *memmem(const void *, size_t, const void *, size_t);
static int search(void *state, struct hark_why *why) {
	char line[300], mode[5], secret[] = "-HUSH-hush-HUSH";
	unsigned long from, to;
	int n = 0;
	secret[0] = 'x'; /* not what the others have: it is looked for from its second byte on */
	FILE *maps = fopen("/proc/self/maps", "r");
	while (maps != NULL && fgets(line, sizeof line, maps) != NULL)
		if (sscanf(line, "%lx-%lx %4s", &from, &to, mode) == 3 && mode[0] == 'r' &&
		    (strstr(line, "[heap]") != NULL || strstr(line, "[stack]") != NULL))
			for (const char *at = (const char *)from; at != NULL; at++) {
				at = memmem(at, to - (unsigned long)at, secret + 1, 14);
				if (at == NULL)
					break;
				n += at[-1] != 'x';
			}
	(void)state;
	snprintf(why->text, sizeof why->text, "%d secrets, %s", n, getenv("OURS") != NULL ? "environment" : "none");
	return -EINVAL;
}
"""


@sanitized
def test_a_box_that_is_tried_finds_nobody_elses_secret(hark, build, tmp_path):
    shared = build(GOOD + ", .open = search", "#include <errno.h>\n" + SEARCH)
    (tmp_path / "t.conf").write_text(
        f"[a]\nlisten = tcp://127.0.0.1:0\nexec = cat\nenv = PASS=-HUSH-hush-HUSH\n"
        f"[s]\nlisten = tcp://127.0.0.1:0\nbox = {shared}\n"
    )
    command = [pathlib.Path(hark).parent / "harkd", "-t", "-c", tmp_path / "t.conf"]
    env = {**os.environ, "OURS": "-HUSH-hush-HUSH"}
    r = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=env)
    assert r.returncode == 100 and "0 secrets, none" in r.stderr, r.stderr


@pytest.mark.parametrize(
    "args, words",
    [
        (["/no/such.so"], "/no/such.so: No such file or directory"),
        (["/etc/passwd"], "cannot load /etc/passwd"),
        ([str(UPPER), "--lnes", "1"], "no such option: --lnes (did you mean --lines?)"),
        ([str(UPPER), "--lines", "x"], '--lines: "x" is not a number'),
        ([str(UPPER), "more"], "unexpected argument: more"),
    ],
)
def test_what_cannot_be_loaded_is_told(run, args, words):
    r = run("serve", "tcp://127.0.0.1:0", *args)
    assert r.returncode != 0 and words in r.stderr.decode()


def test_a_box_says_what_it_serves(run):
    r = run("serve", "udp://127.0.0.1:0", str(UPPER))
    assert r.returncode == 100 and "the box upper serves streams alone" in r.stderr.decode()


def test_harkd_loads_a_box_whose_options_are_keys(harkd):
    d = harkd(f"[upper]\nlisten = tcp://127.0.0.1:0\nbox = {UPPER}\ngreeting = good day\nlines = 1\n")
    with d.connect("upper") as s:
        s.sendall(b"one\ntwo\n")
        s.shutdown(socket.SHUT_WR)
        assert b"".join(iter(lambda: s.recv(4096), b"")) == b"good day\r\nONE\n"
    wait_until(lambda: " upper " in d.stderr)
    assert d.stop() == 0, d.stderr


def test_an_option_on_the_line_and_as_a_key_is_an_error(hark, tmp_path):
    (tmp_path / "t.conf").write_text(f"[s]\nlisten = tcp://127.0.0.1:0\nbox = {UPPER} --lines 2\nlines = 1\n")
    command = [pathlib.Path(hark).parent / "harkd", "-t", "-c", tmp_path / "t.conf"]
    r = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (
        r.returncode == 100 and "t.conf:3: box: --lines stands on the line and as a key: one of them" in r.stderr
    ), r.stderr


def test_a_new_file_is_loaded_by_the_next_worker(harkd, build):
    def said():
        with d.connect("mine") as s:
            return s.recv(100)

    shared = build(GOOD)
    d = harkd(f"[mine]\nlisten = tcp://127.0.0.1:0\nbox = {shared}\n")
    old = said()
    other = "static void other(struct hark_conn *c, void *arg) { (void)arg; hark_printf(c, \"new\\n\"); }\n"
    build(GOOD.replace("= serve", "= other"), other)
    for verb, want in [("reload", old), ("stop mine", None), ("start mine", b"new\n")]:
        assert d.ask(verb)["ok"]
        assert want is None or said() == want
    assert d.stop() == 0, d.stderr


def test_a_box_is_loaded_by_the_services_user(harkd, build):
    if os.geteuid() != 0:
        pytest.skip("to be another user takes root")
    loaded = "__attribute__((constructor)) static void loaded(void) { if (geteuid() == 0) _exit(77); }\n"
    d = harkd(f"[mine]\nlisten = tcp://127.0.0.1:0\nbox = {build(GOOD, loaded)}\nuser = nobody\n")
    with d.connect("mine") as s:
        assert int(s.recv(100)) == pwd.getpwnam("nobody").pw_uid
    assert d.stop() == 0, d.stderr


SESSION = """static void session(struct hark_conn *c, void *arg) {
	char buf[16];
	if (hark_udp_connect(c) == 0)
		while (hark_read(c, buf, sizeof buf) > 0 && hark_write(c, "ok", 2) == 2 && hark_flush(c) == 0);
	(void)arg;
}
"""
SESSIONS = GOOD.replace(".stream", ".datagram").replace("= serve", "= session") + ", .sessions = true"


@contextlib.contextmanager
def sources(port, n):
    """So many sources of one host, which each have asked, the first two once the one before was answered."""
    with contextlib.ExitStack() as stack:
        all_of_them = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(n)]
        for s in all_of_them:
            s.connect(("127.0.0.1", port))
            s.settimeout(PATIENCE if s in all_of_them[:2] else 0.2)
            s.send(b"x")
            if s in all_of_them[:2]:
                assert s.recv(16) == b"ok"
        yield all_of_them[2:]


def test_a_box_with_sessions_has_their_limit(serve, harkd, build):
    shared = build(SESSIONS, SESSION)
    d = harkd(f"[mine]\nlisten = udp://127.0.0.1:0\nbox = {shared}\nmax_sessions_per_source = 2\ngrace = 10ms\n")
    with sources(d.port("mine"), 4):
        wait_until(lambda: d.service("mine")["refused"]["max_sessions_per_source"] == 2)
    server = serve("-v", "--grace", "10ms", "--max-sessions-per-source", "2", "udp://127.0.0.1:0", str(shared))
    with sources(int(server.addresses[0].rsplit(":", 1)[1]), 4) as refused:
        wait_until(lambda: server.stderr.count("refused: max_sessions_per_source") == 2)
        for s in refused:
            with pytest.raises(TimeoutError):
                s.recv(16)


STARTS = """#include <stdlib.h>
static void starts(struct hark_conn *c, void *arg) { (void)system("echo $(ulimit -S -n) files >&2"); serve(c, arg); }
"""


@pytest.mark.parametrize("hands_over, said", [(True, "harkd: mine: 300 files\n"), (False, "^1024 files\n")])
def test_a_box_that_starts_programs_has_what_they_say_logged_and_their_limit_of_files(harkd, build, hands_over, said):
    fields = GOOD.replace("= serve", "= starts") + (", .hands_over = true" if hands_over else "")
    few = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (300, 1024))}
    d = harkd(f"[mine]\nlisten = tcp://127.0.0.1:0\nbox = {build(fields, STARTS)}\n", **few)
    with d.connect("mine") as s:
        assert s.recv(100)
    wait_until(lambda: re.search(said, d.stderr, re.M))
    assert d.stop() == 0, d.stderr


@pytest.mark.parametrize(
    "fields, more, key, words",
    [
        (GOOD.replace("HARK_BOX_VERSION", "2"), "", "", "a box of version 2"),
        (RATED, "struct state { bool rate; };\n" + RATE, "", "its option --rate is a key of every service"),
        (
            GOOD,
            "__attribute__((constructor)) static void dies(void) { _exit(3); }\n",
            "",
            "could not be tried: the process that tried has died",
        ),
    ],
)
def test_harkd_t_looks_at_a_box_in_a_child(hark, build, tmp_path, fields, more, key, words):
    (tmp_path / "t.conf").write_text(f"[s]\nlisten = tcp://127.0.0.1:0\nbox = {build(fields, more)}\n{key}\n")
    r = subprocess.run(
        [pathlib.Path(hark).parent / "harkd", "-t", "-c", tmp_path / "t.conf"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert r.returncode == 100 and re.search(rf"t\.conf:3: box: .*{re.escape(words)}", r.stderr), r.stderr


TYPED = """struct state { int64_t lines; const char *file; bool loud; };
static const struct hark_option options[] = {
	{"lines", HARK_OPTION_NUMBER, offsetof(struct state, lines), "N", "x"},
	{"log-file", HARK_OPTION_PATH, offsetof(struct state, file), "FILE", "x"},
	{"loud", HARK_OPTION_FLAG, offsetof(struct state, loud), .help = "x"},
	{NULL},
};
"""


def test_what_is_wrong_with_its_keys_is_told_at_their_own_lines(hark, build, tmp_path):
    shared = build(RATED, TYPED)
    (tmp_path / "t.conf").write_text(
        f"[s]\nlnes = 1\nlines = many\nlog_file = here\nmax_cons = 5\nloud = yes\nlogfile =\nlog-file = /x\n"
        f"listen = tcp://127.0.0.1:0 udp://127.0.0.1:1\nbox = {shared}\n"
    )
    command = [pathlib.Path(hark).parent / "harkd", "-t", "-c", tmp_path / "t.conf"]
    r = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert r.returncode == 100 and [line.split("t.conf:")[1] for line in r.stderr.splitlines()] == [
        "2: no such key: lnes (did you mean lines?)",
        '3: lines: "many" is not a number from 0 to 9223372036854775807',
        '4: log_file: "here" is not an absolute path',
        "5: no such key: max_cons (did you mean max_conns?)",
        "7: no such key: logfile (did you mean log_file?)",
        "8: no such key: log-file (did you mean log_file?)",
    ], r.stderr
    (tmp_path / "t.conf").write_text(f"[s]\nlisten = tcp://127.0.0.1:0\nlisten = udp://127.0.0.1:1\nbox = {shared}\n")
    r = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert r.returncode == 100 and "t.conf:3: listen: udp://127.0.0.1:1: mine serves no datagrams" in r.stderr


def test_a_mistyped_key_that_a_reload_brings_is_told_by_the_worker_that_cannot_start(harkd):
    echo = "[echo]\nlisten = tcp://127.0.0.1:0\nbox = echo\n"
    d = harkd(echo)
    d.configure(echo + f"[upper]\nlisten = tcp://127.0.0.1:0\nbox = {UPPER}\ngreting = good day\n")
    answer = d.ask("reload")
    assert not answer["ok"] and re.search(r":11: no such key: greting \(did you mean greeting\?\)", str(answer))
    assert d.workers("echo")


# Forges what the look at a box reports: struct report of config/check.c.
FORGE = """#include <string.h>
__attribute__((constructor)) static void forge(void) {
	struct { int step, error, at; struct hark_why why; } report = {%d, %d, 0, {"a\\033[2J\\302\\2332J\\nb"}};
	_exit(write(3, &report, sizeof report) != sizeof report);
}
"""


@pytest.mark.parametrize(
    "step, error, words",
    [
        (5, 22, r"box: a\?\[2J\?+2J\?b\n"),
        (77, 0, "could not be tried: the process that tried has written nonsense"),
        (5, -(2**31), "could not be tried: the process that tried has written nonsense"),
        (1, 2, "could not be tried: the process that tried has written nonsense"),
        (7, 22, "could not be tried: the process that tried has written nonsense"),
        (8, 22, "could not be tried: the process that tried has died"),
    ],
)
def test_a_report_that_a_box_has_forged_is_refused_and_its_words_are_cleaned(hark, build, tmp_path, step, error, words):
    shared = build(GOOD, FORGE % (step, error))
    (tmp_path / "t.conf").write_text(f"[s]\nlisten = tcp://127.0.0.1:0\nbox = {shared}\n")
    command = [pathlib.Path(hark).parent / "harkd", "-t", "-c", tmp_path / "t.conf"]
    r = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert r.returncode == 100 and re.search(rf"t\.conf:3: box: .*{words}|t\.conf:3: {words}", r.stderr), r.stderr


def test_help_tells_what_a_box_takes_and_serves_nothing(run, build):
    r = run("serve", "tcp://127.0.0.1:0", str(UPPER), "--help")
    assert r.returncode == 0 and r.stderr == b""
    lines = r.stdout.decode().splitlines()
    assert lines[0] == f"usage: hark serve [OPTION]... ADDRESS... {UPPER} [BOX OPTION]..."
    assert lines[1] == "sends each line back in upper case."
    assert any(re.fullmatch(r" +\[--lines NUMBER\] +.* \(0\)", line) for line in lines)
    for name in ["exec", "echo", "discard"]:
        ours = run("serve", name, "--help")
        assert ours.returncode == 0 and f"ADDRESS... {name}" in ours.stdout.decode()
    bad = run("serve", str(build(GOOD.replace("HARK_BOX_VERSION", "2"))), "--help")
    assert bad.returncode == 111 and "a box of version 2" in bad.stderr.decode() and bad.stdout == b""


def test_help_loads_a_box_as_the_user_that_would_serve_it(run, build):
    if os.geteuid() != 0:
        pytest.skip("to be another user takes root")
    loaded = "__attribute__((constructor)) static void loaded(void) { if (geteuid() == 0) _exit(77); }\n"
    r = run("serve", "--user", "nobody", "tcp://127.0.0.1:0", str(build(GOOD, loaded)), "--help")
    assert r.returncode == 0 and b"ADDRESS..." in r.stdout


def test_a_box_without_an_address_is_told(run):
    r = run("serve", str(UPPER))
    assert r.returncode == 100 and "no address to listen on" in r.stderr.decode()


RENEWING = """
struct state { const char *file; char text[16]; };
static const struct hark_option options[] = {
	{"file", HARK_OPTION_PATH, offsetof(struct state, file), "FILE", "what it says"}, {NULL}};
static int take(void *state, struct hark_why *why)
{
	struct state *s = state;
	FILE *f = fopen(s->file, "r");
	if (f == NULL) {
		snprintf(why->text, sizeof why->text, "no file");
		return -2;
	}
	(void)!fgets(s->text, sizeof s->text, f);
	return fclose(f);
}
static void tell(struct hark_conn *c, void *s) { hark_printf(c, "%s", ((struct state *)s)->text); }
"""


@pytest.mark.parametrize("by_harkd", [True, False], ids=["harkd", "hark-serve"])
def test_a_box_reads_files_again_that_have_changed(serve, harkd, build, by_harkd):
    shared = build(RATED.replace("= serve", "= tell") + ", .prepare = take, .renew = take", RENEWING)
    file = shared.with_suffix(".text")
    file.write_text("one")
    if by_harkd:
        server = harkd(f"[mine]\nlisten = tcp://127.0.0.1:0\nbox = {shared}\nfile = {file}\nuser = nobody\n")
        address = server.service("mine")["listen"][0]
    else:
        server = serve("-v", "tcp://127.0.0.1:0", str(shared), "--file", file)
        address = server.addresses[0]
    before = server.workers("mine") if by_harkd else None
    assert talk(address, b"") == b"one"
    file.unlink()
    wait_until(
        lambda: talk(address, b"") == b"one" and "not read again, and the old ones go on: no file" in server.stderr
    )
    file.write_text("two")
    wait_until(lambda: talk(address, b"") == b"two")
    assert before is None or server.workers("mine") == before


SLOW = """
static void slow(struct hark_conn *c, void *arg)
{
	(void)arg;
	hark_sleep(2 * HARK_S);
	hark_printf(c, "late");
}
"""


def test_a_udp_service_starts_anew_while_an_answer_is_due(harkd, build):
    shared = build(GOOD.replace("= serve", "= slow").replace(".stream", ".datagram"), SLOW)
    at = ("127.0.0.1", free_port(socket.SOCK_DGRAM))
    d = harkd(f"[mine]\nlisten = udp://127.0.0.1:{at[1]}\nbox = {shared}\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as t:
        for each in s, t:
            each.settimeout(PATIENCE)
            each.connect(at)
        s.send(b"?")
        wait_until(lambda: d.service("mine")["now"] == 1)
        assert d.ask("stop mine") == {"ok": True}
        assert d.ask("start mine") == {"ok": True}
        t.send(b"?")
        assert s.recv(100) == t.recv(100) == b"late"
