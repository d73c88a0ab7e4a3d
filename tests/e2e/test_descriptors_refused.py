"""Where close_range(2) is refused, as old seccomp filters do, nothing is left open in programs and workers either."""
import ctypes
import errno
import os
import platform
import struct

import pytest

from conftest import MODELS, Service, read_all, wait_until
from harkd_support import harkd, service  # noqa: F401 harkd is a fixture

CLOSE_RANGE = 436  # on every architecture
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2


def refuse_close_range():
    """Between fork and exec: from now on close_range(2) fails with EPERM, here and in all children."""
    steps = [
        (0x20, 0, 0, 0),  # load the call's number
        (0x15, 0, 1, CLOSE_RANGE),  # if it is that one
        (0x06, 0, 0, 0x00050000 | errno.EPERM),  # SECCOMP_RET_ERRNO
        (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if (
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
        or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program) != 0
    ):
        os._exit(99)


def run_program(server):
    with server.connect() as s:
        return read_all(s)


pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="one filter for 64 bits")


@pytest.mark.parametrize("model", MODELS)
def test_what_the_server_inherited_open_does_not_leak_into_a_program(hark, start, model):
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    high = os.dup2(write_end, 900, inheritable=True)

    try:
        process = Service(
            [hark, "serve", "--model", model, "tcp://127.0.0.1:0", "--", "ls", "/proc/self/fd"],
            pass_fds=[write_end, high],
            preexec_fn=refuse_close_range,
        )
        try:
            wait_until(lambda: process.addresses or process.process.poll() is not None)
            assert run_program(process).split() == [b"0", b"1", b"2", b"3"]  # 3: the directory that ls reads
        finally:
            process.end()
    finally:
        for fd in (read_end, write_end, high):
            os.close(fd)


def test_a_worker_keeps_its_own_sockets_alone(harkd):
    d = harkd(
        service("one", "box = echo") + service("two", "box = daytime") + service("three", "exec = /bin/cat"),
        preexec_fn=refuse_close_range,
    )
    plain = {}
    for name in ("one", "two", "three"):
        (pid,) = d.workers(name)
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        plain[name] = {link for link in links if link.startswith("socket:")}
    assert all(len(sockets) == 1 for sockets in plain.values()), plain
    assert len(set.union(*plain.values())) == 3
