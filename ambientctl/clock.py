"""The clocks of the CLI, in one place: it is its own process and owns its time."""

from time import gmtime, monotonic, sleep, strftime, time  # noqa: TID251 - see the module's purpose

__all__ = ["monotonic", "now", "sleep", "stamp"]


def now() -> float:
    """Seconds since 1970."""
    return time()


def stamp() -> str:
    """Now as RFC 3339 in UTC with milliseconds, as every document carries it."""
    seconds, milliseconds = divmod(int(time() * 1000), 1000)
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(seconds)) + f".{milliseconds:03d}Z"
