"""When a matrix is computed and when a kept one will do; what a store that cannot be written changes."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ambientd.core.analytics import MatrixQuery, Scope
from ambientd.flows import analytics as flow
from ambientd.flows.analytics import Analytics, matrix, performance, sweep, usage, usual_queries
from ambientd.host.zones import find_zone
from ambientd.ports.errors import StoreFullError
from ambientd.ports.store import Transaction
from ambientd.store.sqlite import SqliteStore
from ambientd.wire.analytics_messages import MatrixAnswer, UsageAnswer
from tests.fakes.store import TroubledStore
from tests.store.kit import AT, StillClock, opened
from tests.store.usagekit import ended

DAY = AT.replace(hour=0)
QUERY = MatrixQuery(scope=Scope(since=DAY, until=DAY + timedelta(days=1)))


class Desk:
    """The use cases over a real store, with small figures for what is many."""

    def __init__(self, real: SqliteStore, clock: StillClock) -> None:
        self.real = real
        self.store = TroubledStore(real)
        self.clock = clock
        self.analytics = Analytics(store=self.store, clock=self.clock, find_zone=find_zone)

    async def end(self, *names: str, at: datetime = AT) -> None:
        def work(tx: Transaction) -> None:
            for name in names:
                ended(tx, name, at=at, runtime_ms=10)

        await self.real.write(work)

    async def runs(self, query: MatrixQuery = QUERY) -> int:
        return sum(facts.runs for facts in (await matrix(self.analytics, query)).rows)

    async def kept(self, query: MatrixQuery = QUERY) -> Any:
        return await self.real.read(lambda tx: tx.performance.kept(query))

    async def lose(self) -> None:
        """Somebody deletes all sums."""
        sql = "DELETE FROM daily_usage_agg"
        await self.real.write(lambda tx: tx._connection.execute(sql))

    async def days(self) -> list[str]:
        return await self.real.read(lambda tx: tx.usage.incomplete_days(10))


@asynccontextmanager
async def desk(folder: Path) -> AsyncIterator[Desk]:
    clock = StillClock()
    async with opened(folder / "a.db", clock=clock) as store:
        yield Desk(store, clock)


@pytest.fixture
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    def choose(keep: int, large: int) -> None:
        monkeypatch.setattr(flow, "KEEP_RUNS_MIN", keep)
        monkeypatch.setattr(flow, "LARGE_RUNS_MIN", large)

    return choose


async def test_a_small_matrix_is_computed_each_time_and_never_written(tmp_path: Path) -> None:
    async with desk(tmp_path) as found:
        await found.end("one")
        assert await found.runs() == 1
        assert await found.kept() is None
        await found.end("two")
        assert await found.runs() == 2


async def test_a_kept_matrix_is_followed_by_every_change(
    tmp_path: Path, few_are_many: Callable[[int, int], None]
) -> None:
    few_are_many(1, 1_000)
    async with desk(tmp_path) as found:
        await found.end("one")
        assert await found.runs() == 1
        assert (await found.kept()).at == AT
        found.clock.at += timedelta(seconds=5)
        assert (await matrix(found.analytics, QUERY)).at == AT  # not computed again
        await found.end("two")
        assert await found.runs() == 2
        assert (await found.kept()).at == found.clock.at


async def test_a_large_matrix_may_be_a_minute_old_and_no_older(
    tmp_path: Path, few_are_many: Callable[[int, int], None]
) -> None:
    few_are_many(1, 1)
    async with desk(tmp_path) as found:
        await found.end("one")
        assert await found.runs() == 1
        await found.end("two")
        assert await found.runs() == 1
        found.clock.at += timedelta(seconds=61)
        assert await found.runs() == 2


async def test_a_clock_set_back_makes_no_old_matrix_good(
    tmp_path: Path, few_are_many: Callable[[int, int], None]
) -> None:
    few_are_many(1, 1)
    async with desk(tmp_path) as found:
        await found.end("one")
        assert await found.runs() == 1
        await found.end("two")
        found.clock.at -= timedelta(days=1)
        assert await found.runs() == 2


async def test_a_range_that_cuts_through_a_day_is_never_kept(
    tmp_path: Path, few_are_many: Callable[[int, int], None]
) -> None:
    few_are_many(1, 1)
    query = MatrixQuery(scope=Scope(since=DAY + timedelta(hours=1)))
    async with desk(tmp_path) as found:
        await found.end("one")
        assert await found.runs(query) == 1
        assert await found.kept(query) is None


async def test_a_store_that_cannot_be_written_still_answers(
    tmp_path: Path, few_are_many: Callable[[int, int], None]
) -> None:
    few_are_many(1, 1)
    async with desk(tmp_path) as found:
        await found.end("one")
        await found.lose()
        found.store.trouble = StoreFullError("full")
        answer = await usage(found.analytics, {})
        assert isinstance(answer, UsageAnswer)
        assert answer.totals.runs == 1
        matrix_answer = await performance(found.analytics, {"from": "2026-11-20"})
        assert isinstance(matrix_answer, MatrixAnswer)
        assert [row.runs_total for row in matrix_answer.rows] == [1]
        assert found.store.refused == 2
        assert await found.days() == ["2026-11-20"]
        found.store.trouble = None
        await usage(found.analytics, {})
        assert await found.days() == []


async def test_more_lost_days_than_a_question_waits_for_change_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "REPAIR_DAYS_MAX", 1)
    async with desk(tmp_path) as found:
        for number in range(3):
            await found.end(f"s{number}", at=AT - timedelta(days=number))
        before = await usage(found.analytics, {})
        await found.lose()
        assert await usage(found.analytics, {}) == before
        assert len(await found.days()) == 2


async def test_the_sweep_builds_lost_days_and_the_usual_ranges_once(tmp_path: Path) -> None:
    async with desk(tmp_path) as found:
        await found.end("today")
        await found.end("long-ago", at=AT - timedelta(days=60))
        await found.lose()
        assert await sweep(found.analytics) == ["2026-09-21", "2026-11-20"]
        week, _, month, _, quarter, _ = [await found.kept(query) for query in usual_queries(AT)]
        assert [len(kept.rows) for kept in (week, month, quarter)] == [1, 1, 1]
        assert [kept.rows[0].runs for kept in (week, month, quarter)] == [1, 1, 2]
        found.clock.at += timedelta(minutes=5)
        assert await sweep(found.analytics) == []
        assert (await found.kept(usual_queries(AT)[0])).at == AT
        await found.end("more")
        await sweep(found.analytics)
        assert (await found.kept(usual_queries(AT)[0])).rows[0].runs == 2


async def test_a_large_range_is_computed_ahead_twice_an_hour_at_most(
    tmp_path: Path, few_are_many: Callable[[int, int], None]
) -> None:
    few_are_many(1, 1)
    async with desk(tmp_path) as found:
        await found.end("one")
        await sweep(found.analytics)
        await found.end("two")
        found.clock.at += timedelta(minutes=29)
        await sweep(found.analytics)
        assert (await found.kept(usual_queries(AT)[0])).rows[0].runs == 1
        found.clock.at += timedelta(minutes=2)
        await sweep(found.analytics)
        assert (await found.kept(usual_queries(AT)[0])).rows[0].runs == 2


async def test_a_sweep_of_an_empty_ledger_writes_nothing(tmp_path: Path) -> None:
    async with desk(tmp_path) as found:
        found.store.trouble = StoreFullError("full")
        assert await sweep(found.analytics) == []
        assert found.store.refused == 0


async def test_answers_say_that_sessions_were_purged_when_the_range_reaches_there(tmp_path: Path) -> None:
    async with desk(tmp_path) as found:
        await found.end("old", at=AT - timedelta(days=100))
        await found.end("new")
        cut = AT - timedelta(days=90)
        await found.real.write(lambda tx: tx.retention.remove(cut, 10, ("", "")))
        whole = await usage(found.analytics, {})
        assert isinstance(whole, UsageAnswer)
        assert (whole.totals.runs, whole.purged_before) == (2, "2026-08-22T12:00:00.000Z")
        recent = await usage(found.analytics, {"from": "2026-11-01"})
        assert isinstance(recent, UsageAnswer)
        assert recent.purged_before is None
        answer = await performance(found.analytics, {})
        assert isinstance(answer, MatrixAnswer)
        assert ([row.runs_total for row in answer.rows], answer.purged_before) == ([1], whole.purged_before)
