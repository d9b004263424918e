"""ClientHellos put together by hand, with identities that nobody issued."""

import os
import struct

import clients


def vec(size, body):
    return len(body).to_bytes(size, "big") + body


def extension(kind, body):
    return struct.pack(">H", kind) + vec(2, body)


def hello(session_id=b"", ticket=None, psk=None):
    """A ClientHello as real ones are, TLS 1.3 if it has a PSK identity."""
    exts = extension(0, vec(2, b"\0" + vec(2, clients.NAME.encode())))
    exts += extension(10, vec(2, bytes.fromhex("001d0017"))) + extension(11, vec(1, b"\0"))
    exts += extension(13, vec(2, bytes.fromhex("080404010403")))
    if ticket is not None:
        exts += extension(35, ticket)
    if psk is not None:
        exts += extension(43, vec(1, b"\3\4")) + extension(51, vec(2, b"\0\x1d" + vec(2, os.urandom(32)))) + extension(45, vec(1, b"\1"))
        # The last, as it must be.
        exts += extension(41, vec(2, vec(2, psk) + os.urandom(4)) + vec(2, vec(1, os.urandom(32))))
    suites = vec(2, bytes.fromhex("1301c02f009c"))
    body = b"\3\3" + os.urandom(32) + vec(1, session_id) + suites + b"\1\0" + vec(2, exts)
    return b"\x16\3\1" + vec(2, b"\1" + vec(3, body))
