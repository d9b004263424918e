"""What the dispatcher finds out of its servers by watching how they answer clients."""

import time

import lab
from asking import asked, meets, observed, visits
from fickle import Fickle
from lab import check
from registry import test


@test
def silent_failures(t):
    """Without checks: a server that takes connections and resets, closes or says nothing is taken out after a few clients, and used again when it is well"""
    told = []
    t.servers.want("nginx,nginx,haproxy")
    fickle = Fickle(t, "10.78.0.14", "web4")
    for mode in ("closes", "resets", "at once", "hangs"):
        fickle.become(mode)
        ctl, d = asked(t, backends=["web4=10.78.0.14:443"])
        # Several clients at a time: each from an address of its own.
        served = []
        # It is asked twice, a second apart: clients in between meet it.
        for _ in range(40):
            served += visits(20, timeout=3)
            if observed(ctl)["health"] == "down":
                break
            time.sleep(0.2)
        check(observed(ctl)["health"] == "down", f"{mode}: {served.count(None)} of {len(served)} clients failed, and it is {observed(ctl)}")
        fickle.become(mode)
        after = visits(60)
        check(None not in after, f"{mode}: {after.count(None)} of 60 clients failed when it was known")
        fickle.become("well")
        lab.wait_until(lambda: meets("web4"), 60, lambda: f"{mode}, and well again: {observed(ctl)}")
        told.append(f"{mode}: after {served.count(None)} of {len(served)}")
        d.stop()
    return "taken out, " + ", ".join(told) + " clients; none of 60 failed then; used again when well"


@test
def last_server_stays(t):
    """A server that fails all its clients is not taken out where it is the only one: they meet it, and are served as soon as it is well"""
    t.servers.want("nginx,nginx,haproxy")
    fickle = Fickle(t, "10.78.0.14", "web4", "closes")
    ctl, d = asked(t, backends=["web4=10.78.0.14:443"], others=0)
    served = visits(30, timeout=3)
    check(set(served) == {None} and fickle.others == 30, f"served by {set(served)}; {fickle.others} of 30 met it")
    fickle.become("well")
    check(visits(10) == ["web4"] * 10, "served when it is well")
    return "30 of 30 met it, and 10 of 10 were served when it was well"
