"""Clients that may have to wait: each kind says in its own words what it met."""

import os
import ssl
import struct
import subprocess
import socket
import threading
import time

import clients
import lab
from lab import STATE, VIP, check

HERE = os.path.dirname(os.path.abspath(__file__))
ALERT = bytes.fromhex("15030300020250")
# Longer than any client takes to send something again that nobody has acknowledged, and than several looks of the dispatcher's.
A_WHILE = 0.7


def spoken(command, stdin=""):
    """What a program says, its errors included."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, errors="replace")
    return done.stdout + done.stderr


def s_client(source):
    return spoken(["openssl", "s_client", "-connect", f"{VIP}:443", "-bind", source + ":0", "-ign_eof"], "GET / HTTP/1.0\r\n\r\n")


def curl(source):
    return spoken(["curl", "-sS", "--max-time", "50", "--cacert", STATE + "/cert.pem", "--resolve", f"{clients.NAME}:443:{VIP}",
                   "--interface", source, f"https://{clients.NAME}/"])


def python(source):
    try:
        return clients.fetch(source)[0].decode()
    except OSError as e:
        return f"failed: {e}"


def java(source):
    return spoken(["java", "-Xmx64m", "-XX:-UsePerfData", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", HERE + "/Client.java", VIP, "TLSv1.2,TLSv1.3"],
                  f"1 {source}\n")


def go(source):
    return spoken([os.environ["GO_CLIENT"], VIP + ":443", source])


# What each says when it is told by an alert that there was no place for it.
ALERTED = {
    s_client: "tlsv1 alert internal error",
    curl: "tlsv1 alert internal error",
    python: "TLSV1_ALERT_INTERNAL_ERROR",
    java: "Received fatal alert: internal_error",
    go: "remote error: tls: internal error",
}


class Visit(threading.Thread):
    """One client, at its own pace. What it said is in `said`, once it `is_done`."""

    def __init__(self, kind, source):
        super().__init__(daemon=True)
        self.kind, self.source, self.said, self.begun, self.took = kind, source, None, time.monotonic(), None
        self.start()

    def run(self):
        try:
            said = self.kind(self.source)
        except Exception as e:  # a client that hung
            said = f"{type(e).__name__}: {e}"
        self.took, self.said = time.monotonic() - self.begun, said

    @property
    def is_done(self):
        return self.said is not None

    def __str__(self):
        return f"{self.kind.__name__}: {(self.said or 'nothing yet').strip()[-200:]!r}"


def all_done(visits, seconds=60):
    lab.wait_until(lambda: all(v.is_done for v in visits), seconds, lambda: "ends of " + ", ".join(str(v) for v in visits if not v.is_done))


def hold(source):
    """A client that has its server, and keeps it."""
    return clients.context().wrap_socket(clients.connect(source=source), server_hostname=clients.NAME)


def release(held):
    """It asks for its page, to show that nothing has happened to it, and goes."""
    with held:
        held.sendall(clients.GET)
        answer = clients.read_all(held)
        check(b" 200 " in answer.split(b"\r\n")[0], f"who had its server all the time was answered {answer[:60]!r}")


def asks(source, hello=None, timeout=20):
    """A client that has said its hello, and nothing more."""
    s = clients.connect(source=source, timeout=timeout)
    s.sendall(hello or clients.client_hello(clients.context()))
    return s


def tcp_info(s):
    """Of the kernel's: segments without acknowledgement, all that were repeated, and the window that it was given."""
    info = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
    unacked, = struct.unpack_from("=I", info, 24)
    repeated, = struct.unpack_from("=I", info, 100)
    window, = struct.unpack_from("=I", info, 228)
    return unacked, repeated, window


def reset(s):
    """Goes without a goodbye."""
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def is_silent(s):
    """Whether it has met nothing yet, neither bytes nor an end."""
    s.setblocking(False)
    try:
        s.recv(1, socket.MSG_PEEK)
        return False
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False
    finally:
        s.settimeout(20)


def limited(t, *flags, limit="max-connections=1", backends=("web1=10.78.0.11:443",)):
    """A dispatcher before nginx servers with this limit each."""
    t.servers.want("nginx,nginx,haproxy")
    return t.dispatcher(*flags, args=lab.base_args([f"{VIP}:443"], [f"{b},{limit}" for b in backends]))


def log_of(d, source, seconds=10):
    """The line of one client's connection."""
    find = lambda: [c for c in d.log() if c["client"].startswith(source + ":")]
    lab.wait_until(find, seconds, f"the connection of {source} in the log")
    return find()[-1]


def wait_for_turn(t, kinds):
    d = limited(t, "--class", "rest,queue-timeout=40s")
    held = hold(clients.address(0))
    visits = [Visit(kind, clients.address(1 + n)) for n, kind in enumerate(kinds)]
    mine = asks(clients.address(20))
    time.sleep(A_WHILE)
    unacked, repeated, window = tcp_info(mine)
    check(unacked == 0 and repeated == 0 and window > 0, f"a client that waits: {unacked} segments unacknowledged, {repeated} repeated, a window of {window}")
    check(is_silent(mine), "somebody said something to a client that waits")
    check(not any(v.is_done for v in visits), f"not made to wait: {[str(v) for v in visits if v.is_done]}")
    # A JVM takes its time to start, and then to say its hello.
    lab.wait_until(lambda: d.flows() >= 2 + len(kinds), 30, lambda: f"{2 + len(kinds)} connections, there are {d.flows()}")
    time.sleep(A_WHILE)
    mine.close()
    release(held)
    all_done(visits)
    for v in visits:
        check("web1 nginx" in v.said, f"served: {v}")
        line = log_of(d, v.source)
        check(line["backend"] == "web1" and line["dial_attempts"] == 1 and line["waited_ms"] > 0, f"in the log: {line}")
    return "; ".join(f"{v.kind.__name__} after {log_of(d, v.source)['waited_ms']} ms" for v in visits)


def wait_too_long(t, kinds):
    d = limited(t, "--class", "rest,queue-timeout=1s")
    held = hold(clients.address(0))
    visits = [Visit(kind, clients.address(1 + n)) for n, kind in enumerate(kinds)]
    plain, tls = clients.connect(source=clients.address(20)), asks(clients.address(21))
    plain.sendall(clients.GET)
    begun = time.monotonic()
    got = clients.read_all(tls)
    took = time.monotonic() - begun
    check(got == ALERT, f"a client whose time is over got {got.hex()} before the end")
    check(took > 0.5, f"its time was over after {took:.2f} s")
    tls.close()
    try:
        got = plain.recv(100)
        check(False, f"a client without TLS got {got!r}")
    except ConnectionResetError:
        pass
    all_done(visits)
    for v in visits:
        check(ALERTED[v.kind] in v.said, f"{v}")
    lines = [log_of(d, s) for s in [v.source for v in visits] + [clients.address(20), clients.address(21)]]
    check(all(c["backend"] is None and c["waited_ms"] >= 900 for c in lines), f"in the log: {[(c['backend'], c['waited_ms']) for c in lines]}")
    release(held)
    d.await_log(3 + len(visits))
    return f"an alert after {took:.2f} s, an end behind it; without TLS a reset; in the log {sorted({c['end'] for c in lines})}"
