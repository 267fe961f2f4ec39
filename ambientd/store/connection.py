"""Opening connections: one that writes and checkpoints, others that only read.

Every connection has foreign keys on, a busy timeout and no automatic checkpoint (FAULTS D17): the writer
checkpoints when it is asked to, readers never do, also not when they are closed last.
"""

from pathlib import Path

import apsw

from ambientd.ports.errors import StoreError

APPLICATION_ID = 0x416D6264  # "Ambd", at offset 68 of the file
MAGIC = b"SQLite format 3\0"
HEADER_SIZE = 100
_CACHE_KIB = 4096  # per connection; the idle daemon's memory budget leaves no more


def open_writer(path: Path, *, busy_timeout: float) -> apsw.Connection:
    """Connects for writing without changing the file; raises apsw.Error. `busy_timeout` is in seconds.

    Until `make_durable`, closing it leaves a write-ahead log of others as it is.
    """
    connection = _connect(path, apsw.SQLITE_OPEN_READWRITE, busy_timeout)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    # This SQLite is built with STAT4 and so prepares a statement again whenever a bound value changes, in
    # the hope of a better plan. We never ANALYZE; that was two fifths of the time of an ingest.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    return connection


def make_durable(connection: apsw.Connection) -> None:
    """Write-ahead log, and a sync at every commit: what was committed survives a power cut."""
    mode = connection.execute("PRAGMA journal_mode = WAL").get
    if mode != "wal":
        raise StoreError(f"the database cannot use a write-ahead log (journal mode is {mode})")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)


def open_reader(path: Path, *, busy_timeout: float) -> apsw.Connection:
    """Connects for reading only; raises apsw.Error. The writer must be open."""
    connection = _connect(path, apsw.SQLITE_OPEN_READONLY, busy_timeout)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    return connection


def _connect(path: Path, flags: int, busy_timeout: float) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=flags)
    connection.set_busy_timeout(round(busy_timeout * 1000))
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection
