"""The lab as the tests see it: its servers, the dispatcher's process, and the network namespace of whoever asks."""

import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PREFIX = os.environ.get("LAB_PREFIX", "live")
WORK = os.environ.get("WORK", "/tmp")
STATE = "/run/dispatcher-lab/" + PREFIX
DISPATCHER = os.environ.get("DISPATCHER", ROOT + "/target/release/dispatcher")
FLOOD = os.environ.get("FLOOD", ROOT + "/target/release/flood")

DRIVER = os.environ.get("LAB_DRIVER", "af-packet")
OFFLOAD = os.environ.get("LAB_OFFLOAD", "off")
PATH = os.environ.get("LAB_PATH", "direct")
WORKERS = int(os.environ.get("LAB_WORKERS") or 1)
# Seconds that a dispatcher may take to start: more where it has a machine of its own to boot first.
PATIENCE = float(os.environ.get("LAB_PATIENCE", 20))

VIP, VIP6 = "10.77.0.100", "fd77::100"
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Failure(Exception):
    """What a test expected and did not see."""


def check(truth, what):
    """Fails the test, saying `what`, unless `truth`."""
    if not truth:
        raise Failure(what)


def enter(namespace):
    """Moves this thread, and those it starts, into one of the lab's namespaces."""
    with open(f"/run/netns/{PREFIX}-{namespace}") as f:
        enter_file(f)


def enter_file(namespace):
    """The same by an open file."""
    if _libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def inside(namespace):
    """For a while. Sockets stay where they were made."""
    with open("/proc/thread-self/ns/net") as home:
        enter(namespace)
        try:
            yield
        finally:
            enter_file(home)


def lab(*args):
    """scripts/lab."""
    done = subprocess.run([ROOT + "/scripts/lab", *map(str, args)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise Failure(f"scripts/lab {' '.join(map(str, args))}: {done.stderr.strip()[-400:]}")
    return done.stdout


def device(interface):
    """How the lab's driver calls an interface of the dispatcher's."""
    return f"net_af_packet0;iface={interface}" if DRIVER == "dpdk" else interface


def lab_namespace(name):
    """What runs a command in one of the lab's namespaces."""
    return ["ip", "netns", "exec", f"{PREFIX}-{name}"]


def in_servers(*command):
    """Runs a command among the servers."""
    subprocess.run(["ip", "netns", "exec", PREFIX + "-servers", *command], check=True, capture_output=True)


def wait_until(condition, seconds, what):
    """Waits for something that will be; fails when it is not, and at once when a dispatcher has ended by itself meanwhile. `what`: in words, or what
    says them then."""
    said = what if callable(what) else lambda: what
    end = time.monotonic() + seconds
    while not condition():
        for d in list(RUNNING):
            if d.process.poll() is not None:
                raise Failure(f"while waiting for {said()}: {d.ending()}")
        if time.monotonic() > end:
            raise Failure(f"not within {seconds} s: {said()}")
        time.sleep(0.02)


class Servers:
    """The lab's servers; started anew only when others are wanted."""

    def __init__(self):
        self.now = None

    def want(self, kinds="nginx,openssl,haproxy", mode="any", proxy=False):
        wanted = (kinds, mode, proxy)
        if self.now == wanted:
            return
        self.now = None
        lab("servers", "up", "--mode", mode, "--kinds", kinds, *(["--proxy-protocol"] if proxy else []))
        self.now = wanted

    def count(self):
        return len(self.now[0].split(","))

    def stop(self, n):
        lab("servers", "stop", n)

    def start(self, n):
        lab("servers", "start", n)

    def forget(self):
        self.now = None

    @staticmethod
    def directory(n):
        return f"{STATE}/server{n}"


# The keys of a line of the connections log: contract, section "JSON".
CONTRACT = {
    "conn": int, "client": str, "vip": str, "backend": (str, type(None)), "class": str, "decided": (str, type(None)),
    "reason": str, "identity": (str, type(None)), "offered": list, "tls_version": (str, type(None)),
    "sni": (str, type(None)), "resumed": (bool, type(None)), "bytes_to_server": int, "bytes_to_client": int,
    "dial_attempts": int, "end": str, "time": str, "duration_ms": (int, float), "first_byte_ms": (int, float, type(None)),
    "handshake_ms": (int, float, type(None)), "local": (str, type(None)),
}
ONLY_IN_REPLAY = {"verdict", "intact"}
ONLY_WITH_A_FILE = {"service", "pool"}
ONLY_WITH_LIMITS = {"queue_class", "waited_ms", "spilled"}
ONLY_BEHIND_A_BALANCER = {"via"}
REASONS = {"session-id", "ticket", "ticket-key", "psk", "psk-key", "cookie", "balanced", "recorded"}
# The dispatchers that should be running.
RUNNING = set()
# Beyond what it printed: program, stacks, allocator.
MARGIN = 24 << 20


class Dispatcher:
    """One `dispatcher run`, and what it said."""

    serial = 0

    def __init__(self, *flags, args=None, log=None, environment=None, services=None, control=None):
        """With flags, or with a configuration file: the lab's ports, and services and pools as `services` has them in TOML, with a control
        socket at `control`."""
        Dispatcher.serial += 1
        self.has_file = services is not None
        self.log_path = log or f"{WORK}/connections.{Dispatcher.serial}.json"
        self.peak = 0
        self.status = None
        if self.has_file:
            self.config = f"{WORK}/dispatcher.{Dispatcher.serial}.toml"
            with open(self.config, "w") as f:
                f.write(configuration(self.log_path, control) + services)
            args = ["--config", self.config]
        else:
            args = [*(base_args() if args is None else args), *flags, "--connections-log", self.log_path, "--stats-interval", "200ms"]
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", PREFIX + "-dispatcher", DISPATCHER, "run", *args],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **(environment or {})},
        )
        self.out, self.err = [], []
        self.readers = [
            threading.Thread(target=lambda: self.out.extend(iter(self.process.stdout.readline, "")), daemon=True),
            threading.Thread(target=lambda: self.err.extend(iter(self.process.stderr.readline, "")), daemon=True),
        ]
        for reader in self.readers:
            reader.start()
        RUNNING.add(self)
        try:
            wait_until(lambda: self.find(r"^  total +(\d+) bytes"), PATIENCE, "its start")
        except Failure:
            self.kill()
            raise
        self.promised = int(self.find(r"^  total +(\d+) bytes"))

    def ending(self):
        """How it ended, and what it said."""
        for reader in self.readers:
            reader.join(5)
        return f"the dispatcher ended, status {self.process.returncode}: {''.join(self.err).strip()[-300:]}"

    def find(self, pattern):
        """The first group of the last line printed that fits."""
        for line in reversed(list(self.out)):
            found = re.search(pattern, line)
            if found:
                return found.group(1)
        return None

    def stats(self):
        """The last line of --stats-interval: flows, drops by name."""
        for line in reversed(list(self.out)):
            flows = re.search(r"flows (\d+) ", line)
            if flows:
                return int(flows.group(1)), {k: int(v) for k, v in re.findall(r" ([a-z-]+)=(\d+)", line)}
        return None, {}

    def flows(self):
        return self.stats()[0]

    def mark(self):
        """Now, for `taken_since`."""
        return len(self.out)

    def taken_since(self, mark):
        """Frames a second taken in, on all ports, on average of the statistics since then."""
        rates = [int(m.group(1)) for m in (re.search(r"s: in (\d+) frames/s", line) for line in list(self.out)[mark:]) if m]
        return sum(rates) / len(rates) if rates else 0

    def mac(self, port="wan"):
        return self.find(rf"^port {port}: ([0-9a-f:]{{17}})")

    def log(self):
        """The connections that have ended, oldest first."""
        with open(self.log_path) as f:
            # The last line may be half there yet.
            return [json.loads(line) for line in f.read().splitlines(keepends=True) if line.endswith("\n")]

    def await_log(self, wanted, seconds=10):
        """The log, once it has so many connections."""
        wait_until(lambda: len(self.log()) >= wanted, seconds, lambda: f"{wanted} connections in the log, {len(self.log())} are there")
        return self.log()

    def memory(self):
        with open(f"/proc/{self.process.pid}/status") as f:
            return int(re.search(r"VmHWM:\s+(\d+) kB", f.read()).group(1)) << 10

    def stop(self, how=signal.SIGTERM):
        """Ends it, and checks what must be so after any test."""
        if self.status is not None:
            return
        RUNNING.discard(self)
        died = self.process.poll()
        if died is None:
            self.peak = self.memory()
            self.process.send_signal(how)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
                raise Failure("it did not stop within 20 s")
        for reader in self.readers:
            reader.join(5)
        self.status = self.process.returncode
        check(died is None, f"it ended by itself, status {died}: {''.join(self.err).strip()[-300:]}")
        check(self.status == 0, f"exit status {self.status}: {''.join(self.err).strip()[-300:]}")
        check(self.find(r"^(stopped after)"), "no summary")
        check(self.peak <= self.promised + MARGIN,
              f"memory: {self.peak >> 20} MiB at its peak, {self.promised >> 20} MiB were promised")
        self.check_log()
        # Frames that came to nothing by reason, those answered by a reset included.
        self.drops = {}
        for line in reversed(self.out):
            if line.startswith("answered by a reset: "):
                for name, n in re.findall(r"([a-z-]+) (\d+)(?:,|$)", line.split(": ", 1)[1]):
                    self.drops[name] = self.drops.get(name, 0) + int(n)
                break
            found = re.match(r"^  ([a-z-]+) +(\d+)$", line)
            if found:
                self.drops[found.group(1)] = int(found.group(2))

    def check_log(self):
        for line in self.log():
            keys = set(line)
            more = ONLY_IN_REPLAY | ONLY_WITH_LIMITS | ONLY_BEHIND_A_BALANCER | (ONLY_WITH_A_FILE if self.has_file else set())
            check(set(CONTRACT) <= keys and keys <= set(CONTRACT) | more, f"keys of a log line: {sorted(keys)}")
            for key, kind in CONTRACT.items():
                check(isinstance(line[key], kind), f"log line: {key} is {line[key]!r}")
            check(line["class"] in ("secure", "non-secure") and line["reason"] in REASONS, f"log line: {line}")

    def counter(self, name):
        """A number of the summary's engine line, such as `cookies` or `flows opened`."""
        return int(self.find(rf"engine: .*\b{name} (\d+)") or -1)

    def frames(self, port, direction="in"):
        return int(self.find(rf"^port {port}: .*\b{direction} (\d+) frames") or -1)

    def kill(self):
        RUNNING.discard(self)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.status = self.process.returncode


def base_args(vips=None, backends=None, workers=None):
    """The lab's own flags; with VIPs (ADDR:PORT), backends (NAME=ADDR:PORT) and workers of the test's where given. Each worker counts and takes turns by
    itself: where that is compared to the last one, there is to be one."""
    args = lab("args").split()
    pairs = list(zip(args[::2], args[1::2]))
    if vips is not None:
        pairs = [p for p in pairs if p[0] != "--vip"] + [("--vip", v) for v in vips]
    if backends is not None:
        # What the lab's own servers are reached through, these are, too.
        first = next((value for flag, value in pairs if flag == "--backend"), "")
        tunnel = first[first.index(",tunnel="):] if ",tunnel=" in first else ""
        pairs = [p for p in pairs if p[0] != "--backend"] + [("--backend", b + tunnel) for b in backends]
    if workers is not None:
        pairs = [p for p in pairs if p[0] != "--workers"] + [("--workers", str(workers))]
    return [word for pair in pairs for word in pair]


def configuration(log_path, control=None):
    """What holds for the process, and the lab's ports, in TOML."""
    args = base_args(vips=[], backends=[])
    pairs = list(zip(args[::2], args[1::2]))
    text = f'[dispatcher]\nconnections-log = "{log_path}"\nstats-interval = "200ms"\n'
    text += f'control = "{control}"\n' if control else ""
    text += "".join(f"workers = {n}\n" for flag, n in pairs if flag == "--workers")
    text += "".join(f"tunnel-key = {json.dumps(file)}\n" for flag, file in pairs if flag == "--tunnel-key")
    for flag, port in pairs:
        if flag == "--port":
            driver, *keys = port.split(",")
            name, driver = driver.split("=", 1)
            ips = [key[3:] for key in keys if key.startswith("ip=")]
            text += f'\n[[port]]\nname = "{name}"\ndriver = "{driver}"\nip = {json.dumps(ips)}\n'
    return text


class Threaded:
    """A small server in the servers' namespace: `serve(connection, address)` in a thread for each connection."""

    def __init__(self, address, port, serve):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with inside("servers"):
            self.listener = socket.socket(family)
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind((address, port))
            self.listener.listen(1024)
        self.serve = serve
        self.open = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, address = self.listener.accept()
            except OSError:
                return
            self.open.append(connection)
            threading.Thread(target=self.run, args=(connection, address), daemon=True).start()

    def run(self, connection, address):
        try:
            self.serve(connection, address)
        except OSError:
            pass
        finally:
            connection.close()

    def close(self):
        # A listener that somebody waits on must be shut down to be freed.
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        for connection in self.open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Test:
    """What a test gets: servers, dispatchers, and a place to leave what must be undone."""

    def __init__(self, servers):
        self.servers = servers
        self.dispatchers = []
        self.undo = []

    def dispatcher(self, *flags, **kw):
        d = Dispatcher(*flags, **kw)
        self.dispatchers.append(d)
        return d

    def server(self, *args):
        s = Threaded(*args)
        self.undo.append(s.close)
        return s

    def finish(self, failed):
        """Stops everything. A dispatcher that ended badly fails the test."""
        trouble = None
        for d in self.dispatchers:
            try:
                d.stop() if not failed else d.kill()
            except Failure as e:
                trouble = trouble or e
        for d in self.dispatchers:
            if os.path.exists(d.log_path):
                os.unlink(d.log_path)
        for undo in reversed(self.undo):
            undo()
        if trouble:
            raise trouble


def back():
    """The way to the servers as it was before the test."""
    lab("path", os.environ.get("LAB_PATH") or "direct")


def own_addresses():
    """As whom servers see us: with tunnels whose packets are sealed, each worker has an address of its own."""
    workers = WORKERS if PATH.startswith("wireguard") else 1
    return {address + str(n) for n in range(1, workers + 1) for address in ("10.78.0.", "fd78::")}


def by(t, path):
    """From now on the servers are reached so; as before at the test's end."""
    if back not in t.undo:
        t.undo.insert(0, back)
    lab("path", path)


def far_device(path):
    """The servers' end of a tunnel."""
    return "wg-" + PREFIX if path in ("wireguard", "wireguard-v6") else "tunnel0"


def remove(path):
    shutil.rmtree(path, ignore_errors=True) if os.path.isdir(path) else os.path.exists(path) and os.unlink(path)
