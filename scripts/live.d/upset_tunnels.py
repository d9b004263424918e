"""Tunnels whose packets are sealed, when time passes, or does not as it should."""

import json
import os
import threading
import time

import clients
import lab
from asking import asked, tunnels
from honest import Honest
from lab import STATE, by, check
from registry import test
from test_bodies import bodies


@test
def tunnel_keys_anew(t):
    """Over four minutes of visits and transfers through a tunnel its keys are made anew twice: nobody sees anything of it"""
    t.servers.want("nginx,nginx,nginx")
    by(t, "wireguard")
    ctl, d = asked(t)
    lab.wait_until(lambda: all(one["state"] == "up" for one in tunnels(ctl)), 20, "tunnels up")
    honest, whole = Honest(t), os.path.getsize(STATE + "/1M")
    stopping, transfers, wrong = threading.Event(), [], []

    def transfer(n):
        while not stopping.is_set():
            began = time.monotonic()
            try:
                body, _ = clients.fetch(clients.address(n), request=clients.GET.replace(b"GET /", b"GET /1M", 1))
                transfers.append(time.monotonic() - began)
                if len(body) != whole:
                    wrong.append(f"{len(body)} bytes")
            except Exception as e:
                wrong.append(f"{type(e).__name__}: {e}")
            time.sleep(0.05)

    threads = [threading.Thread(target=transfer, args=(n,), daemon=True) for n in range(2)]
    for thread in threads:
        thread.start()
    phase = honest.during(240)
    stopping.set()
    for thread in threads:
        thread.join()
    honest.finish()
    seen, told = phase.seen(), tunnels(ctl)
    d.stop()
    check(all(one["handshakes"] >= 3 for one in told), f"handshakes: {[one['handshakes'] for one in told]}")
    check(seen.rate == 1 and not wrong, f"{seen}; {seen.errors[:1]} {wrong[:2]}")
    check(seen.times[-1] < 1.5 and max(transfers) < 3, f"the slowest visit {seen.times[-1]:.2f} s, transfer {max(transfers):.2f} s")
    lost = {name: n for name, n in d.drops.items() if name.startswith("tunnel-")}
    check(not lost, f"drops {lost}")
    return f"handshakes {[one['handshakes'] for one in told]}; {seen}; {len(transfers)} transfers, the slowest {max(transfers):.2f} s"


@test
def tunnel_clock(t):
    """A dispatcher whose clock was ahead, started anew with a true one: its handshakes are too old for the far end, which is told with what else it may be; when the far end forgets, all goes on"""
    library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
    t.servers.want("nginx,nginx,nginx")
    by(t, "wireguard")
    d = t.dispatcher(environment={"LD_PRELOAD": library, "FAKETIME": "+1d", "DONT_FAKE_MONOTONIC": "1"})
    lab.wait_until(lambda: clients.fetch(clients.address(0))[0].startswith(b"web"), 20, "a visit, a day ahead")
    d.stop()
    ctl, d = asked(t)
    lab.wait_until(lambda: all(one["state"] == "down" for one in tunnels(ctl)), 30, lambda: f"tunnels down: {tunnels(ctl)}")
    note = ctl("show", "tunnels")
    check("has seen a later clock of ours" in note, note)
    lab.wait_until(lambda: "has seen a later clock of ours" in ctl("events"), 5, lambda: f"an event: {ctl('events')}")
    # As an operator would: the far end's memory of our clock goes with the peer.
    lab.lab("far", "stop")
    lab.lab("far", "start")
    lab.wait_until(lambda: all(one["state"] == "up" for one in tunnels(ctl)), 20, lambda: f"tunnels up: {tunnels(ctl)}")
    check(clients.fetch(clients.address(0))[0].startswith(b"web"), "a visit")
    d.stop()
    return "refused, told, and up when the far end had forgotten"


def spent(pid):
    """Seconds of processor time, of all threads."""
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@test
def tunnel_cost(t):
    """Bodies of 100 MB down through a tunnel: the processor time a gigabyte takes here, and wireguard-go's at the other end, for the same packets in the same run"""
    t.servers.want("nginx,nginx,nginx")
    by(t, "wireguard")
    sums, rounds = bodies(), int(os.environ.get("LIVE_ROUNDS") or 5)
    with open(f"{STATE}/tunnel.pid") as f:
        far = int(f.read())
    ctl, d = asked(t, "--idle", "sleep")
    lab.wait_until(lambda: all(one["state"] == "up" for one in tunnels(ctl)), 20, "tunnels up")
    ours = int(json.loads(ctl("show", "--json"))["pid"])
    before, moved = (spent(ours), spent(far)), 0
    for n in range(rounds):
        got = clients.Download(f"https://{clients.NAME}/body-100M", "--tlsv1.3", source=clients.address(n))
        check(got.sum == sums["100M"], "other bytes")
        moved += got.size
    here, there = (after - was for after, was in zip((spent(ours), spent(far)), before))
    d.stop()
    check(there > 0.5, f"wireguard-go spent {there:.2f} s: too little to compare with")
    return f"{here * 1e9 / moved:.1f} s a gigabyte here, {there * 1e9 / moved:.1f} s there: {here / there:.2f} of it"
