"""The node agent; `__version__` is the one place that names the version."""

__version__ = "0.1.0"
# The day before this version was made: a wall clock that says less was never set.
RELEASED = "2026-11-01T00:00:00Z"
