"""The request target: path and query, strictly decoded (RFC 9112 section 3.2, RFC 3986 section 2.1)."""

import re
from typing import NamedTuple

# More names than any route declares; it bounds the work before the route is known.
MAX_PARAMETERS = 64

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_NAME_SHOWN = 64


class Target(NamedTuple):
    """`path` is decoded but for an escaped slash, which stays `%2F` so that it cannot split a segment."""

    path: str
    query: dict[str, str]


class BadTarget(NamedTuple):
    """Why a target was refused. `field` is a parameter's name, or `path` or `query` for the whole part."""

    field: str
    issue: str
    message: str


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes((int(match[1], 16),))


def _unescape_path(match: re.Match[bytes]) -> bytes:
    return b"%2F" if match[1] in (b"2F", b"2f") else _unescape(match)


def _decode(raw: bytes, *, path: bool) -> str | None:
    """The text, or None when the escapes or the UTF-8 are broken."""
    if b"%" in raw:
        if _BAD_ESCAPE.search(raw) is not None:
            return None
        raw = _ESCAPE.sub(_unescape_path if path else _unescape, raw)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _parse_query(raw: bytes) -> dict[str, str] | BadTarget:
    pairs = [pair for pair in raw.split(b"&", MAX_PARAMETERS) if pair]
    if len(pairs) > MAX_PARAMETERS:
        return BadTarget("query", "range", f"there are more than {MAX_PARAMETERS} query parameters")
    query: dict[str, str] = {}
    for pair in pairs:
        raw_name, _, raw_value = pair.replace(b"+", b" ").partition(b"=")
        name, value = _decode(raw_name, path=False), _decode(raw_value, path=False)
        if name is None or value is None:
            field = name[:_NAME_SHOWN] if name else "query"
            return BadTarget(field, "encoding", "a query parameter is not valid percent-encoded UTF-8")
        if name in query:
            return BadTarget(name[:_NAME_SHOWN], "duplicate", "a query parameter is given more than once")
        if "\x00" in name or "\x00" in value:
            return BadTarget("query", "character", "a query parameter holds a NUL character")
        query[name] = value
    return query


def parse_target(raw: bytes) -> Target | BadTarget:
    """Splits and decodes a target in origin form or absolute form; `*` gives the path `*`.

    Dots in paths mean nothing: `/a/../b` is the path `/a/../b`, which no route has.
    """
    if raw.startswith((b"http://", b"https://")):
        # Absolute form, which a server must accept; the authority says nothing that the connection does not.
        _, _, rest = raw.partition(b"://")
        slash = rest.find(b"/")
        raw = rest[slash:] if slash >= 0 else b"/"
    raw_path, mark, raw_query = raw.partition(b"?")
    path = _decode(raw_path, path=True)
    if path is None:
        return BadTarget("path", "encoding", "the path is not valid percent-encoded UTF-8")
    if not mark:
        return Target(path, {})
    query = _parse_query(raw_query.partition(b"#")[0])
    return query if isinstance(query, BadTarget) else Target(path, query)
