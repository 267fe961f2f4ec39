"""Checks of single values: each answers the checked value, or None after it has named the problem."""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ambientd.core.contracts.problems import Found
from ambientd.core.timefmt import parse_rfc3339

if TYPE_CHECKING:
    from ambientd.core.contracts.adapters import Given

LINE_MAX = 256  # characters of an id, a name, a word
TITLE_MAX = 1_000
TEXT_MAX = 512 * 1024
ERROR_TEXT_MAX = 64 * 1024
PAYLOAD_DEPTH_MAX = 32
# Nine thousand times the largest of each still fit the 64 bits in which aggregates are added up.
COUNT_MAX = 10**12
RUNTIME_MAX_MS = 10**13  # three centuries
COST_MAX_USD = 10**6
YEAR_MIN, YEAR_MAX = 1970, 2199
INT_LIMIT = 2**63

INSTANT_MAX = 64  # characters
_PLAIN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9](?:\.[0-9]{3})?Z")
INSTANT = "RFC 3339 time with Z or an offset"


def line(given: Given, found: Found, limit: int = LINE_MAX) -> str | None:
    """One line of printable text that is not blank and has no blanks around it."""
    text = _text(given, found, limit)
    if text is None:
        return None
    if not text or text.isspace():
        found.add(given.path, "empty", "must not be empty", "text that is not empty")
        return None
    if not text.isprintable() or text[0] == " " or text[-1] == " ":
        found.add(given.path, "character", "must be one line of printable text", "one line of printable text")
        return None
    return text


def optional_line(given: Given, found: Found, limit: int = LINE_MAX) -> str | None:
    """The same for a field that may be left out: empty text counts as left out."""
    return None if given.value == "" else line(given, found, limit)


def prose(given: Given, found: Found, limit: int) -> str | None:
    """Text of several lines; empty text counts as left out."""
    return _text(given, found, limit) or None


def _text(given: Given, found: Found, limit: int) -> str | None:
    value = given.value
    if not isinstance(value, str):
        found.wrong_type(given.path, "string")
        return None
    if len(value) > limit:
        found.add(given.path, "length", f"is longer than {limit} characters", f"at most {limit} characters")
        return None
    if not _is_storable(value):
        _bad_character(given.path, found)
        return None
    return value


def _is_storable(value: str) -> bool:
    if value.isascii():
        return "\0" not in value
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def _bad_character(path: str, found: Found) -> None:
    found.add(path, "character", "must not hold NUL or lone surrogates", "text without U+0000 and surrogates")


def count(given: Given, found: Found, limit: int = COUNT_MAX, lowest: int = 0) -> int | None:
    """A whole number within bounds; `true` and `5.0` are none."""
    value = given.value
    if type(value) is not int:
        found.wrong_type(given.path, "integer")
        return None
    if not lowest <= value <= limit:
        expected = f"from {lowest} to {limit}"
        found.add(given.path, "range", f"must be {expected}", expected)
        return None
    return value


def amount(given: Given, found: Found) -> float | None:
    """US dollars: a finite number that is not negative."""
    value = given.value
    if type(value) is not int and type(value) is not float:
        found.wrong_type(given.path, "number")
        return None
    if not (math.isfinite(value) if type(value) is float else True) or not 0 <= value <= COST_MAX_USD:
        expected = f"from 0 to {COST_MAX_USD}"
        found.add(given.path, "range", f"must be {expected}", expected)
        return None
    return float(value) + 0.0  # never -0.0


def instant(given: Given, found: Found) -> datetime | None:
    """An instant, cut to milliseconds as the ledger keeps it. A time without an offset names none."""
    value = given.value
    if not isinstance(value, str):
        found.wrong_type(given.path, "string")
        return None
    at = _parse(value) if len(value) <= INSTANT_MAX else None
    if at is None:
        found.add(given.path, "format", f"must be an {INSTANT}", INSTANT)
        return None
    if not YEAR_MIN <= at.year <= YEAR_MAX:
        expected = f"years {YEAR_MIN} to {YEAR_MAX}"
        found.add(given.path, "range", f"must lie in the {expected}", expected)
        return None
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def _parse(text: str) -> datetime | None:
    try:
        if _PLAIN.fullmatch(text) is not None:  # nearly all, and three times as fast
            return datetime.fromisoformat(text)
        return parse_rfc3339(text)
    except (ValueError, OverflowError):
        return None


def payload(given: Given, found: Found) -> dict[str, Any] | None:
    """An object that can be kept as JSON and read back equal."""
    if not isinstance(given.value, dict):
        found.wrong_type(given.path, "object")
        return None
    issue = _issue(given.value, PAYLOAD_DEPTH_MAX)
    if issue is None:
        return given.value
    if issue == "character":
        _bad_character(given.path, found)
    else:
        found.add(given.path, issue, _PAYLOAD_ISSUES[issue])
    return None


_PAYLOAD_ISSUES = {
    "depth": f"is nested deeper than {PAYLOAD_DEPTH_MAX} levels",
    "range": "holds a number that JSON or 64 bits cannot hold",
    "type": "holds something that is not JSON",
}


def _issue(value: object, depth: int) -> str | None:
    """The first thing in a JSON value that cannot be kept; objects are looked at in key order."""
    kind = type(value)
    if kind is str:
        return None if _is_storable(str(value)) else "character"
    if kind is dict or kind is list:
        return _issue_inside(value, depth)
    if value is None or kind is bool:
        return None
    if isinstance(value, int):
        return None if -INT_LIMIT <= value < INT_LIMIT else "range"
    if isinstance(value, float):
        return None if math.isfinite(value) else "range"
    return "type"


def _issue_inside(value: Any, depth: int) -> str | None:
    if depth == 0:
        return "depth"
    if isinstance(value, list):
        return next(filter(None, (_issue(item, depth - 1) for item in value)), None)
    issues = {
        str(key): issue
        for key, item in value.items()
        if (issue := _key_issue(key) or _issue(item, depth - 1)) is not None
    }
    return issues[min(issues)] if issues else None


def _key_issue(key: object) -> str | None:
    if type(key) is not str:
        return "type"
    return None if _is_storable(key) else "character"
