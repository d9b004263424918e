"""Floods of handshakes on a tunnel, by somebody who knows our public key and can send with the far end's address."""

import base64
import hashlib
import os
import socket
import subprocess
import threading
import time

import lab
from asking import asked, tunnels
from honest import Honest
from lab import STATE, by, check
from registry import test

RATE = 20_000


def initiation(public_key):
    """A first message of a handshake that only its sender's ignorance of a private key tells from a true one: its first MAC fits (WireGuard, section 5.4.4)."""
    body = bytes([1, 0, 0, 0]) + os.urandom(4 + 32 + 48 + 28)
    key = hashlib.blake2s(b"mac1----" + public_key).digest()
    return body + hashlib.blake2s(body, digest_size=16, key=key).digest() + bytes(16)


def frame(to, message):
    udp = (51820).to_bytes(2, "big") * 2 + (8 + len(message)).to_bytes(2, "big") + bytes(2) + message
    header = bytearray(b"\x45\0" + (20 + len(udp)).to_bytes(2, "big") + bytes([0, 0, 0x40, 0, 64, 17, 0, 0]) + socket.inet_aton("10.98.0.2") + socket.inet_aton("10.98.0.1"))
    total = sum(int.from_bytes(header[i:i + 2], "big") for i in range(0, 20, 2))
    total = (total & 0xffff) + (total >> 16)
    header[10:12] = (~(total + (total >> 16)) & 0xffff).to_bytes(2, "big")
    return bytes.fromhex(to.replace(":", "")) + bytes.fromhex("020000007802") + b"\x08\0" + bytes(header) + udp


class Handshakes:
    """Sends forged ones from the servers' side, until stopped."""

    def __init__(self, t, to):
        key = subprocess.run([lab.DISPATCHER, "tunnel", "pubkey", STATE + "/tunnel.key"], check=True, capture_output=True, text=True).stdout.strip()
        self.frames = [frame(to, initiation(base64.b64decode(key))) for _ in range(2000)]
        with lab.inside("servers"):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self.socket.bind(("s0", 0))
        self.sent, self.stopping = 0, threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        t.undo.append(self.stop)

    def run(self):
        began = time.monotonic()
        while not self.stopping.is_set():
            due = (time.monotonic() - began) * RATE
            if self.sent >= due:
                time.sleep(0.001)
                continue
            for _ in range(64):
                self.socket.send(self.frames[self.sent % len(self.frames)])
                self.sent += 1

    def stop(self):
        self.stopping.set()
        self.thread.join()
        self.socket.close()


@test
def flood_tunnel_handshakes(t):
    """Forged handshakes with a true first MAC, from a far end's own address: visits through the tunnel are served, and a far end that begins anew meanwhile comes through, by its cookie"""
    t.servers.want("nginx,nginx,nginx")
    by(t, "wireguard")
    ctl, d = asked(t)
    lab.wait_until(lambda: all(one["state"] == "up" for one in tunnels(ctl)), 20, "tunnels up")
    honest = Honest(t)
    quiet = honest.during(5)
    flood = Handshakes(t, d.mac("lan"))
    time.sleep(0.5)
    sent, began = flood.sent, time.monotonic()
    under = honest.during(8)
    rate = (flood.sent - sent) / (time.monotonic() - began)
    before = tunnels(ctl)[0]
    lab.lab("far", "stop")
    lab.lab("far", "start")
    anew = time.monotonic()
    with honest.phase():
        lab.wait_until(lambda: tunnels(ctl)[0]["handshakes"] > before["handshakes"], 60, lambda: f"a handshake under the flood: {tunnels(ctl)[0]}")
    anew = time.monotonic() - anew
    flood.stop()
    time.sleep(2)
    after = honest.during(3)
    honest.finish()
    quiet, under, after = quiet.seen(), under.seen(), after.seen()
    d.stop()
    check(rate > 5000, f"{rate:.0f} a second are no flood")
    check(quiet.rate == 1 and after.rate == 1, f"{quiet}; {after}; {(quiet.errors + after.errors)[:1]}")
    check(under.rate >= 0.99, f"under the flood: {under}; {under.errors[:1]}")
    check(d.drops.get("tunnel-flooded", 0) > 10_000, f"drops {d.drops}")
    return (f"{rate / 1000:.0f} k forged handshakes/s, {d.drops.get('tunnel-flooded', 0)} dropped, {d.drops.get('tunnel-unopened', 0)} worked on; quiet: {quiet}; "
            f"flooded: {under}; a new far end after {anew:.1f} s; then {after}")
