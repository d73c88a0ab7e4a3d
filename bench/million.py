"""bench/run million — a million connections that have spoken once and idle, server and clients on this machine: the
user memory of both, what the kernel takes beside it, and an echo on a thousand of them at random.

A process may hold so many descriptors and no more (RLIMIT_NOFILE, hard), so the server is as many workers, and the
clients are as many processes (hold.c), each from a loopback address of its own, whose ports it has to itself."""

import contextlib
import os
import random
import re
import resource
import subprocess
import time

import harness
from harness import Failure, Process, Server, format_number, read_line

COUNT = 1000000
SPARE = 100  # descriptors that a process has beside its connections
PORTS = 25000  # connections from one address, of the 28,232 that ip_local_port_range has by default
WORKERS_MAX = 64
OPEN_LIMIT = 1800  # seconds
STILL = 4  # seconds after which all stacks are put aside
ASKED = 1000  # connections that echo again
ENGINES = ("epoll", "uring")


def _fields(path, pattern):
    with open(path) as f:
        return {name: int(value) for name, value in re.findall(pattern, f.read(), re.MULTILINE)}


def kernel_memory():
    """Bytes: what is available to anybody, and what the kernel holds of what is not."""
    kb = _fields("/proc/meminfo", r"^(\w+): +(\d+) kB")
    names = ("MemAvailable", "Slab", "PageTables", "KernelStack", "Percpu")
    return {name: 1024 * kb.get(name, 0) for name in names}


def sockets():
    """TCP sockets that the kernel knows, and the pages of their buffers."""
    with open("/proc/net/sockstat") as f:
        found = re.search(r"^TCP: inuse (\d+).* alloc (\d+) mem (\d+)", f.read(), re.MULTILINE)
    return {"inuse": int(found[1]), "alloc": int(found[2]), "pages": int(found[3])}


def user_memory(pids):
    """Bytes that would be free without these processes, and their proportional share of what they share."""
    total = {"private": 0, "pss": 0}
    for pid in pids:
        try:
            kb = _fields(f"/proc/{pid}/smaps_rollup", r"^(\w+): +(\d+) kB")
        except OSError:
            continue
        total["private"] += 1024 * (kb["Private_Clean"] + kb["Private_Dirty"] + kb.get("Swap", 0))
        total["pss"] += 1024 * (kb["Pss"] + kb.get("SwapPss", 0))
    return total


def shares(count, limit):
    """count in as few equal parts as the limit allows."""
    parts = -(-count // limit)
    return [count // parts + (i < count % parts) for i in range(parts)]


class Holders:
    """The clients, all connected, for the length of the stack."""

    def __init__(self, bench, stack, address, parts):
        self.processes = [self._start(bench, stack, address, n, i) for i, n in enumerate(parts)]
        self.parts = parts
        until = time.monotonic() + OPEN_LIMIT
        for process, n in zip(self.processes, parts):
            self._expect(process, f"ready {n}", until - time.monotonic())

    def _start(self, bench, stack, address, connections, source):
        command = [bench.tool("hold"), "--connections", str(connections), "--source", str(source + 1), address]
        return stack.enter_context(
            Process(command, bench.client_core, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )

    def _expect(self, process, wanted, limit):
        line = read_line(process.popen.stdout, limit).strip()
        if not line.startswith(wanted):
            process.popen.kill()
            said = process.popen.stderr.read().decode(errors="replace").strip()
            raise Failure(said or f"a client said {line!r} instead of {wanted!r}")
        return line

    def pids(self):
        return [process.pid for process in self.processes]

    def echo(self, count):
        """An echo on so many, wherever they are. Returns the slowest median and the longest, in microseconds."""
        chosen = random.choices(range(len(self.parts)), weights=self.parts, k=count)
        median = longest = 0
        for i, process in enumerate(self.processes):
            k = chosen.count(i)
            if k == 0:
                continue
            process.popen.stdin.write(f"echo {k}\n".encode())
            process.popen.stdin.flush()
            words = self._expect(process, f"echoed {k} ", 120).split()
            median, longest = max(median, float(words[2])), max(longest, float(words[3]))
        return median, longest

    def held(self):
        total = 0
        for process in self.processes:
            process.popen.stdin.close()
        for process in self.processes:
            total += int(self._expect(process, "held ", 120).split()[1])
        return total


def settle(pids):
    before = None
    until = time.monotonic() + 60
    while time.monotonic() < until:
        time.sleep(STILL)
        now = user_memory(pids)["private"]
        if now == before:
            break
        before = now


def measure(bench, contender, count, limit):
    begun_kernel, begun_sockets = kernel_memory(), sockets()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(contender, bench.server_core, bench.scratch))
        base = user_memory(harness.tree(server.pid))
        begun = time.monotonic()
        with contextlib.ExitStack() as clients:
            holders = Holders(bench, clients, server.address, shares(count, min(limit, PORTS)))
            opened = time.monotonic() - begun
            settle(harness.tree(server.pid) + holders.pids())
            served, held = user_memory(harness.tree(server.pid)), user_memory(holders.pids())
            now_kernel, now_sockets = kernel_memory(), sockets()
            median, longest = holders.echo(min(ASKED, count))
            alive = holders.held()
    taken = begun_kernel["MemAvailable"] - now_kernel["MemAvailable"]
    return {
        "server_bytes": served["private"],
        "server_pss_bytes": served["pss"],
        "server_base_bytes": base["private"],
        "server_bytes_each": (served["private"] - base["private"]) / count,
        "clients_bytes": held["private"],
        "clients_pss_bytes": held["pss"],
        "user_pss_bytes": served["pss"] + held["pss"],
        "taken_bytes": taken,
        "kernel_bytes": taken - served["pss"] - held["pss"],
        "slab_bytes": now_kernel["Slab"] - begun_kernel["Slab"],
        "page_table_bytes": now_kernel["PageTables"] - begun_kernel["PageTables"],
        "sockets": now_sockets["inuse"] - begun_sockets["inuse"],
        "socket_buffer_bytes": (now_sockets["pages"] - begun_sockets["pages"]) * resource.getpagesize(),
        "open_seconds": opened,
        "opened_per_second": count / opened,
        "echo_median_us": median,
        "echo_max_us": longest,
        "held": alive,
        "remark": None if alive == count else f"{count - alive} connections were ended",
    }


def run_million(bench):
    count = bench.options.conns or COUNT
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE
    workers = len(shares(count, limit))
    if workers > WORKERS_MAX:
        raise Failure(f"{limit} descriptors a process, and {WORKERS_MAX} workers at most, are too few")
    more = ["--workers", str(workers), "--max-conns", str(limit)]
    contenders = bench.chosen([bench.hark(f"hark-{e}", "echo", e, more=more) for e in ENGINES])
    results = harness.take_rounds(
        contenders, bench.rounds(1), lambda c: measure(bench, c, count, limit), bench.progress
    )

    def of(name, field, scale=1.0, digits=0):
        value = harness.median(results[name], field)
        return format_number(None if value is None else value / scale, digits)

    lines = [
        ("user memory, server: MB", "server_bytes", 1e6, 1),
        ("  of it, workers without a connection", "server_base_bytes", 1e6, 1),
        ("  a connection: bytes", "server_bytes_each", 1, 0),
        ("user memory, clients: MB", "clients_bytes", 1e6, 1),
        ("user memory, both, shared pages once: MB", "user_pss_bytes", 1e6, 1),
        ("kernel memory beside it: MB", "kernel_bytes", 1e6, 0),
        ("  of it, slab (sockets, files): MB", "slab_bytes", 1e6, 0),
        ("  of it, page tables: MB", "page_table_bytes", 1e6, 0),
        ("  of it, socket buffers: MB", "socket_buffer_bytes", 1e6, 1),
        ("TCP sockets, both ends", "sockets", 1, 0),
        ("time to open, each with its echo: s", "open_seconds", 1, 1),
        ("  a second", "opened_per_second", 1, 0),
        (f"echo on {min(ASKED, count)} at random: median µs", "echo_median_us", 1, 0),
        ("  longest µs", "echo_max_us", 1, 0),
        ("held to the end", "held", 1, 0),
    ]
    rows = [[text] + [of(c.name, *how) for c in contenders] + [""] for text, *how in lines]
    title = f"million: {count} connections that have spoken once and idle"
    notes = [f"{c.name}: {note}" for c in contenders for note in harness.notes_on(c, results[c.name])]
    clients = len(shares(count, min(limit, PORTS)))
    bound = f"{limit + SPARE} descriptors a process: {workers} workers, {clients} client processes"
    if contenders:
        harness.print_table(title, [""] + [c.name for c in contenders] + [""], rows, [bound] + notes)
        bench.keep(title, None, contenders, results)
