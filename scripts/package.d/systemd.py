"""The package's unit under a real systemd, in a container: see scripts/package-test --systemd. It runs in namespaces of its own, and ends with them."""

import os
import shlex
import subprocess
import tempfile
import time

from common import BARE, PACKAGE, PATIENCE, first_hour, must, ok, run, servers, until, wires

# A client with one TLS connection, which asks over it when it is told to.
HELD = """
import socket, ssl, sys
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
s = context.wrap_socket(socket.create_connection(("192.0.2.10", 443), 10))
print("connected", flush=True)
sys.stdin.readline()
s.settimeout(10)
s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
print(s.recv(100).decode().splitlines()[0], flush=True)
"""
UPGRADES = 5


class Container:
    """Debian with systemd as its first process, in the network namespace that there is."""

    def __init__(self):
        self.root = tempfile.mkdtemp()
        ok("mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", self.root)
        ok("tar", "-C", self.root, "-xf", BARE)
        ok("cp", PACKAGE, f"{self.root}/root/dispatcher.deb")
        # What the unit asks for must be there to be given: a container has less than a machine.
        more = ["--capability=CAP_NET_ADMIN,CAP_NET_RAW,CAP_BPF,CAP_SYS_NICE", "--system-call-filter=bpf"]
        words = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--console=pipe", *more, "-D", self.root, "--boot"]
        self.log = open(f"{self.root}.log", "w+")
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.leader = until(self.find, "systemd")
        until(lambda: run(*self.inside("systemctl", "is-system-running")).stdout.strip() in ("running", "degraded"), "the end of booting")

    def find(self):
        must(self.process.poll() is None, f"systemd-nspawn has ended: {open(self.log.name).read()[-500:]}")
        for child in run("pgrep", "-P", str(self.process.pid), "-x", "systemd").stdout.split():
            return child
        return None

    def inside(self, *words):
        return ["nsenter", "-t", self.leader, "-m", "-u", "-i", "-p", "--", *words]

    def ok(self, *words):
        return ok(*self.inside(*words))

    def shown(self, name):
        return self.ok("systemctl", "show", "--value", "-p", name, "dispatcher").strip()


def journal(container):
    return run(*container.inside("journalctl", "--no-pager", "-u", "dispatcher", "-n", "40", "-o", "short-precise")).stdout


def main():
    ok("mount", "--make-rprivate", "/")
    ok("mkdir", "-p", "/run/netns")
    ok("mount", "-t", "tmpfs", "tmpfs", "/run/netns")
    wires()
    with tempfile.TemporaryDirectory() as folder:
        servers(folder)
        container = Container()
        commands = [command for command in first_hour() if "$EDITOR" not in command]
        for command in commands:
            words = shlex.split(command)
            if words[:2] == ["dpkg", "-i"]:
                container.ok("dpkg", "-i", "/root/dispatcher.deb")
            elif words[0] == "curl":
                until(lambda: run("ip", "netns", "exec", "clients", *words).stdout, command)
            else:
                container.ok(*words)
        held = subprocess.Popen(["ip", "netns", "exec", "clients", "/usr/bin/python3", "-c", HELD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        must(held.stdout.readline() == "connected\n", "no connection")
        processes = [container.shown("MainPID")]
        for _ in range(UPGRADES):
            container.ok("systemctl", "reload", "dispatcher")
            processes.append(container.shown("MainPID"))
        must(len(set(processes)) == UPGRADES + 1, f"processes of the service, one upgrade after another: {processes}\n{journal(container)}")
        # One of which the manager does not hear that it lives would be killed by then.
        time.sleep(float(container.shown("WatchdogUSec").removesuffix("s")) * 1.5)
        must(container.shown("MainPID") == processes[-1] and container.shown("NRestarts") == "0", f"it was started anew: {journal(container)}")
        held.stdin.write("\n")
        held.stdin.flush()
        answer = held.stdout.readline()
        must(answer.startswith("HTTP/1."), f"the connection from before {UPGRADES} upgrades is answered {answer!r}")
        # A file with a fault: the running one goes on, and the command says why.
        with open(f"{container.root}/etc/dispatcher/dispatcher.toml", "a") as f:
            f.write("nonsense = 1\n")
        refused = run(*container.inside("systemctl", "reload", "dispatcher"))
        must(refused.returncode != 0 and container.shown("MainPID") == processes[-1], f"a faulty file: {refused.returncode}")
        must(container.shown("ActiveState") == "active", "a faulty file ended it")
        until(lambda: "nonsense" in journal(container), f"the fault in the journal: {journal(container)}")
        container.ok("systemctl", "stop", "dispatcher")
        must(container.shown("Result") == "success", f"its end: {journal(container)}")
        # As a machine is switched off; what is left goes with the namespaces.
        run(*container.inside("systemctl", "poweroff"))
        try:
            container.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            container.process.kill()
        os.unlink(container.log.name)
    print(f"package-test: under systemd: {len(commands)} commands of the first hour, {UPGRADES} upgrades by reload with a connection that lives on, the watchdog, a faulty file, the end")


main()
