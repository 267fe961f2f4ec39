"""The head of a request as ordinary clients send it, read by one pattern.

It knows less than RFC 9112 allows, and reads nothing otherwise than h11 does: for whatever is unusual the
answer is None, and h11 decides. That is ten times faster than h11, which was a third of a small request.
"""

import re
from typing import NamedTuple

# Possessive, so that nothing is looked at twice: no obsolete folding, no tabs, one space behind the colon.
_HEAD = re.compile(
    rb"([A-Z]++) (/[!-~]*+) HTTP/1\.1\r\n"
    rb"((?:[-0-9A-Za-z]++: [!-~]++(?: ++[!-~]++)*+\r\n)++)\r\n"
)
_FIELD = re.compile(r"([^:]++): ([^\r]++)\r\n")
# With these a request's body, or how it is asked for, is not what its length says.
_UNUSUAL = frozenset(("transfer-encoding", "expect"))
_LENGTH_DIGITS = 18


class PlainHead(NamedTuple):
    """A head that is well-formed. `headers`: names in lower case, each of them once, `host` among them."""

    method: str
    target: bytes
    headers: dict[str, str]
    size: int  # bytes, with the blank line
    length: int  # bytes of the body


def parse_plain_head(data: bytes | bytearray) -> PlainHead | None:
    """The head at the beginning of `data`; None when it is not all there, or in any way unusual."""
    found = _HEAD.match(data)
    if found is None:
        return None
    method, target, lines = found.groups()
    fields = _FIELD.findall(lines.decode("ascii"))
    headers = {name.lower(): value for name, value in fields}
    if len(headers) < len(fields) or "host" not in headers or not _UNUSUAL.isdisjoint(headers):
        return None
    length = headers.get("content-length", "0")
    if not length.isdigit() or len(length) > _LENGTH_DIGITS:
        return None
    return PlainHead(method.decode("ascii"), target, headers, found.end(), int(length))
