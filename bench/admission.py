"""Which request goes first: a server that can do forty handshakes at a time is offered three times what it can take, half of it by clients that come back with a
session. Behind the dispatcher without limits, behind it with `max-handshakes` and the classes it has by default, and behind HAProxy with `maxconn` and
`set-priority-class`; over the same virtual pairs, with the same server and clients, in one run. Run by `bench admission`, as root; prints one JSON object a figure.

The server's handshakes are real, what they cost is made (`tls-peer serve`): up to forty go on at full speed, a full one takes ten times as long as one that is
resumed; beyond, all share what there is, and the whole gets slower by 2 % with every forty more. It sees at once when a client has gone, which most servers do not:
behind those that compute for clients that are no longer there, things without admission are worse. The clients (`tls-peer load`) come at random times, whether those before
were answered or not, and give up after ten seconds. They speak TLS 1.2 with tickets: what HAProxy can see, too. By which all is told: the time from a
client's SYN to the ServerHello; who never gets one counts with its whole patience.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time

sys.dont_write_bytecode = True
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, "scripts/live.d"), os.path.join(ROOT, "bench")]

import lab  # noqa: E402
from live import Proxy, end, figure, note  # noqa: E402

SERVER = "10.78.0.11"
PEER = os.path.join(os.path.dirname(lab.DISPATCHER), "tls-peer")
SLOTS, FULL, RESUMED = 40, 800, 80
# Half of them are resumed.
CAPACITY = SLOTS * 2000 / (FULL + RESUMED)
# The dispatcher's default; HAProxy is told to have the same.
QUEUE_TIMEOUT = 3.0
PATIENCE = 10.0
# A full handshake is ten units.
UNITS = SLOTS * 10
# How exactly a queue's clock goes, and how long a last look takes.
SLACK = 1.05
PLAIN, LIMITED, HAPROXY = "no limits", "max-handshakes", "HAProxy, maxconn"


class Dispatcher:
    """The dispatcher, with limits at its backend or without."""

    def __init__(self, driver, limits):
        self.driver, self.limits = driver, limits

    def start(self):
        self.log = f"{lab.WORK}/connections.json"
        command = [lab.DISPATCHER, "run", "--vip", f"{lab.VIP}:443", "--backend", f"web1={SERVER}:443{self.limits}", "--connections-log", self.log]
        for name, network in (("wan", "10.77.0.1/24"), ("lan", "10.78.0.1/24")):
            command += ["--port", f"{name}={self.driver}:{name},ip={network}"]
        self.process = subprocess.Popen(["ip", "netns", "exec", lab.PREFIX + "-dispatcher", *command],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def stop(self):
        end(self.process)

    def waits(self):
        """Milliseconds in the queue, of each connection; none where nothing was waited for."""
        with open(self.log) as f:
            return [c["waited_ms"] for c in map(json.loads, f) if c.get("waited_ms") is not None]


class HAProxy(Proxy):
    """In TCP mode: so many connections at the server, and who brings a ticket goes first."""

    def command(self):
        path = f"{lab.WORK}/haproxy.cfg"
        with open(path, "w") as f:
            f.write(f"""global
    nbthread 1
    maxconn 8192
defaults
    mode tcp
    timeout client 60s
    timeout connect 5s
    timeout server 60s
    timeout queue {QUEUE_TIMEOUT:.0f}s
listen tls
    bind {lab.VIP}:443
    tcp-request inspect-delay 5s
    acl hello req.ssl_hello_type 1
    acl returns req.ssl_st_ext 2
    tcp-request content set-priority-class int(-10) if hello returns
    tcp-request content accept if hello
    server web1 {SERVER}:443 maxconn {SLOTS}
""")
        return ["haproxy", "-db", "-f", path]

    def waits(self):
        return []


def ready(side):
    """Until a handshake goes through."""
    until = time.monotonic() + 20
    while True:
        if side.process.poll() is not None:
            raise lab.Failure(f"it ended: {side.process.stderr.read().strip()[-300:]}")
        tried = subprocess.run(["ip", "netns", "exec", lab.PREFIX + "-clients", "timeout", "5", "openssl", "s_client", "-connect", f"{lab.VIP}:443"],
                               stdin=subprocess.DEVNULL, capture_output=True)
        if tried.returncode == 0:
            return
        lab.check(time.monotonic() < until, f"it does not answer: {tried.stderr.decode().strip()[-200:]}")
        time.sleep(0.1)


def serve(thrash):
    """The server, new for each side."""
    command = [PEER, "serve", "--listen", f"{SERVER}:443", "--cert", f"{lab.WORK}/cert.pem", "--key", f"{lab.WORK}/key.pem",
               "--slots", SLOTS, "--full", FULL, "--resumed", RESUMED, "--thrash", thrash]
    return subprocess.Popen(["ip", "netns", "exec", lab.PREFIX + "-servers", *map(str, command)],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def measure(side, args):
    """What clients meet behind it, and how many handshakes the server was seen to do at once."""
    server = serve(args.thrash)
    try:
        side.start()
        try:
            ready(side)
            command = [PEER, "load", "--to", f"{lab.VIP}:443", "--from", ",".join(f"10.77.0.{n}" for n in range(101, 161)), "--rate", CAPACITY * args.times,
                       "--warm", args.warm, "--seconds", args.seconds, "--patience", PATIENCE]
            done = subprocess.run(["ip", "netns", "exec", lab.PREFIX + "-clients", *map(str, command)],
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True)
            lab.check(done.returncode == 0, f"the clients: {done.stderr.strip()[-300:]}")
        finally:
            side.stop()
    finally:
        server.terminate()
        said = server.communicate()[0]
    found = json.loads(done.stdout)
    found["at once"] = max([int(line.split()[-1]) for line in said.splitlines()], default=0)
    found["waits"] = side.waits()
    return found


def certificate():
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", "/CN=lab.example.test",
                    "-keyout", f"{lab.WORK}/key.pem", "-out", f"{lab.WORK}/cert.pem"], check=True, capture_output=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", help="sides with this in their names")
    parser.add_argument("--driver", default="af-packet")
    parser.add_argument("--times", type=float, default=3.0, help="what is offered, by what the server can take")
    parser.add_argument("--thrash", type=float, default=0.02, help="by which part the server gets slower for every %d handshakes too many" % SLOTS)
    parser.add_argument("--limit", default=f"max-handshakes={UNITS}", help="what the dispatcher is told")
    args = parser.parse_args()
    # Until it is as it will be: those who give up first must have come.
    args.warm, args.seconds = (4, 5) if args.quick else (12, 20)
    if os.getuid() != 0:
        sys.exit("needs root: it makes network namespaces")
    for program in ("haproxy", "openssl", "ethtool", "ip"):
        if not shutil.which(program) and not os.path.exists("/usr/sbin/" + program):
            sys.exit(f"needs {program}")
    for program in (lab.DISPATCHER, PEER):
        if not os.path.exists(program):
            sys.exit("build it first: cargo build --release -p dispatcher -p tools")
    sides = {PLAIN: Dispatcher(args.driver, ""), LIMITED: Dispatcher(args.driver, "," + args.limit), HAPROXY: HAProxy()}
    home = open("/proc/self/ns/net")
    lab.lab("up")
    found = {}
    try:
        certificate()
        for name, side in sides.items():
            if args.only and args.only not in name:
                continue
            note(name)
            try:
                found[name] = measure(side, args)
            except (lab.Failure, OSError, subprocess.SubprocessError) as e:
                note(f"left out: {name}: {e}")
    finally:
        lab.enter_file(home)
        lab.lab("down")
    tell(found)


def tell(found):
    for name, f in found.items():
        for kind in ("returning", "new"):
            for quantile in ("p50", "p99", "longest"):
                figure(name, f"{kind}, {quantile}", f[kind][quantile], "ms")
            for end_ in ("done", "alert", "reset", "late", "broken"):
                figure(name, f"{kind}, {end_}", 100 * f[kind][end_] / max(1, f[kind]["offered"]), "%")
        figure(name, "handshakes", f["completed"], "/s")
        figure(name, "at once at the server", f["at once"], "")
    if LIMITED in found:
        limited = found[LIMITED]
        if PLAIN in found:
            plain = found[PLAIN]
            figure(LIMITED, f"returning, p99, over {PLAIN}", limited["returning"]["p99"] / plain["returning"]["p99"], "ratio", at_most=0.25)
            figure(LIMITED, f"handshakes, over {PLAIN}", limited["completed"] / plain["completed"], "ratio", at_least=1.5)
        figure(LIMITED, "longest wait, over the time-out", max(limited["waits"], default=0) / QUEUE_TIMEOUT / 1000, "ratio", at_most=SLACK)
        if HAPROXY in found:
            proxy = found[HAPROXY]
            figure(LIMITED, f"returning, p99, over {HAPROXY}", limited["returning"]["p99"] / proxy["returning"]["p99"], "ratio")
            figure(LIMITED, f"handshakes, over {HAPROXY}", limited["completed"] / proxy["completed"], "ratio")


if __name__ == "__main__":
    main()
