"""Connections whose every byte is looked at. Run as a program, among the servers and among the clients.

  steady_peers.py serve PORT ADDRESS...      what comes is sent back; who ends his side is answered by an end
  steady_peers.py hold COUNT ADDRESS PORT    so many connections, on each of which some bytes go and come back every 100 ms until standard input ends
  steady_peers.py visit RATE ADDRESS PORT    so many new ones a second, a few bytes there and back on each

Whoever connects prints a line of JSON every 100 ms: connections begun, ended in order, bytes that came back as they went, and what went wrong. When standard
input ends, those that are open are brought to their end, and the last line is printed.
"""

import errno
import json
import random
import select
import socket
import sys
import time

# Bytes that differ everywhere: a piece that is lost, twice there, or another connection's does not go unseen.
BYTES = random.Random(7).randbytes(1 << 20)
CHUNK, VISIT, TURN = 4096, 200, 0.1
SOURCES = [f"10.77.0.{n}" for n in range(101, 161)]
# What is sent and has not come back: beyond it nothing more is sent.
AHEAD = 16 * CHUNK


def serve(port, addresses):
    epoll, listeners, peers = select.epoll(), {}, {}
    for address in addresses:
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((address, port))
        s.listen(4096)
        listeners[s.fileno()] = s
        epoll.register(s, select.EPOLLIN)
    print("ready", flush=True)
    while True:
        for number, events in epoll.poll():
            if number in listeners:
                s = listeners[number].accept()[0]
                s.setblocking(False)
                peers[s.fileno()] = (s, bytearray())
                epoll.register(s, select.EPOLLIN)
                continue
            s, waiting = peers[number]
            try:
                over = False
                if events & ~select.EPOLLOUT:
                    got = s.recv(1 << 16)
                    over = not got
                    waiting += got
                while waiting:
                    del waiting[: s.send(waiting)]
                if over:
                    raise ConnectionResetError
                epoll.modify(s, select.EPOLLIN)
            except BlockingIOError:
                # What comes meanwhile waits in the kernel.
                epoll.modify(s, select.EPOLLOUT)
            except OSError:
                del peers[number]
                epoll.unregister(s)
                s.close()


class Connection:
    def __init__(self, number, to, limit):
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind((SOURCES[number % len(SOURCES)], 0))
        self.at = number * 7919 % len(BYTES)
        self.sent, self.back, self.limit, self.ended = 0, 0, limit, False
        self.begun = time.monotonic()
        code = self.sock.connect_ex(to)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, "connect")

    def bytes(self, offset, count):
        at = (self.at + offset) % len(BYTES)
        piece = BYTES[at : at + count]
        return piece if len(piece) == count else piece + BYTES[: count - len(piece)]

    def send(self):
        """Up to its limit. What does not fit goes another time."""
        if self.sent < self.limit and self.sent - self.back < AHEAD:
            try:
                self.sent += self.sock.send(self.bytes(self.sent, min(self.limit - self.sent, CHUNK)))
            except BlockingIOError:
                pass

    def receive(self):
        """True at the end."""
        got = self.sock.recv(1 << 16)
        if got != self.bytes(self.back, len(got)) or self.back + len(got) > self.sent:
            raise ValueError(f"wrong bytes behind {self.back}")
        self.back += len(got)
        if not got and not (self.ended and self.back == self.sent):
            raise ValueError(f"an end after {self.back} of {self.sent} bytes that nobody asked for")
        return not got

    def finish(self):
        """Once everything is back."""
        if not self.ended and self.sent == self.limit == self.back:
            self.ended = True
            self.sock.shutdown(socket.SHUT_WR)


def connect(to, count, rate):
    epoll, open_now, wrong = select.epoll(), {}, []
    begun, closed, verified, slowest, stopping = 0, 0, 0, 0.0, False
    start, turn = time.monotonic(), 0.0
    epoll.register(sys.stdin.fileno(), select.EPOLLIN | select.EPOLLHUP)

    def drop(c, why=None):
        nonlocal closed, verified, slowest
        if why:
            wrong.append(f"after {time.monotonic() - c.begun:.1f} s, {c.back} bytes: {why}")
        closed += not why
        verified += c.back
        slowest = max(slowest, time.monotonic() - c.begun)
        del open_now[c.sock.fileno()]
        c.sock.close()

    while True:
        now = time.monotonic()
        due = 0 if stopping else min(count, int((now - start) * rate)) - begun
        for _ in range(min(due, 50)):
            c = Connection(begun, to, VISIT if count == sys.maxsize else 0)
            begun += 1
            open_now[c.sock.fileno()] = c
            epoll.register(c.sock, select.EPOLLOUT)
        if now - turn >= TURN:
            turn = now
            if count != sys.maxsize:
                for c in list(open_now.values()):
                    c.limit += 0 if stopping else CHUNK
                    epoll.modify(c.sock, select.EPOLLIN | select.EPOLLOUT)
            print(json.dumps({"begun": begun, "open": len(open_now), "closed": closed, "verified": verified + sum(c.back for c in open_now.values()),
                              "slowest": slowest, "wrong": wrong[:20], "broken": len(wrong)}), flush=True)
            if stopping and not open_now:
                return
        for number, events in epoll.poll(0.01):
            if number == sys.stdin.fileno():
                epoll.unregister(number)
                stopping = True
                continue
            c = open_now.get(number)
            if c is None:
                continue
            try:
                if events & ~select.EPOLLOUT and c.receive():
                    drop(c)
                    continue
                c.send()
                if stopping or count == sys.maxsize:
                    c.finish()
                # What is to be sent next is due at the next turn.
                more = c.sent < c.limit and c.sent - c.back < AHEAD
                epoll.modify(c.sock, select.EPOLLIN | (select.EPOLLOUT if more else 0))
            except BlockingIOError:
                continue
            except (OSError, ValueError) as e:
                drop(c, f"{type(e).__name__}: {e}")


def main(what, number, *more):
    if what == "serve":
        serve(int(number), more)
    to = (more[0], int(more[1]))
    if what == "hold":
        connect(to, int(number), 100)
    else:
        connect(to, sys.maxsize, float(number))


if __name__ == "__main__":
    main(*sys.argv[1:])
