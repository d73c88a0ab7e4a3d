"""--help and the manual agree with each other; test_completion.py compares the shells' completion with the first."""
import os
import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
VERBS = ["serve", "call", "ping", "daytime", "time", "users", "loggedin", "config", "import"]
VERBS += ["status", "connections", "close", "cert", "reload", "stop", "start", "drain", "upgrade"]
PAGES = dict.fromkeys(["reload", "stop", "start", "drain", "upgrade"], "control")  # of verbs that share a page
PAGES["close"] = "connections"


def help_of(run, verb):
    r = run(verb, "--help")
    assert (r.returncode, r.stderr) == (0, b"")
    return r.stdout.decode()


def options_of(text):
    return set(re.findall(r"^ +(?:-\w, )?(--[\w-]+)", text.split("\nBoxes:\n")[0], re.M))


def test_a_timeout_has_one_word_over_all_verbs(run):
    text = {verb: help_of(run, verb) for verb in VERBS}
    has = {verb: {o for o in options_of(text[verb]) if re.search("timeout|lifetime|idle$", o)} for verb in VERBS}
    asks = {"ping", "daytime", "time", "users", "loggedin", "status", "connections", "close", "cert"}
    asks |= {"reload", "stop", "start", "drain", "upgrade"}
    assert {verb for verb in VERBS if "--timeout" in has[verb]} == asks
    assert has["call"] == {"--connect-timeout", "--idle-timeout"}
    # TCP_USER_TIMEOUT is the kernel's word.
    words = {"--idle-timeout", "--user-timeout", "--lifetime", "--proxy-timeout", "--tls-handshake-timeout"}
    assert has["serve"] == words
    assert "[--connect-timeout T]" in text["serve"]  # the relay's
    for verb, words in (("call", "--connect-timeout T, -w"), ("serve", "--idle-timeout T")):
        r = run(verb, "--timeout", "1", "tcp://127.0.0.1:1", "echo")
        assert r.returncode == 100 and words in r.stderr.decode()


def test_the_list_of_verbs_is_whole(run):
    r = run("--help")
    assert (r.returncode, r.stderr) == (0, b"")
    assert re.findall(r"^  ((?!hark )\w+) +[A-Z]", r.stdout.decode(), re.M) == VERBS
    assert r.stdout == run("help").stdout == run("-h").stdout


def test_version(run):
    header = (ROOT / "include/hark.h").read_text()
    version = re.search(r'#define HARK_VERSION "(.+)"', header)[1]
    for option in ("--version", "-V"):
        r = run(option)
        assert (r.returncode, r.stdout.decode()) == (0, f"hark {version}\n")


def test_nothing_is_asked_for(run):
    r = run()
    assert r.returncode == 100 and r.stdout == b"" and r.stderr.startswith(b"usage: hark VERB")


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help(run, verb):
    text = help_of(run, verb)
    assert text.startswith(f"usage: hark {verb} [OPTION]... ")
    assert "--help" in options_of(text)
    assert run("help", verb).stdout.decode() == text == run(verb, "-h").stdout.decode()
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_in_the_manual_and_nothing_else(run, verb):
    page = (ROOT / f"man/hark-{PAGES.get(verb, verb)}.1").read_text()
    listed = set()
    for line in re.findall(r"^\.It (Fl .*)$", page, re.M):
        listed |= {"--" + name for name in re.findall(r"(?:Fl |, )-([a-z][\w-]+)", line)}
    sharing = [v for v in VERBS if PAGES.get(v, v) == PAGES.get(verb, verb)]
    assert listed == set().union(*(options_of(help_of(run, v)) for v in sharing))


@pytest.mark.parametrize("page", sorted(p.name for p in (ROOT / "man").glob("hark*.[158]")))
def test_the_manual_is_well_formed(page):
    if not shutil.which("mandoc"):
        pytest.skip("mandoc is not installed")
    r = subprocess.run(["mandoc", "-Tlint", str(ROOT / "man" / page)], capture_output=True, text=True)
    # Whether other packages' pages are there depends on the machine.
    assert [line for line in r.stdout.splitlines() if "referenced manual not found" not in line] == []


def test_the_manual_of_hark_refers_to_every_page():
    """And that of what its verbs command to theirs: each is found from hark(1)."""
    page = (ROOT / "man/hark.1").read_text()
    referred = set(re.findall(r"^\.Xr (\S+ \d)", page.split(".Sh SEE ALSO")[1], re.M))
    assert referred == {
        p.name.replace(".", " ") if p.name != "hark.conf.5" else "hark.conf 5"
        for p in (ROOT / "man").glob("hark*.[1-8]")
    } - {"hark 1"}


@pytest.mark.parametrize(
    "args, words",
    [
        (["serv"], "no such verb: serv (did you mean serve?)"),
        (["clal"], "did you mean call?"),
        (["xyzzy"], "no such verb: xyzzy\n"),
        (["help", "dayime"], "did you mean daytime?"),
        (["--vresion"], "no such option: --vresion"),
        (["call", "--conect-timeout", "1", "tcp://h:1"], "--conect-timeout (did you mean --connect-timeout?)"),
        (["call", "--help=1"], "--help takes no value"),
        (["ping", "--xyzzy", "h"], "no such option: --xyzzy\n"),
    ],
)
def test_the_nearest_name_is_suggested(run, args, words):
    r = run(*args)
    assert r.returncode == 100 and r.stdout == b"" and r.stderr.count(b"\n") == 1
    assert words in r.stderr.decode()


def test_help_that_cannot_be_written_is_a_failure(hark):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        r = subprocess.run([hark, "--help"], stdout=full, stderr=subprocess.PIPE)
    assert r.returncode == 1 and b"standard output" in r.stderr


def test_control_characters_of_arguments_are_not_repeated(run):
    r = run("\x1b[31mred\n")
    assert r.returncode == 100 and b"\x1b" not in r.stderr and r.stderr.count(b"\n") == 1
