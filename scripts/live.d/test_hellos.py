"""ClientHellos as they also come: a byte at a time, over many records, out of order, larger than a segment."""

import random
import time

import clients
from clients import drive
from lab import VIP, check
from rawtcp import RawTcp, Wire
from registry import test


class Socket:
    """A connected socket of the kernel, a byte at a time where asked."""

    def __init__(self, source):
        self.socket = clients.connect(source=source)
        self.sendall, self.recv = self.socket.sendall, self.socket.recv

    def drip(self, data, pause):
        for i in range(len(data)):
            self.socket.send(data[i:i + 1])
            time.sleep(pause)


def records(hello, sizes):
    """The same handshake message in records of these sizes (the last one repeats)."""
    check(hello[0] == 22 and len(hello) == 5 + int.from_bytes(hello[3:5], "big"), "one record was expected")
    body, out, i = hello[5:], b"", 0
    while body:
        n = sizes[min(i, len(sizes) - 1)]
        out += hello[:3] + min(n, len(body)).to_bytes(2, "big") + body[:n]
        body, i = body[n:], i + 1
    return out


def answered(answer):
    check(b" 200 " in answer.split(b"\r\n")[0], f"no answer but {answer[:60]!r}")


def servers_of(d, count):
    log = d.await_log(count)
    check(len(log) == count and all(c["class"] == "secure" for c in log), f"log: {log}")
    check(all(c["sni"] == clients.NAME for c in log), "the server's name was read")
    return {c["backend"] for c in log}


@test
def hello_tiny_segments(t):
    """A hello in 1-byte segments, more than the first window holds"""
    t.servers.want()
    d = t.dispatcher()
    n = 0
    for version, pause in (("1.2", 0.001), ("1.3", 0.001), ("1.3", 0)):
        for i in range(3):
            s = Socket(clients.address(n))
            n += 1
            sizes = []
            def drip(hello):
                sizes.append(len(hello))
                s.drip(hello, pause)
            answer, tls = drive(clients.context(version), s, drip)
            answered(answer)
            check(tls.version() == "TLSv" + version, tls.version())
            s.socket.close()
    names = servers_of(d, n)
    d.stop()
    check(d.frames("wan") > 6 * sizes[0], f"{d.frames('wan')} frames came in: the segments were joined on the way")
    return f"{n} connections, hellos of {sizes[0]} bytes, {d.frames('wan')} frames from clients, {len(names)} servers"


@test
def hello_records(t):
    """A hello over many TLS records, in one and in many segments"""
    t.servers.want()
    d = t.dispatcher()
    n, most = 0, 0
    for version in ("1.2", "1.3"):
        for sizes in ([1, 3, 50], [16], [200], [5, 1, 1, 1, 300]):
            for pause in (None, 0.0005):
                s = Socket(clients.address(n))
                n += 1
                def split(hello):
                    nonlocal most
                    data = records(hello, sizes)
                    most = max(most, (len(data) - len(hello)) // 5 + 1)
                    s.drip(data, pause) if pause else s.sendall(data)
                answered(drive(clients.context(version), s, split)[0])
                s.socket.close()
    names = servers_of(d, n)
    return f"{n} connections, hellos of up to {most} records, {len(names)} servers"


@test
def hello_out_of_order(t):
    """A hello whose segments come backwards, shuffled, doubled, overlapping, or with one lost"""
    t.servers.want()
    d = t.dispatcher()
    wire = Wire(d.mac(), "10.77.0.90")
    t.undo.append(wire.close)
    order = random.Random(4)
    n = 0

    def cut(hello, size, overlap=0):
        return [(at, hello[at:at + size + overlap]) for at in range(0, len(hello), size)]

    def backwards(hello):
        return cut(hello, 60)[::-1]

    def shuffled(hello):
        pieces = cut(hello, 23)
        order.shuffle(pieces)
        return pieces

    def doubled(hello):
        pieces = cut(hello, 40) * 2
        order.shuffle(pieces)
        return pieces

    def overlapping(hello):
        pieces = cut(hello, 50, 31)
        order.shuffle(pieces)
        return pieces

    def first_is_last(hello):
        pieces = cut(hello, 100)
        return pieces[1:] + pieces[:1]

    options = {"plain": b"\x02\x04\x05\xb4", "sack": b"\x02\x04\x05\xb4\x04\x02", "scale": b"\x02\x04\x05\xb4\x03\x03\x05", "none": b""}
    for version in ("1.2", "1.3"):
        for make in (backwards, shuffled, doubled, overlapping, first_is_last):
            # Another client each time: they meet all servers.
            wire.address = f"10.77.0.{30 + n}"
            name, option = list(options.items())[n % len(options)]
            s = RawTcp(wire, VIP, options=option)
            n += 1
            def send(hello):
                for at, piece in make(hello):
                    s.segment(at, piece)
            answer, tls = drive(clients.context(version), s, send)
            answered(answer)
            s.close()
    for _ in range(2):
        # One segment is sent only when its acknowledgement is missed.
        wire.address = f"10.77.0.{30 + n}"
        s = RawTcp(wire, VIP)
        n += 1
        def lose(hello):
            pieces = cut(hello, 90)
            s.sent[pieces[1][0]] = pieces[1][1]
            for at, piece in pieces[:1] + pieces[2:]:
                s.segment(at, piece)
        answered(drive(clients.context(), s, lose)[0])
        s.close()
    names = servers_of(d, n)
    return f"{n} connections in 6 orders, {len(names)} servers"


@test
def hello_large(t):
    """A hello of two segments, as post-quantum ones are, and of up to twelve"""
    t.servers.want()
    d = t.dispatcher()
    n, sizes = 0, []
    for version in ("1.2", "1.3"):
        for names in (55, 70, 200, 600):
            ctx = clients.context(version)
            # The servers' own protocol among many.
            ctx.set_alpn_protocols([f"x-protocol-number-{i:07}" for i in range(names)] + ["http/1.1"])
            sizes.append(len(clients.client_hello(ctx)))
            for i in range(3):
                clients.fetch(clients.address(n), ctx)
                n += 1
    # 50 more than the smallest windows of tiny segments.
    ctx = clients.context("1.3")
    ctx.set_alpn_protocols([f"x-protocol-number-{i:07}" for i in range(60)] + ["http/1.1"])
    s = Socket(clients.address(n))
    n += 1
    answered(drive(ctx, s, lambda hello: s.drip(hello, 0.0002))[0])
    s.socket.close()
    check(min(sizes) > 1460, f"hellos of {sizes} bytes")
    names = servers_of(d, n)
    return f"{n} connections, hellos of {min(sizes)} to {max(sizes)} bytes, {len(names)} servers"
