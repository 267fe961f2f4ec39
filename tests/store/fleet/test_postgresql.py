"""What is PostgreSQL's alone: migrations, connections that end, a server that is away, several processes."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio

from ambientd.core.fleet.records import UserRecord
from ambientd.core.migrations import parse_migration
from ambientd.ports.errors import StoreBusyError, StoreError, UnavailableError
from ambientd.ports.fleet.store import FleetTransaction
from ambientd.store.fleet import (
    assignments,
    audit,
    connect,
    devices,
    history,
    items,
    ledger,
    nodes,
    reports,
    streams,
    tasks,
    tokens,
    users,
)
from ambientd.store.fleet.postgresql import PostgresqlFleetStore
from ambientd.store.fleet.postgresql_migrate import applied_migrations, migrate
from ambientd.store.fleet.sql import Bulk
from ambientd.store.migrate import default_folder, known_migrations
from tests.pgkit import PgServer
from tests.store.fleet.kit import AT, PostgresqlPlace, add_user, opened, running, scene
from tests.store.kit import StillClock

FOLDER = default_folder("control_plane/postgresql")
MODULES = (
    assignments, audit, connect, devices, history, items, ledger, nodes, reports, streams, tasks, tokens,
    users,
)  # fmt: skip


def connection_to(place: PostgresqlPlace) -> "psycopg.Connection[tuple[Any, ...]]":
    return psycopg.connect(place.server.address(place.database), autocommit=True)


def migration(version: int, sql: str) -> Any:
    return parse_migration(f"{version:04}_m{version}.sql", sql.encode())


@pytest.fixture
def empty(postgresql: PgServer) -> PostgresqlPlace:
    """A database without a schema."""
    return PostgresqlPlace(postgresql, postgresql.new_database())


# --- migrations


def test_migrations_run_once_and_in_order(empty: PostgresqlPlace) -> None:
    known = (migration(1, "CREATE TABLE a (x INT);"), migration(2, "ALTER TABLE a ADD COLUMN y INT;"))
    with connection_to(empty) as connection:
        assert [done.version for done in migrate(connection, known[:1], StillClock())] == [1]
        assert [done.version for done in migrate(connection, known, StillClock())] == [2]
        assert migrate(connection, known, StillClock()) == []
        rows = applied_migrations(connection)
    assert [(row.version, row.name, row.checksum) for row in rows] == [
        (m.version, m.name, m.checksum) for m in known
    ]
    assert rows[0].applied_at == "2026-11-20T12:00:00.000Z"


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        ([(1, "CREATE TABLE a (x INT, z INT);"), (2, "SELECT 1;")], "edited"),
        ([(1, "CREATE TABLE a (x INT);")], "newer"),
    ],
)
def test_an_edited_or_newer_schema_is_refused_and_left_alone(
    empty: PostgresqlPlace, then: list[tuple[int, str]], reason: str
) -> None:
    first = (migration(1, "CREATE TABLE a (x INT);"), migration(2, "SELECT 1;"))
    with connection_to(empty) as connection:
        migrate(connection, first, StillClock())
        with pytest.raises(StoreError, match=reason):
            migrate(connection, tuple(migration(*row) for row in then), StillClock())
        assert len(applied_migrations(connection)) == 2


def test_a_migration_that_fails_is_rolled_back_alone(empty: PostgresqlPlace) -> None:
    known = (
        migration(1, "CREATE TABLE a (x INT);"),
        migration(2, "CREATE TABLE b (x INT); SELECT nonsense FROM nowhere;"),
    )
    with connection_to(empty) as connection:
        with pytest.raises(StoreError, match=r"0002_m2 failed and was rolled back: .*nowhere"):
            migrate(connection, known, StillClock())
        assert [row.version for row in applied_migrations(connection)] == [1]
        assert connection.execute("SELECT to_regclass('a'), to_regclass('b')").fetchone() == ("a", None)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE a (x INT); COMMIT; CREATE TABLE b (x INT);",
        "begin; create table a (x int); end;",
        "CREATE TABLE a (x INT);\n-- a note\nROLLBACK;",
        "/* x */ START TRANSACTION;",
        "SAVEPOINT s;",
    ],
)
def test_a_migration_that_ends_transactions_is_refused(empty: PostgresqlPlace, sql: str) -> None:
    with connection_to(empty) as connection:
        with pytest.raises(StoreError, match="by itself"):
            migrate(connection, (migration(1, sql),), StillClock())
        assert connection.execute("SELECT to_regclass('a')").fetchone() == (None,)


def test_words_in_functions_and_texts_end_no_transaction(empty: PostgresqlPlace) -> None:
    sql = (
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$\nBEGIN\n RETURN 1;\nEND\n$$;"
        " CREATE TABLE a (x TEXT DEFAULT 'x; COMMIT; y'); -- ; ROLLBACK"
    )
    with connection_to(empty) as connection:
        assert len(migrate(connection, (migration(1, sql),), StillClock())) == 1


async def test_processes_that_start_together_migrate_once(empty: PostgresqlPlace) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(_open_and_close, empty)
    assert empty.rows("SELECT count(*) FROM schema_migrations") == [(len(known_migrations(FOLDER)),)]


async def _open_and_close(place: PostgresqlPlace) -> None:
    async with opened(place):
        pass


async def test_a_foreign_database_is_left_as_it_is(empty: PostgresqlPlace) -> None:
    empty.rows("CREATE TABLE users (x INT)")
    async with running(empty.store()) as store:
        facts = store.facts()
        assert not facts.ready
        assert facts.reason is not None
        assert "already exists" in facts.reason
        with pytest.raises(StoreError, match="already exists"):
            await store.read(lambda tx: tx.users.page(1))
    assert empty.rows("SELECT to_regclass('nodes')") == [(None,)]


async def test_a_newer_schema_keeps_the_store_from_being_ready(pg_place: PostgresqlPlace) -> None:
    pg_place.rows("INSERT INTO schema_migrations VALUES (99, '0099_x', 'x', 'x')")
    async with running(pg_place.store()) as store:
        assert "newer" in (store.facts().reason or "")


async def test_another_encoding_is_refused(postgresql: PgServer) -> None:
    postgresql.run("postgres", "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    async with running(PostgresqlPlace(postgresql, "latin").store()) as store:
        assert "LATIN1" in (store.facts().reason or "")


# --- connections and the server


async def test_what_is_acknowledged_is_synchronous(pg_place: PostgresqlPlace) -> None:
    pg_place.rows(f"ALTER DATABASE {pg_place.database} SET synchronous_commit = off")
    async with opened(pg_place) as store:
        found = await store.read(lambda tx: tx._sql.rows("SHOW synchronous_commit"))  # type: ignore[attr-defined]
    assert found == [("on",)]


async def test_a_read_sees_one_moment_and_writes_nothing(pg_place: PostgresqlPlace) -> None:
    seen: list[int] = []

    def look(tx: FleetTransaction) -> None:
        seen.append(len(tx.users.page(9)))
        pg_place.rows("INSERT INTO users (user_id, username, role, created_at) VALUES ('x', 'x', 'user', 1)")
        seen.append(len(tx.users.page(9)))

    async with opened(pg_place) as store:
        await store.read(look)
        assert seen == [0, 0]
        assert len(await store.read(lambda tx: tx.users.page(9))) == 1
        with pytest.raises(StoreError, match="read-only"):
            await store.read(lambda tx: add_user(tx, "bob"))


async def test_a_stale_connection_is_replaced_without_anybody_noticing(pg_place: PostgresqlPlace) -> None:
    async with opened(pg_place) as store:
        await store.write(scene)
        for _ in range(3):
            pg_place.server.run(
                "postgres",
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                (pg_place.database,),
            )
            assert len(await store.read(lambda tx: tx.users.page(9))) == 2
            await store.write(lambda tx: tx.users.note_login("ann", AT))
        assert store.facts().ready


async def test_a_query_is_given_up_when_nobody_waits_for_it(pg_place: PostgresqlPlace) -> None:
    async with opened(pg_place) as store:
        began = trio.current_time()
        with trio.move_on_after(0.3) as scope:
            await store.read(lambda tx: tx._sql.rows("SELECT pg_sleep(20)"))  # type: ignore[attr-defined]
        assert scope.cancelled_caught
        assert trio.current_time() - began < 10
        assert await store.read(lambda tx: tx.users.page(1)) == []


async def test_deadlocks_are_got_over_by_trying_again(pg_place: PostgresqlPlace) -> None:
    async with opened(pg_place) as store:
        await store.write(scene)
        locked = {name: trio.Event() for name in ("n1", "n2")}

        async def crosswise(first: str, second: str) -> None:
            def work(tx: FleetTransaction) -> None:
                tx._sql.locked("SELECT 1 FROM nodes WHERE node_id = ?", (first,))  # type: ignore[attr-defined]
                trio.from_thread.run_sync(locked[first].set)
                trio.from_thread.run(locked[second].wait)
                tx._sql.locked("SELECT 1 FROM nodes WHERE node_id = ?", (second,))  # type: ignore[attr-defined]

            await store.write(work)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(crosswise, "n1", "n2")
            nursery.start_soon(crosswise, "n2", "n1")


async def test_a_lock_that_is_held_too_long_makes_the_store_busy(pg_place: PostgresqlPlace) -> None:
    async with opened(pg_place) as store:
        await store.write(scene)
        with connection_to(pg_place) as other:
            other.execute("BEGIN")
            other.execute("SELECT 1 FROM nodes FOR UPDATE")

            def work(tx: FleetTransaction) -> None:
                tx._sql.run("SET LOCAL lock_timeout = 100")  # type: ignore[attr-defined]
                tx.nodes.delete("n1", "ann", AT)

            with pytest.raises(StoreBusyError):
                await store.write(work)
            other.execute("ROLLBACK")
        assert await store.read(lambda tx: tx.nodes.get("n1")) is not None


async def test_a_server_that_was_never_there_is_found_when_it_comes(tmp_path: Path) -> None:
    store = PostgresqlFleetStore(
        f"postgresql://ambient@/none?host={tmp_path}", clock=StillClock(), pool_size=2
    )
    async with running(store) as port:
        assert not port.facts().ready
        with pytest.raises(StoreError, match="not ready"):
            await port.write(lambda tx: add_user(tx, "ann"))
    with pytest.raises(StoreError, match="closed"):
        await store.read(lambda tx: tx.users.page(1))


async def test_sweep_locks_are_one_processs_at_a_time(pg_place: PostgresqlPlace) -> None:
    async with opened(pg_place) as one, opened(pg_place) as two:
        granted: list[bool] = []

        async def other(name: str) -> bool:
            return await two.write(lambda tx: tx.try_sweep_lock(name))

        def hold(tx: FleetTransaction) -> None:
            granted.append(tx.try_sweep_lock("nodes"))
            granted.append(trio.from_thread.run(partial(other, "nodes")))
            granted.append(trio.from_thread.run(partial(other, "work")))

        await one.write(hold)
        granted.append(await other("nodes"))
    assert granted == [True, False, True, True]


async def test_overload_is_refused_at_once(
    pg_place: PostgresqlPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ambientd.store.fleet.postgresql.WAITING_MAX", 2)
    async with running(pg_place.store(pool_size=1)) as store, trio.open_nursery() as nursery:
        sleep = partial(store.read, lambda tx: tx._sql.rows("SELECT pg_sleep(0.3)"))  # type: ignore[attr-defined]
        nursery.start_soon(sleep)
        nursery.start_soon(sleep)
        await trio.sleep(0.05)
        with pytest.raises(UnavailableError, match="too many"):
            await store.write(lambda tx: tx.users.page(1))


# --- statements


def _texts(module: object) -> list[str]:
    found = []
    for value in vars(module).values():
        if isinstance(value, Bulk):
            found.append(value.sql)
        elif isinstance(value, str) and re.match(r"(SELECT|INSERT|UPDATE|DELETE)\b", value):
            found.append(value)
    return found


def test_no_statement_has_a_mark_within_a_text() -> None:
    """The marks are replaced blindly."""
    found = [text for module in MODULES for text in _texts(module)]
    assert len(found) > 60
    for text in found:
        assert not any("?" in quoted for quoted in re.findall(r"'[^']*'", text))


def test_rows_of_a_batch_meet_no_other_and_name_all_columns() -> None:
    bulks = [value for module in MODULES for value in vars(module).values() if isinstance(value, Bulk)]
    assert len(bulks) >= 12
    for bulk in bulks:
        assert re.search(r" FROM batch(, | WHERE )", bulk.sql), bulk.sql
        names = {name for name, _ in bulk.columns}
        assert set(re.findall(r"\bbatch\.(\w+)", bulk.sql)) <= names


async def test_a_user_is_shown_without_secrets(pg_place: PostgresqlPlace) -> None:
    user = UserRecord(user_id="u", username="u", created_at=AT)
    async with opened(pg_place) as store:
        await store.write(lambda tx: tx.users.add(user, "argon-secret"))
        twin = UserRecord(user_id="u", username="other", created_at=AT)
        with pytest.raises(ValueError, match="users") as caught:
            await store.write(lambda tx: tx.users.add(twin, "argon-secret"))
    assert "argon-secret" not in str(caught.value)
