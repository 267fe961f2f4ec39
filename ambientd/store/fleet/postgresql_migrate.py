"""The migrations runner for PostgreSQL, under the rules of the one for SQLite.

The lock is an advisory one of the session: the server frees it with the connection, however its holder ended
and whatever machine it ran on.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from ambientd.core.migrations import AppliedMigration, Migration, Refusal, plan
from ambientd.core.timefmt import rfc3339_ms
from ambientd.ports.clock import Clock
from ambientd.ports.errors import StoreBusyError, StoreError
from ambientd.store.fleet.postgresql_faults import first_line
from ambientd.store.fleet.postgresql_sql import lock_key

OLDEST_SERVER = 130000  # as libpq counts
LOCK_WAIT_MS = 30_000  # another process that migrates is waited for so long
_EXISTS = "SELECT to_regclass('schema_migrations')"
_APPLIED = "SELECT version, name, checksum, applied_at FROM schema_migrations ORDER BY version"
_BOOTSTRAP = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version INTEGER PRIMARY KEY CHECK (version >= 1),
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied_at TEXT NOT NULL
)
"""
_INSERT = "INSERT INTO schema_migrations (version, name, checksum, applied_at) VALUES (%s, %s, %s, %s)"
_ASIDE = re.compile(r"\$([a-z_]*)\$.*?\$\1\$|--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'", re.DOTALL)
_CONTROL = re.compile(
    r"(?:^|;)\s*(?:begin|start\s+transaction|commit|end|rollback|abort|savepoint|release|prepare)\b",
    re.IGNORECASE,
)

Connection = psycopg.Connection[tuple[Any, ...]]


def applied_migrations(connection: Connection) -> list[AppliedMigration]:
    """What `schema_migrations` records, in order; nothing for a database without that table."""
    found = connection.execute(_EXISTS).fetchone()
    if found is None or found[0] is None:
        return []
    return [AppliedMigration(*row) for row in connection.execute(_APPLIED)]


def migrate(connection: Connection, known: tuple[Migration, ...], clock: Clock) -> list[Migration]:
    """Applies what is missing and returns it; nothing is written when nothing is.

    The connection commits each statement (autocommit). Raises StoreError for a refusal or a migration that
    failed (its transaction was rolled back, those before it stay), StoreBusyError while another process
    migrates for too long, psycopg.Error for the rest.
    """
    _check_server(connection)
    if not _pending(connection, known):
        return []
    done: list[Migration] = []
    with _lock(connection):
        connection.execute(_BOOTSTRAP)
        for migration in _pending(connection, known):
            _apply(connection, migration, clock)
            done.append(migration)
    return done


def _check_server(connection: Connection) -> None:
    if connection.info.server_version < OLDEST_SERVER:
        raise StoreError(
            f"the database server is version {connection.info.server_version // 10000};"
            f" it must be {OLDEST_SERVER // 10000} or newer"
        )
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise StoreError(f"the database's encoding is {encoding}; it must be UTF8")


def _pending(connection: Connection, known: tuple[Migration, ...]) -> tuple[Migration, ...]:
    pending = plan(applied_migrations(connection), known)
    if isinstance(pending, Refusal):
        raise StoreError(pending.reason)
    return pending


def _apply(connection: Connection, migration: Migration, clock: Clock) -> None:
    if _CONTROL.search(_ASIDE.sub(" ", migration.sql)):
        raise StoreError(
            f"migration {migration.name} begins or ends transactions by itself; nothing was done"
        )
    try:
        with connection.transaction():
            connection.execute(migration.sql.encode())
            row = (migration.version, migration.name, migration.checksum, rfc3339_ms(clock.now()))
            connection.execute(_INSERT, row)
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        raise StoreError(
            f"migration {migration.name} failed and was rolled back: {first_line(error)}"
        ) from error


@contextmanager
def _lock(connection: Connection) -> Iterator[None]:
    key = lock_key("migrations")
    # Neither limit of ordinary statements fits: this may wait, and a migration may take its time.
    connection.execute(f"SET lock_timeout = {LOCK_WAIT_MS}".encode())
    connection.execute(b"SET statement_timeout = 0")
    try:
        connection.execute("SELECT pg_advisory_lock(%s)", (key,))
    except psycopg.errors.LockNotAvailable as error:
        raise StoreBusyError("another process is migrating the database") from error
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s)", (key,))
            connection.execute(b"RESET lock_timeout")
            connection.execute(b"RESET statement_timeout")
