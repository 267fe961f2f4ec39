"""The gateway's websocket on real loopback sockets, with other sides that behave badly (FAULTS N5)."""

import base64
import hashlib
import ssl
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from ambientd.config.gateway_address import Address, parse_address
from ambientd.core.gateway.frames import MAX_FRAME
from ambientd.net.gateway_ws import MAX_ANSWER, WebSocketDialer
from ambientd.ports.gateway_socket import DialError, SocketClosedError
from tests.fakes.gateway import FakeGateway

Serve = Callable[[trio.SocketStream, bytes], Awaitable[None]]


class Server:
    """Reads one request's head, then does what the test says."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self.heads: list[bytes] = []
        self.port = 0

    async def __call__(self, stream: trio.SocketStream) -> None:
        async with stream:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive_some(65536) or b"\r\n\r\n"
            self.heads.append(head)
            try:
                await self._serve(stream, head)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    @property
    def address(self) -> Address:
        found = parse_address(f"ws://127.0.0.1:{self.port}")
        assert isinstance(found, Address)
        return found


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[Server]:
    server = Server(serve)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, server, 0, host="127.0.0.1"))
        server.port = listeners[0].socket.getsockname()[1]
        yield server
        nursery.cancel_scope.cancel()


def accepted(head: bytes) -> bytes:
    """The answer that makes it a websocket."""
    key = next(
        line[19:].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:")
    )
    proof = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())  # noqa: S324
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + proof + b"\r\n"
    )


def frame_head(length: int, first: int = 0x81) -> bytes:
    if length < 126:
        return bytes((first, length))
    if length < 65536:
        return bytes((first, 126)) + struct.pack("!H", length)
    return bytes((first, 127)) + struct.pack("!Q", length)


async def dial_fails(address: Address, timeout: float = 5.0) -> DialError:
    with trio.fail_after(20), pytest.raises(DialError) as failed:
        async with WebSocketDialer(address, connect_timeout=timeout).dial():
            pytest.fail("it must not become a websocket")
    return failed.value


async def read_to_the_end(address: Address) -> None:
    async with WebSocketDialer(address).dial() as socket:
        while True:
            await socket.receive()


async def closed_with(address: Address) -> SocketClosedError:
    with trio.fail_after(60), pytest.raises(SocketClosedError) as closed:
        await read_to_the_end(address)
    return closed.value


async def test_messages_go_both_ways() -> None:
    async with FakeGateway().listening() as gateway:
        found = parse_address(gateway.url)
        assert isinstance(found, Address)
        async with WebSocketDialer(found).dial() as socket:
            assert "connect.challenge" in str(await socket.receive())
            await socket.send('{"type":"req","id":"1","method":"health"}')
            assert "first request must be connect" in str(await socket.receive())
            with pytest.raises(SocketClosedError) as closed:
                await socket.receive()
            assert closed.value.code == 1008
        await trio.sleep(0.05)
        assert gateway.open_now == 0


async def test_what_is_said_in_the_upgrade_is_no_more_than_needed() -> None:
    async def serve(stream: trio.SocketStream, _head: bytes) -> None:
        await stream.send_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    async with serving(serve) as server:
        assert (await dial_fails(server.address)).status == 403
        head = server.heads[0].lower()
        assert f"host: 127.0.0.1:{server.port}".encode() in head
        for unwanted in (
            b"origin",
            b"x-forwarded",
            b"sec-websocket-extensions",
            b"authorization",
            b"cookie",
            b"token",
        ):
            assert unwanted not in head


async def test_a_redirect_is_not_followed() -> None:
    async def other(stream: trio.SocketStream, _head: bytes) -> None:
        await stream.send_all(b"")

    async with serving(other) as elsewhere:

        async def serve(stream: trio.SocketStream, _head: bytes) -> None:
            place = f"Location: ws://127.0.0.1:{elsewhere.port}/\r\n"
            await stream.send_all(f"HTTP/1.1 302 Found\r\n{place}Content-Length: 0\r\n\r\n".encode())

        async with serving(serve) as server:
            assert (await dial_fails(server.address)).status == 302
        assert elsewhere.heads == []


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x00\xff" * 500,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        accepted(b"Sec-WebSocket-Key: of another request") + b"\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX: \xff\xfe\r\n\r\n",
    ],
)
async def test_an_answer_that_is_no_websocket_is_a_failed_dial(answer: bytes) -> None:
    async def serve(stream: trio.SocketStream, _head: bytes) -> None:
        await stream.send_all(answer)

    async with serving(serve) as server:
        await dial_fails(server.address)


async def test_compression_that_was_not_offered_is_refused() -> None:
    async def serve(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(accepted(head) + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
        await trio.sleep(1)

    async with serving(serve) as server:
        await dial_fails(server.address)


async def test_a_compressed_frame_is_a_broken_protocol() -> None:
    async def serve(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(accepted(head) + b"\r\n" + frame_head(4, 0xC1) + b"bomb")
        await trio.sleep_forever()

    async with serving(serve) as server:
        assert (await closed_with(server.address)).code in (1002, 1006)


async def test_a_side_that_accepts_and_is_silent_is_left_in_time() -> None:
    async def serve(_stream: trio.SocketStream, _head: bytes) -> None:
        await trio.sleep_forever()

    async with serving(serve) as server:
        began = trio.current_time()
        await dial_fails(server.address, timeout=0.3)
        assert trio.current_time() - began < 3


async def test_an_endless_answer_to_the_upgrade_is_cut() -> None:
    sent = 0

    async def serve(stream: trio.SocketStream, _head: bytes) -> None:
        nonlocal sent
        await stream.send_all(b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await stream.send_all(b"400\r\n" + b"x" * 1024 + b"\r\n")
            sent += 1024

    async with serving(serve) as server:
        began = trio.current_time()
        await dial_fails(server.address, timeout=10)
        assert trio.current_time() - began < 5
        assert sent < 100 * MAX_ANSWER  # the rest stands in the kernel's buffers


async def test_a_close_in_mid_frame_is_a_cut_line() -> None:
    async def serve(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(accepted(head) + b"\r\n" + frame_head(500) + b'{"type":"event"')

    async with serving(serve) as server:
        assert (await closed_with(server.address)).code == 1006


async def test_a_frame_of_100_mb_is_not_taken_in() -> None:
    sent = 0

    async def serve(stream: trio.SocketStream, head: bytes) -> None:
        nonlocal sent
        await stream.send_all(accepted(head) + b"\r\n" + frame_head(100_000_000))
        for _ in range(100):
            await stream.send_all(b"x" * 1_000_000)
            sent += 1_000_000
        await trio.sleep_forever()

    async with serving(serve) as server:
        tracemalloc.start()
        closed = await closed_with(server.address)
        _now, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert closed.code == 1009
        assert sent < 2 * MAX_FRAME
        assert peak < 4 * MAX_FRAME


async def test_text_that_is_no_utf_8_ends_the_connection() -> None:
    async def serve(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(accepted(head) + b"\r\n" + frame_head(2) + b"\xff\xfe")
        await trio.sleep_forever()

    async with serving(serve) as server:
        assert (await closed_with(server.address)).code in (1002, 1006, 1007)


async def test_a_good_bye_that_is_not_answered_takes_two_seconds_at_most() -> None:
    async def serve(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(accepted(head) + b"\r\n")
        await trio.sleep_forever()

    async with serving(serve) as server:
        began = trio.current_time()
        async with WebSocketDialer(server.address).dial() as socket:
            await socket.close(1000, "")
        assert trio.current_time() - began < 3.5


async def test_nothing_listens() -> None:
    async with FakeGateway().listening() as gateway:
        port = gateway.port
        await gateway.stop()
        found = parse_address(f"ws://127.0.0.1:{port}")
        assert isinstance(found, Address)
        assert "connection refused" in str(await dial_fails(found))


async def test_a_cancelled_dial_leaves_no_socket_open() -> None:
    ended = trio.Event()

    async def serve(stream: trio.SocketStream, _head: bytes) -> None:
        assert await stream.receive_some(1) == b""
        ended.set()

    async with serving(serve) as server:
        with trio.move_on_after(0.2):
            async with WebSocketDialer(server.address).dial():
                pytest.fail("it must not become a websocket")
        with trio.fail_after(2):
            await ended.wait()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that nobody has signed, with its key in the same file."""
    folder = tmp_path_factory.mktemp("tls")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    both = folder / "both.pem"
    both.write_bytes((folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return both


async def test_tls_wants_a_certificate_that_is_trusted(certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    seen: list[bytes] = []

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            head = bytes(await stream.receive_some(65536))
            seen.append(head)
            await stream.send_all(accepted(head) + b"\r\n" + frame_head(2) + b"{}")
            await trio.sleep_forever()
        except (trio.BrokenResourceError, ssl.SSLError):
            return

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_ssl_over_tcp, serve, 0, context)
        port = listeners[0].transport_listener.socket.getsockname()[1]
        found = parse_address(f"wss://localhost:{port}")
        assert isinstance(found, Address)
        assert "not trusted" in str(await dial_fails(found))
        assert seen == []
        trusted = lambda: ssl.create_default_context(cafile=str(certificate))  # noqa: E731
        async with WebSocketDialer(found, tls=trusted).dial() as socket:
            assert await socket.receive() == "{}"
        nursery.cancel_scope.cancel()


def test_a_node_without_a_gateway_does_not_load_the_libraries() -> None:
    code = (
        "import sys; import ambientd.services.gateway_link, ambientd.net.gateway_ws, "
        "ambientd.host.gateway_credentials; "
        "print(sorted({'trio_websocket', 'wsproto', 'nacl', 'cffi'} & set(sys.modules)))"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "[]"
