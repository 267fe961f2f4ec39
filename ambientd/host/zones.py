"""Time zones by their IANA names, from this machine's tables."""

from datetime import tzinfo


def find_zone(name: str) -> tzinfo | None:
    """The zone, None when this machine knows none of that name. Reads a small file at the first use."""
    from zoneinfo import ZoneInfo  # most nodes are never asked for another zone

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, a path outside the tables, a directory
        return None
