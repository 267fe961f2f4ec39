"""Reports that wait are written together, and none suffers for another."""

from collections.abc import Sequence
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ambientd.core.fleet.records import NodeReport, ReportOutcome
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.ports.fleet.store import FleetStore
from ambientd.services.fleet_reports import BATCH_MAX, WAITING_MAX, ReportsService
from tests.store.fleet.kit import report


class Facts:
    engine = "sqlite"


class ScriptedStore:
    """Takes reports when it is told to, and refuses what a test says."""

    def __init__(self) -> None:
        self.batches: list[list[NodeReport]] = []
        self.gate = trio.Event()
        self.errors: list[Exception] = []
        self.bad: set[str] = set()

    def facts(self) -> Facts:
        return Facts()

    async def write_reports(self, reports: Sequence[NodeReport]) -> list[ReportOutcome]:
        await self.gate.wait()
        await trio.lowlevel.checkpoint()
        if self.errors:
            raise self.errors.pop(0)
        if any(one.node_id in self.bad for one in reports):
            raise ValueError("cannot be stored")
        self.batches.append(list(reports))
        return [ReportOutcome(node_id=one.node_id) for one in reports]


class Rig:
    def __init__(self) -> None:
        self.store = ScriptedStore()
        self.service = ReportsService(cast("FleetStore", self.store))
        self.answers: dict[str, Any] = {}

    async def send(self, name: str, *reports: NodeReport) -> None:
        try:
            self.answers[name] = [o.node_id for o in await self.service.take(reports)]
        except (StoreError, UnavailableError, ValueError) as error:
            self.answers[name] = error


async def test_what_waits_shares_one_write_and_each_gets_its_own_answers(autojump_clock: MockClock) -> None:
    rig = Rig()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.service.run)
        for name in ("a", "b", "c"):
            nursery.start_soon(rig.send, name, report(f"{name}1"), report(f"{name}2"))
        await wait_all_tasks_blocked()
        rig.store.gate.set()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert rig.answers == {name: [f"{name}1", f"{name}2"] for name in ("a", "b", "c")}
    assert sum(len(batch) for batch in rig.store.batches) == 6
    assert len(rig.store.batches) <= 2, "the first may have begun alone"
    assert await rig.service.take([]) == []


async def test_one_that_cannot_be_stored_does_not_harm_the_others(autojump_clock: MockClock) -> None:
    rig = Rig()
    rig.store.bad = {"b"}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.service.run)
        for name in ("a", "b", "c"):
            nursery.start_soon(rig.send, name, report(name))
        await wait_all_tasks_blocked()
        rig.store.gate.set()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert rig.answers["a"] == ["a"]
    assert rig.answers["c"] == ["c"]
    assert isinstance(rig.answers["b"], ValueError)


async def test_trouble_of_the_store_is_told_to_each_and_the_next_goes_well(autojump_clock: MockClock) -> None:
    rig = Rig()
    rig.store.errors = [UnavailableError("away")]
    rig.store.gate.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.service.run)
        await rig.send("a", report("a"))
        await rig.send("b", report("b"))
        nursery.cancel_scope.cancel()
    assert isinstance(rig.answers["a"], UnavailableError)
    assert rig.answers["b"] == ["b"]


async def test_two_requests_with_one_number_never_share_a_write(autojump_clock: MockClock) -> None:
    rig = Rig()
    twins = [report("a", credential_id="c", request_seq=1) for _ in range(2)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.send, "first", twins[0])
        nursery.start_soon(rig.send, "second", twins[1])
        await wait_all_tasks_blocked()
        rig.store.gate.set()
        nursery.start_soon(rig.service.run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [len(batch) for batch in rig.store.batches] == [1, 1]


async def test_a_batch_is_bounded_and_so_is_what_waits(autojump_clock: MockClock) -> None:
    rig = Rig()
    each = BATCH_MAX // 4
    async with trio.open_nursery() as nursery:
        for n in range(WAITING_MAX // each):
            nursery.start_soon(rig.send, f"r{n}", *(report(f"n{n}") for _ in range(each)))
        await wait_all_tasks_blocked()
        with pytest.raises(UnavailableError, match="too many"):
            await rig.service.take([report("one more")])
        rig.store.gate.set()
        nursery.start_soon(rig.service.run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert max(len(batch) for batch in rig.store.batches) == BATCH_MAX
    assert sum(len(batch) for batch in rig.store.batches) == WAITING_MAX


async def test_who_gives_up_before_the_write_leaves_nothing(autojump_clock: MockClock) -> None:
    rig = Rig()
    rig.store.gate.set()
    with trio.move_on_after(1):
        await rig.service.take([report("gone")])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.service.run)
        await rig.send("b", report("b"))
        nursery.cancel_scope.cancel()
    assert rig.store.batches == [[report("b")]]


async def test_the_end_of_the_service_refuses_what_waits(autojump_clock: MockClock) -> None:
    rig = Rig()
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as inner:
            inner.start_soon(rig.service.run)
            nursery.start_soon(rig.send, "a", report("a"))
            await wait_all_tasks_blocked()
            nursery.start_soon(rig.send, "b", report("b"))
            await wait_all_tasks_blocked()
            inner.cancel_scope.cancel()
        await wait_all_tasks_blocked()
    assert isinstance(rig.answers["a"], StoreError)
    assert isinstance(rig.answers["b"], StoreError)
