"""hark config: what it prints, what it refuses; hark.conf(5) has every key, its value, its default, and an example that
works."""
import os
import pathlib
import pwd
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "man/hark.conf.5").read_text()

GOOD = """\
# two services
[harkd]
control = none
[defaults]
idle_timeout = 1m
[upper]
listen = tcp://127.0.0.1:0
exec = tr a-z 'A-Z'
[daytime]
listen = udp://127.0.0.1:0 tcp://127.0.0.1:0
box = daytime --nist
idle_timeout = 0
"""


@pytest.fixture
def config(run, tmp_path):
    """config(TEXT, OPTION...) → the finished process of hark config on a file with that text."""

    def config(text, *options):
        (tmp_path / "t.conf").write_text(text)
        return run("config", *options, "t.conf", cwd=tmp_path)

    return config


def keys_of(run):
    """{name: (value, default, "[harkd]", "" or the last box that has it)} as hark config --keys tells them."""
    text = run("config", "--keys").stdout.decode()
    found, whose = {}, None
    for line, after in zip(text.splitlines(), text.splitlines()[1:] + [""]):
        if line.startswith("# "):
            whose = "[harkd]" if "[harkd]" in line else "".join(re.findall(r"of the box (\w+)", line))
        elif key := re.fullmatch(r"(\w+) = (.*)", line):
            found[key[1]] = (key[2].replace("'", ""), after, whose)
    return found


def plain(text):
    """mdoc's escapes undone."""
    return text.replace(r"\(dq", '"').replace(r"\e", "\\").replace(r"\&", "")


def items():
    """(name, head, body) of each key in the page."""
    parts = re.split(r"^\.It Cm (\w+) = (.*)$", PAGE, flags=re.M)
    return list(zip(parts[1::3], parts[2::3], parts[3::3]))


def test_the_effective_configuration_is_printed_and_reads_to_itself(config):
    first = config(GOOD)
    assert (first.returncode, first.stderr) == (0, b"")
    text = first.stdout.decode()
    upper, daytime = text.split("\n[upper]\n")[1].split("\n[daytime]\n")
    assert "exec = tr a-z A-Z\n" in upper and "idle_timeout = 1m\n" in upper and "model = fiber\n" in upper
    assert "listen = udp://127.0.0.1:0\n" in daytime and "idle_timeout = 0\n" in daytime and "stdin" not in daytime
    again = config(text)
    assert (again.returncode, again.stderr, again.stdout) == (0, b"", first.stdout)


def test_check_is_silent_when_all_is_well(config):
    r = config(GOOD, "--check")
    assert (r.returncode, r.stdout, r.stderr) == (0, b"", b"")


@pytest.mark.parametrize("options", [[], ["--check"]])
def test_every_mistake_is_told_and_nothing_is_printed(config, options):
    r = config(
        "[harkd]\nlgo = syslog\n[a]\nlisten = tcp://*:7\nbox = ecko\n"
        "[b]\nlisten = *:7\nexec = /no/such\nworkers = many\n",
        *options,
    )
    assert (r.returncode, r.stdout) == (100, b"")
    assert r.stderr.decode().splitlines() == [
        "t.conf:2: no such key: lgo (did you mean log?)",
        "t.conf:5: box: no such box: ecko (did you mean echo?)",
        "t.conf:7: listen: tcp://*:7: [a] (t.conf:4) listens on tcp://*:7",
        "t.conf:8: exec: cannot run /no/such: No such file or directory",
        't.conf:9: workers: "many" is not a number from 1 to 64',
    ]


def test_warnings_do_not_fail(config):
    r = config("[s]\nlisten = tcp://127.0.0.1:0\nexec = cat # it\n", "--check")
    assert r.returncode == 0 and r.stderr.startswith(b"warning: t.conf:3: exec: ") and r.stderr.count(b"\n") == 1


def test_a_file_that_is_not_there(run, tmp_path):
    r = run("config", tmp_path / "none.conf")
    assert (r.returncode, r.stdout) == (100, b"")
    assert r.stderr.decode() == f"{tmp_path}/none.conf: No such file or directory\n"


def test_includes_are_found_from_the_files_own_directory(run, tmp_path):
    (tmp_path / "etc/more.d").mkdir(parents=True)
    (tmp_path / "etc/hark.conf").write_text("include = more.d/*.conf\n")
    for name in "ba":
        (tmp_path / f"etc/more.d/{name}.conf").write_text(f"[{name}]\nlisten = unix:@{name}\nbox = echo\n")
    r = run("config", "etc/hark.conf", cwd=tmp_path)
    assert (r.returncode, r.stderr) == (0, b"")
    assert re.findall(r"^\[(\w)\]", r.stdout.decode(), re.M) == ["a", "b"]
    (tmp_path / "etc/more.d/a.conf").write_text("[a]\nlisten = unix:@a\nbox = eco\n")
    r = run("config", "etc/hark.conf", cwd=tmp_path)
    assert r.stderr.decode() == "etc/more.d/a.conf:3: box: no such box: eco (did you mean echo?)\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="to try another user takes root")
def test_a_program_that_its_user_cannot_run(config, tmp_path):
    user = next(p.pw_name for p in pwd.getpwall() if p.pw_name == "nobody")
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o700)
    shutil.copy("/bin/true", secret / "program")
    text = f"[s]\nlisten = unix:@s\nexec = {secret}/program\n"
    assert config(text, "--check").returncode == 0
    r = config(text + f"user = {user}\n", "--check")
    assert r.returncode == 100
    assert f"t.conf:3: exec: {user} cannot run {secret}/program: Permission denied" in r.stderr.decode()


def test_output_that_cannot_be_written_is_a_failure(hark, tmp_path):
    (tmp_path / "t.conf").write_text(GOOD)
    with open("/dev/full", "w") as full:
        r = subprocess.run([hark, "config", str(tmp_path / "t.conf")], stdout=full, stderr=subprocess.PIPE)
    assert r.returncode == 1 and b"standard output" in r.stderr


@pytest.mark.parametrize("args", [["a", "b"], ["--keys", "a"], ["--chek"]])
def test_wrong_usage(run, args):
    r = run("config", *args)
    assert (r.returncode, r.stdout) == (100, b"") and r.stderr.startswith(b"hark: config: ")


def test_the_manual_has_every_key_with_value_and_default_and_nothing_else(run):
    keys = keys_of(run)
    assert len(keys) > 50
    told = {}
    for name, head, _ in items():
        value, default = re.fullmatch(r"Ar (.*?)(?: Pq Li (.*))?", head).groups()
        assert name not in told
        told[name] = (value.replace(" Ns Op : Ns Ar LIMIT", "[:LIMIT]").replace(r"\(aq", ""), default)
    assert list(told) and set(told) == set(keys)
    for name, (value, after, _) in keys.items():
        default = told[name][1]
        assert told[name][0] == value, name
        # --keys ends a summary with the default in parentheses, where there is one.
        assert after.endswith(f" ({default})") if default else not re.search(r" \([^()]*\)$", after), name


# What stands beside some key.
BESIDE = {"key": "cert = /c.pem\n", "client_cert": "client_ca = /ca.pem\n", "client_crl": "client_ca = /ca.pem\n"}


@pytest.mark.parametrize(
    "name, body", [(name, body) for name, _, body in items()], ids=[name for name, _, _ in items()]
)
def test_each_example_of_the_manual_is_taken(run, config, tmp_path, name, body):
    examples = [plain(e) for e in re.findall(r"^\.Dl (.*)$", body, re.M)]
    assert examples and all(e.startswith(f"{name} = ") for e in examples)
    whose = keys_of(run)[name][2]
    what = {"": "exec = cat", "exec": "exec = cat", "relay": "relay = tls://localhost:1"}.get(whose, f"box = {whose}")
    if name == "target_key":
        what += "\ntarget_cert = /etc/hark/relay.pem"
    for example in examples:
        # What this machine may lack is not the manual's fault.
        example = example.replace("www-data", "root").replace("staff", "root").replace("/usr/sbin/in.ftpd", "/bin/cat")
        service = "listen = unix:@s\n" if name != "listen" else ""
        service += f"{what}\n" if name not in ("exec", "box", "relay") else ""
        r = config(
            f"[harkd]\n{example}\n" if whose == "[harkd]" else f"[s]\n{service}{BESIDE.get(name, '')}{example}\n"
        )
        refused = [
            line
            for line in r.stderr.decode().splitlines()
            if not line.startswith("warning: ")
            and "needs root" not in line
            and not re.search(r"/etc/hark/\S+: No such file", line)
        ]
        assert refused == []


@pytest.mark.parametrize("number", range(5))
def test_each_file_in_the_manual_is_taken(config, number):
    shown = re.findall(r"^\.Bd -literal.*?\n(.*?)^\.Ed$", PAGE, re.M | re.S)
    assert len(shown) == 5
    r = config(plain(shown[number]), "--check")
    lacks = r"needs root|/etc/hark/\S+: No such file"
    refused = [line for line in r.stderr.decode().splitlines() if not re.search(lacks, line)]
    assert refused == []
