"""The ledger's values inside the program: what flows write and the store keeps.

Instants are aware UTC datetimes, cut to milliseconds when stored.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from ambientd.wire.enums import (
    CostConfidence,
    CostSource,
    EventType,
    LedgerSort,
    MetricConfidence,
    MetricSource,
    SessionStatus,
)

UNKNOWN_MODEL = "unknown"


class NewSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session at the moment it is accepted."""

    session_id: str
    agent_id: str
    agent_label: str
    model_id: str = UNKNOWN_MODEL
    task_title: str | None = None
    task_text: str = ""
    task_category: str | None = None
    status: SessionStatus = SessionStatus.QUEUED
    started_at: datetime
    source_version: str | None = None


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `session_ledger`, with the tokens and cost of its usage row when there is one."""

    session_id: str
    run_id: str | None
    agent_id: str
    agent_label: str
    model_id: str
    task_title: str | None
    task_text: str | None
    task_category: str | None
    status: SessionStatus
    started_at: datetime
    ended_at: datetime | None
    runtime_ms: int | None
    running_since: datetime | None
    artifact_count: int
    error_code: str | None
    error_message: str | None
    source_version: str | None
    ingested_at: datetime
    total_tokens: int | None = None
    cost_usd: float | None = None
    cost_confidence: CostConfidence | None = None
    gateway_session_id: str | None = None  # of a run behind a gateway


class SessionChange(msgspec.Struct, frozen=True, kw_only=True):
    """A step forward; fields left None keep what is stored. Identity fields cannot be named here.

    `model_id` is for a session whose model was not known before.
    """

    model_id: str | None = None
    status: SessionStatus | None = None
    running_since: datetime | None = None
    ended_at: datetime | None = None
    runtime_ms: int | None = None
    artifact_count: int | None = None
    error_code: str | None = None
    error_message: str | None = None


class NewEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event to append; the store gives it the next `seq` of its session."""

    event_type: EventType
    at: datetime
    payload: Mapping[str, Any]
    event_id: str | None = None


class EventRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One stored event; `event_id` defaults to `<session_id>:<seq>`."""

    event_id: str
    session_id: str
    seq: int
    event_type: EventType
    at: datetime
    payload: Mapping[str, Any]


class UsageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Usage of one session. Unknown is None, never 0; an estimated cost names its price table."""

    session_id: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    runtime_ms: int | None = None
    cost_usd: float | None = None
    cost_confidence: CostConfidence = CostConfidence.UNKNOWN
    cost_source: CostSource = CostSource.UNKNOWN
    cost_confidence_level: MetricConfidence = MetricConfidence.UNKNOWN
    token_source: MetricSource = MetricSource.MISSING
    token_confidence: MetricConfidence = MetricConfidence.UNKNOWN
    runtime_source: MetricSource = MetricSource.MISSING
    runtime_confidence: MetricConfidence = MetricConfidence.UNKNOWN
    provider: str | None = None
    pricing_version: str | None = None
    computed_at: datetime


class LedgerQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Filters are joined by and; `since` is inclusive, `until` exclusive, both on `started_at`.

    `text` is literal text looked for in id, title and task; the category "" is that of sessions without
    one. Newest first unless `sort` says otherwise; ties by id, descending.
    """

    agent_id: str | None = None
    statuses: frozenset[SessionStatus] = frozenset()
    model_id: str | None = None
    category: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None
    limit: int = 50
    after: tuple[datetime, str] | None = None  # the last row of the page before
    sort: LedgerSort = LedgerSort.NEWEST
    place: tuple[float | None, str] | None = None  # the same in another order: figure and id
    offset: int = 0  # rows to leave out, instead of a place


class LedgerSlice(msgspec.Struct, frozen=True, kw_only=True):
    """One page; `total` is exact up to 10,000 and then a lower bound."""

    rows: tuple[SessionRecord, ...]
    total: int
    total_is_lower_bound: bool
    more: bool


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the node must remember to run a session and to find it again after a restart.

    `spool_offset` is how far the shim's output file has been turned into events; it moves in the same
    transaction as those events, so each line enters the ledger exactly once.
    """

    session_id: str
    attempt: int = 1
    spool_offset: int = 0
    output_events: int = 0
    output_dropped: int = 0
    end_cause: str | None = None  # set before anything is signalled: "killed", "shutdown"
    task_id: str | None = None  # the spool task this session came from


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A record to append to the audit chain."""

    kind: str
    at: datetime
    actor: str
    subject: str
    detail: Mapping[str, Any] = {}


class AuditLine(msgspec.Struct, frozen=True, kw_only=True):
    """A record of the audit chain for people, without its hashes."""

    seq: int
    at: datetime
    actor: str
    subject: str
    detail: Mapping[str, Any]


class TaskOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one spool task id; written once per id, so a task runs once (R2.81)."""

    task_id: str
    outcome: str  # "dispatched", then "committed", "error" or "cancelled"
    session_id: str | None
    file_name: str
    at: datetime


class AgedSessions(msgspec.Struct, frozen=True, kw_only=True):
    """Ended sessions that retention counts or removes: rows, and about how many bytes of the database."""

    sessions: int = 0
    events: int = 0
    usage: int = 0
    event_bytes: int = 0
    usage_bytes: int = 0
    session_bytes: int = 0

    def __add__(self, other: "AgedSessions") -> "AgedSessions":
        """Both together."""
        names = self.__struct_fields__
        return AgedSessions(**{name: getattr(self, name) + getattr(other, name) for name in names})


class Removed(msgspec.Struct, frozen=True):
    """One batch that retention removed; the next begins behind `place` (start and id of the last)."""

    found: AgedSessions
    place: tuple[str, str]


class PendingNotification(msgspec.Struct, frozen=True, kw_only=True):
    """A notification of an alert that one notifier has not delivered yet; `payload` is its JSON."""

    key: int
    payload: bytes


class Costable(msgspec.Struct, frozen=True, kw_only=True):
    """A usage row whose cost is not the provider's own, with what its price depends on.

    `key` orders such rows and stays the same for as long as the session lasts.
    """

    key: int
    model_id: str
    usage: UsageRecord


class PlacedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of an ingested session to insert under the number that was settled for it.

    Without an id of its own it is known as `<session_id>:<seq>`.
    """

    seq: int
    event_type: EventType
    at: datetime
    payload: Mapping[str, Any]
    event_id: str | None


class KeptEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A stored event, to compare one that came again with; `session_id` is empty for another session's."""

    session_id: str
    seq: int
    event_type: str
    at_ms: int
    payload: Mapping[str, Any]
    event_id: str


class KeptKey(msgspec.Struct, frozen=True, kw_only=True):
    """What was taken in under an idempotency key: the session, and the content's fingerprint."""

    session_id: str
    fingerprint: str
