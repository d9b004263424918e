"""What a server's agent says of it."""

import json
import os
import signal
import subprocess
import time

import clients
import lab
from asking import Operator, meets
from lab import VIP, WORK, check
from registry import test


# Only the first has an agent.
SERVICES = f"""
[[service]]
name = "shop"
listen = ["{VIP}:443"]
pool = "shop"

[pool.shop]
balance = "round-robin"
backend = [
  {{ name = "web1", address = "10.78.0.11:443", weight = 4, agent-check = {{ port = 9999, interval = "200ms" }} }},
  {{ name = "web2", address = "10.78.0.12:443" }},
  {{ name = "web3", address = "10.78.0.13:443" }},
]
"""


class Agent:
    """scripts/lab.d/agent at the nth server, which says what it is told to."""

    def __init__(self, t, n, port):
        self.file = f"{WORK}/agent.{n}"
        self.say("ready")
        self.process = subprocess.Popen(["ip", "netns", "exec", lab.PREFIX + "-servers", lab.ROOT + "/scripts/lab.d/agent", f"10.78.0.{10 + n}", str(port), self.file],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        t.undo.append(self.stop)

    def say(self, line):
        with open(self.file + ".new", "w") as f:
            f.write(line + "\n")
        # All of it or nothing.
        os.rename(self.file + ".new", self.file)

    def stop(self):
        # The agent, and the nc that waits for it.
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        lab.remove(self.file)


@test
def agent_check(t):
    """A real agent of ten lines of shell says a weight, a limit, drain, maint, down with a reason and ready: each is in force soon and shown, and resuming clients are led by it"""
    agent = Agent(t, 1, 9999)
    t.servers.want("nginx,nginx,haproxy")
    ctl = Operator()
    t.undo.append(lambda: lab.remove(ctl.path + ".overrides"))
    d = t.dispatcher(services=SERVICES, control=ctl.path)
    ctx = clients.context("1.2", tickets=False)
    session = None
    lab.wait_until(lambda: meets("web1"), 20, "clients at a server whose agent says ready")
    while session is None:
        body, (got, _, _) = clients.fetch(clients.address(1), ctx)
        session = got if b"web1" in body else None

    def shown():
        return ctl.backends()["web1"]

    def until(truth, what):
        lab.wait_until(lambda: truth(shown()), 20, lambda: f"{what}: {json.dumps(shown())}")

    def comes_back():
        body, (_, reused, _) = clients.fetch(clients.address(2), ctx, session=session)
        return reused and b"web1" in body

    said = lambda words: agent.say(words)  # noqa: E731
    said("50%")
    until(lambda b: b["in_force"]["weights"][0]["weight"] == 2, "50% of a weight of 4")
    said("100% maxconn:30")
    until(lambda b: b["in_force"]["weights"][0]["weight"] == 4 and b["in_force"].get("max_connections") == 30, "maxconn:30")
    said("drain")
    until(lambda b: b["in_force"]["state"] == "draining", "drain")
    check(not meets("web1") and comes_back(), "a draining server is met by those alone who resume there")
    said("maint")
    until(lambda b: b["in_force"]["state"] == "down", "maint")
    check(not meets("web1") and not comes_back(), "a server in maintenance was met")
    said("ready")
    until(lambda b: b["in_force"]["state"] == "up", "ready")
    lab.wait_until(lambda: meets("web1"), 20, "clients again")
    said("down#disk on fire")
    until(lambda b: b["in_force"]["state"] == "down" and "disk on fire" in b["observed"]["agent"]["says"], "down#disk on fire")
    check(not meets("web1"), "a server that says it is down was met")
    said("up")
    until(lambda b: b["in_force"]["state"] == "up", "up")
    lab.wait_until(lambda: meets("web1") and comes_back(), 20, "clients and sessions again")
    # Its agent gone, what it said last holds: it is no check.
    agent.stop()
    t.undo.remove(agent.stop)
    time.sleep(1)
    check(meets("web1"), "a server whose agent is gone was taken out")
    d.stop()
    return "50 %, maxconn:30, drain, maint, ready, down#disk on fire, up, and an agent that is gone"
