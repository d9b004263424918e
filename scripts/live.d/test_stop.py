"""Stopping and starting anew in the middle of transfers: nobody is left hanging."""

import json
import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import clients
import lab
from lab import PREFIX, VIP, VIP6, check
from registry import test

PORT = 443
SERVERS = ["10.78.0.14", "fd78::14"]
# Downloads, and uploads, in each family; one of five receivers reads nothing.
EACH = 50
# On a lossy link one packet of so many is lost, each way.
LOSSY = 50


class Peers:
    """transfer_peers.py in a namespace, and what it said last."""

    def __init__(self, t, namespace, *arguments):
        self.said = {"begun": 0, "moving": 0, "ends": []}
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "transfer_peers.py")
        self.process = subprocess.Popen(["ip", "netns", "exec", f"{PREFIX}-{namespace}", "/usr/bin/python3", "-B", program, *map(str, arguments)],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        t.undo.append(self.close)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            self.said = json.loads(line)

    def close(self):
        self.process.kill()
        self.process.wait()


def shaped(t):
    """Both ends' links are slow, so that data and acknowledgements are under way all the time, on both sides of the dispatcher."""
    for namespace, device in (("clients", "c0"), ("servers", "s0")):
        tc = ["tc", "-n", f"{PREFIX}-{namespace}", "qdisc"]
        subprocess.run([*tc, "replace", "dev", device, "root", "tbf", "rate", "60mbit", "burst", "20kb", "limit", "1mb"], check=True)
        t.undo.append(lambda tc=tc, device=device: subprocess.run([*tc, "del", "dev", device, "root"], check=True))


def lossy(t):
    """Every fiftieth packet of the clients' link is lost, each way: counted, not drawn, so that resets of ours are surely among them."""
    rules = "".join(f"chain {hook} {{ type filter hook {hook} priority 0; meta l4proto tcp numgen inc mod {LOSSY} 0 drop; }}\n" for hook in ("input", "output"))
    nft = ["ip", "netns", "exec", f"{PREFIX}-clients", "nft"]
    subprocess.run([*nft, "-f", "-"], input=f"table inet lossy {{\n{rules}}}\n", text=True, check=True, capture_output=True)
    t.undo.append(lambda: subprocess.run([*nft, "delete", "table", "inet", "lossy"], check=True))


def sockets(namespace):
    """TCP sockets of connections at the port and servers of the tests, each with its queues; those that only wait for stragglers are closed. (A dispatcher that was
    killed may have left other servers one of its own: nobody could tell them.)"""
    ours = "dport = :%d" % PORT if namespace == "clients" else " or ".join(f"src [{a}]:{PORT}" if ":" in a else f"src {a}:{PORT}" for a in SERVERS)
    command = ["ip", "netns", "exec", f"{PREFIX}-{namespace}", "ss", "-HtnOio", "state", "connected", "exclude", "time-wait", f"( {ours} )"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


class Transfers:
    """Downloads and uploads of both families: first their server, so that nobody finds it down; then all of them, until they are under way."""

    def __init__(self, t):
        # A test before may have had a fourth server, at the address of this one.
        t.servers.want("nginx,nginx,haproxy")
        self.server = Peers(t, "servers", "serve", PORT, *SERVERS)
        lab.wait_until(lambda: self.listening(), 10, "the server")

    def begin(self, t, d):
        lines = []
        for i in range(EACH):
            for role in "DU":
                for vip, address in ((VIP, clients.address), (VIP6, clients.address6)):
                    lines.append(f"{role.lower() if i % 5 == 4 else role} {address(i)} {vip}\n")
        self.count = len(lines)
        path = f"{lab.WORK}/transfers"
        with open(path, "w") as f:
            f.writelines(lines)
        self.client = Peers(t, "clients", "connect", PORT, path)
        self.sides = {"client": self.client, "server": self.server}
        # A receiver that reads nothing has moved nothing.
        lab.wait_until(lambda: all(p.said["begun"] == self.count and p.said["moving"] >= self.count * 9 // 10 for p in self.sides.values()),
                       30, lambda: f"transfers: {self.client.said}, {self.server.said}, {len(d.log())} ended: {d.log()[:2]}")
        lab.wait_until(lambda: self.waiting()[1] >= self.count // 10, 20, "closed windows of receivers that read nothing")

    @staticmethod
    def listening():
        with lab.inside("servers"):
            return all(subprocess.run(["ss", "-Htln", f"src [{a}]:{PORT}" if ":" in a else f"src {a}:{PORT}"], capture_output=True, text=True).stdout for a in SERVERS)

    @staticmethod
    def waiting():
        """Senders that wait for acknowledgements, and those whose receiver has closed its window."""
        lines = [line for namespace in ("clients", "servers") for line in sockets(namespace)]
        return sum("unacked:" in line for line in lines), sum("timer:(persist" in line for line in lines)

    def ended(self):
        return [len(p.said["ends"]) for p in self.sides.values()]

    def all_told(self, since, what):
        """Waits for the ends of all, and no longer than the two seconds that are allowed, in naps: on a machine that is busy they take longer. What was seen."""
        naps, nap = 40, 0.05
        for _ in range(naps):
            if self.ended() == [self.count] * 2 and not sockets("clients") and not sockets("servers"):
                break
            time.sleep(nap)
        ends = {side: [how for how, _ in p.said["ends"]] for side, p in self.sides.items()}
        hang = {side: self.count - len(e) for side, e in ends.items()}
        left = {side: len(sockets(side + "s")) for side in ends}
        check(not any(hang.values()) and not any(left.values()),
              f"{what}: {time.monotonic() - since:.1f} s after the signal, of {self.count} connections hang: {hang}; sockets open: {left}")
        for side, e in ends.items():
            check(e == ["ECONNRESET"] * self.count, f"{what}: {side}s saw {({how: e.count(how) for how in set(e)})}")
        return max(at for p in self.sides.values() for _, at in p.said["ends"]) - since


def cut(t, mode, loss=False, restart=False):
    """Transfers in this mode, cut by SIGTERM; if wanted a new dispatcher is started at once, and serves. In words, how long until everybody was told."""
    begun = len(t.undo)
    backends = [f"t{n}={f'[{a}]' if ':' in a else a}:{PORT}" for n, a in enumerate(SERVERS)]
    args = lab.base_args([f"{VIP}:{PORT}", f"[{VIP6}]:{PORT}"], backends)
    transfers = Transfers(t)
    d = t.dispatcher("--address-mode", mode, args=args)
    shaped(t)
    transfers.begin(t, d)
    if loss:
        lossy(t)
        time.sleep(0.5)
    moving, closed = transfers.waiting()
    check(moving >= transfers.count // 4, f"only {moving} of {transfers.count} have data under way")
    check(transfers.ended() == [0, 0], f"ended by themselves: {transfers.ended()}")

    def signalled():
        d.stop()
        return t.dispatcher("--address-mode", mode, args=args) if restart else None

    with ThreadPoolExecutor(1) as pool:
        at = time.monotonic()
        anew = pool.submit(signalled)
        told = transfers.all_told(at, mode)
        anew = anew.result()
    ends = [c["end"] for c in d.log()]
    check(ends == ["shutdown"] * transfers.count, f"{mode}: ends in the log: {({e: ends.count(e) for e in set(ends)})}")
    for vip in (VIP, VIP6) if restart else ():
        with clients.connect(vip) as s:
            s.sendall(b"D")
            check(s.recv(10)[:1] == b"x", f"{mode}, {vip}: a new connection")
    if restart:
        anew.stop()
    while len(t.undo) > begun:
        t.undo.pop()()
    return f"{mode} {told:.2f} s ({moving} of {transfers.count} with data under way, {closed} with a closed window)"


@test
def stop_in_transfers(t):
    """SIGTERM during 100 downloads and 100 uploads, IPv4 and IPv6, snat and dnat: both ends of each are reset within two seconds"""
    return "all told within " + ", ".join(cut(t, mode) for mode in ("snat", "dnat"))


@test
def restart_in_transfers(t):
    """The same where one packet of fifty is lost and a new dispatcher is started at once: it serves new connections"""
    return "all told within " + ", ".join(cut(t, mode, loss=True, restart=True) for mode in ("snat", "dnat"))
