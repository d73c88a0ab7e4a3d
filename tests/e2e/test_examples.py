"""Each program of examples/ is built by Meson and does what its opening comment says.

A server gets a listening socket of ours as fd:N, bound to a port of the kernel's choice: clients can connect at once,
before the server has even started, so nothing needs to be waited for.
"""
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

from conftest import wait_until
from pki_support import context, dial as dial_tls, pki  # noqa: F401 pki is a fixture

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get('HARK_BUILD', 'build')
PATIENCE = 30  # seconds


@pytest.fixture(scope='session')
def examples():
    """The directory of the built examples."""
    targets = [f'examples/{name}' for name in ('chat', 'daytime', 'echo', 'proxy', 'whoami')]
    done = subprocess.run(['ninja', '-C', BUILD, *targets], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout
    return BUILD / 'examples'


@contextlib.contextmanager
def running(argv, **kwargs):
    process = subprocess.Popen(
        [str(a) for a in argv], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **kwargs
    )
    try:
        yield process
        assert process.poll() is None, f'ended early with {process.returncode}: {process.stderr.read()}'
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def serving(program, *args, kind=socket.SOCK_STREAM):
    """program fd:N args..., on a socket of ours; gives the address to reach it at."""
    with socket.socket(socket.AF_INET, kind) as ours:
        ours.bind(('127.0.0.1', 0))
        if kind == socket.SOCK_STREAM:
            ours.listen(64)
        with running([program, f'fd:{ours.fileno()}', *args], pass_fds=[ours.fileno()]):
            yield ours.getsockname()


def dial(address, receive_buffer=0):
    conn = socket.socket()
    if receive_buffer:
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    conn.settimeout(PATIENCE)
    conn.connect(address)
    return conn


def everything(conn):
    return b''.join(iter(lambda: conn.recv(65536), b''))


def exchange(address, data):
    """Sends data and the end of the stream while reading all that comes back."""
    with dial(address) as conn:

        def send():
            conn.sendall(data)
            conn.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        got = everything(conn)
        sender.join(PATIENCE)
        return got


def test_echo_gives_back_what_it_got_to_many_at_once(examples):
    with serving(examples / 'echo') as address, contextlib.ExitStack() as stack:
        conns = [stack.enter_context(dial(address)) for _ in range(50)]
        for i, conn in enumerate(conns):
            conn.sendall(b'line %d\n' % i)
        for i, conn in reversed(list(enumerate(conns))):
            assert conn.makefile('rb').readline() == b'line %d\n' % i


def test_echo_gives_back_a_megabyte_and_the_end(examples):
    data = os.urandom(1 << 20)
    with serving(examples / 'echo') as address:
        assert exchange(address, data) == data


@pytest.mark.alone
def test_an_answer_in_several_writes_does_not_wait_for_an_acknowledgement(examples):
    size = 40000  # more than echo's buffer: Nagle's algorithm held the last part back for 40 ms
    with serving(examples / 'echo') as address:
        assert exchange(address, b'x') == b'x'  # what connected before the socket was adopted is as its maker wanted it
        took, conn = [], dial(address)
        for _ in range(20):
            begin = time.monotonic()
            conn.sendall(b'x' * size)
            got = 0
            while got < size:
                got += len(conn.recv(size))
            took.append(time.monotonic() - begin)
        conn.close()
    assert sorted(took)[10] < 0.030, took


def test_echo_answers_datagrams(examples):
    with serving(examples / 'echo', kind=socket.SOCK_DGRAM) as address, socket.socket(
        socket.AF_INET, socket.SOCK_DGRAM
    ) as client:
        client.settimeout(PATIENCE)
        client.connect(address)
        client.send(b'hello')
        assert client.recv(100) == b'hello'


def test_echo_says_why_it_cannot_listen(examples):
    done = subprocess.run(
        [examples / 'echo', 'tcp://127.0.0.1:no-such-service'], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert 'no-such-service' in done.stderr


def one_line_server(line):
    """A thread that answers one connection with line; gives its address."""
    listener = socket.create_server(('127.0.0.1', 0))
    listener.settimeout(PATIENCE)

    def answer():
        with listener, listener.accept()[0] as conn:
            conn.sendall(line)

    threading.Thread(target=answer, daemon=True).start()
    return '127.0.0.1:%d' % listener.getsockname()[1]


def test_daytime_prints_what_each_server_answers(examples):
    servers = [one_line_server(b'noon\r\n'), one_line_server(b'midnight')]
    done = subprocess.run([examples / 'daytime', *servers], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split('\n') == [f'{servers[0]}: noon', f'{servers[1]}: midnight', '']


def test_daytime_says_why_a_server_cannot_be_reached_and_asks_the_next(examples):
    with socket.create_server(('127.0.0.1', 0)) as gone:
        dead = '127.0.0.1:%d' % gone.getsockname()[1]
    done = subprocess.run(
        [examples / 'daytime', dead, one_line_server(b'noon\n')], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert 'refused' in done.stderr and dead in done.stderr
    assert 'noon' in done.stdout


class Member:
    """A connection to the chat, named and admitted."""

    def __init__(self, address, name, receive_buffer=0):
        self.conn = dial(address, receive_buffer)
        self.lines = self.conn.makefile('r', encoding='utf-8', newline='\n')
        assert self.lines.read(len('Your name? ')) == 'Your name? '
        self.say(name)
        assert self.hear() == f'{name}: (came in)'

    def say(self, text):
        self.conn.sendall(text.encode() + b'\n')

    def hear(self):
        return self.lines.readline().rstrip('\n')

    def leave(self):
        self.lines.close()
        self.conn.close()


def test_chat_carries_lines_to_everyone_else(examples):
    with serving(examples / 'chat') as address:
        ann = Member(address, 'ann')
        bob = Member(address, 'bob')
        assert ann.hear() == 'bob: (came in)'
        cid = Member(address, 'cid')
        assert ann.hear() == bob.hear() == 'cid: (came in)'
        ann.say('good morning')
        assert bob.hear() == cid.hear() == 'ann: good morning'
        bob.say('\x1b[2Jgood morning')
        assert ann.hear() == cid.hear() == 'bob: ?[2Jgood morning', 'control characters must not reach a terminal'
        cid.leave()
        assert ann.hear() == bob.hear() == 'cid: (left)'
        for one in (ann, bob):
            one.leave()


def test_chat_waits_for_no_slow_listener_and_tells_it_how_much_it_missed(examples):
    with serving(examples / 'chat') as address:
        slow = Member(address, 'slow', receive_buffer=4096)
        ann = Member(address, 'ann')
        bob = Member(address, 'bob')
        text = 'x' * 400
        for i in range(30000):  # 12 MB: more than the sockets between the room and slow hold
            ann.say(f'{i} {text}')
            if i % 50 == 49:  # bob keeps up, so the room is never far ahead of him
                for j in range(i - 49, i + 1):
                    assert bob.hear() == f'ann: {j} {text}'
        ann.say('the end')
        assert bob.hear() == 'ann: the end'
        heard = missed = 0
        while (line := slow.hear()) != 'ann: the end':
            assert line, 'slow was cut off'
            if line.startswith('(you missed'):
                missed += int(line.split()[2])
            else:
                heard += 1
        assert missed > 0
        assert (
            heard + missed == 30000 + 2
        ), 'each line, and two that came in, was heard or counted as missed, and none twice'
        for one in (slow, ann, bob):
            one.leave()


def test_proxy_carries_both_directions_and_the_end_of_each(examples):
    data = os.urandom(4 << 20)
    with serving(examples / 'echo') as (host, port), serving(examples / 'proxy', f'{host}:{port}') as address:
        assert exchange(address, data) == data


def test_proxy_keeps_the_answer_open_after_the_client_has_ended_its_request(examples):
    with socket.create_server(('127.0.0.1', 0)) as upstream:
        upstream.settimeout(PATIENCE)
        with serving(examples / 'proxy', '127.0.0.1:%d' % upstream.getsockname()[1]) as address, dial(
            address
        ) as client:
            conn = upstream.accept()[0]
            client.sendall(b'question')
            client.shutdown(socket.SHUT_WR)
            assert everything(conn) == b'question'
            conn.sendall(b'answer, after the end of the question')
            conn.close()
            assert everything(client) == b'answer, after the end of the question'


def test_proxy_ends_the_client_where_upstream_cannot_be_reached(examples):
    with socket.create_server(('127.0.0.1', 0)) as gone:
        dead = '127.0.0.1:%d' % gone.getsockname()[1]
    with serving(examples / 'proxy', dead) as address, dial(address) as client:
        assert everything(client) == b''


def test_proxy_joins_a_unix_socket_and_tcp(examples, tmp_path):
    path = tmp_path / 'upstream'
    with socket.socket(socket.AF_UNIX) as upstream:
        upstream.bind(str(path))
        upstream.listen()
        upstream.settimeout(PATIENCE)
        with serving(examples / 'proxy', f'unix:{path}') as address, dial(address) as client:
            with upstream.accept()[0] as conn:
                conn.sendall(b'from the unix socket')
            assert everything(client) == b'from the unix socket'


def ask_whoami(address, trust):
    with dial_tls(address[1], trust) as conn:
        serial = conn.getpeercert()['serialNumber']
        return conn.makefile('r').read(), serial


@pytest.mark.skipif(not shutil.which('openssl'), reason='openssl is not installed')
def test_whoami_tells_who_asks_over_tls(examples, pki):
    with serving(examples / 'whoami', pki / 'a.pem', pki / 'a.key', pki / 'ca.pem') as address:
        text, _ = ask_whoami(address, context(pki))
        assert text.startswith('somebody at tcp://127.0.0.1:') and ' TLSv1.3 TLS_' in text
        text, _ = ask_whoami(address, context(pki, 'client'))
        assert text.startswith('CN=a client,O=hark at tcp://127.0.0.1:')


@pytest.mark.skipif(not shutil.which('openssl'), reason='openssl is not installed')
def test_whoami_takes_a_renewed_certificate_over_and_ends_in_order(examples, pki, tmp_path):
    cert, key = tmp_path / 'cert.pem', tmp_path / 'key.pem'
    shutil.copy(pki / 'a.pem', cert)
    shutil.copy(pki / 'a.key', key)
    with socket.create_server(('127.0.0.1', 0)) as ours:
        argv = [examples / 'whoami', f'fd:{ours.fileno()}', cert, key]
        process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, pass_fds=[ours.fileno()])
        address = ours.getsockname()
    try:
        _, before = ask_whoami(address, context(pki))
        cert.write_text('no certificate')
        process.send_signal(signal.SIGHUP)
        assert str(cert) in process.stderr.readline()
        assert ask_whoami(address, context(pki))[1] == before
        pki.make('renewed', 'a.example', 'DNS:a.example')
        shutil.copy(pki / 'renewed.pem', cert)
        shutil.copy(pki / 'renewed.key', key)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: ask_whoami(address, context(pki))[1] != before)
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.communicate()
