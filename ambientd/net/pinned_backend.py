"""Connections that end when their server shows another key than the pinned one, before anything is sent."""

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore2

from ambientd.core.spki import pin_of
from ambientd.net.control_plane_http import OTHER_KEY


class PinnedStream(httpcore2.AsyncNetworkStream):
    """A stream that looks at the certificate once the handshake with the pinned host is over."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream, pin: str, host: str) -> None:
        self._stream = stream
        self._pin = pin
        self._host = host

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """As the stream below."""
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """As the stream below."""
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        """As the stream below."""
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        """A proxy that speaks TLS itself is not the pinned host, and has its own key."""
        secured = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        if server_hostname == self._host:
            link = secured.get_extra_info("ssl_object")
            shown = None if link is None else link.getpeercert(binary_form=True)
            if shown is None or pin_of(shown) != self._pin:
                await secured.aclose()
                raise httpcore2.ConnectError(OTHER_KEY)
        return PinnedStream(secured, self._pin, self._host)

    def get_extra_info(self, info: str) -> Any:
        """As the stream below."""
        return self._stream.get_extra_info(info)


class PinnedBackend(httpcore2.AsyncNetworkBackend):
    """Opens such streams."""

    def __init__(self, pin: str, host: str) -> None:
        self._pin = pin
        self._host = host
        self._backend = httpcore2.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """As the backend of trio."""
        stream = await self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        return PinnedStream(stream, self._pin, self._host)

    async def sleep(self, seconds: float) -> None:
        """As the backend of trio."""
        await self._backend.sleep(seconds)
