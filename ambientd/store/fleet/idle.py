"""Writing to a control plane's SQLite database that no process uses; the caller holds the state lock."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import apsw

from ambientd.ports.clock import Clock
from ambientd.ports.fleet.store import FleetTransaction
from ambientd.store.connection import open_writer
from ambientd.store.faults import translate
from ambientd.store.fleet.sqlite_sql import SqliteSql
from ambientd.store.fleet.unit import SQLITE_FLEET, FleetUnit
from ambientd.store.migrate import default_folder, known_migrations, migrate, transaction
from ambientd.store.restore import newest_schema

BUSY_TIMEOUT = 5.0  # seconds

T = TypeVar("T")


def newest_fleet_schema() -> int:
    """The newest schema that this program knows."""
    return newest_schema(default_folder(SQLITE_FLEET.migrations))


def write_idle(path: Path, work: Callable[[FleetTransaction], T], clock: Clock) -> T:
    """Brings the database to this program's schema and runs `work` in one transaction.

    Raises StoreError, StoreBusyError, StoreFullError.
    """
    try:
        connection = open_writer(path, busy_timeout=BUSY_TIMEOUT)
        try:
            migrate(connection, known_migrations(default_folder(SQLITE_FLEET.migrations)), clock)
            with transaction(connection):
                return work(FleetUnit(SqliteSql(connection)))
        finally:
            connection.close()
    except apsw.Error as error:
        raise translate(error, path) from error
