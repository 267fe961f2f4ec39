"""A consistent copy of a database that is being written, and its check (R3.149, FAULTS D18).

The copy is made by SQLite's backup calls from a reader inside one read transaction: it shows one instant,
the writer is never waited for, and nobody but the writer checkpoints. Until the copy is done the log cannot
be cut back; it grows by what is written meanwhile.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw

from ambientd.ports.backup import CHECKING, COPYING, Progress, SnapshotFacts
from ambientd.ports.errors import StoreError
from ambientd.store.connection import APPLICATION_ID, open_reader
from ambientd.store.faults import UNAVAILABLE, translate
from ambientd.store.migrate import applied_migrations
from ambientd.store.search import register

BUSY_TIMEOUT = 5.0  # seconds
_STEP_PAGES = 2_048  # 8 MiB between two looks at whether the copy is still wanted
_CHECK_STEPS = 20_000  # virtual machine steps between two such looks while checking
_TABLES = """
SELECT name FROM sqlite_schema AS t WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'
AND NOT EXISTS (
    SELECT 1 FROM sqlite_schema AS v WHERE v.sql LIKE 'CREATE VIRTUAL TABLE%'
    AND (t.name = v.name OR t.name LIKE replace(v.name, '_', '!_') || '!_%' ESCAPE '!')
) ORDER BY name
"""


def copy_database(source: apsw.Connection, target: Path, progress: Progress) -> SnapshotFacts:
    """Copies what the open read transaction of `source` sees to the new file `target`, and checks it.

    Gives up when `source` is interrupted. Raises StoreError for a damaged copy, FileExistsError, and
    apsw.Error; no file is left then.
    """
    source.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # from here on it sees one instant
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with _opened(target) as copy:
            _copy_pages(source, copy, progress)
            copy.execute("PRAGMA journal_mode = DELETE").fetchall()  # one file, with nothing beside it
            facts = _checked(copy, target, source, progress)
        _sync(target)
    except BaseException:
        remove_database(target)
        raise
    return facts


@contextmanager
def _opened(target: Path) -> Iterator[apsw.Connection]:
    connection = apsw.Connection(str(target), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.execute("PRAGMA synchronous = OFF")  # synced as a whole at the end
        yield connection
    finally:
        connection.close()


def _copy_pages(source: apsw.Connection, copy: apsw.Connection, progress: Progress) -> None:
    with copy.backup("main", source, "main") as backup:
        while not backup.done:
            backup.step(_STEP_PAGES)
            progress(COPYING, backup.page_count - backup.remaining, backup.page_count)
            if source.is_interrupted:
                raise apsw.InterruptError("the copy was given up")


def _checked(copy: apsw.Connection, path: Path, source: apsw.Connection, progress: Progress) -> SnapshotFacts:
    copy.set_progress_handler(lambda: source.is_interrupted, _CHECK_STEPS)
    return _facts(copy, path, progress)


def _facts(connection: apsw.Connection, path: Path, progress: Progress) -> SnapshotFacts:
    register(connection)
    progress(CHECKING, 0, 0)
    found = connection.execute("PRAGMA application_id").get
    if found != APPLICATION_ID:
        raise StoreError(f"{path} is no database of ours (application id {found:#010x})")
    verdict = connection.execute("PRAGMA integrity_check(1)").get
    if verdict != "ok":
        raise StoreError(f"the copy is damaged: {verdict}", code=UNAVAILABLE)
    if connection.execute("PRAGMA foreign_key_check").fetchone() is not None:
        raise StoreError("the copy is damaged: rows refer to rows that are not there", code=UNAVAILABLE)
    return SnapshotFacts(
        bytes=path.stat().st_size,
        schema_version=max((row.version for row in applied_migrations(connection)), default=0),
        counts={str(name): _count(connection, str(name)) for (name,) in connection.execute(_TABLES)},
    )


def _count(connection: apsw.Connection, table: str) -> int:
    quoted = table.replace('"', '""')
    return int(connection.execute(f'SELECT count(*) FROM "{quoted}"').get)  # noqa: S608 - quoted


def check_database(path: Path, progress: Progress) -> SnapshotFacts:
    """The facts of a copy that nobody uses, after a check of everything in it.

    Raises StoreError when it is damaged or not ours.
    """
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return _facts(connection, path, progress)
        finally:
            connection.close()
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise StoreError(f"{path} is damaged: {error}", code=UNAVAILABLE) from error
    except apsw.Error as error:
        raise translate(error, path) from error


class IdleSnapshots:
    """`ports.backup.Snapshots` of a database that no daemon uses; the caller holds the state lock."""

    def __init__(self, database: Path) -> None:
        self._database = database

    async def snapshot(self, target: str, progress: Progress) -> SnapshotFacts:
        """See Snapshots; blocks, since nothing else goes on in this process."""
        if not self._database.exists():
            raise StoreError(f"there is no database at {self._database}")
        try:
            connection = open_reader(self._database, busy_timeout=BUSY_TIMEOUT)
            try:
                connection.execute("BEGIN")
                return copy_database(connection, Path(target), progress)
            finally:
                connection.close()
        except apsw.Error as error:
            raise translate(error, self._database) from error


def remove_database(path: Path) -> None:
    """Removes a database file that was given up, with its side files; never raises."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        with suppress(OSError):
            path.with_name(path.name + suffix).unlink()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
