from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ambientd.core.timefmt import to_ms
from ambientd.flows.gateway_ledger import GatewayLedger
from ambientd.host.threads import run_inline
from ambientd.ports.errors import StoreFullError
from ambientd.services.bell import Bell
from ambientd.services.gateway_ledger import GatewayLedgerService
from ambientd.services.gateway_view import GatewayViewService
from ambientd.store.sqlite import SqliteStore
from tests.fakes.clock import TrioWallClock
from tests.fakes.gateway_link import FakeGatewayLink
from tests.fakes.log import ListLog
from tests.fakes.store import TroubledStore


class Rig:
    """Both services around a scripted gateway and a real database."""

    def __init__(self, store: SqliteStore, clock: TrioWallClock) -> None:
        self.clock = clock
        self.store = TroubledStore(store)
        self.link = FakeGatewayLink()
        self.link.now_ms = lambda: to_ms(clock.now())
        self.link.agents = [{"id": "tony", "name": "Tony"}]
        self.link.audit = []
        self.log = ListLog()
        self.view = GatewayViewService(
            link=self.link,
            clock=clock,
            log=self.log,
            runs_changed=self._runs_changed,
            linked=self._linked,
        )
        self.service = GatewayLedgerService(
            ledger=GatewayLedger(
                link=self.link,
                view=self.view.view,
                store=self.store,
                clock=clock,
                prices=lambda: None,
                changed=lambda _: None,
                ended=lambda _: None,
            ),
            is_live=lambda: self.view.is_live,
            bell=Bell(),
            log=self.log,
        )

    def _runs_changed(self) -> None:
        self.service.wake()

    def _linked(self, restarted: bool) -> None:
        self.service.linked(restarted)

    def audit(self, run_id: str, status: str) -> None:
        """The gateway's audit list has one entry more."""
        assert self.link.audit is not None
        began = status == "started"
        self.link.audit.append(
            {
                "sequence": len(self.link.audit) + 1,
                "occurredAt": self.link.now_ms(),
                "agentId": "tony",
                "sessionId": "s1",
                "runId": run_id,
                "kind": "agent_run",
                "action": "agent.run.started" if began else "agent.run.finished",
                "status": status,
            }
        )

    async def said(self) -> dict[str, str]:
        def work(tx: Any) -> dict[str, str]:
            return {row.session_id: row.status.value for row in tx.ledger.find("s", 1_000)}

        return await self.store.read(work)


@asynccontextmanager
async def rigged(folder: Path, *, audited: bool = True) -> AsyncIterator[Rig]:
    clock = TrioWallClock()
    store = SqliteStore(folder / "ambient.db", clock=clock, ballast=0, run_sync=run_inline)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: store.run(task_status=task_status))
        await store.wait_settled()
        rig = Rig(store, clock)
        if not audited:
            rig.link.audit = None
        async with trio.open_nursery() as services:
            services.start_soon(rig.view.run)
            services.start_soon(rig.service.run)
            await wait_all_tasks_blocked()
            rig.link.up()
            await trio.sleep(5)
            yield rig
            services.cancel_scope.cancel()
        await store.close()


async def test_a_run_is_in_the_ledger_within_two_seconds_of_each_step(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.link.put(sessionId="s1", status="running", hasActiveRun=True, activeRunIds=["r1"])
        await trio.sleep(1)
        assert await rig.said() == {"s1": "running"}
        rig.audit("r1", "started")
        rig.link.put(sessionId="s1", status="failed", hasActiveRun=False, activeRunIds=[], lastRunId="r1")
        await trio.sleep(0.8)
        rig.audit("r1", "cancelled")  # the list is behind the row
        await trio.sleep(1.2)
        assert await rig.said() == {"s1": "killed"}


async def test_without_an_audit_list_rows_are_enough_and_it_is_not_asked_for_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path, audited=False) as rig:
        rig.link.put(sessionId="s1", status="running", hasActiveRun=True, activeRunIds=["r1"])
        await trio.sleep(1)
        rig.link.put(sessionId="s1", status="done", hasActiveRun=False, activeRunIds=[], lastRunId="r1")
        await trio.sleep(1)
        assert await rig.said() == {"s1": "success"}
        await trio.sleep(600)
        assert rig.link.count()["audit.activity.list"] == 1


async def test_what_happened_while_the_link_was_away_is_made_up_for(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.link.down()
        for number in range(120):
            rig.audit(f"r{number}", "started")
            rig.audit(f"r{number}", "succeeded")
        await trio.sleep(3_600)
        assert await rig.said() == {}
        rig.link.up()
        await trio.sleep(3)
        said = await rig.said()
        assert len(said) == 120
        assert set(said.values()) == {"success"}


async def test_a_full_disk_loses_nothing(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        rig.store.trouble = StoreFullError("the disk is full")
        rig.audit("r1", "started")
        rig.link.put(sessionId="s1", status="running", hasActiveRun=True, activeRunIds=["r1"])
        await trio.sleep(20)
        assert "gateway.ledger_failed" in rig.log.events()
        rig.store.trouble = None
        await trio.sleep(40)
        assert await rig.said() == {"s1": "running"}


async def test_an_idle_gateway_is_asked_little(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        before = rig.link.count()
        await trio.sleep(3_600)
        more = rig.link.count() - before
        assert more["audit.activity.list"] <= 130
        assert more["sessions.list"] <= 190
        assert sum(more.values()) <= 700
