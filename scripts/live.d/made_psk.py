"""TLS 1.3 hellos by hand, with PSK identities whose binder is right (RFC 8446, 4.2.11.2): of sessions that openssl s_client got."""

import hashlib
import hmac
import os
import re
import struct
import subprocess

import clients
import lab
from lab import WORK, check
from made_hello import extension, vec

# The random of a ServerHello that is none.
RETRY = hashlib.sha256(b"HelloRetryRequest").digest()
CIPHER = "TLS_AES_128_GCM_SHA256"


def expand_label(secret, label, context, length=32):
    label = b"tls13 " + label
    info = struct.pack(">H", length) + vec(1, label) + vec(1, context)
    return hmac.new(secret, info + b"\1", hashlib.sha256).digest()[:length]


class Own:
    """A session of the liar's own: its ticket and its secret."""

    def __init__(self, source, vip):
        path = f"{WORK}/own.session"
        where, bind = (f"[{vip}]", f"[{source}]") if ":" in vip else (vip, source)
        command = ["openssl", "s_client", "-connect", f"{where}:443", "-bind", f"{bind}:0", "-tls1_3", "-ciphersuites", CIPHER,
                   "-servername", clients.NAME, "-sess_out", path, "-ign_eof"]
        try:
            subprocess.run(command, input=clients.GET, capture_output=True, timeout=20)
            text = subprocess.run(["openssl", "sess_id", "-in", path, "-text", "-noout"], capture_output=True, text=True).stdout
        finally:
            lab.remove(path)
        secret = re.search(r"Resumption PSK: ([0-9A-F]+)", text)
        rows = re.findall(r"^ +[0-9a-f]{4} - (.{48})", text, re.M)
        check(secret and rows and CIPHER in text, f"a session for {source}: {text[-300:]}")
        self.secret = bytes.fromhex(secret[1])
        self.ticket = bytes.fromhex("".join(rows).replace("-", "").replace(" ", ""))
        early = hmac.new(b"\0" * 32, self.secret, hashlib.sha256).digest()
        binder_key = expand_label(early, b"res binder", hashlib.sha256(b"").digest())
        self.finished_key = expand_label(binder_key, b"finished", b"")


class Handshake:
    """Hellos of one connection. Records in, records out."""

    def __init__(self, session_id=None):
        self.random = os.urandom(32)
        self.session_id = os.urandom(32) if session_id is None else session_id
        self.transcript = b""

    def hello(self, identity=None, own=None, share=True):
        """With an identity of whatever bytes and no binder worth the name; or with one of one's own."""
        exts = extension(0, vec(2, b"\0" + vec(2, clients.NAME.encode())))
        exts += extension(10, vec(2, b"\0\x1d")) + extension(13, vec(2, bytes.fromhex("080404010403")))
        exts += extension(43, vec(1, b"\3\4")) + extension(45, vec(1, b"\1"))
        exts += extension(51, vec(2, b"\0\x1d" + vec(2, os.urandom(32)) if share else b""))
        binders = b""
        if own:
            identity = own.ticket
        if identity:
            binders = vec(2, vec(1, os.urandom(32)))
            exts += extension(41, vec(2, vec(2, identity) + os.urandom(4)) + binders)
        body = b"\3\3" + self.random + vec(1, self.session_id) + vec(2, b"\x13\1") + b"\1\0" + vec(2, exts)
        message = b"\1" + vec(3, body)
        if own:
            head = message[:-len(binders)]
            digest = hashlib.sha256(self.transcript + head).digest()
            message = head + vec(2, vec(1, hmac.new(own.finished_key, digest, hashlib.sha256).digest()))
        self.sent = message
        return b"\x16\3\1" + vec(2, message)

    def asked_again(self, answer):
        """The server's first message was this one: is it a HelloRetryRequest? Then the next hello stands behind it."""
        if answer[:1] != b"\2" or answer[6:38] != RETRY:
            return False
        self.transcript = b"\xfe\0\0\x20" + hashlib.sha256(self.sent).digest() + answer
        return True


def next_message(s):
    """The next handshake message of the server's in clear; what stands between is passed over. None at the end, or for an alert."""
    got = b""
    while True:
        head = exactly(s, 5)
        if head is None:
            return None
        body = exactly(s, int.from_bytes(head[3:], "big"))
        if body is None or head[0] not in (20, 22):
            return None
        if head[0] == 22:
            got += body
            if len(got) >= 4 and len(got) >= 4 + int.from_bytes(got[1:4], "big"):
                return got[:4 + int.from_bytes(got[1:4], "big")]


def exactly(s, n):
    got = b""
    while len(got) < n:
        more = s.recv(n - len(got))
        if not more:
            return None
        got += more
    return got


def selects_psk(server_hello):
    """A ServerHello with `pre_shared_key`."""
    if not server_hello or server_hello[0] != 2:
        return False
    at = 4 + 34
    at += 1 + server_hello[at] + 3 + 2
    while at + 4 <= len(server_hello):
        kind, n = struct.unpack(">HH", server_hello[at:at + 4])
        if kind == 41:
            return True
        at += 4 + n
    return False
