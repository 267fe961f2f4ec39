"""Words and figures for people: ages, counts, money, short ids, and foreign text made harmless."""

from datetime import UTC, datetime

SHORT_ID = 8
MINUTE, HOUR, DAY = 60, 3600, 86400


def _inert_table() -> dict[int, str]:
    """Controls, bidirectional overrides and line separators, each as a visible escape."""
    codes = [*range(0x20), *range(0x7F, 0xA0), 0x00AD, 0x061C, 0x200B, 0x200E, 0x200F, 0x2028, 0x2029]
    codes += [*range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF]
    table = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in codes}
    return table | dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}")


_TABLE: dict[int, str] = {}
_SPACES = {9: " ", 10: " ", 13: " "}


def inert(text: str, *, spaces: bool = True) -> str:
    """`text` on one line that no terminal obeys: escape sequences and the like become visible.

    With `spaces`, tabs and line breaks become spaces; without, visible escapes too, but tabs stay.
    """
    if text.isprintable() and text.isascii():
        return text
    if not _TABLE:
        _TABLE.update(_inert_table())
    if spaces:
        return text.translate(_SPACES).translate(_TABLE)
    return "\t".join(part.translate(_TABLE) for part in text.split("\t"))


def short_id(session_id: str) -> str:
    """The last eight characters: what tables show and commands accept."""
    return inert(session_id[-SHORT_ID:])


def duration(seconds: float) -> str:
    """`2s`, `12m04s`, `3h07m`, `3d 4h`."""
    whole = max(0, int(seconds))
    if whole < MINUTE:
        return f"{whole}s"
    if whole < HOUR:
        return f"{whole // MINUTE}m{whole % MINUTE:02d}s"
    if whole < DAY:
        return f"{whole // HOUR}h{whole % HOUR // MINUTE:02d}m"
    return f"{whole // DAY}d {whole % DAY // HOUR}h"


def age(seconds: float) -> str:
    """One unit is enough: `2s`, `12m`, `3h`, `2d`."""
    whole = max(0, int(seconds))
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "m")):
        if whole >= unit:
            return f"{whole // unit}{name}"
    return f"{whole}s"


def count(number: int) -> str:
    """`12 480`."""
    return f"{number:,}".replace(",", " ")


def tokens(number: float | None) -> str:
    """`842`, `48.1k`, `2.3M`; `-` when unknown."""
    if number is None:
        return "-"
    if number < 1000:
        return str(int(number))
    if number < 999_950:
        return f"{number / 1000:.1f}k"
    return f"{number / 1_000_000:.1f}M"


def cost(usd: float | None, confidence: str) -> str:
    """`$0.61`, `~$0.61` when estimated, `-` when unknown."""
    if usd is None or confidence == "unknown":
        return "-"
    return f"{'~' if confidence == 'estimated' else ''}${usd:.2f}"


def size(number: float) -> str:
    """`512 B`, `1.1 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            return f"{int(number)} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    raise AssertionError("unreachable: GiB takes everything")


def instant(text: str) -> float | None:
    """Seconds since 1970 of an RFC 3339 time; None for anything else."""
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def clock_time(text: str, now: float) -> str:
    """A time for people in their own zone: `15:28:11` today, else `2026-11-19 15:28`; `-` when unknown."""
    at = instant(text)
    if at is None:
        return "-"
    try:
        local = datetime.fromtimestamp(at).astimezone()
        today = datetime.fromtimestamp(now).astimezone().date()
    except (ValueError, OverflowError, OSError):
        return "-"
    return local.strftime("%H:%M:%S" if local.date() == today else "%Y-%m-%d %H:%M")
