"""Servers behind a tunnel: what the wire to them shows."""

import os
import signal
import subprocess
import time

import clients
import lab
from lab import PREFIX, check
from registry import test
from test_bodies import both_ways


class Watch:
    """What passes the servers' wire, as tcpdump counts it, by filter."""

    def __init__(self, filters):
        self.found = {}
        for name, what in filters.items():
            path = f"{lab.WORK}/wire.{name}.pcap"
            process = subprocess.Popen(
                ["ip", "netns", "exec", PREFIX + "-servers", "tcpdump", "-i", "s0", "-p", "-n", "-s", "64", "-U", "-w", path, "-Z", "root", what],
                stderr=subprocess.PIPE, text=True)
            self.found[name] = (process, path)
        for process, _ in self.found.values():
            # It says when it listens.
            while "listening on" not in process.stderr.readline():
                check(process.poll() is None, "tcpdump did not start")

    def counts(self):
        time.sleep(0.2)
        counts = {}
        for name, (process, path) in self.found.items():
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=10)
            said = subprocess.run(["tcpdump", "-r", path, "--count"], capture_output=True, text=True, check=True).stdout
            counts[name] = int(said.split()[0])
            os.unlink(path)
        return counts


@test
def tunnel_wire(t):
    """Through a tunnel: hellos of two full segments and 100 MB both ways; nothing but the tunnel on the wire, no fragment, no ICMP, nothing too long"""
    if lab.PATH == "direct":
        return "not tried: it needs --path"
    t.servers.want("nginx,nginx,nginx")
    watch = Watch({
        "tunnel": "udp port 4789",
        "other": "not udp port 4789 and not arp and not icmp6",
        "fragments": "ip[6:2] & 0x3fff != 0",
        "icmp": "icmp",
        "long": "greater 1515",
    })
    d = t.dispatcher()
    ctx = clients.context("1.3")
    # As post-quantum shares make it: two segments of any size that was told, full.
    ctx.set_alpn_protocols([f"x-protocol-number-{i:07}" for i in range(105)] + ["http/1.1"])
    size = len(clients.client_hello(ctx))
    check(2 * 1398 < size < 2 * 1398 + 1398, f"a hello of {size} bytes")
    for i in range(6):
        clients.fetch(clients.address(i), ctx)
    d.stop()
    seen = both_ways(t, "https", ["--tlsv1.3"])
    counts = watch.counts()
    # A hundred megabytes each way, in segments of less than 1,400 bytes.
    check(counts["tunnel"] > 140_000, f"packets in the tunnel: {counts}")
    check(all(n == 0 for name, n in counts.items() if name != "tunnel"), f"on the wire: {counts}")
    return f"{counts['tunnel']} packets of the tunnel, nothing else; {seen}"
