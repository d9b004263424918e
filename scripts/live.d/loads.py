"""Many connections at once, and who answered them."""

import concurrent.futures
import time

import clients
from lab import check


def load(count, offset=0, workers=16):
    """So many new connections, many at once. Names of the servers that answered, and the longest wait in seconds."""
    ctx = clients.context()

    def one(i):
        begun = time.monotonic()
        body, _ = clients.fetch(clients.address(offset + i), ctx)
        return body.split()[0].decode(), time.monotonic() - begun

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        done = list(pool.map(one, range(count)))
    return {name for name, _ in done}, max(wait for _, wait in done)


ALL = {"web1", "web2", "web3"}


def used_again(offset):
    """Waits until all servers answer."""
    end = time.monotonic() + 10
    begun = time.monotonic()
    while load(40, offset)[0] != ALL:
        check(time.monotonic() < end, "the server that came back is not used")
        time.sleep(0.2)
    return time.monotonic() - begun
