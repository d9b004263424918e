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


@test
def tunnel_config(t):
    """What `dispatcher tunnel config` prints, typed on a server, gives the tunnel its other end: requests pass, both ways through it"""
    mac, outer, inner = "02:00:00:00:99:0b", "10.78.0.11", "10.99.0.11"
    text = f"""
[[port]]
name = "wan"
driver = "af-packet:wan"
ip = ["10.77.0.1/24"]
[[port]]
name = "lan"
driver = "af-packet:lan"
ip = ["10.78.0.1/24", "10.99.0.1/24"]
[[service]]
name = "web"
listen = ["{lab.VIP}:80"]
pool = "web"
[pool.web]
backend = [
  {{ name = "web1", address = "{inner}:80", tunnel = {{ kind = "vxlan", endpoint = "{outer}", vni = 99, mac = "{mac}" }} }},
  {{ name = "web2", address = "10.99.0.12:80", tunnel = {{ kind = "gue", endpoint = "10.78.0.12" }} }},
  {{ name = "web3", address = "10.78.0.13:80" }},
]
"""
    path = f"{lab.WORK}/tunnels.toml"
    with open(path, "w") as f:
        f.write(text)
    ask = [*lab.lab_namespace("dispatcher"), lab.DISPATCHER, "tunnel", "config"]
    said = subprocess.run([*ask, "web1", "--config", path], capture_output=True, text=True)
    check(said.returncode == 0, said.stderr)
    commands, networkd = said.stdout.split("\n# Or, to last:\n")
    t.undo.append(lambda: subprocess.run([*lab.lab_namespace("servers"), "ip", "link", "del", "dispatcher0"], check=True))
    lab.in_servers("sh", "-ec", commands)
    check("VNI=99" in networkd and f"MACAddress={mac}" in networkd, networkd)
    other = subprocess.run([*ask, "web2", "--config", path], capture_output=True, text=True).stdout
    check("ip fou add port 6080 gue" in other and "encap-dport 6080" in other, other)
    for name, why in (("web3", "backend web3 has no tunnel"), ("web4", "no backend is called web4")):
        refused = subprocess.run([*ask, name, "--config", path], capture_output=True, text=True)
        check((refused.returncode, refused.stderr.strip()) == (2, f"dispatcher: {why}"), refused.stderr)
    server = subprocess.Popen([*lab.lab_namespace("servers"), "/usr/bin/python3", "-m", "http.server", "--bind", inner, "--directory", lab.STATE, "80"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    t.undo.append(lambda: (server.kill(), server.wait()))
    direct = [*lab.lab_namespace("servers"), "curl", "-s", "-m", "2", "-o", "/dev/null", f"http://{inner}/"]
    lab.wait_until(lambda: subprocess.run(direct).returncode == 0, 20, "the server")
    watch = Watch({"tunnel": "udp port 4789", "plain": f"tcp and host {inner}"})
    ports = [f"wan={lab.DRIVER}:{lab.device('wan')},ip=10.77.0.1/24", f"lan={lab.DRIVER}:lan,ip=10.78.0.1/24,ip=10.99.0.1/24"]
    backend = f"web1={inner}:80,tunnel=vxlan,tunnel-endpoint={outer},tunnel-vni=99,tunnel-mac={mac}"
    d = t.dispatcher(args=["--port", ports[0], "--port", ports[1], "--vip", f"{lab.VIP}:80", "--backend", backend, "--workers", str(lab.WORKERS)])

    def served():
        got = subprocess.run(["curl", "-s", "-m", "2", "-o", "/dev/null", "-w", "%{http_code}", f"http://{lab.VIP}/"], capture_output=True, text=True)
        return got.stdout == "200"

    lab.wait_until(served, 20, "an answer through the tunnel")
    check(all(served() for _ in range(20)), "twenty more")
    d.stop()
    counts = watch.counts()
    # Of each request at least SYN, SYN-ACK, request, answer and both FINs.
    check(counts["tunnel"] > 21 * 6 and counts["plain"] == 0, f"on the wire: {counts}")
    return f"21 requests by {counts['tunnel']} packets of the tunnel, {counts['plain']} beside it"
