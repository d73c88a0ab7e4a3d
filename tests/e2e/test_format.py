"""The tree is in the one dialect; and scripts/format finds each kind of departure, and names its file and line."""
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def check(root, *parts):
    args = [root / 'scripts' / 'format', '--check', *parts]
    done = subprocess.run(args, capture_output=True, text=True, timeout=300)
    assert done.stderr == ''
    return done.returncode, done.stdout


def check_or_skip(root, part):
    code, said = check(root, part)
    if code == 77:
        pytest.skip(said.strip())
    return code, said


@pytest.mark.parametrize('part', ['c', 'python', 'columns'])
def test_the_tree_is_in_the_one_dialect(part):
    code, said = check_or_skip(ROOT, part)
    assert (code, said) == (0, ''), f'{said}`make format` formats C and Python; long lines are broken by hand'


@pytest.fixture
def tree(tmp_path):
    """A tree of its own, without a fault."""
    (tmp_path / 'scripts').mkdir()
    shutil.copy(ROOT / 'scripts' / 'format', tmp_path / 'scripts')
    shutil.copy(ROOT / '.clang-format', tmp_path)
    (tmp_path / 'good.c').write_text('int f(void)\n{\n\treturn 1;\n}\n')
    (tmp_path / 'good.py').write_text("print('é' * 10)\n")
    (tmp_path / 'prose.md').write_text('word ' * 100)
    subprocess.run(['git', 'init', '-q', tmp_path], check=True, timeout=60)
    return tmp_path


@pytest.mark.parametrize('part', ['c', 'python', 'columns'])
def test_a_tree_without_a_fault_has_none(tree, part):
    assert check_or_skip(tree, part) == (0, '')


@pytest.mark.parametrize(
    'part, file, text, told',
    [
        ('c', 'bad.c', 'int f(void)\n{\n  return 1;\n}\n', 'bad.c:2:2: error: '),
        ('c', 'bad.h', 'int f( void );\n', 'bad.h:1:7: error: '),
        ('python', 'bad.py', 'print( 1 )\n', 'would reformat bad.py'),
        ('python', 'program', '#!/usr/bin/python3\nprint( 1 )\n', 'would reformat program'),
        ('python', 'bad.py', 'print(\n', 'cannot format bad.py'),
        ('columns', 'bad.S', '\n/* ' + 'word ' * 24 + '*/\n', 'bad.S:2: 125 columns; 120 is the limit\n'),
        ('columns', 'meson.build', '#' + 'é' * 120, 'meson.build:1: 121 columns; 120 is the limit\n'),
        ('columns', 'Makefile', 'x:\n' + '\t' * 15 + 'y\n', 'Makefile:2: 121 columns; 120 is the limit\n'),
    ],
)
def test_what_differs_is_named(tree, part, file, text, told):
    (tree / file).write_text(text)
    code, said = check_or_skip(tree, part)
    assert code == 1
    assert told in said
    assert (tree / file).read_text() == text


def test_without_check_it_is_mended(tree):
    (tree / 'bad.c').write_text('int f( void );\n')
    (tree / 'bad.py').write_text('print( 1 )\n')
    for part in ('c', 'python'):
        check_or_skip(tree, part)
    subprocess.run([tree / 'scripts' / 'format'], check=True, capture_output=True, timeout=60)
    assert (tree / 'bad.c').read_text() == 'int f(void);\n'
    assert (tree / 'bad.py').read_text() == 'print(1)\n'


@pytest.mark.parametrize('part, tool', [('c', 'clang-format'), ('python', 'black')])
def test_another_version_of_a_formatter_judges_nothing(tree, tmp_path, monkeypatch, part, tool):
    (tree / 'bad.c').write_text('int f( void );\n')
    (tree / 'bad.py').write_text('print( 1 )\n')
    bin = tmp_path / 'bin'
    bin.mkdir()
    (bin / 'git').symlink_to(shutil.which('git'))
    (bin / tool).write_text(f'#!/bin/sh\necho "{tool} version 99.1"\n')
    (bin / tool).chmod(0o755)
    monkeypatch.setenv('PATH', str(bin))
    code, said = check(tree, part)
    assert code == 77
    assert said.startswith(f'skipped: {part}: {tool} ') and said.endswith(f'decides, here is: {tool} version 99.1\n')
