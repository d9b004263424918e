"""What else goes wrong: servers that die at the wrong moment, a dispatcher that is stopped for a while, full disks, clocks that are set."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time

import clients
import lab
from honest import Honest
from lab import VIP, check
from loads import ALL, load, used_again
from registry import test

# A server that reads a little, says so with a line, and waits to be killed.
DEAF = """
import socket, sys
l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); l.bind((sys.argv[1], 443)); l.listen(1000)
held = []
print("up", flush=True)
while True:
    c, _ = l.accept(); c.recv(1000); held.append(c); print(len(held), flush=True)
"""


@test
def killed_in_handshake(t):
    """A server that is killed with 50 hellos unanswered: its clients are told at once, everybody else is served"""
    t.servers.want("nginx,nginx,haproxy")
    deaf = subprocess.Popen(["ip", "netns", "exec", lab.PREFIX + "-servers", "/usr/bin/python3", "-c", DEAF, "10.78.0.14"],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    t.undo.append(lambda: (deaf.kill(), deaf.wait()))
    check(deaf.stdout.readline() == "up\n", "the deaf server")
    backends = [f"web{n}=10.78.0.{10 + n}:443" for n in (1, 2, 3)] + ["deaf=10.78.0.14:443"]
    d = t.dispatcher("--balance", "round-robin", args=lab.base_args([f"{VIP}:443"], backends))
    outcomes, ctx = [], clients.context()

    def one(i):
        try:
            clients.fetch(clients.address(i), ctx, timeout=20)
            outcomes.append("served")
        except TimeoutError:
            outcomes.append("left hanging")
        except OSError:
            outcomes.append("told")

    threads = [threading.Thread(target=one, args=(i,)) for i in range(200)]
    [x.start() for x in threads]
    while int(deaf.stdout.readline()) < 50:
        pass
    begun = time.monotonic()
    deaf.kill()
    [x.join() for x in threads]
    took = time.monotonic() - begun
    counts = {o: outcomes.count(o) for o in sorted(set(outcomes))}
    check("left hanging" not in counts and counts.get("served", 0) >= 140, f"{counts}")
    names, worst = load(60)
    check(names == ALL, f"afterwards: {names}")
    d.await_log(260)
    d.stop()
    return f"{counts}, all within {took:.2f} s; afterwards 60 of 60, the slowest in {worst:.2f} s"


# A server that sends ten kilobytes every 50 ms, to whoever asks, until it is killed.
PACED = """
import socket, sys, threading, time
l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); l.bind((sys.argv[1], 443)); l.listen(1000)
def serve(c):
    try:
        c.recv(1000)
        while True: c.sendall(b"x" * 10000); time.sleep(0.05)
    except OSError: pass
print("up", flush=True)
while True: threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
"""


@test
def killed_in_transfer(t):
    """A server that is killed during 20 transfers: those end at once, all other clients are served, and it is used again when it is back"""
    t.servers.want("nginx,nginx,haproxy")
    paced = None

    def begin():
        nonlocal paced
        paced = subprocess.Popen(["ip", "netns", "exec", lab.PREFIX + "-servers", "/usr/bin/python3", "-c", PACED, "10.78.0.14"],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        t.undo.append(end)
        check(paced.stdout.readline() == "up\n", "the paced server")

    def end():
        paced.kill()
        paced.wait()

    begin()
    backends = [f"web{n}=10.78.0.{10 + n}:443" for n in (1, 2, 3)] + ["paced=10.78.0.14:443"]
    d = t.dispatcher("--balance", "round-robin", args=lab.base_args([f"{VIP}:443"], backends))
    ends, flowing = [], threading.Barrier(21)

    def transfer(i):
        # The other servers close on such a request; the paced one does not.
        while True:
            s = clients.connect(source=clients.address(i))
            s.sendall(b"not TLS\r\n\r\n")
            if s.recv(10, socket.MSG_PEEK)[:1] == b"x":
                break
            s.close()
        flowing.wait()
        try:
            while s.recv(1 << 16):
                pass
        except OSError:
            pass
        ends.append(time.monotonic())
        s.close()

    threads = [threading.Thread(target=transfer, args=(i,)) for i in range(20)]
    [x.start() for x in threads]
    flowing.wait(20)
    time.sleep(1)
    check(not ends, "a transfer ended by itself")
    at = time.monotonic()
    end()
    [x.join(20) for x in threads]
    check(len(ends) == 20, f"{len(ends)} of 20 told")
    told = max(ends) - at
    check(told < 5, f"the last was told after {told:.1f} s")
    honest = Honest(t)
    hurt = honest.during(3)
    honest.finish()
    hurt = hurt.seen()
    check(hurt.rate == 1, f"{hurt}; {hurt.errors[:2]}")
    begin()
    came_back = time.monotonic()
    again = threading.Thread(target=lambda: transfer(0), daemon=True)
    flowing = threading.Barrier(2)
    again.start()
    flowing.wait(20)
    back = time.monotonic() - came_back
    end()
    again.join(20)
    d.stop()
    return f"20 of 20 transfers cut within {told:.2f} s; then {hurt}; used again after {back:.1f} s"


@test
def stopped_for_seconds(t):
    """SIGSTOP for five seconds in the middle of transfers, then SIGCONT: every byte arrives, no server is thought to be gone"""
    t.servers.want("nginx,nginx,nginx")
    d = t.dispatcher("--balance", "round-robin")
    sums = []

    def download(i):
        sums.append(clients.Download(f"https://{clients.NAME}/1M", "--limit-rate", "200k", source=clients.address(i)).sum)

    honest = Honest(t)
    threads = [threading.Thread(target=download, args=(i,)) for i in range(12)]
    [x.start() for x in threads]
    time.sleep(1.5)
    d.process.send_signal(signal.SIGSTOP)
    try:
        stopped = honest.during(5)
    finally:
        d.process.send_signal(signal.SIGCONT)
    after = honest.during(5)
    [x.join() for x in threads]
    honest.finish()
    stopped, after = stopped.seen(), after.seen()
    check(stopped.rate == 1 and after.rate == 1, f"while stopped: {stopped}; after: {after}; {(stopped.errors + after.errors)[:1]}")
    check(len(sums) == 12 and len(set(sums)) == 1, f"{len(sums)} downloads, {len(set(sums))} different")
    names, _ = load(60)
    check(names == ALL, f"afterwards: {names}")
    d.stop()
    return f"12 of 12 downloads intact; visits begun while stopped: {stopped}; after: {after}"


@test
def link_down_and_up(t):
    """Each of both links is down for two seconds during transfers: they go on where they were"""
    t.servers.want("nginx,nginx,nginx")
    d = t.dispatcher("--balance", "round-robin")
    sums = []

    def download(i):
        sums.append(clients.Download(f"https://{clients.NAME}/1M", "--limit-rate", "150k", source=clients.address(i)).sum)

    threads = [threading.Thread(target=download, args=(i,)) for i in range(9)]
    [x.start() for x in threads]
    time.sleep(1)
    ns = lab.PREFIX + "-dispatcher"
    for port in ("wan", "lan"):
        subprocess.run(["ip", "-n", ns, "link", "set", port, "down"], check=True)
        time.sleep(2)
        subprocess.run(["ip", "-n", ns, "link", "set", port, "up"], check=True)
        time.sleep(0.5)
    begun = time.monotonic()
    [x.join() for x in threads]
    check(len(sums) == 9 and len(set(sums)) == 1, f"{len(sums)} downloads, {len(set(sums))} different")
    names, worst = load(60)
    check(names == ALL, f"afterwards: {names}")
    downs = d.find(r"link-downs (\d+)")
    d.stop()
    return f"9 of 9 downloads intact, done {time.monotonic() - begun:.1f} s later; link-downs {downs}; then 60 of 60, the slowest in {worst:.2f} s"


@test
def disk_full(t):
    """The connections log's disk is full: lines are lost and counted, nobody notices; with room again it goes on"""
    t.servers.want("nginx,nginx,haproxy")
    disk = f"{lab.WORK}/disk"
    os.mkdir(disk)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    t.undo.append(lambda: (subprocess.run(["umount", "-l", disk], check=True), os.rmdir(disk)))
    d = t.dispatcher(log=f"{disk}/connections.json")
    load(600)
    lab.wait_until(lambda: d.find(r"log-lines-lost (\d+)"), 10, "lines lost")
    with open(d.log_path, "r+b") as f:
        whole = f.read().count(b"\n")
        f.truncate(0)
    before = int(d.find(r"log-lines-lost (\d+)"))
    names, worst = load(40)
    check(names == ALL, f"answered: {names}")
    lab.wait_until(lambda: len(_lines(d.log_path)) >= 40, 10, "the log goes on")
    shutil.copy(d.log_path, f"{lab.WORK}/rest.json")
    d.stop()
    return f"{whole} lines written, {before} lost and counted, 640 of 640 served; then 40 more lines"


def _lines(path):
    with open(path, "rb") as f:
        return [line for line in f.read().replace(b"\0", b"").split(b"\n") if line]


@test
def clock_stepped(t):
    """The wall clock is set a day back and a year on while it runs: nothing expires, nothing hangs"""
    library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
    t.servers.want("nginx,nginx,haproxy")
    offset = f"{lab.WORK}/offset"
    write = lambda text: open(offset, "w").write(text + "\n")  # noqa: E731
    write("+0")
    t.undo.append(lambda: os.unlink(offset))
    d = t.dispatcher("--flow-idle-timeout", "60s", environment={
        "LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": offset, "FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"})
    ctx = clients.context()
    held = [ctx.wrap_socket(clients.connect(source=clients.address(i)), server_hostname=clients.NAME) for i in range(20)]
    session = {}

    def visit(i):
        _, (session[i], reused, _) = clients.fetch(clients.address(i), ctx, session=session.get(i))
        return reused

    for _ in range(4):
        before = sum(visit(i) for i in range(12))
    for step in ("-1d", "+365d", "+0"):
        write(step)
        time.sleep(0.5)
        check(sum(visit(i) for i in range(12)) >= before, f"sessions are lost after {step}")
    for s in held:
        s.sendall(clients.GET)
        check(b" 200 " in clients.read_all(s), "a connection that was open")
        s.close()
    d.stop()
    return f"20 of 20 open connections live, {before} of 12 sessions resumed before, and after each of three steps"
