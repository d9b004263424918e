"""Ports: several queues and workers, links that fail, a dispatcher that is killed."""

import hashlib
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time

import clients
import lab
from lab import PREFIX, VIP, check, wait_until
from registry import test
from test_bodies import bodies


def ip(namespace, *arguments, **how):
    return subprocess.run(["ip", "-n", f"{PREFIX}-{namespace}", *arguments], check=True, capture_output=True, text=True, **how).stdout


def among(namespace, *command):
    return subprocess.run(["ip", "netns", "exec", f"{PREFIX}-{namespace}", *command], capture_output=True, text=True, stdin=subprocess.DEVNULL)


def through_queue(t, namespace, device, queue):
    """From now on everything leaves `device` by this queue of two, whichever core sends it (XPS)."""
    def cores(of, mask):
        done = among(namespace, "sh", "-c", f"echo {mask} > /sys/class/net/{device}/queues/tx-{of}/xps_cpus")
        check(done.returncode == 0, f"XPS: {done.stderr.strip()}")

    every = f"{(1 << os.cpu_count()) - 1:x}"
    cores(queue, every)
    cores(1 - queue, 0)
    t.undo.append(lambda: (cores(queue, 0), cores(1 - queue, 0)))


class Flow:
    """A download that goes on meanwhile. It must come to its end, byte for byte."""

    def __init__(self, name, source=None):
        self.sums, self.name, self.error, self.sum = bodies(), name, None, None
        self.thread = threading.Thread(target=self.run, args=(source,))
        self.thread.start()

    def run(self, source):
        try:
            self.sum = clients.Download(f"https://{clients.NAME}/body-{self.name}", "--limit-rate", "5M", source=source).sum
        except Exception as e:
            self.error = e

    def finish(self):
        self.thread.join()
        check(self.error is None, f"the download: {self.error}")
        check(self.sum == self.sums[self.name], "the download's checksum differs")


@test
def two_workers(t):
    """Two workers, two queues, the two directions of every flow by different ones: all bytes, every frame handed over received"""
    t.servers.want("nginx,nginx,nginx")
    lab.lab("queues", 2)
    t.undo.append(lambda: lab.lab("queues", lab.WORKERS))
    # What clients send comes by the first queue, what servers send by the second.
    through_queue(t, "clients", "c0", 0)
    through_queue(t, "servers", "s0", 1)
    d = t.dispatcher(args=lab.base_args(workers=2))
    sums = bodies()
    ctx = clients.context()
    for i in range(60):
        clients.fetch(clients.address(i), ctx)
    for i in range(6):
        down = clients.Download(f"https://{clients.NAME}/body-10M", source=clients.address(i))
        check(down.sum == sums["10M"], f"{down.size} bytes, checksum differs")
        up = clients.curl(f"https://{clients.NAME}/upload/w{i}", "-H", "Expect:", "-T", f"{lab.WORK}/10M", source=clients.address(i))
        error = up.communicate()[1].decode()
        check(up.returncode == 0, f"up: {error.strip()}")
        arrived = [f"{t.servers.directory(n)}/www/upload/w{i}" for n in (1, 2, 3) if os.path.exists(f"{t.servers.directory(n)}/www/upload/w{i}")]
        check(len(arrived) == 1, f"it arrived at {len(arrived)} servers")
        with open(arrived[0], "rb") as f:
            check(hashlib.sha256(f.read()).hexdigest() == sums["10M"], "up: checksum differs")
        os.unlink(arrived[0])
    d.await_log(72)
    d.stop()
    sent, received, lost = (int(d.find(rf"^between workers: frames handed over {p}")) for p in
                            (r"(\d+)", r"\d+, received (\d+)", r"\d+, received \d+, lost (\d+)"))
    each = [[int(n) for n in re.findall(r"frames in (\d+), handed over (\d+), received (\d+)", line)[0]] for line in d.out if line.startswith("worker ")]
    check(sent == received and lost == 0 and "handover-full" not in d.drops, f"handed over {sent}, received {received}, lost {lost}")
    check(len(each) == 2 and all(n > 100 for worker in each for n in worker), f"frames in, handed over, received, by worker: {each}")
    wrong = {k: v for k, v in d.drops.items() if k in ("no-flow", "bad-cookie")}
    check(not wrong, f"frames that came to the wrong worker: {wrong}")
    return f"60 connections, 120 MB; {sent} frames handed over = received, none lost; by worker [in, handed over, received] {each}"


def programs():
    """XDP programs that are attached to the dispatcher's interfaces."""
    return ip("dispatcher", "-d", "link", "show").count("prog/xdp")


def kernel_answers():
    """The kernel of the dispatcher's namespace, by an address of its own at the same interface."""
    return among("clients", "ping", "-c", "2", "-i", "0.1", "-W", "2", "10.77.0.250").returncode == 0


def remains():
    """What a process could leave behind: sockets, namespaces of this lab, and (of DPDK's) files of huge pages."""
    sockets = among("dispatcher", "cat", "/proc/net/packet").stdout.count("\n") - 1
    xdp = among("dispatcher", "ss", "-H", "-a", "--xdp").stdout.count("\n")
    directories = [d for d in ("/dev/hugepages", "/mnt/huge") if lab.DRIVER == "dpdk" and os.path.isdir(d)]
    huge = [f"{d}/{f}" for d in directories for f in sorted(os.listdir(d))]
    return sockets, xdp, sorted(n for n in os.listdir("/run/netns") if n.startswith(PREFIX)), huge


@test
def killed(t):
    """SIGKILL: within a second nothing of it is left, the interfaces work as before, and a new one starts at once"""
    t.servers.want("nginx,nginx,haproxy")
    ip("dispatcher", "addr", "add", "10.77.0.250/24", "dev", "wan")
    t.undo.append(lambda: ip("dispatcher", "addr", "del", "10.77.0.250/24", "dev", "wan"))
    before = remains()
    slowest = [0.0, 0.0]
    for _ in range(3):
        begun = time.monotonic()
        d = t.dispatcher()
        clients.fetch()
        slowest[0] = max(slowest[0], time.monotonic() - begun)
        expected = 2 if lab.DRIVER == "af-xdp" else 0
        check(programs() == expected, f"{programs()} XDP programs while it runs")
        check(lab.DRIVER == "dpdk" or kernel_answers(), "the kernel's own address does not answer beside the dispatcher")
        d.process.send_signal(signal.SIGKILL)
        d.process.wait()
        begun = time.monotonic()
        d.kill()
        wait_until(lambda: programs() == 0 and remains()[:3] == before[:3], 1, lambda: f"nothing left of it: {programs()} programs, {remains()}, before {before}")
        slowest[1] = max(slowest[1], time.monotonic() - begun)
        check(kernel_answers(), "the interface does not work")
    check(remains() == before, f"left: {remains()}, before: {before}")
    d = t.dispatcher()
    clients.fetch()
    return f"3 times; the first connection {slowest[0]:.2f} s after a start at most, all gone within {slowest[1]:.2f} s of the signal"


def outages():
    """Each interface of the dispatcher's, by its own switch and by its cable."""
    for near, (far, namespace) in {"wan": ("c0", "clients"), "lan": ("s0", "servers")}.items():
        yield f"{near} itself", near, "dispatcher", near
        yield f"{near}'s cable", far, namespace, near


def counted(d, what):
    return int(d.find(rf"{what} (\d+)") or 0)


@test
def links_fail(t):
    """Interfaces set down and up, cables pulled and plugged: counted, survived, and connections go on by themselves"""
    t.servers.want("nginx,nginx,nginx")
    d = t.dispatcher()
    clients.fetch()
    seen = []
    for n, (what, device, namespace, near) in enumerate(outages(), 1):
        flow = Flow("10M", clients.address(n))
        time.sleep(0.4)
        ip(namespace, "link", "set", device, "down")
        time.sleep(1)
        ip(namespace, "link", "set", device, "up")
        if device == "s0":
            # The kernel forgets them with the link.
            ip("servers", "route", "replace", "default", "via", "10.78.0.1", "dev", "s0")
            ip("servers", "-6", "route", "replace", "default", "via", "fd78::1", "dev", "s0")
        begun = time.monotonic()
        clients.fetch(timeout=10)
        seen.append(f"{what} {time.monotonic() - begun:.1f} s")
        flow.finish()
        wait_until(lambda: counted(d, "link-downs") >= n, 3, lambda: f"{n} links counted as gone down: {counted(d, 'link-downs')}")
    d.await_log(1 + 2 * len(seen))
    d.stop()
    downs = [int(d.find(rf"^port {near}: .*link went down (\d+) times") or 0) for near in ("wan", "lan")]
    check(all(n >= 2 for n in downs), f"went down: {downs}")
    check(sum(c["end"] == "fin" for c in d.log()) == len(d.log()), f"ends: {[c['end'] for c in d.log()]}")
    lost = {k: v for k, v in d.drops.items() if k.startswith("tx-")}
    return f"connected again after {', '.join(seen)}; 4 downloads whole; links gone down {downs}; {lost}"


@test
def interfaces_removed(t):
    """An interface is removed, and made anew under its name: counted, survived, and connections are made again by themselves"""
    if lab.DRIVER == "dpdk":
        return "not with DPDK, whose devices are taken once"
    t.servers.want("nginx,nginx,nginx")
    d = t.dispatcher()
    sums = bodies()
    clients.fetch()
    seen = []
    for n, near in enumerate(("wan", "lan", "wan"), 1):
        lab.lab("unwire", near)
        wait_until(lambda: counted(d, "link-downs") >= n, 3, "it is counted")
        time.sleep(0.3)
        lab.lab("wire", near)
        if near == "lan":
            t.servers.forget()
        begun = time.monotonic()
        wait_until(lambda: counted(d, "reopened") >= n, 5, "it is taken up again")
        while True:
            try:
                clients.fetch(timeout=2)
                break
            except OSError:
                check(time.monotonic() - begun < 15, f"{near}: no connection 15 s after it was there again")
        seen.append(f"{near} {time.monotonic() - begun:.1f} s")
        down = clients.Download(f"https://{clients.NAME}/body-10M", source=clients.address(n))
        check(down.sum == sums["10M"], f"{down.size} bytes, checksum differs")
    d.stop()
    times = [int(d.find(rf"^port {near}: .*removed and reopened (\d+) times") or 0) for near in ("wan", "lan")]
    check(times == [2, 1], f"reopened: {times}")
    return f"connected again after {', '.join(seen)}; 10 MB whole each time"


def link_address(namespace, device):
    return re.search(r"link/ether ([0-9a-f:]{17})", ip(namespace, "link", "show", "dev", device)).group(1)


def announce(device, mac, addresses):
    """Tells all in the servers' network where these addresses are: ARP announcements, unsolicited neighbour advertisements."""
    mac = bytes.fromhex(mac.replace(":", ""))
    with lab.inside("servers"), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as s:
        s.bind((device, 0))
        for address in addresses:
            if ":" not in address:
                ours = socket.inet_aton(address)
                s.send(b"\xff" * 6 + mac + bytes.fromhex("0806" "0001" "0800" "0604" "0001") + mac + ours + bytes(6) + ours)
                continue
            ours, group = socket.inet_pton(socket.AF_INET6, address), socket.inet_pton(socket.AF_INET6, "ff02::1")
            body = ours + bytes([2, 1]) + mac
            pseudo = ours + group + struct.pack("!II", 8 + len(body), 58)
            total = sum(struct.unpack("!%dH" % ((len(pseudo) + 8 + len(body)) // 2), pseudo + bytes([136, 0, 0, 0, 0x20, 0, 0, 0]) + body))
            while total >> 16:
                total = (total & 0xFFFF) + (total >> 16)
            message = bytes([136, 0]) + struct.pack("!H", ~total & 0xFFFF) + bytes([0x20, 0, 0, 0]) + body
            s.send(bytes.fromhex("333300000001") + mac + b"\x86\xdd" + struct.pack("!IHBB", 0x60000000, len(message), 58, 255) + ours + group + message)


@test
def servers_fail_over(t):
    """The servers get another Ethernet address, as in a failover, and announce it: found in seconds, long before the next question is due"""
    t.servers.want("nginx,nginx,nginx")
    d = t.dispatcher()
    clients.fetch()
    clients.fetch(vip=lab.VIP6)
    before, after = link_address("servers", "s0"), "02:00:00:fa:11:0e"
    t.undo.append(lambda: ip("servers", "link", "set", "s0", "address", before))
    ip("servers", "link", "set", "s0", "address", after)
    announce("s0", after, [f"10.78.0.{n}" for n in (11, 12, 13)] + [f"fd78::{n}" for n in (11, 12, 13)])
    begun, seen = time.monotonic(), []
    for vip in (VIP, lab.VIP6):
        while True:
            try:
                clients.fetch(vip=vip, timeout=2)
                break
            except OSError:
                # Asked every 30 s, and given up 3 s later.
                check(time.monotonic() - begun < 20, f"{vip}: no connection 20 s after the announcement")
        seen.append(f"{time.monotonic() - begun:.1f} s")
    for i in range(12):
        clients.fetch(clients.address(i))
    d.stop()
    return f"connected again after {' (IPv4), '.join(seen)} (IPv6)"


@test
def kernel_has_our_address(t):
    """The kernel gets an address of the dispatcher's: refused at the start, told while it runs, and what is to be typed mends it"""
    t.servers.want("nginx,nginx,nginx")
    typed = "ip addr del 10.78.0.1/24 dev lan"
    d = t.dispatcher()
    clients.fetch()
    # A second later it is told; whether connections suffer meanwhile depends on whether the driver leaves them to the kernel.
    give, take = ["addr", "add", "10.78.0.1/24", "dev", "lan"], typed.split()[1:]
    ip("dispatcher", *give)
    t.undo.append(lambda: subprocess.run(["ip", "-n", f"{PREFIX}-dispatcher", *take], capture_output=True))
    wait_until(lambda: any(typed in line for line in d.err), 10, "it is told")
    failed = 0
    for i in range(6):
        try:
            clients.fetch(clients.address(i), timeout=3)
        except OSError:
            failed += 1
    refused = subprocess.run(["ip", "netns", "exec", f"{PREFIX}-dispatcher", lab.DISPATCHER, "run", *lab.base_args()], capture_output=True, text=True,
                             stdin=subprocess.DEVNULL, timeout=20)
    check(refused.returncode == 2 and len(refused.stderr.splitlines()) == 1 and typed in refused.stderr, f"status {refused.returncode}: {refused.stderr!r}")
    ip("dispatcher", *take)
    for i in range(6):
        clients.fetch(clients.address(i), timeout=10)
    check(sum(typed in line for line in d.err) == 1, f"told once: {d.err}")
    d.stop()
    return f"told, refused; {failed} of 6 connections failed meanwhile, and none of 6 afterwards"
