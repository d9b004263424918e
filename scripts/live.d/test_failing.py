"""Servers that fail and come back, and connections that nobody uses."""

import socket
import subprocess
import time

import clients
import lab
from lab import PREFIX, VIP, check
from loads import ALL, load, used_again
from registry import test


@test
def backend_refuses(t):
    """A stopped server (connection refused): no client notices; it comes back and is used"""
    t.servers.want("nginx,nginx,haproxy")
    d = t.dispatcher()
    check(load(60)[0] == ALL, "all servers take part")
    d.await_log(60)
    t.servers.stop(2)
    names, worst = load(120)
    check(names == ALL - {"web2"}, f"answered: {names}")
    t.servers.start(2)
    back = used_again(60)
    d.stop()
    check(d.counter("redispatches") >= 1, "nothing was redispatched")
    return f"120 of 120 answered by the others, the slowest in {worst:.2f} s; back after {back:.1f} s; {d.counter('redispatches')} redispatched"


@test
def backend_black_hole(t):
    """A server whose packets vanish: no client notices; it comes back and is used"""
    t.servers.want("nginx,nginx,haproxy")
    d = t.dispatcher()
    check(load(60)[0] == ALL, "all servers take part")
    d.await_log(60)
    gone = "10.78.0.12/24"
    # Its neighbour entry stays: packets go out to a machine that throws them away.
    lab.in_servers("ip", "addr", "del", gone, "dev", "s0")
    t.undo.append(t.servers.forget)
    names, worst = load(120)
    check(names == ALL - {"web2"}, f"answered: {names}")
    _, later = load(60)
    lab.in_servers("ip", "addr", "add", gone, "dev", "s0")
    t.undo.pop()
    back = used_again(60)
    d.stop()
    return f"180 of 180 answered by the others, the slowest in {worst:.2f} s, once known in {later:.2f} s; back after {back:.1f} s"


@test
def backend_never_there(t):
    """A server that does not exist (no ARP answer), from the start"""
    t.servers.want("nginx,nginx,haproxy")
    backends = [f"web{n}=10.78.0.{10 + n}:443" for n in (1, 2, 3)] + ["ghost=10.78.0.99:443"]
    d = t.dispatcher(args=lab.base_args([f"{VIP}:443"], backends))
    names, worst = load(120)
    check(names == ALL, f"answered: {names}")
    log = d.await_log(120)
    check(not any(c["backend"] == "ghost" for c in log), "a ghost answered")
    return f"120 of 120 answered, the slowest in {worst:.2f} s"


@test
def no_backend(t):
    """All servers gone: clients are refused soon, and once it is known their connects are; served again later"""
    t.servers.want("nginx,nginx,haproxy")
    d = t.dispatcher()
    load(10)
    for n in (1, 2, 3):
        t.servers.stop(n)
    t.undo.append(t.servers.forget)
    begun = time.monotonic()
    refused = 0
    for i in range(10):
        try:
            clients.fetch(clients.address(i))
        except (ConnectionResetError, BrokenPipeError, OSError):
            refused += 1
    took = time.monotonic() - begun
    check(refused == 10, f"{refused} of 10 refused")
    ends = [c["end"] for c in d.await_log(11)][10:]
    check(set(ends) == {"no-backend"}, f"ends: {ends}")
    # By now probes were refused, too: not even the TCP handshake is answered.
    time.sleep(1)
    at_once, slowest = 0, 0
    for i in range(10):
        begun = time.monotonic()
        try:
            clients.fetch(clients.address(i))
        except ConnectionRefusedError:
            at_once += 1
        slowest = max(slowest, time.monotonic() - begun)
    check(at_once == 10, f"{at_once} of 10 connects refused")
    check(slowest < 0.5, f"a refusal took {slowest:.2f} s")
    for n in (1, 2, 3):
        t.servers.start(n)
    t.undo.pop()
    # Asked four times a second while none is up.
    time.sleep(0.5)
    used_again(0)
    return f"10 of 10 reset, all within {took:.2f} s; then refused, the slowest in {slowest:.3f} s; served again when the servers were back"


def asked(vip):
    """What a client meets that asks for an echo: "served", "refused" at its SYN, or an end "afterwards". And how long connecting took."""
    begun = time.monotonic()
    try:
        s = clients.connect(vip)
    except ConnectionRefusedError:
        return "refused", time.monotonic() - begun
    took = time.monotonic() - begun
    with s:
        try:
            s.sendall(b"hello")
            return "served" if s.recv(100) == b"hello" else "afterwards", took
        except ConnectionResetError:
            return "afterwards", took


@test
def vip_without_servers(t):
    """While no server of its family lives, a VIP refuses at the SYN and at once, as a host without a listener; it serves again when one is back"""
    def echo(connection, _):
        while got := connection.recv(100):
            connection.sendall(got)

    up = lambda *hosts: [t.server(host, 443, echo) for host in hosts]  # noqa: E731
    ordinary, known, back = [], [], []

    def become(vip, wanted):
        """Asks until that is what clients meet at every worker, each of which finds out by itself; and how long it took until then."""
        begun = time.monotonic()
        asks = 1 if lab.WORKERS == 1 else 12 * lab.WORKERS
        lab.wait_until(lambda: all(asked(vip)[0] == wanted for _ in range(asks)), 10, f"{vip}: {wanted}")
        return time.monotonic() - begun

    def all_meet(vip, wanted):
        seen = [asked(vip) for _ in range(20)]
        check([what for what, _ in seen] == [wanted] * 20, f"{vip}: {[what for what, _ in seen]}, all were to be {wanted}")
        # A lost SYN would be repeated after a second: half of the clients cannot have met one.
        took = sorted(took for _, took in seen)[10]
        check(took < 0.5, f"{vip}: {wanted} after {took:.2f} s")
        return took

    for mode in ("snat", "dnat"):
        one, two = up("10.78.0.14", "10.78.0.15")
        six, = up("fd78::14")
        args = lab.base_args([f"{VIP}:443", f"[{lab.VIP6}]:443"], ["e1=10.78.0.14:443", "e2=10.78.0.15:443", "e6=[fd78::14]:443"])
        d = t.dispatcher("--address-mode", mode, args=args)
        ordinary += [all_meet(vip, "served") for vip in (VIP, lab.VIP6)]
        six.close()
        become(lab.VIP6, "refused")
        known.append(all_meet(lab.VIP6, "refused"))
        # The other family's servers live, and one of them is enough.
        one.close()
        all_meet(VIP, "served")
        two.close()
        become(VIP, "refused")
        known.append(all_meet(VIP, "refused"))
        one, six = up("10.78.0.14", "fd78::14")
        back += [become(VIP, "served"), become(lab.VIP6, "served")]
        all_meet(VIP, "served")
        d.stop()
        # And from the start.
        one.close()
        d = t.dispatcher("--address-mode", mode, args=args)
        become(VIP, "refused")
        known.append(all_meet(VIP, "refused"))
        all_meet(lab.VIP6, "served")
        d.stop()
        six.close()
    return (f"20 of 20 refused each time, in {max(known) * 1000:.1f} ms (connecting takes {max(ordinary) * 1000:.1f} ms), "
            f"served again after {max(back):.1f} s at most, with snat and dnat")


def silenced(t, port):
    """What the clients' side sends from this port is lost from now on."""
    nft = ["ip", "netns", "exec", f"{PREFIX}-clients", "nft"]
    rule = f"chain output {{ type filter hook output priority 0; tcp sport {port} drop; }}"
    subprocess.run([*nft, "-f", "-"], input=f"table inet silent {{\n{rule}\n}}\n", text=True, check=True, capture_output=True)
    undo = lambda: subprocess.run([*nft, "delete", "table", "inet", "silent"], check=True)
    t.undo.append(undo)
    return lambda: (t.undo.remove(undo), undo())


@test
def idle_timeout(t):
    """A connection without frames for --flow-idle-timeout lives on while both its ends answer; when one is gone the other is reset"""
    ends = {}

    def serve(connection, _):
        connection.settimeout(30)
        # Which client it is says its first word.
        port = int(connection.recv(5))
        connection.sendall(b"hello")
        try:
            while got := connection.recv(100):
                connection.sendall(got)
            ends[port] = "closed"
        except ConnectionResetError:
            ends[port] = "reset"
        except TimeoutError:
            ends[port] = "waited in vain"

    t.server("10.78.0.14", 443, serve)
    t.server("fd78::14", 443, serve)
    d = t.dispatcher("--flow-idle-timeout", "1s", args=lab.base_args(
        [f"{VIP}:443", f"[{lab.VIP6}]:443"], ["echo=10.78.0.14:443", "echo6=[fd78::14]:443"]))
    seen = []
    for vip in (VIP, lab.VIP6):
        quiet, gone = clients.connect(vip), clients.connect(vip)
        ports = [c.getsockname()[1] for c in (quiet, gone)]
        for c, port in zip((quiet, gone), ports):
            c.sendall(b"%5d" % port)
            check(c.recv(100) == b"hello", "the echo")
        heard_again = silenced(t, ports[1])
        begun = time.monotonic()
        lab.wait_until(lambda: ports[1] in ends, 20, "the server of the client that is gone sees an end")
        check(ends.pop(ports[1]) == "reset", "the server of the client that is gone is reset")
        seen.append(f"{time.monotonic() - begun:.1f} s")
        # The other one was as silent, for as long, and for as long again.
        time.sleep(time.monotonic() - begun)
        quiet.sendall(b"still there")
        check(quiet.recv(100) == b"still there", "a silent connection whose ends live is there when it is wanted")
        quiet.close()
        lab.wait_until(lambda: ends.pop(ports[0], None) == "closed", 5, "the other's orderly end")
        heard_again()
        gone.close()
    log = d.await_log(4)
    check(sorted(c["end"] for c in log) == ["fin", "fin", "idle", "idle"], f"ends: {[c['end'] for c in log]}")
    return f"servers of clients that were gone reset after {' and '.join(seen)}; as silent ones that answered lived on"


@test
def half_close(t):
    """A client that closes its half first still gets all of the answer"""
    def serve(connection, _):
        got = clients.read_all(connection)
        connection.sendall(len(got).to_bytes(4, "big") + b"x" * 3_000_000)

    t.server("10.78.0.14", 443, serve)
    d = t.dispatcher(args=lab.base_args([f"{VIP}:443"], ["half=10.78.0.14:443"]))
    for size in (0, 1, 200_000):
        s = clients.connect()
        s.sendall(b"y" * size)
        s.shutdown(socket.SHUT_WR)
        answer = clients.read_all(s)
        check(len(answer) == 3_000_004 and int.from_bytes(answer[:4], "big") == size, f"{len(answer)} bytes for {size}")
        s.close()
    log = d.await_log(3)
    check([c["end"] for c in log] == ["fin"] * 3, f"ends: {[c['end'] for c in log]}")
    return "after 0, 1 and 200000 bytes of the client's, 3 MB of answer each"
