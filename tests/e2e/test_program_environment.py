"""What programs find in their environment, under the names of those who started them before."""
import os
import pwd
import socket

import pytest

from conftest import PATIENCE, read_all
from harkd_support import harkd, service  # noqa: F401 harkd is a fixture


def variables(s):
    return dict(line.split("=", 1) for line in read_all(s).decode().splitlines() if "=" in line)


def remote(env):
    return {name: env[name] for name in ("REMOTE_ADDR", "REMOTE_PORT", "REMOTE_HOST") if name in env}


def test_the_peer_as_xinetd_and_systemd_tell_it(serve, monkeypatch):
    monkeypatch.setenv("REMOTE_HOST", "left.over.example")
    server = serve("tcp://127.0.0.1:0", "--", "env")
    with server.connect() as s:
        port = s.getsockname()[1]
        assert remote(variables(s)) == {
            "REMOTE_ADDR": "127.0.0.1",
            "REMOTE_PORT": str(port),
            "REMOTE_HOST": "127.0.0.1",
        }


def test_the_peer_over_ipv6(serve):
    server = serve("tcp6://[::1]:0", "--", "env")
    with socket.create_connection(("::1", server.port(0)), PATIENCE) as s:
        port = s.getsockname()[1]
        assert remote(variables(s)) == {"REMOTE_ADDR": "::1", "REMOTE_PORT": str(port), "REMOTE_HOST": "::1"}


def test_the_peers_name_where_it_is_looked_up(serve):
    try:
        name = socket.gethostbyaddr("127.0.0.1")[0].lower()
    except OSError:
        pytest.skip("127.0.0.1 has no name on this machine")
    server = serve("tcp://127.0.0.1:0", "exec", "--host", "env")
    with server.connect() as s:
        env = variables(s)
    assert env["REMOTE_HOST"] == env["TCPREMOTEHOST"] == name and env["REMOTE_ADDR"] == "127.0.0.1"


def test_the_peer_of_a_unix_socket_has_no_address(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("REMOTE_HOST", "left.over.example")
    server = serve(f"unix:{tmp_path}/service", "--", "env")
    with server.connect() as s:
        assert remote(variables(s)) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_the_user_of_a_service_finds_itself(harkd):
    nobody = pwd.getpwnam("nobody")
    d = harkd(
        service("user", "exec = /usr/bin/env", "user = nobody")
        + service("own", "exec = /usr/bin/env", "user = nobody", "env = HOME=/srv")
        + service("plain", "exec = /usr/bin/env", "pass_env = none"),
        env={**os.environ, "HOME": "/elsewhere", "USER": "somebody"},
    )
    with d.connect("user") as s:
        env = variables(s)
    assert {name: env[name] for name in ("USER", "LOGNAME", "HOME", "SHELL")} == {
        "USER": "nobody",
        "LOGNAME": "nobody",
        "HOME": nobody.pw_dir,
        "SHELL": nobody.pw_shell,
    }
    with d.connect("own") as s:
        assert variables(s)["HOME"] == "/srv"
    with d.connect("plain") as s:
        assert not {"USER", "LOGNAME", "HOME", "SHELL"} & set(variables(s))
