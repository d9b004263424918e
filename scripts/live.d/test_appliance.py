"""What only a dispatcher with cards of its own has to show (scripts/appliance): cables that are pulled, cards that change hands."""

import os
import re
import signal
import socket
import threading
import time

import clients
import lab
from lab import VIP, check

if "APPLIANCE_DIR" in os.environ:
    from registry import test
else:
    def test(run):
        return run


def cable(name, how):
    """Pulls (`off`) or plugs (`on`) the cable of a card."""
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(5)
        monitor.connect(os.environ["APPLIANCE_DIR"] + "/monitor")
        said = b""
        # A prompt before the command, and one when it is done.
        for command in (b"", f"set_link {name} {how}\n".encode()):
            monitor.sendall(command)
            while not said.endswith(b"(qemu) "):
                said += monitor.recv(4096)
            done, said = said, b""
        check(b"rror" not in done, f"set_link {name} {how}: {done}")


@test
def appliance_cables(t):
    """The cable of each card is pulled and plugged: counted, survived, old and new connections go on"""
    t.servers.want("nginx,nginx,haproxy")

    def serve(connection, _):
        connection.settimeout(60)
        while got := connection.recv(100):
            connection.sendall(got)

    t.server("10.78.0.14", 443, serve)
    d = t.dispatcher(args=lab.base_args([f"{VIP}:443", f"{VIP}:80"], ["echo=10.78.0.14:443"]))

    def downs():
        return int(d.find(r"^[0-9.]+s: .*link-downs (\d+)") or 0)

    def alive(connection):
        connection.sendall(b"still there")
        check(connection.recv(100) == b"still there", "the echo")

    waits = []
    with clients.connect(timeout=30) as old:
        alive(old)
        for times, name in enumerate(("lan", "wan"), 1):
            cable(name, "off")
            try:
                lab.wait_until(lambda: downs() >= times, 10, lambda: f"link-downs {times}, {downs()} were counted")
                # What is sent meanwhile has nowhere to go.
                old.sendall(b"meanwhile")
                time.sleep(0.5)
            finally:
                cable(name, "on")
            begun = time.monotonic()
            check(old.recv(100) == b"meanwhile", "what was sent meanwhile, repeated")
            waits.append(time.monotonic() - begun)
            alive(old)
            begun = time.monotonic()
            with clients.connect(timeout=20) as new:
                alive(new)
            waits.append(time.monotonic() - begun)
    counted = downs()
    d.stop()
    check(counted == 2, f"{counted} link-downs were counted")
    return f"{counted} link-downs; after each the old connection went on within {max(waits[::2]):.1f} s, a new one within {max(waits[1::2]):.1f} s"


@test
def appliance_takeover(t):
    """Another process takes over, and the cards with it: what runs goes on behind a pause, and whoever connects meanwhile is served"""
    t.servers.want("nginx,nginx,haproxy")

    def serve(connection, _):
        connection.settimeout(120)
        while got := connection.recv(100):
            connection.sendall(got)

    t.server("10.78.0.14", 443, serve)
    d = t.dispatcher(args=[*lab.base_args([f"{VIP}:443", f"{VIP}:80"], ["echo=10.78.0.14:443"]), "--control", "/run/control.sock"])
    gaps, over = [], threading.Event()

    def talk(connection):
        """Asks and hears, again and again: the longest that an answer took."""
        longest = 0.0
        while not over.is_set():
            begun = time.monotonic()
            connection.sendall(b"still there")
            check(connection.recv(100) == b"still there", "the echo")
            longest = max(longest, time.monotonic() - begun)
            time.sleep(0.02)
        gaps.append(longest)

    def in_lab(connection):
        lab.enter("clients")
        talk(connection)

    starts = lambda: sum(bool(re.match(r"  total +\d+ bytes", line)) for line in list(d.out))
    waits = []
    with clients.connect(timeout=60) as old:
        talking = threading.Thread(target=in_lab, args=(old,), daemon=True)
        talking.start()
        time.sleep(1)
        for times in (2, 3):
            tries, asked = 0, float("-inf")
            while starts() < times:
                # An emulated machine may be too slow for what is waited for, and then the one that runs goes on.
                if time.monotonic() > asked + 30:
                    tries, asked = tries + 1, time.monotonic()
                    if tries > 3:
                        d.stop()
                        raise lab.Failure(f"not taken over: {''.join(d.err)[-600:]}")
                    d.process.send_signal(signal.SIGUSR2)
                with clients.connect(timeout=30) as new:
                    came = time.monotonic()
                    new.sendall(b"hello")
                    check(new.recv(100) == b"hello", "the echo of one who has come meanwhile")
                    waits.append(time.monotonic() - came)
                time.sleep(0.02)
            time.sleep(1)
        over.set()
        talking.join(60)
    check(len(gaps) == 1, "the connection that was there before has not gone on")
    d.stop()
    said = "".join(d.err)
    took = [int(us) / 1e3 for us in re.findall(r"has taken over .*, (\d+) us", said)]
    check(len(took) == 2, f"takeovers that it tells of: {said[-600:]}")
    devices = ", ".join(re.findall(r"devices (let go of in \d+ ms, opened in \d+ ms)", said))
    failed = said.count("everything goes on here")
    return (f"2 takeovers, {failed} more that were too slow; nobody served for {took[0]:.0f} and {took[1]:.0f} ms ({devices}); the old connection's longest pause was {gaps[0]:.1f} s, "
            f"{len(waits)} connected meanwhile (slowest answer {max(waits):.1f} s)")
