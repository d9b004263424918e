"""Several pools behind one address, out of a configuration file."""

import clients
from lab import check
from registry import test

CLIENTS, RETURNS = 30, 5

# By pool: the name that its clients ask for, and its servers.
POOLS = {"api": ("api.example.com", ("web1", "web2")), "wild": ("eu.api.example.com", ("web3", "web4")), "rest": (None, ("web5", "web6"))}

SERVICES = """
[[service]]
name = "shop"
listen = ["10.77.0.100:443"]
pool = "rest"
route = [
  { sni = "api.example.com", pool = "api" },
  { sni = "*.api.example.com", pool = "wild" },
]
"""


@test
def pools_by_name(t):
    """One address, three pools by server name (exact, wildcard, none of them): every session resumes, on the servers of its own pool only"""
    t.servers.want("nginx,nginx,nginx,nginx,nginx,nginx")
    services = SERVICES
    for pool, (_, servers) in POOLS.items():
        services += f'\n[pool.{pool}]\nbalance = "least-conn"\nbackend = [\n'
        services += "".join(f'  {{ name = "{s}", address = "10.78.0.{10 + int(s[3:])}:443" }},\n' for s in servers) + "]\n"
    d = t.dispatcher(services=services)
    visits, resumed = 0, {}
    for version, tickets in (("1.2", False), ("1.2", True), ("1.3", True)):
        for pool, (name, _) in POOLS.items():
            back = 0
            for i in range(CLIENTS // 3):
                ctx, session = clients.context(version, tickets), None
                # Which certificate a name has is not what is tried.
                ctx.check_hostname = False
                for visit in range(1 + RETURNS):
                    source = clients.address(7 * visit + i * 5)
                    _, (session, reused, _) = clients.fetch(source, ctx, session=session, name=name or "www.example.org")
                    check(visit or not reused, "a first visit that resumes")
                    back += reused
                    visits += 1
            resumed.setdefault(pool, []).append(back)
    log = d.await_log(visits)
    for pool, (name, servers) in POOLS.items():
        mine = [c for c in log if c["pool"] == pool]
        check(len(mine) == visits // len(POOLS), f"{len(mine)} connections in pool {pool}")
        check({c["sni"] for c in mine} == {name or "www.example.org"}, f"{pool}: names { {c['sni'] for c in mine} }")
        check({c["backend"] for c in mine} == set(servers), f"{pool}: went to { {c['backend'] for c in mine} }")
    most = CLIENTS // 3 * RETURNS
    for pool, (by_id, by_ticket, tls13) in resumed.items():
        # A key name of TLS 1.3 counts when it was seen on two tickets of one server: the first returns may miss.
        check(by_id == most and by_ticket == most and tls13 >= most - 6, f"{pool}: resumed {by_id}, {by_ticket}, {tls13} of {most}")
    d.stop()
    return "resumed by session ID, ticket, TLS 1.3: " + "; ".join(f"{pool} {', '.join(map(str, n))} of {most} each" for pool, n in resumed.items())
