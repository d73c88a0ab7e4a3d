"""What /proc says of a server: its processes, their threads, descriptors and memory; what a socket is, by its inode."""
import collections
import os
import re
import socket
import struct

TCP_STATES = [
    "?",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
]


def read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read()
    except OSError:
        return ""


def endpoint(text):
    """127.0.0.1:7 for 0100007F:0007."""
    host, port = text.split(":")
    if len(host) == 8:
        return f"{socket.inet_ntoa(struct.pack('=I', int(host, 16)))}:{int(port, 16)}"
    return f"[{host}]:{int(port, 16)}"


def sockets():
    """{inode: what it is}, for the TCP, UDP and unix sockets of this network namespace."""
    known = {}
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for line in read(f"/proc/net/{kind}").splitlines()[1:]:
            f = line.split()
            state = TCP_STATES[int(f[3], 16)] if kind.startswith("tcp") else "connected" if f[3] == "01" else "bound"
            peer = "" if state in ("LISTEN", "bound") else f" peer {endpoint(f[2])}"
            known[f[9]] = f"{kind} {state} {endpoint(f[1])}{peer}"
    for line in read("/proc/net/unix").splitlines()[1:]:
        f = line.split()
        kind = {"0001": "unix", "0002": "unixgram"}.get(f[4], "unix?")
        state = "LISTEN" if int(f[3], 16) & 0x10000 else "connected" if f[5] == "03" else "bound"
        known[f[6]] = f"{kind} {state} {f[7] if len(f) > 7 else ''}".rstrip()
    return known


def orphans_by_port():
    """{port: [TCP sockets of that port that no process has]}, but those that only wait for time to pass."""
    found = collections.defaultdict(list)
    for line in read("/proc/net/tcp").splitlines()[1:]:
        f = line.split()
        state = TCP_STATES[int(f[3], 16)]
        if state != "TIME_WAIT" and f[9] == "0":
            found[int(f[1].split(":")[1], 16)].append(f"tcp {state} {endpoint(f[1])} peer {endpoint(f[2])}")
    return found


def sessions():
    """{session: [(pid, parent, state)]} of all processes."""
    found = collections.defaultdict(list)
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := read(f"/proc/{name}/stat")):
            f = stat.rsplit(")", 1)[1].split()
            found[int(f[3])].append((int(name), int(f[1]), f[0]))
    return found


def descriptors(pid, known):
    """A Counter of what the process has open; known is sockets()."""
    found = collections.Counter()
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return found
    for name in names:
        try:
            what = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        if what.startswith("socket:"):
            what = known.get(what[8:-1], "socket in no table: its peer has reset it, or it is not connected")
        found[re.sub(r"^pipe:.*", "pipe", what)] += 1
    return found


def threads(pid):
    """How many, those of the kernel's for io_uring left out."""
    try:
        names = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return 0
    return sum(1 for t in names if not read(f"/proc/{pid}/task/{t}/comm").startswith("iou-"))


def rss(pid):
    """Resident memory in bytes; 0: it has ended."""
    m = re.search(r"^VmRSS:\s+(\d+) kB", read(f"/proc/{pid}/status"), re.M)
    return int(m[1]) * 1024 if m else 0


def command(pid):
    return read(f"/proc/{pid}/cmdline").replace("\0", " ").strip() or read(f"/proc/{pid}/comm").strip()
