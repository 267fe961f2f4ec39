"""Websockets between nodes, on trio-websocket: no compression, bounded messages, deadlines on everything.

Who connects is a stranger until the service says otherwise. A stranger may say little and not for long, few
of them are heard at once, and refusing one costs an `accept` and a `close`.
"""

import errno
import socket
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Protocol

import trio

from ambientd.config.peers import PeerAddress
from ambientd.core.peers.frames import frame_limit
from ambientd.core.turnstile import Turnstile
from ambientd.net.accept import accept_forever
from ambientd.net.quick_stream import QuickStream
from ambientd.net.tcp_socket import open_tcp_listener, port_of
from ambientd.ports.http import HttpLog
from ambientd.ports.peers import PeerDialError, PeerGoneError, Serve

if TYPE_CHECKING:
    from trio_websocket import WebSocketConnection

PATH = "/ambient-peer/1"
CONNECT_SEC = 5.0
# For the upgrade and the first message together; a LAN needs milliseconds.
STRANGER_SEC = 5.0
# The upgrade and the first message are less than 2 KiB.
STRANGER_BYTES = 16 * 1024
STRANGERS_MAX = 32
STRANGERS_PER_ADDRESS = 4
SEND_SEC = 10.0
CLOSE_SEC = 1.0
# How long data may stay unacknowledged before the kernel calls the link dead; nothing is sent to find out.
UNACKNOWLEDGED_SEC = 20.0
# Only a link on which nothing came for longer than the peers' own digests take is asked by the kernel.
KEEPALIVE_COUNT, KEEPALIVE_EVERY_SEC = 3, 5
# Of a known peer: bytes a second over longer times, so that one that went mad cannot keep this node busy.
PEER_BYTES_PER_SEC = 2 * 1024 * 1024
RECEIVE_SIZE = 64 * 1024


# What sealing adds: nonce and authenticator.
SEAL_BYTES = 40


def message_limit(longest_snapshot: int) -> int:
    """How long messages may be where snapshots may have so many bytes."""
    return frame_limit(longest_snapshot) + SEAL_BYTES


class _TooMuchError(Exception):
    """A stranger said more than it may."""


class PeerWire:
    """One websocket; implements `ports.peers.PeerSocket`."""

    def __init__(
        self, connection: "WebSocketConnection", stream: "_Bounded", address: PeerAddress, *, dialled: bool
    ) -> None:
        self._connection = connection
        self._stream = stream
        self.address = address
        self.is_dialled = dialled
        self.known: Callable[[], None] = _nothing

    async def receive(self) -> bytes:
        """The next message. Raises PeerGoneError."""
        import trio_websocket

        try:
            message = await self._connection.get_message()
        except trio_websocket.ConnectionClosed as closed:
            raise PeerGoneError(_reason(closed)) from None
        if isinstance(message, str):
            raise PeerGoneError("it sent text, where messages are bytes")
        return message

    async def send(self, message: bytes) -> None:
        """Raises PeerGoneError."""
        import trio_websocket
        from wsproto.utilities import LocalProtocolError

        try:
            with trio.fail_after(SEND_SEC):
                await self._connection.send_message(message)
        except trio.TooSlowError:
            raise PeerGoneError(f"it does not read for {SEND_SEC:g} s") from None
        except trio_websocket.ConnectionClosed as closed:
            raise PeerGoneError(_reason(closed)) from None
        except (LocalProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
            raise PeerGoneError("the connection was cut") from None

    def know(self) -> None:
        """No stranger any more."""
        self._stream.know()
        self.known()

    async def close(self, reason: str) -> None:
        """Says good-bye, bounded."""
        from wsproto.utilities import LocalProtocolError

        with trio.move_on_after(CLOSE_SEC):
            try:
                await self._connection.aclose(1000, reason)
            except (LocalProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
                return


class PeerSockets:
    """Implements `ports.peers.PeerDialer` and, with `listen`, `ports.peers.PeerListener`."""

    def __init__(
        self, *, listen: PeerAddress | None, max_message: int, quiet_sec: float, log: HttpLog
    ) -> None:
        """`quiet_sec`: how long a healthy link may bring nothing before the kernel asks whether it lives."""
        self._listen = listen
        self._max_message = max_message
        self._quiet_sec = quiet_sec
        self._log = log
        self._turnstile = Turnstile(per_address=STRANGERS_PER_ADDRESS)
        self._strangers: OrderedDict[int, trio.CancelScope] = OrderedDict()
        self._numbers = count()
        self._bound: PeerAddress | None = None

    @property
    def bound(self) -> PeerAddress | None:
        """Where it listens now."""
        return self._bound

    def offended(self, socket: "_Addressed") -> None:
        """See the port."""
        self._turnstile.offended(socket.address.host, trio.current_time())

    def forgive(self) -> None:
        """See the port."""
        self._turnstile.forgive()

    # --- dialling

    @asynccontextmanager
    async def dial(self, address: PeerAddress) -> AsyncIterator[PeerWire]:
        """A websocket for the length of a block. Raises PeerDialError."""
        sock = await _connect(address)
        _tune(sock, self._quiet_sec)
        stream = _Bounded(QuickStream(sock))
        failed: PeerDialError | PeerGoneError | None = None
        async with _cut_afterwards(stream):
            try:
                async with trio.open_nursery() as nursery:
                    connection = await self._upgrade(nursery, stream, address)
                    yield PeerWire(connection, stream, address, dialled=True)
                    nursery.cancel_scope.cancel()
            except* PeerGoneError as group:
                failed = _innermost(group)
            except* PeerDialError as dialling:
                failed = PeerDialError(str(_innermost_of(dialling)))
            except* _protocol_errors() as broken:
                failed = PeerDialError(f"no node answers there ({_name(broken)})")
        if failed is not None:
            raise failed

    async def _upgrade(
        self, nursery: trio.Nursery, stream: "_Bounded", address: PeerAddress
    ) -> "WebSocketConnection":
        import trio_websocket

        with trio.move_on_after(STRANGER_SEC):
            return await trio_websocket.wrap_client_stream(
                nursery,
                stream,  # type: ignore[arg-type]  # the library's hint is narrower than what it does
                str(address),
                PATH,
                max_message_size=self._max_message,
                receive_buffer_size=RECEIVE_SIZE,
                message_queue_size=1,
            )
        raise PeerDialError("no answer within the time allowed")

    # --- listening

    async def serve(self, serve: Serve) -> None:
        """See `ports.peers.PeerListener`."""
        if self._listen is None:
            raise ValueError("there is no address to listen on")
        with open_tcp_listener(self._listen.host, self._listen.port) as listener:
            self._bound = PeerAddress(self._listen.host, port_of(listener))
            try:
                async with trio.open_nursery() as nursery:

                    def take(sock: socket.socket) -> None:
                        self._take(nursery, sock, serve)

                    await accept_forever(listener, take, log=self._log)
            finally:
                self._bound = None

    def _take(self, nursery: trio.Nursery, sock: socket.socket, serve: Serve) -> None:
        """Decides about a new connection before anything is read from it."""
        try:
            host, port = sock.getpeername()[:2]
        except OSError:
            sock.close()
            return
        if not self._turnstile.admit(host, trio.current_time()):
            sock.close()
            return
        if len(self._strangers) >= STRANGERS_MAX:
            # A handshake takes milliseconds, so the oldest is the least likely to be one.
            self._strangers.popitem(last=False)[1].cancel()
        number, scope = next(self._numbers), trio.CancelScope()
        self._strangers[number] = scope
        nursery.start_soon(self._serve, sock, PeerAddress(host, port), serve, number)

    async def _serve(self, sock: socket.socket, address: PeerAddress, serve: Serve, number: int) -> None:
        scope, is_stranger = self._strangers[number], True

        def known() -> None:
            nonlocal is_stranger
            if is_stranger:
                is_stranger = False
                self._strangers.pop(number, None)
                self._turnstile.leave(address.host)
            scope.deadline = float("inf")

        scope.deadline = trio.current_time() + STRANGER_SEC
        try:
            _tune(sock, self._quiet_sec)
            stream = _Bounded(QuickStream(sock))
            with scope:
                await self._converse(stream, address, serve, known)
            if scope.cancelled_caught:
                self._turnstile.offended(address.host, trio.current_time())
        finally:
            sock.close()
            known()

    async def _converse(
        self, stream: "_Bounded", address: PeerAddress, serve: Serve, known: Callable[[], None]
    ) -> None:
        offended = False
        async with _cut_afterwards(stream):
            try:
                async with trio.open_nursery() as nursery:
                    connection = await self._accept(nursery, stream)
                    if connection is not None:
                        wire = PeerWire(connection, stream, address, dialled=False)
                        wire.known = known
                        await serve(wire)
                    nursery.cancel_scope.cancel()
            except* PeerGoneError:
                pass
            except* _protocol_errors():
                offended = True
        if offended:
            self._turnstile.offended(address.host, trio.current_time())

    async def _accept(self, nursery: trio.Nursery, stream: "_Bounded") -> "WebSocketConnection | None":
        import trio_websocket

        request = await trio_websocket.wrap_server_stream(
            nursery,
            stream,
            max_message_size=self._max_message,
            receive_buffer_size=RECEIVE_SIZE,
            message_queue_size=1,
        )
        if request.path != PATH:
            await request.reject(404)
            return None
        return await request.accept()


class _Addressed(Protocol):
    @property
    def address(self) -> PeerAddress: ...


class _Bounded(trio.abc.Stream):
    """The transport: a stranger's bytes are counted, a known peer's are slowed down past a rate."""

    def __init__(self, stream: QuickStream) -> None:
        self._stream = stream
        self._left = float(STRANGER_BYTES)
        self._is_known = False
        self._filled_at = 0.0

    def know(self) -> None:
        """From now on it is the rate that counts."""
        self._is_known = True
        self._left, self._filled_at = float(PEER_BYTES_PER_SEC), trio.current_time()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await self._stream.receive_some(max_bytes)
        self._left -= len(data)
        if self._left < 0:
            await self._wait_for_more()
        return data

    async def _wait_for_more(self) -> None:
        if not self._is_known:
            raise _TooMuchError
        now = trio.current_time()
        self._left = min(self._left + (now - self._filled_at) * PEER_BYTES_PER_SEC, float(PEER_BYTES_PER_SEC))
        self._filled_at = now
        if self._left < 0:
            await trio.sleep(-self._left / PEER_BYTES_PER_SEC)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        # Answers to pings go this way too, from the library's reader.
        with trio.move_on_after(SEND_SEC) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("it does not read")

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def cut(self) -> None:
        """Closes at once."""
        self._stream.close()


@asynccontextmanager
async def _cut_afterwards(stream: _Bounded) -> AsyncIterator[None]:
    try:
        yield
    finally:
        stream.cut()


async def _connect(address: PeerAddress) -> socket.socket:
    try:
        with trio.fail_after(CONNECT_SEC):
            stream = await trio.open_tcp_stream(address.host, address.port)
    except trio.TooSlowError:
        raise PeerDialError("no connection within the time allowed") from None
    except OSError as error:
        raise PeerDialError(f"no connection: {_words(error)}") from None
    try:
        return socket.socket(fileno=socket.dup(stream.socket.fileno()))
    finally:
        await trio.aclose_forcefully(stream)


def _tune(sock: socket.socket, quiet_sec: float) -> None:
    """Small messages at once; a dead link is found by what is sent anyway, or by a question after silence."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNACKNOWLEDGED_SEC * 1000))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, min(32767, int(quiet_sec))))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_EVERY_SEC)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _protocol_errors() -> tuple[type[Exception], ...]:
    """What an other side that speaks no websocket, or a broken one, makes of the library."""
    import h11
    import trio_websocket
    from wsproto.utilities import ProtocolError

    return (
        ProtocolError,
        h11.ProtocolError,
        trio_websocket.HandshakeError,
        trio_websocket.ConnectionClosed,
        trio.BrokenResourceError,
        trio.ClosedResourceError,
        UnicodeError,
        _TooMuchError,
    )


def _nothing() -> None:
    """Of a socket that this node has opened nobody counts strangers."""


def _innermost(group: BaseExceptionGroup[PeerGoneError]) -> PeerGoneError:
    first = group.exceptions[0]
    return _innermost(first) if isinstance(first, BaseExceptionGroup) else first


def _innermost_of(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _name(group: BaseExceptionGroup[Exception]) -> str:
    return type(_innermost_of(group)).__name__


def _reason(closed: Exception) -> str:
    """Why the websocket ended, as far as the other side said so; to be shown as foreign text."""
    found = getattr(closed, "reason", None)
    text = getattr(found, "reason", None)
    return f"it ended the link: {text}" if text else "the link ended"


def _words(error: OSError) -> str:
    cause = error.__cause__
    if error.strerror is None and isinstance(cause, BaseExceptionGroup):
        inner = [e for e in cause.exceptions if isinstance(e, OSError) and e.strerror]
        error = inner[0] if inner else error
    if error.errno == errno.ECONNREFUSED:
        return "nobody listens there"
    return (error.strerror or type(error).__name__).lower()
