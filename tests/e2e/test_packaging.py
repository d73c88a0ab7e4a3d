"""What packaging/ installs, as far as it can be tried without a package: scripts/test-deb tries the package."""
import getpass
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess

import pytest

from conftest import PATIENCE, Process, wait_until
from harkd_support import free_port

PACKAGING = pathlib.Path(__file__).resolve().parents[2] / 'packaging'
EXAMPLE = re.compile(r'^#(?=[\[a-z])', re.M)


def checked(hark, tmp_path, text):
    (tmp_path / 'hark.conf').write_text(text.replace('user = hark', f'user = {getpass.getuser()}'))
    return subprocess.run(
        [hark + 'd', '-t', '-c', tmp_path / 'hark.conf'], capture_output=True, text=True, timeout=PATIENCE
    )


def test_the_installed_configuration_serves_nothing_and_has_no_mistake(hark, tmp_path):
    done = checked(hark, tmp_path, (PACKAGING / 'hark.conf').read_text())
    assert (done.returncode, done.stderr) == (0, '')
    assert ': 0 services' in done.stdout


def test_each_section_of_the_manual_is_in_a_package():
    sections = {page.suffix[1:] for page in PACKAGING.parent.glob('man/*.[1-9]')} | {'3'}  # 3: made from hark.h
    installs = ''.join(f.read_text() for f in PACKAGING.glob('debian/*.install'))
    assert {s for s in sections if f'usr/share/man/man{s}\n' not in installs} == set()


def test_its_examples_have_no_mistake(hark, tmp_path):
    text = EXAMPLE.sub('', (PACKAGING / 'hark.conf').read_text())
    done = checked(hark, tmp_path, text)
    assert (done.returncode, done.stderr) == (0, '')
    assert f': {text.count("listen =")} services' in done.stdout


@pytest.fixture
def running(hark, tmp_path):
    """A harkd that echoes, its pid file, and the port."""
    (tmp_path / 'hark.conf').write_text(
        f'[harkd]\ncontrol = {tmp_path}/control\n[echo]\nlisten = tcp://127.0.0.1:0\nbox = echo\n'
    )
    pid_file = tmp_path / 'pid'
    process = Process([hark + 'd', '-c', tmp_path / 'hark.conf', '--pid-file', pid_file])
    pids = []
    try:
        wait_until(lambda: 'ready: ' in process.stderr)
        pids.append(int(pid_file.read_text()))
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(tmp_path / 'control'))
            s.sendall(b'status\n')
            status = json.loads(s.makefile().readline())
        yield pid_file, pids, int(status['services'][0]['listen'][0].rsplit(':', 1)[1])
    finally:
        for pid in pids[1:]:
            os.kill(pid, signal.SIGTERM)
        process.end()


def upgrade(pid_file):
    return subprocess.run([PACKAGING / 'harkd-upgrade', pid_file], capture_output=True, text=True, timeout=60)


def test_harkd_upgrade_waits_until_the_new_process_serves(running):
    pid_file, pids, port = running
    with socket.create_connection(('127.0.0.1', port), PATIENCE) as held:
        held.sendall(b'1')
        assert held.recv(1) == b'1'
        done = upgrade(pid_file)
        pids.append(int(pid_file.read_text()))
        assert pids[0] != pids[1]
        assert (done.returncode, done.stdout) == (
            0,
            f'harkd: process {pids[1]} has taken over from {pids[0]}\n',
        ), done.stderr
        with socket.create_connection(('127.0.0.1', port), PATIENCE) as s:
            s.sendall(b'2')
            assert s.recv(1) == b'2'
        held.sendall(b'3')
        assert held.recv(1) == b'3'


@pytest.mark.parametrize(
    'content',
    [None, '', 'x\n', '4194305\n', f'{os.getpid()}\n'],
    ids=['no_file', 'empty', 'no_number', 'no_process', 'not_harkd'],
)
def test_harkd_upgrade_signals_nothing_but_harkd(tmp_path, content):
    if content is not None:
        (tmp_path / 'pid').write_text(content)
    done = upgrade(tmp_path / 'pid')
    assert (done.returncode, done.stdout, done.stderr) == (3, '', '')


def test_the_init_script_reloads_an_inetd_conf_of_which_a_line_is_skipped(hark, tmp_path):
    if not (shutil.which('start-stop-daemon') and pathlib.Path('/lib/lsb/init-functions').exists()):
        pytest.skip('not a Debian system')
    line = f'127.0.0.1:{free_port()} stream tcp nowait {getpass.getuser()} /bin/cat cat\n'
    (tmp_path / 'inetd.conf').write_text(line + 'no_such_service stream tcp nowait root /bin/cat cat\n')
    text = (PACKAGING / 'harkd.init').read_text()
    for name, value in [
        ('/etc/default/harkd', '/dev/null'),
        ('DAEMON=/usr/sbin/harkd', f'DAEMON={hark}d'),
        ('PIDFILE=/run/harkd.pid', f'PIDFILE={tmp_path}/pid'),
        ('OPTIONS=\n', f'OPTIONS="--inetd {tmp_path}/inetd.conf --control none"\n'),
    ]:
        assert name in text
        text = text.replace(name, value)
    (tmp_path / 'init').write_text(text)
    options = ['--inetd', tmp_path / 'inetd.conf', '--control', 'none', '--pid-file', tmp_path / 'pid']
    process = Process([hark + 'd', *options])
    try:
        wait_until(lambda: 'ready: ' in process.stderr)
        done = subprocess.run(['sh', tmp_path / 'init', 'reload'], capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        wait_until(lambda: 'reloaded' in process.stderr)
        (tmp_path / 'init').write_text(text.replace('inetd.conf --control', 'no.conf --control'))
        done = subprocess.run(['sh', tmp_path / 'init', 'reload'], capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode != 0 and 'no.conf' in done.stderr
    finally:
        process.end()


def test_the_scripts_are_scripts():
    for script in ('harkd-upgrade', 'harkd.init', 'debian/hark.postinst', 'debian/hark.prerm', 'debian/hark.postrm'):
        subprocess.run(['sh', '-n', PACKAGING / script], check=True, timeout=PATIENCE)
