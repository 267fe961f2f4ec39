"""The alerts service on virtual time: when it sweeps, whom it tells, and that nobody can hold it up."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import trio
import trio.testing

from ambientd.core.rejection import Rejected
from ambientd.flows import alerts as flow
from ambientd.ports.errors import StoreError, StoreFullError
from ambientd.ports.notifier import Undelivered
from ambientd.services.alerts import AlertsService
from ambientd.wire.alert_messages import NotifierTestAnswer
from tests.fakes.alerts import AlertRig, ListNotifier, alerting
from tests.fakes.log import ListLog

Clock = trio.testing.MockClock
COST = {"metric": "daily_cost_usd", "window": "5m", "warnThreshold": 1, "criticalThreshold": 5}


class Served:
    """A running service."""

    def __init__(self, rig: AlertRig, **notifiers: ListNotifier) -> None:
        self.rig = rig
        self.notifiers = notifiers
        self.log = ListLog()
        self.service = AlertsService(
            alerting=rig.alerting, notifiers=notifiers, bell=rig.bell, sweep_interval=300.0, log=self.log
        )

    @property
    def ops(self) -> ListNotifier:
        return self.notifiers["ops"]

    async def end(self, status: str = "success", **facts: Any) -> None:
        """A session ends, and the flow that wrote it says so."""
        await self.rig.end(status, **facts)
        self.service.ended("ses_1")


@asynccontextmanager
async def served(tmp_path: Path, **notifiers: ListNotifier) -> AsyncIterator[Served]:
    receivers = notifiers or {"ops": ListNotifier()}
    async with alerting(tmp_path, notifiers=tuple(receivers)) as rig, trio.open_nursery() as nursery:
        found = Served(rig, **receivers)
        nursery.start_soon(found.service.run)
        await trio.sleep(2)
        yield found
        nursery.cancel_scope.cancel()


async def test_the_end_of_a_session_is_evaluated_within_seconds(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with served(tmp_path) as found:
        await found.rig.add()
        await found.end("failed")
        await trio.sleep(2)
        assert found.ops.reasons == ["active"]
        assert found.log.events() == ["alerts.changed"]


async def test_an_alert_resolves_although_nobody_asks_for_anything(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with served(tmp_path) as found:
        await found.rig.add(**COST)
        await found.end(cost=9.0)
        await trio.sleep(2)
        assert found.ops.reasons == ["active"]
        await trio.sleep(601)  # the window, and at most one sweep more
        assert found.ops.reasons == ["active", "resolved"]
        await trio.sleep(7200)
        assert found.ops.reasons == ["active", "resolved"]


async def test_an_alert_over_a_ratio_resolves_too_once_its_window_has_stayed_empty(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with served(tmp_path) as found:
        await found.rig.add(window="5m")
        await found.end("failed")
        await trio.sleep(1000)
        assert found.ops.reasons == ["active", "resolved"]


async def test_it_sweeps_every_five_minutes_without_being_woken(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with served(tmp_path) as found:
        await found.rig.add(**COST)
        seen = []
        for _ in range(4):
            await trio.sleep(300)
            state = await found.rig.store.read(lambda tx: list(tx.alerts.states().values()))
            seen.append(state[0].last_evaluated_at)
        assert len(set(seen)) == 4


async def test_many_ends_at_once_are_one_evaluation(autojump_clock: Clock, tmp_path: Path) -> None:
    async with served(tmp_path) as found:
        await found.rig.add()
        await trio.sleep(5)
        before = found.rig.real_store.facts().commits
        await found.rig.end("failed", count=100)
        for _ in range(100):
            found.service.ended("ses_1")
        await trio.sleep(250)
        # one commit for the sessions, one for the sweep, one that takes the notification out
        assert found.rig.real_store.facts().commits - before == 3


async def test_every_notifier_is_told_and_none_waits_for_another(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    slow, good = ListNotifier(timeout=60.0), ListNotifier()
    slow.failures = [50.0]
    async with served(tmp_path, slow=slow, good=good) as found:
        await found.rig.add()
        await found.end("failed")
        await trio.sleep(3)
        assert (slow.reasons, good.reasons) == ([], ["active"])
        await trio.sleep(60)
        assert slow.reasons == ["active"]


async def test_a_failing_delivery_is_tried_again_with_doubling_pauses_and_then_given_up(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    ops = ListNotifier(attempts=5)
    ops.failures = [Undelivered("answered 503")] * 5
    async with served(tmp_path, ops=ops) as found:
        await found.rig.add(**COST)
        await found.end(cost=2.0)
        await trio.sleep(60)
        assert [round(after - before) for before, after in pairwise(ops.tried_at)] == [1, 2, 4, 8]
        assert found.service.failing == {"ops": "answered 503"}
        failures = [facts for _, event, facts in found.log.lines if event == "alerts.not_delivered"]
        assert [facts["given_up"] for facts in failures] == [False, False, False, False, True]
        counters = await found.rig.store.read(lambda tx: tx.tasks.counters())
        assert counters[flow.FAILED] == 1
        await trio.sleep(900)  # it is not tried once more, and the next news gets through
        assert ops.reasons == ["resolved"]
        assert found.service.failing == {}


async def test_a_delivery_that_cannot_go_better_is_not_repeated(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    ops = ListNotifier(attempts=5)
    ops.failures = [Undelivered("answered 404", again=False)]
    async with served(tmp_path, ops=ops) as found:
        await found.rig.add()
        await found.end("failed")
        await trio.sleep(60)
        assert len(ops.tried_at) == 1


async def test_a_notifier_that_hangs_costs_its_own_time_and_nothing_else(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    ops = ListNotifier(timeout=10.0, attempts=2)
    ops.failures = [1e9, 1e9]
    async with served(tmp_path, ops=ops) as found:
        await found.rig.add(**COST)
        await found.end(cost=2.0)
        await trio.sleep(30)
        assert found.service.failing == {"ops": "not done within 10 s"}
        await trio.sleep(900)
        assert ops.reasons == ["resolved"]


async def test_what_was_not_delivered_before_a_stop_is_delivered_after_it(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    hung, after = ListNotifier(timeout=60.0), ListNotifier()
    hung.failures = [50.0]
    async with served(tmp_path, ops=hung) as found:
        await found.rig.add()
        await found.end("failed")
        await trio.sleep(3)
        clock = found.rig.clock
    assert hung.reasons == []
    async with alerting(tmp_path, clock=clock) as rig, trio.open_nursery() as nursery:
        again = Served(rig, ops=after)
        nursery.start_soon(again.service.run)
        await trio.sleep(3)
        assert after.reasons == ["active"]
        nursery.cancel_scope.cancel()


async def test_a_store_in_trouble_is_waited_for(autojump_clock: Clock, tmp_path: Path) -> None:
    async with served(tmp_path) as found:
        await found.rig.add()
        await found.end("failed")
        for trouble in (StoreFullError("the disk is full"), StoreError("read-only")):
            found.rig.store.trouble = trouble
            await trio.sleep(100)
        assert found.ops.reasons == []
        assert set(found.log.events()) == {"alerts.sweep_failed"}
        found.rig.store.trouble = None
        await trio.sleep(15)
        assert found.ops.reasons == ["active"]


async def test_a_trial_is_one_attempt_and_says_how_it_went(autojump_clock: Clock, tmp_path: Path) -> None:
    async with served(tmp_path) as found:
        assert await found.service.try_out("ops") == NotifierTestAnswer(True, "ops", "list", 0)
        (told,) = found.ops.told
        assert (told.reason.value, told.text) == ("test", "test notification of edge-07")
        found.ops.failures = [Undelivered("answered 500")]
        failed = await found.service.try_out("ops")
        assert failed == NotifierTestAnswer(False, "ops", "list", 0, "answered 500")
        unknown = await found.service.try_out("opps")
        assert isinstance(unknown, Rejected)
        assert (unknown.code, unknown.details[0].message) == (
            "NOT_FOUND",
            "no notifier has this name; known: ops",
        )


async def test_a_trial_does_not_take_longer_than_somebody_waits(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with served(tmp_path, ops=ListNotifier(timeout=60.0)) as found:
        found.ops.failures = [1e9]
        answer = await found.service.try_out("ops")
        assert answer == NotifierTestAnswer(False, "ops", "list", 20_000, "not done within 20 s")
