"""0-RTT and HelloRetryRequest, with OpenSSL on both sides."""

import os
import re
import subprocess
import time

import clients
import lab
from lab import STATE, VIP, WORK, check
from registry import test
from sessions import sessions

EARLY = 12_000


class Server:
    """openssl s_server that does not speak HTTP: its own output tells what it read."""

    def __init__(self, t, n, *flags):
        self.path = f"{WORK}/early.{n}.{len(t.undo)}"
        self.out = open(self.path, "wb")
        # It reads commands from its input, which therefore must not end.
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", lab.PREFIX + "-servers", "openssl", "s_server", "-accept", f"10.78.0.{n}:8443", "-tls1_3",
             "-cert", STATE + "/cert.pem", "-key", STATE + "/key.pem", *flags],
            stdin=subprocess.PIPE, stdout=self.out, stderr=subprocess.STDOUT)
        t.undo.append(self.stop)
        lab.wait_until(lambda: b"ACCEPT" in self.said(), 10, f"s_server at .{n}")

    def said(self):
        with open(self.path, "rb") as f:
            return f.read()

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            self.out.close()
            lab.remove(self.path)


def client(heard, source, session=None, keep=None, early=None):
    """openssl s_client: says a word, and goes when `heard` says so. Returns its output, which comes when it ends."""
    command = ["openssl", "s_client", "-connect", f"{VIP}:443", "-bind", source + ":0", "-tls1_3",
               *(["-sess_in", session] if session else []), *(["-sess_out", keep] if keep else []),
               *(["-early_data", early] if early else [])]
    p = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        p.stdin.write(b"late word\n")
        p.stdin.flush()
        lab.wait_until(heard, 10, "a server that reads on")
        # Its tickets are on the way, or there already.
        time.sleep(0.2)
        return p.communicate(b"Q\n", 10)[0].decode(errors="replace")
    finally:
        p.kill()
        p.wait()


def addresses(*numbers):
    return lab.base_args([f"{VIP}:443"], [f"web{n}=10.78.0.{n}:8443" for n in numbers], workers=1)


@test
def early_data(t):
    """0-RTT: all of it reaches the server that opens the ticket; one that rejects it is none the worse"""
    t.servers.want("nginx,nginx,nginx")
    # Without its guard against replays, which takes tickets that carry no key name.
    servers = {n: Server(t, n, "-early_data", "-max_early_data", "16384", "-no_anti_replay") for n in (14, 15)}
    d = t.dispatcher("--balance", "round-robin", args=addresses(14, 15))
    early, session = f"{WORK}/early.txt", f"{WORK}/early.session"
    t.undo.append(lambda: [lab.remove(f) for f in (early, session) if os.path.exists(f)])
    text = "".join("early-%06d\n" % i for i in range(EARLY // 13 + 1))
    with open(early, "w") as f:
        f.write(text)
    accepted = rejected = 0
    where = []

    def visit(source, *more):
        """One connection. Returns what the client said, which server read its word, and what that server said."""
        before = {n: len(s.said()) for n, s in servers.items()}

        def hearing():
            return [n for n, s in servers.items() if b"late word" in s.said()[before[n]:]]

        said = client(hearing, source, *more)
        n, = hearing()
        where.append(f"web{n}")
        heard = servers[n].said()[before[n]:].decode(errors="replace")
        # Its own words come through another buffer, in the midst of what it read.
        return said, n, re.sub(r"(ACCEPT|DONE|shutting down SSL|CONNECTION CLOSED|Early data received:|No early data received)\n", "", heard)

    sealed = {}
    for i in range(2):
        _, sealed[i], _ = visit(clients.address(i), None, session + str(i))
        t.undo.append(lambda i=i: lab.remove(session + str(i)))
    check(set(sealed.values()) == {14, 15}, f"one session of each: {sealed}")
    resumed = [False, False]
    for round_ in range(5):
        for i in range(2):
            said, n, heard = visit(clients.address(10 + 7 * round_ + i), session + str(i), None, early)
            resumed.append(n == sealed[i])
            if n == sealed[i]:
                check("Early data was accepted" in said, f"round {round_}: {said[-300:]}")
                check(text in heard, f"round {round_}: {len(heard)} bytes heard, {len(text)} sent early")
                accepted += 1
            else:
                check("Early data was rejected" in said, f"round {round_}: {said[-300:]}")
                check("early-" not in heard, "rejected, and read")
                rejected += 1
    # Each key costs at most one refusal among two servers.
    check(rejected <= 2 and all(resumed[-4:]), f"resumed: {resumed}")
    # To the wrong server on purpose: the right one is gone.
    servers.pop(sealed[0]).stop()
    said, n, heard = visit(clients.address(50), session + "0", None, early)
    resumed.append(False)
    check("Early data was rejected" in said and "early-" not in heard, f"{said[-300:]}")
    # Those that were reset are told of when their last segments can no longer come.
    log = sorted(d.await_log(len(where), 60), key=lambda c: c["conn"])
    check([(c["backend"], c["resumed"]) for c in log] == list(zip(where, resumed)), f"{log}")
    return f"{len(text)} bytes of early data: {accepted} times accepted and whole, {rejected} + 1 times rejected and harmless"


@test
def hello_retry(t):
    """HelloRetryRequest: the second hello reaches the same server, and resumption is followed through it"""
    t.servers.want("nginx,nginx,nginx")
    for n in (14, 15, 16):
        # They want a group for which the client's first hello has no share.
        Server(t, n, "-groups", "P-384", "-www")
    d = t.dispatcher("--balance", "least-conn", args=addresses(14, 15, 16))
    resumed = returns = 0
    files = [f"{WORK}/hrr.{i}" for i in range(6)]
    t.undo.append(lambda: [lab.remove(f) for f in files if os.path.exists(f)])
    refused = []
    count = 0
    for visit in range(6):
        for i, file in enumerate(files):
            said = subprocess.run(
                ["openssl", "s_client", "-connect", f"{VIP}:443", "-bind", clients.address(11 * visit + 5 * i) + ":0", "-tls1_3", "-ign_eof",
                 "-msg", "-groups", "X25519:P-384", "-sess_out", file, *(["-sess_in", file] if visit else [])],
                input=b"GET / HTTP/1.0\r\n\r\n", capture_output=True, timeout=20).stdout.decode(errors="replace")
            check(said.count(", ClientHello") == 2, f"two hellos: {said.count(', ClientHello')}")
            check("s_server" in said, f"a page: {said[-200:]}")
            line = d.await_log(count + 1)[count]
            count += 1
            if visit:
                returns += 1
                resumed += line["resumed"] is True
                if not line["resumed"]:
                    refused.append(visit)
                check(("Reused, " in said) == (line["resumed"] is True), f"the log tells what the client saw: {line}")
    # Three keys, at most two refusals each.
    check(returns - resumed <= 6, f"{returns - resumed} of {returns} not resumed")
    check(not any(v >= 4 for v in refused), f"refused when keys were known: visits {refused}")
    d.stop()
    psk = [row for (kind, _), row in sessions(d).items() if kind == "psk"]
    check(sum(row["broken"] for row in psk) == 0, f"{psk}")
    return f"{count} handshakes of two hellos each, {resumed} of {returns} resumed"
