"""A random share, so that many nodes do not do the same in the same instant."""

import os


def jitter() -> float:
    """A number in [0, 1)."""
    return int.from_bytes(os.urandom(4)) / 2**32
