"""Sessions resumed from other addresses: a small version of the demo, with OpenSSL's own client."""

import clients
from clients import check
from registry import test

CLIENTS, RETURNS = 8, 4


def come_and_return(t, mode, version, tickets):
    """Clients that return from other addresses, against servers that share nothing."""
    t.servers.want("nginx,openssl,haproxy", mode)
    counts = {}
    for affinity in ("on", "off"):
        d = t.dispatcher("--balance", "least-conn", "--affinity", affinity)
        contexts = [clients.context(version, tickets) for _ in range(CLIENTS)]
        sessions = [None] * CLIENTS
        resumed = 0
        for visit in range(1 + RETURNS):
            for i, ctx in enumerate(contexts):
                source = clients.address(7 * visit + i * 5)
                _, (sessions[i], reused, seen) = clients.fetch(source, ctx, session=sessions[i])
                check(seen == "TLSv" + version, seen)
                check(visit or not reused, "a first visit that resumes")
                resumed += reused
        log = d.await_log(CLIENTS * (1 + RETURNS))
        check(len(log) == CLIENTS * (1 + RETURNS), f"{len(log)} in the log")
        check(sum(c["resumed"] is True for c in log) == resumed, "the log tells what the clients saw")
        check(all(c["tls_version"] == version for c in log), f"versions: { {c['tls_version'] for c in log} }")
        news = {c["backend"] for c in log if not c["resumed"]}
        check(news == {"web1", "web2", "web3"}, f"new sessions at {news}")
        reasons = sorted({c["reason"] for c in log if c["resumed"]})
        counts[affinity] = resumed
        if affinity == "on":
            decided = [c for c in log if c["decided"]]
            check(all(c["backend"] == c["decided"] for c in decided), "went where the table said")
            why = reasons
        d.stop()
    return counts, why


def told(counts, why):
    total = CLIENTS * RETURNS
    return f"resumed {counts['on']} of {total} by {', '.join(why)}; without affinity {counts['off']}"


@test
def resume_session_id(t):
    """TLS 1.2 session IDs resume from any address, with --balance least-conn"""
    counts, why = come_and_return(t, "session-id", "1.2", False)
    check(counts["on"] == CLIENTS * RETURNS, told(counts, why))
    check(counts["off"] < counts["on"], told(counts, why))
    return told(counts, why)


@test
def resume_ticket(t):
    """TLS 1.2 tickets resume from any address, with --balance least-conn"""
    counts, why = come_and_return(t, "ticket", "1.2", True)
    check(counts["on"] == CLIENTS * RETURNS, told(counts, why))
    check(counts["off"] < counts["on"], told(counts, why))
    return told(counts, why)


@test
def resume_tls13(t):
    """TLS 1.3 sessions resume from any address once the servers' key names are known"""
    counts, why = come_and_return(t, "tls13", "1.3", True)
    # A key name counts when it was seen on two tickets of one server: the first returns may miss.
    check(counts["on"] >= CLIENTS * RETURNS - 9, told(counts, why))
    check(counts["off"] < counts["on"], told(counts, why))
    return told(counts, why)
