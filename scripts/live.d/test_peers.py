"""Other protocols on the same VIP, IPv6, both address modes, the PROXY header."""

import glob
import re
import subprocess
import threading
import time

import clients
import lab
from lab import STATE, VIP, VIP6, WORK, check
from registry import test
from test_bodies import SIZES, bodies

BANNER = b"220 mail.example.test ESMTP ready\r\n"


def mail(connection, _address):
    """As an SMTP server: speaks first, then answers a line, then says goodbye."""
    connection.sendall(BANNER)
    line = b""
    while not line.endswith(b"\r\n"):
        more = connection.recv(1000)
        if not more:
            return
        line += more
    connection.sendall(b"250 " + line)
    connection.recv(1000)
    connection.sendall(b"221 bye\r\n")


def greet(source, port=443):
    """A client that waits to be spoken to. Returns how long it waited."""
    begun = time.monotonic()
    s = clients.connect(port=port, source=source)
    try:
        got = s.recv(1000)
        waited = time.monotonic() - begun
        check(got == BANNER, f"banner: {got!r}")
        s.sendall(b"EHLO client.example.test\r\n")
        check(s.recv(1000) == b"250 EHLO client.example.test\r\n", "the answer to EHLO")
        s.sendall(b"QUIT\r\n")
        check(clients.read_all(s) == b"221 bye\r\n", "the end")
        return waited
    finally:
        s.close()


@test
def other_protocols(t):
    """TLS, plain HTTP and a protocol where the server speaks first, on one VIP"""
    t.servers.want("nginx,nginx,nginx")
    # Servers that speak all three on one port: HAProxy looks at the first bytes, or waits in vain for some.
    t.server("10.78.0.16", 25, mail)
    config, pid = f"{WORK}/all.cfg", f"{WORK}/all.pid"
    binds = "\n".join(f"    bind 10.78.0.{n}:8443 name f{n}" for n in (14, 15, 16))
    with open(config, "w") as f:
        f.write(f"""
defaults
    mode tcp
    timeout client 60s
    timeout connect 5s
    timeout server 60s
frontend all
{binds}
    tcp-request inspect-delay 100ms
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
    tcp-request content accept if HTTP
    use_backend tls if {{ req.ssl_hello_type 1 }}
    use_backend http if HTTP
    default_backend mail
backend tls
    server s 10.78.0.11:443
backend http
    server s 10.78.0.12:80
backend mail
    server s 10.78.0.16:25
""")
    lab.in_servers("haproxy", "-f", config, "-D", "-p", pid)
    t.undo.append(lambda: subprocess.run(f"kill $(cat {pid})", shell=True))
    # And one that speaks first at once, on a VIP of its own port.
    args = lab.base_args([f"{VIP}:443"], [f"all{n}=10.78.0.{n}:8443" for n in (14, 15, 16)])
    d = t.dispatcher("--hello-timeout", "500ms", args=args)
    waits, errors = [], []

    def try_one(what, i):
        try:
            if what == "tls":
                check(clients.fetch(clients.address(i))[0].startswith(b"web1"), "TLS went elsewhere")
            elif what == "http":
                s = clients.connect(source=clients.address(i))
                s.sendall(clients.GET)
                check(clients.read_all(s).endswith(b"web2 nginx\n"), "HTTP went elsewhere")
                s.close()
            else:
                waits.append(greet(clients.address(i)))
        except Exception as e:
            errors.append(f"{what}: {type(e).__name__}: {e}")

    threads = [threading.Thread(target=try_one, args=(what, i * 3 + j)) for i in range(8) for j, what in enumerate(("tls", "http", "mail"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(not errors, f"{len(errors)} of {len(threads)} failed: {errors and errors[0]}")
    log = d.await_log(len(threads))
    classes = [c["class"] for c in log]
    check((classes.count("secure"), classes.count("non-secure")) == (8, 16), f"classes: {classes}")
    check(all(c["end"] == "fin" for c in log), f"ends: {[c['end'] for c in log]}")
    check(len({c["backend"] for c in log}) == 3, "spread over the servers")
    check(min(waits) >= 0.5, f"the server spoke after {min(waits):.2f} s, before --hello-timeout")
    return f"8 TLS, 8 HTTP, 8 where the server spoke first, {min(waits):.2f} to {max(waits):.2f} s after (--hello-timeout 500ms)"


@test
def server_speaks_first(t):
    """A server that speaks at once, to silent clients, of both families"""
    for n in (14, 15):
        t.server(f"10.78.0.{n}", 25, mail)
    args = lab.base_args([f"{VIP}:25"], [f"mail{n}=10.78.0.{n}:25" for n in (14, 15)])
    d = t.dispatcher("--hello-timeout", "200ms", args=args)
    waits = [greet(clients.address(i), 25) for i in range(6)]
    # A client in a hurry speaks before it is spoken to: nothing of it is lost.
    s = clients.connect(port=25)
    s.sendall(b"EHLO hurry\r\n")
    got = b""
    while not got.endswith(b"hurry\r\n"):
        more = s.recv(1000)
        check(more, f"ended after {got!r}")
        got += more
    s.close()
    check(got == BANNER + b"250 EHLO hurry\r\n", f"{got!r}")
    d.await_log(7)
    return f"6 clients heard the banner after {max(waits) * 1000:.0f} ms at most (--hello-timeout 200ms), one spoke first"


def large(vip, source, *flags):
    """10 MB down and up."""
    sums = bodies()
    down = clients.Download(f"https://{clients.NAME}/body-10M", *flags, source=source, vip=vip)
    check((down.size, down.sum) == (SIZES["10M"], sums["10M"]), "10M down: checksum differs")
    up = clients.curl(f"https://{clients.NAME}/upload/large", "-H", "Expect:", "-T", f"{WORK}/10M", *flags, source=source, vip=vip)
    error = up.communicate()[1].decode()
    check(up.returncode == 0, f"10M up: {error}")
    arrived = glob.glob(f"{STATE}/server*/www/upload/large")
    check(len(arrived) == 1, f"arrived at {arrived}")
    from test_bodies import checksum
    check(checksum(arrived[0]) == sums["10M"], "10M up: checksum differs")
    lab.remove(arrived[0])


def access(n=None):
    """What the nginx servers logged: (peer, PROXY address) of each request."""
    return [tuple(line.split()[:2]) for path in glob.glob(f"{STATE}/server{n or '*'}/access.log") for line in open(path)]


def forget_access():
    for path in glob.glob(f"{STATE}/server*/access.log"):
        open(path, "w").close()


@test
def ipv6(t):
    """IPv6 clients to IPv6 servers, with IPv4 beside them"""
    t.servers.want("nginx,haproxy,nginx")
    # All clients are of one /64, which the default leads to one server.
    d = t.dispatcher()
    names = {clients.fetch(clients.address6(i), vip=VIP6)[0].split()[0] for i in range(6)}
    check(len(names) == 1, f"one /64 was led to {names}")
    d.stop()
    d = t.dispatcher("--balance", "round-robin")
    names = set()
    for i in range(20):
        names.add(clients.fetch(clients.address6(i), vip=VIP6)[0].split()[0])
        clients.fetch(clients.address(i))
    check(names == {b"web1", b"web2", b"web3"}, f"servers that answered: {names}")
    log = d.await_log(40)
    six = [c for c in log if c["vip"] == f"[{VIP6}]:443"]
    check(len(six) == 20 and all(c["backend"].endswith("-v6") for c in six), f"{len(six)} over IPv6")
    check(not any(c["backend"].endswith("-v6") for c in log if c not in six), "IPv4 clients at IPv4 servers")
    # Only of nginx can large bodies be had.
    d.stop()
    args = lab.base_args([f"[{VIP6}]:443"], ["web1=[fd78::11]:443", "web3=[fd78::13]:443"])
    t.dispatcher(args=args)
    large(VIP6, clients.address6(3))
    return f"20 of 20 over IPv6 by {len(names)} servers, 20 over IPv4 beside them; 10 MB down and up"


@test
def address_modes(t):
    """--address-mode snat shows servers our address, dnat the client's; IPv4 and IPv6"""
    t.servers.want("nginx,nginx,nginx")
    seen = []
    for mode in ("snat", "dnat"):
        d = t.dispatcher("--address-mode", mode)
        forget_access()
        for i in range(6):
            clients.fetch(clients.address(i))
            clients.fetch(clients.address6(i), vip=VIP6)
        lab.wait_until(lambda: len(access()) >= 12, 5, "12 lines in the servers' logs")
        peers = {peer for peer, _ in access()}
        ours = lab.own_addresses() if mode == "snat" else {f(i) for i in range(6) for f in (clients.address, clients.address6)}
        check(peers <= ours if mode == "snat" else peers == ours, f"{mode}: servers saw {sorted(peers)}")
        large(VIP, clients.address(8))
        large(VIP6, clients.address6(9))
        d.await_log(16)
        d.stop()
        seen.append(f"{mode}: servers saw {len(peers)} addresses")
    return ", ".join(seen) + ", 10 MB down and up in each and both families"


@test
def proxy_protocol(t):
    """PROXY v2 as nginx and HAProxy read it: the client's true address in their logs"""
    t.servers.want("nginx,haproxy", proxy=True)
    # In turn, so that each takes part.
    d = t.dispatcher("--proxy-protocol", "v2", "--balance", "round-robin")
    forget_access()
    by = {"nginx": set(), "haproxy": set()}
    for i in range(16):
        for vip, address in ((VIP, clients.address(i)), (VIP6, clients.address6(i))):
            body = clients.fetch(address, vip=vip)[0].decode().split()
            by[body[1]].add(address)
            if body[1] == "haproxy":
                check(body[2] == address, f"haproxy saw {body[2]} for {address}")
    check(all(len(v) > 4 for v in by.values()), f"both servers took part: { {k: len(v) for k, v in by.items()} }")
    lab.wait_until(lambda: len(access()) >= len(by["nginx"]), 5, "nginx's log")
    check({proxy for _, proxy in access()} == by["nginx"], f"nginx saw {access()}")
    check({peer for peer, _ in access()} <= lab.own_addresses(), "and our address as its peer")
    d.await_log(32)
    d.stop()
    # Behind the header the stream must stay aligned: large bodies, tiny hellos.
    t.servers.want("nginx,nginx", proxy=True)
    t.dispatcher("--proxy-protocol", "v2")
    large(VIP, clients.address(20))
    large(VIP6, clients.address6(21))
    from test_hellos import Socket, answered
    for i in range(3):
        s = Socket(clients.address(30 + i))
        answered(clients.drive(clients.context(), s, lambda hello: s.drip(hello, 0.001))[0])
        s.socket.close()
    return f"{len(by['nginx'])} true addresses in nginx's log, {len(by['haproxy'])} told by HAProxy, IPv4 and IPv6; 10 MB both ways; 1-byte hellos"
