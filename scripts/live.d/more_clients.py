"""What takes more to be installed than an everyday run should: clients on Go's TLS."""

from queue_clients import go, wait_for_turn, wait_too_long
from registry import test


@test
def wait_go(t):
    """Go waits for a place, and is served"""
    return wait_for_turn(t, [go])


@test
def wait_in_vain_go(t):
    """Go reads the alert internal_error when its time is over"""
    return wait_too_long(t, [go])
