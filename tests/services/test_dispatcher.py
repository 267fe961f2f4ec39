from collections.abc import Callable

import msgspec
import trio
from trio.testing import MockClock

from ambientd.services.dispatcher import BEATS_KEPT, Dispatcher, Identity, Work
from tests.fakes.clock import TrioWallClock
from tests.fakes.feed import ListFeed, ListHeartbeatFile

IDENTITY = Identity(
    actor="dispatcher",
    run_id="dispatcher:20261120T120000Z:pid7",
    host_id="sha256:" + "0" * 64,
    pid=7,
    started_ms=1_795_003_200_000,
)


class Node:
    """A dispatcher with fakes around it, and counters of what it called."""

    def __init__(self, *, interval: float = 60.0, sweep: Callable[[], None] | None = None) -> None:
        self.feed, self.file, self.clock = ListFeed(), ListHeartbeatFile(), TrioWallClock()
        self.swept = self.fed = 0
        self.picked_up = 0

        def default_sweep() -> None:
            self.swept += 1

        def fed() -> None:
            self.fed += 1

        def take() -> int:
            count, self.picked_up = self.picked_up, 0
            return count

        self.dispatcher = Dispatcher(
            identity=IDENTITY,
            interval=interval,
            feed=self.feed,
            heartbeat_file=self.file,
            work=Work(sweep=sweep or default_sweep, take_picked_up=take, active=lambda: 2, fed=fed),
            clock=self.clock,
        )

    async def run_for(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self.dispatcher.run()


async def test_the_first_beat_comes_at_once_and_then_one_each_interval(autojump_clock: MockClock) -> None:
    node = Node()
    await node.run_for(24 * 3600 + 1)
    assert len(node.feed.events) == 24 * 60 + 1
    assert [event["heartbeat_seq"] for event in node.feed.events] == list(range(1, 24 * 60 + 2))
    steps = {
        after["ts_epoch_ms"] - before["ts_epoch_ms"]
        for before, after in zip(node.feed.events, node.feed.events[1:], strict=False)
    }
    assert steps == {60_000}


async def test_each_cycle_sweeps_writes_the_file_beats_and_only_then_feeds_the_watchdog(
    autojump_clock: MockClock,
) -> None:
    node = Node()
    await node.run_for(121)
    assert (node.swept, len(node.file.documents), len(node.feed.events), node.fed) == (3, 3, 3, 3)
    assert [document["cycles"] for document in node.file.documents] == [1, 2, 3]
    assert [document["status"] for document in node.file.documents] == ["starting", "watching", "watching"]


async def test_a_dead_feed_and_a_dead_file_change_nothing_for_the_loop(autojump_clock: MockClock) -> None:
    node = Node()
    node.feed.broken, node.file.working = True, False
    await node.run_for(601)
    assert (node.swept, node.fed, node.feed.lost) == (11, 11, 11)


async def test_a_beat_tells_the_state_of_the_links_and_the_last_ones_are_kept(
    autojump_clock: MockClock,
) -> None:
    node = Node()
    states = ["Unknown"]
    node.dispatcher._work = msgspec.structs.replace(node.dispatcher._work, state=lambda: states[-1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.dispatcher.run)
        await trio.sleep(61)
        states.append("NoUpstream")
        await trio.sleep(24 * 3600)
        nursery.cancel_scope.cancel()
    assert [event["meta"]["state"] for event in node.feed.events][:3] == ["Unknown", "Unknown", "NoUpstream"]
    assert len(node.dispatcher.recent) == BEATS_KEPT
    assert node.dispatcher.recent[-1].seq == node.feed.events[-1]["heartbeat_seq"]
    assert node.dispatcher.recent[-1].at_ms == node.feed.events[-1]["ts_epoch_ms"]


async def test_a_beat_says_how_many_were_lost_before_it(autojump_clock: MockClock) -> None:
    node = Node()
    node.feed.broken = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.dispatcher.run)
        await trio.sleep(150)
        node.feed.broken = False
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    first, second = node.feed.events
    assert (first["heartbeat_seq"], first["meta"]["dropped"]) == (4, 3)
    assert "dropped" not in second["meta"]


async def test_a_stuck_loop_is_silent(autojump_clock: MockClock) -> None:
    stuck = trio.Event()

    class StuckFile(ListHeartbeatFile):
        async def write(self, document: object) -> bool:
            if len(self.documents) == 2:
                await stuck.wait()
            return await super().write(document)  # type: ignore[arg-type]

    node = Node()
    node.file = StuckFile()
    node.dispatcher._file = node.file
    await node.run_for(1000)
    assert len(node.feed.events) == 2
    assert node.fed == 2


async def test_after_a_long_sleep_of_the_machine_there_is_one_beat_not_one_per_missed_cycle(
    autojump_clock: MockClock,
) -> None:
    node = Node(interval=10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.dispatcher.run)
        await trio.sleep(5)
        autojump_clock.jump(600)
        await trio.sleep(11)
        nursery.cancel_scope.cancel()
    assert len(node.feed.events) == 3


async def test_the_beat_of_an_orderly_stop_comes_at_once(autojump_clock: MockClock) -> None:
    node = Node()
    await node.run_for(1)
    await node.dispatcher.stopped()
    assert node.file.documents[-1]["status"] == "stopped"
    assert len(node.feed.events) == 2


async def test_a_stop_in_the_middle_of_a_cycle_leaves_no_hole_in_the_numbers(
    autojump_clock: MockClock,
) -> None:
    class SlowFile(ListHeartbeatFile):
        async def write(self, document: object) -> bool:
            await trio.sleep(5)
            return await super().write(document)  # type: ignore[arg-type]

    node = Node()
    node.file = SlowFile()
    node.dispatcher._file = node.file
    await node.run_for(120 + 2)
    await node.dispatcher.stopped()
    assert [event["heartbeat_seq"] for event in node.feed.events] == [1, 2, 3]
    assert [document["cycles"] for document in node.file.documents] == [1, 2, 3]


async def test_sessions_taken_in_are_told_once_in_the_heartbeat_file(autojump_clock: MockClock) -> None:
    node = Node()
    node.picked_up = 3
    await node.run_for(61)
    assert [document["last_cycle_tasks"] for document in node.file.documents] == [3, 0]
    assert node.feed.events[0]["meta"]["active_sessions"] == 2


async def test_intervals_follow_the_monotonic_clock_when_somebody_sets_the_wall_clock(
    autojump_clock: MockClock,
) -> None:
    node = Node()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.dispatcher.run)
        await trio.sleep(30)
        node.clock.step(-86_400)
        await trio.sleep(300)
        nursery.cancel_scope.cancel()
    assert len(node.feed.events) == 6
