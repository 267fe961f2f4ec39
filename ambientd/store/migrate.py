"""The migrations runner (specification 9.2.3): lock, plan, one transaction each, no script that commits."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw

import ambientd
from ambientd.core.migrations import AppliedMigration, Migration, Refusal, parse_migration, plan
from ambientd.core.timefmt import rfc3339_ms
from ambientd.ports.clock import Clock
from ambientd.ports.errors import StoreBusyError, StoreError

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_START_TIME_FIELD = 19  # of /proc/<pid>/stat, counted behind the command's closing parenthesis
_BOOTSTRAP = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version INTEGER PRIMARY KEY CHECK (version >= 1),
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied_at TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS schema_migrations_lock (
    lock INTEGER PRIMARY KEY CHECK (lock = 1),
    owner_pid INTEGER NOT NULL,
    owner_start_time TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    acquired_at TEXT NOT NULL
) STRICT;
"""


def default_folder(name: str = "node") -> Path:
    """Where the numbered files of a schema are: inside the installed package, or in the source tree."""
    package = Path(ambientd.__file__).parent
    installed = package / "_migrations" / name
    return installed if installed.is_dir() else package.parent / "migrations" / name


def known_migrations(folder: Path) -> tuple[Migration, ...]:
    """The numbered files of a folder, in order; raises StoreError when they cannot be read."""
    try:
        files = [(item.name, item.read_bytes()) for item in folder.iterdir() if item.suffix == ".sql"]
        found = [parse_migration(name, content) for name, content in files]
    except (OSError, ValueError) as error:
        raise StoreError(f"the migrations in {folder} cannot be read: {error}") from error
    return tuple(sorted(migration for migration in found if migration is not None))


def applied_migrations(connection: apsw.Connection) -> list[AppliedMigration]:
    """What `schema_migrations` records, in order; nothing for a database without that table."""
    if not has_migrations_table(connection):
        return []
    rows = connection.execute(
        "SELECT version, name, checksum, applied_at FROM schema_migrations ORDER BY version"
    )
    return [AppliedMigration(*row) for row in rows]


def has_migrations_table(connection: apsw.Connection) -> bool:
    """Asks the file; `Connection.table_exists` answers from a schema that may be old."""
    return bool(connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'schema_migrations'").get)


def migrate(
    connection: apsw.Connection,
    known: tuple[Migration, ...],
    clock: Clock,
    *,
    applied: Callable[[], object] = lambda: None,
) -> list[Migration]:
    """Applies what is missing and returns it; nothing is written when nothing is. `applied` is called after
    each migration.

    Raises StoreError for a refusal or a migration that failed (its transaction was rolled back, those
    before it stay), StoreBusyError while another living process migrates, apsw.Error for the rest.
    """
    if not _pending(connection, known):
        return []
    done: list[Migration] = []
    with _lock(connection, clock):
        for migration in _pending(connection, known):
            _apply(connection, migration, clock)
            done.append(migration)
            applied()
    return done


def _pending(connection: apsw.Connection, known: tuple[Migration, ...]) -> tuple[Migration, ...]:
    pending = plan(applied_migrations(connection), known)
    if isinstance(pending, Refusal):
        raise StoreError(pending.reason)
    return pending


@contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """One BEGIN IMMEDIATE … COMMIT; rolled back when anything is raised inside."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _deny_transactions(operation: int, *_arguments: str | None) -> int:
    """A migration that commits or rolls back by itself would leave the schema between two versions."""
    if operation in {apsw.SQLITE_TRANSACTION, apsw.SQLITE_SAVEPOINT}:
        return apsw.SQLITE_DENY
    return apsw.SQLITE_OK


def _apply(connection: apsw.Connection, migration: Migration, clock: Clock) -> None:
    try:
        with transaction(connection):
            connection.authorizer = _deny_transactions
            try:
                connection.execute(migration.sql)
            finally:
                connection.authorizer = None
            broken = connection.execute("PRAGMA foreign_key_check").fetchone()
            if broken is not None:
                raise StoreError(f"migration {migration.name} breaks a foreign key of {broken[0]}")
            connection.execute(
                "INSERT INTO schema_migrations (version, name, checksum, applied_at) VALUES (?, ?, ?, ?)",
                (migration.version, migration.name, migration.checksum, rfc3339_ms(clock.now())),
            )
    except (apsw.BusyError, apsw.FullError, apsw.IOError, apsw.ReadOnlyError):
        raise
    except apsw.Error as error:
        raise StoreError(f"migration {migration.name} failed and was rolled back: {error}") from error


@contextmanager
def _lock(connection: apsw.Connection, clock: Clock) -> Iterator[None]:
    """Holds the one row of `schema_migrations_lock`; a dead holder's is taken over."""
    pid = os.getpid()
    mine = (pid, _start_time(pid) or "", _boot_id())
    with transaction(connection):
        connection.execute(_BOOTSTRAP)
        holder = connection.execute(
            "SELECT owner_pid, owner_start_time, boot_id FROM schema_migrations_lock"
        ).fetchone()
        if holder is not None and holder != mine and _is_alive(*holder):
            raise StoreBusyError(f"process {holder[0]} is migrating the database")
        connection.execute("DELETE FROM schema_migrations_lock")
        connection.execute(
            "INSERT INTO schema_migrations_lock VALUES (1, ?, ?, ?, ?)", (*mine, rfc3339_ms(clock.now()))
        )
    try:
        yield
    finally:
        # A lock that cannot be removed now is ours at the next attempt, and a dead process's after that.
        with suppress(apsw.Error), transaction(connection):
            connection.execute("DELETE FROM schema_migrations_lock WHERE owner_pid = ?", (pid,))


def _is_alive(pid: int, start_time: str, boot_id: str) -> bool:
    """A number that another process has now, or had before a reboot, is no living holder."""
    return boot_id == _boot_id() and _start_time(pid) == start_time


def _start_time(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return stat.rpartition(b")")[2].split()[_START_TIME_FIELD].decode()


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def picture(connection: apsw.Connection) -> str:
    """The schema as text: what `migrations/node/schema.sql` shows. FTS shadow tables are left out."""
    rows = connection.execute(
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"
        " AND (type = 'trigger' OR name NOT LIKE 'session\\_search\\_%' ESCAPE '\\'"
        " AND name NOT LIKE 'session\\_end\\_search\\_%' ESCAPE '\\')"
        " ORDER BY CASE type WHEN 'table' THEN 1 WHEN 'index' THEN 2 WHEN 'view' THEN 3 ELSE 4 END, name"
    )
    return "\n\n".join(f"{sql};" for (sql,) in rows) + "\n"
