"""Honest clients that come all the while, and what they see."""

import threading
import time
from contextlib import contextmanager

import clients


class Seen:
    """What honest clients saw for a while: how many came, how many were served, how long connecting and TLS took them."""

    def __init__(self, visits):
        self.count = len(visits)
        self.times = sorted(took for _, took, error in visits if error is None)
        self.errors = [error for _, _, error in visits if error is not None]

    @property
    def served(self):
        return len(self.times)

    @property
    def rate(self):
        return self.served / self.count if self.count else 0.0

    def quantile(self, q):
        """Nearest rank, seconds; of none, none."""
        return self.times[min(len(self.times) - 1, int(q * len(self.times)))] if self.times else float("nan")

    def __str__(self):
        return f"{self.served}/{self.count} served, p50 {self.quantile(0.5) * 1000:.1f} p99 {self.quantile(0.99) * 1000:.1f} ms"


class Honest:
    """Clients in threads of their own, each with new connections one after the other until told to stop.

    A visit is a TCP connection, a TLS handshake and a small answer. It counts for the phase in which it began. They end with their test, whatever
    becomes of that."""

    def __init__(self, t, threads=3, pause=0.02, timeout=30):
        t.undo.append(self.finish)
        self.visits, self.stopping = [], threading.Event()
        self.pause, self.timeout = pause, timeout
        self.threads = [threading.Thread(target=self.run, args=(n,), daemon=True) for n in range(threads)]
        for thread in self.threads:
            thread.start()

    def run(self, n):
        ctx, i = clients.context(), n
        while not self.stopping.is_set():
            begun, error = time.monotonic(), None
            try:
                clients.fetch(clients.address(i), ctx, timeout=self.timeout)
            except Exception as e:
                error = f"{type(e).__name__}: {e}"
            self.visits.append((begun, time.monotonic() - begun, error))
            i += len(self.threads)
            time.sleep(self.pause)

    @contextmanager
    def phase(self):
        """The visits that begin meanwhile: a list that is complete once `finish` was called."""
        mine = Phase(self, time.monotonic())
        yield mine
        mine.end = time.monotonic()

    def during(self, seconds):
        """The visits that begin in so many seconds from now."""
        with self.phase() as phase:
            time.sleep(seconds)
        return phase

    def finish(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()


class Phase:
    def __init__(self, honest, begin):
        self.honest, self.begin, self.end = honest, begin, None

    def seen(self):
        return Seen([v for v in self.honest.visits if self.begin <= v[0] < self.end])
