"""Asking the dispatcher what it thinks of its servers, and finding out by many short visits of new clients."""

import concurrent.futures
import json
import subprocess
import time

import clients
import lab
from lab import DISPATCHER, VIP, check


class Operator:
    """One who uses `dispatcher ctl`."""

    def __init__(self):
        self.path = f"{lab.WORK}/control.{time.monotonic_ns()}"

    def says(self, *words):
        return subprocess.run([DISPATCHER, "ctl", "--socket", self.path, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)

    def __call__(self, *words):
        """What `ctl` says; it must not refuse."""
        done = self.says(*words)
        check(done.returncode == 0 and done.stderr == "", f"ctl {' '.join(words)}: status {done.returncode}, {done.stderr.strip()[-300:]}")
        return done.stdout

    def refused(self, expected, *words):
        done = self.says(*words)
        check(done.returncode == 1 and done.stdout == "" and expected in done.stderr, f"ctl {' '.join(words)}: status {done.returncode}, {done.stderr.strip()[-300:]}")

    def backends(self):
        return {b["name"]: b for b in json.loads(self("show", "backends", "--json"))}

    def version(self):
        return self("diff").split()[1].rstrip(",")


def asked(t, *flags, backends=(), others=3, edit=lambda args: args):
    """A dispatcher before the lab's servers and others, that can be asked what it thinks of them. `edit`: what becomes of its other flags."""
    ctl = Operator()
    t.undo.append(lambda: lab.remove(ctl.path + ".overrides"))
    known = [f"web{n}=10.78.0.{10 + n}:443" for n in range(1, 1 + others)]
    return ctl, t.dispatcher("--balance", "round-robin", "--control", ctl.path, *flags, args=edit(lab.base_args([f"{VIP}:443"], known + list(backends))))


def visits(count, timeout=5, at_once=8):
    """So many new clients: the names of those who served them, None for who was not."""
    ctx = clients.context()

    def one(n):
        try:
            return clients.fetch(clients.address(n), ctx, timeout=timeout)[0].split()[0].decode()
        except (OSError, lab.Failure):
            return None

    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(one, range(count)))


def tunnels(ctl):
    """All workers' tunnels whose packets are sealed."""
    return json.loads(ctl("show", "tunnels", "--json"))


def observed(ctl, name="web4"):
    return ctl.backends()[name]["observed"]


def meets(name):
    return name in visits(16)
