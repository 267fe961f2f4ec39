"""A store on SQLite: opening, the queue of writes, reads, and the store's facts."""

from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, cast

import apsw
import trio

from ambientd.ports.backup import Progress, SnapshotFacts
from ambientd.ports.clock import Clock
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.store.ballast import Ballast
from ambientd.store.faults import UNAVAILABLE, PassingStoreError, translate
from ambientd.store.kind import DatabaseKind
from ambientd.store.migrate import default_folder, known_migrations, migrate
from ambientd.store.readers import Readers
from ambientd.store.recover import degraded, open_database
from ambientd.store.threads import RunSync, run_in_thread
from ambientd.store.unit import NODE, SqliteTransaction
from ambientd.store.writer import SCARCE_BYTES, Job, Writer, file_size, free_bytes

BATCH_MAX = 64  # larger commits gain nothing and keep the first of them waiting
QUEUE_MAX = 1024  # about a quarter of a second of work; more waiting than that is overload
CHECKPOINT_DELAY = 0.25  # seconds after the first commit that was not yet copied
CHECKPOINT_RETRY = 5.0  # seconds, while a reader keeps part of the log
REST_AFTER = 5.0  # seconds without a read or a write, until what only speed needs is given back
# A rest costs some milliseconds of a processor: the little that an idle node does is not worth one each time.
REST_EVERY = 300.0
MUCH_WORK = 16  # reads and commits
REOPEN_FIRST = 0.5  # seconds until the first new attempt to open, doubled up to the last
REOPEN_LAST = 8.0

T = TypeVar("T")
X = TypeVar("X")


class SqliteStoreFacts(NamedTuple):
    """The store's state (`ports.store.StoreFacts`), with sizes in bytes and counts since the start."""

    ready: bool
    reason: str | None
    degraded: str | None
    schema_version: int
    size_bytes: int
    wal_bytes: int
    waiting: int
    commits: int

    @property
    def engine(self) -> str:
        """Which database this is."""
        return "sqlite"


class SqliteDatabase(Generic[X]):
    """The one way to a database. Usable at once; answers StoreError until `run` has opened it.

    What is written and read are the repositories of the `kind` that a subclass names.
    """

    kind: DatabaseKind[Any]

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        busy_timeout: float = 5.0,
        ballast: int = 1024 * 1024,
        migrations: Path | None = None,
        run_sync: RunSync = run_in_thread,
        rested: Callable[[], object] = lambda: None,
        audited: Callable[[int], object] = lambda _seq: None,
    ) -> None:
        """`busy_timeout` is in seconds, `ballast` in bytes; `migrations` is the folder of numbered files.

        `rested` is called in a worker thread when the store, after some work, has given memory back;
        `audited` with the number of the last audit record when it was opened and after every commit that
        appended to the chain.
        """
        self.path = path
        self._clock = clock
        self._busy_timeout = busy_timeout
        self._ballast = Ballast(path, ballast)
        self._migrations = migrations
        self._run_sync = run_sync
        self._rested = rested
        self._audited = audited
        self._rest_at = float("inf")
        self._rested_at = float("-inf")
        self._worked = 0
        self._writer: Writer | None = None
        self._readers: Readers | None = None
        self._queue: deque[Job] = deque()
        self._wake = trio.Event()
        self._settled = trio.Event()
        self._closing = False
        self._ended = trio.Event()
        self._started = False
        self._reason: str | None = "the database is not ready: it is being opened"
        self._trouble: str | None = None
        self._set_aside: str | None = None
        self._version = 0
        self._commits = 0

    # --- what flows and status use

    async def write(self, work: Callable[[X], T]) -> T:
        """Runs `work` in a durable transaction; may share its commit with others, in its own savepoint.

        Raises StoreError (not ready), StoreBusyError, UnavailableError (too many wait);
        whatever `work` raises passes through; nothing is written then. Cancelled while waiting: nothing is
        written; cancelled while committing: the commit is finished first, and its value returned like any
        other (the caller's next wait is cancelled), so that nobody's memory misses what is on disk.
        """
        await trio.lowlevel.checkpoint_if_cancelled()  # who is cancelled begins nothing
        self._need_ready()
        if len(self._queue) >= QUEUE_MAX:
            raise UnavailableError("too many writes are waiting for the database")
        job = Job(work)
        self._queue.append(job)
        self._wake.set()
        try:
            await job.done.wait()
        except trio.Cancelled:
            if not job.taken:
                self._queue.remove(job)
            else:
                with trio.CancelScope(shield=True):
                    await job.done.wait()
            if not job.committed or job.error is not None:
                raise
        return cast("T", job.result())

    async def read(self, work: Callable[[X], T]) -> T:
        """Runs `work` in a read-only snapshot; raises StoreError when not ready.

        Cancelled, also by a deadline: the query is interrupted.
        """
        return await self._read(work)

    async def _read(self, work: Callable[[X], T]) -> T:
        self._need_ready()
        readers = self._readers
        if readers is None:
            raise StoreError("the database is not ready: it is being opened")
        try:
            return await readers.read(work, self._clock.now())
        finally:
            if self._rest_at == float("inf"):
                self._wake.set()
            self._note_work()

    def _note_work(self) -> None:
        self._worked += 1
        self._rest_at = trio.current_time() + REST_AFTER
        if self._worked < MUCH_WORK:
            self._rest_at = max(self._rest_at, self._rested_at + REST_EVERY)

    def _need_ready(self) -> None:
        if self._closing:
            raise StoreError("the database is being closed")
        if self._reason is not None:
            raise StoreError(self._reason)

    @property
    def reason(self) -> str | None:
        """Why it is not ready, without a look at the disk: what every request asks first."""
        return self._reason

    @property
    def commits(self) -> int:
        """How many commits there were, without a look at the disk."""
        return self._commits

    def facts(self) -> SqliteStoreFacts:
        """The store's state, without waiting; looks whether the file is still the one that is open."""
        moved = self._writer.moved() if self._writer is not None else None
        reason = self._reason or moved
        if self._set_aside is not None:
            self._set_aside = degraded(self.path)  # until the operator has moved the file away
        wal = file_size(self.path.with_name(self.path.name + "-wal"))
        notes = [note for note in (self._set_aside, self._trouble) if note is not None]
        return SqliteStoreFacts(
            ready=reason is None,
            reason=reason,
            degraded="; ".join(notes) or None,
            schema_version=self._version,
            size_bytes=file_size(self.path) + wal,
            wal_bytes=wal,
            waiting=len(self._queue),
            commits=self._commits,
        )

    async def give_up_ballast(self) -> bool:
        """Frees the reserve so that a full disk can be cleaned; False when there was none.

        It is taken again by itself once there is room and something was written.
        """
        return await self._run_sync(self._ballast.give_up)

    # --- its life

    async def wait_settled(self) -> None:
        """Returns when the first attempt to open has ended, well or not: `facts` says which."""
        await self._settled.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Opens, recovers, migrates, then writes, until `close` or cancellation; owned by one nursery.

        Reports itself started at once. When the database cannot be opened it stays, and `facts` says why;
        it tries again by itself where that can help (held by another process, full, read-only).
        """
        self._started = True
        task_status.started()
        delay = REOPEN_FIRST
        try:
            while not self._closing:
                again = await self._open()
                self._settled.set()
                if self._writer is not None:
                    await self._serve(self._writer)
                    return
                with trio.move_on_after(delay if again else float("inf")):
                    await self._next_wake(until_closing=True)
                delay = min(delay * 2, REOPEN_LAST)
        finally:
            self._closing = True
            self._settled.set()
            with trio.CancelScope(shield=True):
                await self._shut("the database is being closed")
            self._ended.set()

    async def close(self) -> None:
        """Writes what already waits, empties the log and closes; `run` returns."""
        self._closing = True
        self._wake.set()
        if self._started:
            await self._ended.wait()

    async def _next_wake(self, *, until_closing: bool = False) -> None:
        while not self._closing:
            await self._wake.wait()
            self._wake = trio.Event()
            if not until_closing:
                return

    async def _open(self) -> bool:
        """One attempt. Returns whether another may go better."""
        try:
            self._writer = await self._run_sync(self._open_blocking)
        except (StoreError, UnavailableError) as error:
            self._reason = f"the database is not ready: {error}"
            return isinstance(error, (PassingStoreError, UnavailableError))
        self._readers = Readers(
            self.path, busy_timeout=self._busy_timeout, run_sync=self._run_sync, kind=self.kind
        )
        self._audited(self._writer.audit_seq)
        self._reason = None
        self._trouble = None
        return False

    def _open_blocking(self) -> Writer:
        known = known_migrations(self._migrations or default_folder(self.kind.migrations))
        newest = len(known)
        connection = open_database(
            self.path, clock=self._clock, busy_timeout=self._busy_timeout, newest=newest
        )
        try:
            keep_small = partial(self._keep_log_small, connection)
            if migrate(connection, known, self._clock, applied=keep_small):
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self.kind.prepare(connection)
        except apsw.Error as error:
            connection.close()
            raise translate(error, self.path) from error
        except (StoreError, UnavailableError):
            connection.close()
            raise
        self._version = newest
        self._set_aside = degraded(self.path)
        self._ballast.ensure()
        return Writer(connection, self.path, self.kind)

    def _keep_log_small(self, connection: apsw.Connection) -> None:
        """All migrations together are a large log: on a small disk it would not fit beside the database."""
        if free_bytes(self.path.parent) < SCARCE_BYTES:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    async def _serve(self, writer: Writer) -> None:
        """Writes batches, copying the log between them; returns when closing and nothing waits."""
        copy_at = float("inf")
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()  # a commit is shielded: look between two
            if self._queue:
                await self._commit(writer)
                delay = 0.0 if writer.copy_now else CHECKPOINT_DELAY
                copy_at = min(copy_at, trio.current_time() + delay)
                self._note_work()
            elif self._closing:
                return
            else:
                with trio.move_on_at(min(copy_at, self._rest_at)):
                    await self._next_wake()
            if trio.current_time() >= copy_at:
                copy_at = await self._copy(writer)
            elif trio.current_time() >= self._rest_at:
                await self._rest(writer)

    async def _commit(self, writer: Writer) -> None:
        jobs = [self._queue.popleft() for _ in range(min(BATCH_MAX, len(self._queue)))]
        for job in jobs:
            job.taken = True
        audited = writer.appends
        try:
            with trio.CancelScope(shield=True):
                await self._run_sync(partial(writer.commit, jobs, self._clock.now()))
        finally:
            self._commits = writer.commits
            if writer.appends != audited:
                self._audited(writer.audit_seq)
            self._note_trouble(jobs)
            for job in jobs:
                job.done.set()

    def _note_trouble(self, jobs: list[Job]) -> None:
        """Status tells of the disk's troubles until a write has gone well."""
        if any(job.error is None for job in jobs):
            self._trouble = None
        for job in jobs:
            if isinstance(job.error, (StoreError, UnavailableError)):
                self._trouble = f"writes fail: {job.error}"

    async def _copy(self, writer: Writer) -> float:
        """One checkpoint; returns when the next is due."""
        left = await self._run_sync(writer.checkpoint)
        if self._trouble is None and not self._ballast.present():
            await self._run_sync(self._ballast.ensure)
        return float("inf") if left.complete else trio.current_time() + CHECKPOINT_RETRY

    async def _rest(self, writer: Writer) -> None:
        """Gives page caches and the readers that only a rush needs back, once after each time of work."""
        self._rest_at, readers = float("inf"), self._readers
        self._rested_at, self._worked = trio.current_time(), 0

        def give_back() -> None:
            if readers is not None:
                readers.rest()
            writer.rest()
            self._rested()

        await self._run_sync(give_back)

    async def _shut(self, reason: str) -> None:
        """Refuses what waits, closes the readers, then the writer (which must be the last)."""
        self._reason = reason
        while self._queue:
            job = self._queue.popleft()
            job.taken = True
            job.error = StoreError(reason, code=UNAVAILABLE)
            job.done.set()
        if self._readers is not None:
            await self._run_sync(self._readers.close)
            self._readers = None
        if self._writer is not None:
            await self._run_sync(self._writer.close)
            self._writer = None


class SqliteStore(SqliteDatabase[SqliteTransaction]):
    """`ports.store.Store`: the node's database."""

    kind = NODE

    async def snapshot(self, target: str, progress: Progress) -> SnapshotFacts:
        """See ports.backup.Snapshots: a reader of the pool makes the copy, writers go on."""
        return await self._read(lambda tx: tx.copy_to(Path(target), progress))
