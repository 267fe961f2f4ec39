"""The schema from outside the daemon: listing and applying migrations of a database that nobody serves."""

from pathlib import Path
from typing import NamedTuple

import apsw

from ambientd.core.migrations import AppliedMigration, Migration
from ambientd.ports.clock import Clock
from ambientd.store.connection import open_reader
from ambientd.store.faults import translate
from ambientd.store.migrate import applied_migrations, default_folder, known_migrations, migrate
from ambientd.store.recover import open_database

BUSY_TIMEOUT = 5.0  # seconds


class MigrationStatus(NamedTuple):
    """What a database has and what this program knows."""

    applied: tuple[AppliedMigration, ...]
    known: tuple[Migration, ...]


def migration_status(database: Path, *, folder: Path | None = None) -> MigrationStatus:
    """Reads without changing anything; raises StoreError, StoreBusyError."""
    known = known_migrations(folder or default_folder())
    if not database.exists():
        return MigrationStatus((), known)
    try:
        connection = open_reader(database, busy_timeout=BUSY_TIMEOUT)
        try:
            return MigrationStatus(tuple(applied_migrations(connection)), known)
        finally:
            connection.close()
    except apsw.Error as error:
        raise translate(error, database) from error


def apply_migrations(database: Path, *, clock: Clock, folder: Path | None = None) -> MigrationStatus:
    """Recovers or makes the database as the daemon would, then migrates it.

    Raises StoreError, StoreFullError, and StoreBusyError while another process holds it.
    """
    known = known_migrations(folder or default_folder())
    connection = open_database(database, clock=clock, busy_timeout=BUSY_TIMEOUT, newest=len(known))
    try:
        migrate(connection, known, clock)
        return MigrationStatus(tuple(applied_migrations(connection)), known)
    except apsw.Error as error:
        raise translate(error, database) from error
    finally:
        connection.close()
