"""One HTTP/1.1 connection: h11 reads, trio waits, and every wait has an end (FAULTS H1-H4, I4, 6.1, 6.2).

A request is read whole before the application sees it. What is not well-formed HTTP, too large or too
slow is answered with a 4xx in the error envelope and the connection is closed. Heads as ordinary clients
send them are read by one pattern, all others by h11, with a fresh parser for each that starts with what the
request before left over. Responses are put together from cached parts.
"""

import math
import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

import h11
import trio

from ambientd.core.envelope import encode_error
from ambientd.core.requesthead import PlainHead, parse_plain_head
from ambientd.core.target import BadTarget, Target, parse_target
from ambientd.net.http_answer import CONTINUE, LAST_CHUNK, DateLine, chunk_of, head_of
from ambientd.net.quick_stream import QuickStream
from ambientd.ports.http import Application, Caller, Door, HttpLog, Request, Response, Turned
from ambientd.wire.errors import ERRORS
from ambientd.wire.messages import ErrorDetail
from ambientd.wire.routes import BODY_MAX_BYTES

# Small enough that a buffer of one-byte chunks is parsed in some 30 ms, large enough for any head.
RECEIVE_BYTES = 16 * 1024
# Each slice of a large answer has a send deadline of its own, so a slow but steady reader is served: on a
# Unix socket at 16 KB/s and more, for the kernel reports room only after three quarters were read.
SEND_SLICE = 64 * 1024
# One-byte chunks cost six bytes each: the framing of a chunked body may not add more than this.
CHUNK_OVERHEAD = 64 * 1024
# What is read and thrown away after a refusal, so that the answer arrives before the connection breaks.
LINGER_BYTES = 4 * 1024 * 1024
# Idle and handler deadlines are set this much late, so that a busy connection seldom has to move them.
_SLACK = 20.0
_PATH_SHOWN = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bounds of one server, over all its listeners, in seconds and bytes."""

    header_bytes: int = 16 * 1024  # h11's default and that of its precedents
    target_bytes: int = 8 * 1024  # RFC 9112 section 3 asks for at least 8,000
    body_bytes: int = BODY_MAX_BYTES
    header_seconds: float = 5.0  # FAULTS 6.2; also the wait for a new connection's first byte
    request_seconds: float = 10.0  # FAULTS 6.1: from the first byte to the last
    idle_seconds: float = 75.0  # between requests; at least this long
    handle_seconds: float = 60.0  # at least; twice the longest long poll
    send_seconds: float = 10.0  # per slice: a client that does not read is cut
    linger_seconds: float = 1.0
    requests: int = 10_000  # per connection, so that none lives for ever
    connections: int = 64  # FAULTS 6.1


class Phase(Enum):
    """What a connection is busy with; it decides what a passed deadline means."""

    IDLE = auto()
    READ = auto()
    HANDLE = auto()
    SEND = auto()


class _RefusedError(Exception):
    """What was received cannot be served; the connection is closed after the answer."""

    def __init__(
        self, code: str, message: str, details: tuple[ErrorDetail, ...] = (), turned: Turned | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details
        self.turned = turned

    @property
    def status(self) -> int:
        """The door knows better than the table: the same code is 401 or 403 there."""
        return ERRORS[self.code].status if self.turned is None else self.turned.status

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Further header lines of the answer."""
        return () if self.turned is None else self.turned.headers


def _turned_away(turned: Turned) -> _RefusedError:
    return _RefusedError(turned.code, turned.message, turned=turned)


# What h11 says of a request without a Host header, or with two.
_HOST_FAULT = re.compile(r"(?:Missing mandatory|Found multiple) Host: header")
_QUOTED = re.compile(r"""bytearray\(|\bb['"]""")


def _refusal_of(error: h11.RemoteProtocolError, received: bytes, door: Door | None) -> _RefusedError:
    """h11 suggests 400, 413, 431 or 501; a client's mistake is never answered with 5xx here."""
    if door is not None and error.error_status_hint == 431:
        return _turned_away(door.illegible())
    if door is not None and _HOST_FAULT.match(str(error)):
        return _turned_away(door.nameless())
    if error.error_status_hint == 431:
        if b"\n" not in received:
            return _RefusedError("URI_TOO_LONG", "the request line is too long")
        return _RefusedError("HEADERS_TOO_LARGE", "the header block is too large")
    # h11's text may end in what it received; only its own words are repeated.
    reason = _QUOTED.split(str(error), maxsplit=1)[0].rstrip(": ")
    return _RefusedError("BAD_REQUEST", f"this is not well-formed HTTP/1.1: {reason[:100]}")


def _headers_of(event: h11.Request) -> dict[str, str]:
    """Names in lower case; repeated fields are joined as RFC 9110 section 5.3 allows."""
    items = event.headers.raw_items()
    headers = {name.decode("ascii").lower(): value.decode("latin-1") for name, value in items}
    if len(headers) < len(items):
        headers.clear()
        for raw_name, raw_value in items:
            name, value = raw_name.decode("ascii").lower(), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


class Owner(Protocol):
    """What a connection needs of its server."""

    limits: Limits
    log: HttpLog
    date: DateLine
    is_draining: bool

    def next_id(self) -> str: ...
    def watch(self, connection: "Connection") -> None: ...
    def unwatch(self, connection: "Connection") -> None: ...


class Connection:
    """One connection from accept to close. One cancel scope, whose deadline is moved."""

    __slots__ = (
        "_app",
        "_caller",
        "_door",
        "_endless",
        "_eof",
        "_leftover",
        "_limits",
        "_method",
        "_path",
        "_quick",
        "_received",
        "_scope",
        "_served",
        "_server",
        "_stream",
        "_version",
        "phase",
        "request_id",
    )

    def __init__(
        self,
        server: Owner,
        stream: trio.abc.Stream,
        caller: Caller,
        app: Application,
        *,
        door: Door | None = None,
    ) -> None:
        self._server = server
        self._app = app
        self._door = door
        self._endless = False
        self._limits = server.limits
        self._stream = stream
        self._quick = stream if isinstance(stream, QuickStream) else None
        self._caller = caller
        self._scope = trio.CancelScope()
        self._leftover: bytes | bytearray = b""
        self._received = 0
        self._eof = False
        self._served = 0
        self._method = self._path = ""
        self._version = b"1.1"
        self.phase = Phase.IDLE
        self.request_id = ""

    async def run(self) -> None:
        """Serves until the connection ends. Raises what trio says of a broken connection."""
        try:
            with self._scope:
                await self._serve()
            if self._scope.cancelled_caught:
                await self._too_late()
        finally:
            self._server.unwatch(self)
            if self._quick is not None:
                self._quick.close()
            else:
                await trio.aclose_forcefully(self._stream)

    def abandon(self) -> None:
        """Ends the connection without another word."""
        self.phase = Phase.SEND
        self._scope.cancel()

    @property
    def is_given_up(self) -> bool:
        """Whether it is about to end."""
        return self._scope.cancel_called

    @property
    def caller(self) -> Caller:
        """Who is at its other end, by the transport."""
        return self._caller

    @property
    def deadline(self) -> float:
        """When the wait that it is in ends."""
        return self._scope.deadline

    def is_abandoned(self) -> bool:
        """Whether nobody is there any more to read an answer."""
        return self._quick is not None and self._quick.is_peer_gone(ended=self._endless)

    # --- time

    def _allow(self, seconds: float, slack: float = 0.0) -> None:
        """From now on at least `seconds` and at most `slack` more; moving a deadline costs 2 µs."""
        deadline = trio.current_time() + seconds
        if not deadline <= self._scope.deadline <= deadline + slack:
            self._scope.deadline = deadline + slack

    async def _too_late(self) -> None:
        if self.phase is Phase.READ:
            refusal = _RefusedError("REQUEST_TIMEOUT", "the request did not arrive in time")
        elif self.phase is Phase.HANDLE:
            overdue = TimeoutError(f"{self._method} {self._path} took longer than a request may")
            self._server.log.fault("handler", overdue, request_id=self.request_id)
            refusal = _RefusedError("INTERNAL_ERROR", "the request took too long; the log has its id")
        else:
            return
        with trio.CancelScope() as self._scope:
            await self._refuse(refusal)

    # --- one request after the other

    async def _serve(self) -> None:
        try:
            while (request := await self._next_request()) is not None:
                if not await self._answer(request):
                    return
        except _RefusedError as refusal:
            await self._refuse(refusal)

    async def _next_request(self) -> Request | None:
        """The next whole request, or None when the client has ended. Raises _RefusedError."""
        self.phase = Phase.IDLE
        data: bytes | bytearray = self._leftover
        if data:
            await trio.lowlevel.checkpoint()
        elif self._eof:
            return None
        else:
            first = self._served == 0
            self._allow(
                self._limits.header_seconds if first else self._limits.idle_seconds, 0.0 if first else _SLACK
            )
            data = await self._stream.receive_some(RECEIVE_BYTES)
            if not data:
                return None
        self.phase = Phase.READ
        self._method = self._path = ""
        self.request_id = self._server.next_id()
        head = parse_plain_head(data)
        if head is not None:
            return await self._read_plain(head, data)
        self._received = len(data)
        parser = h11.Connection(h11.SERVER, self._limits.header_bytes)
        parser.receive_data(bytes(data))
        if self._eof:
            parser.receive_data(b"")
        return await self._read_request(parser)

    async def _read_plain(self, head: PlainHead, data: bytes | bytearray) -> Request:
        self._method, self._version = head.method, b"1.1"
        found = parse_target(head.target)
        caller = self._admit(head.headers, found)
        self._check_head(head.target, head.headers, head.size)
        target = self._check_target(found)
        end = head.size + head.length
        if len(data) < end:
            data = await self._read_rest(data, end)
        self._leftover = data[end:]
        return self._request(target, head.target, head.headers, bytes(data[head.size : end]), caller)

    async def _read_rest(self, data: bytes | bytearray, end: int) -> bytearray:
        """Until there are `end` bytes, which were found not to be too many."""
        whole = bytearray(data)
        self._scope.deadline = trio.current_time() + self._limits.request_seconds
        while len(whole) < end:
            more = b"" if self._eof else await self._stream.receive_some(RECEIVE_BYTES)
            if not more:
                raise _RefusedError("BAD_REQUEST", "the body is shorter than its Content-Length")
            whole += more
        return whole

    async def _read_request(self, parser: h11.Connection) -> Request | None:
        event = self._parse(parser)
        late = 0.0
        while event is h11.NEED_DATA:
            late = late or trio.current_time() + self._limits.request_seconds
            await self._receive_more(
                parser, late - self._limits.request_seconds + self._limits.header_seconds
            )
            event = self._parse(parser)
        if not isinstance(event, h11.Request):
            return None
        headers = _headers_of(event)
        found = parse_target(event.target)
        self._method, self._version = event.method.decode("ascii"), event.http_version
        caller = self._admit(headers, found)
        size = self._received
        if size > self._limits.header_bytes:
            size -= len(parser.trailing_data[0])
        self._check_head(event.target, headers, size)
        target = self._check_target(found)
        body = b""
        if "content-length" in headers or "transfer-encoding" in headers:
            body = await self._read_body(parser, headers, late)
        # The flag is set when the client ended its sending: it may still wait for its answers.
        self._leftover, self._eof = parser.trailing_data
        return self._request(target, event.target, headers, body, caller)

    def _request(
        self, target: Target, raw_target: bytes, headers: dict[str, str], body: bytes, caller: Caller
    ) -> Request:
        return Request(
            method=self._method,
            path=target.path,
            query=target.query,
            headers=headers,
            body=body,
            caller=caller,
            request_id=self.request_id,
            target=raw_target.decode("ascii", "surrogateescape"),
        )

    def _admit(self, headers: dict[str, str], target: Target | BadTarget) -> Caller:
        """Asks the door, before anything else is looked at or read."""
        self._path = target.path if isinstance(target, Target) else ""
        if self._door is None:
            return self._caller
        admitted = self._door.admit(self._method, self._path, headers, self._caller)
        if isinstance(admitted, Turned):
            raise _turned_away(admitted)
        return admitted

    def _parse(self, parser: h11.Connection) -> object:
        try:
            return parser.next_event()
        except h11.RemoteProtocolError as error:
            raise _refusal_of(error, parser.trailing_data[0], self._door) from error

    async def _receive_more(self, parser: h11.Connection, deadline: float) -> None:
        self._scope.deadline = deadline
        data = await self._stream.receive_some(RECEIVE_BYTES)
        self._received += len(data)
        parser.receive_data(bytes(data))

    def _check_head(self, raw_target: bytes, headers: dict[str, str], size: int) -> None:
        limits = self._limits
        if self._version[:2] != b"1.":
            raise _RefusedError("BAD_REQUEST", "this server speaks HTTP/1.1")
        if len(raw_target) > limits.target_bytes:
            raise _RefusedError(
                "URI_TOO_LONG", f"the request target is longer than {limits.target_bytes} bytes"
            )
        if size > limits.header_bytes:
            raise _RefusedError("HEADERS_TOO_LARGE", f"the head is longer than {limits.header_bytes} bytes")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise _RefusedError("UNSUPPORTED_MEDIA_TYPE", "bodies must not be encoded (Content-Encoding)")
        length = headers.get("content-length")
        if length is not None:
            if "transfer-encoding" in headers:
                # RFC 9112 section 6.3: how request smuggling looks; h11 would take the chunks.
                raise _RefusedError("BAD_REQUEST", "Content-Length and Transfer-Encoding exclude each other")
            if int(length) > limits.body_bytes:
                raise self._too_large()

    @staticmethod
    def _check_target(target: Target | BadTarget) -> Target:
        if isinstance(target, BadTarget):
            problem = ErrorDetail(field=target.field, issue=target.issue, message=target.message)
            raise _RefusedError("VALIDATION_ERROR", target.message, (problem,))
        return target

    def _too_large(self) -> _RefusedError:
        return _RefusedError("PAYLOAD_TOO_LARGE", f"the body is larger than {self._limits.body_bytes} bytes")

    async def _read_body(self, parser: h11.Connection, headers: dict[str, str], late: float) -> bytes:
        parts: list[bytes] = []
        size, before = 0, self._received
        late = late or trio.current_time() + self._limits.request_seconds
        while True:
            event = self._parse(parser)
            if isinstance(event, h11.Data):
                size += len(event.data)
                if size > self._limits.body_bytes:
                    raise self._too_large()
                parts.append(event.data)
            elif event is h11.NEED_DATA:
                if self._received - before > self._limits.body_bytes + CHUNK_OVERHEAD:
                    raise self._too_large()
                if not parts and "expect" in headers and parser.they_are_waiting_for_100_continue:
                    await self._send(CONTINUE)
                    headers = {}  # said once
                    self.phase = Phase.READ
                await self._receive_more(parser, late)
            else:
                return b"".join(parts)

    # --- answers

    async def _answer(self, request: Request) -> bool:
        """Runs the application and sends what it says; whether the connection goes on."""
        limits = self._limits
        self.phase = Phase.HANDLE
        self._served += 1
        self._allow(limits.handle_seconds, limits.idle_seconds - limits.handle_seconds + _SLACK)
        watched = request.method in ("GET", "HEAD")
        if watched:
            self._server.watch(self)
        response = await self._app(request)
        last = self._server.is_draining or self._served >= limits.requests
        close = last or self._version != b"1.1" or "close" in request.headers.get("connection", "").lower()
        try:
            head = self._head(response, close=close)
        except ValueError as error:
            self._server.log.fault("response", error, request_id=self.request_id)
            raise _RefusedError("INTERNAL_ERROR", "the answer could not be sent") from error
        if response.stream is not None:
            self._endless = response.endless
            await self._send_stream(head, response.stream, nothing=request.method == "HEAD")
        elif request.method == "HEAD":
            await self._send(head)
        else:
            await self._send(head + response.body)
        if watched:
            self._server.unwatch(self)
        if last:
            await self._linger()
        return not close

    def _head(self, response: Response, *, close: bool) -> bytes:
        return head_of(
            response,
            request_id=self.request_id,
            date=self._server.date.line(trio.current_time()),
            close=close,
            version=self._version,
        )

    async def _send(self, data: bytes) -> None:
        """Sends everything, or the deadline of a slice passes. What fits at once is sent at once."""
        self.phase = Phase.SEND
        sent = self._quick.send_now(data) if self._quick is not None else 0
        if sent == len(data):
            return
        rest = memoryview(data)[sent:]
        while rest:
            self._allow(self._limits.send_seconds)
            await self._stream.send_all(rest[:SEND_SLICE])
            rest = rest[SEND_SLICE:]

    async def _send_stream(self, head: bytes, stream: AsyncIterator[bytes], *, nothing: bool) -> None:
        """Sends parts as they come; how long the stream may be silent is its own business."""
        chunked = self._version != b"1.0"
        try:
            await self._send(head)
            if nothing:
                return
            self._scope.deadline = math.inf
            async for part in stream:
                if part:
                    await self._send(chunk_of(part) if chunked else part)
                    self._scope.deadline = math.inf
                    await trio.lowlevel.checkpoint()
            if chunked:
                await self._send(LAST_CHUNK)
        finally:
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()

    async def _refuse(self, refusal: _RefusedError) -> None:
        """Answers, closes our side and lets the client finish, within bounds."""
        status = refusal.status
        body = encode_error(refusal.code, refusal.message, refusal.details, self.request_id)
        self._server.log.refused(
            request_id=self.request_id,
            status=status,
            code=refusal.code,
            method=self._method,
            path=self._path[:_PATH_SHOWN],
        )
        head = self._head(Response(status, body, headers=refusal.headers), close=True)
        await self._send(head if self._method == "HEAD" else head + body)
        await self._linger()

    async def _linger(self) -> None:
        """Closing with unread bytes would break the connection before the answer is read."""
        self.phase = Phase.SEND
        self._allow(self._limits.linger_seconds)
        await drain(self._stream)


async def drain(stream: trio.abc.Stream) -> None:
    """Ends our sending and discards a bounded amount. Returns also when the connection is lost."""
    try:
        if isinstance(stream, trio.abc.HalfCloseableStream):
            await stream.send_eof()
        discarded = 0
        while discarded < LINGER_BYTES and (data := await stream.receive_some(RECEIVE_BYTES)):
            discarded += len(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
