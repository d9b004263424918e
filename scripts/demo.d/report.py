"""What the visits came to, and whether it is what it must be. Usage: report.py DIRECTORY DRIVER CLIENTS RETURNS MODE=KINDS...

The directory has visits.MODE.AFFINITY, as visits.py writes them, and log.MODE.AFFINITY, the dispatcher's own; log.MODE.restarted is that of the one
that was started after the other was killed. KINDS are those of the servers, as scripts/lab has them. Exit status 1 when a number is not what it must be.
"""

import json
import sys

WORK, DRIVER = sys.argv[1:3]
CLIENTS, RETURNS = map(int, sys.argv[3:5])
MODES = dict(mode.split("=") for mode in sys.argv[5:])
NAMES = {"session-id": "TLS 1.2 session ID", "ticket": "TLS 1.2 ticket", "tls13": "TLS 1.3", "mixed": "any, by server",
         "nameless": "TLS 1.3, one nameless", "go": "TLS 1.3, Go among them", "cookie": "HTTP, cookie"}
# Clients that have a server's session and come back before it was seen which server opens it.
COLD = ("tls13", "mixed", "nameless", "go")
TOTAL = CLIENTS * RETURNS

wrong = []


def must(what, truth):
    if not truth:
        wrong.append(what)


class Round:
    """One round of visits, as its clients and as the dispatcher saw it."""

    def __init__(self, mode, label, affinity, visits, log):
        self.mode, self.label, self.affinity, self.visits, self.log = mode, label, affinity, visits, log
        self.servers = [f"web{n}" for n, _ in enumerate(MODES[mode].split(","), 1)]
        self.returned = [v for v in visits if v["visit"] > 0]
        self.resumed = sum(v["outcome"] == "resumed" for v in self.returned)
        self.failed = sum(v["outcome"] == "failed" for v in visits)
        # The same clients, after the dispatcher was killed.
        self.restarted = None
        must(f"{self}: every connection is made", len(self.returned) == TOTAL and len(visits) in (TOTAL, TOTAL + CLIENTS))
        must(f"{self}: no connection fails", self.failed == 0)
        # Without affinity nobody reads what servers say by cookies.
        seen = (lambda c: bool(c["resumed"])) if mode == "cookie" and affinity == "on" else (lambda c: c["resumed"])
        told = (lambda v: None) if mode == "cookie" and affinity == "off" else (lambda v: v["outcome"] == "resumed")
        must(f"{self}: the dispatcher saw what the clients saw", log is None or [(c["client"], c["backend"], seen(c)) for c in log]
             == [(v["end"], v["served"], told(v)) for v in visits if v["outcome"] != "failed"])

    def __str__(self):
        return f"{self.label}, affinity {self.affinity}"

    def at(self, server, resumed=("resumed", "new")):
        return sum(v["served"] == server and v["outcome"] in resumed for v in self.visits)

    def row(self):
        each = [f"{self.at(s)} ({self.at(s, ['new'])})" for s in self.servers]
        return f"  {self.label:35} {self.affinity:8} {len(self.returned):>8} {self.resumed:>8} {self.failed:>7} {self.after():>14}" + "".join(
            f"{e:>16}" for e in each)

    def after(self):
        return self.restarted.resumed if self.restarted else "-"


def visits_of(mode, affinity):
    visits = []
    for line in open(f"{WORK}/visits.{mode}.{affinity}"):
        if line != "restart\n":
            n, client, visit, outcome, sealed, served, end = line.split()
            visits.append({"round": int(n), "visit": int(visit), "outcome": outcome, "sealed": sealed, "served": served, "end": end})
    return visits


class Log:
    """The connections that a dispatcher logged, by client."""

    def __init__(self, name):
        # The first trial counts for nothing. Several workers number their connections each by itself, so it is the client's
        # address and port that tells which is which; the connections of one such pair belong to one worker, and are numbered
        # as they begin.
        self.by_client = {}
        log = [json.loads(line) for line in open(f"{WORK}/log.{name}")]
        for c in sorted((c for c in log if not c["client"].startswith("10.77.0.2:")), key=lambda c: c["conn"]):
            self.by_client.setdefault(c["client"], []).append(c)

    def of(self, visits):
        return [self.by_client[v["end"]].pop(0) for v in visits if self.by_client.get(v["end"])]

    def ends(self, what):
        must(f"{what}: the log has these connections and no more", not any(self.by_client.values()))


def rounds(mode, affinity):
    """The rounds of one run."""
    visits, log = visits_of(mode, affinity), Log(f"{mode}.{affinity}")
    out = []
    numbers = sorted({v["round"] for v in visits})
    # The last one is that after the restart.
    restarted = numbers.pop() if affinity == "on" else None
    for n in numbers:
        mine = [v for v in visits if v["round"] == n]
        label = NAMES[mode]
        if mode in COLD and affinity == "on":
            label += ", cold" if n == 1 else ", keys known"
        out.append(Round(mode, label, affinity, mine, log.of(mine)))
    log.ends(f"{NAMES[mode]}, affinity {affinity}")
    if restarted:
        mine, log = [v for v in visits if v["round"] == restarted], Log(f"{mode}.restarted")
        out[-1].restarted = Round(mode, f"{NAMES[mode]}, after a restart", affinity, mine, log.of(mine))
        log.ends(str(out[-1].restarted))
    return out


def beside(mode):
    """The same clients past HAProxy, which logs nothing."""
    visits = visits_of(mode, "haproxy")
    return Round(mode, NAMES[mode] + ", HAProxy", "stick on", visits, None)


print()
print(f"Sessions that {CLIENTS} clients resumed on {RETURNS} returns each, every other time from another address,")
print(f"with servers that share nothing, over {DRIVER}, --balance least-conn; the same once more after the dispatcher was killed and started anew")
print("with its --state file; before that, at each server connections (new sessions):")
kinds = None
for mode in MODES:
    if MODES[mode] != kinds:
        kinds = MODES[mode]
        print()
        print(f"  {'':35} {'affinity':8} {'returned':>8} {'resumed':>8} {'failed':>7} {'after restart':>14}" + "".join(f"{k:>16}" for k in kinds.split(",")))
    for r in rounds(mode, "on") + rounds(mode, "off") + ([beside(mode)] if mode == "cookie" else []):
        print(r.row())
        if r.affinity == "off":
            must(f"{r}: visibly fewer resume", r.resumed <= TOTAL * 8 // 10)
            continue
        # From the first one on: the servers' keys are known before any client has shown them.
        for each in [r, r.restarted] if r.restarted else [r]:
            missed = [f"{v['sealed']}'s at {v['served']}" for v in each.returned if v["outcome"] != "resumed"]
            must(f"{each}: all of {TOTAL} resume; did not: {', '.join(missed)}", each.resumed == TOTAL)
        for s in r.servers:
            must(f"{r}: {s} begins sessions", r.at(s, ["new"]) > 0)
print()
for what in wrong:
    print("  NOT AS IT MUST BE:", what)
print("NOT as it must be" if wrong else "as it must be")
sys.exit(bool(wrong))
