"""Putting a checked database in the place of the one that is there, which is kept (R3.149)."""

import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import apsw

from ambientd.ports.errors import StoreError
from ambientd.store.connection import MAGIC, make_durable, open_writer
from ambientd.store.migrate import default_folder, known_migrations
from ambientd.store.recover import mark_created, set_aside, set_aside_name, side_files, sync_folder

BUSY_TIMEOUT = 5.0  # seconds


def newest_schema(folder: Path | None = None) -> int:
    """The newest schema that this program knows."""
    return len(known_migrations(folder or default_folder()))


def put_in_place(new: Path, path: Path, at: datetime) -> Path | None:
    """Makes the file `new`, in the same folder, the database at `path`; the old one is set aside.

    Returns where the old one stands now, None when there was none. The caller holds the state lock. A crash
    at any moment leaves the old database in place, or the new one, and the old one with all its rows.
    Raises OSError.
    """
    kept: Path | None = None
    if path.exists():
        _fold_log(path)
        if any(file.exists() for file in side_files(path)):
            kept = set_aside(path, "replaced", at)  # it cannot be opened: its log must stay with it
        else:
            kept = _link_aside(path, at)
    os.replace(new, path)
    sync_folder(path.parent)
    mark_created(path, at)
    return kept


def _fold_log(path: Path) -> None:
    """Brings what stands in the log into the file, so that the file alone is the whole database.

    Not where the file's header is damaged: SQLite would throw the log away.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return
    with suppress(apsw.Error, StoreError):
        connection = open_writer(path, busy_timeout=BUSY_TIMEOUT)
        try:
            make_durable(connection)
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            connection.close()


def _link_aside(path: Path, at: datetime) -> Path:
    """A second name for the old file: the first is then replaced in one step."""
    target = set_aside_name(path, "replaced", at)
    os.link(path, target)
    sync_folder(path.parent)
    return target
