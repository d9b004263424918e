"""What a frame of a known flow costs the worker, driver against driver. Run by bench/worker.

Connections are made through the dispatcher, by a TCP of our own on the clients' side and the kernel's on the servers'. Then the servers'
interface gets another address, so that the kernel drops there what the worker sends on as soon as it can (that drop is charged to the
worker, with both drivers), and one segment of each connection is sent again and again. A frame counts when it has arrived there. What
the worker's thread used meanwhile is what the kernel's scheduler says (/proc/PID/task/TID/schedstat).

That includes turns of the worker's loop that find nothing, or little. Where frames are waiting (the dispatcher is stopped while they are
sent) there are none: that is what a frame costs a worker that has enough to do. As fast as can be is as fast as the sender can: with the
driver that is ahead of it the worker looks in vain in between, and that is counted too.
"""

import argparse
import ctypes
import os
import signal
import socket
import statistics
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "scripts/live.d"))

import lab  # noqa: E402
from rawtcp import ACK, PSH, RawTcp, Wire  # noqa: E402

PACKET_QDISC_BYPASS = 20
FLOWS = 32
SECONDS = 0.7
libc = ctypes.CDLL(None, use_errno=True)


class Blaster:
    """Sends the same frames again and again, 64 in a system call."""

    class IoVec(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]

    class MsgHdr(ctypes.Structure):
        _fields_ = [("name", ctypes.c_void_p), ("namelen", ctypes.c_uint32), ("iov", ctypes.c_void_p), ("iovlen", ctypes.c_size_t),
                    ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t), ("flags", ctypes.c_int)]

    def __init__(self, frames):
        class MMsgHdr(ctypes.Structure):
            _fields_ = [("hdr", self.MsgHdr), ("len", ctypes.c_uint)]

        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.setsockopt(263, PACKET_QDISC_BYPASS, 1)
        self.socket.bind(("c0", 0))
        self.buffers = [ctypes.create_string_buffer(f, len(f)) for f in frames]
        self.vectors = (self.IoVec * 64)()
        self.messages = (MMsgHdr * 64)()
        for i in range(64):
            buffer = self.buffers[i % len(frames)]
            self.vectors[i] = self.IoVec(ctypes.cast(buffer, ctypes.c_void_p).value, len(buffer))
            self.messages[i].hdr.iov = ctypes.addressof(self.vectors) + i * ctypes.sizeof(self.IoVec)
            self.messages[i].hdr.iovlen = 1

    def send(self, count):
        while count > 0:
            sent = libc.sendmmsg(self.socket.fileno(), self.messages, min(count, 64), 0)
            if sent < 0 and ctypes.get_errno() != 105:  # ENOBUFS: the pair is full
                raise OSError(ctypes.get_errno(), "sendmmsg")
            count -= max(sent, 1)


def arrived():
    with open("/proc/thread-self/net/dev") as f:
        return int(next(line for line in f if line.strip().startswith("s0:")).split()[2])


def worker_time(pid):
    """Nanoseconds."""
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/comm") as f:
            if f.read().strip() != "worker-0":
                continue
        with open(f"/proc/{pid}/task/{task}/schedstat") as f:
            return int(f.read().split()[0])
    raise lab.Failure("the dispatcher has no worker")


def address_of_servers(address):
    subprocess.run(["ip", "-n", lab.PREFIX + "-servers", "link", "set", "s0", "address", address], check=True)


def measure(driver, binary, size, burst, waiting, flags):
    """Nanoseconds a frame, and frames a second."""
    address_of_servers("02:00:00:00:78:02")
    lab.DISPATCHER = binary
    os.environ["LAB_DRIVER"] = driver
    os.environ["LAB_WORKERS"] = "1"
    args = lab.base_args([f"{lab.VIP}:80"], ["web1=10.78.0.11:80"]) + flags
    if "--cores" in flags:
        at = args.index("--workers")
        del args[at:at + 2]
    d = lab.Dispatcher(args=args)
    try:
        wire = Wire(d.mac(), "10.77.0.90")
        frames = []
        for n in range(FLOWS):
            c = RawTcp(wire, lab.VIP, 80, sport=30000 + n)
            c.segment(0, b"hello\r\n")
            end = time.monotonic() + 5
            while c.una < 7:
                lab.check(time.monotonic() < end, "the server does not acknowledge")
                if not c.pump(0.2):
                    c.segment(0, b"hello\r\n")
            data = b"x" * (size - 14 - 40)
            frames.append(wire.tcp(lab.VIP, c.sport, 80, c.isn + 1 + 7, c.expected, ACK | PSH, data))
        wire.close()
        address_of_servers("02:00:00:00:78:99")
        blaster = Blaster(frames)
        blaster.send(1000)
        time.sleep(0.1)
        with lab.inside("servers"):
            used, before, begun = worker_time(d.process.pid), arrived(), time.monotonic()
            sent = 0
            while time.monotonic() - begun < SECONDS:
                if burst:
                    if waiting:
                        os.kill(d.process.pid, signal.SIGSTOP)
                    blaster.send(burst)
                    if waiting:
                        os.kill(d.process.pid, signal.SIGCONT)
                    sent += burst
                    # The worker has done with them before more come: how many come at once is what is varied.
                    patience = time.monotonic() + 0.02
                    while arrived() - before < sent and time.monotonic() < patience:
                        time.sleep(0.0002)
                    sent = arrived() - before
                else:
                    blaster.send(64)
            took = time.monotonic() - begun
            time.sleep(0.05)
            frames, used = arrived() - before, worker_time(d.process.pid) - used
        lab.check(frames > 1000, f"{driver}: only {frames} frames arrived")
        return used / frames, frames / took
    finally:
        d.kill()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--bytes", type=int, action="append")
    parser.add_argument("--burst", type=int, action="append")
    parser.add_argument("--waiting", type=int, action="append")
    parser.add_argument("--drivers", default="af-packet,af-xdp")
    parser.add_argument("--binaries")
    parser.add_argument("flags", nargs="*")
    args = parser.parse_args()
    drivers = args.drivers.split(",")
    binaries = args.binaries.split(",") if args.binaries else [lab.DISPATCHER] * len(drivers)
    sides = list(zip(drivers, binaries))
    lab.lab("up")
    home = open("/proc/self/ns/net")
    lab.enter("clients")
    server = lab.Threaded("10.78.0.11", 80, lambda connection, _: connection.recv(65536) and time.sleep(600))
    try:
        cases = [(n, True) for n in args.waiting or []] + [(n, False) for n in args.burst or []]
        for burst, waiting in cases or [(2000, True), (32, False), (128, False), (0, False)]:
            for size in args.bytes or [64, 600, 1400]:
                costs, rates = [[] for _ in sides], [[] for _ in sides]
                for n in range(args.rounds):
                    # In turns, and who begins takes turns too.
                    for side in sorted(range(len(sides)), key=lambda side: (side + n) % len(sides)):
                        cost, rate = measure(*sides[side], size, burst, waiting, args.flags)
                        costs[side].append(cost)
                        rates[side].append(rate)
                a, b = (statistics.median(c) for c in costs)
                ratio = statistics.median(y / x for x, y in zip(*costs))
                told = f"{burst} waiting" if waiting else f"{burst} at once" if burst else "as fast as can be"
                print(f"{size:5} bytes, {told:18}: {drivers[0]} {a:5.0f} ns, {drivers[1]} {b:5.0f} ns a frame, ratio {ratio:.2f} "
                      f"({min(y / x for x, y in zip(*costs)):.2f} to {max(y / x for x, y in zip(*costs)):.2f}); "
                      f"{statistics.median(rates[0]) / 1e3:.0f} and {statistics.median(rates[1]) / 1e3:.0f} thousand frames/s", flush=True)
    finally:
        server.close()
        lab.enter_file(home)


main()
