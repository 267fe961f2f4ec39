"""Websockets between nodes on real loopback sockets, with other sides that behave badly."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from ambientd.config.peers import PeerAddress
from ambientd.net import peer_ws
from ambientd.net.peer_ws import PATH, STRANGER_BYTES, STRANGERS_MAX, STRANGERS_PER_ADDRESS, PeerSockets
from ambientd.ports.peers import PeerDialError, PeerGoneError, PeerSocket
from tests.fakes.http_log import ListHttpLog

LOOPBACK = PeerAddress("127.0.0.1", 0)
LIMIT = 64 * 1024
UPGRADE = (
    f"GET {PATH} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
).encode()


def sockets(listen: PeerAddress | None = LOOPBACK) -> PeerSockets:
    return PeerSockets(listen=listen, max_message=LIMIT, quiet_sec=60, log=ListHttpLog())


@asynccontextmanager
async def listening(serve: Callable[[PeerSocket], Awaitable[None]]) -> AsyncIterator[PeerSockets]:
    made = sockets()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.serve, serve)
        with trio.fail_after(5):
            while made.bound is None:
                await trio.sleep(0.001)
        yield made
        nursery.cancel_scope.cancel()


async def echo(wire: PeerSocket) -> None:
    wire.know()
    while True:
        await wire.send(await wire.receive())


async def silent(wire: PeerSocket) -> None:
    await wire.receive()


async def exchange(address: PeerAddress, message: bytes) -> bytes:
    async with sockets(None).dial(address) as wire:
        wire.know()
        await wire.send(message)
        return await wire.receive()


def bound(made: PeerSockets) -> PeerAddress:
    assert made.bound is not None
    return made.bound


async def ended(stream: trio.SocketStream, seconds: float = 3.0) -> bytes:
    """What comes until the other side ends it."""
    data = b""
    with trio.fail_after(seconds):
        try:
            while some := await stream.receive_some(65536):
                data += some
        except trio.BrokenResourceError:
            pass
    return data


async def test_messages_go_both_ways_up_to_the_limit() -> None:
    async with listening(echo) as there, sockets(None).dial(bound(there)) as wire:
        wire.know()
        for message in (b"", b"one", bytes(LIMIT)):
            await wire.send(message)
            assert await wire.receive() == message
        assert wire.is_dialled
        assert wire.address == bound(there)


async def test_a_longer_message_ends_the_link() -> None:
    async with listening(echo) as there:
        with pytest.raises(PeerGoneError):
            await exchange(bound(there), bytes(LIMIT + 1))


async def test_text_is_no_message() -> None:
    async def says_text(wire: PeerSocket) -> None:
        await wire._connection.send_message("text")  # type: ignore[attr-defined]
        await wire.receive()

    async with listening(says_text) as there:
        with pytest.raises(PeerGoneError, match="bytes"):
            async with sockets(None).dial(bound(there)) as wire:
                await wire.receive()


async def test_compression_is_never_agreed_on() -> None:
    async with listening(silent) as there:
        async with await trio.open_tcp_stream(*bound(there)) as stream:
            await stream.send_all(UPGRADE)
            answer = await stream.receive_some(4096)
        assert b" 101 " in answer
        assert b"deflate" not in answer.lower()


async def test_nobody_there_is_a_sentence() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(PeerDialError, match="nobody listens there"):
            async with sockets(None).dial(PeerAddress("127.0.0.1", unused.getsockname()[1])):
                raise AssertionError("nobody was there")


@pytest.mark.parametrize("answer", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 404 Not Found\r\n\r\n", b""])
async def test_another_program_there_is_no_node(answer: bytes) -> None:
    async def other(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(4096)
            if answer:
                await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, other, listeners)
        address = PeerAddress("127.0.0.1", listeners[0].socket.getsockname()[1])
        with pytest.raises(PeerDialError):
            async with sockets(None).dial(address):
                raise AssertionError("that was no node")
        nursery.cancel_scope.cancel()


async def test_a_stranger_has_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_ws, "STRANGER_SEC", 0.2)
    async with listening(silent) as there:
        for said in (b"", UPGRADE[:20], UPGRADE):
            there.forgive()
            async with await trio.open_tcp_stream(*bound(there)) as stream:
                if said:
                    await stream.send_all(said)
                await ended(stream)


async def test_a_stranger_may_say_little() -> None:
    """A flood of pings, too, which no message of ours would ever see."""
    ping = b"\x89\xfd" + b"\0\0\0\0" + bytes(125)
    async with listening(silent) as there:
        async with await trio.open_tcp_stream(*bound(there)) as stream:
            await stream.send_all(UPGRADE)
            try:
                for _ in range(10 * STRANGER_BYTES // len(ping)):
                    await stream.send_all(ping)
            except trio.BrokenResourceError:
                return
            answer = await ended(stream)
        assert len(answer) < 2 * STRANGER_BYTES


async def test_an_address_that_wasted_our_time_is_not_heard_for_a_while() -> None:
    async with listening(silent) as there:
        async with await trio.open_tcp_stream(*bound(there)) as stream:
            await stream.send_all(bytes(4 * STRANGER_BYTES))
            await ended(stream)
        async with await trio.open_tcp_stream(*bound(there)) as stream:
            assert await ended(stream) == b""
        there.forgive()
        async with await trio.open_tcp_stream(*bound(there)) as stream:
            await stream.send_all(UPGRADE)
            assert b" 101 " in await stream.receive_some(4096)


async def test_who_upgrades_and_leaves_again_and_again_is_not_heard_for_ever() -> None:
    async with listening(silent) as there:
        refused = 0
        for _ in range(100):
            async with await trio.open_tcp_stream(*bound(there)) as stream:
                await stream.send_all(UPGRADE)
                answer = await stream.receive_some(4096) if not refused else b""
                refused += not answer
                if answer:
                    await stream.send_all(b"\x88\x82\0\0\0\0\x03\xe8")
                    await ended(stream)
        assert refused


async def test_another_path_is_not_found() -> None:
    async with listening(silent) as there, await trio.open_tcp_stream(*bound(there)) as stream:
        await stream.send_all(UPGRADE.replace(PATH.encode(), b"/chat"))
        assert b" 404 " in await stream.receive_some(4096)


async def test_one_address_has_few_strangers_and_friends_do_not_count() -> None:
    async with listening(echo) as there:
        async with trio.open_nursery() as nursery:
            opened = 0

            async def friend() -> None:
                nonlocal opened
                async with sockets(None).dial(bound(there)) as wire:
                    wire.know()
                    await wire.send(b"hello")
                    await wire.receive()
                    opened += 1
                    await trio.sleep_forever()

            for number in range(2 * STRANGERS_PER_ADDRESS):
                nursery.start_soon(friend)
                with trio.fail_after(5):
                    while opened == number:
                        await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        strangers = [await trio.open_tcp_stream(*bound(there)) for _ in range(STRANGERS_PER_ADDRESS)]
        await trio.sleep(0.05)
        async with await trio.open_tcp_stream(*bound(there)) as one_too_many:
            assert await ended(one_too_many, 1.0) == b""
        for stream in strangers:
            await stream.aclose()


async def test_when_all_places_are_taken_the_oldest_stranger_goes() -> None:
    async with listening(silent) as there:
        streams = []
        for number in range(STRANGERS_MAX + 1):
            sock = trio.socket.socket()
            await sock.bind((f"127.0.1.{number + 1}", 0))
            await sock.connect(bound(there))
            streams.append(trio.SocketStream(sock))
            await trio.sleep(0.001)
        assert await ended(streams[0], 1.0) == b""
        await streams[-1].send_all(UPGRADE)
        assert b" 101 " in await streams[-1].receive_some(4096)
        for stream in streams:
            await stream.aclose()


async def test_who_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_ws, "SEND_SEC", 0.2)
    gone: list[str] = []

    async def floods(wire: PeerSocket) -> None:
        wire.know()
        try:
            while True:
                await wire.send(bytes(LIMIT))
        except PeerGoneError as error:
            gone.append(str(error))

    async with listening(floods) as there, await trio.open_tcp_stream(*bound(there)) as stream:
        await stream.send_all(UPGRADE)
        with trio.fail_after(10):
            while not gone:
                await trio.sleep(0.01)


async def test_a_friend_gone_mad_is_slowed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_ws, "PEER_BYTES_PER_SEC", 256 * 1024)
    taken = 0

    async def count(wire: PeerSocket) -> None:
        nonlocal taken
        wire.know()
        while True:
            taken += len(await wire.receive())

    async with listening(count) as there:
        with trio.move_on_after(1.0):
            async with sockets(None).dial(bound(there)) as wire:
                while True:
                    await wire.send(bytes(LIMIT))
        assert 128 * 1024 < taken < 1024 * 1024


async def test_a_good_bye_reaches_the_other_side() -> None:
    async def leaves(wire: PeerSocket) -> None:
        await wire.receive()
        await wire.close("duplicate")

    async with listening(leaves) as there:
        with pytest.raises(PeerGoneError, match="duplicate"):
            await exchange(bound(there), b"x")
