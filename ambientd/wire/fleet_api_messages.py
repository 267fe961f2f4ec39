"""What the control plane answers about nodes and work (`/api/v1`). Keys are only ever added."""

from typing import Any

import msgspec

from ambientd.wire.enums import Connectivity
from ambientd.wire.fleet_enums import (
    AwayPolicy,
    ConnectStatus,
    EgressProfile,
    ExecutionStatus,
    ItemKind,
    NodeStatus,
    NodeType,
    TaskStatus,
    TunnelProtocol,
    Verdict,
)
from ambientd.wire.fleet_messages import CapabilitiesBody, ReportBody
from ambientd.wire.policy_messages import PolicyItem


class HealthAnswer(msgspec.Struct):
    """`GET /api/v1/health`."""

    status: str
    version: str
    timestamp: str


class NodeInfo(msgspec.Struct):
    """One node, as it last said of itself. `status` is what the control plane thinks of it now."""

    node_id: str
    region: str
    node_type: NodeType
    capabilities: CapabilitiesBody
    owner_id: str
    health_score: float
    status: NodeStatus
    registered_at: str
    last_seen: str
    observability_port: int | None
    last_heartbeat: str | None
    state: Connectivity | None
    delta_v: float | None
    audit_head_seq: int | None
    audit_head_hash: str | None
    report_interval_sec: int
    report_seq: int
    incarnation: int
    updated_at: str


class NodeDone(msgspec.Struct, omit_defaults=True):
    """A node was deleted or rejected, or its credentials were revoked."""

    message: str
    node_id: str
    status: NodeStatus | None = None


class AssignedTaskView(msgspec.Struct):
    """A task that a node has now."""

    task_id: str
    task_type: str
    execution_status: ExecutionStatus


class HeartbeatAnswer(msgspec.Struct, omit_defaults=True):
    """`PUT /api/v1/nodes/{id}/heartbeat`. `duplicate`: a report of this number was taken before.

    `known_report_seq`: the highest number of a report that was known before this one; a node that was told of
    more durable ones learns by it that the database is an older copy.
    """

    message: str
    node_id: str
    timestamp: str
    health_score: float
    node_status: NodeStatus
    active_tasks: int
    assigned_task_ids: list[str]
    assigned_tasks: list[AssignedTaskView]
    internet_active: bool
    duplicate: bool = False
    known_report_seq: int | None = None


class ReportsPush(msgspec.Struct):
    """`POST /api/v1/nodes/{id}/reports`: reports that waited, in the order of their `seq`, which all have."""

    reports: list[ReportBody]


class ReportsAnswer(msgspec.Struct):
    """All of them are durable. `acked_seq` is the highest number among them."""

    acked_seq: int
    taken: int
    duplicates: int
    node_status: NodeStatus
    active_tasks: int
    assigned_task_ids: list[str]


class EventView(msgspec.Struct, omit_defaults=True):
    """Something that happened to work of a node. `cleared_at` is `at` under its older name, of both kinds."""

    task_id: str
    task_type: str
    event: str
    cleared_at: str
    at: str
    session_id: str | None = None


class ActivityAnswer(msgspec.Struct):
    """`GET /api/v1/nodes/{id}/heartbeat/activity`: newest first."""

    events: list[EventView]


class ScoreView(msgspec.Struct):
    """What the figures of a report come to, 0 to `most`; `unmeasured` parts add nothing to either."""

    value: float
    most: float
    unmeasured: list[str]


class HistoryRowView(msgspec.Struct):
    """One report or event. `sampled_at` is the node's own time of a report that waited. `score` weighs speed
    and load of a report, and is no judgement of the node's health; an event has none."""

    heartbeat_id: int
    recorded_at: str
    sampled_at: str | None
    health_score: float
    cpu_usage: float | None
    memory_usage: float | None
    disk_usage: float | None
    network_latency_ms: int | None
    active_tasks: int
    status: str
    seq: int | None
    metadata: dict[str, Any] | None
    score: ScoreView | None


class HistoryAnswer(msgspec.Struct):
    """`GET /api/v1/nodes/{id}/history`, newest first; `next`, given as `before`, goes on."""

    rows: list[HistoryRowView]
    next: int | None


class RequirementsView(msgspec.Struct):
    """What a task asks of its nodes."""

    min_nodes: int
    max_execution_time_sec: int
    require_gpu: bool
    require_proof: bool


class AwayView(msgspec.Struct):
    """What becomes of a task's work when its node is away. `stop`: the node stops it by itself when it has
    had no answer of the control plane for `after_sec`."""

    policy: AwayPolicy
    after_sec: int | None


class TaskInfo(msgspec.Struct):
    """One task; its inputs are shown to its nodes alone."""

    task_id: str
    task_type: str
    status: TaskStatus
    assigned_nodes: list[str]
    former_assigned_nodes: list[str]
    created_at: str
    updated_at: str
    completed_at: str | None
    result: Any
    proof_id: str | None
    requirements: RequirementsView
    away: AwayView


class TaskDone(msgspec.Struct):
    """`DELETE /api/v1/tasks/{id}`."""

    message: str
    task_id: str


class AssignmentView(msgspec.Struct):
    """Work for a node. `attempt` counts how often it got this task."""

    task_id: str
    task_type: str
    inputs: Any
    wasm_module: str | None
    requirements: RequirementsView
    away: AwayView
    assigned_at: str
    execution_status: ExecutionStatus
    session_id: str | None
    attempt: int


class AssignmentsAnswer(msgspec.Struct):
    """`GET /api/v1/nodes/{id}/assignments`, first what is to begin; what finds no room comes later."""

    assignments: list[AssignmentView]


class RunningBody(msgspec.Struct):
    """A task that the node runs, and in which of its sessions."""

    task_id: str
    session_id: str | None = None


class ReconcileRequest(msgspec.Struct):
    """`POST /api/v1/nodes/{id}/assignments/reconcile`: all that the node runs for the control plane."""

    running: list[RunningBody]


class VerdictView(msgspec.Struct):
    """What to do with a task: `keep` it running, `stop` it, `start` it."""

    task_id: str
    verdict: Verdict


class ReconcileAnswer(msgspec.Struct):
    """Verdicts for what runs and for what should; then what the node has, as far as there is room for it."""

    verdicts: list[VerdictView]
    assignments: list[AssignmentView]


class ResultRequest(msgspec.Struct):
    """`POST /api/v1/nodes/{id}/assignments/{task}/result`. `stopped`: by the task's away policy."""

    status: ExecutionStatus
    result: Any = None
    session_id: str | None = None
    proof_id: str | None = None


class TaskResultRequest(msgspec.Struct):
    """`POST /api/v1/tasks/{id}/result`: what came of a task at one of the caller's nodes. The time and the
    proof are checked for their form and not kept: no proof is trusted here."""

    node_id: str
    result: Any
    execution_time_ms: int | None = None
    proof_data: str | None = None
    public_inputs: str | None = None
    circuit_id: str | None = None


class TaskResultAnswer(msgspec.Struct):
    """The result is durable."""

    task_id: str
    status: TaskStatus
    node_id: str
    proof_verified: bool
    completed_at: str | None


class ProofRequest(msgspec.Struct):
    """`POST /api/v1/proofs/verify`; proof and inputs are base64."""

    task_id: str
    proof_data: str
    public_inputs: str
    circuit_id: str | None = None


class ConnectStart(msgspec.Struct):
    """`POST /api/v1/connect-sessions/start`."""

    task_id: str
    tunnel_protocol: TunnelProtocol = TunnelProtocol.MTLS


class ConnectInfo(msgspec.Struct):
    """One connect session."""

    session_id: str
    task_id: str
    node_id: str
    requester_id: str
    tunnel_protocol: TunnelProtocol
    egress_profile: EgressProfile
    destination_policy_id: str
    bandwidth_limit_mbps: float
    status: ConnectStatus
    created_at: str
    expires_at: str
    last_heartbeat_at: str | None
    ended_at: str | None
    end_reason: str | None
    internet_active: bool


class ConnectStarted(msgspec.Struct):
    """The session with its token, which is shown this once."""

    session: ConnectInfo
    session_token: str


class ClusterStatsAnswer(msgspec.Struct):
    """`GET /api/v1/cluster/stats`: sums over all owners; capacity is cores times GB."""

    total_nodes: int
    online_nodes: int
    healthy_nodes: int
    total_tasks: int
    completed_tasks: int
    failed_tasks: int
    avg_health_score: float
    total_compute_capacity: float


class ItemsRequest(msgspec.Struct):
    """`POST /api/v1/policies`: signed policies, tombstones, leases and revocations. An administrator's are
    for all nodes, an owner's for theirs; with `node_id` for that node alone, as leases must be."""

    items: list[PolicyItem]
    node_id: str | None = None


class DraftRequest(msgspec.Struct):
    """`POST /api/v1/policies/issue`: what is to be signed, as `ambientd policy sign` reads it."""

    policy: list[dict[str, Any]] = []
    tombstone: list[dict[str, Any]] = []
    node_id: str | None = None


class ItemRow(msgspec.Struct):
    """A signed item as it comes down. `revision` is the control plane's own, for `since_revision`."""

    revision: int
    kind: ItemKind
    subject: str
    body: str
    issuer: str
    signature: str


class ItemsAnswer(msgspec.Struct):
    """Items in the order of their revisions. Ask from `revision` next time; at once when there is `more`."""

    revision: int
    more: bool
    items: list[ItemRow]


class UserView(msgspec.Struct):
    """One account."""

    user_id: str
    username: str
    role: str
    email: str | None
    created_at: str
    last_login: str | None


class UsersAnswer(msgspec.Struct):
    """`GET /api/v1/admin/users`, by name; `next`, given as `after`, goes on."""

    users: list[UserView]
    next: str | None
