"""Reading a database that no daemon uses; the caller holds the state lock."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import apsw

from ambientd.core.records import AuditEntry
from ambientd.ports.clock import Clock
from ambientd.ports.errors import StoreError
from ambientd.store.audit import SqliteAudit
from ambientd.store.connection import APPLICATION_ID, open_reader, open_writer
from ambientd.store.faults import translate
from ambientd.store.migrate import (
    applied_migrations,
    default_folder,
    known_migrations,
    migrate,
    transaction,
)
from ambientd.store.unit import SqliteTransaction

BUSY_TIMEOUT = 5.0  # seconds
CHECKPOINTS_SINCE = 6  # the schema that has them


@contextmanager
def reading(path: Path, now: datetime) -> Iterator[SqliteTransaction]:
    """One consistent read. Raises StoreError, also for a schema without checkpoints, and StoreBusyError."""
    if not path.exists():
        raise StoreError(f"there is no database at {path}")
    try:
        connection = open_reader(path, busy_timeout=BUSY_TIMEOUT)
        try:
            _check(path, connection)
            connection.execute("BEGIN")
            yield SqliteTransaction(connection, now)
        finally:
            connection.close()
    except apsw.Error as error:
        raise translate(error, path) from error


def _check(path: Path, connection: apsw.Connection) -> None:
    found = connection.execute("PRAGMA application_id").get
    if found != APPLICATION_ID:
        raise StoreError(f"{path} is no database of ours (application id {found:#010x})")
    schema = max((row.version for row in applied_migrations(connection)), default=0)
    if schema < CHECKPOINTS_SINCE:
        raise StoreError(f"{path} has schema {schema}, which knows no checkpoints; run: ambientd migrate")


def append_audit(path: Path, entry: AuditEntry, clock: Clock) -> int:
    """Brings the database to this program's schema and appends a record; returns its number.

    Raises StoreError, StoreBusyError, StoreFullError.
    """
    try:
        connection = open_writer(path, busy_timeout=BUSY_TIMEOUT)
        try:
            migrate(connection, known_migrations(default_folder()), clock)
            with transaction(connection):
                return SqliteAudit(connection).append(entry)
        finally:
            connection.close()
    except apsw.Error as error:
        raise translate(error, path) from error
