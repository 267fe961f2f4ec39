"""A server with some routes on a real Unix socket, and a raw client that speaks bytes."""

import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

import msgspec
import trio

from ambientd.net.http_server import HttpServer, Limits
from ambientd.net.unix_socket import caller_of, open_unix_listener
from ambientd.ports.http import Application, Caller
from tests.fakes.clock import TrioWallClock
from tests.fakes.http_log import ListHttpLog

WRITER = Caller("unix", 0, 1, True)
READER = Caller("unix", 1000, 1, False)


class Answer(NamedTuple):
    """One response as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


class Reader:
    """Takes responses off a stream; a strict little client of its own, so that h11 is not judge of itself."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self.buffer = b""

    async def _more(self) -> None:
        data = await self._stream.receive_some(65536)
        if not data:
            raise EOFError(self.buffer)
        self.buffer += data

    async def _take(self, count: int) -> bytes:
        while len(self.buffer) < count:
            await self._more()
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    async def line(self, end: bytes = b"\r\n") -> bytes:
        while end not in self.buffer:
            await self._more()
        line, _, self.buffer = self.buffer.partition(end)
        return line

    async def answer(self, *, head_only: bool = False) -> Answer:
        """The next response; raises EOFError when the connection ends before it does."""
        lines = (await self.line(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        version, status, _ = lines[0].split(" ", 2)
        assert version == "HTTP/1.1"
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        assert len(headers) == len(lines) - 1, lines
        body = b""
        if not head_only and headers.get("transfer-encoding") == "chunked":
            while size := int(await self.line(), 16):
                body += await self._take(size)
                assert await self.line() == b""
            assert await self.line() == b""
        elif not head_only:
            body = await self._take(int(headers.get("content-length", "0")))
        return Answer(int(status), headers, body)

    async def ended(self) -> bool:
        """Whether the server closes now, without another byte."""
        try:
            data = await self._stream.receive_some(1)
        except trio.BrokenResourceError:
            data = b""
        return self.buffer == b"" and data == b""


class Rig(NamedTuple):
    """A running server."""

    server: HttpServer
    path: str
    log: ListHttpLog

    async def connect(self) -> tuple[trio.SocketStream, Reader]:
        stream = await trio.open_unix_socket(self.path)
        return stream, Reader(stream)

    async def ask(self, raw: bytes) -> Answer:
        """One request on a connection of its own."""
        stream, reader = await self.connect()
        async with stream:
            await stream.send_all(raw)
            return await reader.answer()


@asynccontextmanager
async def serving(
    app: Application,
    *,
    limits: Limits | None = None,
    caller: Callable[[socket.socket], Caller] | None = None,
) -> AsyncIterator[Rig]:
    """`app` on a fresh Unix socket in a short path, until the block ends."""
    folder = tempfile.mkdtemp(dir="/tmp")
    log = ListHttpLog()
    server = HttpServer(app, clock=TrioWallClock(), log=log, limits=limits)
    listener = open_unix_listener(folder + "/s")
    try:
        async with trio.open_nursery() as nursery:
            who = caller or partial(caller_of, admin_gid=None, daemon_uid=os.getuid())
            await nursery.start(partial(server.serve, listener.sock, who))
            yield Rig(server, folder + "/s", log)
            nursery.cancel_scope.cancel()
    finally:
        listener.close()
        shutil.rmtree(folder)


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    """A request without a body."""
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", "")).encode("latin-1")


def post(path: str, body: bytes, *headers: str, kind: str = "application/json") -> bytes:
    """A request with a body."""
    lines = (f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", *headers)
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode("latin-1") + body
