"""The store, as flows see it: repositories inside one transaction.

`Store.write` runs a plain function against a `Transaction`, on the single writer; several waiting calls
may share one commit, each in its own savepoint. The call returns after the commit is durable, or raises
with nothing written. The function runs off the event loop and may be called only once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from ambientd.core.alertrules import AlertRule, AlertScope
    from ambientd.core.alerts import AlertState
    from ambientd.core.analytics import DaySpan, KeptMatrix, MatrixFacts, MatrixQuery, Totals, UsageQuery
    from ambientd.core.ingest import StoredSession
    from ambientd.core.peerbook import PeerSeen, TrustedPeer
    from ambientd.core.peers.floors import Floors, SendLine, SignerFloor
    from ambientd.core.records import (
        AgedSessions,
        AuditLine,
        Costable,
        EventRecord,
        KeptEvent,
        KeptKey,
        LedgerQuery,
        LedgerSlice,
        NewEvent,
        NewSession,
        PendingNotification,
        PlacedEvent,
        Removed,
        RunRecord,
        SessionChange,
        SessionRecord,
        TaskOutcome,
        UsageRecord,
    )
    from ambientd.core.signeditem import SignedItem
    from ambientd.ports.audit import AuditRepository, IdentityRepository
    from ambientd.ports.delta_v import DeltaVRepository
    from ambientd.ports.leases import LeaseRepository
    from ambientd.ports.outbox import AssignmentRepository, OutboxRepository
    from ambientd.ports.policies import PolicyRepository
    from ambientd.wire.enums import AlertMetric

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

    def handles(self, query: LedgerQuery) -> Sequence[int]:
        """Short names of all sessions of a query, in its order; limit, place and offset do not count."""

    def by_handles(self, handles: Sequence[int]) -> list[SessionRecord]:
        """These sessions in this order, without those that are gone."""

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

    def costable(
        self, after: int, limit: int, *, since: datetime | None = None, until: datetime | None = None
    ) -> list[Costable]:
        """Rows with tokens whose cost no provider reported, by key from `after` on (exclusive).

        `since` (inclusive) and `until` (exclusive) bound the start of the session.
        """

    def account(self, session_id: str) -> None:
        """Brings the daily sums to what a session's rows say now; nothing for one that has not ended.

        To be called in the transaction that ended the session or changed its category, model or figures.
        """

    def series(self, query: UsageQuery) -> Mapping[str, Totals]:
        """Sums by agent, model, category or UTC day (also when weeks are asked for)."""

    def by_day(self, query: UsageQuery, spans: tuple[DaySpan, ...]) -> Mapping[str, Totals]:
        """Sums by the days of another zone; a day without runs is left out."""

    def extent(self) -> tuple[datetime, datetime] | None:
        """The first and the last start of all sessions."""

    def incomplete_days(self, limit: int) -> list[str]:
        """UTC days that `rebuild` should be called for, oldest first."""

    def rebuild(self, day: str) -> bool:
        """Builds a day's sums from its sessions; False, and they stay, when some may have been purged."""


class PerformanceRepository(Protocol):
    """How well models do (seed 8.2.5, 8.3.4)."""

    def matrix(self, query: MatrixQuery) -> tuple[MatrixFacts, ...]:
        """Computed from the sessions, most runs first; every row has a run."""

    def revision(self, query: MatrixQuery) -> int:
        """A number that grows with every change of an ended session within the range's UTC days."""

    def kept(self, query: MatrixQuery) -> KeptMatrix | None:
        """The matrix as `keep` had it last, whether it is still true or not."""

    def keep(self, query: MatrixQuery, rows: tuple[MatrixFacts, ...], revision: int) -> None:
        """Keeps a matrix that was computed at a revision."""


class IngestRepository(Protocol):
    """Sessions that others ran, and what was taken in under which idempotency key."""

    def key(self, key: str) -> KeptKey | None:
        """What was taken under an idempotency key."""

    def put_key(self, key: str, kept: KeptKey, at: datetime) -> None:
        """Remembers what was taken under a key, instead of what was before."""

    def session(self, session_id: str) -> StoredSession | None:
        """A session as it is stored."""

    def add(self, session: StoredSession) -> None:
        """Inserts a session in whatever state; raises ValueError when the id exists."""

    def change(self, session_id: str, columns: Mapping[str, Any]) -> None:
        """Sets columns of a stored session; identity is not among those that can be set."""

    def events_by_seq(self, session_id: str, numbers: Sequence[int]) -> list[KeptEvent]:
        """Stored events of a session with these numbers."""

    def events_by_id(self, session_id: str, ids: Sequence[str]) -> list[KeptEvent]:
        """Stored events of any session with these ids; of another one, `session_id` is empty."""

    def has_ids_like_numbers_of(self, session_id: str) -> bool:
        """Whether any event has an id of its own that begins as those of this session's numbers do."""

    def last_seq(self, session_id: str) -> int:
        """The highest number of a session's events, 0 when it has none."""

    def append(self, session_id: str, events: Sequence[PlacedEvent]) -> None:
        """Inserts events under their numbers; raises ValueError when a number or an id is taken."""

    def count_artifacts(self, session_id: str) -> int:
        """How many artifact events a session has."""

    def of_gateway_session(self, gateway_session_id: str, limit: int) -> list[StoredSession]:
        """The runs of a gateway's session, newest start first."""

    def open_of(self, source: str, limit: int) -> list[StoredSession]:
        """Sessions of a source that have not ended, oldest start first."""


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


class ActivityRepository(Protocol):
    """What has happened lately."""

    def latest(self, kind: str, limit: int) -> list[AuditLine]:
        """The newest audit records of a kind, newest first, as far back as can be looked quickly."""


class RetentionRepository(Protocol):
    """Removing what is old, in small steps (seed 9.2.5)."""

    def count(self, before: datetime) -> AgedSessions:
        """Ended sessions older than an instant: rows exactly, bytes about."""

    def remove(self, before: datetime, limit: int, after: tuple[str, str]) -> Removed:
        """Removes up to `limit` of them, oldest first, behind a place; ("", "") is the beginning."""

    def purged_before(self) -> datetime | None:
        """Ended sessions older than this may have been removed; None while none ever was."""

    def count_aggregates(self, table: str, before: datetime) -> int:
        """Rows of `daily_usage_agg` or `model_perf_agg` older than an instant."""

    def remove_aggregates(self, table: str, before: datetime) -> int | None:
        """Removes the oldest day or window of them; how many rows, None when none is left."""

    def tidy_text(self, pages: int, *, start: bool) -> bool:
        """Rewrites some pages of the full-text index without what was removed; whether more is to do."""

    def give_back(self, pages: int) -> bool:
        """Gives some free pages back to the disk; whether more are to be given back."""

    def used_bytes(self) -> int:
        """Size of the database without its free pages."""

    def file_bytes(self) -> int:
        """Size of the database's file once its log has been copied into it."""


class AlertRepository(Protocol):
    """Alert rules, where their alerts stand, and what waits to be told (seed 8.2.6, 9.4.3)."""

    def rules(self) -> list[AlertRule]:
        """All rules, oldest first."""

    def rule(self, rule_id: str) -> AlertRule | None:
        """One rule by its whole id."""

    def put_rule(self, rule: AlertRule) -> None:
        """Inserts or replaces a rule; raises ValueError for one that cannot be stored."""

    def remove_rule(self, rule_id: str) -> None:
        """Removes a rule with its state; what waits to be told is told."""

    def states(self) -> Mapping[str, AlertState]:
        """The states of all rules that were ever evaluated, by rule id."""

    def active(self) -> list[AlertState]:
        """States in breach, or just resolved."""

    def state(self, rule_id: str) -> AlertState | None:
        """The state of one rule."""

    def put_state(self, state: AlertState) -> None:
        """Inserts or replaces the state of a rule; raises ValueError when there is no such rule."""

    def enqueue(self, notifier: str, payload: bytes, at: datetime) -> None:
        """Keeps a notification for one notifier until `done`."""

    def pending(self, notifier: str, limit: int) -> list[PendingNotification]:
        """What waits for a notifier, oldest first."""

    def done(self, key: int) -> None:
        """A notification was delivered, or given up."""

    def drop(self, *, beyond: int, notifiers: Sequence[str]) -> int:
        """Drops what waits for other notifiers, and of each of these the oldest beyond a number.

        Returns how many went.
        """

    def measure(
        self, metric: AlertMetric, scope: AlertScope, since: datetime, until: datetime
    ) -> float | None:
        """A metric over the sessions that ended after `since` and not after `until`; None without data."""


class SettingsRepository(Protocol):
    """Small facts of the node's own, by name."""

    def get(self, name: str) -> str | None:
        """The value under a name."""

    def put(self, name: str, value: str) -> None:
        """Sets or replaces a value; raises ValueError for what cannot be stored."""

    def beginning(self, prefix: str) -> Mapping[str, str]:
        """All values whose names begin so, by the rest of the name."""


class PeerRepository(Protocol):
    """LAN peers: whom the operator trusts, how far senders have counted, when peers were there."""

    def trusted(self) -> list[TrustedPeer]:
        """Keys that the operator trusted, oldest first."""

    def trust(self, peer: TrustedPeer) -> None:
        """Adds a key, or gives it another name; raises ValueError for what cannot be stored."""

    def untrust(self, key: str) -> bool:
        """Removes a key, and when it was seen; its floor stays. Whether it was there."""

    def distrusted(self) -> list[str]:
        """Keys that no roster makes trusted, by the operator's word."""

    def distrust(self, key: str, *, at: datetime, by: str) -> None:
        """No roster makes this key trusted any more; `trust` ends that."""

    def roster(self) -> SignedItem | None:
        """The newest roster of the control plane that was taken."""

    def put_roster(self, item: SignedItem, revision: int, *, at: datetime) -> None:
        """Takes the place of the one before."""

    def drop_roster(self) -> bool:
        """Forgets it; whether there was one."""

    def floors(self) -> Floors | None:
        """What must not be taken again; None before `begin`."""

    def raise_floor(self, signer: bytes, floor: SignerFloor) -> None:
        """Writes a sender's floor; never below what is written already."""

    def forget_floors(self, keys: Sequence[bytes]) -> None:
        """Drops what is remembered of these senders."""

    def own_line(self) -> SendLine | None:
        """The line that this node counts on, from the first number never used; None before `begin`."""

    def begin(self, line: SendLine, since: int) -> None:
        """Writes the own line. `since` (ms since the epoch) counts the first time only."""

    def seen(self) -> list[PeerSeen]:
        """When peers were last there."""

    def put_seen(self, peer: PeerSeen) -> None:
        """Replaces what is known of a peer; a comparison is remembered until the next."""


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
    def performance(self) -> PerformanceRepository: ...
    @property
    def ingest(self) -> IngestRepository: ...
    @property
    def runs(self) -> RunRepository: ...
    @property
    def tasks(self) -> TaskRepository: ...
    @property
    def audit(self) -> AuditRepository: ...
    @property
    def activity(self) -> ActivityRepository: ...
    @property
    def identity(self) -> IdentityRepository: ...
    @property
    def retention(self) -> RetentionRepository: ...
    @property
    def alerts(self) -> AlertRepository: ...
    @property
    def policies(self) -> PolicyRepository: ...
    @property
    def leases(self) -> LeaseRepository: ...
    @property
    def settings(self) -> SettingsRepository: ...
    @property
    def peers(self) -> PeerRepository: ...
    @property
    def outbox(self) -> OutboxRepository: ...
    @property
    def assignments(self) -> AssignmentRepository: ...
    @property
    def delta_v(self) -> DeltaVRepository: ...
    @property
    def migrations(self) -> MigrationRepository: ...
    def is_joined(self) -> bool:
        """Whether changes are noted for a control plane, as `outbox.state` says as well."""


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
        committing: the commit is finished first and the value returned, for the caller to act on; its next
        wait is cancelled then.
        """

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Runs `work` in a read-only snapshot; raises StoreError when not ready."""

    def facts(self) -> StoreFacts:
        """The store's state, without waiting."""
