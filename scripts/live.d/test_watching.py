"""What an operator sees of single connections and frames while they pass."""

import json
import os
import re
import signal
import socket
import stat
import subprocess

import clients
import lab
from asking import asked
from lab import DISPATCHER, VIP, check
from rawtcp import ACK, Wire
from registry import test


def sockets():
    """Connections as the servers' kernel has them: ours, by our address and port."""
    lines = subprocess.run([*lab.lab_namespace("servers"), "ss", "-Htn", "state", "established"], check=True, capture_output=True, text=True).stdout.splitlines()
    ends = (line.split()[2:4] for line in lines if line.strip())
    return {peer.replace("[::ffff:", "").replace("]", ""): own.replace("[::ffff:", "").replace("]", "") for own, peer in ends}


@test
def live_connections(t):
    """ctl show connections lists who is connected: the clients' own addresses, and as whom the servers' kernel has them; filters leave what they mean, and what has ended is gone"""
    t.servers.want("nginx,nginx,nginx")
    ctl, _ = asked(t)
    ctx = clients.context("1.3")
    held = [ctx.wrap_socket(clients.connect(source=clients.address(n % 8)), server_hostname=clients.NAME) for n in range(24)]
    half = clients.connect(source=clients.address(20))
    half.sendall(b"\x16\x03\x01\x02\x00")

    def show(*flags):
        told = json.loads(ctl("show", "connections", *flags, "--json"))
        check(told["late"] == [], f"workers that were late: {told['late']}")
        return told

    def spliced():
        return [c for c in show("--state", "spliced")["connections"] if c["tls_version"]]

    lab.wait_until(lambda: len(spliced()) == 24 and len(show()["connections"]) == 25, 10, "24 connections that are spliced, and one that has said half a hello")
    all_of_them = show()
    named = {c["client"]: c for c in all_of_them["connections"]}
    ours = {"%s:%d" % s.getsockname()[:2] for s in held}
    check({c for c in named if named[c]["state"] == "spliced"} == ours, "the clients' addresses are others")
    at_servers = sockets()
    for client in ours:
        c = named[client]
        check(at_servers.get(c["local"]) == c["address"], f"the servers' kernel has {c['local']} at {at_servers.get(c['local'])}, listed: {c}")
        check((c["class"], c["reason"], c["tls_version"], c["vip"]) == ("secure", "balanced", "1.3", f"{lab.VIP}:443"), f"listed: {c}")
    waiting = [c for c in named.values() if c["state"] == "await-hello"]
    check(len(waiting) == 1 and waiting[0]["backend"] is None and waiting[0]["client"] == "%s:%d" % half.getsockname()[:2], f"half a hello: {waiting}")
    # Filters, against the whole list.
    for name in ("web1", "web2", "web3"):
        some = show("--backend", name)["connections"]
        check(some and {c["client"] for c in some} == {a for a, c in named.items() if c["backend"] == name}, f"--backend {name}: {some}")
    one = clients.address(3)
    check({c["client"] for c in show("--client", one)["connections"]} == {a for a in named if a.rsplit(":", 1)[0] == one}, "--client")
    few = show("--limit", "7")
    check(len(few["connections"]) == 7 and few["more"] and not all_of_them["more"], f"--limit 7: {len(few['connections'])}, more: {few['more']}")
    check("there are more than these 7: --limit" in ctl("show", "connections", "--limit", "7"), "the table says nothing of more")
    ctl.refused('there is no backend "web9"', "show", "connections", "--backend", "web9")
    for s in held:
        s.sendall(clients.GET)
        check(b" 200 " in clients.read_all(s).split(b"\r\n")[0], "an answer that is none")
        s.close()
    half.shutdown(socket.SHUT_RDWR)
    half.close()
    lab.wait_until(lambda: show("--state", "spliced")["connections"] == [], 10, "no connection that is spliced")
    return f"{len(ours)} connections, each as its client and the servers' kernel have it; {len(waiting)} with half a hello"


class Capture:
    """A capture that goes on, in a file that tshark reads."""

    def __init__(self, t, ctl, *flags):
        self.path = f"{ctl.path}.{len(t.undo)}.pcapng"
        t.undo.append(lambda: lab.remove(self.path))
        command = [DISPATCHER, "ctl", "--socket", ctl.path, "capture", *flags, "--out", self.path]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        t.undo.append(lambda: self.process.poll() is None and self.process.kill())
        # It says so when all workers show what they see.
        lab.wait_until(lambda: os.path.exists(self.path) and os.path.getsize(self.path) > 0, 10, "a capture that has begun")

    def end(self, by=signal.SIGINT):
        if by:
            self.process.send_signal(by)
        said, wrong = self.process.communicate(timeout=60)
        check(self.process.returncode == 0, f"ctl capture: status {self.process.returncode}, {wrong.strip()[-300:]}")
        mode = stat.S_IMODE(os.stat(self.path).st_mode)
        check(mode == 0o600, f"the file's mode is {mode:o}")
        return said

    def read(self, *fields):
        """Of each frame what tshark has of it."""
        asked = [x for field in ("frame.comment", "frame.interface_name", *fields) for x in ("-e", field)]
        out = subprocess.run(["tshark", "-r", self.path, "-n", "-T", "fields", "-E", "separator=/t", *asked], check=True, capture_output=True, text=True)
        return [line.split("\t") for line in out.stdout.splitlines()]


@test
def live_capture(t):
    """ctl capture writes what passes into a pcapng file, and tshark shows beside each frame what became of it: a client's on both sides, a server's, and those that were dropped"""
    t.servers.want("nginx,nginx,nginx")
    ctl, d = asked(t)
    ctx = clients.context("1.3")
    # One client, on both sides: its own frames, and those between us and the server by our address.
    mine, other = clients.address(1), clients.address(2)
    capture = Capture(t, ctl, "--client", mine)
    refused = ctl.says("capture", "--out", "/dev/null")
    check(refused.returncode == 1 and "one capture at a time" in refused.stderr, f"a second capture: {refused.returncode}, {refused.stderr}")
    for n in range(6):
        clients.fetch(mine if n % 2 else other, ctx)
    log = {c["client"]: c for c in d.await_log(6)}
    said = capture.end()
    frames = capture.read("ip.src", "ip.dst", "tcp.flags", "tcp.srcport", "tcp.dstport")
    check(f"{len(frames)} frames in" in said, f"said: {said}, tshark has {len(frames)}")
    check(not any(other in f for f in frames), "frames of another client")
    of_mine = [c for c in log.values() if c["client"].startswith(mine + ":")]
    for c in of_mine:
        port = c["client"].rsplit(":", 1)[1]
        here = [f for f in frames if (f[2] == mine and f[5] == port) or (f[3] == mine and f[6] == port)]
        received = [f[0] for f in here if f[1] == "wan-received"]
        check(received[0] == "answered by a cookie", f"the SYN: {received[0]}")
        named = f"connection {c['conn']} of {c['client']}, "
        check(any(x.startswith("held, connection opened") and named in x for x in received), f"the hello: {received[:4]}")
        check(any(x.startswith("forwarded to ") and f"server {c['backend']} by balanced" in x for x in received), f"forwarded: {received}")
        # Towards the server by our own address, as the log has it.
        there = [f for f in frames if named in f[0] and f[1] == "lan-received"]
        check(there and all(f"{f[3]}:{f[6]}" == c["local"] for f in there), f"on the servers' side: {there[:3]}, log: {c}")
    # Every received frame that went on stands before the same as it was sent.
    pairs = [(a, b) for a, b in zip(frames, frames[1:]) if a[0].startswith("forwarded to ")]
    check(pairs and all(b[0].startswith("forwarded from ") and b[1].endswith("-sent") and b[4] == a[4] for a, b in pairs), "a frame that was forwarded without what was sent for it")
    # A server's.
    capture = Capture(t, ctl, "--backend", "web2", "--for", "1s")
    for n in range(9):
        clients.fetch(clients.address(n), ctx)
    capture.end(by=None)
    told = capture.read("ip.src", "ip.dst")
    check(told and all("server web2 by" in f[0] or "10.78.0.12" in f[2:4] for f in told), f"--backend web2: {[f for f in told if 'web2' not in f[0]][:3]}")
    # Dropped ones: the counters say how many, and nothing else is there.
    def dropped(name):
        return sum(x["frames"] + x["answered"] for x in json.loads(ctl("show", "drops", "--json")) if x["reason"] == name)

    before = dropped("no-flow") + dropped("bad-cookie")
    capture = Capture(t, ctl, "--drops", "--count", "1000")
    clients.fetch(clients.address(5), ctx)
    # A segment of no connection, as long as it takes: what a network loses is not the capture's to say.
    wire = Wire(d.mac(), "10.77.0.90")
    t.undo.append(wire.close)

    def stray():
        wire.send(wire.tcp(VIP, 40444, 443, 1000, 2000, ACK))
        return dropped("no-flow") + dropped("bad-cookie") > before

    lab.wait_until(stray, 10, "a drop that is counted")
    capture.end()
    lost = capture.read("tcp.dstport")
    why = sorted({re.sub(r"[,;].*", "", f[0]) for f in lost if f[1].endswith("-received")})
    check(why and all(re.match("dropped: |answered by a reset: ", x) for x in why), f"--drops: {why}")
    check(any(f[2] == "443" and re.search("no-flow|bad-cookie", f[0]) for f in lost), f"the segment of no connection: {lost}")
    # Whoever goes away without a word ends it, too.
    gone = Capture(t, ctl)
    gone.process.kill()
    gone.process.wait()
    lab.wait_until(lambda: ctl.says("capture", "--for", "10ms", "--out", gone.path).returncode == 0, 10, "room for another capture")
    return f"{len(frames)} frames of {len(of_mine)} connections on both sides, {len(told)} of a server, drops: {', '.join(why)}"
