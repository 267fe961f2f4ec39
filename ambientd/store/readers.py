"""A small pool of read-only connections. A reader never checkpoints and is never waited for by the writer."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import apsw
import trio

from ambientd.store.connection import open_reader
from ambientd.store.faults import translate
from ambientd.store.kind import DatabaseKind
from ambientd.store.loan import Loan
from ambientd.store.threads import RunSync
from ambientd.store.unit import NODE

READERS = 4  # more would only queue behind one disk, and each holds a page cache

T = TypeVar("T")


class Readers:
    """Lends connections to reads; opened on first use, closed with the pool."""

    def __init__(
        self, path: Path, *, busy_timeout: float, run_sync: RunSync, kind: DatabaseKind[Any] = NODE
    ) -> None:
        """The database at `path` must be open for writing while reads go on."""
        self._path = path
        self._kind = kind
        self._busy_timeout = busy_timeout
        self._run_sync = run_sync
        self._limit = trio.CapacityLimiter(READERS)
        self._idle: deque[apsw.Connection] = deque()
        self._closed = False

    async def read(self, work: Callable[[Any], T], now: datetime) -> T:
        """Runs `work` against one snapshot. Cancelled: the query is interrupted, and waited for."""
        async with self._limit:
            loan = Loan()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_interrupt_when_cancelled, loan)
                await self._run_sync(partial(self._lend, loan, work, now))
                nursery.cancel_scope.cancel()
        if loan.error is not None:
            if isinstance(loan.error, apsw.Error):
                raise translate(loan.error, self._path) from loan.error
            raise loan.error
        value: T = loan.value
        return value

    def _lend(self, loan: Loan, work: Callable[[Any], Any], now: datetime) -> None:
        with loan:
            connection = self._take()
            loan.hold(connection.interrupt)
            try:
                connection.execute("BEGIN")
                loan.value = work(self._kind.begin(connection, now))
            finally:
                loan.hold(None)
                self._give_back(connection)

    def _take(self) -> apsw.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            connection = open_reader(self._path, busy_timeout=self._busy_timeout)
            self._kind.prepare(connection)
            return connection

    def _give_back(self, connection: apsw.Connection) -> None:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if self._closed:
            connection.close()
        else:
            self._idle.append(connection)

    def rest(self) -> None:
        """Closes idle connections but one, and gives that one's page cache back; never raises."""
        with suppress(IndexError, apsw.Error):  # a read may take one at any moment
            while len(self._idle) > 1:
                self._idle.popleft().close()
            connection = self._idle.pop()
            try:
                connection.execute("PRAGMA shrink_memory")
            finally:
                self._give_back(connection)

    def close(self) -> None:
        """Closes the idle connections; one that is lent is closed when it comes back. Blocks."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()


async def _interrupt_when_cancelled(loan: Loan) -> None:
    try:
        await trio.sleep_forever()
    finally:
        loan.interrupt()
