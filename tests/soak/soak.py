#!/usr/bin/python3
"""soak.py [--seconds N] [--seed N] [--attack N | --changes N] [--junit FILE] [--keep]

Every engine and model under hostile clients; nothing may be left over. Starts `hark serve` for each engine and model
with 1 and 2 workers: a box (TCP, unix, UDP, TLS), a program and relays; and for each engine a harkd with services of
all models. Most of the N seconds (600) hostile clients attack all of them at once, polite clients use the same
addresses, workers of the services named `killed` get SIGKILL, and harkd reloads and upgrades. Then the clients go, and

- every polite operation has been answered, byte for byte, within 10 seconds; where workers were killed, connections
  may be lost; each TLS session that was offered was resumed;
- no connection, descriptor, thread or process is left that was not there before the clients came;
- as many polite connections as the service's limit allows are answered at once: no slot is lost, nor one of
  max_handshakes;
- RSS is at most 1 MB above the most that it was in the warm-up: the first minute of the load, in short runs half of it
  (sessions of UDP relays: 3 MB, TLS: 4 MB, as they level off late);
- each server ends on SIGTERM within its grace, with status 0, and leaves no path, process or socket.

A build with sanitizers may take 40 seconds and 64 MB. First comes the attack: --max-conns 100, three clients with N
connections each that are all reset, on each engine, and with TLS a tenth of them; --attack N runs it alone. --changes N
runs nothing but N rounds of changes under polite clients, for which nothing may be lost (changes.py), on epoll and
io_uring: 20 rounds are 40 reloads, 40 renewals of each certificate and 5 upgrades. Every random choice follows from
--seed, which is printed; what the scheduler does, does not. The binaries are those of $HARK_BUILD (build). What failed
is told by row, and its logs stay (--keep: all). The last line is "N passed, N failed", the exit status 1 if anything
failed.
"""
import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET

import changes
from servers import ENGINES, GRACE, Build, Harkd, Row, Server, View, end_all, kill_all, settle, settle_rss, start_all

FAILURES_TOLD = 12  # of a row


class Clients:
    """A running soak_clients. numbers(row): how many hostile and polite clients it has, HOLD_MS and COUNT."""

    def __init__(self, build, mode, seconds, seed, rows, numbers, scratch):
        self.rows = {row.name: row for row in rows}
        self.log = os.path.join(scratch, f"{mode}-{seed}")
        self.loop = {}
        servers = {name: i for i, name in enumerate(dict.fromkeys(row.server for row in rows))}
        # A session of its own, as the servers have: the scheduler shares by sessions. Clients that share one with this
        # script leave the attacked server so much of the processor that it is never late.
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [build.clients, mode, str(seconds), str(build.patience * 1000), str(seed), build.ca],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        for row in rows:
            line = [row.name, servers[row.server], row.address, *numbers(row)]
            self.process.stdin.write(" ".join(map(str, line)).encode() + b"\n")
        self.process.stdin.close()
        self.process.stdin = None  # or communicate() would flush it

    def wait(self, timeout):
        """Waits for its end, and adds what it counted to the rows."""
        try:
            out = self.process.communicate(timeout=timeout)[0]  # what it tells is more than a pipe holds
        except subprocess.TimeoutExpired:
            self.process.kill()
            out = self.process.communicate()[0]
        told = 0
        for text in out.decode().splitlines():
            name, *pairs = text.split()
            counts = dict(zip(pairs[::2], map(int, pairs[1::2])))
            if name == "loop":
                self.loop = counts
            else:
                self.rows[name].count(counts)
                told += 1
        if told != len(self.rows):
            raise RuntimeError(f"soak_clients ended with status {self.process.wait()}, see {self.log}")
        with open(self.log, encoding="utf-8", errors="replace") as log:
            for text in log:
                name, _, what = text.rstrip().partition(": ")
                if name in self.rows and not self.rows[name].excuses(what):
                    self.rows[name].failures.append(what)


def burst(build, rows, seed, scratch, at_once=None):
    """So many polite connections at once, or as many as the row says, open until all of them are answered."""
    rows = [row for row in rows if at_once or row.burst]
    Clients(
        build,
        "burst",
        0,
        seed,
        rows,
        lambda row: (0, at_once or row.burst, 0 if row.model == "inline" else 1, at_once or row.burst),
        scratch,
    ).wait(build.patience * 3)


def attack_one(build, scratch, engine, scheme, connections, seed):
    """Three clients that reset all their connections, at a limit of 100; then 100 polite ones at once. The row."""
    argv = [build.hark, "serve", "--engine", engine, "--grace", f"{GRACE}s", "--max-conns", "100"]
    if scheme == "tls":
        argv += ["--cert", build.pair + ".pem", "--key", build.pair + ".key", "--max-handshakes", "100"]
    server = Server(f"attack-{scheme}-{engine}", [*argv, f"{scheme}://127.0.0.1:0", "echo"], build, scratch)
    try:
        row = Row("serve", engine, "fiber", 1, f"attack-{scheme}", server.await_addresses(1)[0])
        server.rows = [row]
        burst(build, [row], seed, scratch, 100)
        settle([server], build.settle)
        server.remember(View())
        for count in (connections // 10, connections):  # the first is the warm-up
            server.warm_up(View())
            limit = max(10, count // (500 if scheme == "tcp" else 50))
            running = [
                Clients(build, "attack", limit, seed + count + i, [row], lambda row: (100, 0, 1, count), scratch)
                for i in range(3)
            ]
            for clients in running:
                clients.wait(limit + 30)
        row.failures += [f"left over: {what}" for _, what in settle([server], build.settle)[server]]
        burst(build, [row], seed + 1, scratch, 100)
        settle_rss([server], build.settle)
        end_all([server], GRACE + build.settle)
        return row
    finally:
        kill_all([server])


def disturb(servers, seconds, rng):
    """Kills, reloads and upgrades for so many seconds, and looks at the memory of the warm-up."""
    harkds = [server for server in servers if isinstance(server, Harkd)]
    victims = harkds + [server for server in servers if getattr(server, "killed", False)]
    begin = time.monotonic()
    warm_up, upgrade_every = min(60, seconds / 2), min(15, seconds / 8)
    next_kill, next_reload, next_upgrade, next_look = 1.0, 2.0, upgrade_every, 0
    while (at := time.monotonic() - begin) < seconds:
        if next_look <= at <= warm_up:
            view = View()
            for server in servers:
                server.warm_up(view)
            next_look = at + 2
        if at >= next_kill:
            rng.choice(victims).kill_worker(rng)
            next_kill = at + 0.1 + 0.5 * rng.random()
        if at >= next_reload:
            rng.choice(harkds).reload()
            next_reload = at + 1 + 2 * rng.random()
        if at >= next_upgrade and at < seconds - 2:
            min(rng.sample(harkds, len(harkds)), key=lambda harkd: harkd.upgrades).upgrade()
            next_upgrade = at + upgrade_every
        time.sleep(0.05)
    for harkd in harkds:
        if harkd.reloads % 2:
            harkd.reload()  # without the service that comes and goes, as in the beginning


def mix(build, scratch, seconds, seed):
    """All servers, all clients. The rows."""
    servers = start_all(build, scratch)
    clients = None
    try:
        all_rows = [row for server in servers for row in server.rows]
        rows = [row for row in all_rows if row.address]
        say(f"{len(servers)} servers serve on {len(rows)} addresses")
        burst(build, rows, seed, scratch, 1)
        burst(build, rows, seed + 1, scratch)
        settle(servers, build.settle)
        view = View()
        for server in servers:
            server.remember(view)
        say("each answers, and as many at once as it may; the load begins")

        def numbers(row):
            return -(-row.hostile // build.ease), -(-row.polite // build.ease), row.hold_ms, 0

        clients = Clients(build, "mix", 0, seed, rows, numbers, scratch)
        disturb(servers, seconds, random.Random(seed))
        clients.process.terminate()
        clients.wait(build.patience + 30)
        say(
            "the clients are gone; slowest turn {longest_turn_ms} ms, longest pause {think_ms} ms".format(
                **clients.loop
            )
        )
        for row in rows:
            if row.counts["done"] < 3:
                row.failures.append("next to no polite operation was answered")
        for server, what in settle(servers, build.settle).items():
            for role, text in what:
                server.rows_of(role)[0].failures.append(f"left over: {text}")
        burst(build, rows, seed + 2, scratch)
        settle(servers, build.settle)
        settle_rss(servers, build.settle)
        say("as many as may are answered at once; the servers go")
        end_all(servers[::-1], GRACE + build.settle)
        say("the servers are gone")
        return all_rows
    finally:
        if clients:
            clients.process.kill()
        kill_all(servers)


def say(text):
    print(f"soak: {time.monotonic() - BEGUN:5.1f} s: {text}", flush=True)


def table(rows):
    lines = [
        (
            "how",
            "engine",
            "model",
            "workers",
            "transport",
            "operations",
            "resumed",
            "lost",
            "slowest ms",
            "attacks",
            "resets",
            "RSS KB warm",
            "end",
            "",
        )
    ]
    for row in rows:
        lines.append(
            (
                row.how,
                row.engine,
                row.model,
                row.workers,
                row.transport,
                *(row.counts[key] for key in ("done", "resumed", "lost", "slowest_ms", "attacks", "resets")),
                row.rss[0] >> 10,
                row.rss[1] >> 10,
                "FAILED" if row.failures else "ok",
            )
        )
    widths = [max(len(str(line[i])) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print(
            "  ".join(
                str(v).rjust(w) if 5 <= i < 13 else str(v).ljust(w) for i, (v, w) in enumerate(zip(line, widths))
            ).rstrip()
        )
    for row in rows:
        for text in row.failures[:FAILURES_TOLD]:
            print(f"failed: {row.name}: {text}")
        if len(row.failures) > FAILURES_TOLD:
            print(f"failed: {row.name}: and {len(row.failures) - FAILURES_TOLD} more")


def write_junit(path, failed):
    suite = ET.Element("testsuite", name="soak")
    case = ET.SubElement(suite, "testcase", classname="soak", name="nothing_is_left_over")
    if failed:
        ET.SubElement(case, "failure", message=f"{len(failed)} rows failed").text = "\n".join(failed)
    ET.ElementTree(suite).write(path)


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--attack", type=int)
    alone.add_argument("--changes", type=int, metavar="ROUNDS")
    parser.add_argument("--junit")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    build = Build(os.path.abspath(os.environ.get("HARK_BUILD", "build")))
    scratch = tempfile.mkdtemp(prefix="soak-")
    build.make_certificate(scratch)
    print(f"soak: seed {args.seed}, logs in {scratch}", flush=True)
    connections = args.attack or (10000 if args.seconds >= 300 else 3000)
    if args.changes is not None:
        rows = [row for engine in ("epoll", "uring") for row in changes.run(build, scratch, engine, args.changes, say)]
    else:
        rows = [
            attack_one(build, scratch, engine, scheme, count, args.seed)
            for scheme, count in (("tcp", connections), ("tls", connections // 10))
            for engine in ENGINES
        ]
    if args.attack is None and args.changes is None:
        rows += mix(build, scratch, args.seconds * 0.6 if args.seconds < 300 else args.seconds - 60, args.seed)
    table(rows)
    failed = [row.name for row in rows if row.failures]
    if args.junit:
        write_junit(args.junit, failed)
    if not failed and not args.keep:
        shutil.rmtree(scratch)
    print(f"{len(rows) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


BEGUN = time.monotonic()
if __name__ == "__main__":
    sys.exit(main())
