"""scripts/check-floors finds each kind of breach, and names its file and line."""
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(tmp_path):
    """A copy of what the script looks at, to do wrong in."""
    for name in (
        'lib',
        'include',
        'boxes',
        'common',
        'program',
        'config',
        'import',
        'service',
        'daemon',
        'tool',
        'examples',
    ):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / 'scripts').mkdir()
    shutil.copy(ROOT / 'scripts' / 'check-floors', tmp_path / 'scripts')
    return tmp_path


def check(tree, *args):
    done = subprocess.run([tree / 'scripts' / 'check-floors', *args], capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout


def prepend(path, line):
    path.write_text(line + '\n' + path.read_text())


def test_the_tree_as_it_is_has_no_breach(tree):
    assert check(tree)[0] == 0


@pytest.mark.parametrize(
    'file, line, told',
    [
        ('lib/base/clock.c', '#include "conn/conn.h"', 'lib/base/clock.c:1: floor 1 includes "conn/conn.h" of floor 4'),
        (
            'lib/loop/engine.h',
            '#include "conn/conn.h"',
            'lib/loop/engine.h:1: floor 3 includes "conn/conn.h" of floor 4',
        ),
        ('lib/base/buffer.c', '#include "../boxes/box.h"', 'lib/base/buffer.c:1: includes "../boxes/box.h"'),
        ('lib/conn/conn.c', '#include "conn.h"', 'lib/conn/conn.c:1: includes "conn.h", which is not in lib/'),
        ('boxes/box.h', '#include "base/buffer.h"', 'boxes/box.h:1: includes "base/buffer.h" of lib/'),
        ('boxes/box.h', '#include "buffer.h"', 'boxes/box.h:1: includes "buffer.h" of lib/'),
        ('common/text.h', '#include "box.h"', 'common/text.h:1: includes "box.h" of boxes/: common/ sees hark.h alone'),
        (
            'boxes/echo.c',
            '#include "tool.h"',
            'boxes/echo.c:1: includes "tool.h" of tool/: boxes/ sees hark.h, common/',
        ),
        ('config/config.h', '#include "supervisor.h"', 'config/config.h:1: includes "supervisor.h" of daemon/'),
        ('tool/tool.h', '#include "supervisor.h"', 'tool/tool.h:1: includes "supervisor.h" of daemon/'),
        (
            'examples/echo.c',
            '#include "text.h"',
            'examples/echo.c:1: includes "text.h" of common/: examples/ sees hark.h alone',
        ),
        (
            'examples/meson.build',
            "executable('x', 'x.c', dependencies: hark_internal_dep)",
            'examples/meson.build:1: reaches inside lib/',
        ),
    ],
)
def test_an_include_from_the_wrong_floor_is_named(tree, file, line, told):
    prepend(tree / file, line)
    code, said = check(tree)
    assert code == 1
    assert told in said


def test_a_file_on_no_floor_is_named(tree):
    (tree / 'lib' / 'attic.c').write_text('int attic;\n')
    code, said = check(tree)
    assert code == 1
    assert 'lib/attic.c:1: is on no floor' in said


def test_a_public_header_that_grew_too_long_is_named(tree):
    header = tree / 'include' / 'hark.h'
    header.write_text(header.read_text() + '/* more */\n' * 1000)
    code, said = check(tree)
    assert code == 1
    assert 'include/hark.h:' in said and '1000 is the limit' in said


def test_a_stray_exported_symbol_is_named(tree):
    (tree / 'stray.c').write_text('int hark_good(void); int hark_good(void) { return 0; }\nint stray = 1;\n')
    library = tree / 'libstray.so'
    subprocess.run(['cc', '-shared', '-fPIC', '-o', library, tree / 'stray.c'], check=True, timeout=60)
    code, said = check(tree, library)
    assert code == 1
    assert 'exports stray' in said and 'hark_good' not in said
