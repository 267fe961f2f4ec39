"""The node agent; `__version__` is the one place that names the version."""

__version__ = "0.1.0"
