"""`ports.fleet.store.FleetStore` on PostgreSQL, for one or more processes.

Connections are used in worker threads, one transaction at a time, and made when they are needed. When the
server is away every call is refused at once, and `run` tries until it is back.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import psycopg
import trio

from ambientd.core.fleet.records import NodeReport, ReportOutcome
from ambientd.ports.clock import Clock
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.store.fleet.postgresql_faults import is_passing, translate
from ambientd.store.fleet.postgresql_migrate import migrate
from ambientd.store.fleet.postgresql_pool import LostError, Pool, UnreachableError
from ambientd.store.fleet.unit import FleetUnit
from ambientd.store.loan import Loan
from ambientd.store.migrate import default_folder, known_migrations
from ambientd.store.threads import RunSync, run_in_thread

WAITING_MAX = 1024  # calls that wait for a connection; more is overload
ATTEMPTS = 6  # of a transaction that the server gives up for another's sake, or whose connection was stale
RETRY_FIRST = 0.002  # seconds before the second attempt, doubled up to the last
REOPEN_FIRST = 0.1  # seconds until the first new attempt to reach the server, doubled up to the last
REOPEN_LAST = 2.0

T = TypeVar("T")


class PostgresqlStoreFacts(NamedTuple):
    """`ports.fleet.store.FleetStoreFacts`, with counts since the start."""

    ready: bool
    reason: str | None
    degraded: str | None
    schema_version: int
    waiting: int
    connections: int
    commits: int
    retries: int

    @property
    def engine(self) -> str:
        """Which database this is."""
        return "postgresql"


class PostgresqlFleetStore:
    """The one way to the database. Usable at once; answers StoreError until `run` has opened it."""

    def __init__(
        self,
        conninfo: str,
        *,
        clock: Clock,
        password: str | None = None,
        pool_size: int = 8,
        migrations: Path | None = None,
        run_sync: RunSync = run_in_thread,
    ) -> None:
        """`conninfo` is an address (`postgresql://…`) without a password."""
        self._pool = Pool(conninfo, password=password, size=pool_size)
        self._limit = trio.CapacityLimiter(pool_size)
        self._clock = clock
        self._migrations = migrations
        self._run_sync = run_sync
        self._reason: str | None = "the database is not ready: it is being opened"
        self._opened = False
        self._version = 0
        self._wake = trio.Event()
        self._settled = trio.Event()
        self._quiet = trio.Event()
        self._ended = trio.Event()
        self._closing = False
        self._started = False
        self._waiting = 0
        self._commits = 0
        self._retries = 0

    # --- what flows and status use

    async def write(self, work: Callable[[FleetUnit], T]) -> T:
        """See FleetStore."""
        value = await self._until_done(work, writing=True)
        self._commits += 1
        return value

    async def read(self, work: Callable[[FleetUnit], T]) -> T:
        """See FleetStore."""
        return await self._until_done(work, writing=False)

    async def write_reports(self, reports: Sequence[NodeReport]) -> list[ReportOutcome]:
        """See FleetStore."""
        return await self.write(lambda tx: tx.nodes.report(reports))

    @property
    def reason(self) -> str | None:
        """Why it is not ready, at once: what every request asks first."""
        return self._reason

    def facts(self) -> PostgresqlStoreFacts:
        """The store's state, without waiting."""
        return PostgresqlStoreFacts(
            ready=self._reason is None,
            reason=self._reason,
            degraded=None,
            schema_version=self._version,
            waiting=self._waiting,
            connections=self._pool.count,
            commits=self._commits,
            retries=self._retries,
        )

    async def wait_settled(self) -> None:
        """Returns when the first attempt to open has ended, well or not: `facts` says which."""
        await self._settled.wait()

    def _need_ready(self) -> None:
        if self._closing:
            raise StoreError("the database is being closed")
        if self._reason is not None:
            raise UnavailableError(self._reason) if self._opened else StoreError(self._reason)

    async def _until_done(self, work: Callable[[FleetUnit], T], *, writing: bool) -> T:
        """Runs a transaction, again when the server gave it up or its connection turned out to be dead."""
        self._need_ready()
        if self._waiting >= WAITING_MAX:
            raise UnavailableError("too many calls are waiting for the database")
        self._waiting += 1
        try:
            for attempt in range(ATTEMPTS):
                try:
                    return await self._once(work, writing=writing)
                except LostError as error:
                    last: Exception = UnavailableError(f"the connection to the database was lost: {error}")
                except psycopg.Error as error:
                    last = translate(error)
                    if not is_passing(error):
                        raise last from error
                    await trio.sleep(RETRY_FIRST * 2**attempt)
                self._retries += 1
            raise last
        finally:
            self._waiting -= 1
            if self._closing and not self._waiting:
                self._quiet.set()

    async def _once(self, work: Callable[[FleetUnit], T], *, writing: bool) -> T:
        async with self._limit:
            self._need_ready()  # it may have been lost while this waited
            loan = Loan()
            run = partial(self._pool.transact, work, loan, writing=writing)
            try:
                return await self._run_sync(run) if writing else await self._read(run, loan)
            except UnreachableError as error:
                self._lost(str(error))
                raise

    async def _read(self, run: Callable[[], T], loan: Loan) -> T:
        """Cancelled: the query is given up, and waited for."""
        done = trio.Event()

        def fill() -> None:
            with loan:
                loan.value = run()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._give_up_when_cancelled, loan, done)
            await self._run_sync(fill)
            done.set()
        if loan.error is not None:
            raise loan.error
        value: T = loan.value
        return value

    async def _give_up_when_cancelled(self, loan: Loan, done: trio.Event) -> None:
        try:
            await done.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self._run_sync(loan.interrupt)
            raise

    # --- its life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connects and migrates, then sees to it that a server that was away is found again, until `close` or
        cancellation; owned by one nursery. Reports itself started at once."""
        self._started = True
        task_status.started()
        delay = REOPEN_FIRST
        try:
            while not self._closing:
                if self._reason is None:
                    await self._next_wake()
                    continue
                if await self._open():
                    delay = REOPEN_FIRST
                    continue
                with trio.move_on_after(delay):
                    await self._next_wake(until_closing=True)
                delay = min(delay * 2, REOPEN_LAST)
        finally:
            self._closing = True
            self._reason = self._reason or "the database is being closed"
            self._settled.set()
            with trio.CancelScope(shield=True):
                await self._run_sync(self._pool.close)
            self._ended.set()

    async def close(self) -> None:
        """Waits for transactions under way, then closes; `run` returns."""
        self._closing = True
        if self._waiting:
            await self._quiet.wait()
        self._wake.set()
        if self._started:
            await self._ended.wait()

    async def _next_wake(self, *, until_closing: bool = False) -> None:
        while not self._closing:
            await self._wake.wait()
            self._wake = trio.Event()
            if not until_closing:
                return

    def _lost(self, reason: str) -> None:
        self._reason = reason
        self._wake.set()

    async def _open(self) -> bool:
        """One attempt. Returns whether it went well."""
        try:
            await self._run_sync(self._open_blocking)
        except (StoreError, UnavailableError) as error:
            self._reason = str(error) if self._opened else f"the database is not ready: {error}"
            return False
        finally:
            self._settled.set()
        self._opened = True
        self._reason = None
        return True

    def _open_blocking(self) -> None:
        known = known_migrations(self._migrations or default_folder("control_plane/postgresql"))
        try:
            with self._pool.connect() as connection:
                migrate(connection, known, self._clock)
        except psycopg.Error as error:
            raise translate(error) from error
        self._version = len(known)
