"""Text for terminals: inert, measured, cut. What agents and files say may hold anything."""

import unicodedata
from datetime import datetime

_WIDE = frozenset({"W", "F"})


def printable(text: str) -> str:
    """The text on one line with everything that could steer a terminal replaced by a space or `?`."""
    return "".join(_safe(character) for character in text)


def _safe(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else "?"


def width_of(text: str) -> int:
    """Columns that the text takes on a terminal."""
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in _WIDE else 1


def cut(text: str, width: int, ellipsis: str = "…") -> str:
    """The text in at most `width` columns, with an ellipsis where something is missing."""
    if width_of(text) <= width:
        return text
    room, kept = max(0, width - width_of(ellipsis)), []
    for character in text:
        room -= _columns(character)
        if room < 0:
            break
        kept.append(character)
    return ("".join(kept) + ellipsis) if width > 0 else ""


def pad(text: str, width: int) -> str:
    """The text followed by blanks up to `width` columns."""
    return text + " " * max(0, width - width_of(text))


def age(seconds: float) -> str:
    """`4s`, `6m12s`, `3h05m`, `3d 4h`: two units at most."""
    total = max(0, int(seconds))
    days, hours = total // 86400, total // 3600 % 24
    minutes, rest = total // 60 % 60, total % 60
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    if minutes:
        return f"{minutes}m{rest:02d}s"
    return f"{rest}s"


def age_of(at: datetime | None, now: datetime) -> str:
    """How long ago an instant is; `-` for none."""
    return "-" if at is None else age((now - at).total_seconds())


def size(count: int) -> str:
    """Bytes for people: `84 MiB`."""
    value, units = float(count), ("B", "KiB", "MiB", "GiB", "TiB")
    for unit in units[:-1]:
        if value < 1024:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} {units[-1]}"


def number(count: int) -> str:
    """Thousands apart by a blank: `12 480`."""
    return f"{count:,}".replace(",", " ")
