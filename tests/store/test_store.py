"""The store as flows use it: readiness, shared commits, refusals, cancellation, checkpoints."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import apsw
import pytest
import trio
from trio.testing import MockClock

from ambientd.core.records import SessionRecord
from ambientd.ports.errors import StoreBusyError, StoreError, UnavailableError
from ambientd.ports.store import Store, Transaction
from ambientd.store import sqlite as sqlite_module
from ambientd.store import writer as writer_module
from ambientd.store.migrate import default_folder, known_migrations
from ambientd.store.sqlite import SqliteStore
from ambientd.store.unit import SqliteTransaction
from tests.fakes.clock import TrioWallClock
from tests.store.kit import StillClock, ingest, migrated, new_session, opened

T = TypeVar("T")

NEWEST = len(known_migrations(default_folder()))


def add(session_id: str) -> Callable[[Transaction], str]:
    def work(tx: Transaction) -> str:
        ingest(tx, session_id)
        return session_id

    return work


def count(tx: Transaction) -> int:
    return tx.ledger.count()


async def run_inline(work: Callable[[], T], /) -> T:
    await trio.lowlevel.checkpoint()
    return work()


class Gate:
    """A `run_sync` whose works wait until they are let through."""

    def __init__(self) -> None:
        self.open = trio.Event()
        self.open.set()
        self.calls = 0

    async def __call__(self, work: Callable[[], T], /) -> T:
        self.calls += 1
        await self.open.wait()
        return await trio.to_thread.run_sync(work)

    def shut(self) -> None:
        self.open = trio.Event()


async def test_what_is_written_is_read_and_survives_closing(tmp_path: Path) -> None:
    path = tmp_path / "ambient.db"
    async with opened(path) as store:
        typed: Store = store
        assert await typed.write(add("s1")) == "s1"
        assert await typed.read(count) == 1
        facts = typed.facts()
        assert (facts.ready, facts.reason, facts.degraded, facts.schema_version) == (True, None, None, NEWEST)
        assert facts.size_bytes > 0
    assert not path.with_name("ambient.db-wal").exists()
    assert store.facts().reason == "the database is being closed"
    with pytest.raises(StoreError, match="closed"):
        await store.write(add("s2"))
    async with opened(path) as store:
        assert await store.read(count) == 1


async def test_the_store_can_be_asked_before_it_is_ready(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "ambient.db", clock=StillClock())
    assert not store.facts().ready
    with pytest.raises(StoreError, match="not ready"):
        await store.write(add("s1"))
    with pytest.raises(StoreError, match="not ready"):
        await store.read(count)
    await store.close()


async def test_waiting_writes_share_a_commit_and_a_failing_one_hurts_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path / "ambient.db") as store:
        outcomes: dict[int, str] = {}

        async def one(n: int) -> None:
            def work(tx: Transaction) -> None:
                ingest(tx, f"s{n}")
                if n == 20:
                    raise RuntimeError("no")
                if n == 30:
                    ingest(tx, "s30")

            try:
                await store.write(work)
                outcomes[n] = "ok"
            except (RuntimeError, ValueError) as error:
                outcomes[n] = type(error).__name__

        before = store.facts().commits
        async with trio.open_nursery() as nursery:
            for n in range(60):
                nursery.start_soon(one, n)
        assert store.facts().commits - before <= 3
        assert {n: text for n, text in outcomes.items() if text != "ok"} == {
            20: "RuntimeError",
            30: "ValueError",
        }
        rows = await store.read(lambda tx: [n for n in range(60) if tx.ledger.get(f"s{n}") is not None])
        assert rows == [n for n in range(60) if n not in (20, 30)]
        assert await store.read(lambda tx: len(tx.ledger.events("s20", 0, 9))) == 0


async def test_many_writes_keep_to_the_batch_size(tmp_path: Path) -> None:
    async with opened(tmp_path / "ambient.db") as store:
        async with trio.open_nursery() as nursery:
            for n in range(500):
                nursery.start_soon(store.write, add(f"s{n}"))
        commits = store.facts().commits
        assert 500 / sqlite_module.BATCH_MAX <= commits <= 12
        assert await store.read(count) == 500


async def test_a_batch_of_failures_commits_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "ambient.db") as store:
        await store.write(add("s1"))
        before = store.facts().commits
        with pytest.raises(ValueError, match="s1"):
            await store.write(add("s1"))
        assert store.facts().commits == before


async def test_a_write_cancelled_while_waiting_is_never_run(tmp_path: Path) -> None:
    gate = Gate()
    async with opened(tmp_path / "ambient.db", run_sync=gate) as store:
        gate.shut()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.write, add("first"))
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0) as scope:
                await store.write(add("never"))
            assert scope.cancelled_caught
            gate.open.set()
        assert await store.read(lambda tx: (tx.ledger.count(), tx.ledger.get("never"))) == (1, None)


async def test_a_write_cancelled_while_committing_is_finished_and_told(tmp_path: Path) -> None:
    gate = Gate()
    async with opened(tmp_path / "ambient.db", run_sync=gate) as store:
        gate.shut()
        scope = trio.CancelScope()
        told: list[str] = []

        async def cancelled() -> None:
            with scope:
                await store.write(add("s1"))
                told.append("written")
                await store.write(add("s2"))
                told.append("never")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancelled)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            gate.open.set()
        assert told == ["written"]
        assert scope.cancelled_caught
        assert await store.read(count) == 1


async def test_cancelling_the_owner_finishes_the_commit_and_refuses_what_waits(tmp_path: Path) -> None:
    gate = Gate()
    path = tmp_path / "ambient.db"
    store = SqliteStore(path, clock=StillClock(), ballast=0, run_sync=gate)
    outcomes: dict[str, str] = {}

    async def one(name: str) -> None:
        try:
            await store.write(add(name))
            outcomes[name] = "ok"
        except StoreError as error:
            outcomes[name] = str(error)

    async def let_through() -> None:
        await trio.testing.wait_all_tasks_blocked()
        gate.open.set()

    async with trio.open_nursery() as writers, trio.open_nursery() as owner:
        await owner.start(store.run)
        await store.wait_settled()
        gate.shut()
        writers.start_soon(one, "taken")
        await trio.testing.wait_all_tasks_blocked()
        writers.start_soon(one, "waiting")
        await trio.testing.wait_all_tasks_blocked()
        owner.cancel_scope.cancel()
        writers.start_soon(let_through)
    assert outcomes == {"taken": "ok", "waiting": "the database is being closed"}
    async with opened(path) as again:
        assert await again.read(lambda tx: tx.ledger.get("taken")) is not None
        assert await again.read(lambda tx: tx.ledger.get("waiting")) is None


async def test_closing_writes_what_already_waits(tmp_path: Path) -> None:
    path = tmp_path / "ambient.db"
    store = SqliteStore(path, clock=StillClock(), ballast=0)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await store.wait_settled()
        for n in range(150):
            nursery.start_soon(store.write, add(f"s{n}"))
        await trio.testing.wait_all_tasks_blocked()
        await store.close()
    async with opened(path) as again:
        assert await again.read(count) == 150


async def test_too_many_waiting_writes_are_refused(tmp_path: Path) -> None:
    gate = Gate()
    async with opened(tmp_path / "ambient.db", run_sync=gate) as store:
        gate.shut()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.write, add("s"))
            await trio.testing.wait_all_tasks_blocked()
            for n in range(sqlite_module.QUEUE_MAX):
                nursery.start_soon(store.write, add(f"s{n}"))
            await trio.testing.wait_all_tasks_blocked()
            assert store.facts().waiting == sqlite_module.QUEUE_MAX
            with pytest.raises(UnavailableError, match="too many"):
                await store.write(add("one more"))
            gate.open.set()
        assert await store.read(count) == sqlite_module.QUEUE_MAX + 1


async def test_a_lock_of_a_second_is_invisible_and_an_endless_one_is_busy(tmp_path: Path) -> None:
    path = tmp_path / "ambient.db"
    async with opened(path, busy_timeout=3.0) as store:
        other = apsw.Connection(str(path))
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(1.0, other.execute, ("ROLLBACK",))
        release.start()
        assert await store.write(add("late")) == "late"
        release.join()
        other.close()
    async with opened(path, busy_timeout=0.3) as store:
        other = apsw.Connection(str(path))
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusyError):
            await store.write(add("never"))
        assert await store.read(count) == 1
        assert "writes fail" in str(store.facts().degraded)
        other.execute("ROLLBACK")
        other.close()
        await store.write(add("after"))
        assert store.facts().degraded is None


@pytest.mark.parametrize("how", ["unlinked", "renamed", "replaced"])
async def test_a_file_that_went_away_is_noticed_and_nothing_is_acknowledged(tmp_path: Path, how: str) -> None:
    path, moved = tmp_path / "ambient.db", tmp_path / "moved.db"
    async with opened(path) as store:
        await store.write(add("s1"))
        if how == "unlinked":
            path.unlink()
        else:
            path.rename(moved)
        if how == "replaced":
            path.write_bytes(moved.read_bytes())
        facts = store.facts()
        assert not facts.ready
        assert str(path) in str(facts.reason)
        with pytest.raises(StoreError, match="while it was in use"):
            await store.write(add("s2"))
        if how == "renamed":
            moved.rename(path)
            assert store.facts().ready
            await store.write(add("s3"))
            assert await store.read(count) == 2


async def test_a_cancelled_read_interrupts_its_query(tmp_path: Path) -> None:
    async with opened(tmp_path / "ambient.db") as store:

        def endless(tx: Transaction) -> Any:
            assert isinstance(tx, SqliteTransaction)
            sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
            return tx.keys._connection.execute(sql).get

        with trio.fail_after(30), trio.move_on_after(0.2) as scope:
            await store.read(endless)
        assert scope.cancelled_caught
        assert await store.read(count) == 0


async def test_a_read_sees_one_snapshot_and_may_not_write(tmp_path: Path) -> None:
    async with opened(tmp_path / "ambient.db") as store:
        await store.write(add("s1"))
        seen: list[int] = []
        between, go_on = threading.Event(), threading.Event()

        def slow(tx: Transaction) -> None:
            seen.append(tx.ledger.count())
            between.set()
            go_on.wait(20)
            seen.append(tx.ledger.count())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.read, slow)
            await trio.to_thread.run_sync(between.wait)
            await store.write(add("s2"))
            assert await store.read(count) == 2
            go_on.set()
        assert seen == [1, 1]
        with pytest.raises(StoreError, match="written"):
            await store.read(add("s3"))
        assert await store.read(count) == 2


async def test_an_error_of_the_work_passes_through_a_read(tmp_path: Path) -> None:
    async with opened(tmp_path / "ambient.db") as store:

        def work(tx: Transaction) -> None:
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            await store.read(work)
        for _ in range(20):
            assert await store.read(count) == 0


async def test_many_reads_share_a_few_connections(tmp_path: Path) -> None:
    async with opened(tmp_path / "ambient.db") as store:
        before = len(os.listdir("/proc/self/fd"))
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(store.read, count)
        assert len(os.listdir("/proc/self/fd")) - before <= 4 * 2


async def test_foreign_keys_are_on_and_syncs_full_on_every_connection(tmp_path: Path) -> None:
    def pragmas(tx: Transaction) -> list[Any]:
        assert isinstance(tx, SqliteTransaction)
        names = ("foreign_keys", "wal_autocheckpoint", "synchronous", "busy_timeout")
        return [tx.keys._connection.execute(f"PRAGMA {name}").get for name in names]

    async with opened(tmp_path / "ambient.db", busy_timeout=5.0) as store:
        assert await store.write(pragmas) == [1, 0, 2, 5000]
        foreign_keys, checkpoint, _, timeout = await store.read(pragmas)
        assert (foreign_keys, checkpoint, timeout) == (1, 0, 5000)


async def test_a_database_held_by_another_is_opened_as_soon_as_it_is_free(tmp_path: Path) -> None:
    path = tmp_path / "ambient.db"
    migrated(path).close()
    other = apsw.Connection(str(path))
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    async with opened(path, busy_timeout=0.1) as store:
        assert "another process holds" in str(store.facts().reason)
        other.close()
        with trio.fail_after(20):
            while not store.facts().ready:
                await trio.sleep(0.05)
        await store.write(add("s1"))


async def test_a_refused_database_leaves_the_store_up_saying_why(tmp_path: Path) -> None:
    path = tmp_path / "ambient.db"
    db = migrated(path)
    db.execute("INSERT INTO schema_migrations VALUES (9999, 'x', 'x', 'x')")
    db.close()
    async with opened(path) as store:
        facts = store.facts()
        assert not facts.ready
        assert "schema 9999, newer" in str(facts.reason)
        with pytest.raises(StoreError, match="newer"):
            await store.read(count)


async def test_a_migration_that_fails_leaves_the_store_up_saying_why(tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_bad.sql").write_text("CREATE TABLE a (x); CREATE TABLE a (x);")
    async with opened(tmp_path / "ambient.db", migrations=folder) as store:
        assert "0001_bad failed and was rolled back" in str(store.facts().reason)


async def test_a_damaged_database_gives_a_ready_and_degraded_store(tmp_path: Path) -> None:
    path = tmp_path / "ambient.db"
    path.write_bytes(b"\0" * 9000)
    async with opened(path) as store:
        facts = store.facts()
        assert facts.ready
        assert "ambient.db.corrupt-" in str(facts.degraded)
        await store.write(add("s1"))
        for item in tmp_path.glob("*.corrupt-*"):
            item.unlink()
        assert store.facts().degraded is None


async def test_the_log_is_copied_after_writes_and_nothing_ticks_while_idle(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    calls: list[float] = []

    async def counted(work: Callable[[], T], /) -> T:
        calls.append(trio.current_time())
        return await run_inline(work)

    path = tmp_path / "ambient.db"
    async with opened(path, clock=TrioWallClock(), run_sync=counted) as store:
        await store.write(add("s1"))
        calls.clear()
        began = trio.current_time()
        await trio.sleep(86_400)
        assert [round(at - began, 2) for at in calls] == [
            sqlite_module.CHECKPOINT_DELAY,
            sqlite_module.REST_AFTER,
        ]
        copied = apsw.Connection(
            f"file:{path}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        )
        assert copied.execute("SELECT count(*) FROM session_ledger").get == 1
        copied.close()


def connections(path: Path) -> int:
    """How many connections this process has to a database. (Descriptors are no evidence: SQLite keeps those
    of closed connections while others hold locks on the file.)"""
    return sum(connection.filename == str(path) for connection in apsw.connections())


async def test_after_a_time_of_work_memory_is_given_back_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    rests: list[float] = []

    async with opened(
        tmp_path / "ambient.db",
        clock=TrioWallClock(),
        run_sync=run_inline,
        rested=lambda: rests.append(trio.current_time()),
    ) as store:
        for pause in (1, 86_400, 3, 3, 86_400):  # a time of work is one, however long it lasts
            await store.read(count)
            last = trio.current_time()
            await trio.sleep(pause)
            assert (rests[-1:] == [last + sqlite_module.REST_AFTER]) is (pause == 86_400)
        await store.write(add("s1"))
        await trio.sleep(86_400)
        assert len(rests) == 3
        assert await store.read(count) == 1


async def test_readers_that_only_a_rush_needs_are_closed_when_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "REST_AFTER", 0.2)
    path, rested = tmp_path / "ambient.db", threading.Event()
    async with opened(path, rested=rested.set) as store:
        alone, together = connections(path), threading.Barrier(3)

        def meet(tx: Transaction) -> int:
            together.wait(10)
            return tx.ledger.count()

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(store.read, meet)
        assert connections(path) == alone + 3
        with trio.fail_after(10):
            await trio.to_thread.run_sync(rested.wait)
        assert connections(path) == alone + 1
        assert await store.read(count) == 0


def in_file(path: Path) -> int:
    """Sessions in the file alone, without its log."""
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    connection = apsw.Connection(f"file:{path}?immutable=1", flags=flags)
    try:
        return int(connection.execute("SELECT count(*) FROM session_ledger").get)
    finally:
        connection.close()


async def test_a_reader_in_the_way_delays_the_copy_and_no_more(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = tmp_path / "ambient.db"
    async with opened(path, clock=TrioWallClock(), run_sync=run_inline) as store:
        await store.write(add("s1"))
        reader = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM session_ledger").get == 1
        await store.write(add("s2"))
        await trio.sleep(60)
        assert in_file(path) < 2
        reader.execute("ROLLBACK")
        reader.close()
        await trio.sleep(sqlite_module.CHECKPOINT_RETRY + 1)
        assert in_file(path) == 2


async def test_a_log_that_grew_large_is_cut_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "WAL_TRUNCATE_BYTES", 100_000)

    def many(tx: Transaction) -> None:
        for n in range(200):
            ingest(tx, f"s{n}", task_text="x" * 3000)

    async with opened(tmp_path / "ambient.db") as store:
        await store.write(many)
        assert store.facts().wal_bytes > 100_000
        with trio.fail_after(20):
            while store.facts().wal_bytes:
                await trio.sleep(0.05)
        await store.write(add("later"))
        assert await store.read(count) == 201


async def test_readers_never_checkpoint_also_when_closed_last(tmp_path: Path) -> None:
    path = tmp_path / "ambient.db"
    async with opened(path) as store:
        await store.write(add("s1"))
        readers = store._readers
        assert readers is not None
        await store.read(count)
        before = path.with_name("ambient.db-wal").read_bytes()
        for _ in range(50):
            await store.read(count)
        readers.close()
        assert path.with_name("ambient.db-wal").read_bytes() == before


async def test_the_record_that_comes_back_is_the_one_written(tmp_path: Path) -> None:
    async with opened(tmp_path / "ambient.db") as store:

        def work(tx: Transaction) -> SessionRecord | None:
            tx.ledger.add(new_session("s1"))
            return tx.ledger.get("s1")

        written = await store.write(work)
        assert written is not None
        assert await store.read(lambda tx: tx.ledger.get("s1")) == written


async def test_the_ballast_is_taken_given_up_and_taken_again(tmp_path: Path) -> None:
    reserve = tmp_path / "ambient.db.ballast"
    async with opened(tmp_path / "ambient.db", ballast=300_000) as store:
        assert reserve.stat().st_size == 300_000
        assert reserve.stat().st_blocks * 512 >= 300_000
        assert await store.give_up_ballast()
        assert not reserve.exists()
        assert not await store.give_up_ballast()
        await store.write(add("s1"))
        with trio.fail_after(20):
            while not reserve.exists() or reserve.stat().st_size != 300_000:
                await trio.sleep(0.05)
