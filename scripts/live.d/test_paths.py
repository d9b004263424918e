"""Paths of which one is narrower than the others."""

import hashlib
import re
import subprocess

import clients
import lab
from lab import PREFIX, VIP, VIP6, check
from registry import test

NARROW = 1280


def ip(namespace, *arguments):
    return subprocess.run(["ip", "-n", f"{PREFIX}-{namespace}", *arguments], check=True, capture_output=True, text=True).stdout


def narrow_client(t):
    """A client behind a router (the clients' machine) that has a narrow link to it, and says so: its own address, in each family."""
    own = f"{PREFIX}-narrow"
    subprocess.run(["ip", "netns", "add", own], check=True)
    # With its interface.
    t.undo.append(lambda: subprocess.run(["ip", "netns", "del", own], check=True))
    ip("clients", "link", "add", "n0", "type", "veth", "peer", "name", "n1", "netns", own)
    for namespace, device, host in (("clients", "n0", 1), ("narrow", "n1", 2)):
        ip(namespace, "addr", "add", f"10.79.0.{host}/24", "dev", device)
        ip(namespace, "addr", "add", f"fd79::{host}/64", "dev", device, "nodad")
        if lab.OFFLOAD != "on":
            subprocess.run(["ip", "netns", "exec", f"{PREFIX}-{namespace}", "ethtool", "-K", device, "tx", "off"], check=True, capture_output=True)
        ip(namespace, "link", "set", device, "up")
    ip("narrow", "route", "add", "default", "via", "10.79.0.1")
    ip("narrow", "-6", "route", "add", "default", "via", "fd79::1")
    # What it offers as its MSS is what the link's ends could take; the way between is narrower.
    ip("clients", "route", "replace", "10.79.0.2/32", "dev", "n0", "mtu", "lock", str(NARROW))
    ip("clients", "-6", "route", "replace", "fd79::2/128", "dev", "n0", "mtu", str(NARROW))
    for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        subprocess.run(["ip", "netns", "exec", f"{PREFIX}-clients", "sysctl", "-qw", f"{key}=1"], check=True)
        t.undo.append(lambda key=key: subprocess.run(["ip", "netns", "exec", f"{PREFIX}-clients", "sysctl", "-qw", f"{key}=0"], check=True))
    return {VIP: "10.79.0.2", VIP6: "fd79::2"}


def download(vip, source=None, keep=False):
    """A megabyte by plain HTTP on the VIP. Its checksum; and the connection, still open, if wanted."""
    s = clients.connect(vip, 80, source)
    s.sendall(b"GET /1M HTTP/1.1\r\nHost: lab.example.test\r\n\r\n")
    got = b""
    while b"\r\n\r\n" not in got or len(got.split(b"\r\n\r\n", 1)[1]) < 1_000_000:
        more = s.recv(1 << 16)
        check(more, f"an end after {len(got)} bytes")
        got += more
    if not keep:
        s.close()
    return hashlib.sha256(got.split(b"\r\n\r\n", 1)[1]).hexdigest(), s


def known(peer):
    """What the servers' kernel knows of the path to an address, if anything but the interface's own."""
    found = re.search(r"mtu (\d+)", ip("servers", "route", "get", peer))
    return int(found.group(1)) if found else 1500


def segments(vip):
    """Path MTU and segment size of the servers' connections of that family, as the kernel says."""
    family = "-6" if ":" in vip else "-4"
    lines = subprocess.run(["ip", "netns", "exec", f"{PREFIX}-servers", "ss", family, "-HtnOi", "state", "established", "( sport = :80 )"],
                           check=True, capture_output=True, text=True).stdout
    return [tuple(int(re.search(rf"\b{what}:(\d+)", line).group(1)) for what in ("pmtu", "mss")) for line in lines.splitlines()]


@test
def one_clients_path_mtu(t):
    """A client behind a path of 1280 bytes gets its megabyte; all other clients' segments stay as large as they were, both families"""
    t.servers.want("nginx")
    with open(lab.STATE + "/1M", "rb") as f:
        whole = hashlib.sha256(f.read()).hexdigest()
    narrow = narrow_client(t)
    # What a kernel learned wrongly it would keep for minutes.
    t.undo.append(lambda: [ip("servers", family, "route", "flush", "cache") for family in ("-4", "-6")])
    seen = []
    for mode in ("snat", "dnat"):
        d = t.dispatcher("--address-mode", mode, args=lab.base_args([f"{VIP}:80", f"[{VIP6}]:80"], ["web=10.78.0.11:80", "web6=[fd78::11]:80"]))
        for vip, source in narrow.items():
            with lab.inside("narrow"):
                got, _ = download(vip)
            check(got == whole, f"{mode}, {vip}: the narrow client's megabyte differs")
            other = clients.address6(1) if ":" in vip else clients.address(1)
            got, s = download(vip, other, keep=True)
            check(got == whole, f"{mode}, {vip}: another client's megabyte differs")
            sizes = segments(vip)
            s.close()
            # With dnat the servers see the client itself, and may know its path.
            ours = "fd78::1" if ":" in vip else "10.78.0.1"
            check(known(ours) == 1500, f"{mode}, {vip}: the servers think that {ours} is behind {known(ours)} bytes")
            check(sizes and all(pmtu == 1500 and mss >= 1400 for pmtu, mss in sizes), f"{mode}, {vip}: path MTU and segments of another client: {sizes}")
            seen.append(f"{mode} IPv{'6' if ':' in vip else '4'}: others {sizes[0][0]}/{sizes[0][1]}")
        d.stop()
    return f"two narrow megabytes in each mode byte for byte; path MTU and MSS of {', '.join(seen)}"
