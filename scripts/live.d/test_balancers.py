"""Behind another balancer: real HAProxy in front that writes PROXY headers, real servers behind that read them or not."""

import json
import os
import subprocess

import clients
import lab
from lab import VIP, WORK, check
from registry import test
from test_peers import access, forget_access
from test_tunnels import KINDS, by, nothing_too_long

# Among the clients: where HAProxy listens, and where it comes from.
BALANCER, FROM = "10.77.0.198", "10.77.0.199"


def in_front(t, version, port):
    """HAProxy in front of the VIP, which says by this version of the header who its clients are."""
    config, pid = f"{WORK}/front.{version}.cfg", f"{WORK}/front.{version}.pid"
    with open(config, "w") as f:
        f.write(f"""
defaults
    mode tcp
    timeout client 60s
    timeout connect 5s
    timeout server 60s
listen front
    bind {BALANCER}:{port}
    source {FROM}
    server vip {VIP}:443 {version}
""")
    for address in (BALANCER, FROM):
        subprocess.run(["ip", "-n", f"{lab.PREFIX}-clients", "addr", "replace", f"{address}/24", "dev", "c0"], check=True)
    started = subprocess.run([*lab.lab_namespace("clients"), "haproxy", "-f", config, "-D", "-p", pid], capture_output=True, text=True)
    check(started.returncode == 0, f"haproxy: {started.stderr}")
    t.undo.append(lambda: subprocess.run(f"kill $(cat {pid})", shell=True))


def visit_all(port, count=12):
    """Each client twice, the second time with the session of the first. Who answered, by client; and how many sessions were resumed."""
    by, resumed = {}, 0
    for i in range(count):
        address = clients.address(i)
        for version in ("1.2", "1.3"):
            ctx = clients.context(version)
            first, (session, _, _) = clients.fetch(address, ctx, vip=BALANCER, port=port)
            again, (_, again_resumed, _) = clients.fetch(address, ctx, vip=BALANCER, port=port, session=session)
            by.setdefault(address, set()).update({first.split()[0], again.split()[0]})
            resumed += again_resumed
    return by, resumed


def judge(d, count, version):
    """What the log says: every client by its own address, and who has named it."""
    log = d.await_log(4 * count)
    named = {c["client"].rsplit(":", 1)[0] for c in log}
    check(named == {clients.address(i) for i in range(count)}, f"{version}: the log has {sorted(named)}")
    check({c["via"].rsplit(":", 1)[0] for c in log} == {FROM}, f"{version}: by whom they are named")
    check(all(c["class"] == "secure" for c in log), f"{version}: not every hello was seen")
    returning = [c for c in log if c["offered"]]
    missed = [c["offered"] for c in returning if not c["resumed"]]
    # A server's key of TLS 1.3 is known once it has been seen to open something.
    check(len(returning) >= 2 * count and len(missed) <= 3 and all(o == ["psk"] for o in missed), f"{version}: not resumed: {missed}")


@test
def behind_haproxy(t):
    """HAProxy in front with send-proxy and send-proxy-v2: the header taken out, replaced, passed on; sessions find their server"""
    seen = []
    for behind, flags in (("taken out", []), ("replaced", ["--proxy-protocol", "v2"]), ("passed on", ["--proxy-protocol", "pass"])):
        t.servers.want("nginx,haproxy,nginx" if not flags else "nginx,nginx,nginx", proxy=bool(flags))
        for version, port in (("send-proxy", 9001), ("send-proxy-v2", 9002)):
            in_front(t, version, port)
            forget_access()
            d = t.dispatcher("--accept-proxy", f"{FROM}/32", "--balance", "round-robin", *flags)
            _, resumed = visit_all(port)
            judge(d, 12, version)
            check(resumed >= 21, f"{behind}, {version}: {resumed} of 24 resumed")
            if flags:
                lab.wait_until(lambda: len(access()) >= 48, 5, "nginx's log")
                check({named for _, named in access()} == {clients.address(i) for i in range(12)}, f"nginx saw {set(access())}")
            d.stop()
            t.undo.pop()()
            seen.append(f"{behind} {version} {resumed} of 24 resumed")
    return "; ".join(seen)


@test
def behind_haproxy_over_tunnels(t):
    """HAProxy in front and servers behind tunnels of each kind: the header replaced and passed on, a megabyte arrives, nothing is too long"""
    t.servers.want("nginx,nginx", proxy=True)
    seen = []
    in_front(t, "send-proxy-v2", 9002)
    for path in KINDS:
        by(t, path)
        for flag in ("v2", "pass"):
            forget_access()
            with nothing_too_long(path):
                d = t.dispatcher("--accept-proxy", f"{FROM}/32", "--balance", "round-robin", "--proxy-protocol", flag)
                for i in range(6):
                    body, _ = clients.fetch(clients.address(i), vip=BALANCER, port=9002, request=clients.GET.replace(b"GET /", b"GET /1M", 1))
                    check(len(body) == os.path.getsize(lab.STATE + "/1M"), f"{path}, {flag}: {len(body)} bytes")
                lab.wait_until(lambda: len(access()) >= 6, 5, "nginx's log")
                check({named for _, named in access()} == {clients.address(i) for i in range(6)}, f"{path}, {flag}: nginx saw {set(access())}")
                # Each worker has an address of its own within WireGuard.
                check({peer for peer, _ in access()} <= {f"10.78.0.{1 + n}" for n in range(lab.WORKERS)}, f"{path}, {flag}: peers {access()}")
                d.stop()
        seen.append(path)
    return f"6 clients by each of {', '.join(seen)}, replaced and passed on"


@test
def who_may_name_clients(t):
    """Clients of no balancer write no header and are themselves; one that should write a header and does not is refused"""
    t.servers.want("nginx,nginx,nginx")
    d = t.dispatcher("--accept-proxy", f"{FROM}/32")
    subprocess.run(["ip", "-n", f"{lab.PREFIX}-clients", "addr", "replace", f"{FROM}/24", "dev", "c0"], check=True)
    clients.fetch(clients.address(3))
    try:
        clients.fetch(FROM)
        check(False, "a connection without its header was served")
    except (ConnectionResetError, OSError):
        pass
    log = d.await_log(2)
    ends = sorted((c["end"], c["client"].rsplit(":", 1)[0], "via" in c) for c in log)
    check(ends == [("fin", clients.address(3), False), ("proxy-header", FROM, False)], json.dumps(log))
    return "one served, one refused as proxy-header"
