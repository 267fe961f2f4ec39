"""How large and how deep a document of a client may be."""

from typing import Any, NamedTuple

import msgspec

from ambientd.core.fleet.checks import Problems


class JsonLimits(NamedTuple):
    """Levels of nesting; members of one list or object; bytes of a key, of a string, and of all."""

    depth: int
    items: int
    key_bytes: int
    string_bytes: int
    total_bytes: int


def check_json(problems: Problems, field: str, value: Any, limits: JsonLimits) -> None:
    """Notes the first problem of each kind; never recurses, whatever the document."""
    try:
        size = len(msgspec.json.encode(value))
    except (TypeError, ValueError, RecursionError):
        problems.add(field, "type", "must be a JSON document")
        return
    if size > limits.total_bytes:
        expected = f"at most {limits.total_bytes} bytes"
        problems.add(field, "length", f"must have {expected}", expected)
        return
    seen: set[str] = set()
    waiting: list[tuple[Any, int]] = [(value, 1)]
    while waiting:
        part, level = waiting.pop()
        issue = _issue(part, level, limits)
        if issue is None:
            waiting.extend((inner, level + 1) for inner in _inner(part))
        elif issue[0] not in seen:
            seen.add(issue[0])
            problems.add(field, issue[0], issue[1], issue[2])


def _inner(part: Any) -> list[Any]:
    if isinstance(part, dict):
        return list(part.values())
    return list(part) if isinstance(part, (list, tuple)) else []


def _issue(part: Any, level: int, limits: JsonLimits) -> tuple[str, str, str] | None:
    if isinstance(part, str):
        return _too_long(part, limits.string_bytes, "strings")
    if not isinstance(part, (dict, list, tuple)):
        return None
    if level > limits.depth:
        return "depth", f"nests deeper than {limits.depth} levels", f"at most {limits.depth} levels"
    if len(part) > limits.items:
        expected = f"lists and objects of at most {limits.items} members"
        return "items", f"must have {expected}", expected
    keys = part if isinstance(part, dict) else ()
    return next((found for key in keys if (found := _too_long(key, limits.key_bytes, "keys"))), None)


def _too_long(text: str, most: int, what: str) -> tuple[str, str, str] | None:
    if "\0" in text:
        return "encoding", "holds a NUL character", "text without NUL characters"
    if len(text.encode()) <= most:
        return None
    expected = f"{what} of at most {most} bytes"
    return "length", f"must have {expected}", expected
