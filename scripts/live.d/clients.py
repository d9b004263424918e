"""Clients: real TLS over ordinary sockets, and TLS whose bytes the test sends itself."""

import hashlib
import socket
import ssl
import subprocess
import time

import lab
from lab import check

NAME = "lab.example.test"
GET = b"GET / HTTP/1.0\r\nHost: lab.example.test\r\n\r\n"
PATIENCE = 20


def context(version=None, tickets=True):
    """A client's TLS settings: `version` 1.2 or 1.3 only."""
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    c.load_verify_locations(lab.STATE + "/cert.pem")
    if version:
        v = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
        c.minimum_version = c.maximum_version = v
    if not tickets:
        c.options |= ssl.OP_NO_TICKET
    # Some servers end without saying goodbye.
    c.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    return c


def address(n):
    """The nth address of the clients, from 0."""
    return f"10.77.0.{101 + n % 60}"


def address6(n):
    return f"fd77::{101 + n % 60}"


def connect(vip=lab.VIP, port=443, source=None, timeout=PATIENCE):
    s = socket.socket(socket.AF_INET6 if ":" in vip else socket.AF_INET)
    s.settimeout(timeout)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if source:
        s.bind((source, 0))
    s.connect((vip, port))
    return s


def read_all(s):
    got = b""
    while True:
        more = s.recv(65536)
        if not more:
            return got
        got += more


def fetch(source=None, ctx=None, vip=lab.VIP, port=443, session=None, request=GET, timeout=PATIENCE, name=NAME):
    """One TLS connection and one request. Returns the body, and the TLS socket (closed) for what it knows of the session."""
    raw = connect(vip, port, source, timeout)
    try:
        with (ctx or context()).wrap_socket(raw, server_hostname=name, session=session) as s:
            s.sendall(request)
            answer = read_all(s)
            result = (s.session, s.session_reused, s.version())
        check(b"\r\n\r\n" in answer and b" 200 " in answer.split(b"\r\n")[0], f"an answer that is none: {answer[:60]!r}")
        return answer.split(b"\r\n\r\n", 1)[1], result
    finally:
        raw.close()


def drive(ctx, transport, hello=None, request=GET):
    """TLS over any transport with sendall() and recv(); `hello` sends the first flight. Returns answer and TLS object."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ctx.wrap_bio(incoming, outgoing, server_hostname=NAME)
    first = hello or transport.sendall

    def exchange(step):
        nonlocal first
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                result = None
                wants = True
            else:
                wants = False
            data = outgoing.read()
            if data:
                first(data)
                first = transport.sendall
            if not wants:
                return result
            more = transport.recv(65536)
            incoming.write(more) if more else incoming.write_eof()

    exchange(tls.do_handshake)
    exchange(lambda: tls.write(request))
    answer = b""
    while True:
        try:
            more = exchange(lambda: tls.read(65536))
        except ssl.SSLZeroReturnError:
            return answer, tls
        except ssl.SSLEOFError:
            return answer, tls
        if not more:
            return answer, tls
        answer += more


def client_hello(ctx):
    """The ClientHello that this context would send, as records."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ctx.wrap_bio(incoming, outgoing, server_hostname=NAME)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


class Download:
    """curl, its output hashed as it comes."""

    def __init__(self, url, *flags, **where):
        self.size, self.seconds = 0, 0.0
        digest = hashlib.sha256()
        begun = time.monotonic()
        p = curl(url, *flags, **where)
        while chunk := p.stdout.read(1 << 18):
            digest.update(chunk)
            self.size += len(chunk)
        error = p.stderr.read().decode()
        check(p.wait() == 0, f"curl {url}: {error.strip()}")
        self.seconds = time.monotonic() - begun
        self.sum = digest.hexdigest()


def curl(url, *flags, source=None, vip=lab.VIP):
    port = 80 if url.startswith("http:") else 443
    where = f"[{vip}]" if ":" in vip else vip
    command = ["curl", "-sS", "--fail", "--max-time", "120", "--cacert", lab.STATE + "/cert.pem",
               "--resolve", f"{NAME}:{port}:{where}", *(["--interface", source] if source else []), *flags, url]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
