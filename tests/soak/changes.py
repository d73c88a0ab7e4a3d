"""Nobody is lost while harkd changes: the clients, and the harkd, of `soak.py --changes N`.

Services of all models serve several client processes each, while every service's settings change by a reload, its
addresses go from one address to its wildcard, to the IPv4-only form of either, and back, by another reload,
certificates are renewed by a reload and by their files alone, and new generations take over. Each connection and each
datagram must be answered, byte for byte, within PATIENCE; long ones talk on through all of it, whatever generation has
them. TLS clients ask for one of two names, verify, and offer a session every other time; one of the beginning is
resumed in the end, by each worker. A connection counts in the phase in which it began, and one that is open for long
counts once, its questions apart.
"""
import collections
import contextlib
import json
import multiprocessing
import random
import re
import signal
import socket
import ssl
import time

import certs
from servers import GRACE, Generations, Row, end_all, kill_all

PHASES = ("between", "reload", "move", "renewal", "upgrade", "upgrade and move")
FORMS = ("{0}://127.0.0.1:{1}", "{0}://*:{1}", "{0}4://127.0.0.1:{1}", "{0}4://*:{1}")
FORMS_TLS = ("tls://127.0.0.1:{1}", "tls://*:{1}", "tls://127.0.0.1:{1}", "tls://0.0.0.0:{1}")
TOUR = (1, 0, 2, 0, 3, 1, 2, 1, 3, 2, 3, 0)  # from 0: each form to each other, once
STAY_S = 0.25  # in a phase once its change is made, and between two
IP_BIND_ADDRESS_NO_PORT = 24  # ip(7)
LIMIT = 4  # of the service that has one
NAMES = ("a.example", "b.example")  # the service tls has a certificate for each
RENEWAL_S = 10  # harkd looks at the files each second, and waits until they stay as they are
STANDBY_S = 4  # after an upgrade an address that is left is served for two as it was: the older generation stands by
TLS = """box = echo
cert = {directory}/a.example.pem {directory}/b.example.pem
key = {directory}/a.example.key {directory}/b.example.key"""
RELAY = "relay = tls://127.0.0.1:{tls}\nca = {directory}/ca.pem\nserver_name = b.example"

# name: model, workers, kind of address, what serves, client processes of short connections, long connections
SERVICES = {
    "echo": ("fiber", 2, "tcp", "box = echo", 2, 8),
    "daytime": ("thread", 1, "tcp", "box = daytime", 1, 0),
    "program": ("fiber", 2, "tcp", "exec = /bin/cat", 1, 2),
    "process": ("process", 1, "tcp", "box = echo", 1, 2),
    "inline": ("inline", 2, "tcp", "box = echo", 1, 0),
    "limited": ("fiber", 2, "tcp", f"box = echo\nmax_conns = {LIMIT}", 3, 2),
    "local": ("fiber", 1, "unix", "box = echo", 1, 2),
    "tls": ("fiber", 2, "tls", TLS, 2, 2),
    "tlsrelay": ("thread", 1, "tcp", RELAY, 1, 2),
    "datagrams": ("fiber", 2, "udp", "box = echo", 2, 0),
    "session": ("fiber", 1, "udp", "relay = udp://127.0.0.1:{datagrams}\nidle_timeout = 2s", 0, 2),
}


def free_port():
    """One that neither TCP nor UDP uses at any address; below those that the kernel gives to clients, as one of theirs
    would be in a wildcard's way."""
    while True:
        port = random.randrange(10000, 32000)
        with socket.socket(socket.AF_INET6) as tcp, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
            with contextlib.suppress(OSError):
                tcp.bind(("::", port))
                udp.bind(("::", port))
                return port


class Changing(Generations):
    """A harkd whose every service changes with each reload, and goes from form to form of its address."""

    def __init__(self, build, scratch, engine):
        self.form = self.moves = 0
        self.ports = {name: free_port() for name in SERVICES}
        self.serials = {}  # of each name's newest certificate
        self.probes = 0  # connections to tls of this process
        self.upgraded = 0
        super().__init__(f"changes-{engine}", engine, build, scratch)
        for name, (model, workers, *_) in SERVICES.items():
            self.rows.append(Row("changes", engine, model, workers, name, self.address(name)))

    def address(self, name):
        kind = SERVICES[name][2]
        form = (FORMS_TLS if kind == "tls" else FORMS)[self.form]
        return f"unix:{self.directory}/{name}" if kind == "unix" else form.format(kind, self.ports[name])

    def renew(self):
        for name in NAMES:
            pair, self.serials[name] = certs.make(self.directory, "new", name, by=f"{self.directory}/ca")
            certs.install(pair, f"{self.directory}/{name}")

    def services(self):
        if not self.serials:
            certs.make(self.directory, "ca")
            self.renew()
        return "".join(
            f"[{name}]\nmodel = {model}\nworkers = {workers}\nlifetime = {3600 + self.reloads}s\n"
            f"listen = {self.address(name)}\n{what.format(directory=self.directory, **self.ports)}\n"
            for name, (model, workers, _, what, *_) in SERVICES.items()
        )

    def move(self):
        self.form = TOUR[self.moves % len(TOUR)]
        self.moves += 1

    def listens(self):
        """Complains where a service is not where it should be by now."""
        now = self.status()
        for service in now["services"] if now else []:
            address = self.address(service["name"]).replace("4://*", "://0.0.0.0").replace("4://", "://")
            if service["state"] == "running" and service["listen"] != [address]:
                self.complain(f"[{service['name']}] listens on {service['listen']}")

    def shown(self):
        """{name: serial number} of the certificates that clients get."""
        found = {}
        for name in NAMES:
            with contextlib.suppress(OSError), TlsClient(self, "tls", 9, self.build.patience).dial(name) as s:
                found[name] = int(s.getpeercert()["serialNumber"], 16)
                s.unwrap()
            self.probes += 1
        return found

    def await_renewed(self, seconds):
        end = time.monotonic() + seconds
        while (shown := self.shown()) != self.serials:
            if time.monotonic() > end:
                self.complain(f"certificates {shown} are shown instead of {self.serials}")
                return
            time.sleep(0.1)

    def make(self, phase):
        """The change that the phase is named for."""
        if phase in ("reload", "renewal"):
            self.renew()
        if phase == "renewal":
            self.await_renewed(RENEWAL_S)
            return
        if phase.endswith("move"):
            self.move()
        if phase.startswith("upgrade"):
            self.configure()
            self.upgrade()
            self.upgraded = time.monotonic()
        else:
            self.reload()
        self.listens()
        self.await_renewed(self.upgraded + STANDBY_S - time.monotonic())


# ---- clients: a process each ----------------------------------------------------------------------


class Client:
    """What one process asks of one service until it is told to stop. Its figures go through a pipe."""

    def __init__(self, server, name, i, patience):
        self.kind, self.name, self.patience = SERVICES[name][2], name, patience
        self.to = f"{server.directory}/{name}" if self.kind == "unix" else ("127.0.0.1", server.ports[name])
        self.source = (f"127.1.{list(SERVICES).index(name)}.{i + 1}", 0)  # its own: no client lacks ports
        self.rng = random.Random(f"{name} {i}")
        self.counts = collections.defaultdict(collections.Counter)
        self.failures = []

    def dial(self):
        s = socket.socket(
            socket.AF_UNIX if self.kind == "unix" else socket.AF_INET,
            socket.SOCK_DGRAM if self.kind == "udp" else socket.SOCK_STREAM,
        )
        s.settimeout(self.patience)
        try:
            if self.kind != "unix":
                # A port that is in no listener's way, be it in TIME_WAIT, and is chosen by connect(2).
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                s.bind(self.source)
            s.connect(self.to)
        except OSError:
            s.close()
            raise
        return s

    def ask(self, s):
        """A question of up to 2,000 bytes, and its answer."""
        text = self.rng.randbytes(self.rng.randrange(1, 2000))
        s.sendall(text)
        got = s.recv(4000)
        while 0 < len(got) < len(text) and self.kind != "udp":
            got += (more := s.recv(4000))
            if not more:
                break
        if got != text:
            raise ValueError(f"{len(got)} of {len(text)} bytes came back" if text.startswith(got) else "wrong bytes")

    def end(self, s):
        if self.kind == "udp":
            return
        s.shutdown(socket.SHUT_WR)
        if got := s.recv(100):
            raise ValueError(f"{len(got)} bytes more came back")

    def begin(self):
        return self.counts[PHASES[self.phase.value]], time.monotonic()

    def answered(self, what, begun):
        counts, at = begun
        counts[what] += 1
        counts["slowest"] = max(counts["slowest"], time.monotonic() - at)

    def failed(self, error):
        phase = PHASES[self.phase.value]
        self.counts[phase]["failed"] += 1
        self.failures.append(f"in {phase}: {type(error).__name__} {error}")

    def short(self):
        """One connection, or one datagram, after the other."""
        begun = self.begin()
        with self.dial() as s:
            if self.name == "daytime":
                got = b"".join(iter(lambda: s.recv(100), b""))
                if not re.fullmatch(rb"\d{4}-\d\d-\d\dT.*\n", got):
                    raise ValueError(f"{got!r} is no time")
            else:
                self.ask(s)
                begun[0]["resumed"] += self.kind == "tls" and s.session_reused
                self.end(s)
        self.answered("datagrams" if self.kind == "udp" else "connections", begun)

    def long(self, sockets):
        for s in sockets:
            begun = self.begin()
            self.ask(s)
            self.answered("datagrams" if self.kind == "udp" else "questions", begun)

    def talk(self, n_long):
        if n_long == 0:
            while not self.stopped.is_set():
                try:
                    self.short()
                except (OSError, ValueError) as e:
                    self.failed(e)
                time.sleep(0.005)
            return
        try:
            with contextlib.ExitStack() as stack:
                sockets = [stack.enter_context(self.dial()) for _ in range(n_long)]
                while not self.stopped.is_set():
                    self.long(sockets)
                    time.sleep(0.01)
                for s in sockets:
                    self.end(s)
                if self.kind != "udp":
                    self.counts[PHASES[0]]["connections"] += n_long
        except (OSError, ValueError) as e:
            self.failed(e)

    def run(self, phase, stopped, n_long, to):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.phase, self.stopped = phase, stopped
        self.talk(n_long)
        to.send((self.name, dict(self.counts), self.failures))


class TlsClient(Client):
    """A client of the service tls."""

    def __init__(self, server, name, i, patience):
        super().__init__(server, name, i, patience)
        self.context = ssl.create_default_context(cafile=f"{server.directory}/ca.pem")
        self.sessions = {}

    def dial(self, name=None, session=None):
        """By itself it offers a session of that name, if there is one, every other time."""
        name = name or self.rng.choice(NAMES)
        session = session or (self.sessions.get(name) if self.rng.random() < 0.5 else None)
        plain = super().dial()
        try:
            s = self.context.wrap_socket(plain, server_hostname=name, session=session)
        except BaseException:
            plain.close()
            raise
        if session and not s.session_reused:
            s.close()
            raise ValueError(f"a session of {name} is not resumed")
        return s

    def end(self, s):
        """close_notify both ways."""
        self.sessions[s.server_hostname] = s.session
        s.unwrap()


class Beginning:
    """A session of the beginning."""

    def __init__(self, server):
        self.server = server
        self.client = TlsClient(server, "tls", 8, server.build.patience)
        with self.client.dial(NAMES[0]) as s:
            self.client.ask(s)
            self.client.end(s)
        self.session = self.client.sessions[NAMES[0]]
        server.probes += 1

    def check(self):
        """Each worker resumes it."""
        service = next(s for s in self.server.status()["services"] if s["name"] == "tls")
        missing = {worker["pid"] for worker in service["workers"] if not worker["draining"]}
        for _ in range(300):
            self.server.probes += 1
            with self.client.dial(NAMES[0], self.session) as s:
                self.client.ask(s)
                me = "tcp://{}:{}".format(*s.getsockname())
                for c in json.loads(self.server.command("connections", "--json", "tls").stdout)["connections"]:
                    if c["peer"] == me:
                        missing.discard(c["pid"])
                self.client.end(s)
            if not missing:
                return
        self.server.complain(f"workers {missing} have not resumed the session of the beginning")


class Clients:
    """All client processes of a server."""

    def __init__(self, server, patience):
        fork = multiprocessing.get_context("fork")
        self.phase, self.stopped = fork.Value("i", 0, lock=False), fork.Event()
        self.processes, self.pipes = [], []
        for name, (*_, n_short, n_long) in SERVICES.items():
            for i in range(n_short + (n_long > 0)):
                ours, theirs = fork.Pipe(duplex=False)
                client = (TlsClient if name == "tls" else Client)(server, name, i, patience)
                args = (self.phase, self.stopped, n_long if i == n_short else 0, theirs)
                self.processes.append(fork.Process(target=client.run, args=args, daemon=True))
                self.processes[-1].start()
                theirs.close()
                self.pipes.append(ours)

    def stop(self, seconds):
        """[(service, {phase: counts}, failures)] of all."""
        self.stopped.set()
        told = [pipe.recv() for pipe in self.pipes if pipe.poll(seconds)]
        if len(told) != len(self.pipes):
            raise RuntimeError("a client has not told its figures")
        for process in self.processes:
            process.join(seconds)
        return told

    def kill(self):
        for process in self.processes:
            process.kill()


# ---- the run --------------------------------------------------------------------------------------


def phases_of(rounds):
    """What a run does: each round a reload, a move and a renewal of certificates, after every fourth an upgrade, with a
    move every other time. Fewer rounds have one upgrade, at the end."""
    every = min(4, rounds)
    for i in range(1, rounds + 1):
        yield "reload"
        yield "move"
        yield "renewal"
        if i % every == 0:
            yield PHASES[4 + i // every % 2]


def add_figures(server, told):
    """To the service's row."""
    rows = {row.transport: row for row in server.rows}
    for name, phases, failures in told:
        row = rows[name]
        for counts in phases.values():
            row.counts["done"] += sum(counts[what] for what in ("connections", "questions", "datagrams"))
            row.counts["lost"] += counts["failed"]
            row.counts["resumed"] += counts["resumed"]
            row.counts["slowest_ms"] = max(row.counts["slowest_ms"], round(1000 * counts["slowest"]))
        row.failures += failures


def print_phases(told, made):
    columns = ("connections", "questions", "datagrams", "failed")
    print(f"{'phase':18}{'made':>6}" + "".join(f"{what:>13}" for what in columns) + f"{'slowest ms':>13}")
    for phase in PHASES + ("in all",):
        of = [counts for _, phases, _ in told for p, counts in phases.items() if phase in (p, "in all")]
        sums = [sum(counts[what] for counts in of) for what in columns]
        slowest = max((counts["slowest"] for counts in of), default=0)
        times = made[phase] if phase != "in all" else sum(made.values())
        print(
            f"{phase:18}{times or '':>6}" + "".join(f"{n:>13}" for n in sums) + f"{1000 * slowest:>13.0f}", flush=True
        )


def check_counters(server, told, seconds):
    """harkd has counted what the clients made, over all workers and generations."""
    made = collections.Counter(tls=server.probes)
    for name, phases, _ in told:
        for counts in phases.values():
            made["tls"] += counts["connections"] if name == "tlsrelay" else 0
            made[name] += counts["connections"] + (counts["datagrams"] if name == "datagrams" else 0)
            made["datagrams"] += counts["datagrams"] if name == "session" else 0  # it relays to there
    end = time.monotonic() + seconds
    wrong = [""]
    while wrong and time.monotonic() < end:
        time.sleep(0.1)
        wrong = [
            f"[{s['name']}] {s['accepted']} accepted, {s['closed']} closed, {s['failed']} failed, "
            f"{sum(s['refused'].values())} refused, {s['now']} now; the clients made {made[s['name']]}"
            for s in server.status()["services"]
            if s["name"] != "session"  # which go on for a minute
            and (s["accepted"], s["closed"], s["failed"], sum(s["refused"].values()), s["now"])
            != (made[s["name"]], made[s["name"]], 0, 0, 0)
        ]
    for text in wrong:
        server.complain(f"counters: {text}")


def run(build, scratch, engine, rounds, say):
    """Prints the figures of each phase. Returns a row for each service."""
    server = Changing(build, scratch, engine)
    clients = None
    try:
        server.await_ready()
        beginning = Beginning(server)
        clients = Clients(server, build.patience)
        made = collections.Counter()
        time.sleep(4 * STAY_S)
        for phase in phases_of(rounds):
            clients.phase.value = PHASES.index(phase)
            server.make(phase)
            made[phase] += 1
            time.sleep(STAY_S)
            clients.phase.value = 0
            time.sleep(STAY_S)
        beginning.check()
        told = clients.stop(build.patience + 20)
        say(f"changes, {engine}: {len(SERVICES)} services, {len(told)} client processes")
        add_figures(server, told)
        print_phases(told, made)
        if not any(row.failures for row in server.rows):
            check_counters(server, told, build.settle)
        end_all([server], GRACE + build.settle)
        return server.rows
    finally:
        if clients:
            clients.kill()
        kill_all([server])
