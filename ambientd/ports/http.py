"""Requests and responses as values, between the socket (`net`) and the routes (`api`)."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import NamedTuple, Protocol

import msgspec


class Caller(NamedTuple):
    """Who is at the other end, read from the kernel at accept; numbers, never parsed text.

    `uid` is None when the transport does not know (TCP); `ip` is the address then. `may_write` was decided
    at accept, or by the listener's `Door`. `principal` is who was found behind a token, where tokens open.
    """

    transport: str
    uid: int | None
    pid: int | None
    may_write: bool
    ip: str | None = None
    principal: object = None


class Turned(NamedTuple):
    """A request that does not get past the door: answered at once, its body unread."""

    status: int
    code: str
    message: str
    headers: tuple[tuple[str, str], ...] = ()


class Door(Protocol):
    """Decides from a request's head alone whether the request may come in. Never blocks, never raises."""

    def admit(self, method: str, path: str, headers: "Mapping[str, str]", caller: Caller) -> Caller | Turned:
        """Who is calling from now on, or why not. `path` is empty when it cannot be decoded."""

    def illegible(self) -> Turned:
        """The head is too large to look for anything in it."""

    def nameless(self) -> Turned:
        """The head has no Host header, or two."""


class Request(msgspec.Struct, frozen=True, gc=False):
    """One request, whole: bodies are bounded, so they are read before the handler runs."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    caller: Caller
    request_id: str
    params: Mapping[str, str] = {}  # filled by the router from the path template
    target: str = ""  # path and query as they were sent, for those who sign them


class Response(msgspec.Struct, frozen=True, gc=False):
    """One answer; `stream`, when given, replaces `body` and is sent chunked until it ends.

    `endless`: it has no end of its own, so a client that ended its sending counts as gone.
    """

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    stream: AsyncIterator[bytes] | None = None
    endless: bool = False


Application = Callable[[Request], Awaitable[Response]]


class HttpLog(Protocol):
    """What the listener and the router tell about their work. Never blocks, never raises."""

    def refused(self, *, request_id: str, status: int, code: str, method: str, path: str) -> None:
        """An error answer was made; `path` is bounded and holds no query. Method and path may be empty."""

    def fault(self, where: str, error: BaseException, *, request_id: str) -> None:
        """A defect of this program: `error` was not expected there. `request_id` may be empty."""

    def note(self, event: str, **facts: object) -> None:
        """Something about the listener itself; the caller keeps it to a line a minute per cause."""
