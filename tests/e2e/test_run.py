"""scripts/run (what `make run` calls): every line that it prints to try works, and it ends what it started."""
import contextlib
import os
import pathlib
import random
import re
import signal
import socket
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = os.environ.get('HARK_BUILD', 'build')
PATIENCE = 30  # seconds


def own_host():
    """An address of 127/8 that nobody else is likely to use, so that the fixed ports are free."""
    return '127.%d.%d.%d' % (random.randint(64, 127), random.randint(1, 254), random.randint(1, 254))


@contextlib.contextmanager
def run(host, command=(ROOT / 'scripts' / 'run',)):
    """scripts/run as a child in a process group of its own; gives the process and the lines it printed."""
    environment = dict(os.environ, HARK_BUILD=BUILD, HARK_RUN_HOST=host)
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What is ignored where the tests were started, in the background of a shell, bash could not trap.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip('\n'))
            if line.startswith('Ctrl-C'):
                break
        yield process, lines
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def children_of(pid):
    return [int(p) for p in pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]


def test_every_line_that_run_prints_to_try_works():
    host = own_host()
    with run(host) as (process, lines):
        assert process.poll() is None, process.stderr.read()
        tries = [line.strip() for line in lines if re.match(r' {8,}\S', line)]
        assert len(tries) >= 16, lines
        for line in tries:
            done = subprocess.run(['bash', '-c', line], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
            if '/hark loggedin ' in line:  # whether we are is not known here; either answer is one
                assert done.returncode == ('is not logged in' in done.stdout), f'{line}: {done}'
                assert 'logged in' in done.stdout
                continue
            assert done.returncode == 0, f'{line}: {done.returncode}: {done.stdout}{done.stderr}'
            # Nobody may be logged in, and discard never answers.
            assert done.stdout.strip() or '/hark users ' in line or f'{host}:7009' in line, f'{line}: no output'
            if 'echo hello' in line and f'{host}:7007' in line:
                assert done.stdout == 'hello\n'
            if f'{host}:7070' in line:
                assert done.stdout == 'HELLO\n'


def alive(pid):
    """Whether it still runs: one that nobody has waited for yet has ended."""
    try:
        return pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_run_ends_its_services_with_itself(number):
    with run(own_host()) as (process, _):
        (harkd,) = children_of(process.pid)
        children = [harkd, *children_of(harkd)]
        assert len(children) >= 8
        process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        assert [pid for pid in children if alive(pid)] == []


def test_make_run_ends_its_services_when_make_is_ended():
    host = own_host()
    with run(host, ('make', '-s', 'run', f'BUILD={BUILD}')) as (process, _):
        (script,) = children_of(process.pid)
        (harkd,) = children_of(script)
        services = [harkd, *children_of(harkd)]
        assert len(services) >= 8
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)  # until the last of them has closed its standard error
        assert [pid for pid in [script, *services] if alive(pid)] == []


def test_run_names_the_port_that_is_taken_and_leaves_nothing_behind():
    host = own_host()
    with socket.create_server((host, 7013)):
        with run(host) as (process, _):
            _, errors = process.communicate(timeout=PATIENCE)
            assert process.returncode == 111
            assert f'{host}:7013' in errors and 'in use' in errors
    # Whatever was started before is gone: its port is free again.
    socket.create_server((host, 7007)).close()
