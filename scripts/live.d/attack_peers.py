"""Unfriendly clients and forgers: what honest clients see meanwhile, and what becomes of transfers that are attacked."""

import hashlib
import os
import random
import socket
import struct
import threading
import time

import clients
import lab
from honest import Honest
from lab import VIP, check
from made_hello import hello
from rawtcp import ACK, FIN, PSH, RST, RawTcp, Wire, mac_bytes, ones_complement
from registry import test

QUIET, UNDER = 4, 8


def beside(t, attack, seconds=UNDER, least=1.0, flags=()):
    """Honest visits before and during `attack(d, stop)`, which runs in threads of its own making until `stop` is set. Returns the
    dispatcher, stopped, and what was seen."""
    t.servers.want("nginx,nginx,haproxy")
    d = t.dispatcher(*flags)
    honest = Honest(t)
    quiet = honest.during(QUIET)
    before = d.memory()
    stop = threading.Event()
    thread = threading.Thread(target=attack, args=(d, stop), daemon=True)
    thread.start()
    under = honest.during(seconds)
    grown = d.memory() - before
    stop.set()
    thread.join(30)
    honest.finish()
    quiet, under = quiet.seen(), under.seen()
    check(quiet.rate == 1, f"before the attack: {quiet}; {quiet.errors[:1]}")
    check(under.rate >= least, f"under attack: {under}; {under.errors[:1]}")
    return d, (f"quiet: {quiet}; attacked: {under} (p99 x{under.quantile(0.99) / quiet.quantile(0.99):.1f}); "
               f"memory +{grown >> 10} KiB of {d.promised >> 20} MiB")


def connections(count, talk):
    """An attack: so many connections at once, `talk(sockets, stop)` with all of them."""
    def attack(_, stop):
        held = []
        try:
            for i in range(count):
                if stop.is_set():
                    return
                held.append(clients.connect(source=clients.address(i)))
            talk(held, stop)
        finally:
            for s in held:
                s.close()
    return attack


@test
def silent_clients(t):
    """4000 connections that never send a hello"""
    most = [0]

    def talk(_, stop):
        while not stop.wait(0.2):
            most[0] = max(most[0], t.dispatchers[0].flows() or 0)

    d, seen = beside(t, connections(4000, talk), flags=("--hello-timeout", "1h"))
    return f"up to {most[0]} flows; {seen}"


@test
def dripped_hellos(t):
    """500 clients that send their hellos one byte at a time"""
    stream = clients.client_hello(clients.context())
    sent = [0]

    def talk(held, stop):
        for byte in stream:
            for s in held:
                try:
                    s.send(bytes([byte]))
                    sent[0] += 1
                except OSError:
                    pass
            if stop.wait(0.02):
                return

    d, seen = beside(t, connections(500, talk))
    return f"{sent[0]} bytes in as many segments; {seen}"


@test
def huge_hellos(t):
    """Hellos of 16 kB, one after the other"""
    def padded(size):
        body = hello(session_id=os.urandom(32), ticket=os.urandom(size))
        return body

    count = [0]

    def attack(d, stop):
        while not stop.is_set():
            try:
                s = clients.connect(source=clients.address(count[0]))
                s.sendall(padded(15_500))
                s.recv(100)
                s.close()
            except OSError:
                pass
            count[0] += 1

    d, seen = beside(t, attack)
    return f"{count[0]} of them; {seen}"


@test
def invented_identities(t):
    """Invented session IDs, tickets and PSK identities as fast as two threads can; no row comes of them"""
    shapes = [lambda: hello(session_id=os.urandom(32)), lambda: hello(session_id=os.urandom(32), ticket=os.urandom(180)),
              lambda: hello(session_id=os.urandom(32), psk=os.urandom(180))]
    count = [0, 0]

    def attack(d, stop):
        def one(n):
            while not stop.is_set():
                try:
                    s = clients.connect(source=clients.address(count[n] * 2 + n))
                    s.sendall(shapes[count[n] % 3]())
                    s.recv(4096)
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    s.close()
                except OSError:
                    pass
                count[n] += 1

        threads = [threading.Thread(target=one, args=(n,)) for n in (0, 1)]
        [x.start() for x in threads]
        [x.join() for x in threads]

    d, seen = beside(t, attack, 15)
    return f"{sum(count)} of them; {seen}"


class Transfer:
    """A download at a steady pace through the dispatcher, and its upload side, byte for byte."""

    SIZE = 24_000_000

    def __init__(self, t):
        self.sums = {}

        def serve(connection, address):
            self.peer = address
            request = connection.recv(100)
            check(request == b"go\n", "the request")
            digest = hashlib.sha256()
            block = os.urandom(1 << 14)
            left = self.SIZE
            while left:
                part = block[:left]
                connection.sendall(part)
                digest.update(part)
                left -= len(part)
                time.sleep(0.004)
            self.sums["sent"] = digest.hexdigest()
            connection.shutdown(socket.SHUT_WR)
            self.sums["end"] = connection.recv(100)

        t.server("10.78.0.14", 443, serve)
        self.done = threading.Event()
        self.error = None

    def begin(self):
        self.socket = clients.connect(source="10.77.0.150")
        self.port = self.socket.getsockname()[1]
        self.socket.sendall(b"go\n")
        threading.Thread(target=self.receive, daemon=True).start()

    def receive(self):
        digest, got = hashlib.sha256(), 0
        try:
            while part := self.socket.recv(1 << 16):
                digest.update(part)
                got += len(part)
            self.sums["got"] = digest.hexdigest()
            self.socket.sendall(b"thanks")
            self.socket.close()
        except OSError as e:
            self.error = f"{type(e).__name__} after {got} bytes: {e}"
        self.done.set()

    def check(self):
        check(self.done.wait(60), "the transfer hangs")
        check(self.error is None, f"the attacked transfer: {self.error}")
        lab.wait_until(lambda: "end" in self.sums, 5, "the server's end")
        check(self.sums["got"] == self.sums["sent"] and self.sums["end"] == b"thanks", "the transfer is not what was sent")


def attacked_transfer(t, forge):
    """`forge(wire, transfer)` yields frames to be sent while the transfer lasts; how many were sent."""
    transfer = Transfer(t)
    d = t.dispatcher(args=lab.base_args([f"{VIP}:443"], ["steady=10.78.0.14:443"]))
    wire = Wire(d.mac(), "10.77.0.150")
    t.undo.append(wire.close)
    transfer.begin()
    lab.wait_until(lambda: (d.flows() or 0) > 0, 5, "the flow")
    sent = 0
    for frame in forge(wire, transfer, d):
        if transfer.done.is_set():
            break
        try:
            wire.send(frame)
        except OSError:
            continue
        sent += 1
    transfer.check()
    log = d.await_log(1)
    told = [(line["end"], line["bytes_to_client"]) for line in log]
    check(told == [("fin", Transfer.SIZE)], f"the log: {told}; drops {d.stats()[1]}")
    d.stop()
    return d, f"{sent} forged, {Transfer.SIZE >> 20} MiB intact"


@test
def forged_segments(t):
    """Resets, FINs, SYNs and data with guessed numbers, at a transfer whose addresses and ports are known"""
    rng = random.Random(5)

    def forge(wire, transfer, _):
        # From the client to us: nothing of it is right but addresses and ports.
        while True:
            for flags, data in ((RST, b""), (RST | ACK, b""), (FIN | ACK, b""), (ACK | PSH, b"x" * 40), (2, b"")):
                yield wire.tcp(VIP, transfer.port, 443, rng.randrange(2**32), rng.randrange(2**32), flags, data)

    d, seen = attacked_transfer(t, forge)
    return f"{seen}; out-of-window {d.drops.get('out-of-window', 0)}"


@test
def forged_in_window(t):
    """Resets within the window, though not at its edge, as one who sees some of the traffic sends them"""
    rng = random.Random(8)

    def forge(wire, transfer, _):
        # Where the client is: from a segment of its own. Sockets for one protocol do not see what leaves.
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as tap:
            tap.bind(("c0", 3))
            tap.settimeout(10)
            while True:
                frame = tap.recv(2048)
                if frame[12:14] == b"\x08\0" and frame[23] == 6 and struct.unpack("!H", frame[34:36])[0] == transfer.port:
                    break
        seq = struct.unpack("!I", frame[38:42])[0]
        while True:
            for flags in (RST, RST | ACK):
                yield wire.tcp(VIP, transfer.port, 443, seq + 8 + rng.randrange(20_000), rng.randrange(2**32), flags)
            time.sleep(0.0005)

    d, seen = attacked_transfer(t, forge)
    return seen


@test
def forged_from_servers(t):
    """The same from the servers' side, in the name of the backend"""
    rng = random.Random(6)

    def forge(wire, transfer, d):
        lan = mac_bytes(d.mac("lan"))
        with lab.inside("servers"):
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            raw.bind(("s0", 0x0800))
        own = raw.getsockname()[4]
        lab.wait_until(lambda: hasattr(transfer, "peer"), 5, "the dial")
        host, port = transfer.peer
        while not transfer.done.is_set():
            for flags, data in ((RST, b""), (RST | ACK, b""), (FIN | ACK, b""), (ACK | PSH, b"x" * 40), (18, b"")):
                frame = wire.tcp(host, 443, port, rng.randrange(2**32), rng.randrange(2**32), flags, data, src="10.78.0.14")
                raw.send(lan + own + frame[12:])
                yield wire.ethernet(0x88B5, b"\0" * 46)  # keeps the count
        raw.close()

    d, seen = attacked_transfer(t, forge)
    return seen


@test
def forged_icmp(t):
    """ICMP errors about the transfer that quote guessed numbers: unreachable, and packets that are too big"""
    rng = random.Random(7)

    def forge(wire, transfer, _):
        while True:
            for kind, code, rest in ((3, 1, 0), (3, 3, 0), (3, 4, 68), (11, 0, 0), (12, 0, 0)):
                # The packet quoted: from the VIP to the client, as if we had sent it.
                quoted = wire.tcp(transfer.socket_address, 443, transfer.port, rng.randrange(2**32), 0, ACK, src=VIP)[14:42]
                body = struct.pack("!BBHI", kind, code, 0, rest) + quoted
                body = body[:2] + struct.pack("!H", ones_complement(body)) + body[4:]
                yield wire.ipv4(VIP, body, protocol=1)

    Transfer.socket_address = "10.77.0.150"
    d, seen = attacked_transfer(t, forge)
    return f"{seen}; out-of-window {d.drops.get('out-of-window', 0)}"


@test
def spoofed_neighbours(t):
    """ARP and NDP in the backends' names from the clients' side: no frame goes there"""
    def attack(d, stop):
        wire = Wire(d.mac(), "10.77.0.90")
        own, ours = wire.own, wire.gateway
        while not stop.is_set():
            for n in (11, 12, 13):
                backend, asked = socket.inet_aton(f"10.78.0.{n}"), socket.inet_aton("10.78.0.1")
                for op in (1, 2):
                    for target in (asked, backend):
                        arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, op) + own + backend + ours + target
                        for to in (ours, b"\xff" * 6):
                            wire.send(wire.ethernet(0x0806, arp + b"\0" * 18, dst=to))
                            sent[0] += 1
                addr = socket.inet_pton(socket.AF_INET6, f"fd78::{n}")
                to = socket.inet_pton(socket.AF_INET6, "fd77::1")
                na = struct.pack("!BBHI", 136, 0, 0, 0x60000000) + addr + b"\2\1" + own
                total = ones_complement(addr + to + struct.pack("!II", len(na), 58) + na)
                na = na[:2] + struct.pack("!H", total) + na[4:]
                wire.send(wire.ethernet(0x86DD, struct.pack("!IHBB", 6 << 28, len(na), 58, 255) + addr + to + na))
                sent[0] += 1
            time.sleep(0.001)
        wire.close()

    sent = [0]
    d, seen = beside(t, attack)
    d.stop()
    return f"{sent[0]} claims, neighbour-unasked {d.drops.get('neighbour-unasked', 0)}; {seen}"


@test
def tiny_segments_and_windows(t):
    """Clients with an MSS of 48, of 216, and with a window of zero: the first get nothing, the others bind no memory"""
    refused, held = [0], []

    def attack(d, stop):
        wire = Wire(d.mac(), "10.77.0.91")
        try:
            for i in range(200):
                wire.send(wire.tcp(VIP, 3000 + i, 443, i, 0, 2, options=b"\x02\x04\x00\x30"))
                refused[0] += 1
            while not stop.is_set() and len(held) < 100:
                c = RawTcp(wire, VIP, 443, options=b"\x02\x04\x00\xd8")
                c.MSS = 216
                c.sendall(clients.client_hello(clients.context()))
                # And never takes a byte of the answer.
                c.flags(ACK, c.next, window=0)
                held.append(c)
            stop.wait(20)
        finally:
            wire.close()

    d, seen = beside(t, attack)
    d.stop()
    check(d.drops.get("mss-too-small", 0) >= 200, f"drops: {d.drops}")
    check(held, "no connection with a closed window")
    return f"{refused[0]} SYNs refused, {len(held)} connections with closed windows; {seen}"
