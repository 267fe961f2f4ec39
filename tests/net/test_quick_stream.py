import operator
import socket

import pytest
import trio
import trio.testing

from ambientd.net.quick_stream import QuickStream


class PoliteStream(QuickStream):
    """With the checkpoint in every `send_all` that trio's checks ask for and this stream leaves out."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        await super().send_all(data)

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        await super().send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("at least one byte")
        return await super().receive_some(max_bytes)


async def _pair() -> tuple[QuickStream, QuickStream]:
    left, right = socket.socketpair()
    return PoliteStream(left), PoliteStream(right)


async def _clogged() -> tuple[QuickStream, QuickStream]:
    left, right = await _pair()
    for stream in (left, right):
        while stream.send_now(bytes(65536)):
            pass
    return left, right


async def test_it_is_a_stream_as_trio_means_it() -> None:
    await trio.testing.check_two_way_stream(_pair, _clogged)


async def test_after_its_end_nothing_is_sent_but_the_other_direction_stays_open() -> None:
    left, right = await _pair()
    await left.send_eof()
    await left.send_eof()
    assert await right.receive_some() == b""
    with pytest.raises(trio.ClosedResourceError):
        await left.send_all(b"x")
    await right.send_all(b"y")
    assert await left.receive_some() == b"y"
    left.close()
    right.close()


async def test_what_fits_is_sent_at_once_and_the_rest_is_reported() -> None:
    left, right = await _pair()
    assert left.send_now(b"hello") == 5
    assert await right.receive_some() == b"hello"
    sent = left.send_now(bytes(10_000_000))
    assert 0 < sent < 10_000_000
    assert left.send_now(b"x") == 0
    left.close()
    right.close()


async def test_a_peer_is_gone_when_both_directions_are_closed() -> None:
    left, right = await _pair()
    assert not left.is_peer_gone()
    await right.send_eof()
    assert not left.is_peer_gone()
    right.close()
    assert left.is_peer_gone()
    with pytest.raises(trio.BrokenResourceError):
        left.send_now(b"x")
    left.close()
    assert left.is_peer_gone()
    with pytest.raises(trio.ClosedResourceError):
        left.send_now(b"x")
