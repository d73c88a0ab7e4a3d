"""What the shells complete is what --help lists: bash's has lists of its own, zsh's and fish's ask the program."""
import fcntl
import os
import pathlib
import pty
import re
import shutil
import struct
import subprocess
import termios
import threading

import pytest

from test_help import VERBS, help_of, options_of

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMPLETION = ROOT / "tool" / "completion"


# ---- bash


def complete(*words):
    """What bash offers for the last word."""
    script = 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _$1; printf "%s\\n" "${COMPREPLY[@]}"'
    r = subprocess.run(["bash", "-c", script, str(COMPLETION / "hark.bash"), *words], capture_output=True, text=True)
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
        told = "printf '<%s>' \"$@\" >got; exit;"
        os.write(master, f"source {COMPLETION}/hark.bash; hark() {{ {told} }}; harkd() {{ {told} }}\n".encode())
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
        ("hark serve --first=cl", "<serve><--first=client>"),
        ("hark serve --user nobo", "<serve><--user><nobody>"),
        ("hark serve --chroot dire", "<serve><--chroot><directory>"),
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
        ("harkd --pid", "<--pid-file>"),
    ],
)
def test_completion_in_a_real_shell(tmp_path, line, result):
    (tmp_path / "socket").touch()
    (tmp_path / "directory").mkdir()
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
        assert complete("hark", "serve", "tcp://*:7", box, "--") == names | {"--help"}, box
    assert complete("hark", "serve", "tcp://*:7", "./mine.so", "--") == {"--help"}


def test_completion_leaves_a_programs_options_alone():
    assert complete("hark", "serve", "tcp://*:7", "--", "ls", "--") == set()
    assert complete("hark", "serve", "tcp://*:7", "exec", "--lookup-host", "ls", "--") == set()


def test_completion_offers_nothing_where_nothing_is_known():
    """Hosts are for the verbs that call one."""
    for verb in ("close", "reload", "drain", "upgrade"):
        assert complete("hark", verb, "") == set(), verb


def test_completion_knows_models_engines_and_boxes(run):
    text = help_of(run, "serve")
    assert complete("hark", "serve", "--model", "") == {"inline", "process", "thread", "fiber"}
    assert complete("hark", "serve", "--engine", "") == {"epoll", "uring", "poll"}
    boxes = set(re.findall(r"^  ([a-z]+) ", text.split("Boxes:\n")[1], re.M))
    assert len(boxes) >= 10
    assert complete("hark", "serve", "tcp://*:7", "") == boxes


# ---- harkd


@pytest.fixture
def harkd_options(hark):
    r = subprocess.run([hark + "d", "--help"], capture_output=True, text=True, check=True)
    return options_of(r.stdout)


def test_completion_knows_every_option_of_harkd(harkd_options):
    assert complete("harkd", "--") == harkd_options
    assert complete("harkd", "--config", "") == set()  # a file


# ---- fish


@pytest.fixture
def fish(hark, tmp_path):
    """fish("hark serv") → what is offered for the last word of that line, without descriptions."""
    if not shutil.which("fish"):
        pytest.skip("fish is not installed")
    environment = dict(os.environ, HOME=str(tmp_path), PATH=f"{os.path.dirname(hark)}:{os.environ['PATH']}")

    def fish(line):
        script = f"source {COMPLETION}/hark.fish; source {COMPLETION}/harkd.fish; complete -C '{line}'"
        r = subprocess.run(["fish", "-N", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert (r.returncode, r.stderr) == (0, "")
        return {offered.split("\t")[0] for offered in r.stdout.splitlines()}

    return fish


def test_fish_knows_verbs_and_options(fish, run, harkd_options):
    assert set(VERBS) <= fish("hark ")
    for verb in ("serve", "call", "status"):
        assert fish(f"hark {verb} --") == options_of(help_of(run, verb))
    assert fish("harkd --") == harkd_options


def test_fish_knows_boxes_and_their_options(fish):
    assert {"echo", "daytime", "exec"} <= fish("hark serve tcp://*:7 ")
    assert fish("hark serve tcp://*:7 daytime --") == {"--nist", "--any-port", "--answers", "--help"}
    assert fish("hark serve tcp://*:7 ./mine.so --") == {"--help"}
    assert fish("hark serve tcp://*:7 -- ls --") == set()
    assert "printenv" in fish("hark serve tcp://*:7 exec printe")
    assert fish("hark serve --model f") == {"fiber"}
    assert fish("hark serve --first s") == {"server"}
    assert "nobody" in fish("hark serve --socket-user no")
    assert fish("hark import --format x") == {"xinetd"}
    assert fish("hark close ") == set()


# ---- zsh


@pytest.fixture
def zsh(hark, tmp_path):
    """zsh("hark serv") → the words that stand on that line once Tab has been pressed."""
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed")
    (tmp_path / "socket").touch()
    (tmp_path / ".zshrc").write_text(
        f"fpath=({COMPLETION} $fpath); autoload -U compinit; compinit -u -D; bindkey -e; PS1='ready> '; LISTMAX=1000\n"
    )

    def zsh(line):
        environment = dict(os.environ, ZDOTDIR=str(tmp_path), TERM="vt100")
        environment["PATH"] = f"{os.path.dirname(hark)}:{os.environ['PATH']}"
        got = tmp_path / "got"
        got.unlink(missing_ok=True)
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 100, 200, 0, 0))
        shell = subprocess.Popen(
            ["zsh", "-d", "-i"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            cwd=tmp_path,
            start_new_session=True,
        )
        os.close(slave)
        try:
            shown = threading.Thread(target=drain, args=(master,), daemon=True)
            shown.start()
            # To the line's begin and end again: what was completed becomes the arguments of printf.
            os.write(master, line.encode() + b"\t\x01printf '<%s>' \x05 >got; exit\n")
            shell.wait(20)
            return re.findall("<([^>]*)>", got.read_text())
        finally:
            shell.kill()
            shell.wait()
            os.close(master)

    return zsh


@pytest.mark.parametrize(
    "line, word",
    [
        ("hark serv", "serve"),
        ("hark serve --mod", "--model"),
        ("hark serve --model fib", "fiber"),
        ("hark serve tcp://127.0.0.1:0 dayt", "daytime"),
        ("hark serve tcp://127.0.0.1:0 daytime --ni", "--nist"),
        ("hark serve tcp://127.0.0.1:0 ./mine.so --he", "--help"),
        ("hark serve --user nob", "nobody"),
        ("hark serve tcp://127.0.0.1:0 -- printe", "printenv"),
        ("hark serve tcp://127.0.0.1:0 -- cat sock", "socket"),
        ("hark status --wat", "--watch"),
        ("harkd --pid", "--pid-file"),
        ("harkd -c sock", "socket"),
    ],
)
def test_zsh_completes(zsh, line, word):
    assert zsh(line)[-1] == word
