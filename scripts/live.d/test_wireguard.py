"""Servers behind WireGuard: the far end is wireguard-go, and what it is asked, `wg`."""

import base64
import json
import os
import subprocess
import time

import lab
from asking import asked, tunnels, visits
from honest import Honest
from lab import STATE, VIP, by, check
from registry import test
from test_tunnels import Watch, nothing_too_long

END = "10.98.0.2:51820"


def states(ctl):
    return [t["state"] for t in tunnels(ctl)]


def wg(what):
    """A column of `wg show DEVICE dump`, of peers that were heard, by their public keys."""
    dump = subprocess.run([*lab.lab_namespace("servers"), "wg", "show", lab.far_device("wireguard"), "dump"], check=True, capture_output=True, text=True).stdout
    lines = [line.split("\t") for line in dump.splitlines()[1:]]
    return {line[0]: line[{"endpoint": 2, "allowed": 3, "handshake": 4, "received": 5, "sent": 6}[what]] for line in lines if int(line[4])}


def up(ctl):
    lab.wait_until(lambda: states(ctl) and set(states(ctl)) == {"up"}, 20, lambda: f"all tunnels up: {states(ctl)}")


@test
def wireguard_told(t):
    """ctl show tunnels says of each worker what wg says at the other end; no private key is in anything that is told, logged or kept"""
    t.servers.want("nginx,nginx,nginx")
    by(t, "wireguard")
    state, http = f"{lab.WORK}/tunnels.state", "127.0.0.1:9135"
    t.undo.append(lambda: lab.remove(state))
    # It has counted since its own start, and dispatchers before this one had the same keys.
    before = wg("received")
    ctl, d = asked(t, "--state", state, "--metrics", http)
    up(ctl)
    check(visits(24).count(None) == 0, "visits")
    told = {one["own_public_key"]: one for one in tunnels(ctl)}
    check(len(told) == lab.WORKERS, f"{lab.WORKERS} workers, tunnels: {told}")
    keys = subprocess.run([lab.DISPATCHER, "tunnel", "pubkey", STATE + "/tunnel.key", "--workers", str(lab.WORKERS)], check=True, capture_output=True, text=True).stdout.split()
    check(list(told) == keys, f"keys: {list(told)}, of the file: {keys}")
    handshakes, endpoints = wg("handshake"), wg("endpoint")
    check(set(handshakes) == set(keys), f"wg heard {set(handshakes)}")
    far = open(STATE + "/far.pub").read().strip()
    for key, one in told.items():
        check(one["endpoint"] == END and one["public_key"] == far and sorted(one["backends"]) == ["web1", "web2", "web3"], str(one))
        age = time.time() - int(handshakes[key])
        check(abs(age - one["handshake"]) < 3, f"handshake {one['handshake']:.1f} s ago, at the far end {age:.1f} s")
        check(endpoints[key] == f"10.98.0.1:{51820 + one['worker']}", f"wg: endpoint {endpoints[key]}")

    def transferred():
        """Of each worker, what it says it sent, and what was received there."""
        received = wg("received")
        return [(one["bytes_out"], int(received[one["own_public_key"]]) - int(before.get(one["own_public_key"], 0))) for one in tunnels(ctl)]

    # wireguard-go counts what was in messages that it took; we what we sent, and a worker tells it ten times a second.
    alike = lambda: all(0.5 < sent / there < 1.5 for sent, there in transferred())
    lab.wait_until(alike, 5, lambda: f"sent, received there: {transferred()}")
    text = ctl("show", "tunnels")
    check(all(word in text for word in (far, keys[0], "latest handshake", "transfer", "state: up")), text)
    with lab.inside("dispatcher"):
        metrics = subprocess.run(["curl", "-s", f"http://{http}/metrics"], capture_output=True, text=True, check=True).stdout
        page = subprocess.run(["curl", "-s", f"http://{http}/status.json"], capture_output=True, text=True, check=True).stdout
    for name in ("tunnel_up", "tunnel_handshake_age_seconds", "tunnel_handshakes_total", "tunnel_bytes_total"):
        check(f'dispatcher_{name}{{endpoint="{END}",worker="0"' in metrics, f"no {name} in {metrics[-300:]}")
    lab.wait_until(lambda: " is up" in ctl("events"), 5, "an event")
    events = ctl("events")
    check(f"the tunnel to {END} (web1, web2, web3) of worker 0 is up" in events, events)
    secret = open(STATE + "/tunnel.key").read().strip()
    raw = base64.b64decode(secret)
    everything = [text.encode(), metrics.encode(), page.encode(), events.encode(), "".join(d.out + d.err).encode(), open(state, "rb").read()]
    everything += [ctl("show", what, "--json").encode() for what in ("backends", "sessions", "workers", "tunnels")]
    for one in everything:
        check(secret.encode() not in one and raw not in one and raw.hex().encode() not in one, "our secret")
    d.stop()
    return f"{lab.WORKERS} workers, {len(everything)} things told, {sum(map(len, everything)) >> 10} KiB of them"


@test
def wireguard_lost(t):
    """A far end that is gone takes its servers away, and is told; clients go to the one that is reached plainly; its return brings all back by itself"""
    t.servers.want("nginx,nginx,nginx")
    by(t, "wireguard")
    ctl, d = asked(t)
    up(ctl)
    check(visits(12).count(None) == 0, "visits before")
    lab.lab("far", "stop")
    gone = time.monotonic()
    # What is sent, and answered by nothing.
    visits(4, timeout=2)
    lab.wait_until(lambda: set(states(ctl)) == {"down"}, 60, lambda: f"tunnels down: {states(ctl)}")
    lost = time.monotonic() - gone
    why = {b["observed"]["why"] for b in ctl.backends().values()}
    check(why == {"its tunnel is lost"} and {b["observed"]["health"] for b in ctl.backends().values()} == {"down"}, f"why: {why}")
    check("answers no handshake" in ctl("show", "tunnels"), "the note")
    began = time.monotonic()
    check(visits(4, timeout=5) == [None] * 4 and time.monotonic() - began < 4, "clients are refused at once")
    lab.lab("far", "start")
    back = time.monotonic()
    lab.wait_until(lambda: set(states(ctl)) == {"up"}, 30, lambda: f"tunnels up: {states(ctl)}")
    lab.wait_until(lambda: visits(6).count(None) == 0, 10, "visits after")
    back = time.monotonic() - back

    def told():
        """Of each worker whether its tunnel was down, by its events in order."""
        events = [line for line in ctl("events").splitlines() if " tunnel " in line]
        return [["is down" in line for line in events if f"of worker {worker} " in line] for worker in range(lab.WORKERS)]

    # Each worker tells of its own.
    lab.wait_until(lambda: told() == [[False, True, False]] * lab.WORKERS, 10, lambda: f"the events of all workers: {told()}")
    d.stop()
    check(d.drops.get("tunnel-not-up", 0) > 0, f"drops {d.drops}")
    return f"down after {lost:.1f} s, up and serving {back:.1f} s after its return"


@test
def wireguard_anew(t):
    """A far end that begins anew, without knowing where we are, is found out by what it does not answer: visits go on within 20 s, and no server is told down for longer"""
    t.servers.want("nginx,nginx,nginx")
    by(t, "wireguard")
    ctl, d = asked(t)
    up(ctl)
    honest = Honest(t)
    quiet = honest.during(2)
    lab.lab("far", "stop")
    lab.lab("far", "start")
    began = time.monotonic()
    with honest.phase():
        # All of them: other workers have tunnels of their own.
        lab.wait_until(lambda: all(one["handshakes"] >= 2 and one["state"] == "up" for one in tunnels(ctl)), 40, lambda: f"new handshakes: {tunnels(ctl)}")
    took = time.monotonic() - began
    lab.wait_until(lambda: {b["observed"]["health"] for b in ctl.backends().values()} == {"up"}, 10, "servers up")
    after = honest.during(3)
    honest.finish()
    quiet, after = quiet.seen(), after.seen()
    check(quiet.rate == 1 and after.rate == 1, f"{quiet}; {after}; {(quiet.errors + after.errors)[:2]}")
    check(took < 25, f"after {took:.1f} s")
    d.stop()
    return f"new sessions after {took:.1f} s; then {after}"


@test
def wireguard_config(t):
    """What `dispatcher tunnel config` prints, typed on a server, is the other end for all workers: requests pass, and outside nothing is seen but WireGuard"""
    key, pub = f"{lab.WORK}/tunnels.key", f"{lab.WORK}/tunnels.far"
    t.undo.append(lambda: [lab.remove(path) for path in (key, pub)])
    made = subprocess.run([lab.DISPATCHER, "tunnel", "keygen", key], capture_output=True, text=True)
    check(made.returncode == 0 and os.stat(key).st_mode & 0o777 == 0o600, made.stderr)
    again = subprocess.run([lab.DISPATCHER, "tunnel", "keygen", key], capture_output=True, text=True)
    check(again.returncode == 2 and "exists" in again.stderr, f"a key is overwritten: {again.stderr}")
    with open(pub, "w") as f:
        os.chmod(pub, 0o600)
        f.write(subprocess.run(["wg", "genkey"], check=True, capture_output=True, text=True).stdout)
    far = subprocess.run(["wg", "pubkey"], stdin=open(pub), check=True, capture_output=True, text=True).stdout.strip()
    outer, inner = "10.78.0.11", "10.99.1.11"
    own = [f"10.99.0.{n}/16" for n in range(1, lab.WORKERS + 1)]
    path = f"{lab.WORK}/wireguard.toml"
    t.undo.append(lambda: lab.remove(path))
    with open(path, "w") as f:
        f.write(f"""
[dispatcher]
workers = {lab.WORKERS}
tunnel-key = "{key}"
[[port]]
name = "wan"
driver = "{lab.DRIVER}:{lab.device('wan')}"
ip = ["10.77.0.1/24"]
[[port]]
name = "lan"
driver = "{lab.DRIVER}:{lab.device('lan')}"
ip = {json.dumps(["10.78.0.1/24"] + own)}
[[service]]
name = "web"
listen = ["{VIP}:80"]
pool = "web"
[pool.web]
backend = [{{ name = "web1", address = "{outer}:80", tunnel = {{ kind = "wireguard", endpoint = "{outer}", public-key = "{far}", address = "{inner}" }} }}]
""")
    ask = [*lab.lab_namespace("dispatcher"), lab.DISPATCHER, "tunnel", "config", "web1", "--config", path]
    said = subprocess.run(ask, capture_output=True, text=True)
    check(said.returncode == 0, said.stderr)
    commands, networkd = said.stdout.split("\n# Or, to last:\n")
    check(networkd.count("[WireGuardPeer]") == lab.WORKERS and f"Address={inner}/32" in networkd, networkd)
    check(open(key).read().strip() not in said.stdout, "our secret is told")
    # This kernel has no WireGuard: the device is wireguard-go's; and the key is where the test has it.
    check("ip link add dispatcher0 type wireguard\n" in commands, commands)
    # Its name is one on a machine, where there may be several labs.
    device = "wgd-" + lab.PREFIX
    commands = commands.replace("ip link add dispatcher0 type wireguard\n", "").replace("/etc/wireguard/dispatcher0.key", pub).replace("dispatcher0", device)
    go = subprocess.Popen([*lab.lab_namespace("servers"), "env", "WG_PROCESS_FOREGROUND=1", "wireguard-go", "-f", device], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # So that it removes its socket.
    t.undo.append(lambda: (go.terminate(), go.wait()))
    # wg would take a socket at which nobody listens yet for one that was left behind, and remove it.
    listens = [*lab.lab_namespace("servers"), "ss", "-Hxl", "src", f"/var/run/wireguard/{device}.sock"]
    lab.wait_until(lambda: subprocess.run(listens, check=True, capture_output=True).stdout, 10, "wireguard-go")
    lab.in_servers("sh", "-ec", commands)
    server = subprocess.Popen([*lab.lab_namespace("servers"), "/usr/bin/python3", "-m", "http.server", "--bind", inner, "--directory", STATE, "80"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    t.undo.append(lambda: (server.kill(), server.wait()))
    direct = [*lab.lab_namespace("servers"), "curl", "-s", "-m", "2", "-o", "/dev/null", f"http://{inner}/"]
    lab.wait_until(lambda: subprocess.run(direct).returncode == 0, 20, "the server")
    watch = Watch({"sealed": "udp portrange 51820-51827", "plain": "not arp and not ip6 and not udp portrange 51820-51827"})
    run = subprocess.Popen([*lab.lab_namespace("dispatcher"), lab.DISPATCHER, "run", "--config", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    t.undo.append(lambda: run.poll() is None and (run.kill(), run.wait()))

    def served():
        got = subprocess.run(["curl", "-s", "-m", "2", "-o", "/dev/null", "-w", "%{http_code}", f"http://{VIP}/"], capture_output=True, text=True)
        return got.stdout == "200"

    lab.wait_until(served, 20, "an answer through the tunnel")
    with nothing_too_long("wireguard"):
        check(all(served() for _ in range(40)), "forty more")
    run.terminate()
    run.wait(timeout=20)
    counts = watch.counts()
    check(counts["sealed"] > 41 * 6 and counts["plain"] == 0, f"on the wire: {counts}")
    return f"41 requests by {counts['sealed']} sealed packets, {counts['plain']} others"
