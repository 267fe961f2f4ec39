from collections.abc import AsyncGenerator
from typing import Any, cast

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ambientd.ports.errors import StoreError
from ambientd.services.changes import Changes
from ambientd.services.statusboard import FOLLOW_BEAT_SEC, StatusBoard, StatusShot
from ambientd.wire.messages import StatusDocument
from tests.fakes.daemon_http import status_document


class Source:
    """Counts gatherings; each takes `seconds` of virtual time."""

    def __init__(self, seconds: float = 0.01) -> None:
        self.count = 0
        self.seconds = seconds
        self.sessions = 0
        self.error: Exception | None = None

    async def gather(self) -> StatusDocument:
        self.count += 1
        sessions = self.sessions
        await trio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        document = status_document("ok")
        return msgspec.structs.replace(
            document,
            generated_at=str(trio.current_time()),
            ledger=msgspec.structs.replace(document.ledger, sessions=sessions),
        )


class Rig:
    def __init__(self, seconds: float = 0.01) -> None:
        self.source = Source(seconds)
        self.changes = Changes()
        self.written = 0
        self.board = StatusBoard(
            gather=self.source.gather, changes=self.changes, written=lambda: self.written
        )

    async def sessions(self, **how: bool) -> int:
        return (await self.board.latest(**how)).document.ledger.sessions


async def test_two_hundred_who_ask_at_once_cost_one_gathering(autojump_clock: MockClock) -> None:
    rig = Rig()
    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(rig.board.latest)
    assert rig.source.count == 1
    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(lambda: rig.board.latest(fresh=True))
    assert rig.source.count == 2


async def test_polls_within_a_second_share_and_later_ones_do_not(autojump_clock: MockClock) -> None:
    rig = Rig()
    for _ in range(20):
        await rig.board.latest()
        await trio.sleep(0.04)
    assert rig.source.count == 1
    await trio.sleep(0.3)
    await rig.board.latest()
    assert rig.source.count == 2


async def test_a_change_is_seen_within_a_quarter_of_a_second_and_a_burst_costs_four_a_second(
    autojump_clock: MockClock,
) -> None:
    rig = Rig()
    for number in range(100):
        rig.changes.tell("ses_1")
        rig.source.sessions = number
        assert number - await rig.sessions() <= 30
        await trio.sleep(0.01)
    assert 4 <= rig.source.count <= 6


async def test_a_write_counts_as_a_change(autojump_clock: MockClock) -> None:
    rig = Rig()
    await rig.board.latest()
    await trio.sleep(0.5)
    rig.written, rig.source.sessions = 1, 7
    assert await rig.sessions() == 7


async def test_after_an_order_nobody_sees_what_was_before(autojump_clock: MockClock) -> None:
    rig = Rig(seconds=0.1)
    seen = []

    async def ask() -> None:
        seen.append(await rig.sessions())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.board.latest)
        await wait_all_tasks_blocked()  # a gathering from before the order is under way
        rig.source.sessions = 1
        rig.changes.tell_order()
        nursery.start_soon(ask)
        nursery.start_soon(ask)
    assert seen == [1, 1]
    assert rig.source.count == 2


async def test_who_wants_a_fresh_one_gets_one_that_was_begun_after_the_question(
    autojump_clock: MockClock,
) -> None:
    rig = Rig(seconds=0.1)
    await rig.board.latest()
    rig.source.sessions = 3
    assert await rig.sessions(fresh=True) == 3
    assert await rig.sessions() == 3


async def test_a_failure_is_told_to_each_and_kept_by_none(autojump_clock: MockClock) -> None:
    rig = Rig()
    rig.source.error = StoreError("the database is being closed")
    failed = []

    async def ask() -> None:
        with pytest.raises(StoreError):
            await rig.board.latest()
        failed.append(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(ask)
    assert len(failed) == 2
    rig.source.error = None
    assert await rig.sessions() == 0


async def test_one_who_gives_up_takes_nobody_along(autojump_clock: MockClock) -> None:
    rig = Rig(seconds=1.0)
    got = []

    async def ask() -> None:
        got.append(await rig.board.latest())

    async def give_up() -> None:
        with trio.move_on_after(0.5):
            await rig.board.latest()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_up)
        await wait_all_tasks_blocked()
        nursery.start_soon(ask)
    assert len(got) == 1


# --- following


async def follow(rig: Rig, told: list[Any]) -> None:
    following = cast("AsyncGenerator[StatusShot | None, None]", rig.board.follow())
    try:
        while True:
            shot = await anext(following)
            told.append((trio.current_time(), None if shot is None else shot.document.ledger.sessions))
    except StopAsyncIteration:
        return
    finally:
        await following.aclose()


async def test_who_follows_is_told_at_once_of_a_change_and_hears_a_beat_in_between(
    autojump_clock: MockClock,
) -> None:
    rig, told = Rig(seconds=0), list[Any]()
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, rig, told)
        await trio.sleep(10)
        rig.source.sessions = 1
        rig.changes.tell()
        await trio.sleep(FOLLOW_BEAT_SEC + 1)
        rig.changes.tell()  # and nothing is different
        await trio.sleep(1)
        rig.changes.close()
    assert [item[1] for item in told] == [0, 1, None, None]
    assert told[1][0] - start == pytest.approx(10)
    assert told[2][0] - start == pytest.approx(10 + 0.25 + FOLLOW_BEAT_SEC)
    assert rig.board.followers == 0


async def test_a_burst_is_told_four_times_a_second_and_its_end_is_not_missed(
    autojump_clock: MockClock,
) -> None:
    rig, told = Rig(seconds=0), list[Any]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, rig, told)
        for number in range(1, 201):
            await trio.sleep(0.01)
            rig.source.sessions = number
            rig.changes.tell()
        await trio.sleep(1)
        rig.changes.close()
    assert 8 <= len([item for item in told if item[1] is not None]) <= 10
    assert told[-1][1] == 200


async def test_many_who_follow_cost_one_gathering_a_change(autojump_clock: MockClock) -> None:
    rig, told = Rig(), list[Any]()
    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(follow, rig, told)
        await trio.sleep(5)
        rig.source.sessions = 1
        rig.changes.tell()
        await trio.sleep(1)
        assert rig.board.followers == 16
        rig.changes.close()
    assert rig.source.count == 2
    assert len(told) == 32
