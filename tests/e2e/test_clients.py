"""Real clients against hark serve: what people have on their machines must work with every model."""
import os
import shutil
import subprocess

import pytest

from conftest import MODELS, PATIENCE, wait_until


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")


def talk(argv, said, timeout=PATIENCE):
    return subprocess.run(argv, input=said, capture_output=True, timeout=timeout)


def netcats():
    """The netcats that there are, each with what makes it half-close at the end of its input."""
    return [("nc", ["nc", "-N"]), ("ncat", ["ncat"])]


@pytest.mark.parametrize("name, argv", netcats())
@pytest.mark.parametrize("model", MODELS)
def test_netcat_has_its_echo(serve, model, name, argv):
    need(name)
    service = serve("--model", model, "tcp://127.0.0.1:0", "echo")
    if name == "nc" and b"-N" not in talk(["nc", "-h"], b"").stdout + talk(["nc", "-h"], b"").stderr:
        argv = ["nc", "-q", "1"]  # the traditional one
    r = talk(argv + ["127.0.0.1", str(service.port())], b"hello\n" * 1000)
    assert r.stdout == b"hello\n" * 1000, r.stderr
    assert service.stop() == 0, service.stderr


@pytest.mark.parametrize("model", MODELS)
def test_socat_has_its_echo(serve, model):
    need("socat")
    service = serve("--model", model, "tcp://127.0.0.1:0", "echo")
    r = talk(["socat", "-t", "10", "-", f"TCP:127.0.0.1:{service.port()}"], b"hello\n" * 1000)
    assert r.stdout == b"hello\n" * 1000, r.stderr
    assert service.stop() == 0, service.stderr


@pytest.mark.parametrize("model", MODELS)
def test_curl_speaks_telnet_to_a_program(serve, model):
    need("curl")
    if b"telnet" not in talk(["curl", "--version"], b"").stdout:
        pytest.skip("this curl has no telnet://")
    service = serve("--model", model, "tcp://127.0.0.1:0", "--", "head", "-n", "1")
    r = talk(["curl", "-s", "--max-time", "10", f"telnet://127.0.0.1:{service.port()}"], b"hello\n")
    assert r.stdout == b"hello\n", r.stderr
    assert service.stop() == 0, service.stderr


@pytest.mark.parametrize("model", MODELS)
def test_curl_reads_the_daytime(serve, model):
    need("curl")
    if b"telnet" not in talk(["curl", "--version"], b"").stdout:
        pytest.skip("this curl has no telnet://")
    service = serve("--model", model, "tcp://127.0.0.1:0", "daytime")
    r = talk(["curl", "-s", "--max-time", "10", f"telnet://127.0.0.1:{service.port()}"], b"")
    assert r.stdout.startswith(b"20") and r.stdout.endswith(b"\r\n"), r.stderr


PERL = r"""
use IO::Socket::INET;
my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$ARGV[0]", Proto => $ARGV[1], Timeout => 10) or die "connect: $@";
$s->autoflush(1);
for my $i (1 .. 100) {
    print $s "line $i\n";
    my $line = $ARGV[1] eq "tcp" ? <$s> : do { $s->recv(my $d, 100); $d };
    die "got $line" if $line ne "line $i\n";
}
shutdown($s, 1);
print $ARGV[1] eq "tcp" && defined(scalar <$s>) ? "more\n" : "fine\n";
"""


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("model", MODELS)
def test_perl_talks_line_by_line(serve, model, protocol):
    need("perl")
    service = serve("--model", model, f"{protocol}://127.0.0.1:0", "echo")
    r = talk(["perl", "-e", PERL, str(service.port()), protocol], b"")
    assert r.stdout == b"fine\n", r.stderr
    assert service.stop() == 0, service.stderr


def test_datagrams_by_nc_and_socat(serve):
    need("nc", "socat")
    service = serve("udp://127.0.0.1:0", "echo")
    assert talk(["nc", "-u", "-w", "1", "127.0.0.1", str(service.port())], b"hello").stdout == b"hello"
    assert talk(["socat", "-t", "0.5", "-", f"UDP:127.0.0.1:{service.port()}"], b"hello").stdout == b"hello"


def test_unix_sockets_by_nc_and_socat(serve, tmp_path):
    need("nc", "socat")
    service = serve(f"unix:{tmp_path}/s", "echo")
    assert service.addresses
    assert talk(["nc", "-N", "-U", f"{tmp_path}/s"], b"hello").stdout == b"hello"
    assert talk(["socat", "-t", "10", "-", f"UNIX-CONNECT:{tmp_path}/s"], b"hello").stdout == b"hello"


def test_hark_call_talks_to_other_servers(hark, tmp_path):
    """And the other way round: our client, their server."""
    need("socat")
    server = subprocess.Popen(["socat", f"UNIX-LISTEN:{tmp_path}/s", "EXEC:cat"], stderr=subprocess.PIPE)
    try:
        wait_until(lambda: os.path.exists(f"{tmp_path}/s"))
        # The path is there from bind(2) on, connections are taken only from listen(2) on.
        r = wait_until(lambda: (r := talk([hark, "call", f"unix:{tmp_path}/s"], b"hello\n")).returncode == 0 and r)
        assert r.stdout == b"hello\n"
    finally:
        server.kill()
        server.wait()
        server.stderr.close()
