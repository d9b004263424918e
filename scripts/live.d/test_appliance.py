"""What only a dispatcher with cards of its own has to show (scripts/appliance): cables that are pulled."""

import os
import socket
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
