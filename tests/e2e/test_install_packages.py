"""scripts/install-packages, with dpkg-query, apt-get and id played by scripts: nothing on this machine is touched."""
import os
import pathlib
import subprocess

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / 'scripts' / 'install-packages'


@pytest.fixture
def system(tmp_path):
    """Runs the script on a system where packages may lack; gives status, output, and the calls made to apt-get."""

    def play(name, body):
        path = tmp_path / name
        path.write_text('#!/bin/sh\n' + body)
        path.chmod(0o755)

    def run(*args, uid, lacks=(), install_fails_once=False):
        calls = tmp_path / 'calls'
        asked = tmp_path / 'asked'
        play('id', f'echo {uid}\n')
        play('haproxy', '')  # else it is fetched
        lacking = ' '.join(lacks)
        # dpkg-query -W -f FORMAT PACKAGE...: a line for each it knows.
        play(
            'dpkg-query',
            f'echo asked >>{asked}\nshift 3\n'
            f'for p; do case " {lacking} " in *" $p "*) ;; *) echo "$p installed";; esac; done\n',
        )
        play(
            'apt-get',
            f'echo "$*" >>{calls}\n'
            + (
                f'case "$*" in *install*) [ -e {tmp_path}/failed ] || {{ : >{tmp_path}/failed; exit 100; }};; esac\n'
                if install_fails_once
                else ''
            ),
        )
        for log in (calls, asked):
            log.unlink(missing_ok=True)
        done = subprocess.run(
            [SCRIPT, *args],
            env=dict(os.environ, PATH=f'{tmp_path}:/usr/bin:/bin'),
            capture_output=True,
            text=True,
            timeout=30,
        )
        made = calls.read_text().splitlines() if calls.exists() else []
        return done.returncode, done.stdout + done.stderr, made, len(asked.read_text().splitlines())

    return run


@pytest.mark.parametrize('uid', [0, 1000])
def test_when_all_is_there_it_asks_once_and_does_nothing(system, uid):
    assert system(uid=uid) == (0, '', [], 1)


def test_an_ordinary_user_is_told_the_one_command(system):
    status, said, calls, _ = system('build', uid=1000, lacks=['meson', 'gcc'])
    assert status == 1 and calls == []
    assert 'gcc meson' in said
    assert said.splitlines()[-1].strip() == f'sudo {SCRIPT} build'


def test_root_installs_what_is_missing_and_nothing_else(system):
    status, _, calls, _ = system(uid=0, lacks=['socat', 'meson'])
    assert status == 0
    (install,) = [call for call in calls if 'install' in call]
    assert install.endswith('install --no-install-recommends meson socat')


def test_stale_package_lists_are_mended_by_one_update(system):
    status, _, calls, _ = system(uid=0, lacks=['socat'], install_fails_once=True)
    assert status == 0
    assert [('update' in call, 'install' in call) for call in calls[-3:]] == [
        (False, True),
        (True, False),
        (False, True),
    ]


def test_the_measurements_need_their_peers_and_the_tests_do_not(system):
    assert system('test', uid=1000, lacks=['ucspi-tcp', 'golang-go'])[0] == 0
    assert system('bench', uid=1000, lacks=['ucspi-tcp', 'golang-go'])[0] == 1


def test_packaging_needs_its_tools_and_the_tests_do_not(system):
    assert system('test', uid=1000, lacks=['debhelper', 'lintian', 'debootstrap'])[0] == 0
    assert system('deb', uid=1000, lacks=['debhelper'])[0] == 1
