"""What the dispatcher finds out of its servers by asking them itself."""

import os
import re
import select
import socket
import struct
import threading
import time
from contextlib import contextmanager

import clients
import lab
from asking import asked, meets, observed, visits
from fickle import Fickle
from lab import STATE, VIP, check
from queue_clients import spoken
from registry import test

RISE, FALL = 2, 3


def sees_it(t, kind, *modes, flags=(), edit=lambda args: args):
    """A server fails in each of these ways, and recovers: how many questions each took."""
    told = []
    t.servers.want("nginx,nginx,haproxy")
    fickle = Fickle(t, "10.78.0.14", "web4")
    # Without the handshakes that learn ticket keys: it is questions that are counted.
    ctl, d = asked(t, "--learn-keys", "off", "--check", f"kind={kind},interval=300ms,timeout=300ms,rise={RISE},fall={FALL}", *flags, backends=["web4=10.78.0.14:443"], edit=edit)
    lab.wait_until(lambda: meets("web4"), 20, "clients at a server that is well")
    for mode in modes:
        fickle.become(mode)
        lab.wait_until(lambda: observed(ctl)["health"] == "down", 20, lambda: f"{mode}: down; observed: {observed(ctl)}")
        took, why = fickle.own, observed(ctl)["why"]
        # One may have been under way.
        check(took <= FALL + 1, f"{mode}: found out after {took} questions")
        fickle.become(mode)
        served = visits(60)
        check(set(served) == {"web1", "web2", "web3"} and fickle.others == 0, f"{mode}: clients were served by {set(served)}, {fickle.others} met the one that is down")
        fickle.become("well")
        lab.wait_until(lambda: observed(ctl)["health"] == "up", 20, lambda: f"{mode}, and well again: {observed(ctl)}")
        back = fickle.own
        check(RISE <= back <= RISE + 1, f"{mode}: taken back after {back} questions")
        lab.wait_until(lambda: meets("web4"), 20, "clients at a server that is well again")
        told.append(f"{mode}: down after {took} ({why}), up after {back}")
    d.stop()
    return "; ".join(told)


@test
def check_tls(t):
    """A server whose port is open, but which hangs, closes or says something else than TLS, leaves within `fall` checks and comes back within `rise`"""
    return sees_it(t, "tls", "garbage", "hangs", "at once")


@test
def check_https(t):
    """The same with a server that answers 503, and with one that hangs, asked for a page"""
    return sees_it(t, "https", "503", "hangs")


@test
def check_dnat(t):
    """The same with dnat, where servers see clients' addresses, and the dispatcher's own with checks alone"""
    return sees_it(t, "https", "hangs", "503", flags=["--address-mode", "dnat"])


VLAN = 300


class Trunk:
    """The servers behind a VLAN: what comes to them with its tag goes on without, and what they send gets it. By hand, since not every kernel has devices
    of VLANs; what has no tag, or another, is lost."""

    AUXDATA, TAGGED, OUTGOING = 8, 0x10, 4

    def __init__(self):
        for words in ("link add v0 type veth peer name v1", "link set v0 up", "link set v1 up",
                      "route add 10.78.0.1/32 dev v0", "route add 10.77.0.0/24 via 10.78.0.1 dev v0 onlink"):
            lab.in_servers("ip", *words.split())
        # What is handed on by hand needs its checksum.
        lab.in_servers("ethtool", "-K", "v0", "tx", "off")
        with lab.inside("servers"):
            self.inner, self.outer = (socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) for _ in range(2))
            self.inner.bind(("v1", 0))
            self.outer.bind(("s0", 0))
        self.outer.setsockopt(263, self.AUXDATA, 1)
        self.tagged = 0
        self.running = True
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while self.running:
            for s in select.select([self.inner, self.outer], [], [], 0.1)[0]:
                frame, more, _, address = s.recvmsg(65536, 256)
                if address[2] == self.OUTGOING:
                    continue
                if s is self.inner:
                    self.put(self.outer, frame[:12] + struct.pack("!HH", 0x8100, VLAN) + frame[12:])
                elif any(self.is_ours(data) for level, kind, data in more if (level, kind) == (263, self.AUXDATA)):
                    self.tagged += 1
                    self.put(self.inner, frame)

    def put(self, to, frame):
        try:
            to.send(frame)
        except OSError:
            # No room, or longer than the link takes: lost, as on any.
            pass

    def is_ours(self, data):
        status, _, _, _, _, tci, _ = struct.unpack_from("=IIIHHHH", data)
        return status & self.TAGGED and tci & 0xfff == VLAN

    def close(self):
        self.running = False
        self.thread.join()
        self.inner.close()
        self.outer.close()
        # Its routes go with it.
        lab.in_servers("ip", "link", "del", "v0")


@contextmanager
def behind_vlan():
    """For a while."""
    trunk = Trunk()
    try:
        yield trunk
    finally:
        trunk.close()


def tagged(args):
    """The port to the servers has tags."""
    return [f"{word},vlan={VLAN}" if before == "--port" and word.startswith("lan=") else word for before, word in zip(["", *args], args)]


def over_vlan(t, mode):
    with behind_vlan() as trunk:
        told = sees_it(t, "tls", "hangs", flags=["--address-mode", mode], edit=tagged)
        ctl, d = asked(t, "--address-mode", mode, "--service-kind", "tls", edit=tagged)
        named = lambda: [b["observed"]["keys"]["state"] for b in ctl.backends().values()]  # noqa: E731
        lab.wait_until(lambda: named() == ["named"] * 3, 30, lambda: f"keys of all: {named()}")
        d.stop()
        check(trunk.tagged > 0, "nothing had the tag")
    return told + f"; keys of three servers; by {trunk.tagged} frames with the tag"


@test
def check_vlan(t):
    """The same where servers are reached by a VLAN; and their keys are learned by it before any client has come"""
    return over_vlan(t, "snat")


@test
def check_vlan_dnat(t):
    """The same with dnat"""
    return over_vlan(t, "dnat")


LOOKS_LIKE_TROUBLE = {
    "nginx": r"\[(?:warn|error|crit|alert|emerg)\].*|\[info\].*(?:SSL|handshak).*",
    "openssl": r".*(?:ERROR|error:).*",
    "haproxy": r".*(?:handshake failure|closed during|BADREQ|Timeout|error).*",
    "java": r".*Exception.*",
}


class Logs:
    """What servers write when something is wrong with a connection."""

    def __init__(self, t, kinds):
        self.kinds = kinds
        # HAProxy says it to a socket.
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = f"{STATE}/server{1 + kinds.index('haproxy')}/log.sock"
        lab.remove(path)
        self.socket.bind(path)
        self.socket.setblocking(False)
        t.undo.append(self.socket.close)
        self.heard = ""
        self.begin()

    def begin(self):
        """From now on. Whoever waited for their start, or asked them until now, has just gone, and may have left a trace."""
        time.sleep(0.5)
        self.at = {n: len(text) for n, text in self.text().items()}

    def text(self):
        while True:
            try:
                self.heard += self.socket.recv(65536).decode() + "\n"
            except BlockingIOError:
                break
        files = {"nginx": "error.log", "openssl": "openssl.log", "java": "java.log"}
        return {kind: self.heard if kind == "haproxy" else open(f"{STATE}/server{n}/{files[kind]}").read() for n, kind in enumerate(self.kinds, 1)}

    def trouble(self):
        """By kind of server."""
        return {kind: found for kind, text in self.text().items() if (found := re.findall(LOOKS_LIKE_TROUBLE[kind], text[self.at[kind]:]))}


@test
def checks_leave_no_trace(t):
    """Checks of every kind, and the handshakes that learn ticket keys, leave no error in the logs of nginx, OpenSSL, HAProxy and Java"""
    kinds = ["nginx", "openssl", "haproxy", "java"]
    os.environ["LAB_LOG_LEVEL"] = "info"
    try:
        t.servers.forget()
        t.servers.want(",".join(kinds))
    finally:
        del os.environ["LAB_LOG_LEVEL"]
        t.undo.append(t.servers.forget)
    logs = Logs(t, kinds)
    told = []
    for kind in ("tcp", "tls", "https"):
        # One that lasts for longer than the interval is given up, and that leaves a trace, as below.
        d = t.dispatcher("--check", f"kind={kind},interval=1s", args=lab.base_args([f"{VIP}:443"], [f"web{n}=10.78.0.{10 + n}:443" for n in range(1, 5)]))
        # One for each server, and several for the checks: it is about those.
        time.sleep(4.5)
        check(not logs.trouble(), f"{kind}: {logs.trouble()}")
        # Those that are under way when it stops are cut.
        d.stop()
        logs.begin()
        told.append(kind)
    # As a handshake that a client gives up does, and says so.
    for n in range(1, 5):
        spoken(["ip", "netns", "exec", lab.PREFIX + "-servers", "/usr/bin/python3", "-c",
                "import socket, sys; s = socket.create_connection((sys.argv[1], 443)); s.sendall(bytes.fromhex(sys.argv[2])); s.recv(1); s.sendall(bytes.fromhex('15030300020228')); s.close()",
                f"10.78.0.{10 + n}", clients.client_hello(clients.context()).hex()])
    lab.wait_until(lambda: set(logs.trouble()) == set(kinds), 10, lambda: f"a handshake that is given up leaves a trace at all; at {sorted(logs.trouble())}")
    return f"none of {', '.join(told)}; a handshake that is given up leaves one at each"
