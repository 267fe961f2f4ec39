"""Reports of many nodes in one commit: what comes while one is written goes into the next.

A report waits for no timer: the first one is written at once, and the more come meanwhile the larger the next
batch is.
"""

from collections import deque
from collections.abc import Sequence

import trio

from ambientd.core.fleet.records import NodeReport, ReportOutcome
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.ports.fleet.store import FleetStore

BATCH_MAX = 512  # reports in one transaction: some milliseconds of a lock on their nodes
WAITING_MAX = 8192  # two seconds of work at the rate of one process


class _Ticket:
    __slots__ = ("done", "error", "outcomes", "reports")

    def __init__(self, reports: Sequence[NodeReport]) -> None:
        self.reports = reports
        self.done = trio.Event()
        self.outcomes: list[ReportOutcome] = []
        self.error: StoreError | UnavailableError | None = None


class ReportsService:
    """`flows.fleet.nodes.Reports`; `run` owns the writing."""

    def __init__(self, store: FleetStore) -> None:
        self._store = store
        self._waiting: deque[_Ticket] = deque()
        self._count = 0
        self._wake = trio.Event()

    async def take(self, reports: Sequence[NodeReport]) -> list[ReportOutcome]:
        """Outcomes once they are durable. Cancelled while waiting: they may be written all the same, which a
        node finds out by their numbers.

        Raises StoreError, UnavailableError (also when too many wait).
        """
        if self._count + len(reports) > WAITING_MAX:
            raise UnavailableError("too many reports are waiting for the database")
        ticket = _Ticket(reports)
        self._waiting.append(ticket)
        self._count += len(reports)
        self._wake.set()
        await ticket.done.wait()
        if ticket.error is not None:
            raise type(ticket.error)(*ticket.error.args)
        return ticket.outcomes

    async def run(self) -> None:
        """Writes what waits, until cancelled; whoever waits then is told that the store is closing."""
        try:
            while True:
                if not self._waiting:
                    self._wake = trio.Event()
                    await self._wake.wait()
                await self._write(self._next())
        finally:
            while self._waiting:
                self._fail(self._waiting.popleft(), UnavailableError("the control plane is stopping"))

    def _next(self) -> list[_Ticket]:
        """Tickets for one transaction; of one request's credential only one, so that its number is taken in
        order (`core.fleet.reports`)."""
        batch: list[_Ticket] = []
        left: list[_Ticket] = []
        requests: set[tuple[str, int]] = set()
        size = 0
        while self._waiting and size < BATCH_MAX:
            ticket = self._waiting.popleft()
            mark = _mark(ticket)
            if mark is not None and mark in requests:
                left.append(ticket)
                continue
            if mark is not None:
                requests.add(mark)
            batch.append(ticket)
            size += len(ticket.reports)
        self._waiting.extendleft(reversed(left))
        return batch

    async def _write(self, batch: list[_Ticket]) -> None:
        reports = [report for ticket in batch for report in ticket.reports]
        try:
            outcomes = await self._store.write_reports(reports)
        except (StoreError, UnavailableError) as error:
            for ticket in batch:
                self._fail(ticket, error)
            return
        except trio.Cancelled:
            for ticket in batch:
                self._fail(ticket, UnavailableError("the control plane is stopping"))
            raise
        place = 0
        for ticket in batch:
            ticket.outcomes = outcomes[place : place + len(ticket.reports)]
            place += len(ticket.reports)
            self._end(ticket)

    def _fail(self, ticket: _Ticket, error: StoreError | UnavailableError) -> None:
        ticket.error = error
        self._end(ticket)

    def _end(self, ticket: _Ticket) -> None:
        self._count -= len(ticket.reports)
        ticket.done.set()


def _mark(ticket: _Ticket) -> tuple[str, int] | None:
    first = ticket.reports[0] if ticket.reports else None
    if first is None or first.credential_id is None:
        return None
    return first.credential_id, first.request_seq or 0
