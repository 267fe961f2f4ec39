"""Listening on TCP, with a door: real sockets on loopback."""

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from ambientd.net import http_server
from ambientd.net.http_server import HttpServer
from ambientd.net.quick_stream import QuickStream
from ambientd.net.tcp_socket import caller_of_tcp, open_tcp_listener, port_of
from ambientd.ports.http import Application, Caller, Request, Response, Turned
from tests.fakes.clock import TrioWallClock
from tests.fakes.http_log import ListHttpLog
from tests.fakes.http_rig import Answer, Reader

TURNED = Turned(401, "NOT_AUTHORIZED", "no", (("X-Why", "door"),))


class Door:
    """Lets in who says please."""

    def admit(self, method: str, path: str, headers: Mapping[str, str], caller: Caller) -> Caller | Turned:
        return caller._replace(may_write=True) if "x-please" in headers else TURNED

    def illegible(self) -> Turned:
        return TURNED

    def nameless(self) -> Turned:
        return Turned(403, "NOT_AUTHORIZED", "no name")


async def who(request: Request) -> Response:
    caller = request.caller
    return Response(200, f"{caller.transport} {caller.ip} {caller.may_write} {len(request.body)}".encode())


@asynccontextmanager
async def serving(app: Application, host: str = "127.0.0.1") -> AsyncIterator[int]:
    server = HttpServer(app, clock=TrioWallClock(), log=ListHttpLog())
    with open_tcp_listener(host, 0) as listener:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(server.serve, listener, caller_of_tcp, door=Door()))
            yield port_of(listener)
            nursery.cancel_scope.cancel()


async def ask(port: int, raw: bytes) -> Answer:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(raw)
        return await Reader(stream).answer()


async def test_the_door_says_who_is_calling() -> None:
    async with serving(who) as port:
        answer = await ask(port, b"POST / HTTP/1.1\r\nHost: x\r\nX-Please: 1\r\nContent-Length: 3\r\n\r\nabc")
    assert (answer.status, answer.body) == (200, b"tcp 127.0.0.1 True 3")


@pytest.mark.parametrize(
    "raw",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n\r\n",
        b"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Key: " + b"k" * 20_000,
    ],
)
async def test_who_is_turned_away_hears_it_before_anything_else_is_read(raw: bytes) -> None:
    async with serving(who) as port:
        answer = await ask(port, raw)
    assert (answer.status, answer.code, answer.headers["x-why"]) == (401, "NOT_AUTHORIZED", "door")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("hosts", [b"", b"Host: a\r\nHost: b\r\n"])
async def test_a_request_without_one_host_is_the_doors_affair_too(hosts: bytes) -> None:
    async with serving(who) as port:
        answer = await ask(port, b"GET / HTTP/1.1\r\nX-Please: 1\r\n" + hosts + b"\r\n")
    assert answer.status == 403


async def test_a_port_that_somebody_listens_on_is_not_taken() -> None:
    with open_tcp_listener("127.0.0.1", 0) as first, pytest.raises(OSError, match="in use"):
        open_tcp_listener("127.0.0.1", port_of(first))


async def test_an_ipv6_listener_takes_no_ipv4() -> None:
    try:
        listener = open_tcp_listener("::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with listener, pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port_of(listener)), timeout=5).close()


async def test_only_tcp_connections_have_an_address() -> None:
    left, right = socket.socketpair()
    with left, right, pytest.raises(OSError, match="not a TCP"):
        caller_of_tcp(left)


async def test_an_endless_stream_ends_when_its_client_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "ABSENCE_CHECK", 0.02)
    ended = trio.Event()

    async def parts() -> AsyncIterator[bytes]:
        try:
            yield b"hello"
            await trio.sleep_forever()
        finally:
            ended.set()

    async def stream(request: Request) -> Response:
        return Response(200, stream=parts(), endless=True)

    async with serving(stream) as port:
        link = await trio.open_tcp_stream("127.0.0.1", port)
        await link.send_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Please: 1\r\n\r\n")
        assert b"200" in await link.receive_some(1000)
        await trio.sleep(0.1)
        assert not ended.is_set()
        await link.aclose()
        with trio.fail_after(5):
            await ended.wait()


async def test_a_client_that_ended_its_sending_is_gone_only_for_who_asks_so() -> None:
    left, right = socket.socketpair()
    stream = QuickStream(left)
    with right:
        assert not stream.is_peer_gone(ended=True)
        right.shutdown(socket.SHUT_WR)
        assert (stream.is_peer_gone(), stream.is_peer_gone(ended=True)) == (False, True)
    stream.close()
