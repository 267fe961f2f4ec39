"""One HTTP/1.1 exchange over the daemon's Unix socket, without `socket`, `http.client`, `re` or `enum`.

The plain `socket` module alone costs half of a bare interpreter start, so this speaks through the C module
under it. Everything is bounded: the header, the body, and one deadline over the whole exchange.
"""

import errno
from _socket import AF_UNIX, SOCK_STREAM, socket
from time import monotonic, sleep  # noqa: TID251 - the CLI is its own process and owns its time

HEADER_MAX = 64 * 1024
ANSWER_MAX = 64 * 1024 * 1024
PIECE = 64 * 1024
# How long between two tries while the daemon's backlog is full (a non-blocking connect answers EAGAIN).
BACKLOG_PAUSE_SEC = 0.02

# Nobody can be reached under these, but another place may do; the others end the search.
_NOT_HERE = (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR, errno.EACCES, errno.EPERM)


class AwayError(Exception):
    """No socket could be opened; `attempts` are pairs of path and errno (None: the path cannot be one)."""

    def __init__(self, attempts: list[tuple[str, int | None]]) -> None:
        super().__init__(attempts)
        self.attempts = attempts


class AnswerError(Exception):
    """The daemon was reached and gave no usable answer.

    `sent` tells that the request may have taken effect; `late` that the time was up.
    """

    def __init__(self, reason: str, *, sent: bool = False, late: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent
        self.late = late


class Answer:
    """A whole answer; header names are in lower case."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Sink:
    """Where a download goes to; this one goes nowhere."""

    __slots__ = ()

    def take(self, data: bytes) -> None:
        """One piece."""


def exchange(
    paths: tuple[str, ...],
    target: str,
    *,
    accept: str,
    limit: float,
    body: bytes | None = None,
    version: str = "",
    method: str = "",
) -> Answer:
    """GETs `target`, or POSTs the JSON `body` to it, at the first of `paths` that somebody listens on.

    `method` names another one. `limit` is in seconds, for everything together. Raises AwayError and
    AnswerError.
    """
    until = monotonic() + limit
    link = _connect(paths, until)
    try:
        request = _request(method or ("GET" if body is None else "POST"), target, accept, body, version)
        refused = _send(link, request, until)
        try:
            return _receive(link, until)
        except AnswerError as error:
            error.sent = error.sent or not refused
            raise
    finally:
        link.close()


def download(
    paths: tuple[str, ...],
    target: str,
    sink: Sink,
    *,
    accept: str,
    limit: float,
    version: str = "",
) -> Answer:
    """GETs `target` and hands the body of a 200 to `sink` piece by piece; it may be of any length.

    `limit` is in seconds, for the head and then for each piece. Another answer comes back whole, that of a
    200 without its body. Raises AwayError, AnswerError, and whatever the sink raises.
    """
    until = monotonic() + limit
    link = _connect(paths, until)
    try:
        _send(link, _request("GET", target, accept, None, version), until)
        status, headers, rest = _receive_head(link, until)
        chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        if status != 200 or not chunked:
            answer = _whole(link, status, headers, rest, until)
            if status == 200:
                sink.take(answer.body)
            return answer
        _take_chunks(link, rest, sink, limit)
        return Answer(status, headers, b"")
    finally:
        link.close()


def _take_chunks(link: socket, raw: bytearray, sink: Sink, limit: float) -> None:
    while True:
        until = monotonic() + limit
        size = _chunk_size(_take_line(link, raw, until))
        if size == 0:
            return
        if size > ANSWER_MAX:
            raise AnswerError("a piece of the answer is too large")
        while len(raw) < size + 2:
            raw += _more(link, until)
        if raw[size : size + 2] != b"\r\n":
            raise AnswerError("the answer's chunks do not fit")
        sink.take(bytes(raw[:size]))
        del raw[: size + 2]


def _request(method: str, target: str, accept: str, body: bytes | None, version: str) -> bytes:
    head = (
        f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n"
        f"User-Agent: ambientctl/{version}\r\nConnection: close\r\n"
    )
    if body is None:
        return (head + "\r\n").encode("ascii")
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode("ascii") + body


def _connect(paths: tuple[str, ...], until: float) -> socket:
    attempts: list[tuple[str, int | None]] = []
    for path in paths:
        link = socket(AF_UNIX, SOCK_STREAM)
        try:
            _connect_one(link, path, until)
        except TimeoutError:
            link.close()
            raise AnswerError(f"{path} does not take connections", late=True) from None
        except (OSError, ValueError) as error:
            link.close()
            number = getattr(error, "errno", None)
            attempts.append((path, number))
            if number is not None and number not in _NOT_HERE:
                break
        else:
            return link
    raise AwayError(attempts)


def _connect_one(link: socket, path: str, until: float) -> None:
    while True:
        link.settimeout(_left(until))
        try:
            link.connect(path)
        except BlockingIOError:
            sleep(BACKLOG_PAUSE_SEC)
        else:
            return


def _left(until: float) -> float:
    """Seconds left; raises TimeoutError when there are none."""
    left = until - monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _send(link: socket, request: bytes, until: float) -> bool:
    """True when the other side stopped reading early: its answer says why, so it is still read."""
    try:
        link.settimeout(_left(until))
        link.sendall(request)
    except TimeoutError:
        raise AnswerError("the daemon does not read the request", late=True) from None
    except OSError:
        return True
    return False


def _receive(link: socket, until: float) -> Answer:
    status, headers, rest = _receive_head(link, until)
    return _whole(link, status, headers, rest, until)


def _receive_head(link: socket, until: float) -> tuple[int, dict[str, str], bytearray]:
    raw = bytearray()
    end = -1
    while end < 0:
        piece = _piece(link, until)
        if not piece:
            raise AnswerError("the answer ends before its header" if raw else "the daemon gave no answer")
        raw += piece
        end = raw.find(b"\r\n\r\n")
        if end < 0 and len(raw) > HEADER_MAX:
            raise AnswerError("the answer is not HTTP")
    status, headers = _parse_head(bytes(raw[:end]))
    return status, headers, raw[end + 4 :]


def _whole(link: socket, status: int, headers: dict[str, str], rest: bytearray, until: float) -> Answer:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return Answer(status, headers, _read_chunked(link, rest, until))
    return Answer(status, headers, _read_plain(link, rest, headers.get("content-length"), until))


def _piece(link: socket, until: float) -> bytes:
    try:
        link.settimeout(_left(until))
        return link.recv(PIECE)
    except TimeoutError:
        raise AnswerError("the daemon did not answer in time", late=True) from None
    except OSError as error:
        raise AnswerError(f"the connection broke ({error.strerror or error})") from None


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    protocol, status = (first + "  ").split(" ")[:2]
    if not (protocol.startswith("HTTP/1.") and len(status) == 3 and status.isascii() and status.isdigit()):
        raise AnswerError("the answer is not HTTP")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise AnswerError("the answer is not HTTP")
        headers[name.strip().lower()] = value.strip()
    return int(status), headers


def _read_plain(link: socket, body: bytearray, announced: str | None, until: float) -> bytes:
    if announced is not None and not (announced.isascii() and announced.isdigit()):
        raise AnswerError("the answer has a bad Content-Length")
    length = ANSWER_MAX if announced is None else int(announced)
    if length > ANSWER_MAX:
        raise AnswerError(f"the answer is larger than {ANSWER_MAX} bytes")
    while len(body) < length:
        piece = _piece(link, until)
        if not piece:
            break
        body += piece
    if announced is not None and len(body) < length:
        raise AnswerError(f"the answer is cut off: {len(body)} of {length} bytes came")
    if announced is None and len(body) > ANSWER_MAX:
        raise AnswerError(f"the answer is larger than {ANSWER_MAX} bytes")
    return bytes(body[:length])


def _read_chunked(link: socket, raw: bytearray, until: float) -> bytes:
    body = bytearray()
    while True:
        line = _take_line(link, raw, until)
        size = _chunk_size(line)
        if size == 0:
            return bytes(body)
        if len(body) + size > ANSWER_MAX:
            raise AnswerError(f"the answer is larger than {ANSWER_MAX} bytes")
        while len(raw) < size + 2:
            raw += _more(link, until)
        if raw[size : size + 2] != b"\r\n":
            raise AnswerError("the answer's chunks do not fit")
        body += raw[:size]
        del raw[: size + 2]


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    try:
        size = int(digits, 16)
    except ValueError:
        size = -1
    if size < 0 or len(digits) > 8:
        raise AnswerError("the answer's chunks do not fit")
    return size


def _take_line(link: socket, raw: bytearray, until: float) -> bytes:
    while (end := raw.find(b"\r\n")) < 0:
        if len(raw) > HEADER_MAX:
            raise AnswerError("the answer's chunks do not fit")
        raw += _more(link, until)
    line = bytes(raw[:end])
    del raw[: end + 2]
    return line


def _more(link: socket, until: float) -> bytes:
    piece = _piece(link, until)
    if not piece:
        raise AnswerError("the answer is cut off")
    return piece
