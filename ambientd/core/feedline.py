"""One line of the activity feed: its bytes, the instants it names, and whether this node wrote it.

The feed's helper process runs this too, in 10 MiB: nothing here imports more than `json` (`typing` or
`datetime` would each cost more than half a megabyte there, a regular expression a tenth).
"""

from __future__ import annotations

import json
from collections.abc import Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

LINE_LIMIT = 4096
"""A line with its LF is shorter than this, so that one `write` of it is never split (R2.58)."""

LAST_INSTANT_MS = 253_402_300_799_999
"""The end of the year 9999: a later number is not an instant that any reader could print."""

TOOL = "task_dispatcher"
CLAMP_TOLD_MS = 1000
"""A smaller correction is the ordinary race of two writers, not a fault of the clock."""

_ENCODER = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"))
_SHAPE = "0000-00-00T00:00:00"
_DAYS_BEFORE_MONTH = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
_DAYS_BEFORE_1970 = 719_162

# The fixed part of every line of ours, and where it stands: `{"ts_utc":"` + 20 characters +
# `","ts_epoch_ms":` + 13 digits come before it (until the year 2286).
_START = b'{"ts_utc":"'
_MIDDLE = b'","ts_epoch_ms":'
_MIDDLE_AT = 31
_FIXED = (
    b',"category":"heartbeat","action":"heartbeat","emit_mode":"runtime_auto",'
    b'"verifier_mode":"operational_proof","actor":"'
)
_FIXED_AT = 60
_ORIGIN = b'","tool":"task_dispatcher","run_id":"dispatcher:'
_FRAGMENT_TELLS = _FIXED_AT + len(b',"category":"heartbeat"')


def encode(event: Mapping[str, Any]) -> bytes:
    """The event as one ASCII line with its LF, keys in the given order.

    Raises ValueError (too long, NaN, Infinity, circular) and TypeError (not JSON).
    """
    line = _ENCODER.encode(event).encode("ascii") + b"\n"
    if len(line) >= LINE_LIMIT:
        raise ValueError(f"the line has {len(line)} bytes, {LINE_LIMIT - 1} are allowed")
    return line


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def decode(line: bytes) -> dict[str, Any] | None:
    """The object in a line, or None when it is not one strict JSON object in UTF-8."""
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _days_before_year(year: int) -> int:
    past = year - 1
    return past * 365 + past // 4 - past // 100 + past // 400 - _DAYS_BEFORE_1970


def _days_before_month(year: int, month: int) -> int:
    return _DAYS_BEFORE_MONTH[month - 1] + (1 if month > 2 and _is_leap(year) else 0)


def utc_text(at_ms: int) -> str:
    """An instant as `YYYY-MM-DDTHH:MM:SSZ`, whole seconds rounded down (R2.8, R2.10).

    Raises ValueError before 1970 and after 9999.
    """
    if not 0 <= at_ms <= LAST_INSTANT_MS:
        raise ValueError(f"{at_ms} ms is outside 1970..9999")
    days, second = divmod(at_ms // 1000, 86_400)
    year = 1970 + days // 366
    while _days_before_year(year + 1) <= days:
        year += 1
    days -= _days_before_year(year)
    month = 12
    while _days_before_month(year, month) > days:
        month -= 1
    day = days - _days_before_month(year, month) + 1
    hour, second = divmod(second, 3600)
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{second // 60:02d}:{second % 60:02d}Z"


def parse_utc_ms(text: str) -> int | None:
    """The instant an ISO 8601 text names, in milliseconds; None when it is naive or not one."""
    head, tail = text[:19], text[19:]
    fraction, offset_ms = _parse_end(tail)
    if offset_ms is None or not _has_shape(head):
        return None
    year, month, day = int(head[:4]), int(head[5:7]), int(head[8:10])
    hour, minute, second = int(head[11:13]), int(head[14:16]), int(head[17:19])
    if not (year and 1 <= month <= 12 and hour < 24 and minute < 60 and second < 60):
        return None
    before = _days_before_month(year, month)
    after = _days_before_month(year, month + 1) if month < 12 else 365 + _is_leap(year)
    if not 1 <= day <= after - before:
        return None
    days = _days_before_year(year) + before + day - 1
    at_ms = (days * 86_400 + hour * 3600 + minute * 60 + second) * 1000
    return at_ms + int((fraction + "000")[:3]) - offset_ms


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _has_shape(head: str) -> bool:
    head = head.replace(" ", "T", 1)
    return len(head) == len(_SHAPE) and all(
        _is_number(found) if wanted == "0" else found == wanted
        for found, wanted in zip(head, _SHAPE, strict=True)
    )


def _parse_end(tail: str) -> tuple[str, int | None]:
    """The digits of the fraction and the offset from UTC in milliseconds (None: no valid one)."""
    fraction = ""
    if tail[:1] in (".", ","):
        zone = tail[1:].lstrip("0123456789")
        fraction = tail[1 : len(tail) - len(zone)]
        if not 1 <= len(fraction) <= 9:
            return "", None
        tail = zone
    if tail in ("Z", "z"):
        return fraction, 0
    hours, minutes = tail[1:3], tail[3:].removeprefix(":")
    if tail[:1] not in ("+", "-") or len(hours) != 2 or len(minutes) != 2:
        return fraction, None
    if not (_is_number(hours) and _is_number(minutes)):
        return fraction, None
    ahead_ms = (int(hours) * 60 + int(minutes)) * 60_000
    return fraction, ahead_ms if tail[0] == "+" else -ahead_ms


def instant_ms(event: Mapping[str, Any]) -> int | None:
    """The latest instant that a line of anybody's names, in milliseconds; None when it names none.

    Known readers order by `ts_utc`, by `ts_epoch_ms`, or by `ts`/`timestamp`; what comes after the
    line must not be before any of them (R2.53).
    """
    found = [parse_utc_ms(event[key]) for key in ("ts_utc", "ts", "timestamp") if _is_text(event.get(key))]
    epoch = event.get("ts_epoch_ms")
    if isinstance(epoch, int) and not isinstance(epoch, bool) and 0 <= epoch <= LAST_INSTANT_MS:
        found.append(epoch)
    return max((at_ms for at_ms in found if at_ms is not None), default=None)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def restamp(event: Mapping[str, Any], floor_ms: int | None) -> tuple[dict[str, Any], int]:
    """The event, moved forward to `floor_ms` when it is earlier, and by how many milliseconds.

    Both stamps keep naming one instant (R2.10). The stamp never runs ahead of the floor, so the
    correction ends by itself when the clock has caught up (R2.54); from a second on `meta` says it.
    """
    moved = dict(event)
    clamped_ms = 0 if floor_ms is None else max(0, floor_ms - moved["ts_epoch_ms"])
    if clamped_ms:
        at_ms = moved["ts_epoch_ms"] + clamped_ms
        moved["ts_utc"], moved["ts_epoch_ms"] = utc_text(at_ms), at_ms
    if clamped_ms >= CLAMP_TOLD_MS:
        moved["meta"] = {**moved.get("meta", {}), "clamped_ms": clamped_ms}
    return moved, clamped_ms


def is_own_line(line: bytes, host_id: str) -> bool:
    """Whether a whole line (without LF) was written by this software on this host."""
    return (
        line.startswith(_START)
        and line.startswith(_FIXED, _FIXED_AT)
        and line.endswith(b"}")
        and _ORIGIN in line
        and b'","host_id":"' + host_id.encode("ascii", "replace") + b'"' in line
        and b'"hash"' not in line
        and b"\0" not in line
    )


def is_own_fragment(fragment: bytes) -> bool:
    """Whether a torn line is certainly a beat's: long enough to tell, and of our exact shape.

    Beats are written under the feed's lock, so whoever holds the lock knows that nobody is still
    writing such a fragment.
    """
    return (
        len(fragment) >= _FRAGMENT_TELLS
        and fragment.startswith(_START)
        and fragment.startswith(_MIDDLE, _MIDDLE_AT)
        and _FIXED.startswith(fragment[_FIXED_AT : _FIXED_AT + len(_FIXED)])
    )
