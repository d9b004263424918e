"""Connections that run and connections that are idle while one dispatcher takes over from another. Run as a program, among the servers and among the clients.

  takeover_peers.py serve PORT ADDRESS...        what is asked for in a connection's first line: `run BYTES MS`, so many bytes every so many milliseconds; `echo`, what comes
  takeover_peers.py load RUNNING IDLE PULSES ADDRESS PORT
                                                 so many transfers that run, connections that say something when told to, and connections that get ten bytes each millisecond, by
                                                 which gaps are seen

What clients read is compared with what servers were to send, byte by byte. `load` prints a line of JSON for each word on its standard input: `look` (how it goes), `ask` (idle ones
say something, and get it back), `end`. Times are those of CLOCK_MONOTONIC.
"""

import errno
import json
import random
import select
import socket
import sys
import time

BYTES = random.Random(11).randbytes(1 << 16)
SOURCES = [f"10.77.0.{n}" for n in range(101, 161)]
EVERY, PIECE = 200, 2000
PULSE = 10


def piece(at, count):
    at %= len(BYTES)
    found = BYTES[at : at + count]
    while len(found) < count:
        found += BYTES[: count - len(found)]
    return found


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
    # By interval, milliseconds: whom to send something, in as many groups as there are milliseconds, so that not all have their turn at once.
    groups, turn = {}, 0
    while True:
        now = int(time.monotonic() * 1000)
        # What was missed is made up for only as far as that goes: nobody's clock is perfect.
        for ms in range(max(turn + 1, now - 50), now + 1):
            for every, all_groups in groups.items():
                for number in list(all_groups[ms % every]):
                    peer = peers.get(number)
                    if peer is None:
                        all_groups[ms % every].discard(number)
                        continue
                    s, state = peer
                    try:
                        state["sent"] += s.send(piece(state["sent"], state["bytes"]))
                    except BlockingIOError:
                        pass
                    except OSError:
                        all_groups[ms % every].discard(number)
                        peers.pop(number)
                        s.close()
        turn = now
        for number, events in epoll.poll(0.0005):
            if number in listeners:
                s = listeners[number].accept()[0]
                s.setblocking(False)
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peers[s.fileno()] = (s, {"sent": 0, "echo": False, "bytes": 0})
                epoll.register(s, select.EPOLLIN)
                continue
            if number not in peers:
                continue
            s, state = peers[number]
            try:
                got = s.recv(1 << 16)
                if not got:
                    raise ConnectionResetError
                if state["echo"]:
                    s.sendall(got)
                elif got.startswith(b"run "):
                    count, every = (int(word) for word in got.split()[1:3])
                    state["bytes"] = count
                    groups.setdefault(every, [set() for _ in range(every)])[number % every].add(number)
                elif got.startswith(b"echo"):
                    state["echo"] = True
                    s.sendall(b"ready")
            except BlockingIOError:
                pass
            except OSError:
                peers.pop(number, None)
                epoll.unregister(s)
                s.close()


class Connection:
    def __init__(self, number, kind, to):
        self.kind, self.sock = kind, socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.bind((SOURCES[number % len(SOURCES)], 0))
        self.got, self.last, self.asked, self.questions, self.begun, self.waits = 0, None, b"", 0, False, False
        code = self.sock.connect_ex(to)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, "connect")

    def begin(self):
        self.begun = True
        self.sock.send({"run": b"run %d %d\n" % (PIECE, EVERY), "pulse": b"run %d 1\n" % PULSE, "idle": b"echo\n"}[self.kind])


def load(running, idle, pulses, to):
    epoll, all_now, wrong, gaps = select.epoll(), {}, [], []
    kinds = ["run"] * running + ["idle"] * idle + ["pulse"] * pulses
    number, asked, verified, answered = 0, 0, 0, 0
    epoll.register(sys.stdin.fileno(), select.EPOLLIN | select.EPOLLHUP)
    words, ending = "", False
    slowest_answer, asked_at = 0.0, 0.0

    def told():
        nonlocal gaps
        print(json.dumps({"open": len(all_now), "begun": number, "verified": verified, "answered": answered, "asked": asked,
                          "moving": sum(1 for c in all_now.values() if c.got), "slowest_answer": slowest_answer, "wrong": wrong[:10], "broken": len(wrong), "gaps": gaps}), flush=True)
        gaps = []

    def drop(c, why):
        wrong.append(f"{c.kind} connection behind {c.got} bytes: {why}")
        del all_now[c.sock.fileno()]
        c.sock.close()

    while True:
        for _ in range(min(20, len(kinds) - number)):
            c = Connection(number, kinds[number], to)
            number += 1
            all_now[c.sock.fileno()] = c
            epoll.register(c.sock, select.EPOLLOUT)
        for fd, events in epoll.poll(0.01 if number < len(kinds) else 0.1):
            if fd == sys.stdin.fileno():
                more = sys.stdin.readline()
                word = more.strip()
                if word == "ask":
                    asked_at, slowest_answer = time.monotonic(), 0.0
                    for c in list(all_now.values()):
                        if c.kind == "idle":
                            # Whoever has not had his last answer yet gets it first.
                            new = piece(asked * 97, 64)
                            c.asked, c.questions, asked = c.asked + new, c.questions + 1, asked + 1
                            try:
                                c.sock.send(new)
                            except OSError as e:
                                drop(c, e)
                    told()
                elif word == "look":
                    told()
                else:
                    told()
                    return
                continue
            c = all_now.get(fd)
            if c is None:
                continue
            try:
                if not c.begun:
                    code = c.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if code:
                        raise OSError(code, "connect")
                    c.begin()
                    epoll.modify(c.sock, select.EPOLLIN)
                    continue
                got = c.sock.recv(1 << 16)
                now = time.monotonic()
                if not got:
                    raise ValueError("an end that nobody asked for")
                if c.kind == "idle":
                    if c.got == 0 and got == b"ready":
                        c.got = 5
                    elif c.asked.startswith(got):
                        c.asked = c.asked[len(got) :]
                        c.got += len(got)
                        if not c.asked:
                            answered, c.questions = answered + c.questions, 0
                            slowest_answer = max(slowest_answer, now - asked_at)
                    else:
                        raise ValueError("wrong bytes")
                    continue
                if got != piece(c.got, len(got)):
                    raise ValueError("wrong bytes")
                c.got += len(got)
                verified += len(got)
                if c.kind == "pulse":
                    if c.last is not None and now - c.last > 0.003:
                        gaps.append((round(c.last, 6), round(now - c.last, 6)))
                    c.last = now
            except BlockingIOError:
                pass
            except (OSError, ValueError) as e:
                drop(c, e)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]), sys.argv[3:])
    else:
        load(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), (sys.argv[5], int(sys.argv[6])))
