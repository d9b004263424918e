"""All kinds of servers behind one dispatcher, all kinds of clients in front of it."""

import os
import re
import shutil
import subprocess
from collections import Counter

import clients
import lab
from lab import STATE, VIP, WORK, check
from registry import test
from sessions import Returning

KINDS = ["nginx", "openssl", "haproxy", "gnutls", "java"]
NAMES = {f"web{n}": kind for n, kind in enumerate(KINDS, 1)}
HERE = os.path.dirname(os.path.abspath(__file__))
# Of each kind of client, so many, and so many returns of each.
MANY, RETURNS = 5, 3


def answered(text, who):
    """A page of one of the servers."""
    check(re.search(r"web\d |s_server|GnuTLS", text), f"{who}: {text.strip()[-200:]!r}")


def run(command, who, stdin="", statuses=(0,)):
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, errors="replace")
    check(done.returncode in statuses, f"{who}: status {done.returncode}: {done.stderr.strip()[-200:]}")
    return done.stdout


def source(kind, client, visit):
    """Every visit from another address."""
    return clients.address(kind * 11 + client * 7 + visit * 13)


class Clients:
    """One way to be a client. Connections one after the other; returns how many it made."""

    many = MANY

    def __init__(self, version):
        self.version = version
        # Those that failed, by number, and what they said.
        self.failed = {}

    def look_at(self, mine):
        """Of its connections, when all are known."""

    @staticmethod
    def before(i):
        """Of its connections, numbered from 0: the one before the ith by the same client."""
        return i - 1 if i % (1 + RETURNS) else None


class Placed(Clients):
    """A client for each server, put there: while all hold their connections, the next one goes to a server without any. Then each comes
    back with the session it got, as often as there are servers: so it meets its own, whatever the others refuse."""

    def go_all(self):
        held, sessions = [], []
        for client in range(len(KINDS)):
            ctx = clients.context(self.version)
            raw = clients.connect(source=source(6, client, 0))
            held.append((ctx, ctx.wrap_socket(raw, server_hostname=clients.NAME)))
        # All end first: one of the servers serves one at a time.
        for ctx, s in held:
            with s:
                s.sendall(clients.GET)
                answered(clients.read_all(s).decode(errors="replace"), "python")
                sessions.append((ctx, s.session))
        for client, (ctx, session) in enumerate(sessions):
            for visit in range(1, 1 + len(KINDS)):
                answered(clients.fetch(source(6, client, visit), ctx, session=session)[0].decode(errors="replace"), "python")
        return len(KINDS) * (1 + len(KINDS))

    def look_at(self, mine):
        met = [NAMES[c["backend"]] for c in mine]
        check(sorted(met[:len(KINDS)]) == sorted(KINDS), f"one each: {met[:len(KINDS)]}")
        for i, kind in enumerate(met[:len(KINDS)]):
            returns = met[len(KINDS) * (1 + i):][:len(KINDS)]
            check(kind in returns, f"{kind}'s client never came back to it, but to {returns}")

    @staticmethod
    def before(i):
        return i // len(KINDS) - 1 if i >= len(KINDS) else None


class OpenSsl(Clients):
    """openssl s_client, a process for each connection, the session in a file."""

    def go(self, client):
        file = f"{WORK}/s_client.session"
        for visit in range(1 + RETURNS):
            # Status 1 where a server ends without saying goodbye, as GnuTLS's does.
            said = run(["openssl", "s_client", "-connect", f"{VIP}:443", "-bind", source(0, client, visit) + ":0",
                        "-tls1_" + self.version[2:], "-ign_eof", *(["-sess_in", file] if visit else []), "-sess_out", file],
                       "s_client", "GET / HTTP/1.0\r\n\r\n", (0, 1))
            answered(said, "s_client")
        return 1 + RETURNS


class Curl(Clients):
    """curl: its own cache of sessions, a connection for each page."""

    def go(self, client):
        flags = ["-sS", "--fail", "--max-time", "30", "--cacert", STATE + "/cert.pem", "--resolve", f"{clients.NAME}:443:{VIP}",
                 "-H", "Connection: close", "--http1.1", "--tlsv" + self.version, "--tls-max", self.version]
        command = ["curl"]
        for visit in range(1 + RETURNS):
            command += [*(["--next"] if visit else []), *flags, "--interface", source(1, client, visit), f"https://{clients.NAME}/"]
        answered(run(command, "curl"), "curl")
        return 1 + RETURNS


class GnuTls(Clients):
    """gnutls-cli --resume: connects, and connects again.

    A Java server ends a connection on which GnuTLS offers a TLS 1.3 session, whoever issued it, by an alert, when they meet directly,
    too (GnuTLS 3.7.9, Java 17): failures are looked at when it is known which servers were met."""

    def go(self, client):
        only = {"1.2": "NORMAL:-VERS-ALL:+VERS-TLS1.2", "1.3": "NORMAL:-VERS-ALL:+VERS-TLS1.3"}[self.version]
        command = ["gnutls-cli", "--resume", *(["--waitresumption"] if self.version == "1.3" else []), "--insecure", "--priority", only,
                   "--port", "443", VIP]
        done = subprocess.run(command, input="GET / HTTP/1.0\r\n\r\n", capture_output=True, text=True, timeout=60, errors="replace")
        if done.returncode:
            self.failed[client] = f"gnutls-cli: status {done.returncode}: {done.stderr.strip()[-200:]}"
        return 2

    def look_at(self, mine):
        """Of its connections."""
        for client, said in self.failed.items():
            again = mine[2 * client + 1]
            met = NAMES[again["backend"]]
            check(self.version == "1.3" and met == "java" and "alert" in said, f"{said} (at {met}, resumed: {again['resumed']})")

    @staticmethod
    def before(i):
        return i - 1 if i % 2 else None


class Java(Clients):
    """JSSE: one process, a context for each client."""

    def go_all(self):
        lines = [f"{c} {source(3, c, v)}" for v in range(1 + RETURNS) for c in range(MANY)]
        said = run(["java", "-Xmx64m", "-XX:-UsePerfData", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", HERE + "/Client.java", VIP, "TLSv" + self.version],
                   "java", "\n".join(lines) + "\n").splitlines()
        check(len(said) == len(lines), f"java: {len(said)} answers")
        check(not any("failed" in line for line in said), f"java: {said}")
        return len(lines)

    @staticmethod
    def before(i):
        return i - MANY if i >= MANY else None


class Python(Clients):
    """Python's ssl; `large`: with a ClientHello of two segments, as one with a post-quantum key share is."""

    large = False

    def go(self, client):
        ctx = clients.context(self.version)
        if self.large:
            # Names that no server speaks: they choose none.
            ctx.set_alpn_protocols(["http/1.1"] + [f"no-such-protocol-{n:03}" + "x" * 40 for n in range(30)])
            check(len(clients.client_hello(ctx)) > 1700, "a large hello")
        session = None
        for visit in range(1 + RETURNS):
            body, (session, _, _) = clients.fetch(source(5 if self.large else 4, client, visit), ctx, session=session)
            answered(body.decode(), "python")
        return 1 + RETURNS


class Large(Python):
    """Python again, large hellos."""

    large = True


class Chromium(Clients):
    """Chromium, with a post-quantum key share and ECH GREASE, if it is there."""

    many = 1

    def go(self, client):
        profile = f"{WORK}/chromium"
        try:
            # Its own kind of page with others in it, so that it opens several connections.
            run(["timeout", "40", "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}",
                 "--no-first-run", "--disable-background-networking", "--disable-component-update", "--ignore-certificate-errors",
                 f"--host-resolver-rules=MAP * {VIP}", "--disable-quic", f"--ssl-version-max=tls{self.version}", "--dump-dom",
                 f"https://{clients.NAME}/"], "chromium")
        finally:
            shutil.rmtree(profile, ignore_errors=True)
        return 0

    @staticmethod
    def before(i):
        return None


def mixed(t, version):
    t.servers.want(",".join(KINDS), {"1.2": "ticket", "1.3": "tls13"}[version])
    # No IPv6: not all of these servers listen there.
    # Browsers open connections that they may need, and say nothing on them for a while.
    d = t.dispatcher("--balance", "least-conn", "--hello-timeout", "10s", args=lab.base_args([f"{VIP}:443"], backends(), workers=1))
    kinds = [Placed, OpenSsl, Curl, GnuTls, Java, Python, Large] + ([Chromium] if shutil.which("chromium") else [])
    told, returned, resumed, misses = [], Counter(), Counter(), Counter()
    reasons = {kind: set() for kind in KINDS}
    # Which server's session was offered, where, and what came of it.
    asked = []
    made, ones = [], [kind(version) for kind in kinds]
    for one in ones:
        made.append(one.go_all() if hasattr(one, "go_all") else sum(one.go(client) for client in range(one.many)))
    # A connection that was reset is told of when its last segments can no longer come.
    lab.wait_until(lambda: d.flows() == 0 and len(d.log()) >= sum(made), 90, f"{sum(made)} connections end")
    # Without those that a browser did not need after all.
    log = sorted((c for c in d.log() if c["bytes_to_server"]), key=lambda c: c["conn"])
    check(all(c["backend"] and c["class"] == "secure" for c in log), "all are bound")
    # Numbered as they began, and they began one after the other. Chromium, the last, opens as many as it likes.
    made[-1] += len(log) - sum(made)
    at = 0
    for kind, one, n in zip(kinds, ones, made):
        mine = log[at:at + n]
        at += n
        one.look_at(mine)
        check(mine, f"{kind.__name__} came by no connection")
        for i, c in enumerate(mine):
            before = kind.before(i)
            if c["offered"] and before is not None:
                asked.append((c["conn"], NAMES[mine[before]["backend"]], NAMES[c["backend"]], c["resumed"]))
        offers = [c for c in mine if c["offered"]]
        for c in offers:
            by = NAMES[c["backend"]]
            returned[by] += 1
            resumed[by] += c["resumed"] is True
            reasons[by] |= {c["reason"]} if c["resumed"] else set()
            # nginx and curl make nothing of their TLS 1.2 tickets when they meet directly, either.
            if c["resumed"] is False and not (kind is Curl and by == "nginx" and version == "1.2"):
                misses[by if c["decided"] else "unknown"] += 1
        told.append(f"{kind.__name__} {sum(c['resumed'] is True for c in offers)}/{len(offers)} of {len(mine)}")
        check(offers or kind is Chromium, f"{kind.__name__} offered nothing")
        check(all(c["tls_version"] == version for c in mine), f"{kind.__name__}: versions { {c['tls_version'] for c in mine} }")
    each = ", ".join(f"{k} {resumed[k]}/{returned[k]} by {'+'.join(sorted(reasons[k])) or 'nothing'}" for k in KINDS)
    seen = f"{at} connections; resumed/offered: {', '.join(told)}; at {each}; refusals of unknown {misses['unknown']}"
    promised = {k: misses[k] for k in KINDS if misses[k]}
    check(not promised, f"refused what the table promised: {promised}; {seen}")
    check(all(returned[k] for k in KINDS), f"each took part: {seen}")
    if version == "1.2":
        check(misses["unknown"] == 0, seen)
        check("ticket-key" not in reasons["java"], f"Java's tickets carry no key name: {seen}")
    else:
        # Each key name costs at most one refusal by each other server, and none once it was seen accepted.
        for sealed in [k for k in KINDS if k != "java"]:
            mine = [(by, resumed) for _, key, by, resumed in sorted(asked) if key == sealed]
            first = next((i for i, (_, resumed) in enumerate(mine) if resumed), len(mine))
            check(all(resumed for _, resumed in mine[first:]), f"{sealed}'s key was accepted, and then refused: {mine}; {seen}")
            check(first < len(KINDS), f"{sealed}'s key was refused {first} times: {mine}; {seen}")
        seen += f"; of these sealed by java {sum(key == 'java' and not resumed for _, key, _, resumed in asked)}"
    return seen


def backends():
    """The lab's, over IPv4."""
    args = lab.lab("args").split()
    return [b for flag, b in zip(args[::2], args[1::2]) if flag == "--backend" and "[" not in b]


@test
def mixed_tls12(t):
    """nginx, OpenSSL, HAProxy, GnuTLS and Java serve; OpenSSL, curl, GnuTLS, Java, Python, Chromium resume by TLS 1.2"""
    return mixed(t, "1.2")


@test
def mixed_tls13(t):
    """the same by TLS 1.3"""
    return mixed(t, "1.3")
