"""One dispatcher takes over from another, in the middle of everything."""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time

import lab
from lab import DRIVER, PREFIX, VIP, WORK, WORKERS, check, wait_until
from registry import test

PORT = 7000
SERVER = "10.78.0.14"
METRICS = "127.0.0.1:9136"


class Peers:
    """takeover_peers.py in a namespace."""

    def __init__(self, t, namespace, *arguments):
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "takeover_peers.py")
        self.process = subprocess.Popen(["ip", "netns", "exec", f"{PREFIX}-{namespace}", "/usr/bin/python3", "-B", program, *map(str, arguments)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        t.undo.append(self.close)

    def line(self):
        return self.process.stdout.readline()

    def tell(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return json.loads(self.line())

    def close(self):
        self.process.kill()
        self.process.wait()


class Comers:
    """Clients that connect meanwhile, one after the other: each gets its answer."""

    def __init__(self):
        self.served, self.slowest, self.wrong, self.over = 0, 0.0, [], False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        lab.enter("clients")
        while not self.over:
            began = time.monotonic()
            try:
                with socket.create_connection((VIP, PORT), 5) as s:
                    s.sendall(b"echo\n")
                    got = s.recv(100)
                    if got != b"ready":
                        raise OSError(f"answered {got}")
                self.served += 1
            except OSError as e:
                self.wrong.append(f"{e} after {time.monotonic() - began:.1f} s")
            self.slowest = max(self.slowest, time.monotonic() - began)
            time.sleep(0.005)

    def end(self):
        self.over = True
        self.thread.join(10)
        check(not self.wrong, f"of {self.served} who connected meanwhile {len(self.wrong)} failed: {self.wrong[:3]}")


CHECKED = ",check=tcp,check-interval=100ms"


def flags(control, workers, mode, servers=(SERVER,), more=""):
    backends = [f"web{n}={server}:{PORT}{more}" for n, server in enumerate(servers)]
    args = [*lab.base_args(vips=[f"{VIP}:{PORT}"], backends=backends), "--metrics", METRICS]
    pairs = [p for p in zip(args[::2], args[1::2]) if p[0] != "--workers"]
    if mode == "dnat":
        pairs = [p for p in pairs if p[0] != "--address-mode"] + [("--address-mode", "dnat")]
    return [word for pair in pairs for word in pair] + ["--workers", str(workers), "--control", control, "--hello-timeout", "100ms"]


def took(d):
    """What the one that was taken over from says of it: microseconds in which nobody served."""
    for line in list(d.err):
        found = re.search(r"takeover: version \S+ has taken over \((\d+) connections.*\), (\d+) us", line)
        if found:
            return int(found.group(1)), int(found.group(2))
    return None


def devices(d):
    """What it says of devices that one process only can have: milliseconds to let go of them, and for the other one to open them."""
    found = re.search(r"devices let go of in (\d+) ms, opened in (\d+) ms", "".join(d.err))
    return (int(found.group(1)), int(found.group(2))) if found else None


def steps(d):
    """The same by its steps: milliseconds until its workers were at rest, had written all down, had passed it, and the new one had it."""
    found = [re.search(r"takeover: at rest in (\d+) us, written after (\d+), passed after (\d+), taken after (\d+)", line) for line in list(d.err)]
    return next(([int(us) / 1000 for us in one.groups()] for one in found if one), [0] * 4)


def succeed(t, old, args, log):
    """Another one takes over."""
    began = time.monotonic()
    new = t.dispatcher(args=[*args, "--takeover"], log=log)
    new.took = time.monotonic() - began
    wait_until(lambda: old.process.poll() is not None, 10, "the end of the one before")
    lab.RUNNING.discard(old)
    for reader in old.readers:
        reader.join(5)
    check(old.process.returncode == 0, f"the one before ended with {old.process.returncode}: {''.join(old.err)[-300:]}")
    old.status = 0
    return new


def counted(address):
    """All that is counted, as Prometheus is told it, of all workers together."""
    with lab.inside("dispatcher"):
        done = subprocess.run(["curl", "-sf", "--retry", "5", f"http://{address}/metrics"], capture_output=True, text=True, check=True)
    text = done.stdout
    kinds, found = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M)), {}
    for name, labels, value in re.findall(r"^(\w+)(\{.*\})? (\S+)$", text, re.M):
        kind = kinds.get(name) or kinds.get(re.sub("_(bucket|count|sum)$", "", name))
        if kind in ("counter", "histogram"):
            series = name + re.sub(r'worker="\d+",?', "", labels)
            found[series] = found.get(series, 0) + float(value)
    check(found, f"no figure: {text[:300]} {done.stderr}")
    return found


def middle(values):
    return sorted(values)[len(values) // 2] if values else 0


def several_queues(t, queues):
    """With af-xdp a worker needs a queue of its own."""
    if DRIVER == "af-xdp" and WORKERS < queues:
        lab.lab("queues", queues)
        t.undo.append(lambda: lab.lab("queues", WORKERS))


def upgrades(t, times, running, idle, mode="snat", pulses=10, counts=(1, 2, 2, 1)):
    """So many in a row, with these numbers of workers, again and again. What was seen."""
    several_queues(t, max(counts))
    control = f"{WORK}/takeover.sock"
    log = f"{WORK}/takeover.json"
    server = Peers(t, "servers", "serve", PORT, SERVER)
    check(server.line().strip() == "ready", "the server is there")
    d = t.dispatcher(args=flags(control, counts[0], mode, more=CHECKED), log=log)
    load = Peers(t, "clients", "load", running, idle, pulses, VIP, PORT)
    wait_until(lambda: load.tell("look")["moving"] >= running + idle + pulses, 60, "all connections")
    quiet = load.tell("look")
    time.sleep(2)
    quiet = [gap for _, gap in load.tell("look")["gaps"]]
    comers = Comers()
    halts, worst, moved, parts, handed, figures = [], [], [], [], [], {}
    for n in range(times):
        figures |= counted(METRICS)
        args = flags(control, counts[(n + 1) % len(counts)], mode, more=CHECKED)
        before = time.monotonic()
        new = succeed(t, d, args, log)
        said = took(d)
        check(said, f"what it says of the takeover: {''.join(d.err)[-400:]}")
        moved.append(said[0])
        halts.append(said[1] / 1000)
        parts.append(steps(d))
        if DRIVER == "dpdk":
            check(devices(d), f"what it says of its devices: {''.join(d.err)[-400:]}")
            handed.append(devices(d))
        d = new
        time.sleep(0.3)
        seen = load.tell("look")
        now = counted(METRICS)
        fallen = {series: (figure, now.get(series)) for series, figure in figures.items() if now.get(series, 0) < figure}
        passed = [figure for series, figure in now.items() if series.startswith("dispatcher_checks_total") and "passed" in series]
        check(passed and all(passed), f"behind upgrade {n + 1} no check has passed")
        check(len(figures) > 50 and not fallen, f"behind upgrade {n + 1} these of {len(figures)} figures fell back: {fallen}")
        check(seen["broken"] == 0, f"behind upgrade {n + 1}: {seen['broken']} connections are broken: {seen['wrong'][:3]}")
        worst.append(max((gap * 1000 for at, gap in seen["gaps"] if at >= before), default=3.0))
        load.tell("ask") if n % 5 == 4 or n == times - 1 else None
        time.sleep(0.2)
    comers.end()
    end = time.monotonic() + 20
    seen = load.tell("look")
    while seen["answered"] < seen["asked"] and time.monotonic() < end:
        time.sleep(0.2)
        seen = load.tell("look")
    check(seen["answered"] == seen["asked"] and seen["asked"] > 0, f"idle connections: {seen['answered']} of {seen['asked']} answers came")
    check(seen["broken"] == 0 and seen["open"] == running + idle + pulses, f"{seen['open']} open, {seen['broken']} broken: {seen['wrong'][:3]}")
    check(moved[-1] >= running + idle, f"{moved[-1]} connections were taken over")
    load.tell("end")
    load.process.wait(10)
    d.stop()
    # There the pause is the devices'.
    handed = f", of these {middle([a for a, _ in handed])} to let go of the devices and {middle([b for _, b in handed])} to open them" if handed else ""
    names = ("at rest after", "all is written", "it is passed", "it is taken")
    by_steps = ", ".join(f"{name} {middle(values):.1f}" for name, values in zip(names, zip(*parts)))
    return (f"{mode}, {times} upgrades, {running} running and {idle} idle connections, {seen['verified'] >> 20} MiB verified, {comers.served} connected meanwhile (slowest {comers.slowest * 1000:.0f} ms): 0 broken, and none of {len(figures)} counters fell back; "
            f"nobody serves {middle(halts):.1f} ms in the median ({by_steps}), {max(halts):.1f} at worst{handed}; longest gap of a connection {middle(worst):.1f} ms in the median, {max(worst):.1f} at worst "
            f"(without upgrades {max(quiet, default=0.003) * 1000:.1f})")


HELLO, WELCOME, REFUSED, PREPARED, BEGIN, BEGUN, ESTATE, TAKEN, GO, SESSIONS, KNOWN, CARDS, FREE, OPENED = range(1, 15)


class Pretender:
    """One that begins to take over by the protocol's own words, and does not end as it should."""

    def __init__(self, control, protocol=1):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(control)
        self.sock.sendall(b"POST /v1/takeover HTTP/1.1\r\nHost: d\r\nConnection: upgrade\r\nUpgrade: dispatcher-takeover\r\nContent-Length: 0\r\n\r\n")
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.sock.recv(1)
        check(b" 101 " in head, f"answered {head}")
        name = b"of a pretender"
        self.say(HELLO, struct.pack("<II", protocol, len(name)) + name)

    def say(self, kind, body=b""):
        self.sock.sendall(struct.pack("<II", kind, len(body)) + body)

    def hear(self, wanted):
        data, fds, _, _ = socket.recv_fds(self.sock, 8, 250)
        for fd in fds:
            os.close(fd)
        kind, length = struct.unpack("<II", data)
        body = b""
        while len(body) < length:
            body += self.sock.recv(length - len(body))
        check(kind == wanted, f"message {kind} where {wanted} is due: {body[:100]}")
        return body

    def until(self, step):
        for say, hear in ((None, WELCOME), (PREPARED, SESSIONS), (KNOWN, BEGIN), (BEGUN, ESTATE), (TAKEN, FREE)):
            if say:
                self.say(say)
            self.hear(hear)
            if hear == step:
                return self

    def close(self):
        self.sock.close()


@test
def takeover_fails(t):
    """A takeover that fails, at each of its steps: killed, stopped, refused, out of memory, of another version, of another configuration. The one that runs goes on, says why, and
    loses nothing"""
    control, log = f"{WORK}/takeover.sock", f"{WORK}/takeover.json"
    server = Peers(t, "servers", "serve", PORT, SERVER)
    check(server.line().strip() == "ready", "the server is there")
    workers = max(WORKERS, 1)
    # Checks that would fail in the second in which nobody serves, were they made.
    args = flags(control, workers, "snat", more=CHECKED)
    d = t.dispatcher(args=args, log=log)
    load = Peers(t, "clients", "load", 50, 50, 5, VIP, PORT)
    wait_until(lambda: load.tell("look")["moving"] >= 105, 60, "all connections")
    comers = Comers()
    ways = []

    def goes_on(what, reason):
        said = lambda: [line for line in d.err if "takeover" in line and "has failed" in line]
        wait_until(lambda: len(said()) > len(ways), 40, f"what it says of one that {what}")
        check(re.search(reason, said()[-1]), f"of one that {what} it says: {said()[-1].strip()}")
        check(d.process.poll() is None, f"it ended behind one that {what}")
        seen = load.tell("ask")
        check(seen["broken"] == 0, f"behind one that {what}: {seen['wrong'][:3]}")
        before = seen["verified"]
        wait_until(lambda: load.tell("look")["verified"] > before + 10000, 20, f"bytes behind one that {what}")
        ways.append(what)

    Pretender(control).close()
    goes_on("has gone at once", "it has ended")
    other = Pretender(control, protocol=7)
    check(b"protocol 7" in other.hear(REFUSED), "the version is told")
    goes_on("is of another version", "by protocol 7")
    steps = [(WELCOME, "WELCOME"), (SESSIONS, "SESSIONS"), (BEGIN, "BEGIN"), (ESTATE, "ESTATE")]
    # Where a device is one process's: the old one has let go of it then, and opens it again.
    steps += [(FREE, "FREE")] if DRIVER == "dpdk" else []
    for step, name in steps:
        Pretender(control).until(step).close()
        goes_on(f"is killed behind {name}", "it has ended")
        one = Pretender(control).until(step)
        one.say(REFUSED, b"no memory for that")
        goes_on(f"is out of memory behind {name}", "no memory for that")
        one.close()
        one = Pretender(control).until(step)
        one.say(77, b"nonsense")
        goes_on(f"talks nonsense behind {name}", "it says 77")
        one.close()
    for step, name in ((BEGIN, "BEGIN"), (ESTATE, "ESTATE")):
        one = Pretender(control).until(step)
        goes_on(f"stops behind {name}", "it takes too long")
        one.close()

    # Real ones, that cannot.
    def refused(what, reason, *command, prefix=(), fails=True):
        done = subprocess.run(["ip", "netns", "exec", PREFIX + "-dispatcher", *prefix, lab.DISPATCHER, "run", *command, "--takeover"], capture_output=True, text=True, timeout=60)
        check(done.returncode not in (0, 101), f"one that {what}: status {done.returncode}")
        check(re.search(reason, done.stderr), f"one that {what} says: {done.stderr[-300:]}")
        if fails:
            goes_on(what, ".")
        else:
            check(d.process.poll() is None, f"it ended behind one that {what}")
            ways.append(what)
            ways.pop()

    refused("has another address mode", "address mode", *flags(control, workers, "dnat"))
    if DRIVER == "dpdk":
        # 17 is no size of a block: it is refused when all else has been taken over.
        broken = [word.replace("net_af_packet1;iface=lan", "net_af_packet1;iface=lan;blocksz=17") for word in args]
        check(broken != args, f"the port of another's making: {args}")
        refused("cannot open its second port", "net_af_packet1", *broken)
        other = [word.replace("net_af_packet1;", "net_af_packet7;") for word in args]
        refused("has another device", "has these devices by dpdk: net_af_packet0, net_af_packet1", *other)
    if DRIVER == "af-xdp":
        refused("has more workers than there are queues", "needs one", *flags(control, workers + 1, "snat"), fails=False)
    refused("has no memory", "memory|allocation|failed to map", *args, prefix=["prlimit", "--as=150000000"], fails=False)
    # What it was able to begin before may have been told of.
    time.sleep(1)
    del ways[:]
    ways.extend(line for line in d.err if "takeover" in line and "has failed" in line)
    count = len(ways)
    # How long one takes here and now, until it runs.
    d = succeed(t, d, args, log)
    whole = d.took
    for n in range(5):
        after = whole * (0.05 + 0.07 * n)
        one = subprocess.Popen(["ip", "netns", "exec", PREFIX + "-dispatcher", lab.DISPATCHER, "run", *args, "--takeover"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(after)
        one.send_signal(signal.SIGKILL)
        one.wait()
        time.sleep(0.3)
        # It may be there a while longer.
        if took(d) or d.process.poll() is not None:
            raise lab.Failure(f"killed after {after * 1e3:.0f} ms it had taken over, where one takes {whole * 1e3:.0f}: that is too late for this test")
        seen = load.tell("look")
        check(seen["broken"] == 0, f"behind one that was killed after {after * 1e3:.0f} ms: {seen['wrong'][:3]}")
    new = succeed(t, d, args, log)
    time.sleep(0.5)
    seen = load.tell("look")
    check(seen["broken"] == 0, f"behind the one that succeeded: {seen['wrong'][:3]}")
    comers.end()
    end = time.monotonic() + 20
    while seen["answered"] < seen["asked"] and time.monotonic() < end:
        time.sleep(0.2)
        seen = load.tell("look")
    check(seen["answered"] == seen["asked"] and seen["broken"] == 0, f"{seen['answered']} of {seen['asked']} answers came: {seen['wrong'][:3]}")
    load.tell("end")
    new.stop()
    return f"{count} takeovers failed, each with its reason, and 5 were killed: 0 of 105 connections broken, {comers.served} connected meanwhile; then one succeeded"


def remembers(t):
    """What nobody's connection depends on comes along, too: why connections went where they went, of one that lives and of those that are over; and whose turn it is by round-robin."""
    control = f"{WORK}/takeover.sock"
    servers = [f"10.78.0.{11 + n}" for n in range(3)]
    peers = Peers(t, "servers", "serve", PORT, *servers)
    check(peers.line().strip() == "ready", "the servers are there")
    # Each worker turns by itself.
    args = [*flags(control, 1, "snat", servers), "--balance", "round-robin"]
    d = t.dispatcher(args=args, log=f"{WORK}/takeover.json")
    lab.enter("clients")

    def explain(address):
        done = subprocess.run([lab.DISPATCHER, "ctl", "--socket", control, "explain", address, "--json"], capture_output=True, text=True, timeout=60)
        check(done.returncode == 0, f"ctl explain {address}: {done.stderr.strip()[-300:]}")
        told = json.loads(done.stdout)["explanations"]
        check(len(told) == 1, f"{len(told)} trails of {address}")
        return told[0]

    def connect():
        s = socket.create_connection((VIP, PORT), 5)
        t.undo.append(s.close)
        s.sendall(b"echo\n")
        check(s.recv(100) == b"ready", "it is answered")
        return s, "%s:%d" % s.getsockname()

    def ended(address):
        wait_until(lambda: explain(address)["end"], 10, f"the end of {address}")

    first, *others = [connect() for _ in range(4)]
    for s, address in others:
        s.close()
        ended(address)
    order = [explain(address)["backend"] for _, address in (first, *others)]
    check(len(set(order[:3])) == 3 and order[3] == order[0], f"the turns are {order}")
    before = {address: explain(address) for _, address in others}
    lives = explain(first[1])
    d = succeed(t, d, args, f"{WORK}/takeover.json")
    for address, told in before.items():
        now = explain(address)
        # Each process compares the clocks for itself.
        check(abs(now["began"] - told["began"]) < 0.001, f"it began at {now['began']}, and before at {told['began']}")
        differ = [key for key in told if key not in ("candidates", "began") and told[key] != now.get(key)]
        check(not differ, f"of {address} the new process says something else: {[(key, told[key], now.get(key)) for key in differ]}")
    now = explain(first[1])
    check((now["conn"], now["backend"], now["steps"], now["state"]) == (lives["conn"], lives["backend"], lives["steps"], "spliced"), f"of the one that lives: {now}, before {lives}")
    first[0].close()
    ended(first[1])
    check(explain(first[1])["steps"][:-1] == lives["steps"], "its end is noted behind what was")
    more = [connect() for _ in range(2)]
    turns = [explain(address)["backend"] for _, address in more]
    check(turns == order[1:3], f"the turns go on with {turns}, and not with {order[1:3]}")
    d.stop()
    return f"4 trails are told as before, and the turns of round-robin go on ({' '.join(order)}, then {' '.join(turns)})"


# Up, the same, and down; and, where a worker has several queues, such that what it has is divided, and comes together with what others had.
COUNTS = (1, 2, 2, 1) if WORKERS < 2 else (2, 3, 1, 3)


@test
def takeover(t):
    """A new process takes over, time and again, with other numbers of workers: no connection is broken, no byte is wrong, whoever connects meanwhile is served"""
    return upgrades(t, 4, 100, 100, counts=COUNTS)


@test
def takeover_remembers(t):
    """A new process tells of connections from before why they went where they went, and goes on with the turns of round-robin"""
    return remembers(t)


@test
def takeover_dnat(t):
    """The same where servers see the clients' own addresses"""
    return upgrades(t, 4, 100, 100, mode="dnat", counts=COUNTS)


@test
def takeover_wireguard(t):
    """Servers behind a tunnel whose packets are sealed: each new process has keys of its own made at once, and no connection through the tunnel is broken"""
    lab.by(t, "wireguard")
    # Each worker has its own key and inner address.
    return upgrades(t, 4, 50, 50, counts=[max(WORKERS, 1)])


@test
def takeover_large(t):
    """On demand: 1,000 running and 1,000 idle connections through 20 upgrades in a row, and the longest gap that any of them sees"""
    return upgrades(t, 20, 1000, 1000)


@test
def takeover_dnat_large(t):
    """On demand: the same where servers see the clients' own addresses"""
    return upgrades(t, 20, 1000, 1000, mode="dnat")
