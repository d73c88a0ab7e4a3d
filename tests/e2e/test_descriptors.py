"""5,000 connections against a limit of 256 descriptors: none is refused, waiting costs no CPU, all are served."""
import os
import resource
import selectors
import socket
import time

from conftest import Service

LIMIT = 256
CONNECTIONS = 5000
PATIENCE = 60  # seconds: the kernel tries again after 1, 3, 7, 15 s what found no room in the backlog


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start(hark):
    service = Service(
        [hark, "serve", "-v", "tcp://127.0.0.1:0", "echo"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT)),
    )
    end = time.monotonic() + 20
    while not service.addresses:
        assert time.monotonic() < end, service.stderr
        time.sleep(0.01)
    return service


def scenario(hark):
    """Returns what was seen: (connections served, CPU seconds in a paused second, seconds in all)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    service = start(hark)
    socks = []
    begun = time.monotonic()
    try:
        address = ("127.0.0.1", service.port())
        for _ in range(CONNECTIONS):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(address)
            socks.append(s)
        service.expect("accepting pauses")
        time.sleep(0.5)  # what has come by then is taken in
        before = cpu_seconds(service.pid)
        time.sleep(1)
        idle = cpu_seconds(service.pid) - before
        served = serve_all(socks)
    finally:
        for s in socks:
            s.close()
        service.end()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return served, idle, time.monotonic() - begun


def serve_all(socks):
    """Each sends a line once it is connected, reads it back and closes: that makes room for the next."""
    served = 0
    end = time.monotonic() + PATIENCE
    with selectors.DefaultSelector() as sel:
        for i, s in enumerate(socks):
            sel.register(s, selectors.EVENT_WRITE, b"%d\n" % i)
        while served < len(socks):
            assert time.monotonic() < end, f"{served} served in time"
            for key, events in sel.select(1):
                s, line = key.fileobj, key.data
                if events & selectors.EVENT_WRITE:
                    assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0, "refused"
                    s.sendall(line)
                    sel.modify(s, selectors.EVENT_READ, line)
                else:
                    assert s.recv(100) == line
                    sel.unregister(s)
                    s.close()
                    served += 1
    return served


def test_connections_wait_for_descriptors_and_are_all_served(hark):
    served, idle, _ = scenario(hark)
    assert served == CONNECTIONS
    assert idle < 0.2


if __name__ == "__main__":
    served, idle, seconds = scenario(os.path.join(os.environ.get("HARK_BUILD", "build"), "hark"))
    print(
        f"{served} of {CONNECTIONS} connections served with {LIMIT} descriptors in {seconds:.1f} s, none refused; "
        f"CPU in a paused second: {idle * 1000:.0f} ms"
    )
