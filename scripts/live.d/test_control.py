"""What operators do on day two, over the control socket, while clients come and go."""

import errno
import socket
import time

import clients
import lab
from asking import Operator
from lab import check
from registry import test

SERVICES = """
[[service]]
name = "shop"
listen = ["10.77.0.100:443"]
pool = "shop"

[pool.shop]
balance = "round-robin"
backend = [
  { name = "web1", address = "10.78.0.11:443" },
  { name = "web2", address = "10.78.0.12:443" },
  { name = "web3", address = "10.78.0.13:443" },
]
"""

# So many clients in a row meet every one of at most four servers, whichever of two workers they belong to.
ROUND = 16


class Shop:
    """A dispatcher with that service, and its clients."""

    def __init__(self, t, operator):
        self.d = t.dispatcher(services=SERVICES, control=operator.path)
        self.seen = 0
        self.ctx = clients.context("1.2", tickets=False)

    def visit(self, session=None, n=0):
        """Who served a client, whether it resumed, and its session."""
        _, (session, reused, _) = clients.fetch(clients.address(n), self.ctx, session=session)
        self.seen += 1
        return self.d.await_log(self.seen)[-1]["backend"], reused, session

    def new_ones(self):
        """Who serves new clients."""
        return {self.visit(n=n)[0] for n in range(ROUND)}

    def returns(self, sessions):
        """All of them come back to the server that they know."""
        for n, (backend, session) in enumerate(sessions):
            met, reused, _ = self.visit(session, n=n + 30)
            check(reused and met == backend, f"a session of {backend} met {met}, resumed: {reused}")


@test
def ctl_day_two(t):
    """Drain, ready, weight, add, remove, replace, reload and expiry under clients: each is in force at once, nobody else notices, and overrides outlive a restart"""
    t.servers.want("nginx,nginx,nginx,nginx")
    ctl = Operator()
    t.undo.append(lambda: lab.remove(ctl.path + ".overrides"))
    shop = Shop(t, ctl)
    sessions = []
    for n in range(ROUND):
        backend, _, session = shop.visit(n=n)
        sessions.append((backend, session))
    check({b for b, _ in sessions} == {"web1", "web2", "web3"}, f"clients met { {b for b, _ in sessions} }")
    # Drain: its sessions are resumed there, and nobody new comes.
    ctl("drain", "web1", "--for", "1h", "--why", "new disk")
    check(shop.new_ones() == {"web2", "web3"}, "a new client met a server that is drained")
    shop.returns(sessions)
    told = ctl.backends()["web1"]
    check((told["wanted"]["state"], told["in_force"]["state"], told["overrides"][0]["why"]) == ("up", "draining", "new disk"), f"shown: {told}")
    # Disable: not even those.
    ctl("disable", "web1")
    check(all(shop.visit(s, n=40)[0] != "web1" for b, s in sessions if b == "web1"), "a server that is disabled was met")
    ctl("ready", "web1")
    check(shop.new_ones() == {"web1", "web2", "web3"}, "not all servers are met again")
    # Weight 0 is no state: it resumes only.
    ctl("weight", "web3", "0")
    check(shop.new_ones() == {"web1", "web2"}, "a server of weight 0 was met")
    ctl("weight", "web3", "1")
    check(ctl.backends()["web3"]["overrides"] == [], "an override stayed that says what the file says")
    # Add and remove, while connections are open at all servers.
    ctl("add", "shop", "web4=10.78.0.14:443,max-connections=4000,check=https,check-interval=200ms")
    lab.wait_until(lambda: "web4" in shop.new_ones(), 10, "clients at the server that was added")
    added = lambda: ctl.backends()["web4"]  # noqa: E731
    lab.wait_until(lambda: (added()["observed"]["check"] or {}).get("state") == "up", 10, lambda: f"its check passes: {added()}")
    check(added()["in_force"]["max_connections"] == 4000 and added()["in_force"]["check"]["kind"] == "https" and added()["holds"]["state"] == "up", f"its limits and check: {added()}")
    held = [shop.ctx.wrap_socket(clients.connect(source=clients.address(n)), server_hostname=clients.NAME) for n in range(ROUND)]
    lab.wait_until(lambda: ctl.backends()["web2"]["observed"]["flows"] > 0, 5, "connections at web2")
    ctl("remove", "web2")
    gone = ctl.backends()["web2"]
    check(gone["in_force"] is None and gone["wanted"]["state"] == "up" and gone["overrides"], f"shown: {gone}")
    check("web2" not in shop.new_ones(), "a new client met a server that was removed")
    reached = 0
    for s in held:
        s.sendall(clients.GET)
        reached += b" 200 " in clients.read_all(s).split(b"\r\n")[0]
        s.close()
    check(reached == ROUND, f"{ROUND - reached} open connections broke by the removal of a server")
    shop.seen += ROUND
    shop.d.await_log(shop.seen)
    # At once: who is open there is reset, and nobody else.
    held = [shop.ctx.wrap_socket(clients.connect(source=clients.address(n)), server_hostname=clients.NAME) for n in range(ROUND)]
    lab.wait_until(lambda: ctl.backends()["web4"]["observed"]["flows"] > 0, 5, "connections at web4")
    ctl("remove", "web4", "--now")
    removed = lambda: [c["backend"] for c in shop.d.log() if c["end"] == "backend-removed"]
    reset = []

    def all_know():
        # Nothing was said by these clients meanwhile: what their sockets know came by itself.
        reset.extend([s for s in held if s not in reset and s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET])
        return reset and len(reset) == len(removed())

    lab.wait_until(all_know, 10, "clients of web4 reset, as many as the log has")
    for s in held:
        if s not in reset:
            s.sendall(clients.GET)
            check(b" 200 " in clients.read_all(s).split(b"\r\n")[0], "an answer that is none")
        s.close()
    shop.seen += ROUND
    shop.d.await_log(shop.seen)
    check(removed() == ["web4"] * len(reset), f"{len(reset)} clients were reset; in the log: {removed()}")
    # Another machine under the old name.
    ctl("add", "shop", "web2=10.78.0.14:443")
    lab.wait_until(lambda: "web2" in shop.new_ones(), 10, "clients at the new web2")
    check(ctl.backends()["web2"]["address"] == "10.78.0.14:443", "the new web2 is the old one")
    shop.returns([(b, s) for b, s in sessions if b != "web2"])
    # A file with a fault changes nothing, and says where.
    good, version = open(shop.d.config).read(), ctl.version()
    with open(shop.d.config, "w") as f:
        f.write(good.replace('"round-robin"', '"round-robbing"'))
    ctl.refused("1 fault, nothing was changed", "reload")
    with open(shop.d.config, "w") as f:
        f.write(good.replace("stats-interval", "hash-seed = 9\nstats-interval"))
    ctl.refused("needs a restart: hash-seed 0 -> 9", "reload")
    check(ctl.version() == version and shop.new_ones() == {"web1", "web2", "web3"}, "a refused reload changed something")
    with open(shop.d.config, "w") as f:
        f.write(good.replace('"round-robin"', '"least-conn"'))
    check("balance round-robin -> least-conn" in ctl("reload"), "the reload does not say what it changed")
    # What was said outlives a restart; what has a time ends by itself.
    ctl("drain", "web1", "--for", "1h")
    shop.d.stop()
    shop = Shop(t, ctl)
    check(shop.new_ones() == {"web2", "web3"}, "after a restart a server that is drained was met")
    ctl("ready", "web1")
    ctl("drain", "web3", "--for", "2s")
    began = time.monotonic()
    check("web3" not in shop.new_ones() or time.monotonic() - began > 1.5, "a new client met a server that is drained")
    lab.wait_until(lambda: "web3" in shop.new_ones(), 20, "clients at web3 after its time was over")
    return f"{ROUND} sessions resumed throughout; {reached} of {ROUND} open connections outlived a removal, {len(reset)} of {ROUND} were reset by --now; overrides outlived a restart"
