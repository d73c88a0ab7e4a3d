"""bench/run supers — harkd beside the super-servers that it replaces: a program and daytime for each connection, and
what twenty idle services cost: memory, and the time until all of them listen.

Every contender reads a configuration written here, with its own limits out of the way (inetd and xinetd stop a service
that is asked too often) and logs nothing. tcpserver serves one address: it has no part in the idle services, and no
daytime of its own, so there it starts the same small program."""

import os
import socket
import subprocess
import time

import harness
from harness import Failure, Process, format_number

SERVICES = 20
LISTEN_LIMIT = 20  # seconds until all of them listen


def write(scratch, name, text):
    path = os.path.join(scratch, name)
    with open(path, "w") as f:
        f.write(text)
    return path


def harkd_text(scratch, name, services, start="boot"):
    head = f"[harkd]\ncontrol = {scratch}/harkd-{name}.control\nlog = /dev/null\nlog_connections = no\n"
    return head + "".join(
        f"[s{port}]\nlisten = tcp://127.0.0.1:{port}\n{what}\nstart = {start}\n" for port, what in services
    )


def inetd_text(services):
    return "".join(f"127.0.0.1:{port} stream tcp nowait root {what}\n" for port, what in services)


def xinetd_text(services):
    return "".join(
        f"service {'daytime' if 'INTERNAL' in what else f's{port}'}\n{{\n id = s{port}\n socket_type = stream\n"
        f" protocol = tcp\n wait = no\n user = root\n bind = 127.0.0.1\n port = {port}\n {what}\n"
        f" instances = UNLIMITED\n per_source = UNLIMITED\n"
        f" cps = 1000000 1\n}}\n"
        for port, what in services
    )


def contenders(bench, name, harkd, inetd, xinetd, start="boot", more=lambda port: [], inetd_port=0):
    """Each with its word for the service; more(port): further ports."""
    path = os.path.join(bench.build, "harkd")

    def services(port, what):
        return [(p, what) for p in [port, *more(port)]]

    def harkd_command(port, scratch):
        return [
            path,
            "-c",
            write(scratch, f"harkd-{name}.conf", harkd_text(scratch, name, services(port, harkd), start)),
        ]

    def inetd_command(port, scratch):
        if inetd_port:  # its internal services have their names, and so their ports
            return [
                "-i",
                "-R",
                "100000000",
                write(scratch, f"inetd-{name}.conf", f"127.0.0.1:{name} stream tcp nowait root {inetd}\n"),
            ]
        return ["-i", "-R", "100000000", write(scratch, f"inetd-{name}.conf", inetd_text(services(port, inetd)))]

    def xinetd_command(port, scratch):
        return [
            "-dontfork",
            "-f",
            write(scratch, f"xinetd-{name}.conf", xinetd_text(services(port, xinetd))),
            "-pidfile",
            os.path.join(scratch, "xinetd.pid"),
        ]

    return [
        harness.Contender(
            "harkd", harkd_command, missing=None if os.access(path, os.X_OK) else "not built", needs_port=True
        ),
        bench.installed("inetd", "inetd", inetd_command, needs_port=True, fixed_port=inetd_port),
        bench.installed("xinetd", "xinetd", xinetd_command, needs_port=True),
    ]


def run_rates(bench):
    tiny = bench.tool("tiny")
    tcpserver = bench.installed(
        "tcpserver", "tcpserver", lambda port, scratch: ["-1RHl0", "127.0.0.1", "0", tiny], announces=r"^(\d+)$"
    )

    prepare = bench.connect_clients()
    bench.compare(
        f"supers: a small static program a connection, {bench.options.in_flight} at a time",
        contenders(bench, "exec", f"exec = {tiny}", f"{tiny} tiny", f"type = UNLISTED\n server = {tiny}") + [tcpserver],
        "harkd",
        prepare,
        "programs",
    )
    bench.compare(
        f"supers: daytime, {bench.options.in_flight} at a time",
        contenders(bench, "daytime", "box = daytime", "internal", "type = INTERNAL UNLISTED", inetd_port=13)
        + [tcpserver],
        "harkd",
        prepare,
        "connections",
    )


# ---- twenty idle services -----------------------------------------------------------------------


def free_ports(n):
    """Ports in a row are not needed; all are free at once."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def listening(ports):
    """Whether all are in /proc/net/tcp as listening, without a connection that would start a service."""
    wanted = {f"{p:04X}" for p in ports}
    with open("/proc/net/tcp") as f:
        here = {line.split()[1].split(":")[1] for line in f.readlines()[1:] if line.split()[3] == "0A"}
    return wanted <= here


def sockets_of(pid):
    """How many sockets its processes have open: quick to look at, unlike /proc/net/tcp after a load."""
    n = 0
    for p in harness.tree(pid):
        try:
            n += sum(os.readlink(f"/proc/{p}/fd/{fd}").startswith("socket:") for fd in os.listdir(f"/proc/{p}/fd"))
        except OSError:
            pass
    return n


def memory_of(pid):
    """RSS, and what is its own alone, of all its processes, in KB."""
    rss = private = 0
    for p in harness.tree(pid):
        try:
            with open(f"/proc/{p}/smaps_rollup") as f:
                fields = dict(line.split(":")[:2] for line in f.readlines()[1:])
        except OSError:
            continue
        rss += int(fields["Rss"].split()[0])
        private += sum(int(fields[k].split()[0]) for k in ("Private_Clean", "Private_Dirty", "Swap"))
    return rss, private


def idle(bench, contender, ports):
    began = time.monotonic()
    with Process(
        contender.command(ports[0], bench.scratch),
        bench.server_core,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    ) as process:
        while sockets_of(process.pid) < SERVICES:
            if time.monotonic() > began + LISTEN_LIMIT:
                raise Failure("did not listen in time")
            time.sleep(0.0005)
        start_ms = (time.monotonic() - began) * 1000
        while not listening(ports):
            if time.monotonic() > began + LISTEN_LIMIT:
                raise Failure("did not listen in time")
        time.sleep(1)
        rss, private = memory_of(process.pid)
        return {"start_ms": start_ms, "rss_kb": rss, "private_kb": private, "processes": len(harness.tree(process.pid))}


def run_idle(bench):
    tiny = bench.tool("tiny")
    ports = []

    def more(port):
        return ports[1:]

    all_of_them = bench.chosen(
        contenders(
            bench,
            "idle",
            f"exec = {tiny}",
            f"{tiny} tiny",
            f"type = UNLISTED\n server = {tiny}",
            start="demand",
            more=more,
        )
    )

    def measure(contender):
        ports[:] = free_ports(SERVICES)
        return idle(bench, contender, ports)

    rounds = bench.rounds()
    results = harness.take_rounds(all_of_them, rounds, measure, bench.progress)
    title = f"supers: {SERVICES} idle services on demand"
    rows = [
        [c.name]
        + [
            format_number(harness.median(results[c.name], field), digits)
            for field, digits in (("rss_kb", 0), ("private_kb", 0), ("start_ms", 1), ("processes", 0))
        ]
        + ["; ".join(harness.notes_on(c, results[c.name]))]
        for c in all_of_them
    ]
    harness.print_table(
        title,
        ["", "RSS KB", "private KB", "all listen, ms", "processes", ""],
        rows,
        [f"medians of {rounds} rounds, a second after the last one listens"],
    )
    bench.keep(title, None, all_of_them, results)


def run_supers(bench):
    run_idle(bench)  # first: what the others leave in TIME_WAIT makes /proc/net/tcp long to read
    run_rates(bench)
