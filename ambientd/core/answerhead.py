"""The head of an answer as control planes send it, read by one pattern; for any other the answer is None, and
h11 decides (as in `requesthead`)."""

import re
from typing import NamedTuple

_HEAD = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9]{2})(?: [ -~]*+)?\r\n((?:[-0-9A-Za-z]++: [!-~]++(?: ++[!-~]++)*+\r\n)++)\r\n"
)
_FIELD = re.compile(r"([^:]++): ([^\r]++)\r\n")
_LENGTH_DIGITS = 18
# Their bodies are not what Content-Length says.
_BODILESS = frozenset((204, 304))


class PlainAnswer(NamedTuple):
    """A head that is well-formed. `headers`: names in lower case, each of them once."""

    status: int
    headers: dict[str, str]
    size: int  # bytes, with the blank line
    length: int  # bytes of the body


def parse_plain_answer(data: bytes | bytearray) -> PlainAnswer | None:
    """The head at the beginning of `data`; None when it is not all there, or in any way unusual."""
    found = _HEAD.match(data)
    if found is None:
        return None
    status, lines = int(found[1]), found[2]
    fields = _FIELD.findall(lines.decode("ascii"))
    headers = {name.lower(): value for name, value in fields}
    length = headers.get("content-length", "")
    if len(headers) < len(fields) or "transfer-encoding" in headers or status in _BODILESS:
        return None
    if not length.isdigit() or len(length) > _LENGTH_DIGITS:
        return None
    return PlainAnswer(status, headers, found.end(), int(length))
