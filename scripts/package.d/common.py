"""What the tests of the package have in common: what they run, the wires, the servers, the commands of the document."""

import shlex
import subprocess
import sys
import time

PACKAGE, BARE, DOCUMENT = sys.argv[1:4]
PATIENCE = 30


def must(so, what):
    if not so:
        sys.exit(f"package-test: {what}")


def run(*words, **more):
    return subprocess.run(words, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, **more)


def ok(*words):
    done = run(*words)
    must(done.returncode == 0, f"{shlex.join(words)}: status {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
    return done.stdout


def until(so, what):
    end = time.monotonic() + PATIENCE
    while True:
        found = so()
        if found:
            return found
        must(time.monotonic() < end, f"waited in vain for {what}")
        time.sleep(0.05)


def wires():
    """Two virtual pairs: eth1 and eth2 are the dispatcher's, and their ends are in namespaces of clients and of servers."""
    ok("ip", "link", "set", "lo", "up")
    for name, inner, addresses, routes in (
        ("clients", "eth1", ["192.0.2.1/24"], []),
        ("servers", "eth2", ["198.51.100.1/24", "198.51.100.11/24", "198.51.100.12/24"], []),
    ):
        ok("ip", "netns", "add", name)
        ok("ip", "link", "add", inner, "type", "veth", "peer", "name", "eth0", "netns", name)
        ok("ip", "link", "set", inner, "up")
        ok("ip", "-n", name, "link", "set", "lo", "up")
        ok("ip", "-n", name, "link", "set", "eth0", "up")
        for address in addresses:
            ok("ip", "-n", name, "addr", "add", address, "dev", "eth0")


def servers(folder):
    """OpenSSL's at both addresses of the example."""
    ok("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{folder}/key", "-out", f"{folder}/cert", "-subj", "/CN=web", "-days", "2")
    for at in ("198.51.100.11:443", "198.51.100.12:443"):
        words = ["ip", "netns", "exec", "servers", "openssl", "s_server", "-quiet", "-www", "-accept", at, "-key", f"{folder}/key", "-cert", f"{folder}/cert"]
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def first_hour():
    """The commands that the document has under that heading."""
    with open(DOCUMENT) as f:
        section = f.read().split("## The first hour", 1)[1].split("\n## ", 1)[0]
    commands = [line[4:].split("   #")[0].strip() for line in section.splitlines() if line.startswith("    ") and line.strip()]
    must(4 <= len(commands) < 10, f"{len(commands)} commands in the first hour: {commands}")
    return commands
