"""The command line: what it refuses, how it stops."""

import json
import os
import signal
import socket
import subprocess
import threading
import time

import clients
import lab
from lab import DISPATCHER, PREFIX, VIP, check
from registry import test

PORT = ["--port", f"wan={lab.DRIVER}:{lab.device('wan')},ip=10.77.0.1/24"]
GOOD = PORT + ["--vip", f"{VIP}:443", "--backend", "a=10.78.0.11:443"]


@test
def wrong_flags(_t):
    """Wrong flags: one clear line on standard error, exit status 2, nothing started"""
    wrong = [
        [], PORT, ["--frobnicate"], GOOD + ["--balance", "best"], GOOD + ["--backend", "a=10.78.0.12:443"],
        GOOD + ["--backend", "b=10.78.0.11:443"], GOOD + ["--backend", "b=nonsense"], GOOD + ["--vip", "10.77.0.100"],
        GOOD + ["--vip", f"{VIP}:443"], ["--port", f"wan={lab.DRIVER}:{lab.device('nosuch0')},ip=10.77.0.1/24"] + GOOD[2:],
        ["--port", "wan=netmap:wan,ip=10.77.0.1/24"] + GOOD[2:], ["--port", f"wan={lab.DRIVER}:{lab.device('wan')},ip=10.77.0.1/99"] + GOOD[2:],
        GOOD + ["--flow-idle-timeout", "soon"], GOOD + ["--flow-capacity", "0"], GOOD + ["--flow-capacity", "-1"],
        GOOD + ["--workers", "0"], GOOD + ["--proxy-protocol", "v1"], GOOD + ["--session-capacity", "99999999999999999999"],
        GOOD + ["--connections-log", "/nonexistent/log"], GOOD + ["--backend", "b=10.78.0.12:0"],
    ]
    for flags in wrong:
        done = subprocess.run(["ip", "netns", "exec", PREFIX + "-dispatcher", DISPATCHER, "run", *flags],
                              capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20)
        what = " ".join(flags[-2:])
        check(done.returncode == 2, f"{what}: exit status {done.returncode}")
        check(done.stdout == "", f"{what}: it said {done.stdout[:80]!r}")
        check(len(done.stderr.splitlines()) == 1 and "panicked" not in done.stderr, f"{what}: {done.stderr!r}")
    return f"{len(wrong)} wrong command lines, one line and status 2 each"


@test
def stops_cleanly(t):
    """SIGINT and SIGTERM: a summary, status 0, open connections reset and logged"""
    t.servers.want("nginx,nginx,haproxy")
    seen = []
    for how in (signal.SIGINT, signal.SIGTERM):
        d = t.dispatcher()
        open_ones = [clients.context().wrap_socket(clients.connect(source=clients.address(i)), server_hostname=clients.NAME) for i in range(20)]
        half = clients.connect()
        half.sendall(clients.client_hello(clients.context())[:50])
        waiting = clients.connect()
        clients.fetch()
        lab.wait_until(lambda: (d.flows() or 0) >= 22, 5, "22 flows")
        begun = time.monotonic()
        d.stop(how)
        took = time.monotonic() - begun
        for s in open_ones + [half, waiting]:
            try:
                # Below TLS, which makes an end of a reset: tickets may come first.
                while socket.socket.recv(s, 10000):
                    pass
                check(False, "an end, and no reset")
            except ConnectionResetError:
                pass
            s.close()
        ends = [c["end"] for c in d.log()]
        check(ends.count("shutdown") == 22 and len(ends) == 23, f"ends: {ends}")
        seen.append(f"{how.name} {took:.2f} s")
    return f"22 open connections reset and logged each time; stopped within {', '.join(seen)}"


@test
def connections_log(t):
    """Each line of the connections log has the contract's keys, and the true numbers"""
    t.servers.want("nginx,nginx,haproxy")
    d = t.dispatcher()
    ctx = clients.context("1.3")
    raw = clients.connect(source=clients.address(1))
    with ctx.wrap_socket(raw, server_hostname=clients.NAME) as s:
        client = s.getsockname()
        s.sendall(clients.GET)
        clients.read_all(s)
    plain = clients.connect(source=clients.address(2))
    plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
    size = len(clients.read_all(plain))
    mine = plain.getsockname()
    plain.close()
    # Waits for every writer of lines.
    log = {c["client"]: c for c in d.await_log(2)}
    one, two = log[f"{client[0]}:{client[1]}"], log[f"{mine[0]}:{mine[1]}"]
    check({k: one[k] for k in ("vip", "class", "reason", "tls_version", "sni", "resumed", "dial_attempts", "end", "offered", "decided")} == {
        "vip": f"{VIP}:443", "class": "secure", "reason": "balanced", "tls_version": "1.3", "sni": clients.NAME, "resumed": False,
        "dial_attempts": 1, "end": "fin", "offered": [], "decided": None}, json.dumps(one))
    check((two["class"], two["bytes_to_server"], two["bytes_to_client"], two["tls_version"], two["sni"]) == ("non-secure", 18, size, None, None), json.dumps(two))
    return f"{sorted(one)}"


@test
def long_run_memory(t):
    """3000 connections through small tables: nothing grows, all are closed"""
    t.servers.want("nginx,nginx,haproxy")
    d = t.dispatcher("--flow-capacity", "4096", "--session-capacity", "1024")
    ctx = clients.context("1.2", False)
    levels = []

    def many(count, offset):
        for i in range(count):
            clients.fetch(clients.address(i + offset), ctx)

    for _ in range(3):
        threads = [threading.Thread(target=many, args=(250, 7 * n)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        levels.append(d.memory())
    d.await_log(3000)
    d.stop()
    check(d.counter("flows opened") == d.counter("closed") == 3000, f"opened {d.counter('flows opened')}, closed {d.counter('closed')}")
    check(levels[-1] - levels[0] < 8 << 20, f"memory grew: {[n >> 20 for n in levels]} MiB")
    return f"memory at its peak {[n >> 20 for n in levels]} MiB after 1000, 2000, 3000 connections ({d.promised >> 20} MiB promised); all closed"


def ctl(path, *words):
    """What `dispatcher ctl` says; it must not refuse."""
    done = subprocess.run([DISPATCHER, "ctl", "--socket", path, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    check(done.returncode == 0 and done.stderr == "", f"ctl {' '.join(words)}: status {done.returncode}, {done.stderr.strip()[-300:]}")
    return done.stdout


@test
def ctl_show(t):
    """While it runs ctl tells what the connections log says at the end, and who has died; rotation of the log loses no line"""
    t.servers.want("nginx,nginx,haproxy")
    path, moved = f"{lab.WORK}/control.{time.monotonic_ns()}", []
    d = t.dispatcher("--control", path)
    ctx = clients.context("1.3")
    session = None

    def show(what=None):
        return json.loads(ctl(path, "show", *([what] if what else []), "--json"))

    # Connections all the time, and the log moved away under them, by ctl and by signal.
    for i in range(60):
        _, (session, _, _) = clients.fetch(clients.address(1), ctx, session=session)
        if i % 10 == 5:
            moved.append(f"{d.log_path}.{i}")
            os.rename(d.log_path, moved[-1])
            t.undo.append(lambda name=moved[-1]: lab.remove(name))
            if i % 20 == 5:
                ctl(path, "log", "reopen")
            else:
                d.process.send_signal(signal.SIGUSR1)
                lab.wait_until(lambda: os.path.exists(d.log_path), 5, "a log under the old name")
    held = [clients.context().wrap_socket(clients.connect(source=clients.address(i)), server_hostname=clients.NAME) for i in range(8)]
    lab.wait_until(lambda: (now := show())["connections"] == 60 and now["flows"] >= 8, 10, "60 connections told as ended and 8 as open")

    def lines():
        found = []
        for name in moved + [d.log_path]:
            with open(name) as f:
                found += [json.loads(line) for line in f]
        return found

    lab.wait_until(lambda: len(lines()) >= 60, 10, "60 lines in the logs together")
    log = lines()
    check(len(log) == 60 and sorted(c["conn"] for c in log) == sorted({c["conn"] for c in log}), f"{len(log)} lines")
    told = show()
    check((told["offered"], told["resumed"]) == (sum(bool(c["offered"]) for c in log), sum(c["resumed"] is True for c in log)), f"at a glance: {told}")
    backends = show("backends")
    for b in backends:
        mine = [c for c in log if c["backend"] == b["name"]]
        seen = b["observed"]
        check((seen["connections"], seen["bytes_to_client"], seen["bytes_to_server"]) == (
            len(mine), sum(c["bytes_to_client"] for c in mine), sum(c["bytes_to_server"] for c in mine)), f"backend: {b}, {len(mine)} in the log")
        check(seen["health"] == "up", f"health: {b}")
    check(sum(b["observed"]["flows"] for b in backends) >= 8, f"flows of backends: {backends}")
    sessions = show("sessions")
    check(sum(o["offered"] for o in sessions["offered"]) == told["offered"], f"sessions: {sessions}")
    check(sum(w["connections"] for w in show("workers")) == 60, "workers and log differ")
    for s in held:
        s.close()
    t.servers.stop(1)
    asking = iter(range(10000))

    def found_down():
        # Nobody is asked whether it is there before a connection has failed at it.
        clients.fetch(clients.address(next(asking)))
        return show()["backends_down"] == 1

    lab.wait_until(found_down, 20, "one backend told as down")
    down = [b["observed"]["health"] for b in show("backends")]
    t.servers.start(1)
    lab.wait_until(lambda: show()["backends_down"] == 0, 10, "all backends told as up")
    return f"60 connections, {told['resumed']} resumed, in {len(moved) + 1} logs; health {', '.join(down)}"
