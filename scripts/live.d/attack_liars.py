"""Clients that know how sessions are learned, and lie: from one IPv6 /64 and two IPv4 addresses, while honest clients keep theirs."""

import os
import random
import socket
import struct
import subprocess
import threading

import clients
import lab
from lab import VIP, VIP6, check
from made_hello import extension, hello
from made_psk import Handshake, Own, next_message, selects_psk
from registry import test
from sessions import TicketKeys, census

# Connections of the liar in each test; LIARS in the environment for more.
LIES = int(os.environ.get("LIARS", "3000"))
THREADS = 4
V4 = ("10.66.1.1", "10.66.2.1")
V6 = tuple(f"fd66::{n}" for n in range(1, 7))
SOURCES = V4 + V6
CIPHER12 = "ECDHE-RSA-AES128-GCM-SHA256"


def addresses(t):
    """The liar's addresses, for as long as the test lasts."""
    for source in SOURCES:
        both = ["addr", f"{source}/{64 if ':' in source else 32}", "dev", "c0"]
        subprocess.run(["ip", both[0], "add", *both[1:], *(["nodad"] if ":" in source else [])], check=True, capture_output=True)
        t.undo.append(lambda both=both: subprocess.run(["ip", both[0], "del", *both[1:]], capture_output=True))


def vip(source):
    return VIP6 if ":" in source else VIP


class Honest:
    """Clients of both families, each with the session it got last. From its home a client is led to its server even where nothing is
    known, because it is balanced by its address; from elsewhere only the tables lead it there."""

    def __init__(self, d, kinds, each=6):
        self.d, self.who, self.round = d, [], 0
        for kind in kinds:
            for n in range(each):
                self.who.append([n % 2, clients.context(*kind), None, None])
        # Sessions, and what is to be known of their servers' keys.
        for _ in range(4):
            self.visit(away=False)
        self.check("before the lies")

    def visit(self, away):
        """All of them once: how many were resumed, and how many of these elsewhere than the last time."""
        resumed = moved = 0
        self.round += 1
        for n, client in enumerate(self.who):
            v6, ctx, session, where = client
            source = (clients.address6 if v6 else clients.address)(3 * n + (7 * self.round if away else 0))
            body, (client[2], reused, _) = clients.fetch(source, ctx, vip=vip(source), session=session)
            # The page of openssl is another each time.
            body = body if body.startswith(b"web") else b"openssl"
            resumed += reused
            moved += reused and body != where
            client[3] = body
        return resumed, moved

    def check(self, when, away=True):
        """All are resumed where they were."""
        resumed, moved = self.visit(away)
        check(resumed == len(self.who) and not moved, f"{when}: {resumed} of {len(self.who)} resumed, {moved} of them elsewhere")
        return resumed


def lies(talk, count=LIES):
    """`talk(i, source, rng)` so often, in threads; how often it was true, and what went wrong."""
    well, errors = [0] * THREADS, []

    def run(me):
        rng = random.Random(me)
        for i in range(me, count, THREADS):
            try:
                well[me] += bool(talk(i, SOURCES[i // THREADS % len(SOURCES)], rng))
            except OSError as e:
                errors.append(f"{type(e).__name__}: {e}")

    threads = [threading.Thread(target=run, args=(me,)) for me in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(well), errors


def leave(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def true_names(rows, servers):
    """What is known of keys is no more than there are keys."""
    known = rows["key names"] + rows["prefixes seen once"]
    check(0 < rows["key names"] and known <= servers, f"{known} names of {servers} keys: {rows}")


def invented(i):
    """Two of each name, so that it would prove to be one."""
    return b"invented" + struct.pack(">Q", i // (2 * THREADS)) + os.urandom(144)


@test
def retry_swaps_identity(t):
    """A HelloRetryRequest, then another identity than before, a good one: nothing is learned of the first"""
    t.servers.want("nginx,nginx,openssl", "tls13")
    addresses(t)
    d = t.dispatcher()
    honest = Honest(d, [("1.3", True)] * 3)
    own = {source: Own(source, vip(source)) for source in SOURCES}
    live = [session.ticket[:16] for session in own.values()]

    def talk(i, source, rng):
        s = clients.connect(vip(source), source=source)
        h = Handshake()
        # An invention, or garbage under a living name.
        s.sendall(h.hello(invented(i) if i % 8 < 6 else rng.choice(live) + os.urandom(144), share=False))
        answer = next_message(s)
        accepted = False
        if answer and h.asked_again(answer):
            s.sendall(h.hello(own=own[source]))
            accepted = selects_psk(next_message(s))
        leave(s)
        return accepted

    accepted, errors = lies(talk)
    resumed = honest.check("after the lies")
    d.stop()
    rows = census(d)
    # Garbage under a name leads to that key's server, where the liar's session may be unknown.
    check(accepted > LIES * 6 // 10 and len(errors) < LIES // 100, f"{accepted} of {LIES} second hellos accepted; {errors[:1]}")
    # Two of nginx, and openssl has one process for each family.
    true_names(rows, 4)
    check(rows["session ids"] == rows["tickets"] == 0, f"{rows}")
    return f"{accepted} of {LIES} accepted by the second hello; {resumed} honest ones resume as before; rows {rows}"


@test
def ticket_beside_id(t):
    """Invented tickets beside session IDs that are resumed: none becomes a row, and no honest row goes for one"""
    t.servers.want("nginx,nginx,openssl", "session-id")
    addresses(t)
    # With few rows, so that they would be missed.
    d = t.dispatcher("--session-capacity", "1024")
    honest = Honest(d, [("1.2", False)] * 3)
    own = {}
    for source in SOURCES:
        ctx = clients.context("1.2", False)
        ctx.set_ciphers(CIPHER12)
        _, (session, _, _) = clients.fetch(source, ctx, vip=vip(source))
        own[source] = session.id

    def talk(i, source, _):
        s = clients.connect(vip(source), source=source)
        # Such sessions have an extended master secret.
        s.sendall(hello(session_id=own[source], ticket=invented(i), more=extension(23, b"")))
        answer = next_message(s)
        leave(s)
        return answer and answer[0] == 2 and answer[39:39 + answer[38]] == own[source]

    resumed_too, errors = lies(talk)
    resumed = honest.check("after the lies")
    d.stop()
    rows = census(d)
    check(resumed_too > LIES * 9 // 10 and len(errors) < LIES // 100, f"{resumed_too} of {LIES} IDs resumed; {errors[:1]}")
    check(rows["session ids"] == len(honest.who) + len(own), f"a row for each ID: {rows}")
    check(rows["tickets"] == rows["key names"] == rows["prefixes seen once"] == 0, f"{rows}")
    return f"{resumed_too} of {LIES} resumed by the ID; {resumed} honest ones resume as before; rows {rows}"


@test
def forged_refusals(t):
    """Garbage under the names of living keys, and of a new one before anybody used it: none is forgotten, nobody is led elsewhere"""
    t.servers.want("nginx,nginx,nginx", "tls13")
    addresses(t)
    keys = TicketKeys(t, "1.3")
    live = {n: keys.new() for n in (1, 2, 3)}
    for n in live:
        keys.set(n, live[n])
    d = t.dispatcher()
    honest = Honest(d, [("1.3", True)] * 3)
    names = [key[:16] for key in live.values()]

    def talk(_, source, rng):
        s = clients.connect(vip(source), source=source)
        s.sendall(Handshake().hello(rng.choice(names) + os.urandom(144)))
        answer = next_message(s)
        leave(s)
        return answer and answer[0] == 2 and not selects_psk(answer)

    refused, errors = lies(talk, LIES // 2)
    resumed = honest.check("after the first half")
    # New keys, which he knows first: once each, and then as often as he can.
    new = {n: keys.new() for n in live}
    for n in live:
        keys.set(n, new[n], live[n])
    for name in [key[:16] for key in new.values()]:
        for source in V4 + V6[:2]:
            names = [name]
            refused += bool(talk(0, source, random))
    resumed += honest.check("by the old keys, which still open", away=False)
    resumed += honest.check("by new keys that nobody used before", away=False)
    names = [key[:16] for key in new.values()]
    more, others = lies(talk, LIES - LIES // 2)
    refused, errors = refused + more, errors + others
    resumed += honest.check("by the new keys, after the lies", away=False)
    d.stop()
    rows = census(d)
    check(refused > LIES * 9 // 10 and len(errors) < LIES // 100, f"{refused} of {LIES} refused; {errors[:1]}")
    true_names(rows, 6)
    check(rows["session ids"] == rows["tickets"] == 0, f"{rows}")
    return f"{refused} of {LIES} refused; {resumed} of {resumed} honest returns resumed, over new keys; rows {rows}"


@test
def stalled_handshakes(t):
    """More handshakes that stand still than answers are watched: the next honest sessions are learned all the same"""
    t.servers.want("nginx,nginx,nginx", "session-id")
    addresses(t)
    d = t.dispatcher()
    honest = Honest(d, [("1.2", False)] * 3)
    stalled = max(LIES, 4096 + 200)
    held = []
    t.undo.append(lambda: [s.close() for s in held])

    def talk(i, source, _):
        s = clients.connect(vip(source), source=source)
        held.append(s)
        s.sendall(hello(session_id=b""))
        return s.recv(1) == b"\x16"

    answered, errors = lies(talk, stalled)
    flows = d.flows()
    # New sessions, which come back from another address: only the table knows them.
    new = [(n, clients.context("1.2", False)) for n in range(12)]
    got = [clients.fetch(clients.address(n * 5), ctx)[1][0] for n, ctx in new]
    back = [clients.fetch(clients.address(n * 5 + 31), ctx, session=got[n])[1][1] for n, ctx in new]
    check(sum(back) == len(new), f"{sum(back)} of {len(new)} new sessions resume from another address, while {flows} flows stand")
    resumed = honest.check("among stalled handshakes")
    for s in held:
        leave(s)
    d.stop()
    rows = census(d)
    check(answered > stalled * 9 // 10 and len(errors) < stalled // 100, f"{answered} of {stalled} answered; {errors[:1]}")
    check(rows["session ids"] == len(honest.who) + len(new), f"a row for each session: {rows}")
    return f"{answered} of {stalled} stalled in their handshakes; {sum(back)} new sessions and {resumed} old ones resume; rows {rows}"
