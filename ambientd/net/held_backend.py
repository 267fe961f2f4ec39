"""Connections that can be closed by who had them opened: a handshake with a SOCKS proxy that fails leaves its
connection open, and nobody else knows of it."""

from collections.abc import Iterable
from typing import Any

import httpcore2


class HeldBackend(httpcore2.AsyncNetworkBackend):
    """Opens connections by another backend and keeps the newest one in hand."""

    def __init__(self, backend: httpcore2.AsyncNetworkBackend) -> None:
        self._backend = backend
        self._stream: httpcore2.AsyncNetworkStream | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """As the backend below."""
        await self.aclose()
        self._stream = await self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        return self._stream

    async def aclose(self) -> None:
        """Closes the newest connection, where it is still open."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.aclose()

    async def sleep(self, seconds: float) -> None:
        """As the backend below."""
        await self._backend.sleep(seconds)
