"""Clients that come back, and what the dispatcher's log and summary said of it."""

import os
import re
import signal
import subprocess

import clients
import lab
from lab import check


class Returning:
    """A client that keeps the session it got last, as a browser does, and whose session it is."""

    def __init__(self, version=None, tickets=True):
        self.ctx = clients.context(version, tickets)
        self.session = self.sealed = None
        self.visits = 0

    def visit(self, d, source, keep=True):
        """One connection. Returns its line of the log, which must say what the client saw."""
        before = len(d.log())
        body, (session, reused, _) = clients.fetch(source, self.ctx, session=self.session)
        self.visits += 1
        line = d.await_log(before + 1)[before]
        check(line["client"].startswith(source + ":"), f"one connection at a time: {line}")
        check(line["resumed"] == reused, f"the client saw {reused}: {line}")
        check(bool(line["offered"]) == (self.session is not None), f"a session was offered: {line}")
        check(line["backend"].encode() == body.split()[0], f"{body!r} of {line['backend']}")
        line["sealed"] = self.sealed
        if keep:
            self.session, self.sealed = session, line["backend"]
        return line


def census(d):
    """The summary's count of rows, by name. After stop()."""
    found = d.find(r"^affinity table: (.*)")
    check(found, "no count of rows in the summary")
    found = found.replace(" (", ", ").replace(")", "")
    return {name: int(n) for n, name in re.findall(r"(\d+) ([a-z ]+)", found)}


def sessions(d):
    """The summary's table: (kind, backend) -> counters by name. After stop()."""
    names = ["offered", "promised", "accepted", "refused", "broken", "unknown"]
    table = {}
    for line in d.out:
        word = line.split()
        if len(word) == 8 and word[0] in ("session-id", "ticket", "psk"):
            table[word[0], word[1]] = dict(zip(names, map(int, word[2:])))
    return table


class TicketKeys:
    """nginx servers whose ticket keys the test sets."""

    def __init__(self, t, version):
        self.t, self.version = t, version
        self.made = 0
        # They are not the lab's own any more.
        t.undo.append(t.servers.forget)

    def new(self):
        """A key: name and secrets."""
        self.made += 1
        return b"key-name-%07d" % self.made + os.urandom(64)

    def set(self, n, *keys):
        """The nth server seals with the first, and opens all. Waits until it does."""
        directory = self.t.servers.directory(n)
        lines = ""
        for i, key in enumerate(keys):
            with open(f"{directory}/ticket-key.{i}", "wb") as f:
                f.write(key)
            lines += f" ssl_session_ticket_key {directory}/ticket-key.{i};"
        conf = open(f"{directory}/nginx.conf").read()
        with open(f"{directory}/nginx.conf", "w") as f:
            f.write(re.sub(r"ssl_session_tickets on;.*", "ssl_session_tickets on;" + lines, conf))
        os.kill(int(open(f"{directory}/pid").read()), signal.SIGHUP)
        lab.wait_until(lambda: self.seals(n) == keys[0][:16], 15, f"server {n} seals with its new key")

    def seals(self, n):
        """The name of the key that the server seals with, asked directly."""
        said = subprocess.run(
            ["ip", "netns", "exec", lab.PREFIX + "-servers", "openssl", "s_client", "-connect", f"10.78.0.{10 + n}:443",
             "-tls1_" + self.version[2:], "-ign_eof"], input=clients.GET, capture_output=True, timeout=20).stdout.decode()
        found = re.search(r"0000 - ((?:[0-9a-f]{2}[ -]){16})", said)
        return bytes.fromhex(re.sub("[ -]", "", found[1])) if found else None
