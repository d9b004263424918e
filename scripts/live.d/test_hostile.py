"""Floods, garbage and nonsense: named drops, and nothing lost for anybody else."""

import random
import socket
import struct
import subprocess
import threading
import time

import clients
import lab
from lab import VIP, check
from rawtcp import ACK, FIN, PSH, RST, SYN, RawTcp, Wire
from registry import test


class Bystanders:
    """Real clients that go on all the while: each connection must succeed."""

    def __init__(self, t, workers=2):
        self.done, self.errors, self.stop = [], [], threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(n,)) for n in range(workers)]
        for thread in self.threads:
            thread.start()
        # Whatever becomes of the test: they are not to be met by the next one.
        t.undo.append(self.stop.set)

    def run(self, n):
        ctx = clients.context()
        while not self.stop.is_set():
            begun = time.monotonic()
            try:
                clients.fetch(clients.address(n + len(self.done)), ctx, timeout=30)
                self.done.append(time.monotonic() - begun)
            except Exception as e:
                self.errors.append(f"{type(e).__name__}: {e}")
                return
            time.sleep(0.01)

    def finish(self):
        self.stop.set()
        for thread in self.threads:
            thread.join()
        check(not self.errors, f"a bystander failed: {self.errors and self.errors[0]}")
        check(self.done, "no bystander was served")
        return f"{len(self.done)} real connections meanwhile, all good, the slowest {max(self.done):.2f} s"


@test
def syn_flood(t):
    """A million spoofed SYNs leave no state; real clients connect meanwhile"""
    t.servers.want("nginx,nginx,haproxy")
    d = t.dispatcher()
    clients.fetch()
    count = 1_000_000
    flood = subprocess.Popen([lab.FLOOD, "--interface", "c0", "--to", d.mac(), "--target", f"{VIP}:443",
                              "--count", str(count), "--rate", "150000"],
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    t.undo.append(lambda: flood.poll() is None and flood.kill())
    bystanders = Bystanders(t)
    most = 0
    begun = time.monotonic()
    while flood.poll() is None:
        check(time.monotonic() - begun < 120, "the flood does not end")
        most = max(most, d.flows() or 0)
        time.sleep(0.1)
    check(flood.returncode == 0, flood.stderr.read().strip())
    sent = flood.stdout.read().strip()
    others = bystanders.finish()
    d.await_log(1 + len(bystanders.done))
    # Those of the real clients: closed flows are kept for a moment.
    most, mine = max(most, d.flows()), 1 + len(bystanders.done)
    check(most <= mine + 2, f"{most} flows, of {mine} real connections")
    d.stop()
    check(d.counter("flows opened") == mine, f"{d.counter('flows opened')} flows opened, of {mine} real connections")
    cookies = d.counter("cookies")
    check(cookies >= count // 2, f"{cookies} SYNs answered, of {count}")
    full = d.drops.get("rx-ring-full", 0)
    return f"{sent}; {cookies} answered, {full} lost in the ring; no flow but the {mine} of real clients; {others}"


def tcp_frames(wire, rng):
    """Frames that no one should send, by what is wrong with them, and the reason that must be counted."""
    good = wire.tcp(VIP, 4000, 443, 1, 0, SYN, options=b"\x02\x04\x05\xb4")
    seg = good[34:]
    ip = lambda b: wire.ethernet(0x0800, b)  # noqa: E731
    head = bytearray(good[14:34])
    yield "truncated", [good[:n] for n in range(14, 54)]
    yield "truncated", [wire.ipv4(VIP, seg, length=1400)]
    yield "malformed", [ip(bytes([0x40 | n]) + bytes(head[1:]) + seg) for n in range(5)]
    yield "malformed", [wire.ipv4(VIP, seg[:12] + bytes([n << 4]) + seg[13:]) for n in range(5)]
    yield "malformed", [wire.tcp(VIP, 4000, 443, 1, 0, SYN, src=s) for s in ("0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255")]
    yield "ip-fragment", [wire.ipv4(VIP, seg, fragment=f) for f in (0x2000, 0x0001, 0x2010)]
    yield "bad-checksum", [wire.tcp(VIP, 4000, 443, 1, 0, SYN, spoil=True)]
    yield "bad-cookie", [wire.tcp(VIP, 4000 + n, 443, rng.randrange(2**32), rng.randrange(2**32), ACK, b"x" * n) for n in range(50)]
    yield "no-flow", [wire.tcp(VIP, 4000, 443, 1, 1, f) for f in (0, RST, RST | ACK, FIN, SYN | FIN | RST | PSH, SYN | ACK)]
    yield "not-for-us", [wire.tcp("10.77.0.77", 4000, 443, 1, 0, SYN), wire.ipv4(VIP, b"\0" * 30, protocol=17),
                         wire.ethernet(0x88CC, b"\0" * 60), wire.ethernet(0x0800, good[14:], dst=b"\x02\0\0\0\0\x77")]
    yield None, [bytes(rng.randrange(256) for _ in range(rng.randrange(14, 600))) for _ in range(500)]
    yield None, [wire.ethernet(kind, bytes(rng.randrange(256) for _ in range(rng.randrange(0, 300))))
                 for kind in (0x0800, 0x86DD, 0x0806, 0x8100, 0x88A8) for _ in range(200)]
    # A good frame with some bytes changed.
    for _ in range(1000):
        frame = bytearray(good)
        for _ in range(rng.randrange(1, 5)):
            frame[rng.randrange(12, len(frame))] = rng.randrange(256)
        yield None, [bytes(frame)]


@test
def bad_frames(t):
    """Truncated, oversized, fragmented, spoiled and random frames: named drops, others unaffected"""
    t.servers.want("nginx,nginx,haproxy")
    rng = random.Random(7)
    d = t.dispatcher()
    wire = Wire(d.mac(), "10.77.0.90")
    t.undo.append(wire.close)
    bystanders = Bystanders(t)
    expected, count = {}, 0
    for reason, frames in tcp_frames(wire, rng):
        for frame in frames:
            wire.send(frame)
            count += 1
        if reason:
            expected[reason] = expected.get(reason, 0) + len(frames)
    if lab.DRIVER == "dpdk":
        # net_af_packet has the kernel put fragments together (PACKET_FANOUT_FLAG_DEFRAG): these never become whole.
        count -= expected.pop("ip-fragment")
    # Frames larger than the dispatcher was told its link carries: both ends are made to let them pass, if they can be.
    def mtu(n):
        both = (["ip", "link", "set", "c0", "mtu", str(n)], ["ip", "-n", lab.PREFIX + "-dispatcher", "link", "set", "wan", "mtu", str(n)])
        return all(subprocess.run(command, capture_output=True).returncode == 0 for command in both)

    t.undo.append(lambda: mtu(1500))
    if mtu(9000):
        big = [wire.ipv4(VIP, b"\0" * n) for n in (1600, 3000, 8900)]
        for frame in big:
            wire.send(frame)
        expected["rx-oversized"] = len(big)
        count += len(big)
    else:
        check(lab.DRIVER == "af-xdp", "an MTU of 9000 cannot be set")
    if lab.DRIVER == "af-xdp":
        # Its program leaves to the kernel what it cannot tell to be ours: some of each kind come to us.
        expected = {reason: 1 for reason in expected}
    time.sleep(0.5)
    others = bystanders.finish()
    d.await_log(len(bystanders.done))
    d.stop()
    missing = {r: (n, d.drops.get(r, 0)) for r, n in expected.items() if d.drops.get(r, 0) < n}
    check(not missing, f"drops (expected, counted): {missing}; all: {d.drops}")
    named = ", ".join(f"{k} {v}" for k, v in sorted(d.drops.items()))
    return f"{count} frames: {named}; {others}"


def hellos(rng):
    """Streams that begin like TLS, and are not, or could be read two ways."""
    def record(body, kind=22, version=0x0301):
        return struct.pack("!BHH", kind, version, len(body)) + body

    def handshake(body, kind=1):
        return bytes([kind]) + len(body).to_bytes(3, "big") + body

    full = clients.client_hello(clients.context())
    body = full[9:]
    yield "no body", record(handshake(b""))
    yield "lengths too large inside", record(handshake(body[:34] + b"\xff" + body[35:]))
    yield "extensions longer than the hello", record(handshake(body[:-60] + b"\xff" * 60))
    yield "a hello of 16 MB", record(b"\x01\xff\xff\xff" + body)
    yield "records without end", b"".join(record(b"\x01\x00\x5f\xff" + b"a" * 1000) for _ in range(40))
    yield "not a ClientHello", record(handshake(body, kind=2))
    yield "an alert", record(b"\x02\x28", kind=21)
    yield "application data", record(b"a" * 100, kind=23)
    yield "a record of 65535 bytes", struct.pack("!BHH", 22, 0x0301, 0xFFFF) + b"\x01" * 2000
    yield "random bytes", bytes(rng.randrange(256) for _ in range(500))
    for _ in range(60):
        spoiled = bytearray(full)
        for _ in range(rng.randrange(1, 6)):
            spoiled[rng.randrange(9, len(full))] = rng.randrange(256)
        yield "a few bytes changed", bytes(spoiled)


@test
def bad_hellos(t):
    """Nonsense hellos: each goes to a server, which says what is wrong with it, and none hangs; others unaffected"""
    t.servers.want("nginx,nginx,haproxy")
    rng = random.Random(11)
    d = t.dispatcher()
    bystanders = Bystanders(t)
    resets, answers, count = 0, 0, 0
    sent = {}
    for what, stream in hellos(rng):
        s = clients.connect(timeout=15)
        count += 1
        sent[s.getsockname()[1]] = what
        try:
            s.sendall(stream)
            s.shutdown(socket.SHUT_WR)
            clients.read_all(s)
            answers += 1
        except (ConnectionResetError, BrokenPipeError):
            resets += 1
        except OSError as e:
            if e.errno != 107:  # reset before shutdown()
                raise lab.Failure(f"{what}: {e}")
            resets += 1
        s.close()
    others = bystanders.finish()
    log = {(c["client"]): c for c in d.await_log(count + len(bystanders.done))}
    for port, what in sent.items():
        got = log.get(f"10.77.0.2:{port}", {})
        check(got.get("backend"), f"{what}: no server was asked: {got}")
    d.stop()
    unread = int(d.find(r"hellos that could not be read.*: (\d+)"))
    check(unread >= 4, f"{unread} hellos were not read")
    return f"{count} streams, all passed on: {resets} reset, {answers} answered by their servers; {unread} not read; {others}"


@test
def half_a_hello(t):
    """More clients that stop in the middle of a hello than there are buffers for: real clients are served"""
    t.servers.want("nginx,nginx,haproxy")
    d = t.dispatcher()
    hello = clients.client_hello(clients.context())
    held = []
    t.undo.append(lambda: [s.close() for s in held])
    buffers = int(d.find(r"held hellos +(\d+)"))
    for i in range(buffers + 200):
        s = clients.connect(source=clients.address(i))
        s.sendall(hello[:-1])
        held.append(s)
    # The oldest may have been sent away already to make room.
    lab.wait_until(lambda: (d.flows() or 0) + len(d.log()) >= len(held), 10, f"{len(held)} flows")
    most = 0
    for i in range(10):
        begun = time.monotonic()
        clients.fetch(clients.address(i))
        most = max(most, time.monotonic() - begun)
    flows = d.flows()
    for s in held:
        s.close()
    d.await_log(len(held) + 10, 60)
    return f"{flows} flows with half a hello, {buffers} buffers; 10 of 10 real connections, the slowest {most:.2f} s; memory {d.memory() >> 20} MiB of {d.promised >> 20} MiB"


@test
def flow_table_full(t):
    """--flow-capacity reached: those in it live, others wait and are served when there is room"""
    t.servers.want("nginx,nginx,haproxy")
    d = t.dispatcher("--flow-capacity", "100", args=lab.base_args(workers=1))
    ctx = clients.context()
    held = []
    for i in range(100):
        s = ctx.wrap_socket(clients.connect(source=clients.address(i)), server_hostname=clients.NAME)
        held.append(s)
    late = []

    def come_late(i):
        try:
            late.append(clients.fetch(clients.address(i), ctx, timeout=40)[0])
        except Exception as e:
            late.append(f"{type(e).__name__}: {e}")

    threads = [threading.Thread(target=come_late, args=(i,)) for i in range(10)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    check(not late, f"served by a full table: {late}")
    check(d.flows() <= 100, f"{d.flows()} flows")
    for s in held:
        s.sendall(clients.GET)
        check(b" 200 " in clients.read_all(s), "one that was in")
        s.close()
    for thread in threads:
        thread.join()
    check(all(isinstance(answer, bytes) for answer in late), f"late ones: {late}")
    d.stop()
    check(d.drops.get("flow-table-full"), f"drops: {d.drops}")
    return f"100 of 100 in it served, 10 of 10 late ones too; flow-table-full {d.drops['flow-table-full']}"
