"""Section 3 of the manual: scripts/make-man3 makes a page of each public function's comment in hark.h."""
import os
import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get('HARK_BUILD', ROOT / 'build')).resolve()
MAKE = ROOT / 'scripts' / 'make-man3'


def run(*args, **more):
    return subprocess.run(args, capture_output=True, text=True, timeout=60, **more)


def exported():
    library = BUILD / 'lib' / 'libhark.so'
    return {line.split()[2].split('@')[0] for line in run('nm', '-D', library).stdout.splitlines() if ' T ' in line}


PAGES = sorted((BUILD / 'man').glob('*.3'))


def test_every_exported_function_has_a_page_and_nothing_else_has_one():
    assert {page.stem for page in PAGES} == exported() | {'hark'}


@pytest.mark.skipif(not shutil.which('mandoc'), reason='mandoc is not installed')
def test_the_pages_are_well_formed():
    assert run('mandoc', '-T', 'lint', '-W', 'warning', *PAGES).stdout == ''


@pytest.mark.skipif(not shutil.which('man'), reason='man is not installed')
@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_man_shows_what_a_caller_needs(page):
    shown = run('man', '-l', page, env={**os.environ, 'MANWIDTH': '80', 'MAN_KEEP_FORMATTING': '', 'LC_ALL': 'C.UTF-8'})
    text = re.sub(r'\x1b\[[\d;]*m|.\x08', '', shown.stdout)
    assert shown.returncode == 0 and shown.stderr == ''
    parts = dict(re.findall(r'^([A-Z][A-Z ]+)\n((?:\n|[ \t].*\n)+)', text, re.M))
    assert all(body.strip() for body in parts.values())
    assert re.match(rf' +.*\b{page.stem}\b.* — \S', parts['NAME'])
    assert '#include <hark.h>' in parts['SYNOPSIS'] and f'{page.stem}(' in parts['SYNOPSIS'] or page.stem == 'hark'
    assert len(parts['DESCRIPTION'].split()) > 2
    if page.stem != 'hark':
        assert 'uspend' in parts['ATTRIBUTES'] or 'Async-signal-safe' in parts['ATTRIBUTES']
        results = re.findall(r'^     (\S.*)\n     \*?hark_', parts['SYNOPSIS'], re.M)
        assert ('RETURN VALUES' in parts) == any(result != 'void' for result in results)
        assert 'hark(3)' in parts['SEE ALSO']


def test_the_overview_lists_every_function():
    page = (BUILD / 'man' / 'hark.3').read_text()
    assert set(re.findall(r'^\.Xr (hark_\w+) 3', page, re.M)) == exported()
    assert 'close-on-exec' in page and 'from hark.h' not in page


HEADER = '''/* hark.h — a header.
 *
 *   - it returns
 */
#define HARK_FAST 1 /* no waiting */
#define HARK_SLOW 2 /* none of its business */

/* ---- first --------------------------
 *
 * What both have in common. */

/* What to do. */
struct hark_opts {
	int speed; /* HARK_FAST, or 0 */
	/* Whom to tell. */
	void (*tell)(void *arg);
	void *arg;
};

/* Opens a door, at once if it can. May suspend. Returns 0; -ENOENT: there is no door; see open(2).
 * -EBUSY: hark_close() has not returned. */
int hark_open(const char *path, const struct hark_opts *opts);

/* Closes it. */
void hark_close(int door);
void hark_slam(int door);
'''


@pytest.fixture
def make(tmp_path):
    """make(header) writes its pages, and returns the exit status and what was said."""

    def make(header):
        (tmp_path / 'hark.h').write_text(header)
        (tmp_path / 'hark.3').write_text(
            '.Dd July 1, 2026\n.\\" conventions: from hark.h\n.\\" functions: from hark.h\n'
        )
        (tmp_path / 'out').mkdir()
        done = run(MAKE, tmp_path / 'hark.h', tmp_path / 'hark.3', tmp_path / 'out')
        return done.returncode, done.stderr.replace(str(tmp_path), '')

    return make


def test_sentences_types_and_constants_go_where_they_belong(make, tmp_path):
    assert make(HEADER) == (0, '')
    page = (tmp_path / 'out' / 'hark_open.3').read_text()
    section = dict(re.findall(r'^\.Sh (.*)\n((?:(?!\.Sh).*\n)*)', page, re.M))
    assert section['NAME'] == '.Nm hark_open\n.Nd opens a door, at once if it can\n'
    assert '.Ft int\n.Fo hark_open\n.Fa "const char *path"\n.Fa "const struct hark_opts *opts"\n' in section['SYNOPSIS']
    assert section['DESCRIPTION'].startswith('Opens a door, at once if it can.\n.Ss First\nWhat both have in common.\n')
    assert '.Ss struct hark_opts\nWhat to do.\n' in section['DESCRIPTION']
    assert '.It Fa "int speed"\n.Dv HARK_FAST ,\nor 0\n' in section['DESCRIPTION']
    assert '.It Fa "void (*tell)(void *arg)"\n.It Fa "void *arg"\nWhom to tell.\n' in section['DESCRIPTION']
    assert '.It Dv HARK_FAST\nno waiting\n' in section['DESCRIPTION'] and 'HARK_SLOW' not in page
    assert section['RETURN VALUES'] == (
        'Returns 0;\n.Er -ENOENT :\nthere is no door; see\n.Xr open 2 .\n'
        '.Er -EBUSY :\n.Xr hark_close 3\nhas not returned.\n'
    )
    assert section['ATTRIBUTES'].startswith('May suspend.\n')
    assert section['SEE ALSO'] == '.Xr open 2 ,\n.Xr hark 3 ,\n.Xr hark_close 3\n'


def test_functions_that_share_a_comment_share_a_page(make, tmp_path):
    assert make(HEADER) == (0, '')
    text = (tmp_path / 'out' / 'hark_slam.3').read_text()
    assert text == (tmp_path / 'out' / 'hark_close.3').read_text()
    assert '.Nm hark_close ,\n.Nm hark_slam\n' in text and 'RETURN VALUES' not in text


@pytest.mark.parametrize(
    'old, new, told',
    [
        ('/* Closes it. */\n', '', '/hark.h:24: hark_close() has no comment, so no manual page\n'),
        ('/* Closes it. */\n', '/* Closes it. */\n\n', '/hark.h:26: hark_close() has no comment, so no manual page\n'),
        ('hark_close() has', 'hark_shut() has', '/hark.h: hark_shut() is named, and no function\n'),
        ('int hark_open', 'int open', '/hark.h:22: is no declaration that this script knows: int open('),
    ],
)
def test_what_is_against_the_grammar_is_named(make, old, new, told):
    assert HEADER.count(old) == 1
    code, said = make(HEADER.replace(old, new))
    assert code == 1 and said.startswith(told)
