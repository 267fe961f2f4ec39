"""Every test that asks for `place` runs on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.pgkit import PgServer
from tests.store.fleet.kit import Place, PostgresqlPlace, SqlitePlace, opened

_MIGRATED: dict[str, str] = {}


async def _migrate(place: PostgresqlPlace) -> None:
    async with opened(place):
        pass


def migrated(server: PgServer) -> str:
    """A database with the schema, to be copied."""
    key = str(server.folder)
    if key not in _MIGRATED:
        _MIGRATED[key] = server.new_database()
        trio.run(_migrate, PostgresqlPlace(server, _MIGRATED[key]))
    return _MIGRATED[key]


@pytest.fixture
def pg_place(postgresql: PgServer) -> Iterator[PostgresqlPlace]:
    """A database of its own on PostgreSQL, with the schema; gone after the test."""
    postgresql.ensure()
    database = postgresql.new_database(migrated(postgresql))
    yield PostgresqlPlace(postgresql, database)
    postgresql.drop(database)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A database of its own, on each engine in turn."""
    if request.param == "sqlite":
        return SqlitePlace(tmp_path)
    found: PostgresqlPlace = request.getfixturevalue("pg_place")
    return found
