"""ClientHellos put together by hand, with identities that nobody issued."""

import os
import struct

import clients


def vec(size, body):
    return len(body).to_bytes(size, "big") + body


def extension(kind, body):
    return struct.pack(">H", kind) + vec(2, body)


def record(payload, kind=22):
    return bytes([kind, 3, 1]) + vec(2, payload)


def hello(session_id=b"", ticket=None, psk=None, more=b""):
    """A ClientHello as real ones are, TLS 1.3 if it has a PSK identity; `more`: extensions."""
    exts = extension(0, vec(2, b"\0" + vec(2, clients.NAME.encode())))
    exts += extension(10, vec(2, bytes.fromhex("001d0017"))) + extension(11, vec(1, b"\0"))
    exts += extension(13, vec(2, bytes.fromhex("080404010403")))
    exts += more
    if ticket is not None:
        exts += extension(35, ticket)
    if psk is not None:
        exts += extension(43, vec(1, b"\3\4")) + extension(51, vec(2, b"\0\x1d" + vec(2, os.urandom(32)))) + extension(45, vec(1, b"\1"))
        # The last, as it must be.
        exts += extension(41, vec(2, vec(2, psk) + os.urandom(4)) + vec(2, vec(1, os.urandom(32))))
    return record(message(exts, session_id))


def message(extensions, session_id=b"", version=0x0303):
    """The handshake message, without a record's header."""
    suites = vec(2, bytes.fromhex("1301c02f009c"))
    body = struct.pack(">H", version) + os.urandom(32) + vec(1, session_id) + suites + b"\1\0" + vec(2, extensions)
    return b"\1" + vec(3, body)


def ordinary(version=0x0304, share=None):
    """The extensions that a hello of this version cannot do without. `share` in the place of a good key_share."""
    exts = extension(0, vec(2, b"\0" + vec(2, clients.NAME.encode())))
    exts += extension(10, vec(2, bytes.fromhex("001d0017"))) + extension(11, vec(1, b"\0")) + extension(13, vec(2, bytes.fromhex("080404010403")))
    # Without psk_key_exchange_modes OpenSSL looks no further at a pre_shared_key, in 1.2 either.
    exts += extension(45, vec(1, b"\1"))
    if version == 0x0304:
        exts += extension(43, vec(1, b"\3\4"))
        share = vec(2, b"\0\x1d" + vec(2, os.urandom(32))) if share is None else share
    return exts + (b"" if share is None else extension(51, share))


def identities(*binders, count=None):
    """A pre_shared_key extension: so many invented identities, with binders of these lengths."""
    names = b"".join(vec(2, os.urandom(208)) + bytes(4) for _ in range(len(binders) if count is None else count))
    return extension(41, vec(2, names) + vec(2, b"".join(vec(1, os.urandom(n)) for n in binders)))
