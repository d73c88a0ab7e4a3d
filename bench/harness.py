"""What every measurement of bench/run is made of: a server on one core, a client on another, rounds
in turn, medians, a table.

Whatever is started here is ended here, by its process id and within a time limit, on every way out:
this process is the reaper of all its descendants, so that even a server's orphans come back to it."""

import contextlib
import ctypes
import json
import os
import platform
import re
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

START_LIMIT = 10  # seconds for a server to say where it listens
STOP_LIMIT = 5  # seconds from SIGTERM to SIGKILL
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


class Failure(Exception):
    """A contender could not be measured; the text says why and goes into its row."""


def become_reaper():
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def raise_descriptor_limit():
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# ---- processes ------------------------------------------------------------------------------------


def _parents():
    """Every process's parent, by process id."""
    parents = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as f:
                parents[int(entry)] = int(f.read().rsplit(b")", 1)[1].split()[1])
        except OSError:
            pass
    return parents


def tree(root):
    """A process and its living descendants."""
    parents, members, grew = _parents(), {root}, True
    while grew:
        more = {pid for pid, parent in parents.items() if parent in members and pid not in members}
        members |= more
        grew = bool(more)
    return sorted(members)


def _start(command, core, **how):
    def pin():
        os.sched_setaffinity(0, {core})
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

    return subprocess.Popen(command, preexec_fn=pin, start_new_session=True, **how)


def _ended(process):
    """Whether it has ended; leaves it unreaped, so that its id and its group's stay its own."""
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _wait_ended(process, limit):
    until = time.monotonic() + limit
    while not _ended(process):
        if time.monotonic() > until:
            return False
        time.sleep(0.03)
    return True


def _stop(process):
    """Ends a process we started and all that remains of its descendants."""
    if process.returncode is None:
        if not _ended(process):
            os.kill(process.pid, signal.SIGTERM)
            _wait_ended(process, STOP_LIMIT)
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        process.wait(STOP_LIMIT)
    _end_orphans()


def _end_orphans():
    """Ends and reaps descendants whose own parents are gone: they are our children now."""
    until = time.monotonic() + STOP_LIMIT
    while time.monotonic() < until:
        orphans = [pid for pid, parent in _parents().items() if parent == os.getpid() and pid not in _running]
        if not orphans:
            return
        for pid in orphans:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass


_running = {}  # by process id


class Process:
    """A started process, ended when the `with` block is left."""

    def __init__(self, command, core, **how):
        self.popen = _start(command, core, **how)
        self.pid = self.popen.pid
        _running[self.pid] = self.popen

    def __enter__(self):
        return self

    def __exit__(self, *_):
        _stop(self.popen)
        _running.pop(self.pid, None)
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream:
                stream.close()


def end_all():
    """For the way out: ends what an interrupted `with` block left."""
    for popen in list(_running.values()):
        _stop(popen)
    _running.clear()


def run_to_end(command, core, limit, **how):
    """Runs a command on a core. Returns its exit status, standard output and standard error."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        how.setdefault("stdout", out)
        with Process(command, core, stdin=subprocess.DEVNULL, stderr=err, **how) as p:
            if not _wait_ended(p.popen, limit):
                raise Failure(f"{os.path.basename(command[0])} did not end within {limit:.0f} s")
            status = p.popen.wait()
        out.seek(0)
        err.seek(0)
        return status, out.read().decode(errors="replace"), err.read().decode(errors="replace")


def read_line(stream, limit):
    """A line of a pipe, within a limit of seconds; what there is, if it ends before."""
    line, until = b"", time.monotonic() + limit
    while not line.endswith(b"\n") and time.monotonic() < until:
        if not select.select([stream], [], [], 0.5)[0]:
            continue
        byte = os.read(stream.fileno(), 1)
        if not byte:
            break
        line += byte
    return line.decode()


# ---- servers --------------------------------------------------------------------------------------


def free_port():
    """A port that was free just now, for servers that cannot choose one themselves."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A contender, running and accepting, for the length of a `with` block."""

    def __init__(self, contender, core, scratch):
        self.contender = contender
        self.port = contender.fixed_port or (free_port() if contender.needs_port else 0)
        command = contender.command(self.port, scratch)
        self.log = tempfile.TemporaryFile()
        environment = dict(os.environ, **contender.environment)
        self.process = Process(
            command, core, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=environment, cwd="/"
        )
        self.pid = self.process.pid

    def __enter__(self):
        try:
            self._wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.__exit__()
        self.log.close()

    def _output(self):
        return os.pread(self.log.fileno(), 65536, 0).decode(errors="replace")

    def _wait_ready(self):
        until = time.monotonic() + START_LIMIT
        while time.monotonic() < until:
            if self.port and self.contender.needs_port:
                try:
                    socket.create_connection(("127.0.0.1", self.port), 1).close()
                    time.sleep(0.1)
                    return
                except OSError:
                    pass
            else:
                found = re.search(self.contender.announces, self._output(), re.MULTILINE)
                if found:
                    self.port = int(found[1])
                    return
            if _ended(self.process.popen):
                raise Failure("ended at once: " + (self._output().strip().splitlines() or ["no message"])[-1])
            time.sleep(0.01)
        raise Failure(f"did not listen within {START_LIMIT} s")

    @property
    def address(self):
        return f"tcp://127.0.0.1:{self.port}"

    def descriptors(self):
        """What the server's descriptors are, over all its processes."""
        links = []
        for pid in tree(self.pid):
            try:
                names = os.listdir(f"/proc/{pid}/fd")
            except OSError:
                continue
            for name in names:
                try:
                    links.append(os.readlink(f"/proc/{pid}/fd/{name}"))
                except OSError:
                    pass
        return links

    def private_bytes(self):
        """User memory that would be free if the server were not there, over all its processes."""
        total = 0
        for pid in tree(self.pid):
            try:
                with open(f"/proc/{pid}/smaps_rollup") as f:
                    text = f.read()
            except OSError:
                continue
            for name in ("Private_Clean", "Private_Dirty", "Swap"):
                total += 1024 * sum(int(kb) for kb in re.findall(rf"^{name}: +(\d+) kB", text, re.MULTILINE))
        return total


def settled_memory(server, sockets, still=0):
    """Waits until the server holds so many sockets and its memory is still for so long. Returns bytes, sockets."""
    until = time.monotonic() + 20
    before = since = None
    while True:
        held = sum(link.startswith("socket:") for link in server.descriptors())
        now = server.private_bytes()
        if now != before or held < sockets:
            since = time.monotonic()
        if (now == before and time.monotonic() - since >= still) or time.monotonic() > until:
            return now, held
        before = now
        time.sleep(0.3)


class Contender:
    """Something to measure. `missing` says why it cannot be, if it cannot."""

    def __init__(
        self,
        name,
        command,
        missing=None,
        environment=None,
        needs_port=False,
        fixed_port=0,
        engine=None,
        announces=r"tcp://127\.0\.0\.1:(\d+)",
    ):
        self.name = name
        self.command = command if callable(command) else lambda port, scratch: command
        self.missing = missing
        self.environment = environment or {}
        self.needs_port = needs_port or fixed_port != 0
        self.fixed_port = fixed_port
        self.engine = engine
        self.announces = announces


# ---- rounds and figures ---------------------------------------------------------------------------


def parse_report(status, text, error_text):
    for line in reversed((text + "\n" + error_text).splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    lines = error_text.strip().splitlines()
    raise Failure(lines[-1] if lines else f"ended with status {status} and no report")


def take_rounds(contenders, rounds, measure, progress):
    """Measures all contenders in turn, `rounds` times over. Returns, by name, a list of reports; a
    round that failed is {"failed": why}."""
    results = {c.name: [] for c in contenders}
    for number in range(rounds):
        for c in contenders:
            if c.missing:
                continue
            progress(f"round {number + 1}/{rounds}: {c.name}")
            try:
                results[c.name].append(measure(c))
            except Failure as failure:
                results[c.name].append({"failed": str(failure)})
    progress("")
    return results


class _Absent:
    """A contender that could not be started in this round: each of its turns failed."""

    def __init__(self, why):
        self.why = why

    def measure(self):
        raise Failure(self.why)


def take_turns(contenders, rounds, turns, prepare, progress):
    """Starts all contenders, and measures each for a moment in turn, `turns` times over; all that `rounds` times.
    prepare(contender, stack) returns what has measure(), and leaves to the stack what must be ended. What is
    compared is so measured within a second of each other, in many pairs: machines under a hypervisor drift more slowly
    than that, but by more than the differences that count."""
    results = {c.name: [] for c in contenders}
    for number in range(rounds):
        with contextlib.ExitStack() as stack:
            progress(f"round {number + 1}/{rounds}")
            ready = {}
            for c in contenders:
                try:
                    if not c.missing:
                        ready[c.name] = prepare(c, stack)
                except Failure as failure:
                    ready[c.name] = _Absent(str(failure))
            for _ in range(turns):
                for name, one in ready.items():
                    try:
                        results[name].append(one.measure())
                    except Failure as failure:
                        results[name].append({"failed": str(failure)})
    progress("")
    return results


def median(reports, field):
    values = [r[field] for r in reports if field in r]
    return statistics.median(values) if values else None


def spread_percent(reports, field):
    """From the least to the most, in per cent of the median."""
    values = [r[field] for r in reports if field in r]
    middle = statistics.median(values) if values else 0
    return 100 * (max(values) - min(values)) / middle if middle else None


def paired_ratio(reports, floor_reports, field):
    """The median of the ratios to the floor's figure of the same turn."""
    ratios = [r[field] / f[field] for r, f in zip(reports, floor_reports) if f.get(field) and field in r]
    return statistics.median(ratios) if ratios else None


def limit_note(reports):
    """Says when the server's core was not what limited the rate."""
    busy, client = median(reports, "server_cpu_percent"), median(reports, "client_core_percent")
    if busy is None or busy >= 95:
        return None
    core = median(reports, "core_busy_percent")
    if core is not None and core >= 95:
        return None
    if client is not None and client >= max(busy, 85):
        return f"the client's core was the limit ({client:.0f} %, server's {busy:.0f} %): the rate is a lower bound"
    return f"waiting was the limit (server's core {busy:.0f} %, client's {client or 0:.0f} %)"


def notes_on(contender, reports):
    notes = []
    if contender.missing:
        return [contender.missing]
    failures = [r["failed"] for r in reports if "failed" in r]
    good = [r for r in reports if "failed" not in r]
    if failures:
        notes.append(f"failed {len(failures)} times of {len(reports)}: {failures[0]}")
    if not good:
        return notes
    errors = sum(r.get("errors", 0) for r in good)
    if errors:
        notes.append(f"{errors} errors")
    if any(r.get("starved") for r in good):
        notes.append(f"{max(r.get('starved', 0) for r in good)} connections starved")
    notes += sorted({r["remark"] for r in good if r.get("remark")})
    if not all(r.get("per_second", 1) for r in good):
        notes.append("nothing was answered at some time")
    limit = limit_note(good)
    if limit:
        notes.append(limit)
    busy, core = median(good, "server_cpu_percent"), median(good, "core_busy_percent")
    # The core's count is sampled at ticks: it can be trusted against the server's own only near full.
    if busy is not None and core is not None and core >= 90 and core - busy > 10:
        notes.append(f"{core - busy:.0f} % of the server's core went to others")
    softirqd = median(good, "core_softirqd_percent")
    if softirqd and softirqd > 2:
        notes.append(f"{softirqd:.0f} % of the server's core went to ksoftirqd: its CPU µs are too low")
    steal = median(good, "core_steal_percent")
    if steal and steal > 2:
        notes.append(f"{steal:.0f} % of the server's core taken by the host")
    return notes


# ---- output ---------------------------------------------------------------------------------------


def format_number(value, digits=None):
    if value is None:
        return "–"
    if digits is None:
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}".replace(",", " ")


def print_table(title, headers, rows, remarks):
    """rows: lists of strings, the first column left-aligned, the last one free text."""
    widths = [max(len(r[i]) for r in [headers] + rows) for i in range(len(headers))]
    print(f"\n{title}")
    for row in [headers] + rows:
        cells = [row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:-1], widths[1:-1])] + [row[-1]]
        print(("  " + "  ".join(cells)).rstrip())
    for remark in remarks:
        print(f"  {remark}")
    sys.stdout.flush()


def _first_line(path):
    try:
        with open(path) as f:
            return f.readline().strip()
    except OSError:
        return None


def machine(build):
    model = None
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {
        "kernel": platform.release(),
        "cpu": model,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "tcp_congestion_control": _first_line("/proc/sys/net/ipv4/tcp_congestion_control"),
        "somaxconn": _first_line("/proc/sys/net/core/somaxconn"),
        "build": build_options(build),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def build_options(build):
    try:
        text = subprocess.run(
            ["meson", "introspect", "--buildoptions", build], capture_output=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    wanted = ("buildtype", "optimization", "debug", "b_sanitize", "b_lto")
    return {o["name"]: o["value"] for o in json.loads(text) if o["name"] in wanted}
