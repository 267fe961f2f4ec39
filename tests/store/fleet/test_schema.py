"""The schemas of both databases: their pictures, and that they name the same things."""

import re

import apsw
import psycopg

from ambientd.store.migrate import default_folder, known_migrations, migrate, picture
from tests.store.fleet.kit import PostgresqlPlace
from tests.store.fleet.picture import NOTE, postgresql_picture
from tests.store.kit import StillClock

SQLITE, POSTGRESQL = (default_folder(f"control_plane/{name}") for name in ("sqlite", "postgresql"))
RENEW = "run: python -m tests.store.fleet.picture"


def in_memory() -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    connection.execute("PRAGMA foreign_keys = ON")
    migrate(connection, known_migrations(SQLITE), StillClock())
    return connection


def test_the_picture_of_the_sqlite_schema_is_true() -> None:
    assert (SQLITE / "schema.sql").read_text() == NOTE + picture(in_memory()), RENEW


def test_the_picture_of_the_postgresql_schema_is_true(pg_place: PostgresqlPlace) -> None:
    with psycopg.connect(pg_place.server.address(pg_place.database)) as connection:
        assert (POSTGRESQL / "schema.sql").read_text() == NOTE + postgresql_picture(connection), RENEW


def test_both_schemas_have_the_same_tables_columns_and_indexes(pg_place: PostgresqlPlace) -> None:
    memory = in_memory()
    tables = [row[0] for row in memory.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    here = {
        table: [(row[1], bool(row[3])) for row in memory.execute(f"PRAGMA table_info({table})")]
        for table in tables
        if table != "schema_migrations_lock"  # the server has a lock of its own
    }
    there: dict[str, list[tuple[str, bool]]] = {}
    for table, column, nullable in pg_place.rows(
        "SELECT table_name, column_name, is_nullable FROM information_schema.columns"
        " WHERE table_schema = 'public' ORDER BY table_name, ordinal_position"
    ):
        there.setdefault(table, []).append((column, nullable == "NO"))
    here["schema_migrations"] = there[
        "schema_migrations"
    ]  # `version`: a rowid is never null, and not said so
    assert here == there
    ours = {
        row[0] for row in memory.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql != ''")
    }
    theirs = {row[0] for row in pg_place.rows("SELECT indexname FROM pg_indexes WHERE schemaname = 'public'")}
    assert ours <= theirs


def test_reports_touch_no_column_of_an_index(pg_place: PostgresqlPlace) -> None:
    """Or they could not be updated in place, and the table would grow with every report."""
    indexed = {
        row[0]
        for row in pg_place.rows(
            "SELECT a.attname FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid"
            " AND a.attnum = ANY (i.indkey) WHERE i.indrelid = 'nodes'::regclass"
        )
    }
    assert indexed == {"node_id", "owner_id", "registered_at"}


def test_the_numbered_files_of_both_have_the_same_names() -> None:
    names = [[m.name for m in known_migrations(folder)] for folder in (SQLITE, POSTGRESQL)]
    assert names[0] == names[1]
    for folder in (SQLITE, POSTGRESQL):
        for migration in known_migrations(folder):
            assert not re.search(r"[ \t]$", migration.sql, re.MULTILINE)
