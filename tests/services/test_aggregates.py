"""When sums are looked after: soon after the start, and every five minutes from then on."""

from pathlib import Path

import trio
from trio.testing import MockClock

from ambientd.flows.analytics import Analytics
from ambientd.host.threads import run_inline
from ambientd.host.zones import find_zone
from ambientd.ports.errors import StoreBusyError
from ambientd.services.aggregates import EVERY_SEC, FIRST_AFTER_SEC, AggregatesService
from tests.fakes.log import ListLog
from tests.fakes.store import TroubledStore
from tests.store.kit import StillClock, opened
from tests.store.usagekit import ended


async def test_lost_days_are_built_again_and_a_failure_is_told_and_survived(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path / "a.db", run_sync=run_inline) as real, trio.open_nursery() as nursery:
        store, log = TroubledStore(real), ListLog()
        analytics = Analytics(store=store, clock=StillClock(), find_zone=find_zone)
        await real.write(lambda tx: ended(tx, "one"))
        lose = "DELETE FROM daily_usage_agg"
        await real.write(lambda tx: tx._connection.execute(lose))
        nursery.start_soon(AggregatesService(analytics=analytics, log=log).run)
        await trio.sleep(FIRST_AFTER_SEC - 1)
        assert await real.read(lambda tx: tx.usage.incomplete_days(5)) == ["2026-11-20"]
        await trio.sleep(2)
        assert await real.read(lambda tx: tx.usage.incomplete_days(5)) == []
        assert log.events() == ["aggregates.rebuilt"]
        store.trouble, store.reads_too = StoreBusyError("held"), True
        await trio.sleep(EVERY_SEC)
        assert log.events() == ["aggregates.rebuilt", "aggregates.failed"]
        store.trouble = None
        await real.write(lambda tx: tx._connection.execute(lose))
        await trio.sleep(EVERY_SEC)
        assert log.events() == ["aggregates.rebuilt", "aggregates.failed", "aggregates.rebuilt"]
        nursery.cancel_scope.cancel()
