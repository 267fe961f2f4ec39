"""Collects the reports that wait and writes them together: one commit for many nodes."""

from collections import deque
from collections.abc import Sequence

import trio

from ambientd.core.fleet.records import NodeReport, ReportOutcome
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.ports.fleet.store import FleetStore

BATCH_MAX = 1024  # reports of one commit; on a slow disk larger ones still gain, but the first waits longer
WAITING_MAX = 8192  # reports; about half a second of work, and more waiting than that is overload
# While one batch is being made durable the next ones are already at work. Where one writer does everything
# (SQLite) more than one gains nothing.
LANES = {"sqlite": 1, "postgresql": 3}


class _Waiting:
    """One request's reports, and what became of them."""

    def __init__(self, reports: Sequence[NodeReport]) -> None:
        self.reports = reports
        self.taken = False
        self.done = trio.Event()
        self.outcomes: list[ReportOutcome] = []
        self.error: Exception | None = None

    def settle(self, outcomes: list[ReportOutcome] | Exception) -> None:
        if isinstance(outcomes, Exception):
            self.error = outcomes
        else:
            self.outcomes = outcomes
        self.done.set()


class ReportsService:
    """`ports.fleet.reports.ReportIntake`. `run` must be running for anything to be taken."""

    def __init__(self, store: FleetStore) -> None:
        """Writes to `store`, which is asked for its engine when `run` begins."""
        self._store = store
        self._queue: deque[_Waiting] = deque()
        self._reports = 0
        self._wake = trio.Event()

    async def take(self, reports: Sequence[NodeReport]) -> list[ReportOutcome]:
        """See ReportIntake."""
        if not reports:
            return []
        if self._reports + len(reports) > WAITING_MAX and self._queue:
            raise UnavailableError("too many reports are waiting for the database")
        waiting = _Waiting(reports)
        self._queue.append(waiting)
        self._reports += len(reports)
        self._wake.set()
        try:
            await waiting.done.wait()
        except trio.Cancelled:
            if not waiting.taken:
                self._queue.remove(waiting)
                self._reports -= len(reports)
            raise
        if waiting.error is not None:
            raise waiting.error
        return waiting.outcomes

    async def run(self) -> None:
        """Writes until it is cancelled; what waits then is refused."""
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(LANES.get(self._store.facts().engine, 1)):
                    nursery.start_soon(self._lane)
        finally:
            while self._queue:
                waiting = self._queue.popleft()
                waiting.taken = True
                waiting.settle(StoreError("the control plane is being stopped"))
            self._reports = 0

    async def _lane(self) -> None:
        while True:
            batch = self._next_batch()
            if not batch:
                wake = self._wake
                await wake.wait()
                if self._wake is wake:  # of several lanes the first one sees to the next time
                    self._wake = trio.Event()
                continue
            if self._queue:
                self._wake.set()  # for another lane
            await self._write(batch)

    def _next_batch(self) -> list[_Waiting]:
        """Requests from the front, as many as fit. Of two with the same number the second comes later, when
        it can be seen that the first has taken the number."""
        batch: list[_Waiting] = []
        size = 0
        numbers: set[tuple[str, int | None]] = set()
        while self._queue:
            first = self._queue[0]
            signed = {(r.credential_id, r.request_seq) for r in first.reports if r.credential_id is not None}
            if batch and (size + len(first.reports) > BATCH_MAX or not numbers.isdisjoint(signed)):
                break
            numbers |= signed
            batch.append(self._queue.popleft())
            first.taken = True
            size += len(first.reports)
        self._reports -= size
        return batch

    async def _write(self, batch: list[_Waiting]) -> None:
        try:
            outcomes = await self._store.write_reports([r for waiting in batch for r in waiting.reports])
        except (StoreError, UnavailableError) as error:
            for waiting in batch:
                waiting.settle(_copy(error))
        except ValueError as error:
            await self._write_each(batch, error)
        else:
            place = 0
            for waiting in batch:
                end = place + len(waiting.reports)
                waiting.settle(outcomes[place:end])
                place = end
        finally:
            for waiting in batch:  # cancelled on the way
                if not waiting.done.is_set():
                    waiting.settle(StoreError("the control plane is being stopped"))

    async def _write_each(self, batch: list[_Waiting], error: ValueError) -> None:
        """One of them cannot be stored: the others must not suffer for it."""
        if len(batch) == 1:
            batch[0].settle(error)
            return
        for waiting in batch:
            await self._write([waiting])


def _copy(error: Exception) -> Exception:
    """Each waiter gets an object of its own."""
    if isinstance(error, StoreError):
        return type(error)(str(error), code=error.code)
    return type(error)(*error.args)
