"""The store, as flows see it: repositories inside one transaction.

`Store.write` runs a plain function against a `Transaction`, on the single writer; several waiting calls
may share one commit, each in its own savepoint. The call returns after the commit is durable, or raises
with nothing written. The function runs off the event loop and may be called only once.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from ambientd.core.records import (
    AuditEntry,
    EventRecord,
    LedgerQuery,
    LedgerSlice,
    NewEvent,
    NewSession,
    RunRecord,
    SessionChange,
    SessionRecord,
    TaskOutcome,
    UsageRecord,
)

T = TypeVar("T")


class LedgerRepository(Protocol):
    """Sessions and their events (seed 8.2.1, 8.2.2)."""

    def add(self, session: NewSession) -> None:
        """Inserts a session; raises ValueError when the id exists."""

    def get(self, session_id: str) -> SessionRecord | None:
        """One session by its whole id."""

    def find(self, fragment: str, limit: int) -> list[SessionRecord]:
        """Sessions whose id equals, starts with or ends with `fragment`, newest first."""

    def page(self, query: LedgerQuery) -> LedgerSlice:
        """One page of summaries, by keyset."""

    def active(self) -> list[SessionRecord]:
        """Queued and running sessions, oldest first."""

    def last_of_agents(self) -> Mapping[str, SessionRecord]:
        """The newest ended session of each agent."""

    def ended_since(self, at: datetime, limit: int) -> list[SessionRecord]:
        """Sessions that ended at or after an instant, newest end first (by an index on `ended_at`)."""

    def change(self, session_id: str, change: SessionChange) -> bool:
        """Moves a session forward. False, and nothing written, when it has already ended."""

    def append(self, session_id: str, events: Sequence[NewEvent]) -> int:
        """Appends events with consecutive numbers; returns the last `seq`."""

    def events(self, session_id: str, after_seq: int, limit: int) -> list[EventRecord]:
        """Events with `seq` greater than `after_seq`, in order."""

    def events_of_type(self, session_id: str, event_type: str, limit: int) -> list[EventRecord]:
        """Events of one type, in order."""

    def count(self) -> int:
        """How many sessions the ledger holds."""


class UsageRepository(Protocol):
    """Usage facts (seed 8.2.3)."""

    def put(self, usage: UsageRecord) -> None:
        """Inserts or replaces the usage row of a session."""

    def get(self, session_id: str) -> UsageRecord | None:
        """The usage row, if any."""


class RunRepository(Protocol):
    """Local runs: what re-attaching needs."""

    def add(self, run: RunRecord) -> None:
        """Remembers a run for a session that was just added."""

    def get(self, session_id: str) -> RunRecord | None:
        """The run of a session."""

    def put(self, run: RunRecord) -> None:
        """Replaces the run of a session."""


class TaskRepository(Protocol):
    """Spool tasks and their counters."""

    def get(self, task_id: str) -> TaskOutcome | None:
        """What became of a task id."""

    def put(self, outcome: TaskOutcome) -> None:
        """Inserts or replaces the outcome of a task id."""

    def latest(self) -> TaskOutcome | None:
        """The outcome written last."""

    def count(self, counter: str, by: int = 1) -> None:
        """Adds to a named counter."""

    def counters(self) -> Mapping[str, int]:
        """All counters."""


class AuditRepository(Protocol):
    """The append-only hash chain."""

    def append(self, entry: AuditEntry) -> int:
        """Appends a record in O(1); returns its sequence number."""


class MigrationRepository(Protocol):
    """The schema's own record."""

    def applied(self) -> list[tuple[int, str, str]]:
        """Applied migrations: version, name, time of application."""


class Transaction(Protocol):
    """All repositories over one transaction (or one consistent read)."""

    @property
    def ledger(self) -> LedgerRepository: ...
    @property
    def usage(self) -> UsageRepository: ...
    @property
    def runs(self) -> RunRepository: ...
    @property
    def tasks(self) -> TaskRepository: ...
    @property
    def audit(self) -> AuditRepository: ...
    @property
    def migrations(self) -> MigrationRepository: ...


class StoreFacts(Protocol):
    """What `status` says about the store."""

    @property
    def ready(self) -> bool: ...
    @property
    def reason(self) -> str | None:
        """Why it is not ready."""

    @property
    def degraded(self) -> str | None:
        """Ready, but something was set aside; a sentence with the file's name."""

    @property
    def schema_version(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...


class Store(Protocol):
    """The one way to the database."""

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Runs `work` in a durable transaction.

        Raises StoreError (not ready), StoreBusyError, StoreFullError; whatever `work` raises passes
        through. Nothing is written then. Cancelled while waiting: nothing is written; cancelled while
        committing: the commit is finished first.
        """

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Runs `work` in a read-only snapshot; raises StoreError when not ready."""

    def facts(self) -> StoreFacts:
        """The store's state, without waiting."""
