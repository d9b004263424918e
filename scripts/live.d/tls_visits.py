"""TLS clients that come again and again. Run as a program: tls_visits.py RATE SERVER...

So many visits a second until standard input ends, every third with a new session, the others with one of a SERVER (by the name on its pages). Under two names, with session IDs and with tickets.
Every 100 ms, and at the end, a line of JSON: visits, those with a session and those resumed by the server whose it is, and what went wrong."""

import json
import random
import sys
import threading
import time

import clients

THREADS = 6
NAMES = (clients.NAME, "api.example.test")


def main(rate, *stays):
    rate, stop, lock = float(rate), threading.Event(), threading.Lock()
    said = {"visits": 0, "offered": 0, "resumed": 0, "broken": 0, "wrong": []}
    begun = time.monotonic()
    taken = iter(range(10**9))

    def visits(number):
        draw, sessions = random.Random(number), {}
        contexts = [clients.context("1.2", tickets=tickets) for tickets in (False, True)]
        for ctx in contexts:
            # Which certificate a name has is not what is tried.
            ctx.check_hostname = False
        while not stop.is_set():
            with lock:
                n = next(taken)
            time.sleep(max(0.0, begun + n / rate - time.monotonic()))
            kind = (draw.randrange(2), draw.choice(NAMES))
            mine = sessions.setdefault(kind, [])
            server, session = draw.choice(mine) if mine and n % 3 else (None, None)
            wrong = None
            try:
                body, (after, reused, _) = clients.fetch(clients.address(n), contexts[kind[0]], session=session, name=kind[1])
                met = body.split()[0].decode()
                if session is not None and not (reused and met == server):
                    wrong = f"a session of {server} at {met}, resumed: {reused}, kind {kind}"
                if session is None and met in stays and len(mine) < 20:
                    mine.append((met, after))
            except Exception as e:
                wrong = f"{type(e).__name__}: {e}"
            with lock:
                said["visits"] += 1
                said["offered"] += session is not None
                said["resumed"] += session is not None and wrong is None
                if wrong:
                    said["broken"] += 1
                    said["wrong"] = (said["wrong"] + [wrong])[:20]

    threads = [threading.Thread(target=visits, args=(n,)) for n in range(THREADS)]
    threads += [threading.Thread(target=lambda: (sys.stdin.read(), stop.set()))]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.1)
        with lock:
            print(json.dumps(said), flush=True)
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
