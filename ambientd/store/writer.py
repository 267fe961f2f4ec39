"""The single writer: many waiting works in one commit, each in its own savepoint, and the checkpoints."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import apsw
import trio

from ambientd.ports.errors import StoreError
from ambientd.store.faults import UNAVAILABLE, translate
from ambientd.store.kind import DatabaseKind
from ambientd.store.unit import NODE

# A log this large is cut back to nothing as soon as it has been copied and nobody reads it.
WAL_TRUNCATE_BYTES = 16 * 1024 * 1024
# With less room than this the log is copied as soon as it has a hundred pages: on a disk of 1 MiB that kept
# three times the rows of a longer log (FAULTS B 3.2).
SCARCE_BYTES = 32 * 1024 * 1024
WAL_SCARCE_BYTES = 100 * 4096


class Job:
    """One waiting `Store.write`: its work, and what became of it."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        """`work` is called at most once, off the event loop."""
        self.work = work
        self.taken = False
        self.committed = False
        self.done = trio.Event()
        self.value: Any = None
        self.error: Exception | None = None

    def result(self) -> Any:
        """The work's value; raises its error, and StoreError when it was never committed."""
        if self.error is not None:
            raise self.error
        if not self.committed:
            raise StoreError("the write was not finished", code=UNAVAILABLE)
        return self.value


class Checkpoint(NamedTuple):
    """What a checkpoint left: whether all of the log was copied, and the log's size in bytes."""

    complete: bool
    wal_bytes: int


class Writer:
    """Owns the writing connection. All calls block, and only one may run at a time."""

    def __init__(self, connection: apsw.Connection, path: Path, kind: DatabaseKind[Any] = NODE) -> None:
        """The connection was opened by `open_database` on `path`, and prepared for its kind."""
        self._connection = connection
        self._path = path
        self._kind = kind
        self._identity = identity(path)
        self.commits = 0
        self.audit_seq = kind.head(connection)  # number of the audit record that was committed last
        self.appends = 0  # commits that appended to the audit chain
        self.copy_now = False

    def moved(self) -> str | None:
        """A sentence when the file at the path is no longer the one that is open (D12)."""
        found = identity(self._path)
        if found == self._identity:
            return None
        what = "is gone" if found is None else "was replaced"
        return f"{self._path} {what} while it was in use; put it back or restart"

    def commit(self, jobs: Sequence[Job], now: datetime) -> None:
        """Runs the works in order and commits once. Each job has its value or its error afterwards.

        A work that fails takes back what it wrote and nothing else. When the commit fails, or the engine
        gives the transaction up, no work of the batch has been written and each job has an error.
        """
        moved = self.moved()
        if moved is not None:
            _fail(jobs, StoreError(moved, code=UNAVAILABLE))
            return
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            unit = self._kind.begin(self._connection, now)
            self._run(jobs, unit)
            self._finish(jobs, unit)
        except apsw.Error as error:
            _fail(jobs, translate(error, self._path))
        finally:
            if self._connection.in_transaction:
                with suppress(apsw.Error):
                    self._connection.execute("ROLLBACK")
            free = free_bytes(self._path.parent)
            self.copy_now = free < SCARCE_BYTES and self.wal_bytes() >= min(WAL_SCARCE_BYTES, free)

    def _run(self, jobs: Sequence[Job], unit: Any) -> None:
        for job in jobs:
            with _Member(self._connection, partial(self._kind.undone, unit), job, self._path):
                job.value = job.work(unit)
            if not self._connection.in_transaction:  # a full or failing disk: SQLite rolled all of it back
                _fail(jobs, job.error or StoreError("the transaction was given up", code=UNAVAILABLE))
                return

    def _finish(self, jobs: Sequence[Job], unit: Any) -> None:
        good = [job for job in jobs if job.error is None]
        if not good:
            return
        self._kind.finish(self._connection)
        head = self._kind.head(self._connection) if self._kind.appended(unit) else None
        self._connection.execute("COMMIT")
        self.commits += 1
        if head is not None:
            self.audit_seq = head
            self.appends += 1
        for job in good:
            job.committed = True

    def checkpoint(self) -> Checkpoint:
        """Copies what it can of the log without waiting for readers; cuts a large log back.

        Never raises: what was not copied stays in the log and is as durable there.
        """
        complete = False
        with suppress(apsw.Error):
            in_log, copied = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            complete = in_log == copied
            if complete and self.wal_bytes() > WAL_TRUNCATE_BYTES:
                self._truncate()
        return Checkpoint(complete, self.wal_bytes())

    def _truncate(self) -> None:
        wait = self._connection.execute("PRAGMA busy_timeout").get
        self._connection.set_busy_timeout(0)
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            self._connection.set_busy_timeout(wait)

    def rest(self) -> None:
        """Gives the page cache back; never raises."""
        with suppress(apsw.Error):
            self._connection.execute("PRAGMA shrink_memory")

    def wal_bytes(self) -> int:
        """The size of the write-ahead log."""
        return file_size(self._path.with_name(self._path.name + "-wal"))

    def close(self) -> None:
        """A last checkpoint that empties the log, then closes; never raises."""
        if self.moved() is None:
            with suppress(apsw.Error):
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        with suppress(apsw.Error):
            self._connection.close()


class _Member:
    """The savepoint of one work. Takes the work's exception, so that the others go on."""

    def __init__(
        self, connection: apsw.Connection, undone: Callable[[], object], job: Job, path: Path
    ) -> None:
        self._connection = connection
        self._undone = undone
        self._job = job
        self._path = path

    def __enter__(self) -> None:
        self._connection.execute("SAVEPOINT member")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            self._connection.execute("RELEASE member")
            return True
        if not isinstance(error, Exception):
            return False
        self._job.error = translate(error, self._path) if isinstance(error, apsw.Error) else error
        self._undone()
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK TO member")
            self._connection.execute("RELEASE member")
        return True


def _fail(jobs: Sequence[Job], error: Exception) -> None:
    """Gives an error to every job that has none of its own; each waiter gets an object of its own."""
    for job in jobs:
        if job.error is None:
            job.error = _copy(error)


def _copy(error: Exception) -> Exception:
    if isinstance(error, StoreError):
        return type(error)(str(error), code=error.code)
    return type(error)(*error.args)


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file, None when it is gone."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def free_bytes(folder: Path) -> int:
    """Room left for us on the disk of a folder; 0 when nobody can say."""
    try:
        facts = os.statvfs(folder)
    except OSError:
        return 0
    return facts.f_bavail * facts.f_frsize


def file_size(path: Path) -> int:
    """Size in bytes, 0 for a file that is not there."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
