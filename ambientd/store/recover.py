"""What to do with the database file that is found at start (FAULTS D10; DESIGN "damaged database").

| found | done |
| --- | --- |
| nothing, and no creation marker | first run: a new database |
| nothing, but the marker says there was one | a new database, degraded |
| zero length; no SQLite header; damaged pages | set aside as `<name>.corrupt-<time>`, a new one, degraded |
| another program's `application_id`; a newer schema; read-only; not a file | untouched, StoreError |

Degraded lasts until the operator has moved the file that was set aside.
"""

import os
from datetime import datetime
from pathlib import Path

import apsw

from ambientd.core.timefmt import rfc3339_ms
from ambientd.ports.clock import Clock
from ambientd.ports.errors import StoreError
from ambientd.store.connection import APPLICATION_ID, HEADER_SIZE, MAGIC, make_durable, open_writer
from ambientd.store.faults import PassingStoreError, translate, translate_os
from ambientd.store.migrate import has_migrations_table

# A check of everything is wanted at start, but a large ledger may not delay it: what was not reached in
# this time, in seconds, is taken for whole.
CHECK_TIME = 1.0
_CHECK_STEPS = 5_000  # virtual machine steps between two looks at the clock
_SIDE_FILES = ("", "-wal", "-shm", "-journal")
_APPLICATION_ID_AT = 68


class _DamagedError(Exception):
    """The file is ours or was, and cannot be used."""


def open_database(path: Path, *, clock: Clock, busy_timeout: float, newest: int) -> apsw.Connection:
    """The writer's connection to a database that was checked, set aside or made.

    `newest` is the highest schema version this program knows. Raises StoreError when the file must be left
    as it is, StoreBusyError when another process holds it, StoreFullError when there is no room.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not _exists(path):
            _note_missing(path, clock.now())
            _create(path, clock.now())
        try:
            connection = _open_checked(path, clock=clock, busy_timeout=busy_timeout, newest=newest)
        except _DamagedError:
            set_aside(path, "corrupt", clock.now())
            _create(path, clock.now())
            connection = _open_checked(path, clock=clock, busy_timeout=busy_timeout, newest=newest)
        try:
            make_durable(connection)
        except (apsw.Error, StoreError):
            connection.close()
            raise
        mark_created(path, clock.now())
    except apsw.Error as error:
        raise translate(error, path) from error
    except OSError as error:
        raise translate_os(error) from error
    return connection


def degraded(path: Path) -> str | None:
    """A sentence while something set aside still stands beside the database, else None."""
    try:
        names = sorted(item.name for item in path.parent.iterdir() if _tells(path, item.name))
    except OSError:
        return None
    if not names:
        return None
    if any(name.startswith(path.name + ".corrupt-") for name in names):
        return f"the database was damaged and set aside as {', '.join(names)}; a new one is in use"
    return f"the database had gone; a new one is in use. Remove {', '.join(names)} when you have seen this"


def _tells(path: Path, name: str) -> bool:
    told = name.startswith((path.name + ".corrupt-", path.name + ".missing-"))
    return told and not name.endswith(("-wal", "-shm", "-journal"))


def marker(path: Path) -> Path:
    """The file that says that a database was made here once."""
    return path.with_name(path.name + ".created")


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def _open_checked(path: Path, *, clock: Clock, busy_timeout: float, newest: int) -> apsw.Connection:
    _check_file(path)
    try:
        connection = open_writer(path, busy_timeout=busy_timeout)
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise _DamagedError(str(error)) from error
    try:
        _check_schema(connection, newest)
        _check_pages(connection, clock)
    except (apsw.CorruptError, apsw.NotADBError) as error:
        connection.close()
        raise _DamagedError(str(error)) from error
    except (apsw.Error, StoreError, _DamagedError):
        connection.close()
        raise
    return connection


def _check_file(path: Path) -> None:
    """What can be said without SQLite, which would touch what must stay untouched."""
    if not path.is_file():
        raise StoreError(f"{path} is not a regular file")
    mode = path.stat().st_mode
    if not mode & 0o222 or not os.access(path, os.W_OK):
        raise PassingStoreError(f"{path} is read-only")
    if not os.access(path.parent, os.W_OK):
        raise PassingStoreError(f"{path.parent} is read-only")
    with path.open("rb") as file:
        header = file.read(HEADER_SIZE)
    if len(header) < HEADER_SIZE or not header.startswith(MAGIC):
        raise _DamagedError("no SQLite header")
    found = int.from_bytes(header[_APPLICATION_ID_AT : _APPLICATION_ID_AT + 4])
    if found != APPLICATION_ID:
        raise StoreError(f"{path} is another program's database (application id {found:#010x})")


def _check_schema(connection: apsw.Connection, newest: int) -> None:
    if not has_migrations_table(connection):
        return
    found = connection.execute("SELECT max(version) FROM schema_migrations").get or 0
    if found > newest:
        raise StoreError(
            f"the database has schema {found}, newer than this program's {newest}; use a newer program"
        )


def _check_pages(connection: apsw.Connection, clock: Clock) -> None:
    deadline = clock.monotonic() + CHECK_TIME
    connection.set_progress_handler(lambda: clock.monotonic() > deadline, _CHECK_STEPS)
    try:
        verdict = connection.execute("PRAGMA quick_check(1)").get
    except apsw.InterruptError:
        return
    finally:
        connection.set_progress_handler(None)
    if verdict != "ok":
        raise _DamagedError(str(verdict))


def set_aside(path: Path, why: str, at: datetime) -> Path:
    """Moves the database and its side files to `<name>.<why>-<time>…`; returns the new path."""
    target = set_aside_name(path, why, at)
    for suffix in _SIDE_FILES:
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.rename(target.with_name(target.name + suffix))
    sync_folder(path.parent)
    return target


def set_aside_name(path: Path, why: str, at: datetime) -> Path:
    """A free name that tells why and when a database was set aside."""
    stamp = rfc3339_ms(at).replace("-", "").replace(":", "").replace(".", "")
    target = path.with_name(f"{path.name}.{why}-{stamp}")
    copy = 1
    while _exists(target):
        copy += 1
        target = path.with_name(f"{path.name}.{why}-{stamp}.{copy}")
    return target


def side_files(path: Path) -> list[Path]:
    """Where SQLite's files beside a database stand, when there are any."""
    return [path.with_name(path.name + suffix) for suffix in _SIDE_FILES[1:]]


def _note_missing(path: Path, at: datetime) -> None:
    """A log that outlived its database would be replayed into the new one: it is moved away as well."""
    stale = any(path.with_name(path.name + suffix).exists() for suffix in _SIDE_FILES[1:])
    if not stale and not marker(path).exists():
        return
    target = set_aside(path, "missing", at)
    if not target.exists():
        target.write_text("The database that stood here was gone at this time; a new one was made.\n")


def _create(path: Path, at: datetime) -> None:
    """Makes the file under another name first: a crash on the way never leaves a file of zero length."""
    building = path.with_name(path.name + ".new")
    for suffix in _SIDE_FILES:
        building.with_name(building.name + suffix).unlink(missing_ok=True)
    os.close(os.open(building, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = apsw.Connection(str(building), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        # Only an empty file can be told: its free pages can be given back to the disk a few at a time.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    finally:
        connection.close()
    building.rename(path)
    sync_folder(path.parent)
    mark_created(path, at)


def mark_created(path: Path, at: datetime) -> None:
    """The marker must last as long as the database, or the next start would take damage for a first run."""
    if marker(path).exists():
        return
    with marker(path).open("w") as file:
        file.write(f"A database was made here at {rfc3339_ms(at)}. If it is missing or empty, it was lost.\n")
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes names in a folder durable. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
