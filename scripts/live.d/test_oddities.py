"""What is off the beaten track, and served all the same: odd hellos, and other protocols whose first byte looks like SSLv2's."""

import os
import socket
import struct
import time

import clients
import lab
from lab import VIP, check
from made_hello import extension, identities, message, ordinary, record, vec
from registry import test


def sslv2(challenge=32, session=b"", version=0x0301):
    """A hello in SSLv2's frame that asks for TLS, as clients of the nineties send."""
    suites = bytes.fromhex("00002f000035")
    body = b"\1" + struct.pack(">HHHH", version, len(suites), len(session), challenge) + suites + session + os.urandom(challenge)
    return struct.pack(">H", 0x8000 | len(body)) + body


def pieces_of(handshake, size=16_384):
    """A handshake message in records of this size."""
    return b"".join(record(handshake[at:at + size]) for at in range(0, len(handshake), size))


def odd_records():
    """Hellos with nothing odd but their records, by what is odd; each as what is sent at once."""
    plain = message(ordinary())
    half, rest = record(plain[:50]), record(plain[50:])
    yield "nothing odd", record(plain)
    yield "an empty record first", record(b"") + record(plain)
    yield "an empty record in the middle", half + record(b"") + rest
    yield "the same in three segments", half, record(b""), rest
    yield "a warning first", record(b"\1\0", kind=21) + record(plain)
    yield "a warning in the middle", half + record(b"\1\0", kind=21) + rest
    yield "ChangeCipherSpec behind", record(plain) + record(b"\1", kind=20)
    for size in (15_000, 24_000, 60_000):
        yield f"{size} bytes of padding", pieces_of(message(ordinary() + extension(21, bytes(size))))
    yield "SSLv2", sslv2()
    yield "SSLv2, a challenge of 16", sslv2(16)
    yield "SSLv2, a session of 32", sslv2(session=os.urandom(32))
    yield "SSLv2, version 0305", sslv2(version=0x0305)


# What may be odd about pre_shared_key, of which TLS 1.2 knows nothing.
PSK = {
    "binder of length 0": identities(0),
    "binder of one byte": identities(1),
    "binder of 255 bytes": identities(255),
    "two identities, one binder": identities(32, count=2),
    "one identity, two binders": identities(32, 32, count=1),
    "two identities, the second binder of length 0": identities(32, 0),
    "no identity, no binder": identities(),
    "no bytes": extension(41, b""),
}
# And about key_share.
SHARE = {"an empty list": vec(2, b""), "no bytes": b"", "cut short": vec(2, b"\0\x1d\0\x20" + bytes(31)), "a key of no bytes": vec(2, b"\0\x1d\0\0")}


def odd_messages():
    """Messages in one record, by what is odd about them."""
    for version in (0x0304, 0x0305, 0x03ff, 0x0498, 0xffff):
        yield f"legacy_version {version:04x}", message(ordinary(), version=version)
    for version, name in ((0x0303, "1.2"), (0x0304, "1.3")):
        for what, psk in PSK.items():
            yield f"{name}, pre_shared_key: {what}", message(ordinary(version) + psk, os.urandom(32))
        for what, share in SHARE.items():
            yield f"{name}, key_share: {what}", message(ordinary(version, share))
        for what, odd in {"cookie: no bytes": extension(44, b""), "early_data of four bytes": extension(42, bytes(4)),
                          "an unknown extension twice": extension(0xfafa, b"") * 2, "session_ticket twice": extension(35, b"") * 2,
                          "ALPN: a name of no bytes": extension(16, vec(2, vec(1, b"")))}.items():
            yield f"{name}, {what}", message(ordinary(version) + odd)
    plain = message(ordinary())
    yield "a stray byte behind the extensions", b"\1" + vec(3, plain[4:] + b"\0")


def oddities():
    yield from ((what, pieces) for what, *pieces in odd_records())
    yield from ((what, [record(odd)]) for what, odd in odd_messages())


def said(s, pieces):
    """What a server says to it, in a word: the kind of its first handshake message, an alert's number, or that it ends."""
    try:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            s.sendall(piece)
            if len(pieces) > 1:
                time.sleep(0.05)
        got = b""
        while len(got) < 7:
            more = s.recv(100)
            if not more:
                return "an end"
            got += more
        return {21: f"alert {got[6]}", 22: "ServerHello" if got[5] == 2 else f"message {got[5]}"}.get(got[0], f"{got[:7].hex()}")
    except ConnectionResetError:
        return "a reset"
    except TimeoutError:
        return "nothing"
    finally:
        s.close()


def directly():
    """A connection to the server without a dispatcher."""
    with lab.inside("servers"):
        return clients.connect("10.78.0.11", timeout=5)


@test
def odd_hellos(t):
    """Odd hellos, of 24 kB, with odd records, versions and extensions: nginx and OpenSSL answer as they do when asked directly"""
    seen = []
    for kind in ("nginx", "openssl"):
        t.servers.want(kind)
        d = t.dispatcher(args=lab.base_args([f"{VIP}:443"], ["web1=10.78.0.11:443"]))
        odd, wrong, taken = list(oddities()), [], 0
        for i, (what, pieces) in enumerate(odd):
            direct, through = said(directly(), pieces), said(clients.connect(source=clients.address(i), timeout=5), pieces)
            taken += direct == "ServerHello"
            if direct != through:
                wrong.append(f"{what}: {through}, directly {direct}")
                check(through != "nothing" or len(wrong) < 4, f"{kind}: {'; '.join(wrong)}; and so on")
        check(not wrong, f"{kind}: {len(wrong)} of {len(odd)} are answered otherwise: {'; '.join(wrong)}")
        check(taken > len(odd) // 2, f"{kind} takes {taken} of {len(odd)} only")
        d.stop()
        seen.append(f"{kind} takes {taken} of {len(odd)} and answers all as if asked directly")
    return ", ".join(seen)


@test
def high_first_byte(t):
    """Other protocols that begin with a byte from 0x80 to 0xff, in segments of one or two bytes: served at once; in silence, after --hello-timeout"""
    def serve(connection, _):
        while got := connection.recv(1000):
            connection.sendall(got)

    t.server("10.78.0.14", 443, serve)
    patience = 3
    d = t.dispatcher("--hello-timeout", f"{patience}s", args=lab.base_args([f"{VIP}:443"], ["echo=10.78.0.14:443"]))
    # Nothing follows these, and they may yet become hellos.
    silent = {beginning: clients.connect(source=clients.address(50)) for beginning in (b"\x80", b"\xbf", b"\xc0", b"\x80\x2e", b"\xbf\x10", b"\x80\x2e\1\3")}
    for beginning, s in silent.items():
        s.sendall(beginning)
    slowest, late = 0, []
    for first in (*range(0x80, 0xc1, 8), 0xc1, 0xe0, 0xff):
        for split in (1, 2):
            line = bytes([first, 0x10]) + b"not TLS at all\r\n"
            s = clients.connect(source=clients.address(first), timeout=patience)
            begun = time.monotonic()
            s.sendall(line[:split])
            time.sleep(0.02)
            s.sendall(line[split:])
            got = b""
            try:
                while got != line:
                    more = s.recv(1000)
                    check(more and line.startswith(got + more), f"{first:#x}: {got + more!r}")
                    got += more
                slowest = max(slowest, time.monotonic() - begun)
            except OSError as e:
                late.append(f"{first:#x} after {split} ({type(e).__name__})")
            s.close()
        check(len(late) < 3, f"not served: {', '.join(late)}, ...")
    check(not late, f"not served: {', '.join(late)}")
    check(slowest < patience / 2, f"the slowest took {slowest:.2f} s")
    for beginning, s in silent.items():
        try:
            got = s.recv(1000)
        except OSError as e:
            got = type(e).__name__
        check(got == beginning, f"{beginning.hex()} and silence: {got}")
        s.close()
    d.stop()
    return f"24 connections, the slowest in {slowest * 1000:.0f} ms; {len(silent)} that went on in silence served after {patience} s"
