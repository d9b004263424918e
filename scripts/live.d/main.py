"""Runs the tests of this directory, one after the other, in one lab."""

import importlib
import os
import resource
import subprocess
import sys
import time
import traceback

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import lab  # noqa: E402
from registry import TESTS  # noqa: E402

# What runs by default; under attack, with numbers; when the machine itself misbehaves; and what takes more to be installed.
SUITES = {
    "live": ["test_" + m for m in ("bodies", "hellos", "peers", "balancers", "failing", "admission", "health", "passive", "agent", "oddities", "tcp", "paths", "tunnels", "wireguard", "sessions", "cookies", "services", "reconfigure", "rotation", "mixed", "early_data", "inventions", "hostile", "drivers", "commands", "control", "watching", "questions", "metrics", "page", "report", "stop", "state", "takeover", "dpdk", "appliance")],
    "attack": ["attack_floods", "attack_tunnels", "attack_peers", "attack_liars"],
    "upset": ["upset", "upset_tunnels"],
    "change": ["change_load"],
    "more": ["more_clients"],
}


def main(arguments):
    suite = next((a.removeprefix("--suite=") for a in arguments if a.startswith("--suite=")), "live")
    for module in SUITES[suite]:
        importlib.import_module(module)
    if "--list" in arguments:
        for name, (_, doc) in TESTS.items():
            print(f"{name:26} {doc}")
        return 0
    fail_fast = "--fail-fast" in arguments
    names = [a for a in arguments if not a.startswith("--")]
    unknown = [n for n in names if not any(t.startswith(n) for t in TESTS)]
    if unknown:
        print(f"live: no test is called {unknown[0]}; scripts/live --list", file=sys.stderr)
        return 2
    # Thousands of connections at once.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 65536) if most != resource.RLIM_INFINITY else 65536, most))
    # Large ones take minutes: whoever wants them names them.
    chosen = {n: t for n, t in TESTS.items() if (n in names if n.endswith("_large") else not names or any(n.startswith(p) for p in names))}
    lab.lab("up", "--ipv6", "--queues", lab.WORKERS)
    home = open("/proc/self/ns/net")
    lab.enter("clients")
    servers = lab.Servers()
    passed, failed = 0, 0
    begun = time.monotonic()
    for name, (run, _) in chosen.items():
        at = time.monotonic()
        test = lab.Test(servers)
        seen, why = "", None
        try:
            seen = run(test) or ""
        except lab.Failure as e:
            why = str(e)
        except Exception as e:  # what a peer met: a reset, a timeout, a handshake that failed
            frame = [f for f in traceback.extract_tb(e.__traceback__) if "/live.d/" in f.filename and os.path.basename(f.filename) not in ("main.py", "lab.py", "clients.py")] or traceback.extract_tb(e.__traceback__)
            why = f"{type(e).__name__}: {e} ({os.path.basename(frame[-1].filename)}:{frame[-1].lineno})"
        printed = []
        try:
            test.finish(why is not None)
        except lab.Failure as e:
            why = why or str(e)
        took = time.monotonic() - at
        if why is None:
            passed += 1
            print(f"ok    {name:26} {seen} [{took:.1f} s]", flush=True)
        else:
            failed += 1
            # Servers may have been left stopped.
            servers.forget()
            print(f"FAIL  {name:26} {why} [{took:.1f} s]", flush=True)
            for d in test.dispatchers:
                printed = [line for line in d.out if not line[:1].isdigit()][-8:]
                stats = [line for line in d.out if line[:1].isdigit()][-1:]
                for line in stats + printed + d.err[-5:]:
                    print("        " + line.rstrip())
            if fail_fast:
                break
    # Out of there first: whoever is inside is ended with it.
    lab.enter_file(home)
    lab.lab("down")
    left = [n for n in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split() if n.startswith(lab.PREFIX)]
    if left or os.path.exists(lab.STATE):
        failed += 1
        print(f"FAIL  {'nothing_is_left':26} {left} {lab.STATE}")
    print(f"{passed} passed, {failed} failed ({time.monotonic() - begun:.0f} s)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
