"""hark import: files of other super-servers in, hark.conf out."""
import json
import os
import re
import stat

import pytest

CLASSIC = """\
# inetd.conf
daytime stream tcp nowait root internal
daytime dgram udp wait root internal
7000 stream tcp nowait.40 root /bin/cat cat -u
rusersd/2-3 dgram rpc/udp wait root /usr/libexec/rpc.rusersd rpc.rusersd
"""


@pytest.fixture
def conf(tmp_path):
    """conf(text) is a file's path with that text in it."""

    def conf(text, name="inetd.conf"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return conf


def test_inetd_conf_becomes_hark_conf(run, conf):
    path = conf(CLASSIC)
    r = run("import", path)
    assert (r.returncode, r.stderr) == (0, b"")
    text = r.stdout.decode()
    assert text.startswith(
        f"# imported from {path} (inetd)\n# {path}:5: not carried over: service rusersd/2-3: Sun RPC"
    )
    assert f"\n[daytime]\n# {path}:2\nlisten = tcp://*:daytime udp://*:daytime\nbox = daytime\n" in text
    assert (
        f"\n[port-7000]\n# {path}:4\nlisten = tcp://*:7000\nexec = /bin/cat -u\nstderr = connection\n"
        "user = root\nrate = 40/m\n"
    ) in text
    assert text.endswith("\n")


def test_what_is_printed_is_a_configuration_without_an_error(run, conf, tmp_path):
    r = run("import", conf(CLASSIC))
    out = tmp_path / "hark.conf"
    out.write_bytes(r.stdout)
    r = run("config", "--check", out)
    assert (r.returncode, r.stderr) == (0, b"")


def test_arguments_come_through_whole(run, conf, tmp_path):
    words = ["a b", "it's", ';#', '"', "\\", "$HOME", "\\n", "\u00e4"]
    quoted = " ".join(f"'{w}'" if "'" not in w else f'"{w}"' for w in words)
    out = tmp_path / "hark.conf"
    r = run("import", "-o", out, conf(f"7000 stream tcp nowait root /bin/cat cat {quoted}\n"))
    assert (r.returncode, r.stdout, r.stderr) == (0, b"", b"")
    effective = run("config", out).stdout.decode()
    line = re.search(r"^exec = /bin/cat (.*)$", effective, re.M)[1]
    assert line == '"a b" "it\'s" ";#" "\\"" "\\\\" $HOME "\\\\n" \u00e4'


def test_check_tells_errors_by_the_line_that_was_imported(run, conf):
    path = conf(
        "\n7000 stream tcp nowait root /no/such/program program\n7001 stream tcp nowait nobodyatall /bin/cat cat\n"
    )
    r = run("import", "--check", path)
    assert (r.returncode, r.stdout) == (1, b"")
    told = r.stderr.decode().splitlines()
    assert [line for line in told if line.startswith(f"{path}:2: ") and "/no/such/program" in line]
    assert [line for line in told if line.startswith(f"{path}:3: ") and "nobodyatall" in line]
    assert run("import", path).returncode == 0


def test_check_is_quiet_where_all_is_well(run, conf):
    r = run("import", "--check", conf(CLASSIC))
    assert (r.returncode, r.stdout, r.stderr) == (0, b"", b"")


def test_another_argv0_is_taken(run, conf):
    path = conf("7000 stream tcp nowait root /bin/cat -kitty -u\n7001 stream tcp nowait root /bin/cat 'a b'\n")
    r = run("import", "--check", "--output", "/dev/stdout", path)
    assert (r.returncode, r.stderr) == (0, b"")
    assert "box = exec --argv0 -kitty /bin/cat -u\n" in r.stdout.decode()


def test_two_services_on_one_address_are_found(run, conf):
    r = run("import", "--check", conf("7 stream tcp nowait root /bin/cat cat\necho stream tcp nowait root internal\n"))
    assert r.returncode == 1 and b":2: " in r.stderr


def test_a_mistake_is_told_and_the_rest_printed(run, conf):
    path = conf("ftp steam tcp nowait root /bin/cat cat\necho stream tcp nowait root internal\n")
    r = run("import", path)
    assert r.returncode == 1
    assert r.stderr.decode() == f'{path}:1: ftp: "steam" is no socket type (stream or dgram)\n'
    assert b"[echo]" in r.stdout


def test_several_files_are_one_configuration(run, conf):
    a = conf("echo stream tcp nowait root internal\n", "a.conf")
    b = conf("127.0.0.1:echo stream tcp nowait nobody /bin/cat cat\n", "b.conf")
    r = run("import", a, b)
    assert re.findall(r"^\[(.*)\]$", r.stdout.decode(), re.M) == ["echo", "echo-tcp"]
    assert r.stdout.decode().count("# imported from ") == 2


@pytest.mark.parametrize(
    "text, name, format",
    [
        ("# x\n\necho stream tcp nowait root internal\n", "a", "inetd"),
        ("service stream tcp nowait root internal\n", "a", "inetd"),
        ("[::1]:echo stream tcp nowait root internal\n", "a", "inetd"),
        ("[::1]:\n", "a", "inetd"),
        (" # x\nservice echo\n{\n}\n", "a", "xinetd"),
        ("defaults\n{\n}\n", "a", "xinetd"),
        ("defaults{\n}\n", "a", "xinetd"),
        ("includedir /no/such/directory\n", "a", "xinetd"),
        ("; x\n[Unit]\n[Socket]\nListenStream=7\n", "a", "systemd"),
        ("", "a.socket", "systemd"),
        ("", "a", "inetd"),
    ],
)
def test_the_format_is_told_by_name_and_first_line(run, conf, text, name, format):
    path = conf(text, name)
    assert run("import", path).stdout.decode().splitlines()[0] == f"# imported from {path} ({format})"
    r = run("import", "--format", "inetd", path)
    assert r.stdout.decode().splitlines()[0] == f"# imported from {path} (inetd)"


def test_xinetd_and_systemd_are_read_as_well(run, conf, tmp_path):
    conf("service telnet\n{\n socket_type = stream\n wait = no\n user = root\n server = /bin/cat\n}\n", "d/telnet")
    conf("[Socket]\nListenStream=127.0.0.1:7000\nAccept=yes\n", "s/cat.socket")
    conf("[Service]\nExecStart=/bin/cat\nStandardInput=socket\n", "s/cat@.service")
    r = run("import", tmp_path / "d", tmp_path / "s")
    assert (r.returncode, r.stderr) == (0, b"")
    text = r.stdout.decode()
    assert "listen = tcp://*:telnet\n" in text and "listen = tcp://127.0.0.1:7000\n" in text
    assert text.count("exec = /bin/cat\n") == 2


def test_of_a_directory_each_file_is_read_in_order_but_leftovers(run, conf, tmp_path):
    for name in ["20-b", "10-a", ".hidden", "a~", "a.dpkg-old", "a.bak"]:
        conf(f"7{name[:2] if name[0] in '12' else '999'} stream tcp nowait root /bin/cat cat\n", f"inetd.d/{name}")
    conf("", "inetd.d/sub/file")
    r = run("import", tmp_path / "inetd.d")
    assert r.returncode == 0
    assert re.findall(r"^\[(.*)\]$", r.stdout.decode(), re.M) == ["port-710", "port-720"]


def test_the_report_counts_and_names_what_was_dropped(run, conf):
    path = conf(CLASSIC + "ftp stream tcp,sndbuf=1k nowait root /bin/cat cat\nbad\n")
    r = run("import", "--report", path)
    assert r.returncode == 1
    lines = r.stdout.decode().splitlines()
    assert lines[0].split() == ["SERVICES", "CARRIED", "DROPPED", "ERRORS", "FILE"]
    assert lines[1].split() == ["3", "12", "2", "1", str(path)]
    assert lines[3] == "Not carried over:"
    assert lines[4].startswith(f"{path}:5: service rusersd/2-3: Sun RPC")
    assert lines[5] == f"{path}:6: ftp: protocol option sndbuf=1k"


def test_the_report_as_json_has_the_same(run, conf):
    path = conf(CLASSIC + "ftp stream tcp,sndbuf=1k nowait root /bin/cat cat\nbad\n")
    r = run("import", "--report", "--json", path)
    assert r.returncode == 1
    report = json.loads(r.stdout)
    assert report["files"] == [{"file": str(path), "services": 3, "carried": 12, "dropped": 2, "errors": 1}]
    assert report["carried"] == 12
    assert [(d["line"], d["service"]) for d in report["dropped"]] == [(5, None), (6, "ftp")]
    assert report["errors"] == [f"{path}:7: bad: the line ends before its socket type"]


def test_output_replaces_a_file_whole_and_keeps_no_other(run, conf, tmp_path):
    out = tmp_path / "out" / "hark.conf"
    out.parent.mkdir()
    out.write_text("old")
    link = tmp_path / "link.conf"
    link.symlink_to(out)
    r = run("import", "--output", link, conf(CLASSIC), umask=0o027)
    assert (r.returncode, r.stdout, r.stderr) == (0, b"", b"")
    assert "[daytime]" in out.read_text() and link.is_symlink()
    assert stat.S_IMODE(out.stat().st_mode) == 0o640
    assert os.listdir(out.parent) == ["hark.conf"]


def test_output_names_the_services_that_the_import_disables(run, conf, tmp_path):
    off = "service {}\n{{\n disable = {}\n{} socket_type = stream\n wait = no\n user = root\n server = /bin/cat\n}}\n"
    xinetd = conf(off.format("ftp", "no", " access_times = 1:00-2:00\n") + off.format("time", "yes", ""), "xinetd.conf")
    inetd = conf(
        "#@ ipsec esp/transport//require\n7000 stream tcp nowait root /bin/cat cat\n#@\n"
        "7001 stream tcp nowait root /bin/cat cat\n"
    )
    unit = conf("[Socket]\nListenStream=7002\nAccept=no\n", "x.socket")
    conf("[Service]\nExecStart=/bin/cat\n", "x.service")
    out = tmp_path / "hark.conf"
    r = run("import", "-o", out, xinetd, inetd, unit)
    assert r.returncode == 0
    assert r.stderr.decode() == f"hark: import: 3 disabled, and why is told in {out}: ftp, port-7000, x\n"
    assert out.read_text().count("disable = yes") == 4


def test_output_that_cannot_be_written_is_told(run, conf, tmp_path):
    r = run("import", "-o", tmp_path / "no" / "hark.conf", conf(CLASSIC))
    assert r.returncode == 111 and b"No such file or directory" in r.stderr
    r = run("import", "-o", "/dev/full", conf(CLASSIC))
    assert r.returncode == 111 and b"No space left on device" in r.stderr


def test_a_pipe_can_be_imported(run):
    r = run("import", "/dev/stdin", input=CLASSIC.encode())
    assert r.returncode == 0 and b"[daytime]" in r.stdout


@pytest.mark.parametrize("more", [[], ["--check"], ["--report"], ["--format", "xinetd"], ["--format", "systemd"]])
def test_what_is_no_file_is_told_and_not_waited_for(run, tmp_path, more):
    fifo = tmp_path / ("fifo.socket" if "systemd" in more else "fifo")
    os.mkfifo(fifo)
    r = run("import", *more, fifo)
    assert r.returncode == 1
    assert f"{fifo}: not a regular file\n" in r.stderr.decode(), r.stderr


def test_a_file_that_is_not_there_is_told(run, tmp_path):
    path = tmp_path / "none"
    r = run("import", path)
    assert (r.returncode, r.stderr.decode()) == (1, f"{path}: No such file or directory\n")


@pytest.mark.parametrize("args", [[], ["--json", "x"], ["--format", "launchd", "x"], ["--reprot", "x"]])
def test_wrong_usage_is_100(run, args):
    r = run("import", *args)
    assert r.returncode == 100 and r.stdout == b"" and r.stderr.startswith(b"hark: import: ")


def test_no_bytes_crash_it_or_reach_the_terminal(run, conf):
    junk = bytes(range(256)) * 20 + b"\n\x1b[2J stream tcp nowait root /bin/cat \x1b]0;x\x07\n"
    for text in [junk, junk[::-1], b"\x00" * 70000, b"x on " * 9000, b"'" * 66000, b":" * 60000]:
        r = run("import", "--format", "inetd", conf(text))
        assert r.returncode in (0, 1)
        assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", r.stdout + r.stderr)
