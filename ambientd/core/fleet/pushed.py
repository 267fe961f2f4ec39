"""The control plane's values about what nodes push and what comes down to them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from ambientd.core.records import UsageRecord
from ambientd.core.signeditem import SignedItem
from ambientd.wire.enums import EventType, SessionStatus
from ambientd.wire.fleet_enums import ItemKind, Stream


class FleetItem(msgspec.Struct, frozen=True, kw_only=True):
    """A signed item to come down. `subject`: id of the policy, lease or key it speaks of.

    For all nodes of all owners unless `owner_id` or `node_id` narrows it.
    """

    kind: ItemKind
    subject: str
    item: SignedItem
    created_at: datetime
    expires_at: datetime | None = None
    owner_id: str | None = None
    node_id: str | None = None
    revision: int = 0  # given by the store


class StreamPlace(msgspec.Struct, frozen=True, kw_only=True):
    """How far a node's stream is durable here."""

    stream: Stream
    acked_seq: int
    updated_at: datetime


class AuditHead(msgspec.Struct, frozen=True, kw_only=True):
    """The last record of a chain; seq 0 and the genesis hash for an empty one."""

    seq: int
    hash: str


class NodeSession(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a node's ledger. `stream_seq` orders what the node said of it: the highest one stands."""

    session_id: str
    stream_seq: int
    agent_id: str
    agent_label: str
    model_id: str
    status: SessionStatus
    started_at: datetime
    ended_at: datetime | None = None
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


class NodeSessionEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a node's session; `seq` is its number there."""

    session_id: str
    seq: int
    event_type: EventType
    at: datetime
    payload: Mapping[str, Any]
    event_id: str | None = None


class NodeUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Usage of a node's session; `stream_seq` as in `NodeSession`."""

    stream_seq: int
    usage: UsageRecord


class NodeDeltaV(msgspec.Struct, frozen=True, kw_only=True):
    """Δv of one window of a node; `value` is None when it overflowed."""

    window_start: datetime
    window_end: datetime
    value: float | None
    samples: int
    refused: int = 0
    source: str | None = None
    confidence: str | None = None


class LedgerQueryOfNode(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions of one node, newest start first. `after`: (started_at, session_id) of the last one seen."""

    node_id: str
    status: SessionStatus | None = None
    task_id: str | None = None
    limit: int = 100
    after: tuple[datetime, str] | None = None


class NodeUsageTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the sessions of a node that started within a span."""

    sessions: int = 0
    total_tokens: int = 0
    cost_usd: float = 0.0
    runtime_ms: int = 0
