"""The servers of a soak: each is a session of processes, compared with what it was before the clients came."""
import collections
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import certs
import proc

ENGINES = ["epoll", "uring", "poll"]
MODELS = ["inline", "process", "thread", "fiber"]
GRACE = 5  # seconds
HOSTILE = {"inline": 1, "process": 2, "thread": 4, "fiber": 6}  # clients of one address
POLITE = {"inline": 1, "process": 1, "thread": 1, "fiber": 2}
HOLD_MS = {"inline": 20, "process": 200, "thread": 200, "fiber": 300}  # inline serves nobody else meanwhile
MAX_CONNS = {"inline": None, "process": 8, "thread": 16, "fiber": 32}
EXEC_CONNS = 8
SERIAL = 10  # connections of a burst where one is served after the other
SESSION_SLACK = 3  # 32 sessions of datagrams up to 60 KB level off at 5.5 MB, some thousand sessions after the start
TLS_SLACK = (
    4  # a connection's buffers are 50 KB while there are bytes in them: what grows is how many have some at once
)
MB = 1 << 20


class Build:
    """Where the binaries are and what may be asked of them."""

    def __init__(self, path):
        self.hark, self.harkd = os.path.join(path, "hark"), os.path.join(path, "harkd")
        self.clients = os.path.join(path, "tests/soak/soak_clients")
        for program in (self.hark, self.harkd, self.clients):
            if not os.access(program, os.X_OK):
                sys.exit(f"soak: {program} is not built (set HARK_BUILD)")
        with open(os.path.join(path, "meson-info/intro-buildoptions.json"), encoding="utf-8") as f:
            options = {option["name"]: option["value"] for option in json.load(f)}
        sanitizer = str(options["b_sanitize"])
        self.sanitized = "address" in sanitizer or "thread" in sanitizer
        self.rss_growth = (
            64 * MB if self.sanitized else 1 * MB
        )  # a sanitizer keeps freed memory and maps shadow for all that was touched
        self.ease = 4 if "thread" in sanitizer else 1  # so much fewer clients: the load is the sanitizer's, not ours
        self.patience = 40 if self.sanitized else 10  # seconds for a polite operation
        self.settle = 30 if self.sanitized else 15  # seconds; hark_close() waits up to ten for a peer that reads late
        self.prefix = ["setarch", "-R"] if "thread" in sanitizer else []  # as scripts/test has it
        self.env = dict(os.environ)
        if "address" in sanitizer:
            self.env["ASAN_OPTIONS"] = self.env.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=8"
        if "thread" in sanitizer:
            self.env.setdefault("TSAN_OPTIONS", "die_after_fork=0:history_size=4:atexit_sleep_ms=0")
        self.pair = self.ca = None

    def make_certificate(self, scratch):
        """Of all servers with TLS: pair.pem, which vouches for itself, and pair.key."""
        self.pair, _ = certs.make(scratch, "server", "localhost")
        self.ca = self.pair + ".pem"


class Row:
    """One address of one server: what its clients counted, and what was wrong."""

    def __init__(self, how, engine, model, workers, transport, address, hostile=None, killed=False, burst=None):
        self.how, self.engine, self.model, self.workers, self.transport = how, engine, model, workers, transport
        self.name = f"{how}-{engine}-{model}-{workers}-{transport}"
        self.server = self.name.rpartition("-")[0]  # or the service of harkd
        self.address, self.killed = address, killed
        self.hostile = hostile or HOSTILE.get(model, 0)
        self.polite = POLITE.get(model, 0)
        self.hold_ms = HOLD_MS.get(model, 0)
        self.burst = burst  # connections at once; None: no burst
        self.counts = collections.Counter()
        self.rss = 0, 0
        self.failures = []

    def count(self, counts):
        for key, value in counts.items():
            self.counts[key] = max(self.counts[key], value) if key == "slowest_ms" else self.counts[key] + value
        bad = {key: counts[key] for key in ["late", "wrong"] + ([] if self.killed else ["lost"]) if counts[key]}
        if bad:
            self.failures.append("polite operations: " + ", ".join(f"{n} {key}" for key, n in bad.items()))

    def excuses(self, failure):
        """True if an operation may fail like that, as the worker was killed that had the connection."""
        return (
            self.killed and "no answer" not in failure and "came back is" not in failure and "more came" not in failure
        )


class View:
    """/proc at one moment."""

    def __init__(self):
        self.known, self.sessions = proc.sockets(), proc.sessions()

    def members(self, server):
        return self.sessions.get(server.session, [])


class Server:
    """A session of processes. What it has open is compared by role: processes of one role may be replaced."""

    def __init__(self, name, argv, build, scratch):
        self.name, self.build = name, build
        self.log, self.out = os.path.join(scratch, name + ".log"), os.path.join(scratch, name + ".out")
        with open(self.out, "wb") as out, open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                build.prefix + argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,
                env=build.env,
            )
        self.session = self.process.pid
        self.rows, self.paths = [], []
        self.baseline, self.warm_rss = {}, {}
        self.slack = 1  # times the build's growth of RSS

    def await_that(self, what, seconds=90):
        end = time.monotonic() + seconds
        while not (result := what()):
            if time.monotonic() > end or self.process.poll() is not None:
                raise RuntimeError(f"{self.name} does not start: {proc.read(self.log)[-2000:]}")
            time.sleep(0.02)
        return result

    def await_addresses(self, n):
        listening = re.compile(r"^listening on (\S+)$", re.M)
        return self.await_that(lambda: (a := listening.findall(proc.read(self.out))) and len(a) == n and a)

    def main_pid(self):
        return self.process.pid

    def rss_growth(self):
        return self.build.rss_growth * self.slack

    def roles(self, members):
        """{role: [pid]} of the processes that should be there; members are those of the session."""
        return {"server": [pid for pid, _, _ in members if pid == self.process.pid]}

    def rows_of(self, _role):
        return self.rows

    def remember(self, view):
        for role, pids in self.roles(view.members(self)).items():
            fds = collections.Counter()
            for pid in pids:
                fds |= proc.descriptors(pid, view.known)
            self.baseline[role] = (fds, max(map(proc.threads, pids)), len(pids))

    def left_over(self, view):
        """[(role, what is there that was not)]"""
        members = view.members(self)
        roles = self.roles(members)
        expected = {pid for pids in roles.values() for pid in pids}
        found = []
        for pid, _, state in members:
            if pid not in expected:
                fds = ", ".join(f"{n} of {what}" for what, n in proc.descriptors(pid, view.known).items())
                found.append((None, f"process {pid}{' (a zombie)' if state == 'Z' else ''} {proc.command(pid)}: {fds}"))
        for role, (fds, threads, count) in self.baseline.items():
            pids = roles.get(role, [])
            if len(pids) != count:
                found.append((role, f"{role}: {len(pids)} processes instead of {count}"))
            for pid in pids:
                for what, n in (proc.descriptors(pid, view.known) - fds).items():
                    found.append((role, f"{role} {pid}: {n} more of: {what}"))
                if (now := proc.threads(pid)) > threads:
                    found.append((role, f"{role} {pid}: {now} threads instead of {threads}"))
        return found

    def rss(self, view):
        return {role: max(map(proc.rss, pids), default=0) for role, pids in self.roles(view.members(self)).items()}

    def warm_up(self, view):
        """The most of each role so far: its processes may be replaced, and are small when young."""
        for role, now in self.rss(view).items():
            self.warm_rss[role] = max(self.warm_rss.get(role, 0), now)

    def check_rss(self, view):
        """True if no role has grown too much."""
        well = True
        for role, last in self.rss(view).items():
            warm = self.warm_rss.get(role, last)
            for row in self.rows_of(role):
                row.rss = warm, last
            well = well and last <= warm + self.rss_growth()
        return well

    def after_end(self, members, orphans):
        """What is wrong after SIGTERM and the grace. members: processes that are left."""
        found = [f"process {pid} is still there: {proc.command(pid)}" for pid, _, _ in members]
        if not members and self.process.poll() != 0:
            found.append(f"status {self.process.returncode}: {proc.read(self.log)[-500:]}")
        found += [f"the path {path} is still there" for path in self.paths if os.path.exists(path)]
        for row in self.rows:
            if row.address and row.address.startswith(("tcp:", "tls:")):
                found += orphans.get(int(row.address.rsplit(":", 1)[1]), [])
        return [f"after SIGTERM: {what}" for what in found]


class Serve(Server):
    """hark serve."""

    def __init__(self, build, scratch, engine, model, workers, what, addresses, command, options=(), killed=False):
        limit = EXEC_CONNS if what == "exec" and MAX_CONNS[model] else MAX_CONNS[model]
        argv = [
            build.hark,
            "serve",
            "--engine",
            engine,
            "--model",
            model,
            "--workers",
            str(workers),
            "--grace",
            f"{GRACE}s",
        ]
        argv += ["--max-conns", str(limit)] if limit else []
        if tls := any(address.startswith("tls:") for address in addresses):
            # As many as there may be connections: one that is lost is missed.
            argv += ["--cert", build.pair + ".pem", "--key", build.pair + ".key"]
            argv += ["--max-handshakes", str((limit or 1) * workers)]
        super().__init__(
            f"{engine}-{model}-{workers}-{what}", argv + list(options) + addresses + command, build, scratch
        )
        self.engine, self.model, self.workers, self.what, self.killed = engine, model, workers, what, killed
        self.slack = SESSION_SLACK if what == "session" else TLS_SLACK if tls else 1
        self.count = len(addresses)
        self.limit = limit * workers if limit else SERIAL

    def await_ready(self):
        addresses = self.await_addresses(self.count)
        self.paths = [a[5:] for a in addresses if a.startswith("unix:")]
        for i, address in enumerate(addresses):
            scheme = address.split(":")[0]
            self.rows.append(
                Row(
                    "serve",
                    self.engine,
                    self.model,
                    self.workers,
                    f"{self.what}-{scheme}",
                    address,
                    killed=self.killed,
                    hostile=1 if self.what in ("exec", "tlsrelay") else None,
                    burst=self.limit if i == 0 and scheme != "udp" else None,
                )
            )

    def roles(self, members):
        roles = super().roles(members)
        if self.workers > 1:
            roles["worker"] = [pid for pid, parent, state in members if parent == self.process.pid and state != "Z"]
        return roles

    def kill_worker(self, rng):
        kill(rng.choice(sorted(self.roles(View().members(self)).get("worker", [])) or [None]), signal.SIGKILL)


class Generations(Server):
    """A harkd, reloaded and upgraded. Whoever inherits gives it services(), the text behind [defaults]."""

    def __init__(self, name, engine, build, scratch):
        self.engine = engine
        self.directory = os.path.join(scratch, name)
        os.mkdir(self.directory)
        self.control = os.path.join(self.directory, "control")
        self.generation, self.reloads, self.upgrades, self.pid = 1, 0, 0, None
        self.configure()
        super().__init__(name, [build.harkd, "-c", f"{self.directory}/hark.conf"], build, scratch)

    def configure(self):
        head = (
            f"[harkd]\ncontrol = {self.control}\nlog = stderr\nupgrade_timeout = 60s\n"
            f"[defaults]\nengine = {self.engine}\ngrace = {GRACE}s\n"
        )
        with open(f"{self.directory}/hark.conf", "w", encoding="utf-8") as f:
            f.write(head + self.services())

    def command(self, *args):
        return subprocess.run(
            [*self.build.prefix, self.build.hark, *args, "--control", self.control],
            capture_output=True,
            text=True,
            timeout=90,
            env=self.build.env,
            check=False,
        )

    def status(self):
        """None: it does not answer just now, as in an upgrade."""
        answer = self.command("status", "--json")
        return json.loads(answer.stdout) if answer.returncode == 0 else None

    def await_ready(self):
        self.await_that(lambda: "ready: " in proc.read(self.log))
        self.pid = self.status()["pid"]

    def main_pid(self):
        return self.pid

    def complain(self, text):
        self.rows[-1].failures.append(text)

    def reload(self):
        """False: it failed, which is told."""
        self.reloads += 1
        self.configure()
        answer = self.command("reload")
        if answer.returncode != 0:
            self.complain(f"hark reload: status {answer.returncode}: {answer.stderr.strip()}")
        return answer.returncode == 0

    def upgrade(self):
        """By signal and by command in turns; until the next generation answers."""
        self.upgrades += 1
        if self.upgrades % 2:
            kill(self.pid, signal.SIGUSR2)
        elif (answer := self.command("upgrade")).returncode != 0:
            self.complain(f"hark upgrade: status {answer.returncode}: {answer.stderr.strip()}")
            return
        end = time.monotonic() + 90
        while time.monotonic() < end:
            now = self.status()
            if now and now["generation"] == self.generation + 1:
                self.generation, self.pid = now["generation"], now["pid"]
                return
            time.sleep(0.05)
        self.complain(f"no generation {self.generation + 1} after an upgrade")


class Harkd(Generations):
    """A harkd with services of one engine and all models.

    Reloads keep some and change some, of some workers are killed; some are programs or relays."""

    LIMIT = 16
    KINDS = ("kept", "changed", "killed", "exec", "relay", "tls")

    def __init__(self, build, scratch, engine, relay_to):
        self.relay_to, self.build_pair = relay_to, build.pair
        self.kinds = {
            f"{kind}-{model}": (kind, model, 1 + (i + k) % 2)
            for i, model in enumerate(MODELS)
            for k, kind in enumerate(self.KINDS)
        }
        super().__init__(f"harkd-{engine}", engine, build, scratch)
        self.slack = TLS_SLACK

    def services(self):
        text = []
        for name, (kind, model, workers) in self.kinds.items():
            text.append(
                f"[{name}]\nmodel = {model}\nworkers = {workers}\n"
                f"listen = {'tls' if kind == 'tls' else 'tcp'}://127.0.0.1:0 unix:{self.directory}/{name}"
            )
            if kind in ("killed", "exec", "tls"):
                pair = self.build_pair
                text.append(f"cert = {pair}.pem\nkey = {pair}.key\nmax_handshakes = {self.LIMIT}")
            if kind in ("killed", "exec"):
                text.append("listen = tls://127.0.0.1:0")
            if model != "inline":
                text.append(f"max_conns = {self.LIMIT}")
            text.append(
                {"exec": "exec = /bin/cat", "relay": f"relay = {self.relay_to}"}.get(
                    kind, "listen = udp://127.0.0.1:0\nbox = echo"
                )
            )
            if kind in ("changed", "tls"):
                text.append(f"lifetime = {3600 + self.reloads}s")
        if self.reloads % 2:
            text.append(f"[guest]\nlisten = unix:{self.directory}/guest\nbox = echo")
        return "\n".join(text) + "\n"

    def await_ready(self):
        super().await_ready()
        for service in self.status()["services"]:
            kind, model, workers = self.kinds[service["name"]]
            for i, address in enumerate(service["listen"]):
                scheme = address.split(":")[0]
                if scheme == "unix":
                    self.paths.append(address[5:])
                self.rows.append(
                    Row(
                        "harkd",
                        self.engine,
                        model,
                        workers,
                        f"{kind}-{scheme}",
                        address,
                        killed=kind == "killed",
                        hostile=1 if kind == "exec" else None,
                        burst=None if i else self.LIMIT if model != "inline" else SERIAL,
                    )
                )
        self.paths += [f"{self.directory}/guest", self.control]
        self.rows.append(Row("harkd", self.engine, "-", "-", "supervisor", None))

    def roles(self, members):
        if (now := self.status()) is None:
            return {}
        roles = {"supervisor": [now["pid"]]}
        for service in now["services"]:
            if service["name"] in self.kinds and (pids := [w["pid"] for w in service["workers"] if not w["draining"]]):
                roles[service["name"]] = pids
        roles["guest"] = [
            w["pid"] for s in now["services"] if s["name"] == "guest" for w in s["workers"] if not w["draining"]
        ]
        return {role: pids for role, pids in roles.items() if pids}

    def rows_of(self, role):
        kind, model = self.kinds[role][:2] if role in self.kinds else ("-", "-")
        return [r for r in self.rows if r.model == model and r.transport.startswith(kind + "-")] or self.rows[-1:]

    def left_over(self, view):
        if (now := self.status()) is None:
            return [(None, "the control socket does not answer")]
        return super().left_over(view) + [
            (s["name"], f"{s['name']}: {s['now']} connections, says hark status") for s in now["services"] if s["now"]
        ]

    def kill_worker(self, rng):
        now = self.status()
        name = rng.choice([name for name, (kind, *_) in self.kinds.items() if kind == "killed"])
        pids = [w["pid"] for s in now["services"] if s["name"] == name for w in s["workers"]] if now else []
        kill(rng.choice(pids or [None]), signal.SIGKILL)

    def reload(self):
        if super().reload() and os.path.exists(f"{self.directory}/guest") != bool(self.reloads % 2):
            self.complain(f"reload {self.reloads}: the path of the service that comes and goes is as before")


def kill(pid, number):
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def settle(servers, seconds):
    """Waits until nothing is left over, or so long. {server: [(role, what is)]}."""
    end = time.monotonic() + seconds
    left = {server: [(None, "")] for server in servers}
    while any(left.values()) and time.monotonic() < end:
        time.sleep(0.1)
        view = View()
        for server, what in left.items():
            server.process.poll()  # reaps it, where a later generation serves
            if what:
                left[server] = server.left_over(view)
    return left


def settle_rss(servers, seconds):
    """Waits until no server has grown too much: stacks are given back after a while. What has is told in its row."""
    end = time.monotonic() + seconds
    grown = list(servers)
    while grown and time.monotonic() < end:
        view = View()
        grown = [server for server in grown if not server.check_rss(view)]
        time.sleep(0.2 if grown else 0)
    for server in grown:
        for row in server.rows:
            if row.rss[1] > row.rss[0] + server.rss_growth():
                row.failures.append(f"RSS {row.rss[0] >> 10} KB in the warm-up, {row.rss[1] >> 10} KB in the end")


def end_all(servers, seconds):
    """SIGTERM; what is wrong then, or after so many seconds, goes to the rows."""
    for server in servers:
        kill(server.main_pid(), signal.SIGTERM)
    end = time.monotonic() + seconds
    waiting = set(servers)
    while waiting and time.monotonic() < end:
        time.sleep(0.1)
        for server in servers:
            server.process.poll()  # reaps it
        view = View()
        waiting = {server for server in waiting if view.members(server)}
    view, orphans = View(), proc.orphans_by_port()
    for server in servers:
        server.rows[-1].failures += server.after_end(view.members(server), orphans)


def kill_all(servers):
    """For the end, however it came about."""
    view = View()
    for server in servers:
        for pid, _, _ in view.members(server):
            kill(pid, signal.SIGKILL)
    for server in servers:
        server.process.wait()


def start_all(build, scratch):
    """What the relays go to, a harkd for each engine, and hark serve for each engine, model and number of workers."""
    backend = Serve(
        build,
        scratch,
        "epoll",
        "fiber",
        1,
        "backend",
        [f"unix:{scratch}/backend", "udp://127.0.0.1:0", "tls://127.0.0.1:0"],
        ["echo"],
        ["--max-conns", "5000", "--max-handshakes", "5000"],
    )
    servers = [backend]
    try:
        backend.await_ready()
        stream, datagram, tls = [row.address for row in backend.rows]
        for engine in ENGINES:  # before all others: how long a start tries a program has a limit
            servers.append(Harkd(build, scratch, engine, stream))
        for server in servers[1:]:
            server.await_ready()
        for engine, model, workers in [(e, m, w) for e in ENGINES for m in MODELS for w in (1, 2)]:

            def serve(what, schemes, command, engine=engine, model=model, workers=workers, **more):
                path = f"unix:{scratch}/{engine}-{model}-{workers}-{what}"
                addresses = [path if scheme == "unix" else f"{scheme}://127.0.0.1:0" for scheme in schemes]
                servers.append(Serve(build, scratch, engine, model, workers, what, addresses, command, **more))

            serve("box", ["tcp", "unix", "udp"], ["echo"])
            serve("exec", ["tcp", "unix", "tls"], ["--", "/bin/cat"])
            serve("relay", ["tcp", "unix"], ["relay", stream])
            serve("tls", ["tls"], ["echo"])
            serve("tlsrelay", ["tls", "tcp"], ["relay", "--ca", build.ca, "--server-name", "localhost", tls])
            serve("session", ["udp"], ["relay", datagram], options=["--idle-timeout", "1s"])
            if workers == 2:
                serve("killed", ["tcp", "unix", "udp", "tls"], ["echo"], killed=True)
        for server in servers[1 + len(ENGINES) :]:
            server.await_ready()
    except BaseException:
        kill_all(servers)
        raise
    return servers
