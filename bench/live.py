"""What users would pick instead: the dispatcher beside HAProxy and nginx, over the same virtual pairs, with the same clients and servers, in one
run. Run by `bench live`, as root; prints one JSON object a figure.

Each side is a single thread between three nginx servers with TLS 1.2 session caches and the clients of `openssl s_time -reuse`, one and eight at
once; then it carries one long download. What is told is the processor time of the side's own process (/proc/PID/task/*/schedstat): for a
thousand resumed connections, and for a gigabyte. HAProxy follows session IDs by the recipe of its manual, nginx the client's address.

"With offloads" means that checksums and segmentation are left to the interfaces at all six ends of the pairs, which then carry units of up to 64 kB;
else all six compute and cut in software, as frames on a wire are.

The peers' share: on a virtual pair, who sends runs the receiver's TCP in its own system call, where no card stands between. So a part of each side's
time is its clients' and servers' work. It is told apart by samples of the processor clock (perf), as those that lie in the kernel's receive
path (process_backlog). Of a proxy that includes what its own sockets take in there, of the dispatcher nothing of its own: the proxies get
the better of it.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time

sys.dont_write_bytecode = True
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "scripts/live.d"))

import lab  # noqa: E402

SERVERS = [f"10.78.0.1{n}" for n in (1, 2, 3)]
BULK_PORT = 8081
CHUNK = bytes(1 << 20)


def figure(case, measure, value, unit, **target):
    print(json.dumps({"case": case, "measure": measure, "value": value, "unit": unit, **target}), flush=True)


def note(text):
    print(text, file=sys.stderr, flush=True)


def in_ns(namespace, *command, **kw):
    return subprocess.run(["ip", "netns", "exec", f"{lab.PREFIX}-{namespace}", *command], check=True, capture_output=True, text=True, **kw)


def offloads(on):
    """At both ends of both pairs."""
    for namespace, device in (("clients", "c0"), ("dispatcher", "wan"), ("dispatcher", "lan"), ("servers", "s0")):
        features = ["tx", "on", "tso", "on", "gso", "on"] if on else ["tx", "off"]
        in_ns(namespace, "ethtool", "-K", device, *features)


def kernel_addresses(there):
    """What a proxy's sockets need where the dispatcher needs nothing."""
    for device, addresses in (("wan", ["10.77.0.1/24", lab.VIP + "/24"]), ("lan", ["10.78.0.1/24"])):
        in_ns("dispatcher", "ip", "-4", "addr", "flush", "dev", device)
        for address in addresses if there else []:
            in_ns("dispatcher", "ip", "addr", "add", address, "dev", device)


def tree(pid):
    """A process and its children."""
    found = [pid]
    for at in found:
        try:
            with open(f"/proc/{at}/task/{at}/children") as f:
                found += [int(child) for child in f.read().split()]
        except OSError:
            pass
    return found


def used(pid):
    """Seconds of processor time of a process, its children and all their threads."""
    total = 0
    for process in tree(pid):
        try:
            for task in os.listdir(f"/proc/{process}/task"):
                with open(f"/proc/{process}/task/{task}/schedstat") as f:
                    total += int(f.read().split()[0])
        except OSError:
            pass
    return total / 1e9


def end(process):
    """Asks a program to stop, and sees to it that it does."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stderr.close()


class Dispatcher:
    """The dispatcher over one of its drivers."""

    def __init__(self, driver):
        self.driver = driver

    def start(self):
        self.config = f"{lab.WORK}/side.toml"
        ports = ""
        for name, network in (("wan", "10.77.0.1/24"), ("lan", "10.78.0.1/24")):
            ports += f'\n[[port]]\nname = "{name}"\ndriver = "{self.driver}:{name}"\nip = ["{network}"]\n'
        services = f'\n[[service]]\nname = "tls"\nlisten = ["{lab.VIP}:443"]\npool = "web"\n'
        services += f'\n[[service]]\nname = "bulk"\nlisten = ["{lab.VIP}:80"]\npool = "bulk"\n'
        servers = ", ".join(f'{{ name = "web{n + 1}", address = "{a}:443" }}' for n, a in enumerate(SERVERS))
        services += f'\n[pool.web]\nbackend = [{servers}]\n'
        services += f'\n[pool.bulk]\nbackend = [{{ name = "bulk1", address = "{SERVERS[0]}:{BULK_PORT}" }}]\n'
        with open(self.config, "w") as f:
            f.write("[dispatcher]\nworkers = 1\n" + ports + services)
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", lab.PREFIX + "-dispatcher", lab.DISPATCHER, "run", "--config", self.config],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def stop(self):
        end(self.process)


class Proxy:
    """A proxy of the kernel's sockets."""

    def start(self):
        kernel_addresses(True)
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", lab.PREFIX + "-dispatcher", *self.command()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def stop(self):
        end(self.process)
        kernel_addresses(False)


class HAProxy(Proxy):
    """In TCP mode, with the manual's recipe for session IDs (payload_lv)."""

    def command(self):
        servers = "".join(f"    server web{n + 1} {a}:443\n" for n, a in enumerate(SERVERS))
        path = f"{lab.WORK}/haproxy.cfg"
        with open(path, "w") as f:
            f.write(f"""global
    nbthread 1
    maxconn 4096
defaults
    mode tcp
    timeout client 60s
    timeout connect 5s
    timeout server 60s
listen tls
    bind {lab.VIP}:443
    balance roundrobin
    stick-table type binary len 32 size 30k expire 30m
    acl clienthello req_ssl_hello_type 1
    acl serverhello rep_ssl_hello_type 2
    tcp-request inspect-delay 5s
    tcp-request content accept if clienthello
    tcp-response inspect-delay 5s
    tcp-response content accept if serverhello
    stick on payload_lv(43,1) if clienthello
    stick store-response payload_lv(43,1) if serverhello
{servers}listen bulk
    bind {lab.VIP}:80
    server bulk1 {SERVERS[0]}:{BULK_PORT}
""")
        return ["haproxy", "-db", "-f", path]


class Nginx(Proxy):
    """Its stream module, by the client's address."""

    def command(self):
        servers = "".join(f"server {a}:443; " for a in SERVERS)
        path = f"{lab.WORK}/nginx-stream.conf"
        with open(path, "w") as f:
            f.write(f"""user root;
load_module {stream_module()};
daemon off;
worker_processes 1;
pid {lab.WORK}/nginx-stream.pid;
error_log stderr;
events {{ worker_connections 4096; }}
stream {{
    upstream web {{ hash $remote_addr consistent; {servers}}}
    server {{ listen {lab.VIP}:443; proxy_pass web; }}
    server {{ listen {lab.VIP}:80; proxy_pass {SERVERS[0]}:{BULK_PORT}; }}
}}
""")
        return ["nginx", "-c", path, "-e", "stderr"]


def stream_module():
    for path in ("/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/lib64/nginx/modules/ngx_stream_module.so"):
        if os.path.exists(path):
            return path
    return None


def bulk_server(connection, _):
    """Sends, once it is told to, until the other has enough."""
    connection.recv(16)
    while True:
        connection.sendall(CHUNK)


def connections(clients, seconds):
    """Visits by so many clients at once; how many were resumed, how many were not, and seconds for one visit of one client."""
    command = ["openssl", "s_time", "-connect", f"{lab.VIP}:443", "-reuse", "-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256",
               "-www", "/", "-time", str(seconds)]
    running = [subprocess.Popen(["ip", "netns", "exec", lab.PREFIX + "-clients", *command],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
               for _ in range(clients)]
    try:
        # It ends by itself, unless a visit hangs.
        said = [process.communicate(timeout=seconds + 8)[0] for process in running]
    except subprocess.TimeoutExpired:
        raise lab.Failure("visits hang") from None
    finally:
        for process in running:
            process.kill()
    resumed = made = 0
    waits = []
    for text in said:
        marks = re.search(r"^[rt*]*r[rt*]*", text, re.M)
        marks = marks.group(0) if marks else ""
        resumed += marks.count("r")
        made += len(marks) - marks.count("r")
        counted = re.search(r"(\d+) connections in ([\d.]+) real seconds", text)
        if counted and int(counted.group(1)):
            waits.append(float(counted.group(2)) / int(counted.group(1)))
    return resumed, made, statistics.median(waits) if waits else 0.0


def download(size):
    """So many bytes by one connection: seconds."""
    buffer = bytearray(1 << 20)
    with lab.inside("clients"):
        s = socket.create_connection((lab.VIP, 80), timeout=10)
    with s:
        # Who speaks first is served at once, whoever balances.
        s.sendall(b"go\r\n")
        begun, left = time.monotonic(), size
        while left > 0:
            n = s.recv_into(buffer)
            lab.check(n > 0, "the download ends before its end")
            lab.check(time.monotonic() - begun < size / 1e7, "the download gets less than 10 MB/s")
            left -= n
        return time.monotonic() - begun


def samples(pid, load):
    """Of the samples of the processor clock in a process while `load` goes on: which share lies in the kernel's receive path. None where
    there is no perf."""
    if not shutil.which("perf"):
        return None
    path = f"{lab.WORK}/perf.data"
    pids = ",".join(map(str, tree(pid)))
    perf = subprocess.Popen(["perf", "record", "-q", "-F", "1999", "-e", "cpu-clock", "-g", "-p", pids, "-o", path],
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.3)
        load()
    finally:
        perf.send_signal(signal.SIGINT)
        perf.wait()
    said = subprocess.run(["perf", "script", "-F", "comm,ip,sym", "-i", path], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True).stdout
    stacks = [s for s in said.split("\n\n") if s.strip()]
    if len(stacks) < 60:
        return None
    return sum("process_backlog" in stack for stack in stacks) / len(stacks)


def sides():
    """Name, whether with offloads, and what it is."""
    found = [("af-packet", False, Dispatcher("af-packet")), ("af-packet, offloads", True, Dispatcher("af-packet")),
             ("af-xdp", False, Dispatcher("af-xdp")), ("HAProxy", False, HAProxy()), ("HAProxy, offloads", True, HAProxy())]
    if stream_module():
        found.append(("nginx stream", False, Nginx()))
    else:
        note("left out: nginx stream: its module is missing (Debian's package libnginx-mod-stream)")
    return found


def ready(side):
    """Waits until visits succeed."""
    end = time.monotonic() + 20
    while True:
        if side.process.poll() is not None:
            raise lab.Failure(f"it ended: {side.process.stderr.read().strip()[-300:]}")
        try:
            with lab.inside("clients"):
                s = socket.create_connection((lab.VIP, 80), timeout=1)
            with s:
                s.settimeout(2)
                s.sendall(b"go\r\n")
                lab.check(s.recv(1) != b"", "nothing came")
            return
        except OSError as e:
            lab.check(time.monotonic() < end, f"it does not answer: {e}")
            time.sleep(0.1)


def measure(name, with_offloads, side, seconds, size, share):
    """One side, once: figures by name."""
    offloads(with_offloads)
    found = {}
    side.start()
    try:
        ready(side)
        pid = side.process.pid
        connections(1, 1)
        for clients in (1, 8):
            before = used(pid)
            resumed, made, wait = connections(clients, seconds)
            after = used(pid)
            lab.check(resumed > 10, f"{name}: only {resumed} visits were resumed")
            word = "1 client" if clients == 1 else "8 clients"
            found["CPU per 1000 connections, " + word] = (after - before) * 1000 / (resumed + made), "s"
            found["resumed, " + word] = 100.0 * resumed / (resumed + made), "%"
            if clients == 1:
                found["one connection at a time"] = wait * 1000, "ms"
        before = used(pid)
        took = download(size)
        found["CPU per GB"] = (used(pid) - before) * 1e9 / size, "s"
        found["download"] = size * 8 / took / 1e9, "Gb/s"
        if share:
            for word, load in (("connections", lambda: connections(8, 1)), ("download", lambda: download(size))):
                part = samples(pid, load)
                if part is not None:
                    found["peers' share, " + word] = 100.0 * part, "%"
    finally:
        side.stop()
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", help="sides with this in their names")
    args = parser.parse_args()
    if os.getuid() != 0:
        sys.exit("needs root: it makes network namespaces")
    for program in ("haproxy", "nginx", "openssl", "ethtool", "ip"):
        if not shutil.which(program) and not os.path.exists("/usr/sbin/" + program):
            sys.exit(f"needs {program}")
    if not os.path.exists(lab.DISPATCHER):
        sys.exit("build it first: cargo build --release -p dispatcher")
    rounds = args.rounds or (1 if args.quick else 3)
    seconds, size = (1, 200_000_000) if args.quick else (3, 1_000_000_000)
    chosen = [s for s in sides() if not args.only or args.only in s[0]]
    home = open("/proc/self/ns/net")
    lab.lab("up")
    found = {}
    server = None
    try:
        lab.lab("servers", "up", "--mode", "session-id", "--kinds", "nginx,nginx,nginx")
        server = lab.Threaded(SERVERS[0], BULK_PORT, bulk_server)
        for n in range(rounds):
            # In turns, and who begins takes turns too.
            for at in range(len(chosen)):
                name, with_offloads, side = chosen[(at + n) % len(chosen)]
                note(f"round {n + 1} of {rounds}: {name}")
                try:
                    once = measure(name, with_offloads, side, seconds, size, share=n == 0)
                except (lab.Failure, OSError, subprocess.SubprocessError) as e:
                    note(f"left out: {name}: {e}")
                    continue
                for measure_name, (value, unit) in once.items():
                    found.setdefault(name, {}).setdefault(measure_name, (unit, []))[1].append(value)
    finally:
        if server:
            server.close()
        lab.enter_file(home)
        lab.lab("down")
    tell({name: {m: (unit, statistics.median(values)) for m, (unit, values) in ms.items()} for name, ms in found.items()})


def own(measures, what, share):
    """A measure without the peers' share."""
    if what in measures and share in measures:
        return measures[what][1] * (1 - measures[share][1] / 100)
    return None


def tell(found):
    for name, measures in found.items():
        for measure_name, (unit, value) in measures.items():
            target = {"at_most": 1.2} if name == "af-packet" and measure_name == "one connection at a time" else {}
            figure(name, measure_name, value, unit, **target)

    def ratio(a, b, what, share, limit):
        mine, theirs = found.get(a, {}), found.get(b, {})
        if what in mine and what in theirs:
            figure(a, f"{what}, over {b}", mine[what][1] / theirs[what][1], "ratio", **({"at_most": limit} if share is None else {}))
        if share:
            mine, theirs = own(mine, what, share), own(theirs, what, share)
            if mine is not None and theirs:
                figure(a, f"{what}, over {b}, peers' share off", mine / theirs, "ratio", at_most=limit)

    thousand = "CPU per 1000 connections, 8 clients"
    ratio("af-packet, offloads", "HAProxy, offloads", "CPU per GB", None, 0.5)
    ratio("af-packet, offloads", "HAProxy, offloads", thousand, "peers' share, connections", 0.5)
    ratio("af-packet", "HAProxy", thousand, "peers' share, connections", 0.5)
    ratio("af-xdp", "HAProxy", "CPU per GB", None, 0.5)
    ratio("af-xdp", "HAProxy", thousand, "peers' share, connections", 0.5)


if __name__ == "__main__":
    main()
