"""What the README and the manual print to be typed works as it stands."""
import contextlib
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get('HARK_BUILD', 'build')
PATIENCE = 60  # seconds


def fenced(language):
    return re.findall(rf'^```{language}\n(.*?)^```$', (ROOT / 'README.md').read_text(), re.S | re.M)


def test_the_tour_works_as_it_is_printed(tmp_path):
    (tour,) = fenced('sh')
    assert len(tour.splitlines()) == 10
    # Every line, in one shell, in a place where build/ is the build under test.
    (tmp_path / 'build').symlink_to(BUILD)
    # What it starts must not outlive it, even where it fails: a session of its own, which ends with the test.
    # The lines are its standard input, as where they are pasted: none may be read by what an earlier one calls.
    shell = subprocess.Popen(
        ['bash', '-e'],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, errors = shell.communicate(tour, timeout=PATIENCE)
        assert shell.returncode == 0, out + errors
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.communicate()
    said = out.splitlines()
    assert said.count('hello') == 1 and said.count('HELLO') == 1, out
    assert len([line for line in said if re.search(r'\d{4}-\d\d-\d\dT\d\d:\d\d', line)]) == 2, out


@pytest.mark.skipif(not shutil.which('openssl'), reason='openssl is not installed')
def test_tls_works_as_the_manual_shows_it(tmp_path):
    page = (ROOT / 'man' / 'hark-serve.1').read_text()
    block = re.search(r'^(openssl req -x509 .*?)^hark serve [^\n]* relay', page, re.S | re.M)[1]
    make, serve, call = re.fullmatch(r'(.*?)(hark serve [^\n]*\n)(echo hello .*\n)', block, re.S).groups()
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = str(free.getsockname()[1])
    script = f'{make}{serve.rstrip()} & sleep 1\n{call}kill $!\nwait\n'.replace('\\e', '\\')
    done = subprocess.run(
        ['bash', '-e', '-c', script],
        cwd=tmp_path,
        env={**os.environ, 'PATH': f'{BUILD}:{os.environ["PATH"]}'},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert 'HELLO' in done.stdout.splitlines(), done.stdout + done.stderr


def test_the_box_in_the_readme_is_the_one_of_the_example():
    (box,) = fenced('c')
    squeeze = re.compile(r'\s+|__attribute__\(\(unused\)\)')
    assert squeeze.sub('', box) in squeeze.sub('', (ROOT / 'examples' / 'echo.c').read_text())


def manual_example(tmp_path):
    page = (ROOT / 'man' / 'hark.3').read_text()
    block = re.search(r'^\.Bd -literal -offset indent\n(#include <hark\.h>.*?)^\.Ed$', page, re.S | re.M)[1]
    source = tmp_path / 'greet.c'
    source.write_text(block.replace('\\e', '\\').replace('\\&', ''))
    return source


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """A tree into which the build was installed."""
    tree = tmp_path_factory.mktemp('installed')
    done = subprocess.run(
        ['meson', 'install', '-C', BUILD, '--no-rebuild', '--destdir', tree],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return tree


def flags(tree, *options):
    (pc,) = tree.rglob('hark.pc')
    environment = dict(os.environ, PKG_CONFIG_PATH=str(pc.parent), PKG_CONFIG_SYSROOT_DIR=str(tree))
    done = subprocess.run(
        ['pkg-config', *options, 'hark'], env=environment, check=True, capture_output=True, text=True, timeout=PATIENCE
    )
    return shlex.split(done.stdout)


def test_programs_are_compiled_with_frames_probed(installed):
    assert '-fstack-clash-protection' in flags(installed, '--cflags')


@pytest.mark.skipif(
    BUILD.name in ('build-asan', 'build-tsan'), reason='a plain program cannot load a sanitized library'
)
@pytest.mark.parametrize('link', ['shared', 'static'])
def test_the_manuals_example_builds_against_the_installed_library_and_serves(installed, tmp_path, link):
    program = tmp_path / 'greet'
    wanted = (
        flags(installed, '--cflags', '--libs')
        if link == 'shared'
        else ['-static', *flags(installed, '--cflags', '--libs', '--static')]
    )
    source = manual_example(tmp_path)
    # The page listens on a fixed port; an abstract socket of our own is free for sure.
    name = f'unix:@hark-greet-{os.getpid()}-{link}'
    source.write_text(source.read_text().replace('tcp://127.0.0.1:7000', name))
    built = subprocess.run(
        ['cc', '-Wall', '-Wextra', '-Werror', '-o', program, source, *wanted],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert built.returncode == 0, built.stderr
    (library,) = installed.rglob('libhark.so')
    process = subprocess.Popen(
        [program], env=dict(os.environ, LD_LIBRARY_PATH=str(library.parent)), stderr=subprocess.PIPE, text=True
    )
    try:
        answer = converse(name[len('unix:') :], process)
        assert answer == b'Your name? Hello, world.\n'
        process.terminate()
        assert process.wait(PATIENCE) == 0, 'SIGTERM drains and the program ends in order'
    finally:
        process.kill()
        process.communicate()


def converse(name, process):
    """Tries to connect until the program listens; it must not end meanwhile."""
    end = time.monotonic() + PATIENCE
    with socket.socket(socket.AF_UNIX) as conn:
        conn.settimeout(PATIENCE)
        while True:
            try:
                conn.connect('\0' + name[1:])
                break
            except ConnectionRefusedError:
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < end
                time.sleep(0.01)
        conn.sendall(b'world\r\n')
        return b''.join(iter(lambda: conn.recv(4096), b''))


def test_the_installed_tree_has_the_header_both_libraries_and_the_pages(installed):
    for pattern in ('include/hark.h', 'libhark.a', 'libhark.so.0', 'man3/hark.3*', 'man3/hark_read.3*'):
        assert list(installed.rglob(pattern)), pattern


def test_each_verb_has_a_page_by_its_name_and_each_shell_its_completion(installed):
    listed = subprocess.run([BUILD / 'hark', '--help'], check=True, capture_output=True, text=True).stdout
    verbs = re.findall(r'^  ((?!hark )\w+) +[A-Z]', listed, re.M)
    assert len(verbs) >= 15
    wanted = [f'man1/hark-{verb}.1' for verb in verbs] + ['man1/hark.1', 'man8/harkd.8']
    wanted += ['bash-completion/completions/hark', 'bash-completion/completions/harkd', 'zsh/site-functions/_hark']
    wanted += ['fish/vendor_completions.d/hark.fish', 'fish/vendor_completions.d/harkd.fish']
    for path in wanted:
        found = list(installed.rglob(path))
        assert found and found[0].stat().st_size > 0, path


def test_make_builds_what_is_run_and_nothing_of_the_tests():
    makes = re.search(r'^build:.*?^$', (ROOT / 'Makefile').read_text(), re.S | re.M)[0]
    assert makes.endswith('scripts/build $(BUILD) programs\n')

    def told(what):
        words = ['ninja', '-C', BUILD, '-t', what, 'programs']
        done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=PATIENCE)
        return set(done.stdout.split())

    assert {'hark', 'harkd', 'lib/libhark.a', 'examples/echo'} <= told('query')
    assert '../tool/main.c' in told('inputs')
    assert not [path for path in told('inputs') if path.startswith('../tests/')]


def test_the_manual_page_is_sound():
    done = subprocess.run(
        ['mandoc', '-T', 'lint', '-W', 'warning', ROOT / 'man' / 'hark.3'],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stdout == ''
