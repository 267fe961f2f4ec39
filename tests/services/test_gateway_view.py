import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ambientd.core.gatewaytext import GatewaySnapshot
from ambientd.core.timefmt import rfc3339_ms, to_ms
from ambientd.ports.gateway import LinkPhase
from ambientd.services.gateway_view import GAP_MAX_SEC, GatewayViewService
from ambientd.wire.enums import AgentStatus
from tests.fakes.clock import EPOCH, TrioWallClock
from tests.fakes.gateway_link import FakeGatewayLink
from tests.fakes.log import ListLog


class Rig:
    def __init__(self) -> None:
        self.clock = TrioWallClock()
        self.link = FakeGatewayLink()
        self.link.now_ms = lambda: to_ms(self.clock.now())
        self.link.agents = [
            {"id": "main"},
            {"id": "tony", "name": "Tony", "model": {"primary": "mock/mock-fast"}},
        ]
        self.log = ListLog()
        self.runs_changed = self.changes = 0
        self.news = trio.Event()
        self.service = GatewayViewService(
            link=self.link,
            clock=self.clock,
            log=self.log,
            runs_changed=self._runs_changed,
            changed=self._changed,
        )

    def _changed(self) -> None:
        self.changes += 1
        self.news.set()
        self.news = trio.Event()

    def _runs_changed(self) -> None:
        self.runs_changed += 1
        self.service.view.take_dirty(1_000)  # as the ledger does

    def shown(self) -> GatewaySnapshot:
        return self.service.snapshot()

    def status(self, agent: str = "tony") -> str:
        return {view.id: view.status.value for view in self.shown().agents}[agent]


@asynccontextmanager
async def rigged(*, up: bool = True) -> AsyncIterator[Rig]:
    rig = Rig()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.service.run)
        await wait_all_tasks_blocked()
        if up:
            rig.link.up()
            await trio.sleep(1)
        yield rig
        nursery.cancel_scope.cancel()


async def test_a_change_is_seen_at_once_without_asking_the_gateway(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        assert rig.status() == "idle"
        before = rig.link.count()
        news = rig.news
        rig.link.put(sessionId="s1", status="running", hasActiveRun=True)
        began = trio.current_time()
        await news.wait()
        assert rig.status() == "running"
        news = rig.news
        rig.link.put(sessionId="s1", status="done", hasActiveRun=False)
        await news.wait()
        assert rig.status() == "done"
        assert trio.current_time() - began < 0.25
        assert rig.link.count() == before


async def test_a_burst_of_requests_asks_the_gateway_nothing(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        rig.link.put(sessionId="s1", status="running", hasActiveRun=True)
        await wait_all_tasks_blocked()
        before = rig.link.count()
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(_ask, rig)
        more = rig.link.count() - before
        assert all(count <= 2 for count in more.values()), more


async def _ask(rig: Rig) -> None:
    await trio.lowlevel.checkpoint()
    assert rig.status() == "running"


async def test_without_events_the_status_is_polled_and_at_most_two_seconds_old(
    autojump_clock: MockClock,
) -> None:
    async with rigged(up=False) as rig:
        rig.link.subscribes = False
        rig.link.up()
        await trio.sleep(1)
        late = []
        for number in range(20):
            await trio.sleep(0.37 * number % 3)
            word, active = ("running", True) if number % 2 == 0 else ("done", False)
            rig.link.put(sessionId="s1", status=word, hasActiveRun=active)
            began = trio.current_time()
            while rig.status() != word:
                await trio.sleep(0.05)
            late.append(trio.current_time() - began)
        assert max(late) <= 2.0
        assert rig.shown().status.live == "polling"
        assert rig.link.count()["agents.list"] < rig.link.count()["sessions.list"] / 5


async def test_the_last_good_data_stay_ten_seconds_and_then_every_agent_is_idle(
    autojump_clock: MockClock,
) -> None:
    async with rigged() as rig:
        rig.link.put(sessionId="s1", status="running", hasActiveRun=True)
        await trio.sleep(1)
        lost_at = rig.clock.now()
        rig.link.down()
        await trio.sleep(5)
        shown = rig.shown()
        assert rig.status() == "running"
        assert shown.status.connected
        assert shown.as_of is not None
        assert abs(shown.as_of - lost_at) < timedelta(seconds=1)
        assert shown.status.as_of == rfc3339_ms(shown.as_of)
        told = rig.changes
        await trio.sleep(4.9)
        assert rig.status() == "running"
        await trio.sleep(1.1)
        shown = rig.shown()
        assert [view.status for view in shown.agents] == [AgentStatus.IDLE, AgentStatus.IDLE]
        assert {view.reason for view in shown.agents} == {"the gateway is not connected"}
        assert (shown.status.connected, shown.status.healthy, shown.as_of) == (False, False, None)
        assert shown.status.reason == "connection refused"
        assert rig.changes > told, "those who stream hear of it"
        assert all(view.session_id is None and view.running == 0 for view in shown.agents)


async def test_what_changed_while_the_link_was_away_is_there_after_it(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        rig.link.put(sessionId="s1", status="running", hasActiveRun=True)
        await trio.sleep(1)
        rig.link.down()
        rig.link.put(sessionId="s1", status="failed", hasActiveRun=False, lastRunError="it broke")
        await trio.sleep(30)
        rig.link.up()
        await trio.sleep(0.5)
        view = next(view for view in rig.shown().agents if view.id == "tony")
        assert (view.status, view.reason) == (AgentStatus.FAILED, "it broke")
        assert rig.shown().status.connected
        assert rig.link.count()["sessions.subscribe"] == 2


async def test_a_short_loss_is_not_seen(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        rig.link.put(sessionId="s1", status="running", hasActiveRun=True)
        await trio.sleep(1)
        rig.link.down()
        await trio.sleep(3)
        rig.link.up()
        for _ in range(20):
            assert rig.status() == "running"
            await trio.sleep(0.1)
        assert rig.shown().as_of is None


async def test_before_the_first_connection_nothing_is_known(autojump_clock: MockClock) -> None:
    async with rigged(up=False) as rig:
        shown = rig.shown()
        assert (shown.status.connected, shown.agents) == (False, ())
        rig.link.down("wrong token", LinkPhase.REFUSED)
        await trio.sleep(1)
        assert rig.shown().status.reason == "wrong token"
        assert rig.service.away_sec() > 0


async def test_a_reconcile_finds_what_no_event_told(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        rig.link.put(tell=False, sessionId="s1", status="running", hasActiveRun=True)
        await trio.sleep(25)
        assert rig.status() == "running"
        del rig.link.rows["agent:tony:dashboard:s1"]
        await trio.sleep(25)
        assert rig.status() == "idle", "a session that is gone runs no more"


@pytest.mark.parametrize("cause", ["missed", "unkeyed"])
async def test_lost_events_are_made_up_for_at_once_and_never_by_a_storm(
    cause: str, autojump_clock: MockClock
) -> None:
    async with rigged() as rig:
        await trio.sleep(15)
        rig.link.put(tell=False, sessionId="s1", status="running", hasActiveRun=True)
        before, began = rig.link.count(), trio.current_time()
        for _ in range(600):
            if cause == "missed":
                rig.link.miss()
            else:
                rig.link.event("sessions.changed", {"reason": "cron-bindings-loaded"})
            await trio.sleep(0.1)
            if rig.status() == "running" and trio.current_time() - began < 1:
                began -= 1  # seen within a second
        assert rig.status() == "running"
        assert began < trio.current_time() - 60
        assert rig.link.count()["sessions.list"] - before["sessions.list"] <= 60 / GAP_MAX_SEC + 5


async def test_a_gateway_that_says_it_is_slow_is_listed_less_often(autojump_clock: MockClock) -> None:
    async with rigged(up=False) as rig:
        rig.link.health = {"ok": True, "eventLoop": {"degraded": True}}
        rig.link.up()
        await trio.sleep(600)
        assert rig.link.count()["sessions.list"] <= 12
        rig.link.health = {"ok": True}
        rig.link.event("health", {"ok": True, "eventLoop": {"degraded": False}})
        before = rig.link.count()["sessions.list"]
        await trio.sleep(600)
        assert rig.link.count()["sessions.list"] - before >= 25


async def test_health_says_whether_the_gateway_is_well_and_may_be_absent(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        assert rig.shown().status.healthy
        rig.link.event("health", {"ok": False})
        await wait_all_tasks_blocked()
        await trio.sleep(1)
        assert (rig.shown().status.connected, rig.shown().status.healthy) == (True, False)
    async with rigged(up=False) as rig:

        def refuse(_: object) -> Any:
            from ambientd.ports.gateway import GatewayRefusedError

            raise GatewayRefusedError("FORBIDDEN", "missing scope: operator.admin")

        rig.link.answers = {"health": refuse, "last-heartbeat": refuse}
        rig.link.up()
        await trio.sleep(2)
        assert rig.shown().status.healthy


async def test_a_draining_gateway_keeps_its_last_state_and_is_asked_nothing(
    autojump_clock: MockClock,
) -> None:
    async with rigged() as rig:
        rig.link.put(sessionId="s1", status="running", hasActiveRun=True)
        await trio.sleep(1)
        rig.link.drain()
        before = rig.link.count()
        await trio.sleep(60)
        assert rig.link.count() == before
        assert rig.status() == "running"
        assert (rig.shown().status.connected, rig.shown().status.healthy) == (True, False)
        rig.link.put(sessionId="s1", status="done", hasActiveRun=False)
        await trio.sleep(1)
        assert rig.status() == "done", "events go on"


async def test_a_gateway_that_will_not_list_is_connected_and_not_well(autojump_clock: MockClock) -> None:
    async with rigged(up=False) as rig:

        def refuse(_: object) -> Any:
            from ambientd.ports.gateway import GatewayRefusedError

            raise GatewayRefusedError("FORBIDDEN", "missing scope: operator.read")

        rig.link.answers = {"agents.list": refuse}
        rig.link.up()
        await trio.sleep(600)
        status = rig.shown().status
        assert (status.connected, status.healthy) == (True, False)
        assert "operator.read" in (status.reason or "")
        assert rig.link.count()["agents.list"] < 30, "asked less and less often"
        assert rig.log.events().count("gateway.list_failed") == 1


async def test_flapping_for_ten_minutes_costs_a_bounded_number_of_calls_and_no_memory(
    autojump_clock: MockClock,
) -> None:
    async with rigged() as rig:
        for number in range(600):
            rig.link.down()
            await trio.sleep(0.5)
            rig.link.up(restarted=number % 7 == 0)
            rig.link.put(sessionId=f"s{number}", status="done", hasActiveRun=False)
            await trio.sleep(0.5)
        counts = rig.link.count()
        assert counts["sessions.list"] <= 2 * 600
        assert counts["sessions.subscribe"] <= 610
        assert len(rig.service.view) <= 60
        await trio.sleep(5)
        assert rig.status() == "done"


async def test_forty_agents_and_five_thousand_sessions_never_hold_the_loop(autojump_clock: MockClock) -> None:
    async with rigged(up=False) as rig:
        now = to_ms(EPOCH)
        rig.link.agents = [{"id": f"agent{n}"} for n in range(40)]
        for number in range(5_000):
            rig.link.put(
                tell=False,
                sessionId=f"s{number}",
                agentId=f"agent{number % 40}",
                status="done" if number % 9 else "running",
                hasActiveRun=number % 9 == 0,
                updatedAt=now - number * 3_000,
                displayName="x" * 40,
                unknownField={"nested": ["x"] * 20},
            )
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        rig.link.up()
        await trio.sleep(5)
        began = time.thread_time()
        shown = rig.shown()
        asked = time.thread_time() - began
        trio.lowlevel.remove_instrument(steps)
        assert sum(view.running for view in shown.agents) == 556
        assert rig.link.count()["sessions.list"] == 50
        assert all(params.get("limit") == 100 for name, params in rig.link.calls if name == "sessions.list")
        assert steps.longest < 0.2, "far more than a step takes, for machines that are busy with others"
        assert steps.typical < 0.02
        assert asked < 0.1


class Steps(trio.abc.Instrument):
    """How long tasks held the loop; the fake's own sorting of 5,000 rows counts with them."""

    def __init__(self) -> None:
        self._began = time.thread_time()
        self.taken: list[float] = []

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.taken.append(time.thread_time() - self._began)

    @property
    def longest(self) -> float:
        return max(self.taken)

    @property
    def typical(self) -> float:
        """What nine of ten of the longer steps stay below."""
        longer = sorted(self.taken)[-60:]
        return longer[len(longer) * 9 // 10 - 1]


async def test_a_settling_row_is_looked_at_until_it_has_settled_though_nobody_tells_of_it(
    autojump_clock: MockClock,
) -> None:
    """After a restart an older gateway calls a lost run running, then failed, without an event."""
    async with rigged() as rig:
        rig.link.put(sessionId="s1", status="running", hasActiveRun=False)
        await trio.sleep(1)
        assert rig.status() == "running"
        assert rig.shown().agents[1].reason == "settling"
        await trio.sleep(5)
        assert rig.shown().agents[1].reason == "settling"
        row = next(iter(rig.link.rows.values()))
        row |= {"status": "failed", "updatedAt": rig.link.now_ms()}
        await trio.sleep(2.5)
        assert rig.status() == "failed"
        before = rig.link.count()["sessions.describe"]
        await trio.sleep(100)
        assert rig.link.count()["sessions.describe"] == before


async def test_a_row_that_never_settles_is_not_looked_at_for_ever(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        rig.link.put(sessionId="s1", status="running", hasActiveRun=False)
        await trio.sleep(70)
        assert rig.status() == "idle"
        before = rig.link.count()["sessions.describe"]
        assert before <= 32
        await trio.sleep(600)
        assert rig.link.count()["sessions.describe"] == before


async def test_tokens_that_come_after_the_end_are_asked_for(autojump_clock: MockClock) -> None:
    async with rigged() as rig:
        rig.link.put(sessionId="s1", status="running", hasActiveRun=True)
        rig.link.put(sessionId="s1", status="done", hasActiveRun=False, endedAt=rig.link.now_ms())
        await trio.sleep(3)
        row = next(iter(rig.link.rows.values()))
        row |= {"inputTokens": 903, "outputTokens": 42, "totalTokensFresh": True}
        rig.runs_changed = 0
        await trio.sleep(3)
        assert rig.service.view.find("s1")[0].output_tokens == 42
        assert rig.runs_changed == 1
        before = rig.link.count()["sessions.describe"]
        await trio.sleep(15)
        assert rig.link.count()["sessions.describe"] == before
