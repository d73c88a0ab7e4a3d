"""--help, the manual and the completion agree with each other, because each is compared with the first."""
import os
import pathlib
import pty
import re
import shutil
import subprocess
import threading

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
VERBS = ["serve", "call", "ping", "daytime", "time", "users", "loggedin", "config", "import"]
VERBS += ["status", "reload", "stop", "start", "drain", "upgrade"]
PAGES = dict.fromkeys(["reload", "stop", "start", "drain", "upgrade"], "control")  # of verbs that share a page


def help_of(run, verb):
    r = run(verb, "--help")
    assert (r.returncode, r.stderr) == (0, b"")
    return r.stdout.decode()


def options_of(text):
    return set(re.findall(r"^ +(?:-\w, )?(--[\w-]+)", text, re.M))


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
    assert listed == options_of(help_of(run, verb))


@pytest.mark.parametrize("page", sorted(p.name for p in (ROOT / "man").glob("hark*.[158]")))
def test_the_manual_is_well_formed(page):
    if not shutil.which("mandoc"):
        pytest.skip("mandoc is not installed")
    r = subprocess.run(["mandoc", "-Tlint", str(ROOT / "man" / page)], capture_output=True, text=True)
    # Whether other packages' pages are there depends on the machine.
    assert [line for line in r.stdout.splitlines() if "referenced manual not found" not in line] == []


def complete(*words):
    """What bash offers for the last word."""
    script = 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _hark; printf "%s\\n" "${COMPREPLY[@]}"'
    r = subprocess.run(
        ["bash", "-c", script, str(ROOT / "tool/completion/hark.bash"), *words], capture_output=True, text=True
    )
    assert (r.returncode, r.stderr) == (0, "")
    return set(r.stdout.split())


def test_completion_knows_the_verbs():
    assert complete("hark", "") == {*VERBS, "help", "--help", "--version"}
    assert complete("hark", "da") == {"daytime"}
    assert complete("hark", "help", "") == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_completion_knows_every_option(run, verb):
    assert complete("hark", verb, "--") == options_of(help_of(run, verb))


def type_tab(line, cwd):
    """What stands on the line of an interactive bash once Tab has been pressed after it, as an argument list."""
    master, slave = pty.openpty()
    env = {**os.environ, "PS1": "", "TERM": "dumb", "INPUTRC": "/dev/null"}
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=env,
        cwd=cwd,
        start_new_session=True,
    )
    os.close(slave)
    try:
        # What was completed is run as the arguments of a function of the program's name.
        os.write(
            master, f"source {ROOT}/tool/completion/hark.bash; hark() {{ printf '<%s>' \"$@\" >got; exit; }}\n".encode()
        )
        os.write(master, line.encode() + b"\t\n")
        shown = threading.Thread(target=drain, args=(master,), daemon=True)
        shown.start()
        shell.wait(20)
        return (pathlib.Path(cwd) / "got").read_text()
    finally:
        shell.kill()
        shell.wait()
        os.close(master)


def drain(fd):
    try:
        while os.read(fd, 1000):
            pass
    except OSError:
        pass


@pytest.mark.parametrize(
    "line, result",
    [
        ("hark serv", "<serve>"),
        ("hark serve --mod", "<serve><--model>"),
        ("hark serve --model fib", "<serve><--model><fiber>"),
        ("hark serve --model=fib", "<serve><--model=fiber>"),
        ("hark serve --engine=ep", "<serve><--engine=epoll>"),
        ("hark serve unix:./sock", "<serve><unix:./socket>"),
        ("hark call unix:./sock", "<call><unix:./socket>"),
        ("hark serve tcp://127.0.0.1:0 day", "<serve><tcp://127.0.0.1:0><daytime>"),
        ("hark serve tcp://127.0.0.1:0 daytime --ni", "<serve><tcp://127.0.0.1:0><daytime><--nist>"),
        ("hark serve tcp://127.0.0.1:0 qotd --file sock", "<serve><tcp://127.0.0.1:0><qotd><--file><socket>"),
        ("hark serve tcp://127.0.0.1:0 -- printe", "<serve><tcp://127.0.0.1:0><--><printenv>"),
        ("hark serve tcp://127.0.0.1:0 -- cat sock", "<serve><tcp://127.0.0.1:0><--><cat><socket>"),
        ("hark serve tcp://127.0.0.1:0 exec printe", "<serve><tcp://127.0.0.1:0><exec><printenv>"),
        ("hark loggedin roo", "<loggedin><root>"),
    ],
)
def test_completion_in_a_real_shell(tmp_path, line, result):
    (tmp_path / "socket").touch()
    assert type_tab(line, tmp_path) == result


def test_completion_knows_the_options_of_each_box(run):
    """A box's own options follow it; those of serve do not."""
    lines = help_of(run, "serve").split("Boxes:\n")[1].splitlines()
    found = {}
    for text in lines:
        if m := re.match(r"  ([a-z]+) ", text):
            found[box := m[1]] = set()
        else:
            found[box] |= set(re.findall(r"\[(--[\w-]+)", text))
    assert len(found) >= 10
    for box, names in found.items():
        assert complete("hark", "serve", "tcp://*:7", box, "--") == names, box


def test_completion_leaves_a_programs_options_alone():
    assert complete("hark", "serve", "tcp://*:7", "--", "ls", "--") == set()
    assert complete("hark", "serve", "tcp://*:7", "exec", "--host", "ls", "--") == set()


def test_completion_knows_models_engines_and_boxes(run):
    text = help_of(run, "serve")
    assert complete("hark", "serve", "--model", "") == {"inline", "process", "thread", "fiber"}
    assert complete("hark", "serve", "--engine", "") == {"epoll", "uring", "poll"}
    boxes = set(re.findall(r"^  ([a-z]+) ", text.split("Boxes:\n")[1], re.M))
    assert len(boxes) >= 10
    assert complete("hark", "serve", "tcp://*:7", "") == boxes


@pytest.mark.parametrize(
    "args, words",
    [
        (["serv"], "no such verb: serv (did you mean serve?)"),
        (["clal"], "did you mean call?"),
        (["xyzzy"], "no such verb: xyzzy\n"),
        (["help", "dayime"], "did you mean daytime?"),
        (["--vresion"], "no such option: --vresion"),
        (["call", "--tiemout", "1", "tcp://h:1"], "no such option: --tiemout (did you mean --timeout?)"),
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
