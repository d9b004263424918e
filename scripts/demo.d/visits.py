"""Clients that connect and come back. Usage: visits.py MODE VIP[:PORT] CLIENTS RETURNS ROUNDS KINDS restart|no

A line for each connection: round, client, visit, outcome (resumed, new, failed), the server whose session it offered, the
server that answered, the client's address and port, by which the connection is found in the log. One after the other. A
client keeps the session it got last, as a browser does, and comes from its second address on every other visit. With each
round all clients forget everything. With "restart" a line that says so follows, and once a line was read, all come back RETURNS times more, with the
sessions of the last round. MODE cookie is plain HTTP: the session is a cookie's, and the page says whether the server knew it. Past 127.0.0.1 the clients'
addresses are 127.1.0.N.
"""

import random
import re
import socket
import ssl
import sys

MODE, VIP = sys.argv[1:3]
CLIENTS, RETURNS, ROUNDS = map(int, sys.argv[3:6])
KINDS = sys.argv[6].split(",")
PATIENCE = 10
PORT = 80 if MODE == "cookie" else 443
if ":" in VIP:
    VIP, PORT = VIP.split(":")
HOME = "127.1.0" if VIP.startswith("127.") else "10.77.0"


def context():
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # It is about sessions: who signed the servers' certificate is no matter.
    c.check_hostname, c.verify_mode = False, ssl.CERT_NONE
    if MODE != "mixed":
        version = ssl.TLSVersion.TLSv1_2 if MODE in ("session-id", "ticket") else ssl.TLSVersion.TLSv1_3
        c.minimum_version = c.maximum_version = version
    if MODE == "session-id":
        c.options |= ssl.OP_NO_TICKET
    # Some servers end without saying goodbye.
    c.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 1 << 7)
    return c


def connect(ctx, address, session):
    """One connection and one request. Returns the session, whether it was resumed, who answered, and our own end."""
    with socket.create_connection((VIP, int(PORT)), PATIENCE, (address, 0)) as plain:
        end = "{}:{}".format(*plain.getsockname())
        if MODE == "cookie":
            return *ask(plain, session), end
        with ctx.wrap_socket(plain, server_hostname="lab.example.test", session=session) as s:
            s.sendall(b"GET / HTTP/1.0\r\nHost: lab.example.test\r\n\r\n")
            answer = b""
            # With TLS 1.3 the ticket comes after the handshake: read to the end.
            while more := s.recv(65536):
                answer += more
            # The page is the server's name, or its command line, which has its address, or GnuTLS's own.
            name = re.search(rb"web(\d) |-accept 10\.78\.0\.1(\d):|(GnuTLS)", answer)
            if not name:
                raise ValueError(f"an answer that is none: {answer[:80]!r}")
            number = str(1 + KINDS.index("gnutls")) if name[3] else (name[1] or name[2]).decode()
            return s.session, s.session_reused, "web" + number, end


def ask(plain, cookie):
    """A request with the cookie of the session, if there is one. Returns that of the session, whether it was known, and who answered."""
    fields = f"Cookie: lang=en; SID={cookie}\r\n" if cookie else ""
    plain.sendall(f"GET / HTTP/1.1\r\nHost: lab.example.test\r\nConnection: close\r\n{fields}\r\n".encode())
    answer = b""
    while more := plain.recv(65536):
        answer += more
    page = re.search(rb"\r\n\r\n(web\d) \w+ (new|known) ", answer)
    if not page:
        raise ValueError(f"an answer that is none: {answer[:80]!r}")
    new = re.search(rb"(?i)\r\nset-cookie: *SID=([^;\r]+)", answer)
    return new[1].decode() if new else cookie, page[2] == b"known", page[1].decode()


in_a_row = 0
shuffled = random.Random(1)


def come(round_, visits, contexts, held):
    """Each client once for each visit."""
    global in_a_row
    for visit in visits:
        # In another order each time, or it alone would lead clients back to their servers by counting connections.
        for i in shuffled.sample(range(CLIENTS), CLIENTS):
            ctx = contexts[i]
            session, sealed = held[i]
            address = f"{HOME}.{101 + i + visit % 2 * CLIENTS}"
            try:
                session, resumed, server, end = connect(ctx, address, session)
                outcome = "resumed" if resumed else "new"
                held[i] = (session, server)
                in_a_row = 0
            except (OSError, ValueError) as e:
                outcome, server, end = "failed", "-", "-"
                print(f"client {i + 1}, visit {visit}: {type(e).__name__}: {e}", file=sys.stderr)
                in_a_row += 1
                if in_a_row == 5:
                    sys.exit("visits: five failed in a row; giving up")
            print(round_, i + 1, visit, outcome, sealed, server, end, flush=True)


for round_ in range(1, ROUNDS + 1):
    contexts, held = [context() for _ in range(CLIENTS)], [(None, "-")] * CLIENTS
    come(round_, range(1 + RETURNS), contexts, held)
if sys.argv[7] == "restart":
    print("restart", flush=True)
    if sys.stdin.readline():
        come(ROUNDS + 1, range(RETURNS + 1, 2 * RETURNS + 1), contexts, held)
