"""What only the driver dpdk has to show: no files left, huge pages, mistakes of those who start it."""

import os
import re
import signal
import subprocess
import time

import clients
import lab
from lab import DISPATCHER, PREFIX, VIP, check

if lab.DRIVER == "dpdk":
    from registry import test
else:
    def test(run):
        return run


def in_dispatcher(*command):
    return subprocess.run(["ip", "netns", "exec", PREFIX + "-dispatcher", *command], capture_output=True, text=True)


def traces():
    """Whatever of a process of DPDK's may be left on the file system, and how many huge pages are in use."""
    files = []
    for place in ("/var/run/dpdk", "/run/dpdk", "/dev/hugepages", "/mnt/huge", "/dev/shm"):
        for directory, _, names in os.walk(place):
            files += [os.path.join(directory, name) for name in names]
        files += [place] if place.endswith("dpdk") and os.path.isdir(place) else []
    with open("/proc/meminfo") as f:
        numbers = dict(re.findall(r"^(HugePages_(?:Total|Free)):\s+(\d+)", f.read(), re.M))
    return sorted(set(files)), int(numbers["HugePages_Total"]) - int(numbers["HugePages_Free"])


@test
def dpdk_killed(t):
    """SIGKILL: no file, socket, packet socket or huge page is left, the interfaces work, a new start works at once"""
    t.servers.want("nginx,nginx,haproxy")
    before = traces()
    d = t.dispatcher()
    clients.fetch(clients.address(0))
    check(traces()[0] == before[0], f"files while it runs: {traces()[0]}")
    d.process.send_signal(signal.SIGKILL)
    d.process.wait(5)
    d.kill()
    t.dispatchers.remove(d)
    lab.wait_until(lambda: traces() == before, 1, lambda: f"what was there before: {before}, and is there: {traces()}")
    sockets = in_dispatcher("cat", "/proc/net/packet").stdout.splitlines()[1:]
    check(not sockets, f"packet sockets: {sockets}")
    begun = time.monotonic()
    again = t.dispatcher()
    clients.fetch(clients.address(1))
    took = time.monotonic() - begun
    again.stop()
    check(traces() == before, f"left after a clean stop: {traces()}")
    return f"nothing left; served again {took:.1f} s after the next start"


@test
def dpdk_huge_pages(t):
    """With huge pages, where they can be reserved: they are used, and free again after the end and after SIGKILL"""
    reserved = "/proc/sys/vm/nr_hugepages"
    with open(reserved) as f:
        was = int(f.read())
    try:
        with open(reserved, "w") as f:
            f.write("128")
        with open(reserved) as f:
            if int(f.read()) < 100:
                return "none could be reserved: not tried"
        t.servers.want("nginx,nginx,haproxy")
        before = traces()
        for how in (signal.SIGTERM, signal.SIGKILL):
            d = t.dispatcher()
            check(re.search(r" huge pages", d.find(r"^(port wan: .*)")) and not re.search("no huge pages", d.find(r"^(port wan: .*)")), "huge pages are not used")
            clients.fetch(clients.address(0))
            if how == signal.SIGTERM:
                d.stop()
            else:
                d.process.send_signal(how)
                d.process.wait(5)
                d.kill()
                t.dispatchers.remove(d)
            lab.wait_until(lambda: traces() == before, 1, lambda: f"what was there before: {before}, and is there: {traces()}")
        return "used; free again after SIGTERM and after SIGKILL"
    finally:
        with open(reserved, "w") as f:
            f.write(str(was))


@test
def dpdk_mistakes(_t):
    """Devices that are not there or not to be had, no privilege, no huge pages, too few queues or cores: one line, status 2"""
    rest = ["--vip", f"{VIP}:443", "--backend", "a=10.77.0.11:443"]
    cards = sorted(os.listdir("/sys/bus/pci/devices")) if os.path.isdir("/sys/bus/pci/devices") else []
    bridges = [c for c in cards if not open(f"/sys/bus/pci/devices/{c}/class").read().startswith("0x02")]
    bound = [c for c in cards if c not in bridges and os.path.exists(f"/sys/bus/pci/devices/{c}/driver")
             and os.path.basename(os.readlink(f"/sys/bus/pci/devices/{c}/driver")) not in ("vfio-pci", "uio_pci_generic", "igb_uio")]
    cases = [
        ("net_af_packet0;iface=nosuch0", [], "no network device named 'nosuch0'"),
        ("net_af_packet0", [], "on which interface?"),
        ("net_nosuch0", [], "no driver of DPDK's"),
        ("eth0", [], "neither a PCI address"),
        ("net_null0;size", [], "KEY=VALUE"),
        ("0000:ff:1f.7", [], "no PCI device"),
        ("net_af_packet0;iface=wan;nonsense=1", [], "its driver refuses it"),
        ("net_af_packet0;iface=wan;qpairs=1", ["--workers", "2"], "has 1 queue"),
        ("net_null0", ["--workers", "768"], "wants a core for each"),
        ("net_null0", ["--cores", "999"], "may not run there"),
        ("net_null0,mtu=9000", [], "MTU of 1500"),
        ("net_null0,huge=on,ip=10.99.0.1/24", [], "nr_hugepages"),
    ]
    cases += [(bridges[0], [], "not a network card")] if bridges else []
    cases += [(bound[0], [], "dpdk-devbind.py --bind=vfio-pci")] if bound else []
    with open("/proc/meminfo") as f:
        plenty = int(re.search(r"HugePages_Free:\s+(\d+)", f.read()).group(1)) > 10
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set", "-all"]
    for device, flags, expected in [*cases, ("net_af_packet0;iface=wan", nobody, "needs CAP_NET_RAW")]:
        if expected == "nr_hugepages" and plenty:
            continue
        before = flags if flags is nobody else []
        # Somebody else's right to the file must not be what is missing.
        program = DISPATCHER
        if before:
            program = "/tmp/" + PREFIX + "-dispatcher"
            subprocess.run(["install", "-m", "755", DISPATCHER, program], check=True)
        done = in_dispatcher(*before, "timeout", "20", program, "run", "--port", f"wan=dpdk:{device},ip=10.77.0.1/24", *rest, *(flags if not before else []))
        if before:
            os.unlink(program)
        check(done.returncode == 2, f"{device}: status {done.returncode}: {done.stderr}")
        check(done.stderr.count("\n") == 1 and expected in done.stderr, f"{device}: {done.stderr}")
        check(not done.stdout, f"{device}: {done.stdout}")
    return f"{len(cases) + 1} of them, one line and status 2 each"
