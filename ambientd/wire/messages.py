"""Messages of the local API (CONTRACT 5). Keys are camelCase under `/api/system`, `/api/control`, `/api/v3`.

Absent means unknown: optional fields are left out rather than sent as null, except where the
contract says that a key is always there.
"""

from typing import Any

import msgspec

from ambientd.wire.autonomy_messages import (
    AuditStatus,
    ControlStatus,
    DeltaVStatus,
    LeasesStatus,
    OutboxStatus,
    PeersStatus,
    PolicyStatus,
    StateStatus,
)
from ambientd.wire.enums import AgentStatus, EventType, Health, SessionStatus

# --- errors


class ErrorDetail(msgspec.Struct, omit_defaults=True):
    """One problem of one field. `message` repeats the problem in words for people."""

    field: str
    issue: str
    message: str
    expected: str | None = None


class ErrorBody(msgspec.Struct, rename="camel"):
    """The body of every refusal; `details` is sorted by field."""

    code: str
    message: str
    details: list[ErrorDetail]
    request_id: str


class ErrorEnvelope(msgspec.Struct):
    """The one shape of every error answer."""

    error: ErrorBody


# --- health


class Live(msgspec.Struct):
    """`/livez`: the loop turns."""

    ok: bool


class ReadyCheck(msgspec.Struct, omit_defaults=True):
    """One condition of readiness."""

    name: str
    ok: bool
    reason: str | None = None


class Ready(msgspec.Struct):
    """`/readyz`: 200 when every check is ok, else 503."""

    ready: bool
    checks: list[ReadyCheck]


# --- control


class SpawnRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """`POST /api/control/spawn`. `local:` or `gateway:` before the id says which agent of that id."""

    agent_id: str
    prompt: str
    model: str | None = None
    title: str | None = None
    category: str | None = None


class SpawnAnswer(msgspec.Struct, rename="camel"):
    """The session is durable when this is sent; `status` is `queued` until a runner takes it."""

    ok: bool
    session_id: str
    status: SessionStatus
    audit_id: int


class ModelRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """`POST /api/control/model`; the agent's id as in `SpawnRequest`."""

    agent_id: str
    model: str


class ModelAnswer(msgspec.Struct, rename="camel"):
    """The agent's preferred model, kept durably. `applied` says where it holds already.

    `spawns`: sessions that this node starts; `agent`: the agent's own setting at the gateway; `sessions`:
    so many sessions of the agent at the gateway (a run under way keeps its model).
    """

    ok: bool
    agent_id: str
    model: str
    applied: list[str]
    sessions: int
    audit_id: int


class KillRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """`POST /api/control/kill`; a whole id or a unique prefix or suffix."""

    session_id: str


class KillAnswer(msgspec.Struct, rename="camel"):
    """`ended` is true when the proof was already there (a queued session is cancelled at once)."""

    ok: bool
    session_id: str
    signal: str
    ended: bool
    audit_id: int


# --- ledger


class SessionSummary(msgspec.Struct, rename="camel", omit_defaults=True):
    """One row of the ledger (facts/v3-shapes); keys are only ever added.

    `runtime_ms` counts from the moment the agent process started; 0 while it has not.
    `started_at` is the instant the session was accepted and never changes.
    """

    session_id: str
    agent_id: str
    agent_label: str
    model_id: str
    status: SessionStatus
    started_at: str
    runtime_ms: int
    artifact_count: int
    ingested_at: str
    run_id: str | None = None
    task_title: str | None = None
    task_text: str | None = None
    task_category: str | None = None
    ended_at: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    source_version: str | None = None
    running_since: str | None = None
    total_tokens: int | None = None
    cost_usd: float | None = None
    cost_confidence: str | None = None


class SessionUsage(msgspec.Struct, rename="camel", omit_defaults=True):
    """Usage of one session with its provenance (seed 8.2.3, 9.4.2)."""

    session_id: str
    runtime_ms: int
    cost_confidence: str
    computed_at: str
    cost_source: str
    token_source: str
    runtime_source: str
    token_confidence: str
    runtime_confidence: str
    cost_confidence_level: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cost_usd: float | None = None
    provider: str | None = None
    pricing_version: str | None = None


class SessionEvent(msgspec.Struct, rename="camel"):
    """One event of a session; `seq` starts at 1 and has no gaps within a session."""

    event_id: str
    session_id: str
    seq: int
    event_type: EventType
    event_ts: str
    payload: dict[str, Any]


class Artifact(msgspec.Struct, rename="camel", omit_defaults=True):
    """A file that the session left in its artifacts folder."""

    name: str
    bytes: int
    sha256: str | None = None


class LedgerPage(msgspec.Struct, rename="camel", omit_defaults=True):
    """`GET /api/v3/ledger`: newest first; `total` is exact to 10,000."""

    total: int
    rows: list[SessionSummary]
    next_cursor: str | None = None
    total_is_lower_bound: bool = False
    purged_before: str | None = None  # ended sessions older than this have been removed by retention


class SessionDetail(msgspec.Struct, omit_defaults=True):
    """`GET /api/v3/ledger/{sessionId}`."""

    ledger: SessionSummary
    events: list[SessionEvent]
    artifacts: list[Artifact] = msgspec.field(default_factory=list)
    usage: SessionUsage | None = None


class EventsPage(msgspec.Struct, rename="camel"):
    """`GET /api/v3/ledger/{sessionId}/events`: after a sequence number; `ended` when no more will come."""

    session_id: str
    status: SessionStatus
    ended: bool
    events: list[SessionEvent]


# --- ingest


class IngestEnvelope(msgspec.Struct, omit_defaults=True):
    """`POST /api/v3/ingest/session`; unknown keys are refused.

    `payload` of `v1`: `{"session":{…},"events":[…],"usage":{…}}`, of `v2`: `{"run":{…},"timeline":[…]}`.
    Without `idempotency_key`, the session's id and its terminal state (or `open`) are the key.
    """

    envelope_version: str
    source: str
    payload: dict[str, Any]
    idempotency_key: str | None = None


class IngestAnswer(msgspec.Struct):
    """The ingest is durable. `idempotent_replay`: the very same was taken before; nothing was written."""

    ok: bool
    session_id: str
    idempotent_replay: bool


# --- status


class NodeStatus(msgspec.Struct, rename="camel", omit_defaults=True):
    """This node, as `status` heads its screen."""

    name: str
    host_id: str
    host_id_source: str
    version: str
    pid: int
    mode: str
    started_at: str
    uptime_sec: int


class HeartbeatStatus(msgspec.Struct, rename="camel", omit_defaults=True):
    """The activity feed and the loop behind it.

    `lost` counts beats of this process that did not reach the feed; `last_at` is the last one that did;
    `failing` says that the newest did not. `last_error` stays after it has passed. `file_error` is why
    the heartbeat file could not be written in the last cycle.
    """

    enabled: bool
    seq: int
    interval_sec: float
    lost: int
    cycles: int
    feed: str | None = None
    last_at: str | None = None
    last_cycle_at: str | None = None
    last_error: str | None = None
    failing: bool = False
    refused: str | None = None
    clock_clamped_sec: float | None = None
    note: str | None = None
    quarantined: int = 0
    file_error: str | None = None


class LedgerStatus(msgspec.Struct, rename="camel", omit_defaults=True):
    """The session ledger's size and health."""

    ready: bool
    # Factories, because a default would be left out of the document, and a known 0 is not unknown.
    sessions: int = msgspec.field(default_factory=int)
    bytes: int = msgspec.field(default_factory=int)
    schema_version: int = msgspec.field(default_factory=int)
    degraded: str | None = None
    reason: str | None = None


class SessionsStatus(msgspec.Struct, rename="camel"):
    """How many sessions run and wait on this node."""

    running: int
    queued: int


class IntakeStatus(msgspec.Struct, rename="camel"):
    """Counters of the spool since the ledger was made (R2.88); all are always there."""

    dispatched: int = 0
    committed: int = 0
    rejected: int = 0
    error: int = 0
    skipped: int = 0
    blocked: int = 0
    waiting: int = 0
    unknown_files: int = 0
    rejected_by: dict[str, int] = msgspec.field(default_factory=dict)
    blocked_by: dict[str, int] = msgspec.field(default_factory=dict)
    breakers_open: list[str] = msgspec.field(default_factory=list)
    breaker_reasons: dict[str, str] = msgspec.field(default_factory=dict)
    latest: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class AgentSession(msgspec.Struct, rename="camel", omit_defaults=True):
    """One active session of an agent, for the dialogue before a kill; `state` is running or queued."""

    id: str
    state: str
    model: str | None = None
    since: str | None = None
    title: str | None = None


def _local() -> str:
    return "local"


class AgentView(msgspec.Struct, rename="camel", omit_defaults=True):
    """One agent; `id`, `name`, `status`, `lastActivityAt`, `reason` are the seed's.

    `kind` is `local` or `gateway`: an id alone may be that of one of each. `sessions` are the active ones,
    the newest first.
    """

    id: str
    name: str
    status: AgentStatus
    last_activity_at: str | None
    reason: str
    kind: str = msgspec.field(default_factory=_local)  # always told
    session_id: str | None = None
    model: str | None = None
    task: str | None = None
    since: str | None = None
    running: int = msgspec.field(default_factory=int)  # always told, also when 0
    queued: int = msgspec.field(default_factory=int)
    sessions: list[AgentSession] = msgspec.field(default_factory=list)


class GatewayStatus(msgspec.Struct, rename="camel", omit_defaults=True):
    """The OpenClaw Gateway; `connected` and `healthy` are the seed's.

    `phase` is off when none is configured. Right after a loss the last good data stay for up to 10 s, with
    `connected` as it was: `as_of` is then the time of those data, otherwise that of the answer. `reason`
    and `remedy` are sentences for people. `last_heartbeat_at` is the agents' own heartbeat, which says
    nothing about the gateway.
    """

    connected: bool
    healthy: bool
    phase: str
    url: str | None = None
    since: str | None = None
    reason: str | None = None
    remedy: str | None = None
    latency_ms: int | None = None
    version: str | None = None
    protocol: int | None = None
    attempt: int | None = None
    next_try_at: str | None = None
    as_of: str | None = None
    live: str | None = None  # how news arrive: "events" or "polling"
    agents: int | None = None
    active_sessions: int | None = None
    last_heartbeat_at: str | None = None


def _no_gateway() -> GatewayStatus:
    return GatewayStatus(connected=False, healthy=False, phase="off")


def _source() -> str:
    return "gateway-ws"


class Problem(msgspec.Struct, omit_defaults=True):
    """Something to look at, with the command that helps."""

    id: str
    severity: str
    text: str
    help: str | None = None


class AlertsStatus(msgspec.Struct, rename="camel"):
    """Active alerts by severity; muted ones are counted apart and are no problem of the node."""

    critical: int = 0
    warning: int = 0
    muted: int = 0


class ContractRejection(msgspec.Struct):
    """How often ingests were refused since the start (`contract_rejection_total{code,version}`, R3.170)."""

    code: str
    version: str
    count: int


class HttpStatus(msgspec.Struct, rename="camel", omit_defaults=True):
    """The API on TCP: where it listens, or why it does not."""

    enabled: bool
    address: str | None = None
    reason: str | None = None


class StatusDocument(msgspec.Struct, rename="camel", omit_defaults=True):
    """`ambientctl status --json` and `/api/system/status`; parts that do not exist yet are absent.

    `generated_at` is the instant up to which all of it is true: while a lost gateway's last data are still
    shown, the time of those data.
    """

    schema: str
    generated_at: str
    health: Health
    node: NodeStatus
    heartbeat: HeartbeatStatus
    ledger: LedgerStatus
    sessions: SessionsStatus
    intake: IntakeStatus
    agents: list[AgentView]
    problems: list[Problem]
    source: str = msgspec.field(default_factory=_source)
    gateway: GatewayStatus = msgspec.field(default_factory=_no_gateway)
    alerts: AlertsStatus | None = None
    contract_rejections: list[ContractRejection] = msgspec.field(default_factory=list)
    http: HttpStatus | None = None
    state: StateStatus | None = None
    control: ControlStatus | None = None
    policy: PolicyStatus | None = None
    peers: PeersStatus | None = None
    leases: LeasesStatus | None = None
    audit: AuditStatus | None = None
    delta_v: DeltaVStatus | None = None
    outbox: OutboxStatus | None = None


# --- schema


class MigrationRow(msgspec.Struct, rename="camel", omit_defaults=True):
    """One migration of the running schema."""

    version: int
    name: str
    applied_at: str | None = None


class MigrationsView(msgspec.Struct, rename="camel"):
    """`GET /api/v1/node/migrations`."""

    schema: str
    current: int
    known: int
    migrations: list[MigrationRow]


# --- retention


class RetentionRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """`POST /api/v1/node/retention`; without `plan_id` a run makes its plan at that moment."""

    dry_run: bool = True
    plan_id: str | None = None


class RetentionRow(msgspec.Struct, rename="camel"):
    """What goes, went or would go in one place: `rows` things, exactly, and about `bytes` on disk.

    What is older than `before` goes; it is kept for `keep_sec` seconds, which is `keep_days` days.
    """

    name: str
    keep_days: int
    keep_sec: int
    before: str
    rows: int
    bytes: int


class RetentionAnswer(msgspec.Struct, rename="camel", omit_defaults=True):
    """A plan with what it would remove (`dry_run`; nothing was changed), or a run of it.

    While it runs, `running` is true and `tables` says what went so far. `used_bytes` is what the database
    held when it began, without free pages; `freed_bytes` by how much its file got smaller until the end.
    `error` is why a run stopped early; what it had removed stays removed.
    """

    schema: str
    dry_run: bool
    plan_id: str
    started_at: str
    used_bytes: int
    tables: list[RetentionRow]
    running: bool = False
    ended_at: str | None = None
    freed_bytes: int | None = None
    error: str | None = None
