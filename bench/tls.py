"""bench/run tls — a relay that ends TLS before a plain back end: hark beside nginx's stream module and stunnel, and
hark's own boxes behind TLS without a relay.

All three run OpenSSL with the same settings: TLS 1.2 and 1.3, the same ciphers in the same order, OpenSSL's own groups,
session tickets (stateless: keys in memory) of 12 hours and no session cache, the same certificate; one process or
worker, no log of connections. The client names one cipher and one group, so that all do the same arithmetic. The back
end runs on the client's core and is the same for all; only the relay's processes are counted as the server's."""

import json
import os
import platform
import re
import subprocess

import harness
from harness import Contender, Failure, Process, Server, format_number, read_line

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL"
KEYS = {"ecdsa": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "rsa": ["rsa:2048"]}
KEY_NAMES = {"ecdsa": "ECDSA P-256", "rsa": "RSA 2048"}
ECHO_CONNECTIONS = 100
ECHO_BYTES = 3072
IDLE_CONNECTIONS = 1000
GIB = 1 << 30
BULK_LIMIT = 60  # seconds for a GiB
OPEN_LIMIT = 75  # seconds to open all idle connections
FLOOR_LIMIT = 20  # seconds
STILL = 3  # seconds: what is put aside while idle is by then
BASE = "hark"  # what the ratios are to
MULTIARCH = platform.machine() + "-linux-gnu"  # Debian's folder of libraries
NGINX_MODULE = "usr/lib/nginx/modules/ngx_stream_module.so"


def write(scratch, name, text):
    path = os.path.join(scratch, name)
    with open(path, "w") as f:
        f.write(text)
    return path


def make_certificates(scratch):
    """Certificate and key of each kind, as FILE.pem and FILE.key. Raises Failure."""
    for kind, how in KEYS.items():
        base = os.path.join(scratch, kind)
        command = ["openssl", "req", "-x509", "-nodes", "-days", "200", "-subj", "/CN=bench.test"]
        command += ["-addext", "subjectAltName=DNS:bench.test", "-keyout", base + ".key", "-out", base + ".pem"]
        try:
            done = subprocess.run(command + ["-newkey", *how], capture_output=True, text=True, timeout=60)
        except OSError as error:
            raise Failure(f"openssl: {error.strerror}") from None
        if done.returncode != 0:
            raise Failure(f"openssl req: {done.stderr.strip()}")


# ---- contenders ------------------------------------------------------------------------------------


class Relays:
    """The contenders of one table: each with a certificate of one kind, before one back end."""

    def __init__(self, bench, kind, backend, box):
        self.bench, self.kind, self.backend, self.box = bench, kind, backend, box

    def _pair(self, scratch):
        return os.path.join(scratch, self.kind + ".pem"), os.path.join(scratch, self.kind + ".key")

    def _hark(self, name, what):
        path = os.path.join(self.bench.build, "harkd")

        def command(port, scratch):
            cert, key = self._pair(scratch)
            text = (
                f"[harkd]\ncontrol = {scratch}/{name}-{port}.control\nlog = /dev/null\nlog_connections = no\n"
                f"[{name}]\nlisten = tls://127.0.0.1:{port}\n{what}\ncert = {cert}\nkey = {key}\n"
            )
            return [path, "-c", write(scratch, f"{name}-{port}.conf", text)]

        missing = None if os.access(path, os.X_OK) else "not built"
        return Contender(name, command, missing=missing, needs_port=True)

    def _nginx(self):
        places = ("/", os.path.join(self.bench.build, "peers"))
        module = next((p for d in places if os.path.exists(p := os.path.join(d, NGINX_MODULE))), None)

        def command(port, scratch):
            cert, key = self._pair(scratch)
            load = f"load_module {module};\n" if module else ""
            text = (
                f"{load}daemon off;\nworker_processes 1;\npid {scratch}/nginx-{port}.pid;\nerror_log stderr crit;\n"
                f"events {{ worker_connections 8192; }}\n"
                f"stream {{\n access_log off;\n server {{\n"
                f"  listen 127.0.0.1:{port} ssl backlog=4096;\n  proxy_pass 127.0.0.1:{self.backend.port};\n"
                f"  ssl_certificate {cert};\n  ssl_certificate_key {key};\n  ssl_protocols TLSv1.2 TLSv1.3;\n"
                f"  ssl_ciphers {CIPHERS};\n  ssl_prefer_server_ciphers on;\n  ssl_session_cache none;\n"
                f"  ssl_session_tickets on;\n  ssl_session_timeout 12h;\n }}\n}}\n"
            )
            return ["-c", write(scratch, f"nginx-{port}.conf", text), "-e", "stderr"]

        return self.bench.installed("nginx", "nginx", command, needs_port=True)

    def _stunnel(self):
        def command(port, scratch):
            cert, key = self._pair(scratch)
            text = (
                f"foreground = yes\npid =\nsyslog = no\ndebug = crit\n"
                f"socket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n[relay]\n"
                f"accept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{self.backend.port}\nlibwrap = no\n"
                f"cert = {cert}\nkey = {key}\nsslVersionMin = TLSv1.2\nciphers = {CIPHERS}\n"
                f"sessionCacheTimeout = 43200\n"
            )
            return [write(scratch, f"stunnel-{port}.conf", text)]

        libraries = {"LD_LIBRARY_PATH": os.path.join(self.bench.build, "peers/usr/lib", MULTIARCH)}
        return self.bench.installed("stunnel", "stunnel4", command, needs_port=True, environment=libraries)

    def all(self):
        relay = self._hark("hark", f"relay = tcp://127.0.0.1:{self.backend.port}")
        return [relay, self._nginx(), self._stunnel(), self._hark(f"hark-{self.box}", f"box = {self.box}")]


def backend(bench, *command):
    """On the client's core, for the length of a `with` block."""
    path = bench.tool(command[0])
    if not os.access(path, os.X_OK):
        raise Failure(f"{command[0]} is not built")
    return Server(Contender(command[0], [path, *command[1:]]), bench.client_core, bench.scratch)


# ---- handshakes, echo ------------------------------------------------------------------------------


class Floor:
    """OpenSSL's handshake in memory, on the servers' core."""

    def __init__(self, bench, contender):
        self.bench = bench
        self.command = contender.command(0, bench.scratch) + ["--seconds", str(bench.options.seconds)]

    def measure(self):
        return harness.parse_report(*harness.run_to_end(self.command, self.bench.server_core, FLOOR_LIMIT))


def compare(bench, title, relays, unit, name, arguments, kept, floors=()):
    arguments = [*arguments, "--backend-pid", str(relays.backend.pid)]

    def prepare(contender, stack):
        if contender in floors:
            return Floor(bench, contender)
        return bench.client(contender, stack, name, arguments, kept)

    bench.compare(f"tls: {title}", [*floors, *relays.all()], BASE, prepare, unit)


def run_handshakes(bench):
    with backend(bench, "peer_accept") as behind:
        for how, kind in (("full", "ecdsa"), ("full", "rsa"), ("resumed", "ecdsa")):
            for version in ("1.3", "1.2"):
                run_handshake(bench, behind, how, kind, version)


def run_handshake(bench, behind, how, kind, version):
    in_flight = bench.options.in_flight
    arguments = ["--version", version] + (["--resume"] if how == "resumed" else [])
    pair = [os.path.join(bench.scratch, f"{kind}.{end}") for end in ("pem", "key")]
    named = f"{how}, {KEY_NAMES[kind]}" if how == "full" else how
    compare(
        bench,
        f"handshakes, TLS {version}, {named}; a short answer, the end; {in_flight} at a time",
        Relays(bench, kind, behind, "daytime"),
        "handshakes",
        "load_tls",
        ["--in-flight", str(in_flight), *arguments],
        False,
        [bench.built("floor-openssl", "tls_floor", *pair, *arguments)],
    )


def run_echo(bench):
    connections = bench.options.conns or ECHO_CONNECTIONS
    with backend(bench, "peer_epoll", "--edge") as behind:
        compare(
            bench,
            f"echo of {ECHO_BYTES} bytes, {connections} connections",
            Relays(bench, "ecdsa", behind, "echo"),
            "round trips",
            "load_tls_kept",
            ["--turns", "--connections", str(connections), "--size", str(ECHO_BYTES)],
            True,
        )


# ---- bulk ------------------------------------------------------------------------------------------


class Bulk:
    """One GiB through one contender, each turn."""

    def __init__(self, bench, contender, stack, behind, receive):
        self.bench = bench
        server = stack.enter_context(Server(contender, bench.server_core, bench.scratch))
        self.command = [bench.tool("load_tls_bulk"), "--bytes", str(GIB)]
        self.command += ["--server-pid", str(server.pid), "--server-core", str(bench.server_core)]
        self.command += ["--backend-pid", str(behind.pid)]
        self.command += ["--receive"] if receive else []
        self.command += ["--bare"] if contender.name.endswith(("-discard", "-chargen")) else []
        self.command += [server.address]

    def measure(self):
        return harness.parse_report(*harness.run_to_end(self.command, self.bench.client_core, BULK_LIMIT))


def run_bulk(bench):
    rounds, turns = bench.rounds(3), max(1, bench.options.turns // 3)
    for receive, box in ((False, "discard"), (True, "chargen")):
        way = "from the back end to the client" if receive else "from the client to the back end"
        title = f"tls: 1 GiB on one connection, {way}"
        if not bench.wanted(title):
            continue
        with backend(bench, "peer_bulk") as behind:
            contenders = bench.chosen(Relays(bench, "ecdsa", behind, box).all())
            results = harness.take_turns(
                contenders, rounds, turns, lambda c, stack: Bulk(bench, c, stack, behind, receive), bench.progress
            )
        rows = [bulk_row(c, results[c.name], results.get(BASE, [])) for c in contenders]
        headers = ["", "seconds", "of hark", "spread", "CPU s", "of hark", "spread", "server", "client", ""]
        remark = f"GiB; medians of {rounds} rounds of {turns} turns; server on core {bench.server_core}"
        if contenders:
            harness.print_table(title, headers, rows, [remark + f", client and back end on core {bench.client_core}"])
            bench.keep(title, BASE, contenders, results)


def bulk_row(contender, reports, base):
    def of(field, digits=None):
        return format_number(harness.median(reports, field), digits)

    def percent(value):
        return "–" if value is None else f"{value:.0f} %"

    return [
        contender.name,
        of("seconds_gb", 3),
        format_number(harness.paired_ratio(reports, base, "seconds_gb"), 2),
        percent(harness.spread_percent(reports, "seconds_gb")),
        of("server_s_gb", 3),
        format_number(harness.paired_ratio(reports, base, "server_s_gb"), 2),
        percent(harness.spread_percent(reports, "server_s_gb")),
        percent(harness.median(reports, "server_cpu_percent")),
        percent(harness.median(reports, "client_core_percent")),
        "; ".join(harness.notes_on(contender, reports)),
    ]


# ---- memory ----------------------------------------------------------------------------------------


def idle(bench, contender, behind, connections):
    """User bytes of the server a connection that has had a handshake and one echo, and is silent."""
    sockets_each = 1 if contender.name.endswith("-echo") else 2
    with Server(contender, bench.server_core, bench.scratch) as server:
        base, listeners = harness.settled_memory(server, 1, STILL)
        command = [bench.tool("load_tls_kept"), "--connections", str(connections), "--size", str(ECHO_BYTES)]
        with Process(
            command + [server.address],
            bench.client_core,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as client:
            with client.popen.stderr:
                if not read_line(client.popen.stdout, OPEN_LIMIT).startswith("ready"):
                    raise Failure(client.popen.stderr.read().decode(errors="replace").strip() or "no connections")
                full, held = harness.settled_memory(server, listeners + sockets_each * connections, STILL)
                client.popen.stdin.close()
                kept = json.loads(read_line(client.popen.stdout, 20) or "{}").get("held", 0)
    complete = kept == connections and held - listeners >= sockets_each * connections
    return {
        "base_kb": base / 1024,
        "full_kb": full / 1024,
        "bytes_each": (full - base) / connections,
        "remark": None if complete else f"{kept} connections and {held - listeners} sockets were held",
    }


def run_memory(bench):
    connections = bench.options.conns or IDLE_CONNECTIONS
    title = f"tls: memory, {connections} idle connections, each after a handshake and an echo of {ECHO_BYTES} bytes"
    if not bench.wanted(title):
        return
    rounds = bench.rounds(3)
    with backend(bench, "peer_epoll", "--edge") as behind:
        contenders = bench.chosen(Relays(bench, "ecdsa", behind, "echo").all())
        results = harness.take_rounds(contenders, rounds, lambda c: idle(bench, c, behind, connections), bench.progress)
    rows = [
        [
            c.name,
            format_number(harness.median(results[c.name], "bytes_each"), 0),
            format_number(harness.paired_ratio(results[c.name], results.get(BASE, []), "bytes_each"), 2),
            format_number(harness.median(results[c.name], "base_kb"), 0),
            "; ".join(harness.notes_on(c, results[c.name])),
        ]
        for c in contenders
    ]
    if contenders:
        headers = ["", "user bytes each", "of hark", "server alone, KB", ""]
        harness.print_table(title, headers, rows, [f"private pages and swap; medians of {rounds} rounds"])
        bench.keep(title, BASE, contenders, results)


# ---- the arithmetic alone --------------------------------------------------------------------------


SPEEDS = {  # the lines of `openssl speed -mr`: a kind, then bits and how many a second of each operation
    "rsa2048": ["RSA 2048: sign", "RSA 2048: verify"],
    "ecdsap256": ["ECDSA P-256: sign", "ECDSA P-256: verify"],
    "ecdhx25519": ["X25519: one of the two of a handshake"],
}


def speed(bench, algorithm):
    """Microseconds by name."""
    text = openssl_speed(bench, algorithm)
    line = re.search(r"^\+F[245]:\d+:\d+:(.*)$", text, re.MULTILINE)
    if not line:
        raise Failure(f"openssl speed {algorithm}: no figures")
    return dict(zip(SPEEDS[algorithm], (1e6 / float(v) for v in line[1].split(":"))))


def openssl_speed(bench, *arguments):
    command = ["openssl", "speed", "-mr", "-seconds", "1", *arguments]
    _, text, _ = harness.run_to_end(command, bench.server_core, 30)
    return text


def cipher_speed(bench):
    """Microseconds for 16 KiB, and with it for a GiB in seconds."""
    text = openssl_speed(bench, "-evp", "aes-256-gcm", "-bytes", "16384")
    line = re.search(r"^\+F:\d+:[^:]+:([0-9.]+)", text, re.MULTILINE)
    if not line:
        raise Failure("openssl speed -evp aes-256-gcm: no figures")
    return {"AES-256-GCM: 16 KiB, a record": 1e6 * 16384 / float(line[1])}


def run_speed(bench):
    title = "tls: what OpenSSL's arithmetic costs alone"
    if not bench.wanted(title):
        return
    rounds, found = bench.rounds(3), {}
    for number in range(rounds):
        bench.progress(f"round {number + 1}/{rounds}: openssl speed")
        figures = cipher_speed(bench)
        for algorithm in SPEEDS:
            figures.update(speed(bench, algorithm))
        for name, us in figures.items():
            found.setdefault(name, []).append({"us": us})
    bench.progress("")
    rows = [
        [
            name,
            format_number(harness.median(reports, "us")),
            f"{harness.spread_percent(reports, 'us'):.0f} %",
            "",
        ]
        for name, reports in found.items()
    ]
    remarks = [
        "a full handshake's server signs once and does X25519 twice (its own share, the secret); a resumed one of",
        f"TLS 1.3 does X25519 twice, of TLS 1.2 neither; medians of {rounds} rounds of `openssl speed`",
    ]
    harness.print_table(title, ["", "CPU µs", "spread", ""], rows, remarks)
    bench.tables.append({"title": title, "rows": [{"name": n, "rounds": r} for n, r in found.items()]})


def run_tls(bench):
    make_certificates(bench.scratch)
    for part in (run_speed, run_handshakes, run_echo, run_bulk, run_memory):
        part(bench)
