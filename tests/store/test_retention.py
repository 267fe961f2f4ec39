"""Retention in the database, looked at from outside: counts by SQL, sizes by `stat`."""

import sqlite3
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ambientd.core.records import LedgerQuery, RunRecord, SessionChange
from ambientd.ports.store import Transaction
from ambientd.store.sqlite import SqliteStore
from ambientd.store.unit import SqliteTransaction
from ambientd.wire.enums import SessionStatus
from tests.store.kit import AT, ingest, new_session, opened

TABLES = ("session_ledger", "session_event_rows", "session_usage_rows", "local_runs", "session_search")
CUT = AT - timedelta(days=90)
START = ("", "")


def add(
    tx: Transaction,
    session_id: str,
    days: float,
    *,
    started: float | None = None,
    status: SessionStatus = SessionStatus.SUCCESS,
    words: str = "some words",
) -> None:
    """A session with two events that ended so many days ago (and started then, unless told)."""
    at = AT - timedelta(days=days if started is None else started)
    ingest(tx, session_id, started_at=at, task_title=words, task_text=words)
    tx.runs.add(RunRecord(session_id=session_id))
    terminal = status not in {SessionStatus.QUEUED, SessionStatus.RUNNING}
    ended = AT - timedelta(days=days) if terminal else None
    tx.ledger.change(session_id, SessionChange(status=status, ended_at=ended))


def outside(path: Path, sql: str) -> list[tuple[object, ...]]:
    """What another program reads from the file."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def counts(path: Path) -> dict[str, int]:
    return {name: outside(path, f"SELECT count(*) FROM {name}")[0][0] for name in TABLES}  # type: ignore[misc]  # noqa: S608


def ids(path: Path) -> set[object]:
    return {row[0] for row in outside(path, "SELECT session_id FROM session_ledger")}


async def remove_all(store: SqliteStore, before: datetime = CUT, batch: int = 50) -> int:
    """Batch by batch; how many sessions went."""
    total, place = 0, START
    for _ in range(1000):
        behind = place
        removed = await store.write(lambda tx: tx.retention.remove(before, batch, behind))  # noqa: B023 - called at once
        if removed.found.sessions == 0:
            return total
        total, place = total + removed.found.sessions, removed.place
    raise AssertionError("it never ends")


async def test_sessions_of_89_days_stay_and_those_of_91_go_with_all_they_had(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as store:
        await store.write(lambda tx: add(tx, "young", 89))
        await store.write(lambda tx: add(tx, "old", 91))
        assert counts(path) == dict.fromkeys(TABLES, 2) | {"session_event_rows": 4}
        assert await remove_all(store) == 1
        assert counts(path) == dict.fromkeys(TABLES, 1) | {"session_event_rows": 2}
        assert ids(path) == {"young"}
        assert outside(path, "PRAGMA foreign_key_check") == []


async def test_what_runs_or_waits_is_never_removed_whatever_its_age(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as store:
        for status in SessionStatus:
            await store.write(lambda tx, status=status: add(tx, status.value, 500, status=status))  # type: ignore[misc]
        assert await remove_all(store) == 4
        assert ids(path) == {"queued", "running"}


async def test_a_session_is_kept_from_its_end_on_not_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as store:
        await store.write(lambda tx: add(tx, "long", 89, started=100))
        await store.write(lambda tx: add(tx, "short", 91, started=100))
        assert await remove_all(store) == 1
        assert ids(path) == {"long"}


async def test_a_terminal_session_without_an_end_goes_by_its_start(tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    def work(tx: Transaction) -> None:
        for name, days in (("old", 91), ("young", 89)):
            at = AT - timedelta(days=days)
            tx.ledger.add(new_session(name, status=SessionStatus.FAILED, started_at=at))

    async with opened(path) as store:
        await store.write(work)
        assert await remove_all(store) == 1
        assert ids(path) == {"young"}


async def test_batches_are_bounded_and_go_past_what_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as store:
        for n in range(25):
            status = SessionStatus.RUNNING if n % 5 == 0 else SessionStatus.SUCCESS
            await store.write(lambda tx, n=n, status=status: add(tx, f"s{n:02}", 200 - n, status=status))  # type: ignore[misc]
        first = await store.write(lambda tx: tx.retention.remove(CUT, 7, START))
        assert (first.found.sessions, first.found.events, first.found.usage) == (7, 14, 7)
        assert await remove_all(store, batch=3) == 13
        assert ids(path) == {"s00", "s05", "s10", "s15", "s20"}


async def test_words_of_a_removed_session_are_found_no_more(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as store:
        await store.write(lambda tx: add(tx, "old", 91, words="cormorant"))
        await store.write(lambda tx: add(tx, "young", 1, words="cormorant"))
        query = LedgerQuery(text="cormorant")
        assert (await store.read(lambda tx: tx.ledger.page(query))).total == 2
        await remove_all(store)
        found = await store.read(lambda tx: tx.ledger.page(query))
        assert [row.session_id for row in found.rows] == ["young"]
        matching = "SELECT rowid FROM session_search WHERE session_search MATCH 'cormorant'"
        assert len(outside(tmp_path / "a.db", matching)) == 1


async def test_counting_says_exactly_what_removing_removes(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as store:
        for n in range(30):
            await store.write(lambda tx, n=n: add(tx, f"s{n}", 80 + n))  # type: ignore[misc]
        told = await store.read(lambda tx: tx.retention.count(CUT))
        removed = await store.write(lambda tx: tx.retention.remove(CUT, 200, START))
        assert told == removed.found
        assert told.sessions == 19
        assert await store.read(lambda tx: tx.retention.count(CUT)) == type(told)()


async def test_the_mark_says_up_to_where_sessions_were_removed_and_never_goes_back(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as store:
        await remove_all(store)
        assert await store.read(lambda tx: tx.retention.purged_before()) is None
        await store.write(lambda tx: add(tx, "old", 91))
        await remove_all(store)
        assert await store.read(lambda tx: tx.retention.purged_before()) == CUT
        await store.write(lambda tx: add(tx, "older", 400))
        await remove_all(store, CUT - timedelta(days=200))
        assert await store.read(lambda tx: tx.retention.purged_before()) == CUT


async def test_a_batch_that_fails_removes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    def fail(tx: Transaction) -> None:
        assert tx.retention.remove(CUT, 50, START).found.sessions == 1
        raise RuntimeError("on the way")

    async with opened(path) as store:
        await store.write(lambda tx: add(tx, "old", 91))
        with pytest.raises(RuntimeError):
            await store.write(fail)
        assert ids(path) == {"old"}
        assert await store.read(lambda tx: tx.retention.purged_before()) is None


async def test_the_file_gets_smaller_when_half_of_it_has_gone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as store:
        for start in range(0, 400, 50):

            def work(tx: Transaction, start: int = start) -> None:
                for n in range(start, start + 50):
                    add(tx, f"s{n}", 200 if n % 2 else 10, words=f"text {n} " * 200)

            await store.write(work)
        full = await store.read(lambda tx: tx.retention.file_bytes())
        assert await remove_all(store) == 200
        more, steps = await store.write(lambda tx: tx.retention.tidy_text(64, start=True)), 0
        while more and steps < 100:
            more, steps = await store.write(lambda tx: tx.retention.tidy_text(64, start=False)), steps + 1
        more = True
        while more and steps < 200:
            more, steps = await store.write(lambda tx: tx.retention.give_back(64)), steps + 1
        assert not more
        left = await store.read(lambda tx: tx.retention.file_bytes())
        assert left < 0.7 * full
    assert path.stat().st_size == left
    assert outside(path, "PRAGMA integrity_check") == [("ok",)]


async def test_totals_of_364_days_stay_and_those_of_366_go_while_day_100_outlives_its_sessions(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.db"
    before = AT - timedelta(days=365)

    def totals(tx: Transaction) -> None:
        assert isinstance(tx, SqliteTransaction)
        connection = tx.keys._connection
        told = {
            "agent_id": "a",
            "model_id": "m",
            "task_category": "",
            "updated_at": "2026-11-20T12:00:00.000Z",
        }
        for days in (100, 364, 366, 367):
            told["bucket_date"] = (AT - timedelta(days=days)).date().isoformat()
            names = [str(row[1]) for row in connection.execute("PRAGMA table_info(daily_usage_agg)")]
            names = [name for name in names if name != "agg_key"]
            marks = ", ".join("?" * len(names))
            sql = f"INSERT INTO daily_usage_agg ({', '.join(names)}) VALUES ({marks})"  # noqa: S608 - the table's names
            connection.execute(sql, [told.get(name, 3) for name in names])

    async with opened(path) as store:
        await store.write(totals)
        await store.write(lambda tx: add(tx, "old", 100))
        assert await remove_all(store) == 1
        assert await store.read(lambda tx: tx.retention.count_aggregates("daily_usage_agg", before)) == 2
        removed = [
            await store.write(lambda tx: tx.retention.remove_aggregates("daily_usage_agg", before))
            for _ in range(3)
        ]
        assert removed == [1, 1, None]
        assert await store.write(lambda tx: tx.retention.remove_aggregates("model_perf_agg", before)) is None
    left = outside(path, "SELECT bucket_date, runs_total FROM daily_usage_agg ORDER BY bucket_date DESC")
    assert left == [("2026-08-12", 3), ("2025-11-21", 3)]
