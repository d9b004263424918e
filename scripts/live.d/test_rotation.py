"""Servers that rotate their ticket keys: a new key seals, the old one still opens, then it is gone."""

import random
import time

import clients
import lab
from lab import check
from registry import test
from sessions import Returning, TicketKeys, census

SERVERS = 3
TTL = 10


def rotate(t, version):
    t.servers.want("nginx,nginx,nginx", {"1.2": "ticket", "1.3": "tls13"}[version])
    keys = TicketKeys(t, version)
    names = ["web1", "web2", "web3"]
    old = {n: keys.new() for n in range(1, SERVERS + 1)}
    for n in old:
        keys.set(n, old[n])
    d = t.dispatcher("--balance", "least-conn", "--session-ttl", f"{TTL}s")
    shuffled = random.Random(3)
    everyone = [Returning(version) for _ in range(12)]

    def all_return(who=everyone, keep=True):
        lines = []
        for client in shuffled.sample(who, len(who)):
            lines.append(client.visit(d, clients.address(shuffled.randrange(60)), keep))
        return lines

    def refusals(lines):
        """By the server whose session was offered."""
        count = dict.fromkeys(names, 0)
        for line in lines:
            if line["sealed"] and not line["resumed"]:
                count[line["sealed"]] += 1
        return count

    # Sessions, until each key was seen accepted.
    all_return()
    for _ in range(3):
        all_return()
    lines = all_return()
    check(not any(refusals(lines).values()), f"keys known, and refused: {refusals(lines)}")
    hexes = {key[:16].hex() for key in old.values()}
    # TLS 1.2 tickets that were seen before their name had proved to be one have rows of their own.
    by = {line["identity"] for line in lines if line["reason"] != "ticket"}
    check(by == hexes if version == "1.3" else by <= hexes, f"by key names: {by}")

    # A new key seals, the old one still opens. Some clients come back with what the old one sealed, more than once.
    new = {n: keys.new() for n in old}
    for n in old:
        keys.set(n, new[n], old[n])
    by_server = sorted(everyone, key=lambda client: client.sealed)
    patient, busy = by_server[::3], [c for i, c in enumerate(by_server) if i % 3]
    check({c.sealed for c in busy} == set(names), f"sessions of all: {[c.sealed for c in everyone]}")
    lines = all_return(patient, keep=False) + all_return(busy)
    check(not any(refusals(lines).values()), f"tickets of the old keys, refused: {refusals(lines)}")
    check(all(line["identity"] in hexes for line in lines if line["reason"] != "ticket"), "by the old keys' names")
    lines = []
    for _ in range(4):
        lines += all_return(busy)
        again = all_return(patient, keep=False)
        check(not any(refusals(again).values()), f"tickets of the old keys, refused later: {refusals(again)}")
    told = refusals(lines)
    # Of TLS 1.2 tickets the new key's name is seen when it seals.
    most = SERVERS - 1 if version == "1.3" else 0
    check(all(n <= most for n in told.values()), f"refusals of the new keys, at most {most} each: {told}")
    check(not any(refusals(all_return(busy)).values()), "the new keys are known")

    # Nobody brings the old ones any more. They are forgotten when their time is over, and the new ones are not.
    end = time.monotonic() + TTL + 0.5
    while time.monotonic() < end:
        check(not any(refusals(all_return(busy)).values()), "the new keys stay known")
        time.sleep(1)
    # The servers would open them still: that the table does not know them is all that shows.
    late = patient[0].visit(d, clients.address(1))
    check(late["decided"] is None, f"a row outlived its time: {late}")
    d.stop()
    rows = census(d)
    # One for each server that sealed what the clients bring: a refused client takes its next session from another server, so
    # in the end all of them may come from fewer.
    sealers = {client.sealed for client in busy}
    check(rows["key names"] == len(sealers), f"rows at the end: {rows}, sessions of {sealers}")
    check(d.find(r"(\d+) resumptions were refused by the very backend") is None, "no promise was broken")
    return (f"{sum(c.visits for c in everyone)} connections; refusals of new keys {list(told.values())} (at most {most} each), "
            f"of old ones 0; {rows['key names']} key names once the old were {TTL} s unused")


@test
def rotation_tls13(t):
    """nginx rotates ticket keys: TLS 1.3 costs at most N-1 refusals a new key, none of old tickets; dead keys expire"""
    return rotate(t, "1.3")


@test
def rotation_tls12(t):
    """nginx rotates ticket keys: no TLS 1.2 ticket is refused, old or new; dead keys expire"""
    return rotate(t, "1.2")
