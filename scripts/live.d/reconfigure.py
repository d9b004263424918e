"""Services and backends that change all the time, under connections that must not notice."""

import http.client
import json
import os
import random
import socket
import subprocess
import threading
import time

import clients
import lab
from lab import PREFIX, VIP, check

# Where bytes come back as they went; VIPs that come and go lead there, too.
PORT = 7000
MORE_VIPS = [f"10.77.0.{n}" for n in range(200, 220)]
# In their pools throughout; what is done to web2 is what leaves its sessions alone.
STAY = ("web1", "web2")
COME_AND_GO = ("web3", "web4", "web5", "web6")
BALANCES = ("maglev", "least-conn", "round-robin", "random-two")


class Control:
    """Requests at the control socket."""

    def __init__(self, path):
        self.path = path

    def __call__(self, method, path, body=None):
        connection = http.client.HTTPConnection("dispatcher", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(self.path)
        connection.request(method, path, body if body is None or isinstance(body, str) else json.dumps(body))
        answer = connection.getresponse()
        said = json.loads(answer.read())
        connection.close()
        return answer.status, said


class Program:
    """A program of this directory in a namespace, and what it said last."""

    def __init__(self, t, namespace, name, *arguments):
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
        self.name, self.said = name, {}
        self.process = subprocess.Popen(["ip", "netns", "exec", f"{PREFIX}-{namespace}", "/usr/bin/python3", "-B", program, *map(str, arguments)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        t.undo.append(self.close)
        self.listener = threading.Thread(target=self.listen, daemon=True)
        self.listener.start()

    def listen(self):
        for line in self.process.stdout:
            self.said = json.loads(line) if line[0] == "{" else {"ready": True}

    def finish(self):
        """It comes to its end, and has said its last."""
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            raise lab.Failure(f"{self.name} does not come to its end: {self.said}") from None
        self.listener.join(5)
        check(self.process.returncode == 0, f"{self.name}: status {self.process.returncode}")
        return self.said

    def close(self):
        self.process.kill()
        self.process.wait()


class Wanted:
    """What is wanted of services and pools: always something else, and always with the servers that stay."""

    def __init__(self, seed):
        self.draw = random.Random(seed)
        self.vips = []

    def text(self):
        """The next, in TOML, and the VIPs that it has beside the first."""
        d = self.draw
        self.vips = sorted(d.sample(MORE_VIPS, d.randrange(1, 6)))
        some = [name for name in COME_AND_GO if d.random() < 0.6]
        lines = ['[[service]]', 'name = "shop"', f'listen = ["{VIP}:443"]', 'pool = "shop"']
        if d.random() < 0.5:
            lines += ['route = [{ sni = ["api.example.test"], pool = "api" }]']
        lines += ['[[service]]', 'name = "echo"', f'listen = ["{VIP}:{PORT}"]', 'pool = "echo"']
        for vip in self.vips:
            lines += ['[[service]]', f'name = "echo-{vip}"', f'listen = ["{vip}:{PORT}"]', 'pool = "echo"']
        for pool, names, port in (("shop", (*STAY, *some), 443), ("api", STAY, 443), ("echo", ("e1", *(n.replace("web", "e") for n in some)), PORT)):
            lines += [f'[pool.{pool}]', f'balance = "{d.choice(BALANCES)}"', 'backend = [']
            for name in names:
                # The first takes new sessions whatever happens to the others.
                weight = 1 if name[-1] == "1" else d.randrange(0, 5)
                lines += [f'  {{ name = "{name}", address = "10.78.0.1{name[-1]}:{port}", weight = {weight} }},']
            lines += [']']
        return "\n".join(lines) + "\n"


class Changes:
    """One change after the other, by files and by verbs."""

    def __init__(self, d, control, seed):
        self.control, self.draw, self.wanted = control, random.Random(seed), Wanted(seed)
        self.head = open(d.config).read().split("[[service]]")[0]
        self.took, self.refused, self.by = [], [], {}

    def file(self):
        status, said = self.control("PUT", "/v1/configuration", self.head + self.wanted.text())
        self.done("file", status, said)

    def verb(self):
        """Of what comes and goes anything; of web2 what leaves its sessions alone. One that is refused, as who it is about is not there just now or is
        there already, is no change: then another."""
        while not self.tried():
            pass

    def tried(self):
        d = self.draw
        name = d.choice(("web2", *COME_AND_GO, "e2", "e3", "e4", "e5", "e6"))
        pool, port = ("echo", PORT) if name[0] == "e" else ("shop", 443)
        verbs = [("POST", f"/v1/backends/{name}/drain", None), ("POST", f"/v1/backends/{name}/ready", None),
                 ("PUT", f"/v1/backends/{name}/weight", {"weight": d.randrange(0, 5), "for": "1s"})]
        if name != "web2" and pool == "shop":
            verbs += [("POST", f"/v1/pools/{pool}/backends", {"name": name, "address": f"10.78.0.1{name[-1]}:{port}"}), ("DELETE", f"/v1/backends/{name}", None)]
        method, path, body = d.choice(verbs)
        status, said = self.control(method, path, body)
        if status in (404, 409):
            return False
        self.done({"DELETE": "remove", "POST": path.rsplit("/", 1)[1].replace("backends", "add")}.get(method, "weight"), status, said)
        return True

    def done(self, what, status, said):
        self.by[what] = self.by.get(what, 0) + 1
        if status == 200:
            self.took.append(said["took"])
        else:
            self.refused.append(f"{what}: {status} {said}")


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))] if values else float("nan")


def there_and_back(s, n):
    """A few bytes of a connection come back."""
    piece = b"%08d" % n * 20
    s.sendall(piece)
    got = b""
    while len(got) < len(piece):
        more = s.recv(1000)
        check(more, f"an end after {len(got)} of {len(piece)} bytes")
        got += more
    check(got == piece, "other bytes came back than went")


def run(t, seconds, changes, transfers, rate):
    """Changes under load. What was seen: of changes, workers, and connections; fails when a connection noticed."""
    t.servers.want("nginx,nginx,nginx,nginx,nginx,nginx", mode="any")
    path = f"{lab.WORK}/control.{time.monotonic_ns()}"
    t.undo.append(lambda: lab.remove(path + ".overrides"))
    echo = Program(t, "servers", "steady_peers.py", "serve", PORT, *(f"10.78.0.1{n}" for n in range(1, 7)))
    lab.wait_until(lambda: echo.said.get("ready"), 20, "the server that sends back")
    d = t.dispatcher(services=Wanted(0).text(), control=path)
    control = Control(path)
    todo = Changes(d, control, 1)
    held = Program(t, "clients", "steady_peers.py", "hold", transfers, VIP, PORT)
    lab.wait_until(lambda: held.said.get("open") == transfers and held.said["verified"] > 4096 * transfers, 60, lambda: f"{transfers} transfers, {held.said}")
    tls = Program(t, "clients", "tls_visits.py", rate / 4, *STAY)
    visits = Program(t, "clients", "steady_peers.py", "visit", rate * 3 / 4, VIP, PORT)
    lab.wait_until(lambda: tls.said.get("offered", 0) > 10 and visits.said.get("closed", 0) > 10, 60, "clients under way")
    # Connections by VIPs that come and go: each is reached as soon as its change is in force, and outlives its VIP.
    outlive, reached = [], 0
    begun = time.monotonic()
    for n in range(changes):
        time.sleep(max(0.0, begun + n * seconds / changes - time.monotonic()))
        if n % 2:
            todo.verb()
            continue
        before = set(todo.wanted.vips)
        todo.file()
        for vip in set(todo.wanted.vips) - before:
            s = clients.connect(vip, PORT, source=clients.address(n))
            there_and_back(s, n)
            outlive.append(s)
            reached += 1
        while len(outlive) > 40:
            s = outlive.pop(0)
            there_and_back(s, n)
            s.close()
    took = time.monotonic() - begun
    for s in outlive:
        there_and_back(s, 0)
        s.close()
    check(not todo.refused, f"{len(todo.refused)} changes refused, first: {todo.refused[:2]}")
    _, workers = control("GET", "/v1/workers")
    v, s, h = visits.finish(), tls.finish(), held.finish()
    check(h["broken"] == 0 and h["closed"] == transfers, f"transfers: {h}")
    check(v["broken"] == 0 and v["closed"] == v["begun"], f"short connections: {v}")
    check(s["broken"] == 0, f"TLS visits: {s}")
    check(s["resumed"] == s["offered"] > 0, f"TLS visits: {s}")
    ends = {}
    # All of them have ended in order, and none is missing.
    for c in d.await_log(transfers + v["begun"] + s["visits"] + reached, 60):
        ends[c["end"]] = ends.get(c["end"], 0) + 1
    check(set(ends) == {"fin"}, f"ends in the log: {ends}")
    pauses = [w["pauses"] for w in workers]
    longest = max(p["change_longest"] for p in pauses)
    d.stop()
    by = ", ".join(f"{n} {what}" for what, n in sorted(todo.by.items()))
    seen = (f"{len(todo.took)} changes in {took:.0f} s ({by}), in force in {quantile(todo.took, 0.5) * 1e3:.1f} ms (p99 {quantile(todo.took, 0.99) * 1e3:.1f}, "
            f"longest {max(todo.took) * 1e3:.1f}); a worker's pause p99 {max(p['change_p99'] for p in pauses) * 1e3:.2f} ms, longest {longest * 1e3:.2f}, "
            f"longest turn {max(p['turn_longest'] for p in pauses) * 1e3:.1f}; {transfers} transfers with {h['verified'] >> 20} MiB there and back, "
            f"{v['closed'] + s['visits']} new connections ({(v['closed'] + s['visits']) / took:.0f}/s), {s['resumed']} of {s['offered']} sessions resumed, "
            f"{reached} connections by {len(MORE_VIPS)} VIPs that came and went: none broken, no byte wrong")
    return seen, longest
