"""Servers behind tunnels: of each kind, with the outer packets of both families."""

import concurrent.futures
import functools
import json
import os
import signal
import struct
import subprocess
import time
from contextlib import contextmanager

import clients
import lab
from asking import asked, observed, visits
from fickle import Fickle
from lab import PREFIX, STATE, VIP, VIP6, by, check
from registry import test
from test_admission import Counting
from test_bodies import both_ways
from test_paths import ip
from test_peers import access, forget_access

KINDS = ["vxlan", "gue", "ipip", "wireguard"]
PATHS = KINDS + [kind + "-v6" for kind in KINDS]
# In front of an inner packet, with IPv4 outside; with IPv6 it is 20 more.
OVERHEAD = {"vxlan": 50, "gue": 32, "ipip": 20, "wireguard": 60}
# The UDP ports of the far ends, where there are any.
UDP = {"vxlan": 4789, "gue": 6080, "wireguard": 51820}
# What the kernels on both sides count when something was fragmented, would have had to be, or an ICMPv6 message said so.
TROUBLE = ("Ip:FragCreates", "Ip:FragFails", "Ip:ReasmReqds", "Ip6FragCreates", "Ip6FragFails", "Ip6ReasmReqds", "Icmp6InPktTooBigs", "Icmp6OutPktTooBigs")


def left(path):
    """What an outer packet of 1500 bytes leaves for the inner one. Sealed ones are padded to multiples of 16."""
    bytes_left = 1500 - OVERHEAD[path.removesuffix("-v6")] - (20 if path.endswith("-v6") else 0)
    return bytes_left // 16 * 16 if path.startswith("wireguard") else bytes_left


def ours(path):
    """Our addresses towards servers: where packets are sealed, each worker has its own."""
    count = lab.WORKERS if path.startswith("wireguard") else 1
    return {f"{prefix}{n}" for n in range(1, count + 1) for prefix in ("10.78.0.", "fd78::")}


def trouble():
    """The counters of TROUBLE, of clients and servers."""
    found = {}
    for where in ("clients", "servers"):
        with lab.inside(where):
            with open("/proc/thread-self/net/snmp") as f:
                lines = [line.split() for line in f]
            for names, values in zip(lines[::2], lines[1::2]):
                found |= {f"{where} {names[0]}{name}": int(value) for name, value in zip(names[1:], values[1:])}
            with open("/proc/thread-self/net/snmp6") as f:
                found |= {f"{where} {name}": int(value) for name, value in map(str.split, f)}
    return {name: found[name] for name in found if name.split(" ")[1] in TROUBLE}


def narrower():
    """What the kernels on both sides were told of narrower paths, by ICMP messages."""
    shown = [ip(where, family, "route", "show", "cache") for where in ("clients", "servers") for family in ("-4", "-6")]
    return [line.strip() for text in shown for line in text.splitlines() if " mtu " in line]


@contextmanager
def nothing_too_long(path):
    """No fragment is made and no ICMP message tells that one would be needed; the far ends' programs met nothing that does not fit."""
    log = STATE + "/tunnel.log"
    before, size = trouble(), os.path.getsize(log) if os.path.exists(log) else 0
    yield
    more = {name: n - before[name] for name, n in trouble().items() if n != before[name]}
    check(not narrower(), f"{path}: narrower paths are known: {narrower()}")
    check(not more, f"{path}: counted meanwhile: {more}")
    if os.path.exists(log):
        with open(log) as f:
            f.seek(size)
            said = f.read()
        check(not said.strip(), f"{path}: the far end said: {said[-300:]}")


class Tapped:
    """What passes between the dispatcher and its servers, as tcpdump records and tshark reads it."""

    def __init__(self, t, device="s0"):
        self.path = f"{lab.WORK}/tunnels.{len(t.undo)}.pcap"
        t.undo.append(lambda: [lab.remove(self.path + end) for end in ("", ".inner")])
        self.process = subprocess.Popen(lab.lab_namespace("servers") + ["tcpdump", "-Z", "root", "-i", device, "-U", "--immediate-mode", "-w", self.path],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        t.undo.append(lambda: self.process.poll() is None and self.process.kill())
        check(any("listening on" in line for line in iter(self.process.stderr.readline, "")), "tcpdump does not listen")

    def end(self):
        self.process.terminate()
        self.process.communicate(timeout=20)

    def read(self, *fields):
        """Of each frame these fields, each a list: outer and inner."""
        outer, inner = self.shown(self.path, fields), self.gue()
        for number, found in zip(inner, self.shown(self.path + ".inner", fields) if inner else []):
            outer[number] = [a + b for a, b in zip(outer[number], found)]
        return outer

    def gue(self):
        """tshark has no GUE: writes the packets within into a capture of their own. Of which frames they are."""
        with open(self.path, "rb") as f:
            all_of_it = f.read()
        check(all_of_it[:4] == b"\xd4\xc3\xb2\xa1", "a capture of another format")
        raw_ip = 101
        out, numbers, at, number = all_of_it[:20] + struct.pack("<I", raw_ip), [], 24, 0
        while at + 16 <= len(all_of_it):
            sec, usec, length = struct.unpack_from("<III", all_of_it, at)
            frame = all_of_it[at + 16:at + 16 + length]
            udp = {b"\x08\x00": 34, b"\x86\xdd": 54}.get(frame[12:14])
            if udp and frame[23 if udp == 34 else 20] == 17 and frame[udp + 2:udp + 4] == struct.pack(">H", 6080):
                packet = frame[udp + 12:]
                check(frame[udp + 8:udp + 12] == bytes_of_gue(packet), f"a GUE header of {frame[udp + 8:udp + 12].hex()}")
                out += struct.pack("<IIII", sec, usec, len(packet), len(packet)) + packet
                numbers.append(number)
            at, number = at + 16 + length, number + 1
        with open(self.path + ".inner", "wb") as f:
            f.write(out)
        return numbers

    @staticmethod
    def shown(path, fields):
        asked = [x for field in fields for x in ("-e", field)]
        flags = [x for name in ("ip", "udp", "tcp") for x in ("-o", f"{name}.check_checksum:TRUE")]
        out = subprocess.run(["tshark", "-r", path, "-n", *flags, *no_guesses(), "-o", "ip.defragment:FALSE", "-T", "fields", "-E", "separator=/t", *asked],
                             check=True, capture_output=True, text=True)
        return [[value.split(",") if value else [] for value in line.split("\t")] for line in out.stdout.splitlines()]


@functools.cache
def no_guesses():
    """Flags for tshark: a random source port, of a tunnel or of a client, says nothing of what a packet holds, whatever protocol has it by convention."""
    tables = subprocess.run(["tshark", "-G", "decodes"], check=True, capture_output=True, text=True).stdout.splitlines()
    rows = [line.split("\t") for line in tables]
    named = {row[2] for row in rows if row[0] in ("udp.port", "tcp.port")} - {"vxlan"}
    return [word for name in sorted(named) for word in ("--disable-protocol", name)]


def bytes_of_gue(packet):
    """What stands in front of a packet: variant 0, no flags, what is within."""
    return bytes([0, 41 if packet[0] >> 4 == 6 else 4, 0, 0])


def full_hello(size):
    """A context whose hello has more than two segments of this size, and less than three with timestamps, as post-quantum ones have with long names."""
    for names in range(60, 400):
        ctx = clients.context("1.3")
        ctx.set_alpn_protocols([f"x-protocol-number-{i:07}" for i in range(names)] + ["http/1.1"])
        if 2 * size < len(clients.client_hello(ctx)) < 3 * (size - 12):
            return ctx
    raise lab.Failure(f"no hello of two segments of {size} bytes")


@test
def tunnel_hellos(t):
    """A hello of two full segments over each kind of tunnel, IPv4 and IPv6 outside and inside: tshark sees nothing but whole outer packets, no fragment, no ICMP error"""
    t.servers.want("nginx,nginx,nginx")
    seen = []
    for path in PATHS:
        by(t, path)
        kind, v6_outside = path.removesuffix("-v6"), path.endswith("-v6")
        d = t.dispatcher()
        # Neighbours are known, and servers were found to be there.
        clients.fetch(clients.address(0), vip=VIP), clients.fetch(clients.address6(0), vip=VIP6)
        tap = Tapped(t)
        # What was sealed is seen behind the far end only.
        within = Tapped(t, lab.far_device(path)) if kind == "wireguard" else None
        with nothing_too_long(path):
            for vip, source in ((VIP, clients.address(1)), (VIP6, clients.address6(1))):
                # As much as the tunnel has room for, where a segment has no options.
                size = left(path) - (60 if vip == VIP6 else 40)
                body, _ = clients.fetch(source, full_hello(size), vip=vip)
                check(body.startswith(b"web"), f"{path}: {body[:60]}")
        d.await_log(4)
        tap.end()
        if within:
            within.end()
        d.stop()
        fields = ("frame.len", "ip.proto", "ipv6.nxt", "ip.flags.df", "ip.flags.mf", "ip.frag_offset", "ip.checksum.status", "udp.checksum.status",
                  "tcp.checksum.status", "tcp.len", "tcp.options.mss_val", "icmp.type", "icmpv6.type", "udp.dstport", "vxlan.vni", "arp.opcode", "_ws.malformed", "ip.src", "ipv6.src")
        full, sizes, most = 0, set(), left(path)
        for frame in tap.read(*fields):
            f = dict(zip(fields, frame))
            # Neighbours, and who listens to which groups: what a kernel says of itself.
            if f["arp.opcode"] or f["icmpv6.type"] and int(f["icmpv6.type"][0]) in (*range(130, 137), 143):
                continue
            first = int((f["ipv6.nxt"] if v6_outside else f["ip.proto"])[0])
            check(first in (4, 41) if kind == "ipip" else first == 17, f"{path}: a frame that is none of the tunnel's: {f}")
            if kind == "wireguard":
                check(set(f["udp.dstport"]) <= {str(UDP[kind] + n) for n in range(lab.WORKERS)}, f"{path}: {f}")
            elif kind != "ipip":
                check(f["udp.dstport"] == [str(UDP[kind])], f"{path}: {f}")
            check(kind != "vxlan" or f["vxlan.vni"] == ["98"], f"{path}: {f}")
            check(not f["icmp.type"] and not f["icmpv6.type"] and not f["_ws.malformed"], f"{path}: {f}")
            check(set(f["ip.flags.mf"]) <= {"0"} and set(f["ip.frag_offset"]) <= {"0"}, f"{path}: a fragment, {f}")
            check(v6_outside or kind == "vxlan" or f["ip.flags.df"][0] == "1", f"{path}: it may be fragmented, {f}")
            check(int(f["frame.len"][0]) <= 1514, f"{path}: {f}")
            # 0: wrong. A UDP checksum may be left away with IPv4.
            check(all("0" not in f[name] for name in ("ip.checksum.status", "udp.checksum.status", "tcp.checksum.status")), f"{path}: a checksum, {f}")
            check(bool(f["tcp.len"]) != (kind == "wireguard"), f"{path}: {f}")
            # What the dispatcher sends and says; servers may take more than their tunnel.
            if ({"10.98.0.1", "fd98::1"} & {*f["ip.src"][:1], *f["ipv6.src"][:1]}):
                full += int(f["frame.len"][0]) == 1514 - (1500 - OVERHEAD[kind] - (20 if v6_outside else 0) - most)
                sizes |= {int(n) for n in f["tcp.options.mss_val"]}
        if within:
            for src, src6, mss in within.read("ip.src", "ipv6.src", "tcp.options.mss_val"):
                sizes |= {int(n) for n in mss if ours(path) & {*src, *src6}}
        check(full >= 4, f"{path}: {full} full frames, where two hellos have two each")
        check(sizes and max(sizes) <= most - 40, f"{path}: segment sizes {sizes}, where {most} bytes are left for a packet")
        seen.append(f"{path} MSS {'/'.join(map(str, sorted(sizes, reverse=True)))}")
    return "two full segments, twice, by " + ", ".join(seen)


@test
def tunnel_bodies(t):
    """1, 10 and 100 MB down and up over each kind of tunnel arrive byte for byte, without a fragment or an ICMP error"""
    t.servers.want("nginx,nginx,nginx")
    seen = []
    for path in KINDS:
        by(t, path)
        with nothing_too_long(path):
            seen.append(f"{path}: " + both_ways(t, "https", ["--tlsv1.3"]))
    return "; ".join(seen)


@test
def tunnel_dnat(t):
    """With dnat over each kind of tunnel servers see the clients' own addresses, and a megabyte arrives"""
    t.servers.want("nginx,nginx,nginx")
    # Of several workers the other end tells each by its address, which dnat has not.
    paths = [path for path in PATHS if lab.WORKERS == 1 or not path.startswith("wireguard")]
    for path in paths:
        by(t, path)
        forget_access()
        with nothing_too_long(path):
            d = t.dispatcher("--address-mode", "dnat", "--balance", "round-robin")
            whole = os.path.getsize(STATE + "/1M")
            wanted = set()
            for i in range(6):
                for vip, address in ((VIP, clients.address(i)), (VIP6, clients.address6(i))):
                    wanted.add(address)
                    body, _ = clients.fetch(address, vip=vip, request=clients.GET.replace(b"GET /", b"GET /1M", 1))
                    check(len(body) == whole, f"{path}: {len(body)} bytes")
            lab.wait_until(lambda: len(access()) >= 12, 5, "nginx's log")
            check({peer for peer, _ in access()} == wanted, f"{path}: nginx saw {access()}")
            d.stop()
    return f"12 clients by each of {', '.join(paths)}"


@test
def tunnel_proxy_headers(t):
    """PROXY headers over each kind of tunnel: servers are told the clients' addresses, and a megabyte behind the header arrives"""
    t.servers.want("nginx,nginx", proxy=True)
    for path in PATHS:
        by(t, path)
        forget_access()
        with nothing_too_long(path):
            d = t.dispatcher("--proxy-protocol", "v2", "--balance", "round-robin")
            wanted = set()
            for i in range(4):
                for vip, address in ((VIP, clients.address(i)), (VIP6, clients.address6(i))):
                    wanted.add(address)
                    body, _ = clients.fetch(address, vip=vip, request=clients.GET.replace(b"GET /", b"GET /1M", 1))
                    check(len(body) == os.path.getsize(STATE + "/1M"), f"{path}: {len(body)} bytes")
            lab.wait_until(lambda: len(access()) >= 8, 5, "nginx's log")
            check({proxy for _, proxy in access()} == wanted, f"{path}: nginx saw {access()}")
            peers = {peer for peer, _ in access()}
            check(peers and peers <= ours(path), f"{path}: and our inner address as its peer: {access()}")
            d.stop()
    return f"8 clients by each of {', '.join(PATHS)}"


@test
def tunnel_checks_and_limits(t):
    """Over each kind of tunnel: a server that hangs is found out by a check and taken back, a server with room for one has one at a time, and ctl tells the context"""
    t.servers.want("nginx,nginx,nginx")
    fickle = Fickle(t, "10.78.0.14", "web4")
    counting = Counting(t, "10.78.0.15", 0.02)
    seen = []
    for path in PATHS:
        by(t, path)
        fickle.become("well")
        ctl, d = asked(t, "--learn-keys", "off", "--check", "kind=https,interval=300ms,timeout=300ms,rise=2,fall=3", backends=["web4=10.78.0.14:443"])
        told = {b["context"] for b in ctl.backends().values()}
        kind, end = path.removesuffix("-v6"), "[fd98::2]" if path.endswith("-v6") else "10.98.0.2"
        context = {"ipip": f"ipip {end.strip('[]')}", "gue": f"gue {end}:6080", "vxlan": f"vxlan {end}:4789 vni 98", "wireguard": f"wireguard {end}:51820"}[kind]
        check(told == {context}, f"contexts: {told}, wanted {context}")
        lab.wait_until(lambda: "web4" in visits(16), 20, f"{path}: clients at a server that is well")
        fickle.become("hangs")
        lab.wait_until(lambda: observed(ctl)["health"] == "down", 20, lambda: f"{path}: down; observed: {observed(ctl)}")
        check(set(visits(30)) == {"web1", "web2", "web3"}, f"{path}: clients at a server that hangs")
        fickle.become("well")
        lab.wait_until(lambda: observed(ctl)["health"] == "up", 20, lambda: f"{path}: up again; observed: {observed(ctl)}")
        ctx = clients.context("1.2")
        _, (session, _, _) = clients.fetch(clients.address(0), ctx)
        _, (_, resumed, _) = clients.fetch(clients.address(1), ctx, session=session)
        check(resumed, f"{path}: a session that was not resumed")
        offered = lambda: json.loads(ctl("show", "sessions", "--json"))["offered"]  # noqa: E731
        lab.wait_until(offered, 10, f"{path}: a session that is told as offered")
        rows = offered()
        check({row["context"] for row in rows} == {context}, f"{path}: sessions: {rows}")
        d.stop()
        before = counting.all
        d = t.dispatcher(args=lab.base_args([f"{VIP}:443"], ["only=10.78.0.15:443,max-connections=1"]))

        def visit(n):
            with clients.connect(source=clients.address(n)) as s:
                s.sendall(b"anything but a hello")
                return s.recv(100)

        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(visit, range(12)))
        check(set(answers) == {b"20 bytes"}, f"{path}: answers {answers}")
        check(counting.most == 1 and counting.all - before == 12, f"{path}: {counting.most} at once, {counting.all - before} in all")
        d.stop()
        seen.append(context)
    return f"by {', '.join(seen)}"


@test
def tunnel_strangers(t):
    """A packet out of a tunnel whose sender is not behind it is dropped by its name; one that comes plainly from a server's address opens nothing"""
    t.servers.want("nginx,nginx,nginx")
    for path in PATHS:
        by(t, path)
        lab.in_servers("ip", "addr", "add", "10.78.0.99/24", "dev", lab.far_device(path))
        d = t.dispatcher()
        clients.fetch(clients.address(0))
        for _ in range(5):
            with lab.inside("servers"):
                try:
                    clients.connect("10.78.0.1", 40_000, "10.78.0.99", timeout=0.3).close()
                    check(False, "a connection that nobody accepts")
                except TimeoutError:
                    pass
        d.stop()
        check(d.drops.get("tunnel-foreign", 0) >= 5, f"{path}: drops {d.drops}")
    return f"by {', '.join(PATHS)}"


class Watch:
    """What passes the servers' wire, as tcpdump counts it, by filter."""

    def __init__(self, filters):
        self.found = {}
        for name, what in filters.items():
            path = f"{lab.WORK}/wire.{name}.pcap"
            process = subprocess.Popen(
                ["ip", "netns", "exec", PREFIX + "-servers", "tcpdump", "-i", "s0", "-p", "-n", "-s", "64", "--immediate-mode", "-U", "-w", path, "-Z", "root", what],
                stderr=subprocess.PIPE, text=True)
            self.found[name] = (process, path)
        for process, _ in self.found.values():
            # It says when it listens.
            while "listening on" not in process.stderr.readline():
                check(process.poll() is None, "tcpdump did not start")

    def counts(self):
        # In immediate mode the kernel hands over each packet as it passes; by blocks it may sit on the last for a second.
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
