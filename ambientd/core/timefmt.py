"""Instants as text and as milliseconds: RFC 3339 in UTC with `Z` outside, aware datetimes inside."""

import re
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}):([0-9]{2})(?:\.([0-9]{1,30}))?"
    r"(?:([Zz])|([+-])([0-9]{2}):([0-9]{2}))"
)


def rfc3339_ms(at: datetime) -> str:
    """`2026-11-20T15:40:03.120Z`, cut (not rounded) to milliseconds. Raises ValueError for a naive `at`."""
    if at.tzinfo is None:
        raise ValueError("a naive datetime names no instant")
    utc = at if at.tzinfo is UTC else at.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def parse_rfc3339(text: str) -> datetime:
    """The instant in UTC; digits past microseconds are cut. Raises ValueError for anything else.

    A leap second (RFC 3339 5.6) is the second after it, as the system's clock counts.
    """
    found = _RFC3339.fullmatch(text)
    if found is None:
        raise ValueError("not an RFC 3339 time with Z or an offset")
    day, minute, second, fraction, _z, sign, hours, minutes = found.groups()
    if text[-1] == "Z" and text[10] == "T" and second != "60":  # as nearly all are written
        return datetime.fromisoformat(text)
    leap = second == "60"
    at = datetime.fromisoformat(f"{day}T{minute}:{'59' if leap else second}+00:00")
    if int(hours or 0) > 23 or int(minutes or 0) > 59:
        raise ValueError("an offset of a day or more")
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    try:
        at += timedelta(seconds=int(leap), microseconds=int((fraction or "")[:6].ljust(6, "0")))
        return at - offset if sign == "+" else at + offset
    except OverflowError:
        raise ValueError("outside the years 1 to 9999") from None


def to_ms(at: datetime) -> int:
    """Milliseconds since 1970, cut towards the past. Raises TypeError for a naive `at`."""
    return (at - _EPOCH) // _MILLISECOND


def from_ms(ms: int) -> datetime:
    """The instant in UTC. Raises ValueError outside the years 1 to 9999."""
    try:
        return _EPOCH + timedelta(milliseconds=ms)
    except OverflowError:
        raise ValueError("outside the years 1 to 9999") from None
