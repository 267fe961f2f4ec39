"""Questions to the outside: does this port take a connection, is that a control plane.

Each is a connection of its own with one deadline over everything. A redirect is not followed, no proxy is
used, and the request carries nothing but the address: whoever answers learns no more than that we asked.
"""

import errno
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import h11
import trio

from ambientd.config.upstream import ControlAddress, Place
from ambientd.core.connectivity import Answer
from ambientd.core.controlhealth import BODY_MAX, HEALTH_PATH, judge_health

if TYPE_CHECKING:
    import ssl

ADDRESSES_MAX = 6  # of one name
STAGGER_SEC = 0.25  # RFC 8305: how long one address is waited for before the next is tried beside it
HEADERS_MAX = 16 * 1024
RECEIVE_SIZE = 16 * 1024
# A resolver without servers blocks its thread for up to a minute, as a file system may. These are all that
# may hang there.
LOOKUPS_MAX = 4

AddressInfo = tuple[Any, Any, int, str, Any]
Resolve = Callable[[str, int], Awaitable[Sequence[AddressInfo]]]

_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.EHOSTUNREACH: "no route to the host",
    errno.ENETUNREACH: "network unreachable",
    errno.ETIMEDOUT: "connect timeout",
}


class _Stage:
    """How far a question has got: what to say when the time is over."""

    __slots__ = ("late",)

    def __init__(self) -> None:
        self.late = "name lookup timeout"


class _FailedError(Exception):
    """The question has its answer: no. The text is the reason."""


class UpstreamProbes:
    """Implements `ports.prober.Upstream`."""

    def __init__(self, *, agent: str, resolve: Resolve | None = None) -> None:
        """`agent` is the User-Agent; `resolve` as `socket.getaddrinfo`, off the loop."""
        self._agent = agent
        self._resolve = resolve or self._look_up
        self._lookups = trio.CapacityLimiter(LOOKUPS_MAX)
        self._context: tuple[tuple[str | None, int], ssl.SSLContext] | None = None

    async def reach(self, target: Place, *, seconds: float) -> Answer:
        """See `Upstream`."""

        async def ask(stage: _Stage) -> Answer:
            stream = await self._connect(target.host, target.port, stage)
            await trio.aclose_forcefully(stream)
            return Answer(True)

        return await _bounded(ask, seconds)

    async def ask_control(self, address: ControlAddress, *, ca_file: str | None, seconds: float) -> Answer:
        """See `Upstream`."""

        async def ask(stage: _Stage) -> Answer:
            stream: trio.abc.Stream = await self._connect(address.host, address.port, stage)
            try:
                if address.tls:
                    stage.late = "TLS handshake timeout"
                    stream = await self._secured(stream, address.host, ca_file)
                stage.late = "no answer in time"
                return await self._health(stream, address)
            finally:
                await trio.aclose_forcefully(stream)

        return await _bounded(ask, seconds)

    # --- connecting

    async def _look_up(self, host: str, port: int) -> Sequence[AddressInfo]:
        kind, numeric = socket.SOCK_STREAM, socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        try:
            return socket.getaddrinfo(host, port, type=kind, flags=numeric)  # asks nobody
        except socket.gaierror:
            pass

        def look_up() -> Sequence[AddressInfo]:
            return socket.getaddrinfo(host, port, type=kind)

        return await trio.to_thread.run_sync(look_up, abandon_on_cancel=True, limiter=self._lookups)

    async def _connect(self, host: str, port: int, stage: _Stage) -> trio.SocketStream:
        try:
            found = await self._resolve(host, port)
        except (socket.gaierror, UnicodeError):
            raise _FailedError("the name cannot be resolved") from None
        stage.late = "connect timeout"
        return await _first_of(found[:ADDRESSES_MAX])

    async def _secured(
        self, stream: trio.abc.Stream, host: str, ca_file: str | None
    ) -> "trio.SSLStream[trio.abc.Stream]":
        import ssl

        try:
            context = await self._trusting(ca_file)
        except (OSError, ssl.SSLError) as error:
            raise _FailedError(f"control_plane.ca_file cannot be used ({_why(error)})") from None
        secured = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
        try:
            await secured.do_handshake()
        except trio.BrokenResourceError as error:
            raise _FailedError(_tls_words(error)) from None
        return secured

    async def _trusting(self, ca_file: str | None) -> "ssl.SSLContext":
        """Reading the authorities takes tens of milliseconds, so they are kept until their file changes."""
        import ssl

        def read() -> "tuple[tuple[str | None, int], ssl.SSLContext]":
            mark = (ca_file, os.stat(ca_file).st_mtime_ns if ca_file else 0)
            if self._context is not None and self._context[0] == mark:
                return self._context
            return mark, ssl.create_default_context(cafile=ca_file)

        self._context = await trio.to_thread.run_sync(read, abandon_on_cancel=True, limiter=self._lookups)
        return self._context[1]

    # --- asking

    async def _health(self, stream: trio.abc.Stream, address: ControlAddress) -> Answer:
        link = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEADERS_MAX)
        headers = [("Host", address.host_header), ("User-Agent", self._agent), ("Connection", "close")]
        request = h11.Request(
            method="GET",
            target=address.path + HEALTH_PATH,
            headers=[*headers, ("Accept", "application/json")],
        )
        try:
            await stream.send_all((link.send(request) or b"") + (link.send(h11.EndOfMessage()) or b""))
            answer, body = await _read(link, stream)
        except trio.BrokenResourceError:
            raise _FailedError("the connection broke") from None
        except h11.RemoteProtocolError:
            raise _FailedError("the address speaks no HTTP") from None
        kind = next((value for name, value in answer.headers if name == b"content-type"), b"")
        return judge_health(answer.status_code, kind.decode("latin-1"), body)


async def _bounded(ask: Callable[[_Stage], Awaitable[Answer]], seconds: float) -> Answer:
    stage, began = _Stage(), trio.current_time()
    try:
        with trio.move_on_after(seconds):
            answer = await ask(stage)
            passed = round((trio.current_time() - began) * 1000)
            return Answer(answer.ok, answer.reason, passed) if answer.ok else answer
    except _FailedError as failed:
        return Answer(False, str(failed))
    except OSError as error:
        return Answer(False, _why(error))
    return Answer(False, stage.late)


class _Race:
    """Attempts beside each other; the first that succeeds ends the others."""

    def __init__(self) -> None:
        self.won: list[trio.socket.SocketType] = []
        self.failed: dict[int, OSError] = {}

    async def attempt(
        self, number: int, info: AddressInfo, over: trio.Event, scope: trio.CancelScope
    ) -> None:
        """Tries one address; `over` is set when it is out of the race."""
        family, kind, protocol, _, place = info
        try:
            sock = trio.socket.socket(family, kind, protocol)
        except OSError as error:  # a family that this machine does not have
            self.failed[number] = error
            over.set()
            return
        try:
            await sock.connect(place)
        except OSError as error:
            sock.close()
            self.failed[number] = error
        except BaseException:
            sock.close()
            raise
        else:
            self.won.append(sock)
            scope.cancel()
        over.set()

    def close(self, *, keep: int = 0) -> None:
        """Closes what was won, but for the first ones."""
        for sock in self.won[keep:]:
            sock.close()


async def _first_of(addresses: Sequence[AddressInfo]) -> trio.SocketStream:
    """A connection to whichever answers first; raises OSError with the first address's reason."""
    race = _Race()
    try:
        async with trio.open_nursery() as nursery:
            for number, info in enumerate(addresses):
                over = trio.Event()
                nursery.start_soon(race.attempt, number, info, over, nursery.cancel_scope)
                with trio.move_on_after(STAGGER_SEC):
                    await over.wait()
    except BaseException:
        race.close()
        raise
    race.close(keep=1)  # two may answer in the same moment
    if not race.won:
        failed = race.failed
        raise failed[min(failed)] if failed else OSError(errno.EADDRNOTAVAIL, "the name has no address")
    return trio.SocketStream(race.won[0])


async def _read(link: h11.Connection, stream: trio.abc.Stream) -> tuple[h11.Response, bytes]:
    """The answer and the beginning of its body; raises h11.RemoteProtocolError."""
    answer: h11.Response | None = None
    body = b""
    while True:
        event = link.next_event()
        if event is h11.NEED_DATA:
            link.receive_data(bytes(await stream.receive_some(RECEIVE_SIZE)))
        elif isinstance(event, h11.Response):
            answer = event
        elif isinstance(event, h11.Data):
            body += event.data
        if answer is not None and (isinstance(event, h11.EndOfMessage) or len(body) > BODY_MAX):
            return answer, body[:BODY_MAX]
        if isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            raise h11.RemoteProtocolError("closed before the answer was complete")


def _why(error: OSError) -> str:
    return _WORDS.get(error.errno or 0) or (error.strerror or type(error).__name__).lower()


def _tls_words(error: BaseException) -> str:
    import ssl

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate is not trusted ({cause.verify_message})"
        cause = cause.__cause__ or cause.__context__
    return "no TLS connection (the address speaks another protocol)"
