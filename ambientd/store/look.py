"""A look at a database that nobody serves: is it ours, is it whole, which schema. Changes nothing."""

from pathlib import Path
from typing import NamedTuple

import apsw

from ambientd.ports.clock import Clock
from ambientd.ports.errors import StoreError
from ambientd.store.connection import APPLICATION_ID, open_reader
from ambientd.store.faults import translate
from ambientd.store.migrate import applied_migrations, default_folder, known_migrations

_STEPS = 5_000  # virtual machine steps between two looks at the clock


class DatabaseLook(NamedTuple):
    """What is there. `checked` is false when the time was up before every page was seen."""

    schema: int
    newest: int
    checked: bool
    wal_bytes: int
    sqlite: str


def look_at_database(path: Path, *, clock: Clock, seconds: float) -> DatabaseLook:
    """Blocks for about `seconds` at most. Raises StoreError, which says what is wrong, StoreBusyError."""
    if path.stat().st_size == 0:
        raise StoreError(f"{path} is empty; the daemon sets it aside and makes a new one")
    try:
        connection = open_reader(path, busy_timeout=seconds / 4)
        try:
            return _look(path, connection, clock, seconds)
        finally:
            connection.close()
    except apsw.Error as error:
        raise translate(error, path) from error


def _look(path: Path, connection: apsw.Connection, clock: Clock, seconds: float) -> DatabaseLook:
    found = int(connection.execute("PRAGMA application_id").get)
    if found != APPLICATION_ID:
        raise StoreError(f"{path} is another program's database (application id {found:#010x})")
    applied, newest = applied_migrations(connection), len(known_migrations(default_folder()))
    schema = max((row.version for row in applied), default=0)
    if schema > newest:
        raise StoreError(f"its schema {schema} is newer than this program's {newest}; use a newer program")
    log = path.with_name(path.name + "-wal")
    return DatabaseLook(
        schema=schema,
        newest=newest,
        checked=_check(path, connection, clock, seconds),
        wal_bytes=log.stat().st_size if log.exists() else 0,
        sqlite=apsw.sqlite_lib_version(),
    )


def _check(path: Path, connection: apsw.Connection, clock: Clock, seconds: float) -> bool:
    deadline = clock.monotonic() + seconds
    connection.set_progress_handler(lambda: clock.monotonic() > deadline, _STEPS)
    try:
        verdict = connection.execute("PRAGMA quick_check(1)").get
    except apsw.InterruptError:
        return False
    if verdict != "ok":
        raise StoreError(f"{path} is damaged: {str(verdict)[:200]}")
    return True
