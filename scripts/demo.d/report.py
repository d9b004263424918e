"""What the visits came to, and whether it is what it must be. Usage: report.py DIRECTORY DRIVER CLIENTS RETURNS MODE...

The directory has visits.MODE.AFFINITY, as visits.py writes them, and log.MODE.AFFINITY, the dispatcher's own. Exit status 1
when a number is not what it must be.
"""

import json
import sys

WORK, DRIVER = sys.argv[1:3]
CLIENTS, RETURNS = map(int, sys.argv[3:5])
MODES = sys.argv[5:]
SERVERS = ["web1", "web2", "web3"]
NAMES = {"session-id": "TLS 1.2 session ID", "ticket": "TLS 1.2 ticket", "tls13": "TLS 1.3"}
TOTAL = CLIENTS * RETURNS

wrong = []


def must(what, truth):
    if not truth:
        wrong.append(what)


class Round:
    """One round of visits, as its clients and as the dispatcher saw it."""

    def __init__(self, label, affinity, visits, log):
        self.label, self.affinity, self.visits, self.log = label, affinity, visits, log
        self.returned = [v for v in visits if v["visit"] > 0]
        self.resumed = sum(v["outcome"] == "resumed" for v in self.returned)
        self.failed = sum(v["outcome"] == "failed" for v in visits)
        must(f"{self}: every connection is made", len(visits) == TOTAL + CLIENTS)
        must(f"{self}: no connection fails", self.failed == 0)
        must(f"{self}: the dispatcher saw what the clients saw", [(c["client"], c["backend"], c["resumed"]) for c in log]
             == [(v["end"], v["served"], v["outcome"] == "resumed") for v in visits if v["outcome"] != "failed"])

    def __str__(self):
        return f"{self.label}, affinity {self.affinity}"

    def at(self, server, resumed=(True, False, None)):
        return sum(c["backend"] == server and c["resumed"] in resumed for c in self.log)

    def row(self):
        each = [f"{self.at(s)} ({self.at(s, [False])})" for s in SERVERS]
        return f"  {self.label:20} {self.affinity:8} {len(self.returned):>8} {self.resumed:>8} {self.failed:>7}" + "".join(
            f"{e:>16}" for e in each)


def rounds(mode, affinity):
    """The rounds of one run."""
    visits = []
    for line in open(f"{WORK}/visits.{mode}.{affinity}"):
        n, client, visit, outcome, sealed, served, end = line.split()
        visits.append({"round": int(n), "visit": int(visit), "outcome": outcome, "sealed": sealed, "served": served,
                       "end": end})
    log = [json.loads(line) for line in open(f"{WORK}/log.{mode}.{affinity}")]
    # The first trial counts for nothing. Several workers number their connections each by itself, so it is the client's
    # address and port that tells which is which; the connections of one such pair belong to one worker, and are numbered
    # as they begin.
    by_client = {}
    for c in sorted((c for c in log if not c["client"].startswith("10.77.0.2:")), key=lambda c: c["conn"]):
        by_client.setdefault(c["client"], []).append(c)
    out = []
    for n in sorted({v["round"] for v in visits}):
        mine = [v for v in visits if v["round"] == n]
        label = NAMES[mode]
        if mode == "tls13" and affinity == "on":
            label += ", cold" if n == 1 else ", keys known"
        logged = [by_client[v["end"]].pop(0) for v in mine if by_client.get(v["end"])]
        out.append(Round(label, affinity, mine, logged))
    must(f"{NAMES[mode]}, affinity {affinity}: the log has these connections and no more", not any(by_client.values()))
    return out


def explain(cold):
    """TLS 1.3 shows what a server opens only when it does: why connections of the first round were not resumed."""
    refusals = {}
    accepted = set()
    for v in cold.returned:
        if v["outcome"] == "resumed":
            accepted.add(v["sealed"])
        elif v["outcome"] == "new":
            refusals.setdefault(v["sealed"], []).append(v["served"])
            must(f"{cold}: a key that was accepted is not refused: {v}", v["sealed"] not in accepted)
    refused = [c for c in cold.log if c["offered"] and c["resumed"] is False]
    must(f"{cold}: as many refusals in the log", len(refused) == sum(map(len, refusals.values())))
    must(f"{cold}: no refusal by a server that the table named", all(c["decided"] is None for c in refused))
    for key, by in refusals.items():
        must(f"{cold}: {key}'s key costs at most one refusal by each other server: {by}", len(by) == len(set(by)) < len(SERVERS))
    told = "; ".join(f"{key}'s by {', '.join(refusals.get(key, ['none']))}" for key in SERVERS)
    print(f"  TLS 1.3, cold: {len(refused)} refusals of keys not known yet (at most {len(SERVERS) - 1} a key): {told}")


print()
print(f"TLS sessions that {CLIENTS} clients resumed on {RETURNS} returns each, every other time from another address,")
print(f"with three servers that share nothing, over {DRIVER}, --balance least-conn:")
print()
print(f"  {'':20} {'affinity':8} {'returned':>8} {'resumed':>8} {'failed':>7}" + "".join(
    f"{s:>16}" for s in ["nginx", "openssl", "haproxy"]))
colds = []
for mode in MODES:
    runs = rounds(mode, "on") + rounds(mode, "off")
    for r in runs:
        print(r.row())
        if r.affinity == "off":
            must(f"{r}: visibly fewer resume", r.resumed <= TOTAL * 8 // 10)
            continue
        cold = r.label.endswith("cold")
        least = TOTAL - 3 * len(SERVERS) if cold else TOTAL
        must(f"{r}: at least {least} of {TOTAL} resume", r.resumed >= least)
        for s in SERVERS:
            must(f"{r}: {s} begins sessions", r.at(s, [False]) > 0)
        if cold:
            colds.append(r)
print(f"  {'':20} {'':8} {'':>8} {'':>8} {'':>7}" + "connections (new sessions) at each".rjust(48))
print()
for cold in colds:
    explain(cold)
for what in wrong:
    print("  NOT AS IT MUST BE:", what)
print("NOT as it must be" if wrong else "as it must be")
sys.exit(bool(wrong))
