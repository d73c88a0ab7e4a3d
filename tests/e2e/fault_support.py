"""Running programs in which the Nth system call or allocation fails: tests/faults/fail_calls.c stands before the C
library in each process that is started with env(), and looks at a board that is shared with it.

A sweep goes through each call that was seen, each error that it may tell, and each use of it; where there are many
uses, through so many of them, spread. HARK_FAULTS=more goes through four times as many, HARK_FAULTS=all through all;
HARK_FAULTS=loud has it tell where it struck.
"""
import collections
import contextlib
import ctypes
import errno
import mmap
import os
import signal
import time

import pytest

from conftest import wait_until

FAULTS = os.environ.get("HARK_FAULTS", "")
LIBRARY = os.path.join(os.path.abspath(os.environ.get("HARK_BUILD", "build")), "tests/faults/fail_calls.so")
HANG = 10  # seconds that nothing may take

Case = collections.namedtuple("Case", "call error nth")


def names_of(library):
    library.fail_calls_name.restype = ctypes.c_char_p
    names = []
    while name := library.fail_calls_name(len(names)):
        names.append(name.decode())
    return names


class Faults:
    def __init__(self, path):
        self.library = ctypes.CDLL(LIBRARY)
        self.names = names_of(self.library)
        fields = "armed call error left of alone since serial fired loud live".split()

        class Board(ctypes.Structure):
            _fields_ = [(f, ctypes.c_int) for f in fields] + [("uses", ctypes.c_int * len(self.names))]

        path.write_bytes(bytes(ctypes.sizeof(Board)))
        self.path = path
        with open(path, "r+b") as f:
            self.board = Board.from_buffer(mmap.mmap(f.fileno(), 0))
        self.board.loud = FAULTS == "loud"
        self.seen = 0  # cases that struck

    def env(self, **more):
        """Under AddressSanitizer, whose malloc() ours calls, the order of the two is no mistake."""
        own = {"LD_PRELOAD": LIBRARY, "HARK_FAIL_BOARD": str(self.path)}
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS"):
            own[name] = os.environ.get(name, "") + ":allocator_may_return_null=1:halt_on_error=1"
        own["ASAN_OPTIONS"] += ":verify_asan_link_order=0:abort_on_error=1:disable_coredump=1"
        return {**os.environ, **own, **more}

    def errors(self, call):
        i, found, n = self.names.index(call), [], 0
        while error := self.library.fail_calls_error(i, n):
            found.append(error)
            n += 1
        return found

    @contextlib.contextmanager
    def armed(self, case=None, of=0, alone=False, new=False):
        """of: a process and what it forks, or it alone; new: those that begin from now on; case None: nothing fails."""
        b = self.board
        b.call = self.names.index(case.call) if case else -1
        b.error, b.left = (case.error, case.nth) if case else (0, 0)
        b.of, b.alone, b.since, b.fired = of, alone, b.serial + 1 if new else 0, 0
        ctypes.memset(b.uses, 0, ctypes.sizeof(b.uses))
        b.armed = 1
        try:
            yield b
        finally:
            b.armed = 0
        self.seen += b.fired != 0

    def uses(self, what, **where):
        """How often what() has each call used."""
        with self.armed(**where) as b:
            what()
        return {name: b.uses[i] for i, name in enumerate(self.names) if b.uses[i] > 0}

    def cases(self, uses, many=40, but=()):
        """many: uses of one call, at most; a fifth of them the first ones, the others spread over the rest."""
        many = many if FAULTS in ("more", "all") else max(2, many // 4)
        for call, n in uses.items():
            if call in but:
                continue
            first = many // 5
            spread = range(first + 1, n + 1, max(1, -(-(n - first) // (many - first))))
            nths = range(1, n + 1) if n <= many or FAULTS == "all" else [*range(1, first + 1), *spread]
            for error in self.errors(call):
                for nth in nths:
                    yield Case(call, error, nth)


def told(case):
    return f"{case.call} fails by {errno.errorcode[case.error]} at its use {case.nth}"


@contextlib.contextmanager
def naming(case):
    """A failure names the case."""
    try:
        yield
    except (Exception, pytest.fail.Exception) as e:
        raise AssertionError(f"{told(case)}: {type(e).__name__}: {e}") from e


def descriptors(pid):
    """Of a process, what each one is: kinds, where numbers say nothing."""
    kinds = collections.Counter()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            kinds[os.readlink(f"/proc/{pid}/fd/{fd}").split("[")[0]] += 1
    return kinds


def wait_for_descriptors(pid, before):
    deadline = time.monotonic() + HANG
    while (now := descriptors(pid)) != before:
        assert time.monotonic() < deadline, f"{pid} holds {now - before} more, {before - now} less"
        time.sleep(0.001)


def end_now(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))


@pytest.fixture
def faults(tmp_path):
    if "tsan" in LIBRARY:
        pytest.skip("ThreadSanitizer's runtime cannot stand behind another malloc()")
    return Faults(tmp_path / "board")
