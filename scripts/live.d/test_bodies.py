"""Large bodies, both ways, byte for byte; many connections at once."""

import glob
import hashlib
import os
import subprocess
import threading
import time

import clients
import lab
from lab import check
from registry import test

# The largest would take an emulated kernel many minutes.
SIZES = {"1M": 1_000_000, "10M": 10_000_000} | ({} if lab.PATH == "wireguard-kernel" else {"100M": 100_000_000})


def bodies():
    """Files of random bytes of all sizes, in every nginx's directory. Their checksums by name."""
    sums = {}
    for name, size in SIZES.items():
        path = f"{lab.WORK}/{name}"
        if not os.path.exists(path):
            with open(path, "wb") as f:
                f.write(os.urandom(size))
        sums[name] = checksum(path)
        for www in glob.glob(f"{lab.STATE}/server*/www"):
            link = f"{www}/body-{name}"
            if not os.path.lexists(link):
                os.symlink(path, link)
    return sums


def checksum(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def both_ways(test, scheme, flags, *run, **kw):
    sums = bodies()
    d = test.dispatcher(*run, **kw)
    seen = []
    for i, (name, size) in enumerate(SIZES.items()):
        source = clients.address(i * 7)
        down = clients.Download(f"{scheme}://{clients.NAME}/body-{name}", *flags, source=source)
        check((down.size, down.sum) == (size, sums[name]), f"{name} down: {down.size} bytes, checksum differs")
        begun = time.monotonic()
        up = clients.curl(f"{scheme}://{clients.NAME}/upload/{name}", "-H", "Expect:", "-T", f"{lab.WORK}/{name}", *flags, source=source)
        error = up.communicate()[1].decode()
        check(up.returncode == 0, f"{name} up: {error.strip()}")
        took = time.monotonic() - begun
        arrived = glob.glob(f"{lab.STATE}/server*/www/upload/{name}")
        check(len(arrived) == 1, f"{name} up arrived at {len(arrived)} servers")
        check(checksum(arrived[0]) == sums[name] and os.path.getsize(arrived[0]) == size, f"{name} up: checksum differs")
        os.unlink(arrived[0])
        seen.append(f"{name} down {size / down.seconds / 1e6:.0f} up {size / took / 1e6:.0f} MB/s")
    log = d.await_log(2 * len(SIZES))
    check(all(c["end"] == "fin" for c in log), f"ends: {[c['end'] for c in log]}")
    check(sum(c["bytes_to_client"] for c in log) > sum(SIZES.values()), "bytes to clients in the log")
    check(sum(c["bytes_to_server"] for c in log) > sum(SIZES.values()), "bytes to servers in the log")
    d.stop()
    if lab.OFFLOAD == "on":
        frames, segments = d.frames("lan"), sum(SIZES.values()) // 1448
        check(frames < segments / 2, f"{frames} frames came from the servers, where {segments} segments would carry the bodies: no large units")
        seen.append(f"{frames} frames for {segments} segments from servers")
    lost = {k: v for k, v in d.drops.items() if k in ("rx-ring-full", "tx-full", "tx-queue-full")}
    return ", ".join(seen) + (f", lost on the way {lost}" if lost else "")


@test
def bodies_tls12(t):
    """1, 10 and 100 MB down and up over TLS 1.2 arrive byte for byte"""
    t.servers.want("nginx,nginx,nginx")
    return both_ways(t, "https", ["--tls-max", "1.2"])


@test
def bodies_tls13(t):
    """1, 10 and 100 MB down and up over TLS 1.3 arrive byte for byte"""
    t.servers.want("nginx,nginx,nginx")
    return both_ways(t, "https", ["--tlsv1.3"])


@test
def bodies_http(t):
    """1, 10 and 100 MB down and up over plain HTTP arrive byte for byte"""
    t.servers.want("nginx,nginx,nginx")
    args = lab.base_args([f"{lab.VIP}:80"], [f"web{n}=10.78.0.{10 + n}:80" for n in (1, 2, 3)])
    return both_ways(t, "http", [], args=args)


def bodies_jumbo(t):
    """With an MTU of 9000 on all links: 1, 10 and 100 MB down and up arrive byte for byte, up in frames of that size"""
    t.servers.want("nginx,nginx,nginx")

    def mtu(n):
        for ns, device in (("clients", "c0"), ("dispatcher", "wan"), ("dispatcher", "lan"), ("servers", "s0")):
            subprocess.run(["ip", "-n", f"{lab.PREFIX}-{ns}", "link", "set", device, "mtu", str(n)], check=True)

    t.undo.append(lambda: mtu(1500))
    mtu(9000)
    seen = both_ways(t, "https", ["--tlsv1.3"])
    # Clients are sent segments of 1460 bytes, which is what a cookie remembers of them; servers take what their links do.
    frames, segments = t.dispatchers[-1].frames("lan", "out"), sum(SIZES.values()) // 1448
    check(frames < segments, f"{frames} frames went to the servers, where {segments} segments would carry the bodies, without the acknowledgements")
    return f"{seen}; {frames} frames to servers, acknowledgements included, for {segments} segments of 1448 bytes"


# The lab's DPDK ports (net_af_packet) have frames of 2 kB.
if lab.DRIVER != "dpdk":
    test(bodies_jumbo)


@test
def parallel_200(t):
    """200 TLS connections open at once, all succeed"""
    t.servers.want("nginx,haproxy,nginx")
    d = t.dispatcher()
    count, errors, bodies_seen = 200, [], []
    # All are connected before any asks; then all ask at once.
    together = threading.Barrier(count, timeout=60)
    ctx = clients.context()

    def one(i):
        try:
            raw = clients.connect(source=clients.address(i), timeout=60)
            with ctx.wrap_socket(raw, server_hostname=clients.NAME) as s:
                together.wait()
                s.sendall(clients.GET)
                bodies_seen.append(clients.read_all(s).split(b"\r\n\r\n", 1)[1])
        except Exception as e:
            errors.append(f"{type(e).__name__}: {e}")
            together.abort()

    begun = time.monotonic()
    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - begun
    check(not errors, f"{len(errors)} failed, one of them: {errors and errors[0]}")
    names = {b.split()[0].decode() for b in bodies_seen}
    check(len(bodies_seen) == count and names == {"web1", "web2", "web3"}, f"{len(bodies_seen)} answers of {names}")
    log = d.await_log(count)
    check(len(log) == count, f"{len(log)} in the log")
    d.stop()
    check(d.counter("flows opened") == count, f"{d.counter('flows opened')} flows")
    return f"{count} of {count} answered by {len(names)} servers in {took:.1f} s"
