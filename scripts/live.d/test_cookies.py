"""Plain HTTP whose sessions are kept by a cookie: servers on Jetty, PHP and Python, each with sessions of its own."""

import random
import re
import subprocess

import clients
import lab
from lab import WORK, check
from registry import test

CLIENTS, RETURNS = 30, 5
KINDS = "jetty,php,python"
FOLLOW = ("--affinity", "cookie=SID", "--balance", "round-robin")


class Browser:
    """Remembers its cookie, and asks from this address."""

    def __init__(self, n):
        self.n = n
        self.cookie = None

    def ask(self, *paths, port=80, source=None, vip=lab.VIP, host="shop.example", pieces=1, method="GET", more=""):
        """All in one connection. What the pages say: server, `new` or `known`, and how often this session was seen."""
        pages = []
        with clients.connect(vip, port, source or clients.address(self.n)) as s:
            for i, path in enumerate(paths):
                cookie = f"Cookie: a=b; SID={self.cookie}\r\n" if self.cookie else ""
                close = "Connection: close\r\n" if i + 1 == len(paths) else ""
                request = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{cookie}{close}{more}\r\n".encode()
                step = -(-len(request) // pieces)
                try:
                    for at in range(0, len(request), step):
                        s.sendall(request[at:at + step])
                    page = self.answer(s, method)
                except ConnectionError:
                    page = None
                if page is None:
                    check(pages, "no answer")
                    return pages
                pages.append(page)
        return pages

    def answer(self, s, method):
        head = b""
        while b"\r\n\r\n" not in head:
            more = s.recv(65536)
            if not more:
                # PHP's server ends after each answer.
                return None
            head += more
        head, body = head.split(b"\r\n\r\n", 1)
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1]) if method != "HEAD" else 0
        while len(body) < length:
            body += s.recv(65536)
        for value in re.findall(rb"(?i)set-cookie: SID=([^;\r]*)", head):
            gone = value in (b"", b'""', b"deleted")
            self.cookie = None if gone else value.decode()
        server, _, how, seen = body.decode().split() if length else (None, None, None, 0)
        return server, how, int(seen)


def come_and_return(t, **how):
    """30 clients, 5 returns each, every other time from another address. How many of the returns met their session, and the log."""
    browsers = [Browser(i) for i in range(CLIENTS)]
    known, shuffled = 0, random.Random(1)
    for visit in range(1 + RETURNS):
        for i in shuffled.sample(range(CLIENTS), CLIENTS):
            source = clients.address(i + visit % 2 * CLIENTS)
            (_, state, _), = browsers[i].ask("/", source=source, **how)
            check(visit or state == "new", "a first visit that is known")
            known += visit > 0 and state == "known"
    return known


@test
def cookies(t):
    """Sessions of Jetty, PHP and Python by their cookie: 150 of 150 returns from other addresses meet theirs, new names at a login, too"""
    t.servers.want(KINDS)
    d = t.dispatcher(*FOLLOW)
    known = come_and_return(t)
    log = d.await_log(CLIENTS * (1 + RETURNS))
    check(known == CLIENTS * RETURNS, f"{known} of {CLIENTS * RETURNS} found their session")
    led = [c for c in log if c["reason"] == "cookie"]
    check(len(led) == CLIENTS * RETURNS and all(c["resumed"] and c["offered"] == ["cookie"] and c["decided"] == c["backend"] for c in led), "the log")
    # In one connection: a login, at which the session gets another name; then back by that.
    logged_in = 0
    for i in range(12):
        browser = Browser(i)
        pages = browser.ask("/", "/login", "/")
        if len(pages) < 3:
            # It closes after each answer.
            browser.ask("/login", source=clients.address(i + 30))
        (server, state, _), = browser.ask("/", source=clients.address(i + 15), pieces=3)
        check((server, state) == (pages[0][0], "known"), f"after a login: {server} {state}, was at {pages}")
        # And out: what comes then begins anew, wherever.
        browser.ask("/logout")
        check(browser.cookie is None, "a logout that leaves the cookie")
        check(browser.ask("/")[0][1] == "new", "known after a logout")
        logged_in += 1
    sessions = d.find(r"affinity table: .* (\d+) cookies")
    d.stop()
    rows = int(re.search(r"(\d+) cookies", "".join(d.out))[1]) if sessions is None else int(sessions)
    check(rows >= CLIENTS, f"{rows} rows")
    return f"{known} of {CLIENTS * RETURNS} found their session; {logged_in} of 12 after a login"


@test
def without_cookies(t):
    """The same without affinity, and past HAProxy that sticks on the cookie: a third, and all"""
    t.servers.want(KINDS)
    d = t.dispatcher("--affinity", "off", "--balance", "round-robin")
    known = come_and_return(t)
    d.stop()
    check(CLIENTS * RETURNS // 6 < known < CLIENTS * RETURNS * 6 // 10, f"without affinity {known} found their session")
    haproxy(t)
    beside = 0
    browsers = [Browser(i) for i in range(CLIENTS)]
    shuffled = random.Random(1)
    with lab.inside("servers"):
        for visit in range(1 + RETURNS):
            for i in shuffled.sample(range(CLIENTS), CLIENTS):
                source = f"127.1.{visit % 2}.{1 + i}"
                (_, state, _), = browsers[i].ask("/", source=source, vip="127.0.0.1", port=8080)
                beside += visit > 0 and state == "known"
    check(beside == CLIENTS * RETURNS, f"HAProxy: {beside} found their session")
    return f"{known} of {CLIENTS * RETURNS} without affinity, {beside} of {CLIENTS * RETURNS} through HAProxy with `stick on`"


def haproxy(t):
    """HAProxy beside the servers, which follows the same cookie."""
    config, pid = f"{WORK}/stick.cfg", f"{WORK}/stick.pid"
    servers = "".join(f"    server web{n} 10.78.0.{10 + n}:80\n" for n in range(1, 4))
    with open(config, "w") as f:
        f.write(f"""
defaults
    mode http
    timeout client 60s
    timeout connect 5s
    timeout server 60s
listen shop
    bind 127.0.0.1:8080
    balance roundrobin
    stick-table type string len 64 size 100k expire 1h
    stick on req.cook(SID)
    stick store-response res.cook(SID)
{servers}""")
    started = subprocess.run([*lab.lab_namespace("servers"), "haproxy", "-f", config, "-D", "-p", pid], capture_output=True, text=True)
    check(started.returncode == 0, f"haproxy: {started.stderr}")
    t.undo.append(lambda: subprocess.run(f"kill $(cat {pid})", shell=True))


SERVICES = """
[[service]]
name = "shop"
listen = ["10.77.0.100:80"]
pool = "rest"
affinity = { cookie = "SID" }
route = [{ sni = ["api.example", "*.api.example"], pool = "api" }]

[pool.rest]
balance = "round-robin"
backend = [{ name = "web1", address = "10.78.0.11:80" }]

[pool.api]
balance = "round-robin"
backend = [{ name = "web2", address = "10.78.0.12:80" }, { name = "web3", address = "10.78.0.13:80" }]
"""


@test
def hosts(t):
    """Plain HTTP goes to the pool of its Host, and within that by its cookie; other requests as they stand"""
    t.servers.want(KINDS)
    d = t.dispatcher(services=SERVICES)
    n = 0
    for i in range(20):
        for host, pool in (("api.example", "api"), ("EU.api.example:80", "api"), ("other.example", "rest")):
            browser = Browser(i)
            (server, _, _), = browser.ask("/", host=host)
            check((server == "web1") == (pool == "rest"), f"{host} at {server}")
            again, = browser.ask("/", host=host, source=clients.address(i + 30), pieces=2)
            check(again == (server, "known", 2), f"{host}: {again}, was at {server}")
            n += 2
    # Heads that are odd, as clients write them: each reaches a server, which answers in its way.
    for odd in (b"GET / HTTP/1.0\n\n", b"\r\nGET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.0\r\nX: a\r\n b\r\n\r\n", b"GET / HTTP/1.0\r\nCookie: " + b"x=y; " * 1000 + b"\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"NONSENSE\r\n\r\n", b"GET /" + b"x" * 30000 + b" HTTP/1.0\r\n\r\n"):
        with clients.connect(lab.VIP, 80, clients.address(40)) as s:
            s.sendall(odd)
            s.shutdown(1)
            try:
                clients.read_all(s)
            except ConnectionResetError:
                pass
        n += 1
    log = d.await_log(n)
    check(all(c["backend"] for c in log), f"without a server: {[c for c in log if not c['backend']]}")
    names = {c["sni"] for c in log}
    check({"api.example", "EU.api.example", "other.example"} <= names, f"names in the log: {names}")
    d.stop()
    return f"{n} connections, each at a server of its pool"
