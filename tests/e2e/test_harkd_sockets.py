"""harkd's listening sockets: each kind, their options, owners and modes, names, those that somebody hands over."""
import grp
import os
import pwd
import signal
import socket
import stat
import subprocess

import pytest

from conftest import PATIENCE, read_all, wait_until
from harkd_support import (
    connect_to,
    dial,
    free_port,
    gone,
    Harkd,
    harkd,
    HEAD,
    needs_root,
    ping,
    PROBE,
    report,
    say,
    service,
)  # noqa: F401 harkd is a fixture


@needs_root
def test_unix_sockets_have_their_owner_and_mode(harkd, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    d = harkd(
        service(
            "both",
            "box = echo",
            "socket_user = nobody",
            "socket_group = daemon",
            "socket_mode = 660",
            listen=f"unix:{a} unixgram:{b}",
        )
    )
    for path in (a, b):
        st = path.stat()
        assert stat.S_ISSOCK(st.st_mode) and stat.S_IMODE(st.st_mode) == 0o660
        assert (st.st_uid, st.st_gid) == (pwd.getpwnam("nobody").pw_uid, grp.getgrnam("daemon").gr_gid)
    inode = a.stat().st_ino
    d.configure(
        service(
            "both",
            "box = echo",
            "socket_user = nobody",
            "socket_group = daemon",
            "socket_mode = 600",
            listen=f"unix:{a} unixgram:{b}",
        )
    )
    assert d.ask("reload")["changed"] == 1
    assert (a.stat().st_ino, stat.S_IMODE(a.stat().st_mode)) == (inode, 0o600)
    assert d.stop() == 0
    assert not a.exists() and not b.exists()


def test_one_service_on_every_kind_of_socket(harkd, tmp_path):
    name = f"hark-test-{os.getpid()}"
    d = harkd(
        service(
            "echo",
            "box = echo",
            "listen = udp6://[::1]:0",
            f"listen = unix:{tmp_path}/stream unixgram:{tmp_path}/gram",
            f"listen = unix:@{name} unixgram:@{name}-gram",
            "workers = 2",
            listen="tcp://127.0.0.1:0 tcp4://127.0.0.2:0 tcp6://[::1]:0 udp://127.0.0.1:0",
        )
    )
    addresses = d.service("echo")["listen"]
    assert [a.split(":")[0] for a in addresses] == [
        "tcp",
        "tcp",
        "tcp",
        "udp",
        "udp",
        "unix",
        "unixgram",
        "unix",
        "unixgram",
    ]
    for _ in range(3):
        for address in addresses:
            with dial(address) as s:
                s.send(address.encode())
                assert s.recv(1000) == address.encode()
    wait_until(lambda: d.service("echo")["now"] == 0 and d.service("echo")["closed"] == 27)
    assert d.service("echo")["accepted"] == 27
    assert d.service("echo")["failed"] == 0


def test_backlog_is_how_many_wait(harkd, monkeypatch):
    monkeypatch.setenv("LISTENQ", "5")  # of whoever starts harkd: no business of its services
    d = harkd(service("small", "box = echo", "backlog = 3") + service("large", "box = echo", "backlog = 77"))

    def backlog(name):
        lines = subprocess.run(
            ["ss", "-Hltn", f"sport = :{d.port(name)}"], capture_output=True, text=True
        ).stdout.split()
        return int(lines[2])

    assert (backlog("small"), backlog("large")) == (3, 77)
    d.configure(service("small", "box = echo", "backlog = 50") + service("large", "box = echo", "backlog = 77"))
    assert d.ask("reload")["changed"] == 1
    assert (backlog("small"), backlog("large")) == (50, 77)


def test_reuseport_v6only_and_defer_accept(harkd):
    with socket.socket() as mine, socket.socket(socket.AF_INET6) as four:
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        mine.bind(("127.0.0.1", 0))
        port = mine.getsockname()[1]
        four.bind(("::1", 0))
        six = four.getsockname()[1]
        four.close()
        d = harkd(
            service("shared", "box = echo", "reuseport = yes", listen=f"tcp://127.0.0.1:{port}")
            + service("six", "box = echo", "v6only = yes", listen=f"tcp://[::]:{six}")
            + service("deferred", "exec = /bin/echo first", "defer_accept = 30s")
        )
    assert say(d, "shared", b"x") == b"x"
    with socket.create_connection(("::1", six), PATIENCE) as s:
        s.sendall(b"x")
        assert s.recv(1) == b"x"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", six), PATIENCE)
    with d.connect("deferred") as s:
        s.settimeout(0.3)
        with pytest.raises(TimeoutError):
            s.recv(1)  # echo speaks first, but is not told of us before we have
        assert d.service("deferred")["accepted"] == 0
        s.settimeout(PATIENCE)
        s.sendall(b"x")
        assert s.recv(10) == b"first\n"


def test_the_mode_of_a_socket_is_not_given_to_what_has_taken_its_place(harkd, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("secret")
    victim.chmod(0o600)
    text = service("echo", "box = echo", "socket_mode = 666", listen=f"unix:{tmp_path}/sock")
    d = harkd(text)
    assert (tmp_path / "sock").stat().st_mode & 0o777 == 0o666
    (tmp_path / "sock").unlink()
    (tmp_path / "sock").symlink_to(victim)
    d.configure(text.replace("666", "660"))
    assert d.ask("reload")["ok"]
    assert victim.stat().st_mode & 0o777 == 0o600


def test_the_mode_of_a_socket_changes_with_a_reload(harkd, tmp_path):
    text = service("echo", "box = echo", "socket_mode = 666", listen=f"unix:{tmp_path}/sock")
    d = harkd(text)
    d.configure(text.replace("666", "600"))
    assert d.ask("reload")["ok"]
    assert (tmp_path / "sock").stat().st_mode & 0o777 == 0o600


def with_hosts(hark, tmp_path, text, before=()):
    """A harkd that reads text in place of /etc/hosts; before: words before its command."""
    (tmp_path / "hosts").write_text(text)
    wrapper = tmp_path / "harkd"
    wrapper.write_text(
        "#!/bin/sh\nexec unshare -m sh -c"
        f" 'mount --bind {tmp_path}/hosts /etc/hosts && exec {' '.join(before)} {hark}d \"$@\"' sh \"$@\"\n"
    )
    wrapper.chmod(0o755)
    return str(wrapper)


@pytest.mark.skipif(os.geteuid() != 0, reason="a hosts file of its own needs root")
def test_a_port_for_a_name_is_free_at_all_of_its_addresses(harkd, hark, tmp_path, where_ports_are_taken):
    executable = with_hosts(hark, tmp_path, "127.0.0.1 both\n127.0.0.2 both\n", where_ports_are_taken)
    d = harkd(service("echo", "box = echo", listen="tcp://both:0 udp://both:0"), executable=executable)
    assert sorted(d.service("echo")["listen"]) == [f"{s}://127.0.0.{n}:40007" for s in ("tcp", "udp") for n in (1, 2)]


@pytest.mark.skipif(os.geteuid() != 0, reason="a hosts file of its own needs root")
def test_a_name_with_several_addresses_is_listened_on_at_all_of_them(harkd, hark, tmp_path):
    d = harkd(
        service("echo", "box = echo", listen="tcp://both:0 udp://both:0"),
        executable=with_hosts(hark, tmp_path, "127.0.0.1 both\n::1 both\n"),
    )
    assert sorted(a.rsplit(":", 1)[0] for a in d.service("echo")["listen"]) == [
        "tcp://127.0.0.1",
        "tcp://[::1]",
        "udp://127.0.0.1",
        "udp://[::1]",
    ]
    ports = {a.rsplit(":", 1)[0]: int(a.rsplit(":", 1)[1]) for a in d.service("echo")["listen"]}
    assert ports["tcp://127.0.0.1"] == ports["tcp://[::1]"]
    for round in range(2):
        for host in ("127.0.0.1", "::1"):
            with connect_to(ports["tcp://127.0.0.1"], host) as s:
                ping(s)
        if round == 0:
            d.upgrade()


def test_programs_of_both_families_get_a_socket_of_their_clients(harkd):
    port = free_port()
    family = "/usr/bin/python3 -c 'import socket; print(int(socket.socket(fileno=0).family), flush=True)'"
    d = harkd(service("two", f"exec = {family}", listen=f"tcp4://*:{port} tcp6://*:{port}"))
    for host, is_family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
        with connect_to(port, host) as s:
            assert int(read_all(s)) == is_family
    assert d.status()["services"][0]["state"] == "running"


@pytest.mark.parametrize("address", ["tcp://192.0.2.77:0", "tcp://[2001:db8::77]:0", "udp://192.0.2.77:0"])
def test_freebind_listens_at_an_address_that_is_not_there_yet(harkd, address):
    d = harkd(service("echo", "box = echo", "freebind = yes", listen=address))
    assert d.service("echo")["listen"][0].startswith(address[:-1])
    d.configure(service("echo", "box = echo", listen="tcp://192.0.2.78:0"))
    assert "no interface here has this address" in d.ask("reload")["error"]


def test_sockets_that_a_service_manager_hands_over_are_used(hark, harkd, tmp_path):
    by_name = socket.create_server(("127.0.0.1", 0))
    by_address = socket.create_server(("127.0.0.1", 0))
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagram.bind(("127.0.0.1", 0))
    unused = socket.create_server(("127.0.0.1", 0))
    sockets = [by_name, by_address, datagram, unused]
    ports = [s.getsockname()[1] for s in sockets]
    waiting = socket.create_connection(("127.0.0.1", ports[0]))  # before harkd is there at all

    def hand_over():
        for i, s in enumerate(sockets):
            os.dup2(s.fileno(), 100 + i)
        for i in range(len(sockets)):
            os.dup2(100 + i, 3 + i)
            os.close(100 + i)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="4", LISTEN_FDNAMES="web:other:gram:none")

    text = service("named", "box = echo", listen="fd:web") + service(
        "bound", PROBE, listen=f"tcp://127.0.0.1:{ports[1]} udp://127.0.0.1:{ports[2]}"
    )
    d = harkd(text, preexec_fn=hand_over, close_fds=False)
    for s in (by_name, by_address, datagram, unused):
        s.close()
    with waiting as s:
        s.sendall(b"early")
        assert s.recv(10) == b"early"
    got = report(d, "bound")
    assert not [name for name in got.environ if name.startswith("LISTEN_")]
    assert sorted(got.fds) == ["0", "1", "2"]
    worker = d.workers("named")[0]
    assert (
        len(
            [
                1
                for fd in os.listdir(f"/proc/{worker}/fd")
                if os.readlink(f"/proc/{worker}/fd/{fd}").startswith("socket:")
            ]
        )
        == 1
    )
    assert d.ask("reload")["unchanged"] == 2
    d.upgrade()
    with socket.create_connection(("127.0.0.1", ports[0]), PATIENCE) as s:
        s.sendall(b"later")
        assert s.recv(10) == b"later"
    assert report(d, "bound").fds["0"].startswith("socket:")


def handed_over(sockets, names):
    """preexec_fn for a child to which they are handed over, and its environment but for LISTEN_PID."""

    def prepare():
        for i, s in enumerate(sockets):
            os.dup2(s.fileno(), 50 + i)
        for i in range(len(sockets)):
            os.dup2(50 + i, 3 + i)
            os.close(50 + i)

    return prepare, {"LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": ":".join(names)}


def test_one_inherited_name_for_several_sockets_serves_them_all_and_what_is_not_claimed_is_told(hark, tmp_path):
    (tmp_path / "hark.conf").write_text(HEAD.format(dir=tmp_path) + service("echo", "box = echo", listen="fd:web"))
    with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b, socket.create_server(
        ("127.0.0.1", 0)
    ) as c:
        prepare, environment = handed_over([a, b, c], ["web", "web", "rest"])
        command = f'LISTEN_PID=$$ exec {hark}d -c {tmp_path}/hark.conf'
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            preexec_fn=prepare,
            env={**os.environ, **environment},
            close_fds=False,
            stderr=open(tmp_path / "err", "w"),
        )
        try:
            wait_until(lambda: "ready: " in (tmp_path / "err").read_text())
            for listener in (a, b):
                with connect_to(listener.getsockname()[1]) as s:
                    ping(s)
            text = (tmp_path / "err").read_text()
            assert f"rest (tcp://127.0.0.1:{c.getsockname()[1]}) was handed over, and no listen has it" in text, text
        finally:
            process.terminate()
            process.wait(PATIENCE)


def test_the_path_of_a_service_managers_socket_stays(hark, tmp_path):
    path = tmp_path / "managed"
    (tmp_path / "hark.conf").write_text(
        HEAD.format(dir=tmp_path) + service("echo", "box = echo", listen=f"unix:{path}")
    )
    with socket.socket(socket.AF_UNIX) as manager:
        manager.bind(str(path))
        manager.listen()
        d = Harkd(
            [
                "/bin/bash",
                "-c",
                f'exec 3<&{manager.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"',
                "-",
                hark + "d",
                "-c",
                str(tmp_path / "hark.conf"),
            ],
            tmp_path,
            HEAD,
            pass_fds=(manager.fileno(),),
        )
        try:
            d.await_ready()
            for _ in range(2):
                with socket.socket(socket.AF_UNIX) as s:
                    s.connect(str(path))
                    ping(s)
                if not d.generations:
                    d.upgrade()
            os.kill(d.generations[0], signal.SIGTERM)
            wait_until(lambda: gone(d.generations[0]))
            assert path.exists()
        finally:
            d.end()
