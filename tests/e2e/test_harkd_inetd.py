"""harkd --inetd: an inetd.conf served as it is.

inetd.conf names ports, and port 0 is none: each test has an address of 127/8 to itself, where its ports are free.
"""
import getpass
import grp
import os
import pathlib
import pwd
import random
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import time

import pytest

from conftest import PATIENCE, read_all, wait_until
from harkd_support import Harkd

ROOT = pathlib.Path(__file__).resolve().parents[2]
ME = getpass.getuser()
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def host():
    return "127.%d.%d.%d" % (random.randint(128, 250), random.randint(1, 254), random.randint(1, 254))


@pytest.fixture
def inetd(hark, tmp_path):
    running = []

    def start(text, *args, ready=True, **more):
        path = tmp_path / "inetd.conf"
        path.write_text(text)
        argv = [hark + "d", "--inetd", str(path), "--control", str(tmp_path / "control"), *map(str, args)]
        process = Harkd(argv, tmp_path, None, **more)
        running.append(process)
        if ready:
            process.await_ready()
        return process

    yield start
    for process in running:
        process.end()


def say(host, port, text=b""):
    with socket.create_connection((host, port), PATIENCE) as s:
        s.sendall(text)
        s.shutdown(socket.SHUT_WR)
        return read_all(s)


def send(host, port, data):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(PATIENCE)
        s.connect((host, port))
        s.send(data)
        return s.recv(1000)


def test_the_example_serves_what_hark_conf_does(inetd, hark, host, tmp_path):
    shutil.copytree(ROOT / "examples" / "services", tmp_path / "services")
    text = (ROOT / "examples" / "inetd.conf").read_text().replace("127.0.0.1:", host + ":")
    d = inetd(re.sub(r" (nobody|root) +(?=\S+ +\S)", f" {ME} ", text))
    assert "warning" not in d.stderr

    # Every service is one of hark.conf's, at the same port.
    own = {a.split(":")[-1] for s in d.status()["services"] for a in s["listen"]}
    hark_conf = (ROOT / "examples" / "hark.conf").read_text()
    assert own == {"7007", "7009", "7013", "7019", "7037", "7070", "7071", "7072", "7073"}
    assert all(f"127.0.0.1:{port}" in hark_conf for port in own)

    assert say(host, 7007, b"hello") == b"hello" and send(host, 7007, b"hello") == b"hello"
    assert say(host, 7009, b"gone") == b""
    assert re.match(rb"\d{4}-\d\d-\d\dT", say(host, 7013)) and re.match(rb"\d{4}-", send(host, 7013, b"x" * 100))
    with socket.create_connection((host, 7019), PATIENCE) as s:
        assert b"ABCDEFG" in s.recv(1000)
    for answer in (say(host, 7037), send(host, 7037, b"time")):
        assert abs(struct.unpack("!I", answer)[0] - 2208988800 - time.time()) < 5
    assert say(host, 7070, b"hello\n") == b"HELLO\n"
    assert b"Hello Ada from 127.0.0.1" in say(host, 7071, b"Ada\n")
    assert b"6" in say(host, 7072, b"1\n2\n3\n")
    assert say(host, 7073, b"two words\n")
    greet = d.service("port-7071")
    wait_until(lambda: d.service("port-7071")["closed"] == 1)
    assert greet["box"] == "exec" and d.service("port-7019")["box"] == "chargen"


@needs_root
def test_internal_services_by_their_names(inetd, host):
    names = ("echo", "discard", "chargen", "daytime", "time")
    lines = "".join(f"{name} stream tcp nowait root internal\n{name} dgram udp wait root internal\n" for name in names)
    d = inetd(f"{host}:\n" + lines)
    assert {s["name"] for s in d.status()["services"]} == set(names)
    assert say(host, 7, b"hello") == b"hello" and send(host, 7, b"hello") == b"hello"
    assert say(host, 9, b"gone") == b""
    assert re.match(rb"\d{4}-", say(host, 13))
    assert len(say(host, 37)) == 4
    with socket.create_connection((host, 19), PATIENCE) as s:
        assert b"ABCDEFG" in s.recv(1000)


def test_programs_of_each_kind(inetd, host, tmp_path):
    (tmp_path / "gram.py").write_text(
        "import socket\ns = socket.socket(fileno=0)\ndata, peer = s.recvfrom(100)\ns.sendto(b'wait ' + data, peer)\n"
    )
    (tmp_path / "listen.py").write_text(
        "import socket\nc, _ = socket.socket(fileno=0).accept()\nc.sendall(b'wait ' + c.recv(100))\n"
    )
    python = "/usr/bin/python3 python3 -IS"
    d = inetd(
        f"{host}:\n"
        f"8001 stream tcp nowait {ME} /usr/bin/tr tr a-z A-Z\n"
        f"8002 dgram udp wait {ME} {python} {tmp_path}/gram.py\n"
        f"8003 stream tcp wait {ME} {python} {tmp_path}/listen.py\n"
        f"8004 stream tcp nowait {ME} /bin/sh another-name -c 'echo $0; echo err >&2'\n"
        f"{tmp_path}/stream stream unix nowait {ME} /bin/cat cat\n"
        f"{tmp_path}/gram dgram unix wait {ME} {python} {tmp_path}/gram.py\n"
    )
    assert say(host, 8001, b"hello") == b"HELLO"
    for _ in range(2):
        assert send(host, 8002, b"gram") == b"wait gram"
        assert say(host, 8003, b"listen") == b"wait listen"
    assert d.service("port-8004")["box"] == "exec"
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(PATIENCE)
        s.connect(str(tmp_path / "stream"))
        s.sendall(b"unix")
        s.shutdown(socket.SHUT_WR)
        assert read_all(s) == b"unix"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.settimeout(PATIENCE)
        s.bind("")
        s.connect(str(tmp_path / "gram"))
        s.send(b"local")
        assert s.recv(100) == b"wait local"
    assert d.stop() == 0
    assert not (tmp_path / "stream").exists()


@needs_root
def test_the_user_field(inetd, host, tmp_path):
    ids = "/bin/sh sh -c id"
    tmp_path.chmod(0o755)
    d = inetd(
        f"{host}:8001 stream tcp nowait nobody {ids}\n"
        f"{host}:8002 stream tcp nowait nobody.daemon {ids}\n"
        f"{host}:8003 stream tcp nowait nobody:daemon {ids}\n"
        f"{host}:8004 stream tcp nowait root {ids}\n"
        f":nobody:daemon:660:{tmp_path}/owned stream unix nowait nobody {ids}\n"
    )
    nobody, daemon = pwd.getpwnam("nobody"), grp.getgrnam("daemon")
    assert f"uid={nobody.pw_uid}(nobody) gid={nobody.pw_gid}(" in say(host, 8001).decode()
    for port in (8002, 8003):
        assert f"uid={nobody.pw_uid}(nobody) gid={daemon.gr_gid}(daemon)" in say(host, port).decode()
    assert "uid=0(root) gid=0(root)" in say(host, 8004).decode()
    st = (tmp_path / "owned").stat()
    assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)) == (nobody.pw_uid, daemon.gr_gid, 0o660)
    assert d.stop() == 0


def test_counts_limit_and_never_disable(inetd, host):
    d = inetd(
        f"{host}:\n"
        f"8001 stream tcp nowait/1 {ME} /bin/cat cat\n"  # one at a time: the second waits
        f"8002 stream tcp nowait/0/0/1 {ME} /bin/cat cat\n"  # one of a source: the second is shed
        f"8003 stream tcp nowait.3 {ME} /bin/echo echo x\n"
    )  # three a minute: the fourth waits
    with socket.create_connection((host, 8001), PATIENCE) as one, socket.create_connection(
        (host, 8001), PATIENCE
    ) as two:
        one.sendall(b"1")
        assert one.recv(1) == b"1"
        two.sendall(b"2")
        two.settimeout(0.2)
        with pytest.raises(TimeoutError):
            two.recv(1)
        one.shutdown(socket.SHUT_WR)
        two.settimeout(PATIENCE)
        assert two.recv(1) == b"2"
    with socket.create_connection((host, 8002), PATIENCE) as one:
        one.sendall(b"1")
        assert one.recv(1) == b"1"
        with pytest.raises(ConnectionResetError):
            assert socket.create_connection((host, 8002), PATIENCE).recv(1) == b"?"
    assert d.service("port-8002")["refused"]["max_per_source"] == 1
    for _ in range(3):
        assert say(host, 8003) == b"x\n"
    with socket.create_connection((host, 8003), PATIENCE) as s:
        s.settimeout(0.2)
        with pytest.raises(TimeoutError):
            s.recv(1)
    assert d.service("port-8003")["held"]["rate"] >= 1


def test_netbsds_form_and_includes(inetd, host, tmp_path):
    (tmp_path / "inetd.d").mkdir()
    (tmp_path / "inetd.d" / "one").write_text(f"8002 stream tcp nowait {ME} /bin/echo echo included\n")
    inetd(
        f"{host}:\n8001 on protocol = tcp, wait = no, user = {ME},\n"
        f"  exec = /bin/echo, args = echo \"two words\";\n"
        f"8003 off protocol = tcp, wait = no, user = {ME}, exec = /bin/cat;\n"
        f".include inetd.d/*\n"
    )
    assert say(host, 8001) == b"two words\n"
    assert say(host, 8002) == b"included\n"
    with pytest.raises(ConnectionRefusedError):
        say(host, 8003)


def test_services_behind_tcpmux_are_asked_for_by_name(inetd, host):
    inetd(
        f"{host}:tcpmux stream tcp nowait {ME} internal\n"
        f"tcpmux/+date stream tcp nowait {ME} /bin/echo echo today\n"
        f"tcpmux/own stream tcp nowait {ME} /bin/sh sh -c echo\n"
        f"tcpmux/+err stream tcp nowait {ME} /bin/ls ls /none/such\n"
    )
    assert say(host, 1, b"date\r\n") == b"+Go\r\ntoday\n"
    assert say(host, 1, b"OWN\r\n") == b"\n"
    assert b"/none/such" in say(host, 1, b"err\r\n")
    assert say(host, 1, b"help\r\n") == b"date\r\nown\r\nerr\r\n"
    assert say(host, 1, b"none\r\n").startswith(b"-")


REFUSED = (
    f"rusersd/2-3 dgram rpc/udp wait {ME} /usr/libexec/rpc.rusersd rpc.rusersd\n"
    f"tcpmux stream tcp nowait {ME} internal\n"
)


def test_what_is_not_served_is_a_warning_with_its_line(inetd, hark, host, tmp_path):
    line = f"{host}:8001 stream,5:httpready tcp,rcvbuf=64k nowait {ME} /bin/echo echo x\n"
    d = inetd(REFUSED + line)
    path = re.escape(str(tmp_path / "inetd.conf"))
    for pattern in (
        ":1: not carried over: service rusersd/2-3: .*RPC",
        ":2: not carried over: service tcpmux: .*RFC 1078",
        ":3: not carried over: accept filter httpready",
        ":3: not carried over: protocol option rcvbuf=64k",
    ):
        d.expect(rf"^harkd: {path}{pattern}")
    assert d.stderr.index("not carried over") < d.stderr.index("ready: 1 service of")
    assert say(host, 8001) == b"x\n"
    r = subprocess.run([hark + "d", "-t", "--inetd", str(tmp_path / "inetd.conf")], capture_output=True, text=True)
    assert r.returncode == 100 and r.stderr.count("warning: ") == 4 and "1 service, 2 skipped" in r.stdout
    (tmp_path / "inetd.conf").write_text(line + f"ypserv/1 stream rpc/tcp nowait {ME} /bin/x x\n")
    d.send(signal.SIGHUP)
    d.expect(rf"^harkd: {path}:2: not carried over: service ypserv/1")


def test_sighup_applies_the_difference_and_a_file_that_cannot_be_read_changes_nothing(inetd, host, tmp_path):
    conf = tmp_path / "inetd.conf"
    first = f"{host}:8001 stream tcp nowait {ME} /bin/echo echo one\n"
    d = inetd(first)
    worker = d.workers("port-8001")
    conf.write_text(first + f"{host}:8002 stream tcp nowait {ME} /bin/echo echo two\n")
    d.send(signal.SIGHUP)
    d.expect(r"reloaded .*: 1 added, 0 changed, 0 removed, 1 unchanged")
    assert (say(host, 8001), say(host, 8002)) == (b"one\n", b"two\n")
    assert d.workers("port-8001") == worker
    conf.unlink()
    d.send(signal.SIGHUP)
    d.expect(r"nothing was changed")
    d.expect(r"inetd.conf: No such file")
    assert say(host, 8002) == b"two\n"
    conf.write_text(f"{host}:8002 stream tcp nowait {ME} /bin/echo echo three\n")
    d.send(signal.SIGHUP)
    d.expect(r"reloaded .*: 0 added, 1 changed, 1 removed, 0 unchanged")
    assert say(host, 8002) == b"three\n"
    with pytest.raises(ConnectionRefusedError):
        say(host, 8001)


def test_a_file_without_services_is_served_until_there_are_some(inetd, host, tmp_path):
    d = inetd("# <off># sample\n#echo stream tcp nowait root internal\n")
    assert d.status()["services"] == []
    (tmp_path / "inetd.conf").write_text(f"{host}:8001 stream tcp nowait {ME} /bin/echo echo x\n")
    d.send(signal.SIGHUP)
    d.expect(r"reloaded .*: 1 added")
    assert say(host, 8001) == b"x\n"
    d.upgrade()
    assert say(host, 8001) == b"x\n"


def test_lines_that_cannot_be_served_are_told_and_the_rest_is_served(inetd, hark, host, tmp_path):
    taken = socket.create_server((host, 8004))
    good = f"{host}:8001 stream tcp nowait {ME} /bin/echo echo one\n"
    wrong = [
        (f"{host}:8002 stream tcp maybe {ME} /bin/cat cat", "neither wait nor nowait"),
        (f"{host}:8003 stream tcp nowait {ME} /no/such/program x", "/no/such/program"),
        (f"{host}:8005 stream tcp nowait nobodyatall /bin/cat cat", "nobodyatall"),
        (f"{host}:no-such-port stream tcp nowait {ME} /bin/cat cat", "no such service"),
        (f"{host}:8006 steam tcp nowait {ME} /bin/cat cat", '"steam" is no socket type'),
    ]
    last = f"{host}:8004 stream tcp nowait {ME} /bin/cat cat\n{host}:8007 stream tcp nowait {ME} /bin/echo echo two\n"
    conf = tmp_path / "inetd.conf"
    d = inetd(good + "".join(line + "\n" for line, _ in wrong) + last)
    for number, (_, why) in enumerate(wrong, 2):
        d.expect(rf"inetd.conf:{number}: .*{re.escape(why)}.*; skipped")
    d.expect(r"inetd.conf:7: .*8004.*in use.*; skipped")
    assert (say(host, 8001), say(host, 8007)) == (b"one\n", b"two\n")
    for port in (8002, 8003, 8005, 8006):
        with pytest.raises(ConnectionRefusedError):
            say(host, port)
    r = subprocess.run([hark + "d", "-t", "--inetd", str(conf)], capture_output=True, text=True)
    assert (r.returncode, r.stderr.count("; skipped\n")) == (100, 5) and "3 services, 5 skipped" in r.stdout
    worker = d.workers("port-8001")
    taken.close()
    conf.write_text(good + f"{host}:8003 stream tcp nowait {ME} /no/such/program x\n" + last)
    d.send(signal.SIGHUP)
    d.expect(r"inetd.conf:2: .*/no/such/program.*; skipped")
    d.expect(r"reloaded .*: 1 added, 0 changed, 0 removed, 2 unchanged")
    assert say(host, 8004, b"x") == b"x" and d.workers("port-8001") == worker


def test_a_reload_tells_the_lines_that_it_skips(inetd, host, run, tmp_path):
    good = f"{host}:8001 stream tcp nowait {ME} /bin/echo echo one\n"
    inetd(good)
    taken = socket.create_server((host, 8004))
    (tmp_path / "inetd.conf").write_text(
        good
        + f"{host}:8002 stream tcp nowiat {ME} /bin/cat cat\n"
        + f"{host}:8003 stream tcp nowait nobodyatall /bin/cat cat\n"
        + f"{host}:8004 stream tcp nowait {ME} /bin/cat cat\n"
    )
    whys = ["nowiat", "nobodyatall", "in use"]
    for more in ["--dry-run"], []:
        r = run("reload", "--control", tmp_path / "control", *more)
        lines = r.stderr.decode().splitlines()
        assert r.returncode == 0 and b"1 unchanged" in r.stdout and len(lines) == len(whys), r
        for why in whys:
            found = [line for line in lines if why in line]
            assert len(found) == 1 and re.match(r"hark: reload: warning: .*inetd.conf:\d: .*; skipped$", found[0])
    taken.close()


def test_without_a_file_to_read_nothing_is_served(inetd, host, tmp_path):
    d = inetd("", "--inetd", "/no/such/inetd.conf", ready=False)
    assert d.wait() == 100
    d = inetd(f"{host}:8001 stream tcp nowait {ME} /bin/echo echo x\n", "--control", "none")
    assert say(host, 8001) == b"x\n"
    assert not (d.directory / "control").exists()
