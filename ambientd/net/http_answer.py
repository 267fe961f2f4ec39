"""The bytes of a response: head, chunks and the cached parts of both (RFC 9112, RFC 9110)."""

from datetime import datetime
from functools import lru_cache

from ambientd.ports.clock import Clock
from ambientd.ports.http import Response

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_BODILESS = frozenset((204, 304))
# What an idle node answers; beyond these `http` is loaded, which is 75 KiB.
_USUAL = {200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 304: "Not Modified"}
_USUAL |= {400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 503: "Service Unavailable"}


def http_date(at: datetime) -> str:
    """RFC 9110 section 5.6.7, in English whatever the locale (R3.166)."""
    day, month = _DAYS[at.weekday()], _MONTHS[at.month - 1]
    return f"{day}, {at.day:02} {month} {at.year:04} {at.hour:02}:{at.minute:02}:{at.second:02} GMT"


class DateLine:
    """The `Date` header, formatted at most once a second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._line = b""
        self._until = float("-inf")

    def line(self, now: float) -> bytes:
        """The header line; `now` is monotonic, in seconds. Up to a second old."""
        if now >= self._until:
            self._line = b"Date: " + http_date(self._clock.now()).encode("ascii") + b"\r\n"
            self._until = now + 1.0
        return self._line


def phrase_of(status: int) -> str:
    """The words that go with a status: those of RFC 9110."""
    if (usual := _USUAL.get(status)) is not None:
        return usual
    from http import HTTPStatus

    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unnamed"


# Statuses times content types of our own routes: some dozens.
@lru_cache(maxsize=256)
def _prefix(status: int, content_type: str) -> bytes:
    lines = [f"HTTP/1.1 {status} {phrase_of(status)}", "Cache-Control: no-store"]
    if status not in _BODILESS:
        lines.append(f"Content-Type: {content_type}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n"


# Most routes have none, or those that every answer of a listener has.
@lru_cache(maxsize=64)
def _extra(headers: tuple[tuple[str, str], ...]) -> bytes:
    """Further header lines. Raises ValueError for a line break in one: it would start another header."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    if lines.count("\r") != len(headers) or lines.count("\n") != len(headers) or "\x00" in lines:
        raise ValueError("a response header holds a control character")
    return lines.encode("latin-1", "replace")


def head_of(
    response: Response, *, request_id: str, date: bytes, close: bool, version: bytes = b"1.1"
) -> bytes:
    """Everything up to and with the blank line; with a stream the body follows in chunks.

    Raises ValueError when a header of the response cannot be sent.
    """
    status = response.status
    if response.stream is not None:
        framing = b"Transfer-Encoding: chunked\r\n" if version != b"1.0" else b""
    elif status in _BODILESS:
        framing = b""
    else:
        framing = b"Content-Length: %d\r\n" % len(response.body)
    return b"%b%bX-Request-Id: %b\r\n%b%b%b\r\n" % (
        _prefix(status, response.content_type),
        date,
        request_id.encode("ascii"),
        framing,
        _extra(response.headers) if response.headers else b"",
        b"Connection: close\r\n" if close else b"",
    )


def chunk_of(data: bytes) -> bytes:
    """One chunk; `data` must not be empty, for an empty chunk ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
