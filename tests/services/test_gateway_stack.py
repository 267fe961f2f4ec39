"""Link, view and ledger together, as the node builds them, against a fake gateway under virtual time."""

import gc
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio
from trio.testing import MockClock

from ambientd.app.gateway_parts import Around, GatewayParts
from ambientd.config.schema import GatewayConfig
from ambientd.flows.preferred_models import PreferredModels
from ambientd.host.threads import run_inline
from ambientd.ports.gateway import LinkPhase
from ambientd.ports.store import Transaction
from ambientd.store.sqlite import SqliteStore
from tests.fakes.clock import TrioWallClock
from tests.fakes.gateway import FakeGateway
from tests.services.gatewayrig import Rig, linked


@asynccontextmanager
async def stacked(
    tmp_path: Path, gateway: FakeGateway
) -> AsyncIterator[tuple[Rig, GatewayParts, SqliteStore]]:
    """The node's own composition, but for the link, whose streams are in memory."""
    clock = TrioWallClock()
    store = SqliteStore(tmp_path / "ambient.db", clock=clock, run_sync=run_inline)
    async with linked(gateway) as rig, trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await store.wait_settled()
        around = Around(
            store=store,
            clock=clock,
            models=PreferredModels(),
            prices=lambda: None,
            changed=lambda _: None,
            ended=lambda _: None,
            status_changed=lambda: None,
            new_key=lambda: "key",
            log=rig.log,
        )
        parts = GatewayParts(GatewayConfig(), around, link=rig.link)
        nursery.start_soon(parts.view.run)
        for run in parts.store_services.values():
            nursery.start_soon(run)
        yield rig, parts, store
        nursery.cancel_scope.cancel()


def alive() -> Counter[str]:
    """What a leak of ours would be made of, and everything that the collector knows of."""
    gc.collect()
    found = Counter(type(one).__name__ for one in gc.get_objects())
    kinds = ("_Line", "_Waiter", "Conversation", "Listener", "Task", "Nursery")
    return Counter({"everything": found.total()} | {kind: found[kind] for kind in kinds})


async def test_ten_minutes_of_flapping_leak_neither_tasks_nor_memory_and_lose_no_run(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """FAULTS N4, with everything that hangs on the link."""
    gateway = FakeGateway()
    gateway.world.populate(300, age_ms=0)
    async with stacked(tmp_path, gateway) as (rig, parts, store):
        await rig.wait_until(lambda: parts.view.is_live)
        before, tasks, kept, made = gateway.connects, set[int](), list[Counter[str]](), list[str]()
        for second in range(600):
            gateway.up = False
            gateway.drop(1006)
            await trio.sleep(0.5)
            gateway.up = True
            if second % 100 == 7:
                session = gateway.world.create_session("tony", message="hi")
                gateway.world.finish(session.key)
                made.append(session.session_id)
            await trio.sleep(0.5)
            if second > 60:
                tasks.add(trio.lowlevel.current_statistics().tasks_living)
            if second in (120, 599):
                kept.append(alive())
        assert gateway.connects - before <= 80
        assert gateway.most_open <= 1
        assert max(tasks) - min(tasks) <= 8, "those of an open connection, and no more"
        grown = {kind: count - kept[0][kind] for kind, count in kept[1].items()}
        assert grown.pop("everything") <= 1_000, "a few kilobytes, of which trio's heap of deadlines is some"
        assert all(count <= 8 for count in grown.values()), grown
        assert len(parts.view.view) <= 300 + len(made)
        await rig.wait_phase(LinkPhase.READY, seconds=31)
        await trio.sleep(5)
        assert parts.view.is_live
        shown = {agent.id: agent for agent in parts.view.snapshot().agents}
        assert shown["tony"].status.value == "done"
        rows = [await store.read(partial(_status, name)) for name in made]
        assert rows == ["success"] * 6, "every run that came and went meanwhile"


def _status(session_id: str, tx: Transaction) -> str | None:
    row = tx.ledger.get(session_id)
    return None if row is None else row.status.value
