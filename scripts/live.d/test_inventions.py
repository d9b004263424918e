"""Identities that nobody issued, by the thousand."""

import os
import socket
import struct
import threading

import clients
import lab
from lab import check
from made_hello import hello
from registry import test
from sessions import TicketKeys, census

# INVENTIONS in the environment for more.
INVENTED = int(os.environ.get("INVENTIONS", "4000"))
THREADS = 4


@test
def inventions(t):
    """A flood of invented IDs, tickets and PSK identities: no table grows, no live row goes, the others still resume"""
    t.servers.want("nginx,nginx,nginx")
    keys = TicketKeys(t, "1.3")
    live = {n: keys.new() for n in (1, 2, 3)}
    for n in live:
        keys.set(n, live[n])
    # With few rows, so that they would be missed.
    d = t.dispatcher("--balance", "least-conn", "--session-capacity", "1024")
    honest = [(clients.context(*how), [None]) for how in [("1.2", False), ("1.2", True), ("1.3", True)] for _ in range(6)]

    def visit(round_):
        """All honest ones; how many were resumed."""
        resumed = 0
        for i, (ctx, held) in enumerate(honest):
            _, (held[0], reused, _) = clients.fetch(clients.address(round_ * 7 + i * 3), ctx, session=held[0])
            resumed += reused
        return resumed

    for round_ in range(5):
        before = visit(round_)
    check(before == len(honest), f"{before} of {len(honest)} resume before")
    names = [key[:16] for key in live.values()]
    shapes = [
        lambda i: hello(session_id=os.urandom(32)),
        lambda i: hello(session_id=os.urandom(32), ticket=os.urandom(180)),
        lambda i: hello(session_id=os.urandom(32), psk=os.urandom(180)),
        # With the names of keys that are alive, which anybody has who has a session.
        lambda i: hello(session_id=os.urandom(32), ticket=names[i % 3] + os.urandom(164)),
        lambda i: hello(session_id=os.urandom(32), psk=names[i % 3] + os.urandom(164)),
    ]
    answered, errors = [0] * THREADS, []

    def flood(me):
        for i in range(INVENTED // THREADS):
            shape = (i + me) % len(shapes)
            # Forged names come from one client; the others from all addresses.
            source = "10.77.0.2" if shape >= 3 else clients.address(i)
            try:
                s = clients.connect(source=source)
                s.sendall(shapes[shape](i))
                answered[me] += s.recv(4096)[:1] == b"\x16"
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                s.close()
            except OSError as e:
                errors.append(f"{type(e).__name__}: {e}")

    threads = [threading.Thread(target=flood, args=(me,)) for me in range(THREADS)]
    for thread in threads:
        thread.start()
    returns = resumed = 0
    while any(thread.is_alive() for thread in threads):
        round_ += 1
        resumed += visit(round_)
        returns += len(honest)
    for thread in threads:
        thread.join()
    check(not errors, f"{len(errors)} of the flood failed: {errors[:1]}")
    check(sum(answered) == INVENTED // THREADS * THREADS, f"{sum(answered)} answers")
    check(resumed == returns, f"{resumed} of {returns} honest ones resumed during the flood")
    after = visit(round_ + 1)
    check(after == len(honest), f"{after} of {len(honest)} resume after")
    d.stop()
    rows = census(d)
    check(rows["key names"] == 3, f"{rows}")
    # One row for each honest ID; tickets that were seen before their key's name was known have their own.
    check(rows["session ids"] == 6 and rows["tickets"] <= 6 and rows["prefixes seen once"] <= 3, f"{rows}")
    check(rows["refused keys"] <= 256 * lab.WORKERS, f"{rows}")
    check(d.find(r"(\d+) live sessions gave way") is None, "no live row went")
    return f"{sum(answered)} inventions answered; {resumed} of {returns} honest returns resumed meanwhile; rows {rows}"
