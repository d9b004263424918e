"""Floods: what honest clients see meanwhile, against the same without."""

import subprocess
import time

import clients
import lab
from honest import Honest
from lab import VIP, check
from registry import test

QUIET, UNDER, AFTER = 6, 10, 2


class Flood:
    """The flood tool in the clients' namespace, until stopped; its rate in frames a second, or as fast as it can."""

    def __init__(self, t, d, kind, rate=None):
        # It stands for other machines: what it takes of this one's cores should not be the honest clients'.
        self.process = subprocess.Popen(
            ["nice", "-n", "10", lab.FLOOD, "--kind", kind, "--interface", "c0", "--to", d.mac(), "--target", f"{VIP}:443",
             "--count", "100000000", "--rate", str(int(rate or 10_000_000))],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        t.undo.append(self.stop)

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def flooded(t, kind, share=None):
    """Honest clients before, under and after a flood. With `share`, the flood is that part of what the dispatcher can take, which is
    measured first."""
    t.servers.want("nginx,nginx,haproxy")
    d = t.dispatcher()
    clients.fetch()
    rate = None
    if share:
        flood = Flood(t, d, kind)
        time.sleep(1)
        mark = d.mark()
        time.sleep(4)
        rate = share * d.taken_since(mark)
        flood.stop()
        time.sleep(1)
    honest = Honest(t)
    quiet = honest.during(QUIET)
    flood = Flood(t, d, kind, rate)
    time.sleep(0.5)
    mark, lost = d.mark(), d.stats()[1].get("rx-ring-full", 0)
    under = honest.during(UNDER)
    taken, lost = d.taken_since(mark), d.stats()[1].get("rx-ring-full", 0) - lost
    check(flood.process.poll() is None, "the flood ended")
    flood.stop()
    after = honest.during(AFTER)
    honest.finish()
    quiet, under, after = quiet.seen(), under.seen(), after.seen()
    check(taken > 5_000, f"{taken:.0f} frames a second are no flood")
    check(quiet.rate == 1 and after.rate == 1, f"without a flood: {quiet}; {after}; {(quiet.errors + after.errors)[:1]}")
    least = 1.0 if share else 0.99
    check(under.rate >= least, f"under the flood: {under}; {under.errors[:1]}")
    visits = len(honest.visits) + 1
    d.await_log(visits, 20)
    d.stop()
    opened = d.counter("flows opened")
    check(opened == visits, f"{opened} flows opened, of {visits} honest visits")
    return (f"{taken / 1000:.0f} k frames/s taken, {lost / UNDER / 1000:.0f} k/s lost in the ring; quiet: {quiet}; flooded: {under} "
            f"(p99 x{under.quantile(0.99) / quiet.quantile(0.99):.1f}); memory {d.peak >> 20} of {d.promised >> 20} MiB")


@test
def flood_syn_all(t):
    """Spoofed SYNs, as many as can be sent: at least 99 % of honest visits are served"""
    return flooded(t, "syn")


@test
def flood_syn_half(t):
    """Spoofed SYNs at half of what the dispatcher can take: every honest visit is served"""
    return flooded(t, "syn", 0.5)


@test
def flood_ack_all(t):
    """Guessed cookies, as many as can be sent: no flow is opened, at least 99 % of honest visits are served"""
    return flooded(t, "ack")


@test
def flood_ack_half(t):
    """Guessed cookies at half of what the dispatcher can take: every honest visit is served"""
    return flooded(t, "ack", 0.5)


@test
def flood_rst(t):
    """Resets from invented addresses at half of what the dispatcher can take"""
    return flooded(t, "rst", 0.5)


@test
def flood_fragments(t):
    """First fragments whose rest never comes, at half of what the dispatcher can take: nothing is kept of them"""
    return flooded(t, "fragment", 0.5)
