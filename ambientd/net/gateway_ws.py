"""The websocket to a gateway, on trio-websocket, which is loaded at the first dial.

No compression is offered, no Origin is sent, no redirect is followed, and the address is the configured
one: nothing that the other side says can send the token elsewhere.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from ambientd.config.gateway_address import Address
from ambientd.core.gateway.frames import MAX_FRAME
from ambientd.ports.gateway_socket import DialError, SocketClosedError

if TYPE_CHECKING:
    import ssl

    from trio_websocket import ConnectionClosed, WebSocketConnection

CLOSE_SEC = 2.0
# The answer to the upgrade is a few headers; an endless one must not fill the memory.
MAX_ANSWER = 64 * 1024
SWITCHING = b"HTTP/1.1 101"
RECEIVE_SIZE = 64 * 1024
ABNORMAL = 1006
PROTOCOL_ERROR = 1002

OpenStream = Callable[[str, int], Awaitable[trio.abc.Stream]]


class _EndedEarlyError(Exception):
    """The stream ended, or went on too long, before there was a websocket."""


class WebSocketDialer:
    """Implements `ports.gateway_socket.GatewayDialer`."""

    def __init__(
        self,
        address: Address,
        *,
        connect_timeout: float = 10.0,
        open_stream: OpenStream = trio.open_tcp_stream,
        tls: "Callable[[], ssl.SSLContext] | None" = None,
    ) -> None:
        """`tls` makes the context for wss; by default the system's authorities are trusted."""
        self._address = address
        self._timeout = connect_timeout
        self._open_stream = open_stream
        self._tls = tls

    @property
    def url(self) -> str:
        """The address in its one spelling."""
        return self._address.url

    @asynccontextmanager
    async def dial(self) -> AsyncIterator["WebSocketLink"]:
        """A websocket for the length of a block."""
        import h11
        import trio_websocket
        from wsproto.utilities import ProtocolError

        stream = _Guard(await self._stream())
        failed: DialError | SocketClosedError | None = None
        try:
            async with trio.open_nursery() as nursery:
                connection = await self._upgrade(nursery, stream)
                stream.upgraded = True
                yield WebSocketLink(connection)
                nursery.cancel_scope.cancel()
        except* trio_websocket.ConnectionRejected as group:
            status = _status(group)
            failed = DialError(f"the address answers HTTP {status} instead of a websocket", status=status)
        except* SocketClosedError as group:  # of the block itself: as it was, without the nursery's group
            failed = _innermost(group)
        except* _EndedEarlyError:
            failed = DialError("the address closed the connection before it was a websocket")
        except* (ProtocolError, h11.ProtocolError, trio_websocket.HandshakeError, UnicodeError) as group:
            failed = _broken(stream, group)
        finally:
            await trio.aclose_forcefully(stream)
        if failed is not None:
            raise failed

    async def _stream(self) -> trio.abc.Stream:
        address = self._address
        try:
            with trio.fail_after(self._timeout):
                stream = await self._open_stream(address.dial, address.port)
                return await self._encrypt(stream) if address.tls else stream
        except trio.TooSlowError:
            raise DialError("no connection within the time allowed") from None
        except OSError as error:
            raise DialError(f"no connection: {_words(error)}") from None

    async def _encrypt(self, stream: trio.abc.Stream) -> trio.abc.Stream:
        import ssl

        context = ssl.create_default_context() if self._tls is None else self._tls()
        encrypted = trio.SSLStream(stream, context, server_hostname=self._address.host, https_compatible=True)
        try:
            await encrypted.do_handshake()
        except (ssl.SSLError, trio.BrokenResourceError):
            await trio.aclose_forcefully(encrypted)
            raise DialError(
                "no TLS connection: another protocol, or a certificate that is not trusted"
            ) from None
        except BaseException:
            await trio.aclose_forcefully(encrypted)
            raise
        return encrypted

    async def _upgrade(self, nursery: trio.Nursery, stream: "_Guard") -> "WebSocketConnection":
        import trio_websocket

        with trio.move_on_after(self._timeout):
            return await trio_websocket.wrap_client_stream(
                nursery,
                stream,  # type: ignore[arg-type]  # the library's hint is narrower than what it does
                self._address.host_header,
                self._address.resource,
                max_message_size=MAX_FRAME,
                receive_buffer_size=RECEIVE_SIZE,
            )
        raise _EndedEarlyError


class WebSocketLink:
    """Implements `ports.gateway_socket.GatewaySocket`."""

    def __init__(self, connection: "WebSocketConnection") -> None:
        self._connection = connection

    async def receive(self) -> str | bytes:
        """The next message. Raises SocketClosedError."""
        import trio_websocket

        try:
            return await self._connection.get_message()
        except trio_websocket.ConnectionClosed as closed:
            raise _closed(closed) from None

    async def send(self, text: str) -> None:
        """Raises SocketClosedError."""
        import trio_websocket
        from wsproto.utilities import LocalProtocolError

        try:
            await self._connection.send_message(text)
        except trio_websocket.ConnectionClosed as closed:
            raise _closed(closed) from None
        except LocalProtocolError:  # it ended between the library's look and its own state
            raise SocketClosedError(ABNORMAL) from None

    async def close(self, code: int, reason: str) -> None:
        """Says good-bye, bounded; what is left is cut."""
        from wsproto.utilities import LocalProtocolError

        with trio.move_on_after(CLOSE_SEC):
            try:
                await self._connection.aclose(code, reason)
            except LocalProtocolError:
                return


class _Guard(trio.abc.Stream):
    """The transport. Until it answers with an upgrade, its end is an error and what it says is bounded.

    `upgraded` is set by the dialer, when the upgrade was a good one.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._start = b""
        self._taken = 0
        self.upgraded = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            data = await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError:
            if self._start == SWITCHING:
                raise
            data = b""
        if self._start != SWITCHING:
            self._start += data[: len(SWITCHING) - len(self._start)]
            self._taken += len(data)
            if self._start != SWITCHING and (not data or self._taken > MAX_ANSWER):
                raise _EndedEarlyError
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _broken(stream: _Guard, group: BaseExceptionGroup[BaseException]) -> DialError | SocketClosedError:
    kind = type(group.exceptions[0]).__name__
    if not stream.upgraded:
        return DialError(f"the address speaks no websocket ({kind})")
    return SocketClosedError(PROTOCOL_ERROR, kind)


def _innermost(group: BaseExceptionGroup[SocketClosedError]) -> SocketClosedError:
    first = group.exceptions[0]
    return _innermost(first) if isinstance(first, BaseExceptionGroup) else first


def _status(error: BaseException) -> int:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return int(getattr(error, "status_code", 0))


def _closed(closed: "ConnectionClosed") -> SocketClosedError:
    return (
        SocketClosedError(ABNORMAL)
        if closed.reason is None
        else SocketClosedError(closed.reason.code, closed.reason.reason)
    )


def _words(error: OSError) -> str:
    """The system's words; trio's own error of several tries has them in its cause."""
    cause = error.__cause__
    if error.strerror is None and isinstance(cause, BaseExceptionGroup):
        inner = [e for e in cause.exceptions if isinstance(e, OSError) and e.strerror]
        error = inner[0] if inner else error
    return (error.strerror or type(error).__name__).lower()
