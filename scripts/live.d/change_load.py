"""A thousand changes in a minute, under load. Of times this suite alone says what must be: it wants a machine for itself."""

import reconfigure
from lab import check
from registry import test

# Seconds that a worker may be away from its queues for a change.
PAUSE = 0.005


@test
def thousand_changes(t):
    """A thousand changes in a minute under 200 transfers and 300 new connections a second: none notices, no worker pauses for longer than 5 ms"""
    seen, longest = reconfigure.run(t, seconds=60, changes=1000, transfers=200, rate=300)
    check(longest <= PAUSE, f"a pause of {longest * 1e3:.1f} ms; {seen}")
    return seen
