"""What outlives the dispatcher: sessions in the file of `--state`."""

import contextlib
import glob
import os
import random
import subprocess
import threading
import time

import clients
import lab
from lab import check
from registry import test

# Restarts; many of them take an environment that says so.
RESTARTS = int(os.environ.get("LIVE_RESTARTS") or 5)
# Each serves many at once: one that serves them in turn, as OpenSSL's does, would wait for good for a client whose connection died with the dispatcher.
SERVERS = "nginx,haproxy,nginx"
KINDS = {"session-id": ("1.2", False), "ticket": ("1.2", True), "tls1.3": ("1.3", True)}
THREADS = 6
# Sessions of each kind that a visitor has.
HELD = 8
# What was learned in so many seconds before the end may be lost: an answer that the server has just given.
INSTANT = 0.1


class Visitors:
    """Clients that come again and again, every third time anew. What fails while no dispatcher runs is nobody's fault."""

    def __init__(self):
        self.up, self.stop, self.lock = threading.Event(), False, threading.Lock()
        # Grows with each start: a visit counts that begins and ends under the same one.
        self.era = 0
        self.visits, self.offered, self.resumed, self.wrong = 0, {k: 0 for k in KINDS}, {k: 0 for k in KINDS}, []
        # Each visitor's visits since the last start.
        self.lately = [0] * THREADS
        self.held = [{k: [] for k in KINDS} for _ in range(THREADS)]
        self.threads = [threading.Thread(target=self.visit, args=(n,), daemon=True) for n in range(THREADS)]
        for thread in self.threads:
            thread.start()

    def visit(self, number):
        draw, held = random.Random(number), self.held[number]
        contexts = {k: clients.context(*how) for k, how in KINDS.items()}
        turn = 0
        while not self.stop:
            if not self.up.wait(0.1):
                continue
            turn += 1
            era, kind = self.era, draw.choice(list(KINDS))
            session = draw.choice(held[kind])[1] if held[kind] and turn % 3 else None
            try:
                source = clients.address(draw.randrange(60))
                _, (after, reused, _) = clients.fetch(source, contexts[kind], session=session, timeout=5)
                why = None if session is None or reused else "a session that was not resumed"
            except Exception as e:
                why = f"{type(e).__name__}: {e}"
            with self.lock:
                if era != self.era or not self.up.is_set():
                    continue
                self.visits += 1
                self.lately[number] += 1
                if session is not None:
                    self.offered[kind] += 1
                    self.resumed[kind] += why is None
                elif why is None and after is not None:
                    held[kind] = [*held[kind][-HELD + 1:], (time.monotonic(), after)]
                if why:
                    self.wrong.append(f"after {era - 1} restarts, {kind}: {why}")

    def begin(self):
        with self.lock:
            self.era += 1
            self.lately = [0] * THREADS
            self.up.set()

    def pause(self):
        with self.lock:
            self.up.clear()

    def forget_last(self, at):
        for held in self.held:
            for kind in KINDS:
                held[kind] = [(when, session) for when, session in held[kind] if when < at - INSTANT]

    def end(self):
        self.stop = True
        for thread in self.threads:
            thread.join(10)


def begin(t):
    """The servers. Where the state is kept, and the flags for that."""
    t.servers.want(SERVERS)
    path = f"{lab.WORK}/state.{os.getpid()}"
    t.undo.append(lambda: [os.remove(name) for name in glob.glob(path + "*")])
    return path, flags_for(path)


def flags_for(path, rows=4096):
    return "--balance", "round-robin", "--session-capacity", str(rows), "--state", path


@test
def restarts_by_kill(t):
    """Killed at any instant under load and started anew, it knows every session of the file that --state names"""
    path, flags = begin(t)
    d = t.dispatcher(*flags)
    visitors = Visitors()
    t.undo.append(visitors.end)
    visitors.begin()
    # Until the names of all servers' ticket keys are known.
    lab.wait_until(lambda: all(len(held[k]) >= 4 for held in visitors.held for k in KINDS), 60, "sessions of each kind")
    with visitors.lock:
        before = visitors.offered["tls1.3"] - visitors.resumed["tls1.3"]
        visitors.wrong = [w for w in visitors.wrong if "tls1.3" not in w]
        visitors.offered["tls1.3"] = visitors.resumed["tls1.3"] = 0
    draw = random.Random(16)
    for n in range(RESTARTS):
        time.sleep(0.3 + draw.random() * 0.9)
        at = time.monotonic()
        d.kill()
        visitors.pause()
        visitors.forget_last(at)
        # Another number of rows each time.
        d = t.dispatcher(*flags_for(path, 4096 + 512 * (n % 3)))
        said = [line for line in d.err if "state " in line]
        lab.wait_until(lambda: any("rows are known again" in line for line in d.err), 5, lambda: f"what is known again: {d.err}")
        check(not any("set aside" in line for line in d.err), f"{said}")
        visitors.begin()
    # A visit that hangs is cut short by each restart but the last.
    lab.wait_until(lambda: min(visitors.lately) >= 5, 30, lambda: f"visits since the last start: {visitors.lately}")
    visitors.pause()
    visitors.end()
    d.stop()
    offered, resumed = sum(visitors.offered.values()), sum(visitors.resumed.values())
    check(offered > 20 * RESTARTS, f"{offered} sessions offered only")
    check(not visitors.wrong, f"{len(visitors.wrong)} of {visitors.visits} visits: {visitors.wrong[:5]}")
    check(not glob.glob(path + ".*"), f"left behind: {glob.glob(path + '.*')}")
    return f"{RESTARTS} restarts, resumed {resumed} of {offered} ({before} of TLS 1.3 missed before its keys were known)"


@test
def state_cut_off(t):
    """A state file that is cut off while it is written kills nobody; one that is damaged, or in use, is said to be"""
    path, flags = begin(t)
    said = lambda d, what: lab.wait_until(lambda: any(what in line for line in d.err), 10, lambda: f"'{what}' in {d.err}")
    d = t.dispatcher(*flags)
    said(d, "it begins")
    ctx = clients.context("1.2", tickets=False)
    _, (session, _, _) = clients.fetch(clients.address(1), ctx)
    os.truncate(path, 0)
    said(d, "the disk has taken it away")
    for n in range(6):
        clients.fetch(clients.address(n), ctx)
        _, (_, reused, _) = clients.fetch(clients.address(n), ctx, session=session)
        check(reused, "what is known in memory is known")
    d.stop()
    d = t.dispatcher(*flags)
    said(d, "set aside as " + path + ".damaged")
    clients.fetch(clients.address(1), ctx)
    d.stop()
    return "cut off while it ran: said, and served; then set aside"


@test
def state_full_disk(t):
    """On a disk that is full what the file knows is known again, it is said that nothing more is kept, and the file is left for when there is room"""
    t.servers.want(SERVERS)
    disk = f"{lab.WORK}/disk.{os.getpid()}"
    os.mkdir(disk)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "dispatcher-test", disk], check=True)
    t.undo.append(lambda: (subprocess.run(["umount", disk], check=True), os.rmdir(disk)))
    path = disk + "/state"
    said = lambda d, what: lab.wait_until(lambda: any(what in line for line in d.err), 10, lambda: f"'{what}' in {d.err}")

    def returns(d):
        for n in range(6):
            _, (_, reused, _) = clients.fetch(clients.address(n), ctx, session=session)
            check(reused, f"a session of the file is known: {d.err}")

    d = t.dispatcher(*flags_for(path, 256))
    said(d, "it begins")
    ctx = clients.context("1.2", tickets=False)
    _, (session, _, _) = clients.fetch(clients.address(1), ctx)
    d.stop()
    with open(disk + "/full", "wb", buffering=0) as f, contextlib.suppress(OSError):
        while True:
            f.write(bytes(4096))
    # Another number of rows, and the same.
    for rows in (4096, 256):
        d = t.dispatcher(*flags_for(path, rows))
        said(d, "rows are known again")
        said(d, "no room for")
        returns(d)
        d.stop()
        check(sorted(os.listdir(disk)) == ["full", "state"], f"left: {os.listdir(disk)}")
    os.remove(disk + "/full")
    d = t.dispatcher(*flags_for(path, 256))
    said(d, "rows are known again")
    check(not any("no room" in line for line in d.err), f"{d.err}")
    returns(d)
    d.stop()
    return "known again twice without room, and once with it"
