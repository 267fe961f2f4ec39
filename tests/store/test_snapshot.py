"""A consistent copy of a database that is being written, and putting it back (R3.149, FAULTS D18)."""

import os
import sqlite3
import stat
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path

import apsw
import pytest
import trio

from ambientd.ports.errors import StoreError
from ambientd.store.connection import open_reader
from ambientd.store.restore import newest_schema, put_in_place
from ambientd.store.search import register
from ambientd.store.snapshot import IdleSnapshots, check_database, copy_database, remove_database
from ambientd.store.unit import SqliteTransaction
from tests.store.kit import AT, StillClock, ingest, migrated, opened


def quiet(_stage: str, _done: int, _total: int) -> None:
    """Nobody listens."""


def filled(path: Path, sessions: int) -> apsw.Connection:
    writer = migrated(path)
    tx = SqliteTransaction(writer, AT)
    with writer:
        for number in range(sessions):
            ingest(tx, f"s{number}", second=number)
    return writer


def rows(path: Path, table: str = "session_ledger") -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 - constants


async def test_a_copy_shows_one_instant_while_writes_go_on(tmp_path: Path) -> None:
    async with opened(tmp_path / "ambient.db") as store:
        for number in range(50):
            await store.write(partial(ingest, session_id=f"s{number}"))
        written = 0

        async def write_on() -> None:
            nonlocal written
            while True:
                written += 1  # a write that is cancelled may still be done
                await store.write(partial(ingest, session_id=f"late{written}"))

        for attempt in range(3):
            copy = tmp_path / f"copy{attempt}"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write_on)
                facts = await store.snapshot(str(copy), quiet)
                nursery.cancel_scope.cancel()
            assert facts.counts["session_ledger"] >= 50
            assert facts.counts["session_event_rows"] == 2 * facts.counts["session_ledger"]
            assert facts.counts["session_usage_rows"] == facts.counts["session_ledger"]
            assert rows(copy) == facts.counts["session_ledger"]
            assert facts.bytes == copy.stat().st_size
        assert store.facts().ready


async def test_a_copy_is_one_private_file_that_needs_nothing_beside_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "ambient.db") as store:
        await store.write(partial(ingest, session_id="s1"))
        folder = tmp_path / "copies"
        folder.mkdir()
        await store.snapshot(str(folder / "copy"), quiet)
    assert os.listdir(folder) == ["copy"]
    assert stat.S_IMODE((folder / "copy").stat().st_mode) == 0o600
    with closing(sqlite3.connect(folder / "copy")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_an_existing_file_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "copy").write_text("mine")
    async with opened(tmp_path / "ambient.db") as store:
        with pytest.raises(FileExistsError):
            await store.snapshot(str(tmp_path / "copy"), quiet)
    assert (tmp_path / "copy").read_text() == "mine"


async def test_a_cancelled_copy_leaves_no_file_and_a_store_that_works(tmp_path: Path) -> None:
    filled(tmp_path / "ambient.db", 5_000).close()
    async with opened(tmp_path / "ambient.db") as store:
        with trio.CancelScope() as scope:
            token = trio.lowlevel.current_trio_token()

            def cancel_at_first_sign(_stage: str, _done: int, _total: int) -> None:
                trio.from_thread.run_sync(scope.cancel, trio_token=token)

            await store.snapshot(str(tmp_path / "copy"), cancel_at_first_sign)
        assert scope.cancelled_caught
        assert not (tmp_path / "copy").exists()
        await store.write(partial(ingest, session_id="after"))
        assert (await store.snapshot(str(tmp_path / "copy"), quiet)).counts["session_ledger"] == 5_001


def test_an_interrupted_copy_stops_between_its_steps(tmp_path: Path) -> None:
    filled(tmp_path / "ambient.db", 10).close()
    reader = open_reader(tmp_path / "ambient.db", busy_timeout=1)
    reader.execute("BEGIN")
    with pytest.raises(apsw.InterruptError):
        copy_database(reader, tmp_path / "copy", lambda *_: reader.interrupt())
    assert not (tmp_path / "copy").exists()
    reader.close()


async def test_a_database_that_nobody_uses_is_copied_with_what_is_in_its_log(tmp_path: Path) -> None:
    path = tmp_path / "ambient.db"
    writer = filled(path, 7)
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for name in ("ambient.db", "ambient.db-wal"):
        (crashed / name).write_bytes((tmp_path / name).read_bytes())
    writer.close()
    assert (crashed / "ambient.db-wal").stat().st_size
    facts = await IdleSnapshots(crashed / "ambient.db").snapshot(str(tmp_path / "copy"), quiet)
    assert facts.counts["session_ledger"] == 7
    assert facts.schema_version == newest_schema()


async def test_without_a_database_there_is_nothing_to_copy(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no database"):
        await IdleSnapshots(tmp_path / "ambient.db").snapshot(str(tmp_path / "copy"), quiet)
    assert os.listdir(tmp_path) == []


def test_damage_is_found(tmp_path: Path) -> None:
    filled(tmp_path / "ambient.db", 500).close()
    raw = bytearray((tmp_path / "ambient.db").read_bytes())
    for page in range(20, 40):
        raw[page * 4096 : page * 4096 + 200] = os.urandom(200)
    (tmp_path / "bad").write_bytes(raw)
    with pytest.raises(StoreError, match="damaged"):
        check_database(tmp_path / "bad", quiet)
    (tmp_path / "text").write_text("no database" * 1000)
    with pytest.raises(StoreError, match="damaged"):
        check_database(tmp_path / "text", quiet)


def test_rows_without_their_session_are_damage(tmp_path: Path) -> None:
    filled(tmp_path / "ambient.db", 3).close()
    with closing(sqlite3.connect(tmp_path / "ambient.db")) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("UPDATE session_usage_rows SET session_key = 99 WHERE session_key = 1")
        connection.commit()
    with pytest.raises(StoreError, match="refer to rows that are not there"):
        check_database(tmp_path / "ambient.db", quiet)


def test_the_database_of_another_program_is_not_ours(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other")) as connection:
        connection.execute("CREATE TABLE t (a)")
    with pytest.raises(StoreError, match="no database of ours"):
        check_database(tmp_path / "other", quiet)


async def test_a_store_that_is_not_ready_makes_no_copy(tmp_path: Path) -> None:
    async with opened(tmp_path / "ambient.db") as store:
        await store.close()
        with pytest.raises(StoreError):
            await store.snapshot(str(tmp_path / "copy"), quiet)


# --- putting it back


def test_the_old_database_is_kept_with_everything_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "ambient.db"
    writer = filled(path, 4)
    crashed = tmp_path / "state"
    crashed.mkdir()
    for name in ("ambient.db", "ambient.db-wal"):  # as after kill -9: rows only in the log
        (crashed / name).write_bytes((tmp_path / name).read_bytes())
    writer.close()
    filled(crashed / "new", 2).close()
    kept = put_in_place(crashed / "new", crashed / "ambient.db", AT)
    assert kept == crashed / "ambient.db.replaced-20261120T120000000Z"
    assert not list(crashed.glob("*-wal"))
    assert rows(kept) == 4
    assert rows(crashed / "ambient.db") == 2
    assert not (crashed / "new").exists()


def test_where_no_database_was_none_is_set_aside(tmp_path: Path) -> None:
    filled(tmp_path / "new", 2).close()
    assert put_in_place(tmp_path / "new", tmp_path / "ambient.db", AT) is None
    assert rows(tmp_path / "ambient.db") == 2
    assert (tmp_path / "ambient.db.created").exists()


def test_a_database_that_cannot_be_opened_is_set_aside_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "ambient.db").write_bytes(b"damage" * 1000)
    (tmp_path / "ambient.db-wal").write_bytes(b"log")
    filled(tmp_path / "new", 1).close()
    kept = put_in_place(tmp_path / "new", tmp_path / "ambient.db", AT)
    assert kept is not None
    assert kept.read_bytes().startswith(b"damage")
    assert (tmp_path / (kept.name + "-wal")).read_bytes() == b"log"
    assert rows(tmp_path / "ambient.db") == 1


def test_two_restores_in_one_millisecond_keep_both(tmp_path: Path) -> None:
    path = tmp_path / "ambient.db"
    filled(path, 1).close()
    for sessions in (2, 3):
        filled(tmp_path / "new", sessions).close()
        put_in_place(tmp_path / "new", path, AT)
    assert sorted(rows(kept) for kept in tmp_path.glob("ambient.db.replaced-*")) == [1, 2]
    assert rows(path) == 3


async def test_a_daemon_goes_on_with_what_was_put_in_place(tmp_path: Path) -> None:
    path = tmp_path / "ambient.db"
    filled(path, 1).close()
    filled(tmp_path / "new", 3).close()
    put_in_place(tmp_path / "new", path, AT + timedelta(seconds=1))
    async with opened(path, clock=StillClock()) as store:
        assert store.facts().degraded is None
        await store.write(partial(ingest, session_id="next"))
        assert await store.read(lambda tx: tx.ledger.count()) == 4


def test_removing_a_database_takes_its_side_files(tmp_path: Path) -> None:
    for name in ("x", "x-wal", "x-shm", "x-journal", "y"):
        (tmp_path / name).touch()
    remove_database(tmp_path / "x")
    remove_database(tmp_path / "never")
    assert os.listdir(tmp_path) == ["y"]


def test_the_search_works_in_a_copy(tmp_path: Path) -> None:
    writer = filled(tmp_path / "ambient.db", 3)
    writer.close()
    reader = open_reader(tmp_path / "ambient.db", busy_timeout=1)
    register(reader)
    reader.execute("BEGIN")
    copy_database(reader, tmp_path / "copy", quiet)
    reader.close()
    found = apsw.Connection(str(tmp_path / "copy"), flags=apsw.SQLITE_OPEN_READONLY)
    register(found)
    page = SqliteTransaction(found, AT).ledger.find("s1", 5)
    assert [row.session_id for row in page] == ["s1"]
    found.close()
