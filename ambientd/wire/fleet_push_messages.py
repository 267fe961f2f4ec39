"""What nodes push in numbered streams: audit records, ledger rows, Δv.

A batch names the last number of its stream that the node knows to be durable here (`after`), then records
with higher numbers in ascending order; numbers may be missing where a full outbox has dropped records.
"""

from typing import Any

import msgspec

from ambientd.wire.enums import (
    CostConfidence,
    CostSource,
    EventType,
    MetricConfidence,
    MetricSource,
    SessionStatus,
)

RECORDS_MAX = 1000  # of one batch
EVENTS_MAX = 5000  # of all records of one batch


class AuditBody(msgspec.Struct):
    """One record of the node's audit chain, word for word."""

    seq: int
    kind: str
    at: str
    actor: str
    subject: str
    detail: dict[str, Any]
    prev_hash: str
    hash: str


class AuditPush(msgspec.Struct):
    """`POST /api/v1/nodes/{id}/audit`: consecutive records; those that are here already may be among them."""

    records: list[AuditBody]


class AuditAnswer(msgspec.Struct):
    """Everything up to `acked_seq` is durable."""

    acked_seq: int
    head_hash: str
    taken: int
    duplicates: int


class SessionBody(msgspec.Struct, kw_only=True):
    """A session of the node's ledger as it stands."""

    agent_id: str
    agent_label: str
    model_id: str
    status: SessionStatus
    started_at: str
    ended_at: str | None = None
    runtime_ms: int | None = None
    run_id: str | None = None
    task_id: str | None = None
    task_title: str | None = None
    task_category: str | None = None
    artifact_count: int = 0
    error_code: str | None = None
    error_message: str | None = None
    source_version: str | None = None
    gateway_session_id: str | None = None


class EventBody(msgspec.Struct, kw_only=True):
    """One event of a session; `seq` is its number there."""

    seq: int
    event_type: EventType
    at: str
    payload: dict[str, Any] = {}
    event_id: str | None = None


class UsageBody(msgspec.Struct, kw_only=True):
    """Usage of a session; unknown is null, never 0."""

    computed_at: str
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


class LedgerRecord(msgspec.Struct, kw_only=True):
    """What is new of one session: any of the three."""

    seq: int
    session_id: str
    session: SessionBody | None = None
    events: list[EventBody] = []
    usage: UsageBody | None = None


class LedgerPush(msgspec.Struct):
    """`POST /api/v1/nodes/{id}/ledger`."""

    after: int
    records: list[LedgerRecord]


class DeltaVRecord(msgspec.Struct, kw_only=True):
    """Δv of one window; `value` is null when it overflowed."""

    seq: int
    window_start: str
    window_end: str
    value: float | None
    samples: int
    refused: int = 0
    source: str | None = None
    confidence: str | None = None


class DeltaVPush(msgspec.Struct):
    """`POST /api/v1/nodes/{id}/delta-v`."""

    after: int
    records: list[DeltaVRecord]


class LeftOut(msgspec.Struct):
    """A record that was counted and not kept, and why: sending it again would not help."""

    seq: int
    reason: str


class StreamAnswer(msgspec.Struct):
    """Everything up to `acked_seq` is durable, or was left out for good."""

    acked_seq: int
    taken: int
    duplicates: int
    left_out: list[LeftOut]


class NodeSessionView(msgspec.Struct):
    """A session of a node's ledger."""

    session_id: str
    agent_id: str
    agent_label: str
    model_id: str
    status: SessionStatus
    started_at: str
    ended_at: str | None
    runtime_ms: int | None
    task_id: str | None
    task_title: str | None
    task_category: str | None
    artifact_count: int
    error_code: str | None
    error_message: str | None
    gateway_session_id: str | None


class NodeLedgerPage(msgspec.Struct):
    """`GET /api/v1/nodes/{id}/ledger`, newest start first; `next_cursor`, given as `cursor`, goes on."""

    rows: list[NodeSessionView]
    next_cursor: str | None


class NodeSessionDetail(msgspec.Struct):
    """`GET /api/v1/nodes/{id}/ledger/{session}`; `next_event`, given as `after_event`, goes on."""

    session: NodeSessionView
    usage: UsageBody | None
    events: list[EventBody]
    next_event: int | None


class NodeUsageAnswer(msgspec.Struct):
    """`GET /api/v1/nodes/{id}/usage`: sums over sessions that started in `from`…`to`."""

    sessions: int
    total_tokens: int
    cost_usd: float
    runtime_ms: int


class DeltaVView(msgspec.Struct):
    """One window."""

    window_start: str
    window_end: str
    value: float | None
    samples: int
    refused: int
    source: str | None
    confidence: str | None


class DeltaVAnswer(msgspec.Struct):
    """`GET /api/v1/nodes/{id}/delta-v`, oldest first."""

    windows: list[DeltaVView]


class StreamView(msgspec.Struct):
    """How far a stream of a node is durable here."""

    stream: str
    acked_seq: int
    updated_at: str


class StreamsAnswer(msgspec.Struct):
    """`GET /api/v1/nodes/{id}/streams`: where a node goes on that has lost its own memory of it."""

    streams: list[StreamView]
