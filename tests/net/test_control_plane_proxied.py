"""The node's connection to its control plane through a SOCKS5 proxy, good and bad, over real sockets."""

import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from ambientd.config.upstream import ControlAddress
from ambientd.core.spki import pin_of
from ambientd.net.control_plane_http import HttpControlTransport, TransportSettings
from ambientd.ports.errors import UnavailableError
from tests.net.test_control_plane_direct import OK, said, serving
from tests.net.test_server_tls import certificate, pem

NO_AUTH = b"\x05\x00"
REACHED = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00"


class Socks:
    """A SOCKS5 proxy (RFC 1928) without authentication; or one that answers as told, and then hangs up."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = answers
        self.port = 0
        self.wanted: list[tuple[bytes, int]] = []

    async def serve(self, near: trio.SocketStream) -> None:
        try:
            if self._answers:
                for answer in self._answers:
                    await near.receive_some()
                    await near.send_all(answer)
                return
            assert await near.receive_some() == b"\x05\x01\x00"
            await near.send_all(NO_AUTH)
            host, port = _target(bytes(await near.receive_some()))
            self.wanted.append((host, port))
            far = await trio.open_tcp_stream(host.decode(), port)
            await near.send_all(REACHED)
            async with far, trio.open_nursery() as nursery:
                nursery.start_soon(_carry, near, far)
                await _carry(far, near)
                nursery.cancel_scope.cancel()
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(near)


def _target(request: bytes) -> tuple[bytes, int]:
    """Host and port of a CONNECT, by name or by IPv4 address."""
    assert request[:3] == b"\x05\x01\x00"
    if request[3] == 1:
        return ".".join(str(part) for part in request[4:8]).encode(), int.from_bytes(request[8:10], "big")
    assert request[3] == 3
    end = 5 + request[4]
    return request[5:end], int.from_bytes(request[end : end + 2], "big")


async def _carry(source: trio.SocketStream, target: trio.SocketStream) -> None:
    while data := await source.receive_some():
        await target.send_all(data)


@asynccontextmanager
async def proxying(*answers: bytes) -> AsyncIterator[Socks]:
    proxy = Socks(*answers)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        proxy.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, proxy.serve, listeners)
        yield proxy
        nursery.cancel_scope.cancel()


def through(proxy: int, port: int, **more: str | None) -> HttpControlTransport:
    address = ControlAddress(host="localhost", port=port, tls=bool(more), path="")
    settings = TransportSettings(address=address, proxy=f"socks5://127.0.0.1:{proxy}", **more)
    return HttpControlTransport(lambda: settings, agent="agent/1")


async def ask(transport: HttpControlTransport) -> int:
    return (await transport.send("PUT", "/x", {}, b'{"seq":1}', seconds=5)).status


async def test_a_socks_proxy_carries_all_requests_over_one_connection_and_finds_the_name_itself() -> None:
    async with serving(said(OK, OK)) as server, proxying() as proxy:
        transport = through(proxy.port, server.port)
        assert [await ask(transport), await ask(transport)] == [200, 200]
        await transport.aclose()
    assert proxy.wanted == [(b"localhost", server.port)]
    assert [len(requests) for requests in server.connections] == [2]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
async def test_the_server_behind_a_socks_proxy_proves_itself_before_anything_is_sent(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    pin = pin_of(pem(cert))
    async with serving(said(OK), tls=context) as server, proxying() as proxy:
        for more, words in (
            ({"pin": None, "ca_file": None}, "the certificate is not trusted"),
            ({"pin": "sha256:" + "0" * 64, "ca_file": str(cert)}, "not the pinned one"),
        ):
            with pytest.raises(UnavailableError, match=words):
                await ask(through(proxy.port, server.port, **more))
        assert [requests for requests in server.connections if requests] == []
        transport = through(proxy.port, server.port, pin=pin, ca_file=str(cert))
        assert await ask(transport) == 200
        await transport.aclose()


@pytest.mark.parametrize(
    "answers",
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n",),
        (b"\x05",),
        (b"\x05\xff",),
        (b"\x05\x02",),
        (b"\x04\x00",),
        (NO_AUTH, b"\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"),
        (NO_AUTH, b"\x05\xee\x00\x01\x00\x00\x00\x00\x00\x00"),
        (NO_AUTH, b"\x05"),
        (NO_AUTH, b"\x05\x00\x00\x09\x00"),
        (NO_AUTH, b"SSH-2.0-x\r\n"),
        (NO_AUTH, b""),
        (b"",),
    ],
)
async def test_a_proxy_that_refuses_or_speaks_something_else_is_told_in_words(
    answers: tuple[bytes, ...],
) -> None:
    async with proxying(*answers) as proxy:
        transport = through(proxy.port, 9)
        with pytest.raises(UnavailableError, match=r"^the proxy "):
            await ask(transport)
        await transport.aclose()
