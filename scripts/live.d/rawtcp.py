"""A small TCP in user space, for what a kernel would not send: segments out of order, options left out, nonsense.

It speaks from an address that no kernel owns, on a packet socket in the clients' namespace.
"""

import random
import socket
import struct
import time

from lab import Failure, check

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def ones_complement(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def mac_bytes(text):
    return bytes.fromhex(text.replace(":", ""))


class Wire:
    """The clients' interface: frames out, IPv4 TCP frames to one address in."""

    def __init__(self, gateway_mac, address):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.bind(("c0", 0x0800))
        self.own = self.socket.getsockname()[4]
        self.gateway = mac_bytes(gateway_mac)
        self.address = address

    def close(self):
        self.socket.close()

    def send(self, frame):
        self.socket.send(frame)

    def ethernet(self, kind, payload, dst=None):
        return (dst or self.gateway) + self.own + struct.pack("!H", kind) + payload

    def ipv4(self, dst, payload, protocol=6, src=None, fragment=0, length=None):
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, length or 20 + len(payload), random.randrange(65536), fragment, 64, protocol, 0,
                           socket.inet_aton(src or self.address), socket.inet_aton(dst))
        head = head[:10] + struct.pack("!H", ones_complement(head)) + head[12:]
        return self.ethernet(0x0800, head + payload)

    def tcp(self, dst, sport, dport, seq, ack, flags, data=b"", options=b"", window=65535, src=None, spoil=False):
        options += b"\1" * (-len(options) % 4)
        head = struct.pack("!HHIIBBHHH", sport, dport, seq % 2**32, ack % 2**32, (20 + len(options)) << 2, flags, window, 0, 0) + options
        pseudo = socket.inet_aton(src or self.address) + socket.inet_aton(dst) + struct.pack("!HH", 6, len(head) + len(data))
        total = ones_complement(pseudo + head + data) ^ (0x5555 if spoil else 0)
        return self.ipv4(dst, head[:16] + struct.pack("!H", total) + head[18:] + data, src=src)

    def receive(self, seconds):
        """The next TCP segment to our address: (source port, destination port, seq, ack, flags, window, options, data)."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                f, where = self.socket.recvfrom(65536)
            except (socket.timeout, BlockingIOError):
                return None
            if where[2] == socket.PACKET_OUTGOING or f[12:14] != b"\x08\0" or f[30:34] != socket.inet_aton(self.address) or f[23] != 6:
                continue
            t = f[14 + (f[14] & 15) * 4:14 + struct.unpack("!H", f[16:18])[0]]
            sport, dport, seq, ack, offset, flags, window = struct.unpack("!HHIIBBH", t[:16])
            return sport, dport, seq, ack, flags, window, t[20:(offset >> 4) * 4], t[(offset >> 4) * 4:]
        return None


class RawTcp:
    """One connection from there. Acknowledges what it gets; repeats what is not acknowledged."""

    MSS = 1460

    def __init__(self, wire, dst, dport=443, sport=None, options=b"\x02\x04\x05\xb4"):
        self.wire, self.dst, self.dport = wire, dst, dport
        self.sport = sport or random.randrange(20000, 60000)
        self.isn = random.randrange(2**32)
        self.una = 0  # offset of the first byte not acknowledged
        self.unsent, self.sent = b"", {}  # all bytes by offset
        self.next = 0
        self.received, self.expected = b"", None
        self.later = {}
        self.closed = self.reset = False
        self.acks = 0
        for _ in range(20):
            self.flags(SYN, -1, options=options)
            answer = self.await_segment(0.3, lambda s: s[4] & (SYN | ACK) == SYN | ACK)
            if answer:
                break
        check(answer, "no SYN-ACK")
        check(answer[3] == (self.isn + 1) % 2**32, "SYN-ACK of something else")
        self.expected = (answer[2] + 1) % 2**32
        self.synack = answer
        self.flags(ACK, 0)

    def flags(self, flags, offset, data=b"", options=b"", ack=None, **kw):
        if ack is None:
            ack = self.expected or 0
        self.wire.send(self.wire.tcp(self.dst, self.sport, self.dport, self.isn + 1 + offset, ack, flags, data, options, **kw))

    def await_segment(self, seconds, wanted):
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            s = self.wire.receive(left)
            if s and s[0] == self.dport and s[1] == self.sport and wanted(s):
                return s
        return None

    def segment(self, offset, data):
        """Bytes that stand at `offset` of our stream, now; repeated later if not acknowledged."""
        self.sent[offset] = data
        self.next = max(self.next, offset + len(data))
        self.flags(ACK | PSH, offset, data)

    def sendall(self, data):
        for at in range(0, len(data), self.MSS):
            self.segment(self.next, data[at:at + self.MSS])

    def pump(self, seconds):
        """Takes in one segment. False when none came."""
        s = self.await_segment(seconds, lambda _: True)
        if not s:
            return False
        _, _, seq, ack, flags, _, _, data = s
        if flags & RST:
            self.reset = self.closed = True
            return True
        if flags & ACK:
            upto = (ack - self.isn - 1) % 2**32
            if upto <= self.next and upto > self.una:
                self.una = upto
                self.acks += 1
                for o in [o for o, d in self.sent.items() if o + len(d) <= upto]:
                    del self.sent[o]
        if data or flags & FIN:
            ahead = (seq - self.expected) % 2**32
            if ahead < 2**31:
                self.later[seq] = (data, flags & FIN)
            while self.expected in self.later:
                d, fin = self.later.pop(self.expected)
                self.received += d
                self.expected = (self.expected + len(d) + (1 if fin else 0)) % 2**32
                if fin:
                    self.closed = True
                    break
            self.flags(ACK, self.next)
        return True

    def recv(self, _limit, seconds=20):
        end = time.monotonic() + seconds
        while not self.received:
            if self.reset:
                raise ConnectionResetError("reset by the other side")
            if self.closed:
                return b""
            if time.monotonic() > end:
                raise Failure("nothing came")
            if not self.pump(0.3):
                for offset, data in sorted(self.sent.items())[:8]:
                    self.flags(ACK | PSH, offset, data)
        got, self.received = self.received, b""
        return got

    def close(self):
        if not self.reset:
            self.flags(FIN | ACK, self.next)
            end = time.monotonic() + 2
            while not self.closed and time.monotonic() < end:
                self.pump(0.2)
            self.wire.send(self.wire.tcp(self.dst, self.sport, self.dport, self.isn + 2 + self.next, self.expected, ACK))
