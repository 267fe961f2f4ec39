"""Virtual time, scripted links and upstream, and a real store for the audit where it matters."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio
from trio.testing import MockClock

from ambientd.config.upstream import ControlAddress, Place
from ambientd.core.connectivity import Action, Answer
from ambientd.flows.connectivity import Noted, record_change
from ambientd.ports.errors import StoreFullError
from ambientd.ports.store import Store
from ambientd.services.connectivity import RECORD_PAUSE_SEC, RECORDS_MAX, ConnectivityService, Wanted
from ambientd.wire.enums import Connectivity
from tests.fakes.clock import TrioWallClock
from tests.fakes.log import ListLog
from tests.fakes.prober import DOWN, ROUTED, ScriptedLinks, ScriptedUpstream
from tests.services.rig import rigged

ONLINE, OFFLINE, NONE = Connectivity.ONLINE, Connectivity.OFFLINE, Connectivity.NO_UPSTREAM
ADDRESS = ControlAddress(host="cp", port=443, tls=True, path="")
WANTED = Wanted(interval=30, timeout=5, misses=3, hold=15, control=ADDRESS)
NO = Answer(False, "connection refused")


class Watch:
    """A service with everything around it."""

    def __init__(self, wanted: Wanted = WANTED) -> None:
        self.wanted = wanted
        self.links, self.upstream, self.log = ScriptedLinks(), ScriptedUpstream(), ListLog()
        self.clock = TrioWallClock()
        self.recorded: list[Noted] = []
        self.trouble: Exception | None = None
        self.store: Store | None = None
        self.told: list[Connectivity] = []
        self.changes = 0
        self.service = ConnectivityService(
            links=self.links,
            upstream=self.upstream,
            wanted=lambda: self.wanted,
            record=self._record,
            clock=self.clock,
            passed=trio.current_time,
            jitter=lambda: 0.0,
            changed=self._changed,
            log=self.log,
        )
        self.service.on_change(lambda: self.told.append(self.service.state))

    def _changed(self) -> None:
        self.changes += 1

    async def _record(self, noted: Noted) -> None:
        await trio.lowlevel.checkpoint()
        if self.trouble is not None:
            raise self.trouble
        if self.store is not None:
            await record_change(self.store, noted)
        self.recorded.append(noted)

    @property
    def path(self) -> list[Connectivity]:
        """The states, in the order of their audit records."""
        return [noted.changed.after for noted in self.recorded]

    def change(self, **facts: Any) -> None:
        self.wanted = msgspec.structs.replace(self.wanted, **facts)


@asynccontextmanager
async def watching(wanted: Wanted = WANTED) -> AsyncIterator[Watch]:
    watch = Watch(wanted)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.service.run)
        nursery.start_soon(watch.service.record)
        yield watch
        nursery.cancel_scope.cancel()


async def test_before_the_first_round_nothing_that_needs_a_link_is_allowed(autojump_clock: MockClock) -> None:
    watch = Watch()
    assert watch.service.state is Connectivity.UNKNOWN
    assert not watch.service.may(Action.EGRESS)
    assert watch.service.may(Action.RECEIVE_SYNC)
    assert watch.recorded == []


async def test_the_control_plane_closes_and_opens_its_door(autojump_clock: MockClock) -> None:
    """R1.49, R1.50: three rounds until it counts as gone, the next good one brings it back."""
    async with watching() as watch:
        began = trio.current_time()
        await trio.sleep(100)
        assert [at - began for at in watch.links.asked_at] == [0, 30, 60, 90]
        watch.upstream.control = NO
        await trio.sleep(20.5)  # the round at 120
        assert watch.service.state is ONLINE
        await trio.sleep(6)  # those at 123 and 126
        assert [at - began for at in watch.links.asked_at[4:]] == [120, 123, 126]
        assert watch.service.state is OFFLINE
        watch.upstream.control = Answer(True)
        await trio.sleep(30)
        assert watch.service.state is ONLINE
        assert watch.path == [ONLINE, OFFLINE, ONLINE]
        assert watch.told == watch.path


async def test_each_change_is_one_record_and_one_line_and_nothing_else_is(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """R1.53, on a real audit chain."""
    async with rigged(tmp_path, started=False) as rig, watching() as watch:
        watch.store = rig.store
        await trio.sleep(1)
        for up in (False, True, False, True, False):
            watch.links.links = ROUTED if up else DOWN
            await trio.sleep(120)
        records = await rig.store.read(lambda tx: tx.activity.latest("node_state_transition", 100))
        assert [record.detail["to"] for record in reversed(records)] == [
            *["OnlineControlPlane", "NoUpstream"] * 3
        ]
        assert {record.detail["from"] for record in records} == {
            "Unknown",
            "OnlineControlPlane",
            "NoUpstream",
        }
        lines = [line for line in watch.log.lines if line[1] == "connectivity.changed"]
        assert [line[2]["after"] for line in lines] == [record.detail["to"] for record in reversed(records)]


async def test_without_a_link_nobody_is_asked(autojump_clock: MockClock) -> None:
    """R1.48: whatever the control plane would say."""
    async with watching(msgspec.structs.replace(WANTED, targets=(Place(host="t", port=1),))) as watch:
        watch.links.links = DOWN
        await trio.sleep(0.5)
        assert (watch.service.state, watch.upstream.asked) == (NONE, [])


async def test_told_to_be_offline_nobody_is_ever_asked_and_the_links_still_count(
    autojump_clock: MockClock,
) -> None:
    wanted = msgspec.structs.replace(WANTED, order="told so", targets=(Place(host="t", port=1),))
    async with watching(wanted) as watch:
        await trio.sleep(600)
        assert (watch.service.state, watch.upstream.asked) == (OFFLINE, [])
        assert watch.service.seen(watch.clock.now()).state.reason == "told so"
        watch.links.links = DOWN
        await trio.sleep(120)
        assert (watch.service.state, watch.upstream.asked) == (NONE, [])
        watch.links.links = ROUTED
        watch.change(order="")
        watch.service.wake()
        await trio.sleep(60)
        assert watch.service.state is ONLINE


async def test_an_order_counts_at_once_even_before_the_next_round(autojump_clock: MockClock) -> None:
    async with watching() as watch:
        await trio.sleep(5)
        assert watch.service.may(Action.RECONCILE)
        watch.change(order="told so")
        assert not watch.service.may(Action.RECONCILE)
        watch.service.wake()
        await trio.sleep(2)
        assert watch.service.state is OFFLINE, "the hold of 15 s is not for orders"


async def test_one_target_that_answers_is_enough_and_ends_the_waiting(autojump_clock: MockClock) -> None:
    targets = (Place(host="dead", port=1), Place(host="good", port=1))
    async with watching(msgspec.structs.replace(WANTED, targets=targets, control=None)) as watch:
        watch.upstream.targets = {"good": Answer(True)}
        await trio.sleep(1)
        assert watch.service.state is OFFLINE
        watch.upstream.targets = {}
        await trio.sleep(60)
        assert watch.service.state is NONE
        assert "no target answers" in watch.service.seen(watch.clock.now()).state.reason


async def test_a_silent_control_plane_costs_its_timeout_and_no_more(autojump_clock: MockClock) -> None:
    async with watching() as watch:
        watch.upstream.takes = 1e6
        began = trio.current_time()
        await trio.sleep(100)
        assert [at - began for at in watch.links.asked_at] == [0, 35, 70]
        assert watch.service.seen(watch.clock.now()).state.reason == "no answer in time"


async def test_interfaces_that_cannot_be_read_in_time_do_not_stop_the_rest(autojump_clock: MockClock) -> None:
    async with watching() as watch:
        watch.links.takes = 1e6
        await trio.sleep(6)
        assert watch.service.state is ONLINE, "the control plane answers, so there is a link"


async def test_a_wake_asks_soon_and_a_thousand_ask_no_more_than_once_a_second(
    autojump_clock: MockClock,
) -> None:
    async with watching() as watch:
        await trio.sleep(10)
        for _ in range(1000):
            watch.service.wake()
            await trio.sleep(0.01)
        assert 10 <= len(watch.links.asked_at) <= 12


async def test_a_round_that_was_stopped_in_the_middle_accuses_nobody(autojump_clock: MockClock) -> None:
    """SIGSTOP, or a machine that slept: the missing answers are our own doing (T5)."""
    async with watching(msgspec.structs.replace(WANTED, misses=1, hold=0)) as watch:
        await trio.sleep(10)
        assert watch.service.state is ONLINE
        real = watch.upstream.ask_control
        slept: list[bool] = []

        async def stopped(address: ControlAddress, **facts: Any) -> Answer:
            if slept:
                return await real(address, **facts)
            slept.append(True)
            await trio.sleep(60)  # longer than any deadline of the service would have let it
            return Answer(False, "no answer in time")

        watch.upstream.ask_control = stopped  # type: ignore[method-assign]
        await trio.sleep(90)
        assert slept
        assert watch.path == [ONLINE]


async def test_a_machine_that_is_always_so_slow_still_gets_its_verdict(autojump_clock: MockClock) -> None:
    async with watching(msgspec.structs.replace(WANTED, misses=1, hold=0)) as watch:

        async def slow(address: ControlAddress, **facts: Any) -> Answer:
            await trio.sleep(20)
            return NO

        watch.upstream.ask_control = slow  # type: ignore[method-assign]
        await trio.sleep(45)
        assert watch.service.state is OFFLINE


async def test_after_a_long_stop_there_is_one_round_not_one_for_each_that_was_missed() -> None:
    clock = MockClock()

    async def main() -> None:
        watch = Watch()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.service.run)
            await trio.testing.wait_all_tasks_blocked()
            assert len(watch.links.asked_at) == 1
            clock.jump(3600)
            for _ in range(5):
                await trio.testing.wait_all_tasks_blocked()
            assert len(watch.links.asked_at) == 2
            nursery.cancel_scope.cancel()

    await _in_thread(lambda: trio.run(main, clock=clock))


async def _in_thread(work: Callable[[], object]) -> None:
    await trio.to_thread.run_sync(work)


async def test_a_clock_that_is_set_makes_no_duration_negative(autojump_clock: MockClock) -> None:
    """T3."""
    async with watching() as watch:
        await trio.sleep(100)
        for jump in (86400, -86400, 10 * 365 * 86400, -20 * 365 * 86400):
            watch.clock.step(jump)
            now = watch.clock.now()
            seen = watch.service.seen(now)
            assert seen.duration >= 95
            assert abs((now - seen.since).total_seconds() - seen.duration) <= 2
            asked = len(watch.links.asked_at)
            await trio.sleep(60)
            assert len(watch.links.asked_at) - asked == 2, "intervals are as they were"
        assert watch.path == [ONLINE]


async def test_a_full_disk_delays_the_records_and_stops_nothing(autojump_clock: MockClock) -> None:
    async with watching(msgspec.structs.replace(WANTED, misses=1, hold=1, interval=1)) as watch:
        watch.trouble = StoreFullError("disk full")
        await trio.sleep(3)
        watch.links.links = DOWN
        await trio.sleep(5)
        assert (watch.service.state, watch.recorded) == (NONE, [])
        assert watch.service.seen(watch.clock.now()).unrecorded == "disk full"
        assert watch.log.events().count("connectivity.not_recorded") == 1
        watch.trouble = None
        await trio.sleep(RECORD_PAUSE_SEC)
        assert watch.path == [ONLINE, NONE]
        assert watch.recorded[0].at < watch.recorded[1].at
        assert watch.service.seen(watch.clock.now()).unrecorded is None


async def test_too_many_waiting_records_cost_the_oldest_and_are_counted(autojump_clock: MockClock) -> None:
    async with watching(msgspec.structs.replace(WANTED, misses=1, hold=0, interval=1)) as watch:
        watch.trouble = StoreFullError("disk full")
        for n in range(2 * RECORDS_MAX):
            watch.links.links = DOWN if n % 2 else ROUTED
            watch.service.wake()
            await trio.sleep(1.1)
        changes = len(watch.told)
        assert changes > RECORDS_MAX
        watch.trouble = None
        await trio.sleep(RECORD_PAUSE_SEC + 1)
        lost = sum(noted.lost for noted in watch.recorded)
        assert (len(watch.recorded), lost) == (RECORDS_MAX, changes - RECORDS_MAX)
        assert watch.service.seen(watch.clock.now()).lost == lost


async def test_the_status_is_told_of_what_a_reader_would_see_and_of_nothing_else(
    autojump_clock: MockClock,
) -> None:
    async with watching() as watch:
        await trio.sleep(1)
        assert watch.changes == 1
        await trio.sleep(300)
        assert watch.changes == 1
        watch.upstream.control = NO
        await trio.sleep(31)
        assert watch.changes == 2, "the first miss shows"
        seen = watch.service.seen(watch.clock.now())
        assert (seen.failures, seen.due > watch.clock.now()) == (1, True)


async def test_the_control_planes_own_since_survives_a_lost_link(autojump_clock: MockClock) -> None:
    async with watching() as watch:
        await trio.sleep(100)
        watch.upstream.control = NO
        await trio.sleep(60)
        away = watch.service.seen(watch.clock.now()).control_since
        watch.links.links = DOWN
        await trio.sleep(120)
        seen = watch.service.seen(watch.clock.now())
        assert watch.service.state is NONE
        assert seen.control_since == away < seen.since
