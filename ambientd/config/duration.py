"""Durations and sizes as people write them: `1h30m`, `250ms`, `64KiB`, `10MB`."""

import re

# Longest first within one letter, so that `ms` is not read as `m`.
_SECONDS = {"w": 604_800.0, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_MILLISECONDS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_DURATION_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|[wdhms])")

_BYTES = {
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KIB": 1024,
    "MIB": 1024**2,
    "GIB": 1024**3,
    "TIB": 1024**4,
}
_SIZE = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,9}))? ?([A-Za-z]{1,3})")
_SIZE_NAMES = (("TiB", 1024**4), ("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024))
_DECIMAL_SIZE_NAMES = (("TB", 1000**4), ("GB", 1000**3), ("MB", 1000**2), ("KB", 1000))


def parse_duration(text: str) -> float:
    """Seconds of a duration such as `90s`, `5m`, `1h30m`, `90d`, `250ms`.

    Units go from large to small and each appears once. Raises ValueError with a sentence without a unit,
    with an unknown unit, or when the order is wrong.
    """
    seconds, position, smallest = 0.0, 0, float("inf")
    while position < len(text):
        part = _DURATION_PART.match(text, position)
        if part is None:
            raise ValueError("not a duration with a unit (ms, s, m, h, d, w)")
        unit = _SECONDS[part[2]]
        if unit >= smallest:
            raise ValueError("units must go from large to small, each once")
        seconds += float(part[1]) * unit
        smallest, position = unit, part.end()
    if position == 0:
        raise ValueError("empty")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest usual spelling, which `parse_duration` reads back to the same milliseconds.

    Takes a finite number of at least 0; raises ValueError otherwise.
    """
    if not 0 <= seconds < float("inf"):
        raise ValueError("a duration is a finite number of at least 0 seconds")
    rest = round(seconds * 1000)
    if 0 < rest < 120_000 and rest % 1000 == 0:  # "60s" and "90s" are how people say it
        return f"{rest // 1000}s"
    if rest == 0 and seconds > 0:
        return f"{seconds * 1000:.9f}".rstrip("0").rstrip(".") + "ms"
    parts = []
    for unit, length in _MILLISECONDS.items():
        if unit == "w":  # nobody writes 12w6d for 90d
            continue
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_size(value: str | int) -> int:
    """Bytes of `64KiB`, `10MB`, `1.5GiB`, or of a plain number.

    Raises ValueError with a sentence for an unknown unit or when no whole number of bytes is meant.
    """
    if isinstance(value, int):
        return value
    if value.isascii() and value.isdigit() and len(value) <= 18:
        return int(value)
    found = _SIZE.fullmatch(value)
    if found is None or (factor := _BYTES.get(found[3].upper())) is None:
        raise ValueError("not a size with a unit (B, KB, MB, GB, TB, KiB, MiB, GiB, TiB)")
    fraction = found[2] or ""
    scale: int = 10 ** len(fraction)
    size, remainder = divmod(int(found[1] + fraction) * factor, scale)
    if remainder:
        raise ValueError("not a whole number of bytes")
    return size


def format_size(size: int) -> str:
    """An exact spelling that `parse_size` reads back: `16MiB`, `10MB`, `1001B`."""
    for name, factor in (*_SIZE_NAMES, *_DECIMAL_SIZE_NAMES):
        if size and size % factor == 0:
            return f"{size // factor}{name}"
    return f"{size}B"
