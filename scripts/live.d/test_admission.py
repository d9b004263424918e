"""Servers with limits: who waits, who goes first, and what those see who get no place."""

import concurrent.futures
import os
import subprocess
import threading
import time

import clients
import lab
from lab import STATE, VIP, WORK, check
from queue_clients import (A_WHILE, Visit, all_done, asks, curl, hold, is_silent, java, limited, log_of, python, release, reset, s_client, wait_for_turn,
                           wait_too_long)
from registry import test

PEER = os.path.join(os.path.dirname(lab.DISPATCHER), "tls-peer")


@test
def wait_for_a_place(t):
    """A server that is full: OpenSSL, curl, Python and Java wait, are acknowledged, see a window and nothing else, and are served when there is a place"""
    return wait_for_turn(t, [s_client, curl, python, java])


@test
def wait_in_vain(t):
    """Out of time: OpenSSL, curl, Python and Java read the alert internal_error, a client without TLS is reset, and who has the server notices nothing"""
    return wait_too_long(t, [s_client, curl, python, java])


class Counting:
    """A server that knows how many are at it. Answers what it reads, after some time, and waits for the client's end."""

    def __init__(self, t, address, seconds=0.0):
        self.seconds, self.lock = seconds, threading.Lock()
        self.now = self.most = self.all = 0
        t.server(address, 443, self.serve)

    def serve(self, connection, _):
        with self.lock:
            self.now, self.all = self.now + 1, self.all + 1
            self.most = max(self.most, self.now)
        try:
            got = connection.recv(65536)
            time.sleep(self.seconds)
            connection.sendall(b"%d bytes" % len(got))
            clients.read_all(connection)
        finally:
            with self.lock:
                self.now -= 1


def counted(t, *flags, limit="max-connections=1", seconds=0.0):
    t.servers.want("nginx,nginx,haproxy")
    server = Counting(t, "10.78.0.14", seconds)
    return server, t.dispatcher(*flags, args=lab.base_args([f"{VIP}:443"], ["only=10.78.0.14:443," + limit]))


@test
def leave_the_queue(t):
    """Who closes or resets while it waits never reaches the server, and the next one has its place"""
    server, d = counted(t, "--class", "rest,queue-timeout=40s")
    held = asks(clients.address(0))
    check(held.recv(100), "an answer to the first")
    gone = [asks(clients.address(1 + n)) for n in range(6)]
    stays = asks(clients.address(10))
    time.sleep(A_WHILE / 2)
    for n, s in enumerate(gone):
        reset(s) if n % 2 else s.close()
    lines = [log_of(d, clients.address(1 + n)) for n in range(6)]
    check(all(c["backend"] is None for c in lines), f"in the log: {[c['backend'] for c in lines]}")
    check(is_silent(stays), "who stays was told something")
    held.close()
    check(stays.recv(100), "an answer to who stayed")
    stays.close()
    d.await_log(8)
    check(server.all == 2, f"{server.all} connections came to the server, of two that had a reason to")
    return f"6 left, ends in the log {sorted({c['end'] for c in lines})}; the server saw 2 connections"


@test
def full_house(t):
    """When the last class's queue is full SYNs are not answered, and who asks again is served once there is a place"""
    server, d = counted(t, "--class", f"rest,queue={2 * lab.WORKERS},queue-timeout=40s")
    held = asks(clients.address(0))
    check(held.recv(100), "an answer to the first")
    waiting, refused = [], 0
    # With several workers each has a part of the queue.
    for n in range(1, 40):
        try:
            waiting.append(asks(clients.address(n), timeout=0.6))
        except TimeoutError:
            refused = n
            break
        # The queue's state is told to whom answers SYNs once a turn.
        time.sleep(0.1)
    check(refused, f"a SYN was answered with {len(waiting)} clients waiting")
    check(len(waiting) <= 2 * lab.WORKERS and waiting or lab.WORKERS > 1, f"{len(waiting)} wait")
    def is_served(s):
        with s:
            s.settimeout(30)
            return s.recv(100).decode()

    late = Visit(lambda source: is_served(asks(source, timeout=30)), clients.address(refused))
    time.sleep(A_WHILE)
    check(not late.is_done, f"{late}")
    held.close()
    # The newest may go first once the oldest has waited for too long.
    served = [Visit(lambda _, s=s: is_served(s), "one that waited") for s in waiting] + [late]
    all_done(served)
    check(all("bytes" in v.said for v in served), f"{[str(v) for v in served]}")
    d.stop()
    return f"{len(waiting)} waited; the next one connected by a repeated SYN, and was served {late.took:.1f} s after its first; drops {d.drops}"


@test
def never_above_a_limit(t):
    """Sixty clients at once at a server that takes three connections, and at one that takes one handshake: neither ever has more, and all are served"""
    server, d = counted(t, limit="max-connections=3", seconds=0.02)
    hello = clients.client_hello(clients.context())

    def one(n):
        with asks(clients.address(n), hello) as s:
            return s.recv(100)

    with concurrent.futures.ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(one, range(60)))
    check(all(answers), "not all were answered")
    check(server.most == 3, f"{server.most} connections at once, of three that are allowed")
    d.stop()
    # Handshakes: real ones, on a server that counts what it does at once.
    path = f"{WORK}/tls-peer.out"
    with open(path, "w") as out:
        peer = subprocess.Popen(["ip", "netns", "exec", lab.PREFIX + "-servers", PEER, "serve", "--listen", "10.78.0.15:443", "--cert", STATE + "/cert.pem",
                                 "--key", STATE + "/key.pem", "--slots", "1", "--full", "20", "--resumed", "5"], stdout=out)
    t.undo += [lambda: lab.remove(path), peer.wait, peer.kill]
    # Without handshakes of its own, which wait for nobody.
    d = t.dispatcher("--learn-keys", "off", args=lab.base_args([f"{VIP}:443"], ["peer=10.78.0.15:443,max-handshakes=10"]))
    with concurrent.futures.ThreadPoolExecutor(60) as pool:
        pages = list(pool.map(lambda n: clients.fetch(clients.address(n))[0], range(60)))
    check(pages == [b"rustls\n"] * 60, f"pages: {set(pages)}")
    lab.wait_until(lambda: "at once" in open(path).read(), 5, "what the server says of itself")
    most = max(int(line.split()[-1]) for line in open(path).read().splitlines())
    check(most == 1, f"{most} handshakes at once")
    waits = [c["waited_ms"] or 0 for c in d.await_log(60)]
    return f"3 connections at most, {server.all} in all; 1 handshake at a time of 60, the longest wait {max(waits)} ms"


def visitor(version="1.2"):
    """A client that has been at its server, and comes back with its session."""
    ctx = clients.context(version)
    return ctx, clients.fetch(clients.address(30), ctx)[1][0]


@test
def returning_goes_first(t):
    """With a strict class for those that resume, a client that comes back is served before those that have waited for longer"""
    d = limited(t, "--class", "back,kind=resumes,strict,queue-timeout=40s", "--class", "rest,queue-timeout=40s")
    ctx, session = visitor()
    held = hold(clients.address(0))
    order, lock = [], threading.Lock()

    def one(name, source, **how):
        body, (_, reused, _) = clients.fetch(source, **how)
        with lock:
            order.append(name + (" resumed" if reused else ""))
        return body.decode()

    visits = []
    for n in range(3):
        visits.append(Visit(lambda source: one("new", source), clients.address(1 + n)))
    lab.wait_until(lambda: (d.flows() or 0) >= 4, 10, "three that wait")
    visits.append(Visit(lambda source: one("back", source, ctx=ctx, session=session), clients.address(31)))
    lab.wait_until(lambda: (d.flows() or 0) >= 5, 10, "four that wait")
    time.sleep(0.3)
    check(not order, f"not made to wait: {order}")
    release(held)
    all_done(visits)
    check(order == ["back resumed", "new", "new", "new"], f"served in the order {order}")
    line = log_of(d, clients.address(31))
    return f"served: {', '.join(order)}; the one that came back waited {line['waited_ms']} ms"


@test
def spill(t):
    """Its own server full, a client that comes back takes another after --spill-after and finds its own again later; with `never` it waits for its own"""
    both = ("web1=10.78.0.11:443", "web2=10.78.0.12:443")
    told = []
    for after in ("50ms", "never"):
        d = limited(t, "--spill-after", after, "--class", "rest,queue-timeout=40s", "--balance", "round-robin", backends=both)
        ctx = clients.context("1.2", tickets=False)
        body, (session, _, _) = clients.fetch(clients.address(30), ctx)
        mine = body.split()[0].decode()
        d.await_log(1)
        # Whoever is at the other one goes again.
        held = [hold(clients.address(n)) for n in range(2)]
        # Which of both is at its own says its page.
        for s in held:
            s.sendall(b"GET / HTTP/1.1\r\nHost: lab.example.test\r\n\r\n")
        pages = [s.recv(65536).decode() for s in held]
        own = next(n for n, page in enumerate(pages) if mine in page)
        held[1 - own].close()
        log_of(d, clients.address(1 - own))
        back = Visit(lambda source: repr(clients.fetch(source, ctx, session=session)), clients.address(31))
        if after == "never":
            time.sleep(A_WHILE)
            check(not back.is_done, f"it did not wait for its own: {back}")
            held[own].close()
        all_done([back])
        line = log_of(d, clients.address(31))
        check(line["decided"] == mine and (line["backend"] == mine) == (after == "never") == line["resumed"] and line["spilled"] == (after != "never"),
              f"with {after}, at home at {mine}: {line}")
        if after != "never":
            held[own].close()
            log_of(d, clients.address(own))
        _, (_, reused, _) = clients.fetch(clients.address(32), ctx, session=session)
        check(reused and log_of(d, clients.address(32))["backend"] == mine, "its row was moved")
        told.append(f"with {after} {'elsewhere' if line['spilled'] else 'at home'} after {line['waited_ms']} ms")
        d.stop()
    return ", ".join(told) + "; at home again both times"


@test
def large_hellos_wait(t):
    """Hellos of two and of seven segments wait as others do, whole, and those in pieces that come while their client waits"""
    d = limited(t, "--class", "rest,queue-timeout=40s")
    held = hold(clients.address(0))
    visits = []
    for n, names in enumerate((0, 30, 170)):
        ctx = clients.context()
        # Names that no server speaks: they choose none.
        ctx.set_alpn_protocols(["http/1.1"] + [f"no-such-protocol-{i:03}" + "x" * 40 for i in range(names)])
        visits.append(Visit(lambda source, ctx=ctx: clients.fetch(source, ctx)[0].decode(), clients.address(1 + n)))
    time.sleep(A_WHILE)
    check(not any(v.is_done for v in visits), f"not made to wait: {[str(v) for v in visits if v.is_done]}")
    release(held)
    all_done(visits)
    check(all("web1" in v.said for v in visits), f"{[str(v) for v in visits]}")
    sizes = [log_of(d, v.source)["bytes_to_server"] for v in visits]
    return f"served; {', '.join(map(str, sizes))} bytes to the server"
