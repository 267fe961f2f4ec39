"""The HTTP listener: connections within a cap, each served by `Connection` (FAULTS H1-H4, 6.1)."""

import os
import socket
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

import trio

from ambientd.core.envelope import encode_error
from ambientd.net.accept import Seldom, accept_forever
from ambientd.net.http_answer import DateLine, head_of
from ambientd.net.http_connection import Connection, Limits, Phase, drain
from ambientd.net.quick_stream import QuickStream
from ambientd.ports.clock import Clock
from ambientd.ports.http import Application, Caller, Door, HttpLog, Response
from ambientd.wire.errors import ERRORS

if TYPE_CHECKING:
    import ssl

__all__ = ["HttpServer", "Limits"]

# How often a client that asked for something long is looked at; only while somebody does.
ABSENCE_CHECK = 5.0
_TURNED_AWAY_CODE = "TOO_MANY_CONNECTIONS"


class HttpServer:
    """Serves one application on any number of listeners and streams, within `limits`.

    Nothing that a client sends ends it. A defect of this program costs the connection it happened on and
    is told to `log`.
    """

    def __init__(self, app: Application, *, clock: Clock, log: HttpLog, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.log = log
        self.date = DateLine(clock)
        self.is_draining = False
        self._app = app
        self._prefix = ""
        self._numbers = count(1)
        self._connections: set[Connection] = set()
        self._taken = {True: 0, False: 0}  # by whether the caller may write
        self._turned_away = 0
        self._crowded = Seldom()
        self._watched: set[Connection] = set()
        self._watch_wanted = trio.Event()
        self._one_less = trio.Event()

    @property
    def connections(self) -> int:
        """How many connections are served now."""
        return len(self._connections)

    def next_id(self) -> str:
        """A request id: eight random characters of this process, then a number."""
        if not self._prefix:
            self._prefix = os.urandom(4).hex()
        return f"{self._prefix}-{next(self._numbers):06x}"

    async def serve_connection(
        self, stream: trio.abc.Stream, caller: Caller, *, door: Door | None = None
    ) -> None:
        """Serves one stream until it ends and closes it. Raises nothing but cancellation."""
        connection = Connection(self, stream, caller, self._app, door=door)
        self._connections.add(connection)
        try:
            await connection.run()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client went away, which is its right
        except* Exception as defects:  # noqa: BLE001 - a defect costs one connection, not the listener
            self.log.fault("connection", defects, request_id=connection.request_id)
        finally:
            self._connections.discard(connection)
            self._one_less.set()
            self._one_less = trio.Event()

    async def serve(
        self,
        listener: socket.socket,
        caller_of: Callable[[socket.socket], Caller],
        *,
        door: Door | None = None,
        tls: "ssl.SSLContext | None" = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accepts and serves until cancelled, which cuts what is open. The listener stays open.

        `caller_of` is asked once per connection; an OSError from it closes that connection. Connections
        beyond the cap are answered 503 and closed; those who may only read have a cap of their own, so that
        they cannot keep the operator out. At the cap the address that holds most of them gives one up for
        another address. `door` sees every request before its body is read. With `tls` only
        TLS is spoken. Raises OSError when the listener is unusable.
        """
        async with trio.open_nursery() as nursery:

            def take(sock: socket.socket) -> None:
                try:
                    caller = caller_of(sock)
                except OSError as error:
                    self.log.note("caller_unknown", reason=error.strerror)
                    sock.close()
                    return
                if self._taken[caller.may_write] < self.limits.connections or self._has_room_for(caller):
                    self._taken[caller.may_write] += 1
                    nursery.start_soon(self._serve_socket, sock, caller, door, tls)
                elif tls is not None:
                    sock.close()  # the refusal would cost a handshake
                else:
                    self._turn_away(sock, nursery)

            nursery.start_soon(self._watch)
            task_status.started()
            await accept_forever(listener, take, log=self.log)

    async def drain(self, seconds: float) -> None:
        """Ends idle connections now and the others after their answer, waiting at most `seconds`.

        Call it after accepting has ended or while it still goes on; what is open then stays open.
        """
        self.is_draining = True
        for connection in tuple(self._connections):
            if connection.phase is Phase.IDLE:
                connection.abandon()
        with trio.move_on_after(seconds):
            while self._connections:
                await self._one_less.wait()

    # --- absent clients

    def watch(self, connection: Connection) -> None:
        """From now on a client that leaves ends the connection, within ABSENCE_CHECK seconds."""
        self._watched.add(connection)
        self._watch_wanted.set()

    def unwatch(self, connection: Connection) -> None:
        """The answer was sent."""
        self._watched.discard(connection)

    async def _watch(self) -> None:
        while True:
            if not self._watched:
                if self._watch_wanted.is_set():  # shared by the watchers of several listeners
                    self._watch_wanted = trio.Event()
                await self._watch_wanted.wait()
            await trio.sleep(ABSENCE_CHECK)
            for connection in tuple(self._watched):
                if connection.is_abandoned():
                    connection.abandon()

    # --- sockets

    async def _serve_socket(
        self, sock: socket.socket, caller: Caller, door: Door | None, tls: "ssl.SSLContext | None"
    ) -> None:
        try:
            stream: trio.abc.Stream | None = QuickStream(sock)
            if tls is not None:
                stream = await self._shake_hands(QuickStream(sock), tls)
            if stream is not None:
                await self.serve_connection(stream, caller, door=door)
        finally:
            self._taken[caller.may_write] -= 1
            sock.close()

    async def _shake_hands(self, plain: QuickStream, tls: "ssl.SSLContext") -> trio.abc.Stream | None:
        """The stream inside TLS; None for a client that did not get there in the time of a request's head."""
        # `https_compatible`: browsers and curl close without TLS's own farewell.
        stream = trio.SSLStream(plain, tls, server_side=True, https_compatible=True)
        try:
            with trio.move_on_after(self.limits.header_seconds) as patience:
                await stream.do_handshake()
        except trio.BrokenResourceError:
            return None
        return None if patience.cancelled_caught else stream

    def _has_room_for(self, caller: Caller) -> bool:
        """Whether a client with many connections has given up one that it does not use, for one with few."""
        from ambientd.core.fleet.ratelimit import client_of

        name, held = client_of(caller.ip), dict[str, list[Connection]]()
        for connection in self._connections:
            other = connection.caller
            if other.ip is not None and other.may_write == caller.may_write and not connection.is_given_up:
                held.setdefault(client_of(other.ip), []).append(connection)
        most = max(held.values(), key=len, default=[])
        if caller.ip is None or len(most) <= len(held.get(name, ())) + 1:
            return False
        unused = [one for one in most if one.phase in (Phase.IDLE, Phase.READ)]
        if not unused:
            return False
        min(unused, key=lambda one: (one.phase is Phase.READ, one.deadline)).abandon()
        return True

    def _turn_away(self, sock: socket.socket, nursery: trio.Nursery) -> None:
        """503 and close; lingering is bounded like serving, and whoever comes after that is just closed."""
        kept_back = self._crowded.due(trio.current_time())
        if kept_back is not None:
            self.log.note("connections_exhausted", limit=self.limits.connections, kept_back=kept_back)
        if self._turned_away >= self.limits.connections:
            sock.close()
            return
        self._turned_away += 1
        nursery.start_soon(self._turn_away_politely, sock)

    async def _turn_away_politely(self, sock: socket.socket) -> None:
        stream = QuickStream(sock)
        try:
            row, request_id = ERRORS[_TURNED_AWAY_CODE], self.next_id()
            body = encode_error(row.code, row.sentence, (), request_id)
            response = Response(row.status, body, headers=(("Retry-After", "1"),))
            date = self.date.line(trio.current_time())
            stream.send_now(head_of(response, request_id=request_id, date=date, close=True) + body)
            with trio.move_on_after(self.limits.linger_seconds):
                await drain(stream)
        except trio.BrokenResourceError:
            pass
        finally:
            self._turned_away -= 1
            stream.close()
