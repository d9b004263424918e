"""Changes under load, for as long as fits among other tests. The whole is a suite of its own (change_load.py)."""

import reconfigure
from registry import test


@test
def changes_under_load(t):
    """Services, pools, weights, routes and VIPs change all the while: no connection notices, every session of a server that stays is resumed"""
    return reconfigure.run(t, seconds=8, changes=80, transfers=40, rate=60)[0]
