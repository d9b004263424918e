"""A TLS server that can be made to fail in many ways, and knows who asked it: the dispatcher for itself, or for a client."""

import socket
import ssl
import struct
import threading

import clients
from lab import STATE

# The dispatcher's own questions come from these ports (docs/operating.md), its clients' connections from those above.
OWN_PORTS = range(1024, 2048)


class Fickle:
    """At `address`, port 443: does what `mode` says.

    well: TLS, and a page with its name.
    503: TLS, and an answer that it cannot.
    garbage: something else than TLS as an answer to the hello.
    alert: refuses every handshake.
    hangs: reads, and says nothing.
    closes, resets: as soon as a hello is there.
    at once: closes before that."""

    def __init__(self, t, address, name, mode="well"):
        self.name, self.mode, self.lock = name, mode, threading.Lock()
        self.own = self.others = 0
        self.ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ctx.load_cert_chain(STATE + "/cert.pem", STATE + "/key.pem")
        t.server(address, 443, self.serve)

    def become(self, mode):
        """From now on; counts anew."""
        with self.lock:
            self.mode, self.own, self.others = mode, 0, 0

    def serve(self, connection, peer):
        with self.lock:
            mode = self.mode
            if peer[1] in OWN_PORTS:
                self.own += 1
            else:
                self.others += 1
        if mode in ("well", "503"):
            self.page(connection, b"200 OK" if mode == "well" else b"503 Service Unavailable")
        elif mode != "at once":
            connection.settimeout(60)
            connection.recv(1)
            if mode == "resets":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif mode == "garbage":
                connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
            elif mode == "alert":
                connection.sendall(bytes.fromhex("15030300020228"))
            elif mode == "hangs":
                clients.read_all(connection)

    def page(self, connection, status):
        try:
            with self.ctx.wrap_socket(connection, server_side=True) as s:
                got = b""
                while b"\r\n\r\n" not in got:
                    more = s.recv(65536)
                    if not more:
                        return
                    got += more
                s.sendall(b"HTTP/1.0 " + status + b"\r\n\r\n" + self.name.encode() + b" fickle\n")
                s.unwrap()
        except (OSError, ValueError):
            # A check says goodbye, and does not wait for an answer.
            pass
