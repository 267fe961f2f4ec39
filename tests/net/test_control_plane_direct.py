"""The node's connection to its control plane over real sockets, with and without TLS."""

import errno
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from ambientd.config.upstream import ControlAddress
from ambientd.core.spki import pin_of
from ambientd.net.control_plane_direct import DirectControlTransport
from ambientd.net.control_plane_http import ANSWER_MAX, HttpControlTransport, TransportSettings, words_of
from ambientd.ports.errors import UnavailableError
from tests.net.test_server_tls import certificate, pem

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
Say = Callable[[int], Awaitable[bytes | None]]
"""The answer to a connection's request by its number; None ends the connection."""


def said(*answers: bytes) -> Say:
    async def say(number: int) -> bytes | None:
        return answers[number] if number < len(answers) else None

    return say


class Server:
    """Answers as told; keeps what it was sent, by connection."""

    def __init__(self, say: Say, tls: ssl.SSLContext | None) -> None:
        self._say = say
        self._tls = tls
        self.port = 0
        self.connections: list[list[bytes]] = []

    async def serve(self, plain: trio.abc.Stream) -> None:
        stream = plain if self._tls is None else trio.SSLStream(plain, self._tls, server_side=True)
        requests: list[bytes] = []
        self.connections.append(requests)
        try:
            while data := await self._request(stream):
                requests.append(data)
                answer = await self._say(len(requests) - 1)
                if answer is None:
                    break
                await stream.send_all(answer)
        except trio.BrokenResourceError:
            pass
        await trio.aclose_forcefully(stream)

    @staticmethod
    async def _request(stream: trio.abc.Stream) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            more = await stream.receive_some()
            if not more:
                return b""
            data += bytes(more)
        head, _, body = data.partition(b"\r\n\r\n")
        length = next((int(line[16:]) for line in head.split(b"\r\n") if line[:14] == b"Content-Length"), 0)
        while len(body) < length:
            body += bytes(await stream.receive_some())
        return head + b"\r\n\r\n" + body


@asynccontextmanager
async def serving(say: Say, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(say, tls)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, server.serve, listeners)
        yield server
        nursery.cancel_scope.cancel()


def way(
    port: int, *, host: str = "127.0.0.1", tls: bool = False, **more: str | None
) -> DirectControlTransport:
    address = ControlAddress(host=host, port=port, tls=tls, path="/base")
    return DirectControlTransport(TransportSettings(address=address, **more), agent="agent/1")


async def ask(transport: DirectControlTransport, *, seconds: float = 5.0) -> tuple[int, bytes]:
    answer = await transport.send("PUT", "/x?y=1", {"A": "b"}, b'{"seq":1}', seconds=seconds)
    return answer.status, answer.body


async def test_one_connection_serves_one_request_after_the_other_and_says_no_more_than_it_must() -> None:
    async with serving(said(OK, OK)) as server:
        transport = way(server.port)
        assert await ask(transport) == (200, b"{}")
        found = await transport.send("GET", "/y", {}, b"", seconds=5)
        assert (found.status, found.headers["content-type"]) == (200, "application/json")
        await transport.aclose()
    host = f"Host: 127.0.0.1:{server.port}\r\nUser-Agent: agent/1\r\n".encode()
    assert server.connections == [
        [
            b"PUT /base/x?y=1 HTTP/1.1\r\n"
            + host
            + b'A: b\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"seq":1}',
            b"GET /base/y HTTP/1.1\r\n" + host + b"\r\n",
        ]
    ]


async def test_a_connection_that_the_server_has_ended_is_not_used_again() -> None:
    async with serving(said(OK)) as server:
        transport = way(server.port)
        assert await ask(transport) == (200, b"{}")
        with pytest.raises(UnavailableError, match=r"cut off|reset"):
            await ask(transport)  # ended without an answer: whether it was taken nobody knows
        assert await ask(transport) == (200, b"{}")
        await transport.aclose()
    assert [len(requests) for requests in server.connections] == [2, 1]


@pytest.mark.parametrize(
    "farewell",
    [
        OK.replace(b"\r\n\r\n", b"\r\nConnection: Close\r\n\r\n"),
        (
            b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\n{}\r\n0\r\n\r\n"
        ),
        OK + b"more than was asked for",
    ],
    ids=["close", "chunked", "surplus"],
)
async def test_after_an_unusual_answer_the_next_request_has_a_connection_of_its_own(farewell: bytes) -> None:
    async with serving(said(farewell)) as server:
        transport = way(server.port)
        assert await ask(transport) == (200, b"{}")
        assert await ask(transport) == (200, b"{}")
        await transport.aclose()
    assert [len(requests) for requests in server.connections] == [1, 1]


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """A port where whatever comes is answered so, and the connection ended."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    async with answering(b"HTTP/1.1 503 No\r\nRetry-After: 7\r\n\r\nbusy") as port:
        found = await way(port).send("GET", "/", {}, b"", seconds=5)
    assert (found.status, found.body, found.headers["retry-after"]) == (503, b"busy", "7")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-x\r\n\r\n", "the answer is no HTTP"),
        (b"x" * 20_000, "the answer is no HTTP"),
        (OK.replace(b"Content-Length: 2", b"Content-Length: %d" % (ANSWER_MAX + 1)), "longer than"),
        (
            OK.replace(b"Content-Length: 2", b"Content-Length: 3\r\nContent-Length: 2"),
            "the answer is no HTTP",
        ),
    ],
    ids=["protocol", "head", "length", "lengths"],
)
async def test_what_cannot_be_an_answer_is_told_so(answer: bytes, words: str) -> None:
    async with serving(said(answer)) as server:
        transport = way(server.port)
        with pytest.raises(UnavailableError, match=words):
            await ask(transport)


async def test_a_late_answer_is_not_taken_for_that_to_the_next_request() -> None:
    late = trio.Event()

    async def slow(number: int) -> bytes | None:
        if not late.is_set():
            await late.wait()
            return OK.replace(b"{}", b"[]")
        return OK

    async with serving(slow) as server:
        transport = way(server.port)
        with pytest.raises(UnavailableError, match="no answer in time"):
            await ask(transport, seconds=0.05)
        late.set()
        assert await ask(transport) == (200, b"{}")
        await transport.aclose()
    assert len(server.connections) == 2


async def test_who_cannot_be_reached_is_told_in_words() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    with pytest.raises(UnavailableError, match=r"^connection refused$"):
        await ask(way(port))
    with pytest.raises(UnavailableError, match=r"^the name cannot be resolved$"):
        await ask(way(port, host="no-such-host.invalid"))


def test_who_was_cut_off_may_lack_a_certificate() -> None:
    assert words_of(ConnectionResetError(errno.ECONNRESET, "x"), " (y)") == "connection reset by peer (y)"
    assert words_of(ConnectionRefusedError(errno.ECONNREFUSED, "x"), " (y)") == "connection refused"
    assert words_of(trio.BrokenResourceError()) is None


async def test_a_header_cannot_bring_another_one() -> None:
    async with serving(said(OK)) as server:
        transport = way(server.port)
        with pytest.raises(UnavailableError, match="cannot be sent"):
            await transport.send("GET", "/", {"A": "b\r\nC: d"}, b"", seconds=5)
    assert server.connections == []


async def test_other_settings_are_followed_with_the_next_request() -> None:
    async with serving(said(OK, OK)) as one, serving(said(OK)) as other, answering(b"no proxy") as proxy:
        wanted = way(one.port).settings
        transport = HttpControlTransport(lambda: wanted, agent="agent/1")

        async def get() -> int:
            return (await transport.send("GET", "/", {}, b"", seconds=5)).status

        assert [await get(), await get()] == [200, 200]
        wanted = way(other.port).settings
        assert await get() == 200
        assert [len(one.connections), len(other.connections)] == [1, 1]
        wanted = way(other.port, proxy=f"http://127.0.0.1:{proxy}").settings
        with pytest.raises(UnavailableError):
            await get()
        await transport.aclose()
    assert [len(requests) for requests in (*one.connections, *other.connections)] == [2, 1]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
async def test_nothing_is_sent_to_a_server_that_has_not_proven_itself(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "localhost")
    other, _ = certificate(tmp_path, "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    async with serving(said(OK, OK), tls=context) as server:

        def secured(**more: str | None) -> DirectControlTransport:
            return way(server.port, host="localhost", tls=True, **more)

        for transport, words in (
            (secured(), "the certificate is not trusted"),
            (secured(ca_file=other), "the certificate is not trusted"),
            (secured(ca_file=cert, pin=pin_of(pem(other))), "not the pinned one"),
            (secured(ca_file=str(tmp_path / "none")), "none cannot be used"),
        ):
            with pytest.raises(UnavailableError, match=words):
                await ask(transport)
        assert all(not requests for requests in server.connections)
        good = secured(ca_file=cert, pin=pin_of(pem(cert)))
        assert await ask(good) == (200, b"{}")
        assert await ask(good) == (200, b"{}")
        await good.aclose()
    assert [len(requests) for requests in server.connections if requests] == [2]


async def test_tls_to_a_server_that_speaks_none_is_told_in_words() -> None:
    async with answering(OK) as port:
        with pytest.raises(UnavailableError, match="no TLS connection"):
            await ask(way(port, tls=True))
