"""The outbox, and work that the control plane gave, as flows see them."""

from collections.abc import Sequence
from typing import Protocol

from ambientd.core.assignments import Assignment
from ambientd.core.outboxrecords import (
    Contact,
    DeltaVWindow,
    Depth,
    Flight,
    KeptReport,
    LedgerItem,
    OutboxState,
    ReportMark,
    StreamState,
)
from ambientd.wire.outbox_enums import OutboxStream


class OutboxRepository(Protocol):
    """What waits for the control plane. Nothing leaves it before the control plane has said that it keeps
    it, but for what is dropped or refused, which is counted."""

    # --- the node's registration

    def state(self) -> OutboxState:
        """What is remembered."""

    def join(self, membership: str) -> bool:
        """From now on changes of sessions are noted. Another registration than before begins anew, with all
        sessions that are there; False when it is the same."""

    def leave(self) -> None:
        """Nothing is noted any more, and what waits goes."""

    def reserve_requests(self, upto: int) -> None:
        """All request numbers up to this one may be used."""

    def put_policies_revision(self, revision: int) -> None:
        """All policies and tombstones up to this revision were taken."""

    def put_leases_revision(self, revision: int) -> None:
        """All leases and revocations up to this revision were taken."""

    def put_contact(self, contact: Contact) -> None:
        """The control plane has answered."""

    # --- streams

    def stream(self, stream: OutboxStream) -> StreamState:
        """One stream; `waiting` is not counted."""

    def depth(self, windows_before_ms: int) -> Depth:
        """What waits in all streams; of Δv the windows that ended before an instant."""

    def jump(self, stream: OutboxStream, seq: int) -> None:
        """Numbers up to `seq` are taken at the control plane, whatever this node remembers."""

    def go_back(self, stream: OutboxStream, seq: int) -> None:
        """The control plane has kept no more than `seq`; what it has lost waits again."""

    def count(
        self, stream: OutboxStream, *, acknowledged: int = 0, dropped: int = 0, refused: int = 0
    ) -> None:
        """Adds to a stream's counts."""

    # --- reports

    def add_report(self, at_ms: int, priority: int, body: bytes) -> int:
        """Keeps a report; `body` gets its number by whoever sends it. Returns the number."""

    def reports(self, after: int, limit: int) -> list[KeptReport]:
        """Reports that wait, oldest first."""

    def newest_report(self) -> KeptReport | None:
        """The last one."""

    def report_marks(self) -> list[ReportMark]:
        """All that wait, without bodies, oldest first."""

    def report_bytes(self) -> tuple[int, int]:
        """How many wait, and their bytes."""

    def acknowledge_reports(self, numbers: Sequence[int]) -> int:
        """The control plane keeps these; how many of them still waited."""

    def drop_reports(self, numbers: Sequence[int]) -> None:
        """There is no room for these; counted."""

    # --- audit

    def acknowledge_audit(self, seq: int) -> None:
        """The control plane keeps all records up to `seq`."""

    # --- the ledger

    def ledger_flight(self, *, sessions: int, events: int) -> list[Flight]:
        """What is under way: the first of what was given numbers before, or else the next sessions, with at
        most so many events together."""

    def ledger_items(self, flights: Sequence[Flight]) -> list[LedgerItem]:
        """What flights carry now; those whose session is gone are left out."""

    def acknowledge_ledger(self, seq: int) -> int:
        """The control plane keeps all up to `seq`; how many were under way."""

    def shorten_flight(self, flight: Flight, last_event: int, *, again: bool = True) -> Flight:
        """A record carries events up to `last_event` only; those behind it wait again, unless not."""

    def drop_flight(self, seq: int, *, refused: bool) -> None:
        """One record that will not be sent: refused, or its session is gone. Counted."""

    def note_history(self, limit: int) -> bool:
        """Notes sessions that were there before the node joined; whether there are more."""

    # --- Δv

    def delta_v(self, after: int, before_ms: int, limit: int) -> list[DeltaVWindow]:
        """Windows that ended before an instant, with numbers behind `after`."""

    def acknowledge_delta_v(self, seq: int, count: int) -> None:
        """The control plane keeps all windows up to `seq`, `count` of which were sent just now."""


class AssignmentRepository(Protocol):
    """Work that the control plane gave this node; a task is begun once for each attempt."""

    def get(self, task_id: str) -> Assignment | None:
        """One by its task's whole id."""

    def put(self, assignment: Assignment) -> None:
        """Inserts or replaces."""

    def open(self) -> list[Assignment]:
        """Those that have not ended, or of whose end the control plane does not know, oldest first."""

    def forget(self, before: str, limit: int) -> int:
        """Removes ones that ended before an instant and that the control plane knows the end of."""

    def task_of(self, session_id: str) -> str | None:
        """The task that a session was started for."""
