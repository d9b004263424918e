"""TCP as different peers speak it: options, segment sizes, reused ports, connections that break; and the shares of servers."""

import os
import socket
import struct
import subprocess
import time

import clients
import lab
from lab import VIP, check
from rawtcp import RawTcp, Wire, ones_complement
from registry import test
from test_peers import large


def setting(t, namespace, key, value):
    """A kernel setting of one side, put back at the end."""
    path = "/proc/sys/net/ipv4/" + key
    with lab.inside(namespace):
        with open(path) as f:
            before = f.read().strip()
        with open(path, "w") as f:
            f.write(value)

    def back():
        with lab.inside(namespace), open(path, "w") as f:
            f.write(before)

    t.undo.append(back)


@test
def tcp_options(t):
    """Clients and servers without timestamps, SACK or window scales, with ECN, with small segments: 10 MB both ways"""
    t.servers.want("nginx,nginx,nginx")
    seen = []
    for where, key, value in (("clients", "tcp_timestamps", "0"), ("servers", "tcp_timestamps", "0"), ("clients", "tcp_sack", "0"),
                              ("servers", "tcp_sack", "0"), ("clients", "tcp_window_scaling", "0"), ("servers", "tcp_window_scaling", "0"),
                              ("both", "tcp_ecn", "1"), ("clients", "mtu", "1280"), ("servers", "mtu", "1300")):
        begun = len(t.undo)
        if key == "mtu":
            device, ns = ("c0", "clients") if where == "clients" else ("s0", "servers")
            mtu = lambda n, d=device, ns=ns: subprocess.run(["ip", "-n", f"{lab.PREFIX}-{ns}", "link", "set", d, "mtu", str(n)], check=True)  # noqa: E731
            t.undo.append(lambda mtu=mtu: mtu(1500))
            mtu(value)
        else:
            for ns in ("clients", "servers") if where == "both" else (where,):
                setting(t, ns, key, value)
        d = t.dispatcher()
        large(VIP, clients.address(len(seen)))
        d.await_log(2)
        d.stop()
        while len(t.undo) > begun:
            t.undo.pop()()
        seen.append(f"{where} {key}={value}")
    return ", ".join(seen)


@test
def port_reuse(t):
    """A client that comes again from the same address and port, at once: every connection is its own"""
    t.servers.want("nginx,haproxy,nginx")
    d = t.dispatcher()
    wire = Wire(d.mac(), "10.77.0.91")
    t.undo.append(wire.close)
    for i in range(12):
        s = RawTcp(wire, VIP, sport=30000)
        answer, _ = clients.drive(clients.context(), s)
        check(b" 200 " in answer[:20], f"connection {i + 1}: {answer[:40]!r}")
        if i % 3 == 2:
            # Left open: the next one begins where this one never ended.
            s.flags(4, s.next)
        else:
            s.close()
    log = d.await_log(12)
    check(len(log) == 12, f"{len(log)} in the log")
    return f"12 of 12 from one port, ends: { {e: [c['end'] for c in log].count(e) for e in {c['end'] for c in log}} }"


@test
def narrow_path(t):
    """A router says that one client's path takes 600 bytes: its segments fit, another's stay large, no server hears of it"""
    body = os.urandom(150_000)

    def serve(connection, _):
        connection.recv(100)
        connection.sendall(body)

    if lab.OFFLOAD == "on":
        # A client that is no kernel takes a wire's frames: large units are cut before they are on it.
        def cut_late(whether):
            command = ["ip", "netns", "exec", f"{lab.PREFIX}-dispatcher", "ethtool", "-K", "wan", "tso", whether, "gso", whether]
            subprocess.run(command, check=True, capture_output=True)

        cut_late("off")
        t.undo.append(lambda: cut_late("on"))
    t.server("10.78.0.14", 443, serve)
    d = t.dispatcher(args=lab.base_args([f"{VIP}:443"], ["bulk=10.78.0.14:443"]))

    def largest(s):
        """The longest segment of those that come until all is there."""
        sizes, take = [], s.await_segment

        def noted(seconds, wanted):
            got = take(seconds, wanted)
            sizes.append(len(got[7]) if got else 0)
            return got

        s.await_segment = noted
        end = time.monotonic() + 20
        while len(s.received) < len(body) and time.monotonic() < end:
            s.pump(1)
        check(s.received == body, "the body differs")
        return max(sizes)

    def client(address):
        wire = Wire(d.mac(), address)
        t.undo.append(wire.close)
        s = RawTcp(wire, VIP)
        s.sendall(b"a body, please")
        return wire, s, s.await_segment(5, lambda got: got[7])

    wire, narrow, first = client("10.77.0.92")
    check(first and len(first[7]) == 1460, "no full segment at first")
    quoted = wire.tcp("10.77.0.92", 443, narrow.sport, first[2], 0, 16, src=VIP)[14:42]
    error = struct.pack("!BBHI", 3, 4, 0, 600) + quoted
    wire.send(wire.ipv4(VIP, error[:2] + struct.pack("!H", ones_complement(error)) + error[4:], protocol=1))
    # What was under way was too long for the path.
    while narrow.await_segment(0.05, lambda _: True):
        pass
    small = largest(narrow)
    check(small == 560, f"segments of {small} bytes")
    _, other, first = client("10.77.0.93")
    other.later[first[2]] = (first[7], 0)
    check(largest(other) == 1460, "another client's segments are smaller")
    with lab.inside("servers"):
        route = subprocess.run(["ip", "route", "get", "10.78.0.1"], check=True, capture_output=True, text=True).stdout
    check("mtu" not in route, f"the server remembers: {route}")
    return f"segments of {small} bytes for one client and 1460 for another; the server's route: {route.split(' uid')[0].strip()}"


@test
def broken_connections(t):
    """Resets travel: a client's to its server, a server's to its client; after a restart unknown flows are reset"""
    ends = []

    def serve(connection, _):
        connection.settimeout(20)
        try:
            while got := connection.recv(100):
                if got == b"break":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                connection.sendall(got)
            ends.append("closed")
        except ConnectionResetError:
            ends.append("reset")

    t.server("10.78.0.14", 443, serve)
    args = lab.base_args([f"{VIP}:443"], ["echo=10.78.0.14:443"])
    d = t.dispatcher(args=args)
    s = clients.connect()
    s.sendall(b"break")
    try:
        check(s.recv(10) == b"never", "an orderly end")
    except ConnectionResetError:
        pass
    s = clients.connect()
    s.sendall(b"hello")
    s.recv(10)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
    lab.wait_until(lambda: ends == ["reset"], 5, f"the server sees the reset: {ends}")
    log = d.await_log(2)
    check(sorted(c["end"] for c in log) == ["backend-reset", "client-reset"], f"ends: {[c['end'] for c in log]}")
    # One that lives on when the dispatcher is killed.
    s = clients.connect()
    s.sendall(b"hello")
    s.recv(10)
    d.kill()
    t.dispatchers.remove(d)
    os.unlink(d.log_path)
    again = t.dispatcher(args=args)
    s.sendall(b"anyone?")
    try:
        check(s.recv(10) == b"never", "an answer from nowhere")
    except ConnectionResetError:
        pass
    fresh = clients.connect()
    fresh.sendall(b"hello")
    check(fresh.recv(10) == b"hello", "a new connection")
    fresh.close()
    again.await_log(1)
    return "a server's reset, a client's reset, and after a restart a reset for the old connection, service for a new one"


@test
def balancing(t):
    """Round robin in turn, weights as told, least connections even, one client at one server with maglev"""
    t.servers.want("nginx,nginx,haproxy")
    seen = []

    def shares(count, same, *flags, weights=(1, 1, 1)):
        backends = [f"web{n}=10.78.0.{10 + n}:443,weight={w}" for n, w in zip((1, 2, 3), weights)]
        d = t.dispatcher(*flags, args=lab.base_args([f"{VIP}:443"], backends, workers=1))
        for i in range(count):
            clients.fetch(clients.address(0 if same else i))
        log = d.await_log(count)
        d.stop()
        return [sum(c["backend"] == f"web{n}" for c in log) for n in (1, 2, 3)]

    got = shares(30, True, "--balance", "round-robin")
    check(got == [10, 10, 10], f"round-robin: {got}")
    seen.append(f"round-robin {got}")
    got = shares(40, True, "--balance", "round-robin", weights=(3, 1, 0))
    check(got == [30, 10, 0], f"round-robin, weights 3 1 0: {got}")
    seen.append(f"with weights 3 1 0 {got}")
    got = shares(12, True)
    check(max(got) == 12, f"maglev, one client: {got}")
    seen.append(f"maglev for one client {got}")
    got = shares(30, True, "--hash-on", "tuple")
    check(min(got) >= 1, f"maglev on the tuple: {got}")
    seen.append(f"on the tuple {got}")
    got = shares(60, False, "--balance", "random-two")
    check(min(got) >= 5, f"random-two: {got}")
    seen.append(f"random-two {got}")
    return ", ".join(seen)
