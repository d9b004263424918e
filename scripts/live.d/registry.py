"""The list of tests, in the order in which they run."""

TESTS = {}


def test(run):
    """A test: its name, its first line of documentation. It returns what it saw, in a few words."""
    TESTS[run.__name__] = (run, run.__doc__.strip().splitlines()[0])
    return run
