"""The daemon's side of a shim's control socket: short questions, and news without polling."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from ambientd.ports.errors import UnavailableError

REPLY_MAX = 64 * 1024
ANSWER_TIMEOUT = 5.0


class LineStream:
    """JSON lines over a byte stream, each bounded."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._buffer = bytearray()

    async def read(self) -> dict[str, Any] | None:
        """The next object; None at the end. Raises UnavailableError for anything else."""
        while b"\n" not in self._buffer:
            if len(self._buffer) > REPLY_MAX:
                raise UnavailableError("the shim sent too long a line")
            try:
                data = await self.stream.receive_some(16 * 1024)
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._buffer += data
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer = bytearray(rest)
        try:
            return msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.DecodeError, msgspec.ValidationError):
            raise UnavailableError("the shim sent something else than JSON") from None

    async def aclose(self) -> None:
        """Closes the stream without waiting for the other side."""
        await trio.aclose_forcefully(self.stream)


async def connect(folder: Path) -> LineStream | None:
    """A link to the shim of this folder; None when there is none.

    The socket is named through an open folder: the path of a state directory may be longer than the
    108 bytes that a socket address holds.
    """
    try:
        place = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return None
    link = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        await link.connect(f"/proc/self/fd/{place}/ctl")
        return LineStream(trio.SocketStream(link))
    except OSError:
        link.close()
        return None
    except trio.Cancelled:
        link.close()
        raise
    finally:
        os.close(place)


@asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[LineStream | None]:
    """`connect` for one question."""
    link = await connect(folder)
    try:
        yield link
    finally:
        if link is not None:
            await link.aclose()


async def ask(folder: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """One question and its answer; None when no shim listens. Raises UnavailableError after
    `ANSWER_TIMEOUT` seconds, or when the shim refuses."""
    with trio.move_on_after(ANSWER_TIMEOUT):
        async with connected(folder) as link:
            if link is None:
                return None
            try:
                await link.stream.send_all(msgspec.json.encode(request) + b"\n")
            except trio.BrokenResourceError:
                return None
            while (reply := await link.read()) is not None:
                if reply.get("ok") is True:
                    return reply
                if "ok" in reply:
                    raise UnavailableError("the shim refused the request")
            return None
    raise UnavailableError("the shim does not answer")
