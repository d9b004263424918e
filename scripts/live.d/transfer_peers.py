"""Both ends of many transfers that go on until somebody cuts them. Run as a program, once among the servers and once among the clients.

  transfer_peers.py serve PORT ADDRESS...
  transfer_peers.py connect PORT FILE     (each line of FILE: role, source, destination)

The role is the connection's first byte: `D` the client reads all it is sent, `d` it reads nothing; `U` the server reads all it is sent, `u` it reads nothing.
Every 50 ms it prints a line of JSON: connections begun, those in which bytes have moved, and how and when (CLOCK_MONOTONIC) each of those that have ended did.
"""

import errno
import json
import select
import socket
import sys
import time

CHUNK = b"x" * 65536
# So many bytes, and a connection is under way.
MOVED = 1_000


class Peer:
    """One end of one connection."""

    def __init__(self, sock, sends, reads):
        self.sock, self.sends, self.reads, self.moved = sock, sends, reads, 0

    def wants(self):
        # Errors are told in any case.
        return (select.EPOLLOUT if self.sends else 0) | (select.EPOLLIN if self.reads else 0)


class Peers:
    def __init__(self):
        self.epoll = select.epoll()
        self.listeners, self.peers = {}, {}
        self.begun, self.moving, self.ends = 0, 0, []

    def add(self, sock, sends, reads):
        sock.setblocking(False)
        peer = self.peers[sock.fileno()] = Peer(sock, sends, reads)
        self.epoll.register(sock, peer.wants())
        self.begun += 1

    def end(self, peer, how):
        self.ends.append((how, time.monotonic()))
        del self.peers[peer.sock.fileno()]
        self.epoll.unregister(peer.sock)
        peer.sock.close()

    def move(self, peer, count):
        if peer.moved < MOVED <= peer.moved + count:
            self.moving += 1
        peer.moved += count

    def event(self, peer, events):
        try:
            if events & (select.EPOLLERR | select.EPOLLHUP):
                code = peer.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                return self.end(peer, errno.errorcode.get(code, "end without an error"))
            if events & select.EPOLLIN and peer.reads:
                got = peer.sock.recv(1 << 18)
                if not got:
                    return self.end(peer, "orderly end")
                if peer.reads == "role":
                    peer.sends, peer.reads = got in (b"D", b"d"), got == b"U"
                    self.epoll.modify(peer.sock, peer.wants())
                self.move(peer, len(got))
            if events & select.EPOLLOUT and peer.sends:
                self.move(peer, peer.sock.send(CHUNK))
        except BlockingIOError:
            pass
        except OSError as e:
            self.end(peer, errno.errorcode.get(e.errno, str(e)))

    def run(self):
        tell = 0
        while True:
            for number, events in self.epoll.poll(0.05):
                if number in self.listeners:
                    self.add(self.listeners[number].accept()[0], False, "role")
                elif number in self.peers:
                    self.event(self.peers[number], events)
            if time.monotonic() >= tell:
                tell = time.monotonic() + 0.05
                print(json.dumps({"begun": self.begun, "moving": self.moving, "ends": self.ends}), flush=True)


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def main(what, port, *more):
    peers = Peers()
    if what == "serve":
        for address in more:
            s = socket.socket(family(address))
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((address, int(port)))
            s.listen(1024)
            peers.listeners[s.fileno()] = s
            peers.epoll.register(s, select.EPOLLIN)
    else:
        connected = []
        with open(more[0]) as f:
            for role, source, to in map(str.split, f):
                s = socket.socket(family(source))
                s.settimeout(20)
                s.bind((source, 0))
                s.connect((to, int(port)))
                connected.append((s, role))
        # Now, while no transfer is in the others' way, all have connected.
        for s, role in connected:
            s.sendall(role.encode())
            peers.add(s, role in "Uu", role == "D")
    peers.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
