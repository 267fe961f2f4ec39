"""Every wait has an end: slow, silent and greedy clients, in virtual time."""

import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from ambientd.net.http_connection import SEND_SLICE
from ambientd.net.http_server import ABSENCE_CHECK, HttpServer, Limits
from ambientd.ports.http import Application, Request, Response
from tests.fakes import http_app
from tests.fakes.clock import TrioWallClock
from tests.fakes.http_log import ListHttpLog
from tests.fakes.http_rig import WRITER, Reader, get, post, serving

LIMITS = Limits()


class Pipe:
    """A server on one end of a memory stream, and the client's end."""

    def __init__(self, nursery: trio.Nursery, app: Application | None = None) -> None:
        self.log = ListHttpLog()
        self.server = HttpServer(app or http_app.build(), clock=TrioWallClock(), log=self.log)
        self.stream, ours = trio.testing.memory_stream_pair()
        self.reader = Reader(self.stream)
        nursery.start_soon(self.server.serve_connection, ours, WRITER)


async def test_a_client_that_says_nothing_is_closed_without_a_word(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        pipe, begin = Pipe(nursery), trio.current_time()
        assert await pipe.reader.ended()
        assert trio.current_time() - begin == pytest.approx(LIMITS.header_seconds)
    assert pipe.log.refusals == []


async def test_half_a_head_is_answered_408_after_the_header_deadline(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        pipe, begin = Pipe(nursery), trio.current_time()
        await pipe.stream.send_all(b"GET /livez HTTP/1.1\r\nHost:")
        answer = await pipe.reader.answer()
        assert trio.current_time() - begin == pytest.approx(LIMITS.header_seconds)
        assert (answer.status, answer.code) == (408, "REQUEST_TIMEOUT")
        assert await pipe.reader.ended()


async def test_one_byte_a_second_does_not_move_the_deadline(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        pipe, begin = Pipe(nursery), trio.current_time()

        @nursery.start_soon
        async def drip() -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                for byte in get("/livez") * 3:
                    await pipe.stream.send_all(bytes((byte,)))
                    await trio.sleep(1)

        answer = await pipe.reader.answer()
        assert answer.status == 408
        assert trio.current_time() - begin == pytest.approx(LIMITS.header_seconds)
        assert await pipe.reader.ended()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_drips_is_answered_408_when_the_whole_request_is_late(
    autojump_clock: MockClock, chunked: bool
) -> None:
    framing = "Transfer-Encoding: chunked" if chunked else "Content-Length: 1000"
    async with trio.open_nursery() as nursery:
        pipe, begin = Pipe(nursery), trio.current_time()
        await pipe.stream.send_all(get("/order", framing, method="POST"))

        @nursery.start_soon
        async def drip() -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                for _ in range(100):
                    await pipe.stream.send_all(b"1\r\n{\r\n" if chunked else b"{")
                    await trio.sleep(1)

        answer = await pipe.reader.answer()
        assert (answer.status, answer.code) == (408, "REQUEST_TIMEOUT")
        assert trio.current_time() - begin == pytest.approx(LIMITS.request_seconds)
        nursery.cancel_scope.cancel()


async def test_an_idle_connection_is_kept_for_its_time_and_then_closed(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        pipe = Pipe(nursery)
        for _ in range(3):
            await pipe.stream.send_all(get("/livez"))
            assert (await pipe.reader.answer()).status == 200
            await trio.sleep(LIMITS.idle_seconds - 1)
        begin = trio.current_time()
        assert await pipe.reader.ended()
        assert trio.current_time() - begin <= 25
    assert pipe.log.refusals == []


async def test_the_deadlines_start_again_with_each_request(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        pipe = Pipe(nursery)
        for _ in range(4):
            begin = trio.current_time()
            raw = post("/order", b'{"agentId":"a"}')
            await pipe.stream.send_all(raw[:20])
            await trio.sleep(4)
            await pipe.stream.send_all(raw[20:-5])
            await trio.sleep(5)
            await pipe.stream.send_all(raw[-5:])
            assert (await pipe.reader.answer()).status == 200
            assert trio.current_time() - begin == pytest.approx(9)
            await trio.sleep(60)
        await pipe.stream.aclose()


async def test_a_long_poll_is_not_cut_after_an_idle_minute(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        pipe = Pipe(nursery)
        for _ in range(2):
            await pipe.stream.send_all(get("/slow/59"))
            assert (await pipe.reader.answer()).body == b"late"
            await trio.sleep(74)
        await pipe.stream.aclose()


async def test_a_handler_that_never_ends_is_answered_500_and_told_as_a_fault(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        pipe, begin = Pipe(nursery), trio.current_time()
        await pipe.stream.send_all(get("/slow/1e9"))
        answer = await pipe.reader.answer()
        assert (answer.status, answer.code) == (500, "INTERNAL_ERROR")
        assert 60 <= trio.current_time() - begin <= 100
        assert [where for where, _, _ in pipe.log.faults] == ["handler"]
        assert await pipe.reader.ended()


async def test_a_client_that_never_reads_is_cut_after_the_send_deadline(autojump_clock: MockClock) -> None:
    async with serving(http_app.build()) as rig:
        stream, _ = await rig.connect()
        begin = trio.current_time()
        await stream.send_all(get("/big?size=50000000"))
        await trio.testing.wait_all_tasks_blocked()
        assert rig.server.connections == 1
        while rig.server.connections:
            await trio.sleep(0.5)
        assert trio.current_time() - begin == pytest.approx(LIMITS.send_seconds, abs=1)
        assert rig.log.faults == []
        await stream.aclose()


async def test_pipelining_without_reading_stops_being_served_and_is_cut(autojump_clock: MockClock) -> None:
    async with serving(http_app.build()) as rig:
        stream, _ = await rig.connect()
        with trio.move_on_after(LIMITS.send_seconds * 2), contextlib.suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(get("/openapi.json") * 10)
        assert rig.server.connections == 0
        await stream.aclose()


async def test_a_slow_but_steady_reader_gets_all_of_it(autojump_clock: MockClock) -> None:
    size = SEND_SLICE * 30
    async with serving(http_app.build()) as rig:
        stream, _ = await rig.connect()
        await stream.send_all(get(f"/big?size={size}"))
        begin, got = trio.current_time(), 0
        while got < size:
            await trio.sleep(2)
            part = await stream.receive_some(SEND_SLICE)
            assert part, "cut"
            got += len(part)
        assert trio.current_time() - begin > LIMITS.send_seconds * 5
        await stream.aclose()


async def test_a_stream_may_be_silent_for_long_and_is_cut_when_its_reader_stops(
    autojump_clock: MockClock,
) -> None:
    closed = trio.Event()

    async def parts() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await trio.sleep(3600)
            yield b"second"
            while True:
                yield b"x" * 100_000
        finally:
            closed.set()

    async def app(request: Request) -> Response:
        return Response(200, content_type="text/event-stream", stream=parts())

    async with serving(app) as rig:
        stream, reader = await rig.connect()
        await stream.send_all(get("/"))
        assert await reader.line(b"second")
        begin = trio.current_time()
        await closed.wait()
        assert trio.current_time() - begin == pytest.approx(LIMITS.send_seconds, abs=1)
        await stream.aclose()


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_client_that_leaves_ends_what_it_waited_for(
    autojump_clock: MockClock, streaming: bool
) -> None:
    ended: list[float] = []

    async def wait() -> None:
        try:
            await trio.sleep(50)
        finally:
            ended.append(trio.current_time())

    async def parts() -> AsyncIterator[bytes]:
        yield b"first"
        await wait()

    async def app(request: Request) -> Response:
        if streaming:
            return Response(200, content_type="text/event-stream", stream=parts())
        await wait()
        return Response(200)

    async with serving(app) as rig:
        stream, _ = await rig.connect()
        await stream.send_all(get("/"))
        await trio.testing.wait_all_tasks_blocked()
        await stream.aclose()
        left = trio.current_time()
        await trio.sleep(2 * ABSENCE_CHECK)
        assert ended
        assert ended[0] - left <= ABSENCE_CHECK
        assert rig.server.connections == 0
        assert rig.log.faults == []


async def test_a_client_that_only_ended_its_sending_is_waited_for(autojump_clock: MockClock) -> None:
    async with serving(http_app.build()) as rig:
        stream, reader = await rig.connect()
        await stream.send_all(get("/slow/20"))
        await stream.send_eof()
        assert (await reader.answer()).body == b"late"
        await stream.aclose()


async def test_a_change_is_finished_though_its_client_left(autojump_clock: MockClock) -> None:
    finished = trio.Event()

    async def app(request: Request) -> Response:
        await trio.sleep(30)
        finished.set()
        return Response(200)

    async with serving(app) as rig:
        stream, _ = await rig.connect()
        await stream.send_all(post("/", b"{}"))
        await trio.testing.wait_all_tasks_blocked()
        await stream.aclose()
        with trio.fail_after(40):
            await finished.wait()


async def test_a_refused_client_that_goes_on_sending_is_let_go_in_time(autojump_clock: MockClock) -> None:
    async with serving(http_app.build()) as rig:
        stream, reader = await rig.connect()
        begin = trio.current_time()
        await stream.send_all(b"nonsense\r\n\r\n")
        assert (await reader.answer()).status == 400
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"more")
                await trio.sleep(0.1)
        assert trio.current_time() - begin == pytest.approx(LIMITS.linger_seconds, abs=0.5)
        await stream.aclose()


async def test_slow_clients_fill_the_cap_only_for_the_header_deadline(autojump_clock: MockClock) -> None:
    async with serving(http_app.build(), limits=Limits(connections=8)) as rig:
        slow = []
        for _ in range(8):
            client = socket.socket(socket.AF_UNIX)
            client.connect(rig.path)
            client.send(b"GET / HT")
            slow.append(client)
        await trio.testing.wait_all_tasks_blocked()
        assert (await rig.ask(get("/livez"))).status == 503
        await trio.sleep(LIMITS.header_seconds + LIMITS.linger_seconds + 0.1)
        assert (await rig.ask(get("/livez"))).status == 200
        for client in slow:
            client.close()


async def test_an_idle_server_has_nothing_to_wake_up_for(autojump_clock: MockClock) -> None:
    async with serving(http_app.build()) as rig:
        assert (await rig.ask(get("/livez"))).status == 200
        await trio.sleep(2 * ABSENCE_CHECK)
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")
