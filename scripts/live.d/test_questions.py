"""An operator's questions, each answered by one command."""

import concurrent.futures
import json
import socket
import subprocess
import time

import clients
import lab
from asking import asked
from lab import check
from registry import test

HURRY = "kind=tls,interval=300ms,rise=1,fall=1,timeout=300ms"


@test
def questions_of_an_operator(t):
    """which server resumes nothing and why, why a client met its server, which drops grow, whose a ticket key is, who waits, what the last change changed, since when a server is down and who says so: one command each"""
    t.servers.want("nginx,nginx,nginx")
    ctl, _ = asked(t, "--check", HURRY, backends=("web4=10.78.0.99:443",))

    # Since when is web4 down, and who says so?
    def web4():
        return ctl.backends()["web4"]

    # Workers hear of it one after the other.
    lab.wait_until(lambda: (web4()["holds"]["state"], web4()["holds"]["by"]) == ("down", "check"), 20, "a check that says that web4 is down")
    check(web4()["observed"]["since"] is not None, f"web4: {web4()}")
    row = next(line for line in ctl("show", "backends").splitlines() if line.startswith("web4"))
    check("down" in row and "check" in row, f"show backends: {row}")

    # Is a ticket key shared, rotated, unknown?
    names = ("web1", "web2", "web3")

    def known():
        return all((ctl.backends()[n]["observed"]["keys"] or {}).get("names") for n in names)

    lab.wait_until(known, 20, "the ticket keys of three servers")
    keys = ctl("show", "keys")
    for name in names:
        own = ctl.backends()[name]["observed"]["keys"]["names"][-1]
        check(any(line.split()[:2] == [name, own] and "its" in line and "shared" not in line for line in keys.splitlines()), f"the key of {name}: {keys}")
    check(any(line.startswith("web4") and "unknown" in line for line in keys.splitlines()), f"of web4 none is known: {keys}")

    # Why did client X meet server Y?
    ctx = clients.context("1.3")
    body, (session, _, _) = clients.fetch(clients.address(5), ctx)
    again, (_, reused, _) = clients.fetch(clients.address(6), ctx, session=session)
    check(reused and again.split()[0] == body.split()[0], "a session that was not resumed at its server")
    server = body.split()[0].decode()
    explained = []

    def why():
        explained[:] = json.loads(ctl("explain", clients.address(6), "--json"))["explanations"]
        return explained and explained[0]["end"]

    lab.wait_until(why, 10, "the end of a connection")
    row = explained[0]["row"]
    check(row and row["followed"] and explained[0]["backend"] == server and explained[0]["resumed"], f"explained: {explained[0]}")
    words = ctl("explain", clients.address(6))
    check(f"{server} is chosen, by the row of its {row['reason']}" in words and "the session was resumed" in words, words)
    check("balanced" in ctl("explain", clients.address(5)) and "web4: down (check" in words, words)

    # Which server resumes nothing, and why?
    for n in range(75):
        clients.fetch(clients.address(20 + n % 20), clients.context("1.3"))
    lab.wait_until(lambda: "has resumed no session: no client has offered it one" in ctl("show", "sessions"), 10, "servers that resume nothing")
    resumes = ctl("show", "sessions")
    check(f"note: {server} has resumed" not in resumes, f"{server} has resumed one: {resumes}")

    # Which drops grow?
    stray = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stray.bind((clients.address(7), 0))
    growing = subprocess.Popen([lab.DISPATCHER, "ctl", "--socket", ctl.path, "show", "drops", "--over", "2s"], stdout=subprocess.PIPE, text=True)
    while growing.poll() is None:
        stray.sendto(b"nobody listens here", (lab.VIP, 443))
        time.sleep(0.05)
    stray.close()
    grown = growing.stdout.read().splitlines()
    check(len(grown) >= 2 and grown[0].startswith("DROPS BY") and int(grown[1].split()[1]) > 0, f"drops that grow: {grown}")

    # Who waits, and for what? Nobody, and there is no line, where no server has a limit.
    check(json.loads(ctl("show", "connections", "--state", "queued", "--json"))["connections"] == [], "somebody waits")

    # What did the last change change?
    ctl("drain", "web3", "--why", "a new disk")
    told = [line for line in ctl("events").splitlines() if "web3" in line]
    check(told and "drain" in told[-1], f"the last change: {told[-1:]}")
    return f"{server} by {row['reason']}; {len(keys.splitlines()) - 1} lines of keys; {grown[1].split()[0]} grows"


@test
def questions_who_waits(t):
    """a server that may have one connection has it: the next client is told of as one that waits, by class and by name, and goes when the first has left"""
    t.servers.want("nginx,nginx,nginx")
    ctl, _ = asked(t, "--class", "rest,queue-timeout=40s", others=1, edit=lambda args: [a + ",max-connections=1" if a.startswith("web1=") else a for a in args])
    ctx = clients.context("1.3")
    held = ctx.wrap_socket(clients.connect(source=clients.address(1)), server_hostname=clients.NAME)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waits = pool.submit(clients.fetch, clients.address(2), ctx)

        def queued():
            return json.loads(ctl("show", "connections", "--state", "queued", "--json"))["connections"]

        lab.wait_until(lambda: len(queued()) == 1, 10, "one that waits")
        # Counts are told ten times a second.
        def waiting():
            return [q for q in json.loads(ctl("show", "queues", "--json")) if q["waiting"]]

        lab.wait_until(waiting, 10, "a line in which somebody waits")
        one, lines = queued()[0], waiting()
        check(one["client"].rsplit(":", 1)[0] == clients.address(2) and one["backend"] is None, f"who waits: {one}")
        check(len(lines) == 1 and lines[0]["waiting"] == 1, f"queues: {lines}")
        told = ctl("explain", clients.address(2))
        check("lives: queued" in told and f"it waits, in class {lines[0]['class']}" in told, told)
        held.close()
        check(waits.result(clients.PATIENCE)[1][2] == "TLSv1.3", "it was not served")
    return f"in class {lines[0]['class']} of pool {lines[0]['pool']}"
