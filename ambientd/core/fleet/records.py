"""The control plane's values about accounts, nodes and work: what its flows write and its store keeps.

Instants are aware UTC datetimes, cut to milliseconds when stored. `*_hash` of a token is the keyed hash that
is stored instead of it.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from ambientd.wire.enums import Connectivity
from ambientd.wire.fleet_enums import (
    AwayPolicy,
    ConnectStatus,
    DetachReason,
    EgressProfile,
    ExecutionStatus,
    NodeEventKind,
    NodeStatus,
    NodeType,
    ReportRefusal,
    Role,
    TaskStatus,
    TunnelProtocol,
)

DEFAULT_REPORT_INTERVAL_MS = 60_000
DEFAULT_HEALTH = 100.0


class UserRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An account. The password's hash is apart (`UserRepository.password_hash`): no view can show it."""

    user_id: str
    username: str
    role: Role = Role.USER
    email: str | None = None
    created_at: datetime
    last_login: datetime | None = None


class ApiKeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An API key without its secret. `prefix`: its first characters, for people."""

    key_id: str
    user_id: str
    name: str
    prefix: str
    scopes: tuple[str, ...] = ()
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None


class AccessTokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A short-lived token; gone with its family."""

    token_hash: bytes
    user_id: str
    family_id: str
    issued_at: datetime
    expires_at: datetime


class RefreshTokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A link of a chain of one-use tokens (a family). `successor_hash`: what was issued for it last."""

    token_hash: bytes
    family_id: str
    user_id: str
    parent_hash: bytes | None = None
    issued_at: datetime
    expires_at: datetime
    used_at: datetime | None = None
    successor_hash: bytes | None = None
    revoked_at: datetime | None = None
    revoked_reason: str | None = None


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who a token or key stands for. `expires_at`, `revoked_at` and `scopes` are the token's."""

    user_id: str
    username: str
    role: Role
    expires_at: datetime | None
    revoked_at: datetime | None = None
    scopes: tuple[str, ...] | None = None  # None: not limited


class JoinTokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a node shows once to be enrolled for an owner. With `node_id` it is for that node alone."""

    token_id: str
    token_hash: bytes
    owner_id: str
    created_at: datetime
    expires_at: datetime
    uses_left: int
    node_id: str | None = None
    revoked_at: datetime | None = None


class DeviceCredential(msgspec.Struct, frozen=True, kw_only=True):
    """What a joined node signs in with. `public_key`: 32 bytes (Ed25519). `last_seq`: of its requests."""

    credential_id: str
    node_id: str
    token_hash: bytes
    public_key: bytes
    created_at: datetime
    rotated_from: str | None = None
    revoked_at: datetime | None = None
    last_seq: int = 0


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A device credential with what a request needs to know of its node."""

    credential: DeviceCredential
    owner_id: str
    node_status: NodeStatus
    node_deleted: bool


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a node can do. `bandwidth_mbps` in Mbit/s, `memory_gb` in GB."""

    bandwidth_mbps: float
    cpu_cores: int
    memory_gb: float
    gpu_available: bool = False


class NewNode(msgspec.Struct, frozen=True, kw_only=True):
    """A registration that was found valid."""

    node_id: str
    owner_id: str
    region: str
    node_type: NodeType
    capabilities: Capabilities
    observability_port: int | None = None
    report_interval_ms: int = DEFAULT_REPORT_INTERVAL_MS


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One node. `incarnation` grows when it is enrolled with another key: its streams begin anew then.

    `state`, `delta_v`, `audit_head_*` and `report_seq` are what it last said of itself.
    """

    node_id: str
    owner_id: str
    region: str
    node_type: NodeType
    capabilities: Capabilities
    observability_port: int | None = None
    health_score: float = DEFAULT_HEALTH
    status: NodeStatus = NodeStatus.ONLINE
    registered_at: datetime
    last_seen: datetime
    last_heartbeat: datetime | None = None
    updated_at: datetime
    deleted_at: datetime | None = None
    report_interval_ms: int = DEFAULT_REPORT_INTERVAL_MS
    incarnation: int = 1
    state: Connectivity | None = None
    delta_v: float | None = None
    audit_head_seq: int | None = None
    audit_head_hash: str | None = None
    report_seq: int = 0


class NodeQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which nodes to list, newest registration first. Deleted ones are in no list.

    `after`: (registered_at, node_id) of the last one seen.
    """

    owner_id: str | None = None
    status: NodeStatus | None = None
    node_type: NodeType | None = None
    include_rejected: bool = False
    limit: int = 100
    after: tuple[datetime, str] | None = None


class NodeStats(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over all nodes that are not deleted. `capacity` is cores times GB."""

    total: int = 0
    online: int = 0
    healthy: int = 0
    average_health: float = 0.0
    capacity: float = 0.0


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """One report (heartbeat) that was found valid. Of what is None the node said nothing.

    `seq` numbers the reports of a node's stream: a number that was taken before changes nothing. `sampled_at`
    is the node's own time of a report that waited. Percentages are 0 to 100. `credential_id`, `request_seq`
    are those of the signed request that brought it: the number is taken in the same transaction, and all
    reports of one request bear the same.
    """

    node_id: str
    owner_id: str
    at: datetime
    seq: int | None = None
    sampled_at: datetime | None = None
    health_score: float | None = None
    cpu_usage: float | None = None
    memory_usage: float | None = None
    disk_usage: float | None = None
    network_latency_ms: int | None = None
    state: Connectivity | None = None
    delta_v: float | None = None
    audit_head_seq: int | None = None
    audit_head_hash: str | None = None
    report_interval_ms: int | None = None
    metadata: Mapping[str, Any] | None = None
    credential_id: str | None = None
    request_seq: int | None = None


class AssignedTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task that a node has now, as the answer to its report tells it."""

    task_id: str
    task_type: str
    execution_status: ExecutionStatus


class ReportOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one report. When it was `refused` nothing of it was written.

    `before` is the status that the report found. `duplicate`: its number had been taken before, so that there
    is no second history row. `last_request_seq` tells of a refusal as replayed. `known_report_seq` is the
    highest number that was known before.
    """

    node_id: str
    refused: ReportRefusal | None = None
    last_request_seq: int | None = None
    status: NodeStatus = NodeStatus.ONLINE
    before: NodeStatus = NodeStatus.ONLINE
    health_score: float = DEFAULT_HEALTH
    duplicate: bool = False
    assigned: tuple[AssignedTask, ...] = ()
    known_report_seq: int = 0


class QuietNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node that has not reported for a while."""

    node_id: str
    status: NodeStatus
    last_seen: datetime
    report_interval_ms: int


class StatusChange(msgspec.Struct, frozen=True, kw_only=True):
    """Takes hold only if the node still stands as it was seen."""

    node_id: str
    before: NodeStatus
    after: NodeStatus
    last_seen: datetime


class HistoryRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a node's history. `status` is the node's, or the kind of an event."""

    heartbeat_id: int
    node_id: str
    recorded_at: datetime
    sampled_at: datetime | None
    health_score: float
    cpu_usage: float | None
    memory_usage: float | None
    disk_usage: float | None
    network_latency_ms: int | None
    active_tasks: int
    status: str
    report_seq: int | None
    metadata: Mapping[str, Any] | None


class NodeEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to work of a node; outlives the task."""

    node_id: str
    kind: NodeEventKind
    task_id: str
    task_type: str
    at: datetime
    session_id: str | None = None


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """One step of retention: rows removed, and where the next step goes on (None: nothing is left)."""

    removed: int
    after: int | None


class Requirements(msgspec.Struct, frozen=True, kw_only=True):
    """What a task asks of its nodes; `max_execution_time_sec` in seconds."""

    min_nodes: int = 1
    max_execution_time_sec: int = 3600
    require_gpu: bool = False
    require_proof: bool = False


class Away(msgspec.Struct, frozen=True, kw_only=True):
    """A task's away policy; `after_ms` has no meaning for `wait`."""

    policy: AwayPolicy = AwayPolicy.WAIT
    after_ms: int | None = None


class NewTask(msgspec.Struct, frozen=True, kw_only=True):
    """A submission that was found valid. `task_id` is a UUID in its usual spelling."""

    task_id: str
    creator_id: str
    task_type: str
    inputs: Any
    wasm_module: str | None = None
    requirements: Requirements = Requirements()
    away: Away = Away()
    at: datetime


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One task without its inputs. Nodes are in the order in which they came or left."""

    task_id: str
    creator_id: str | None
    task_type: str
    status: TaskStatus
    requirements: Requirements
    away: Away
    result: Any = None
    proof_id: str | None = None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None = None
    assigned_nodes: tuple[str, ...] = ()
    former_assigned_nodes: tuple[str, ...] = ()


class TaskWork(msgspec.Struct, frozen=True, kw_only=True):
    """What a node needs to do a task."""

    inputs: Any
    wasm_module: str | None


class TaskQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks to list, newest first. `node_id`: that a node has or had.

    `after`: (created_at, task_id) of the last one seen.
    """

    creator_id: str | None = None
    node_id: str | None = None
    status: TaskStatus | None = None
    task_type: str | None = None
    limit: int = 100
    after: tuple[datetime, str] | None = None


class TaskStats(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks of all users."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class DeletedTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task that is gone. `events`: rows written for nodes that have or had it; `failure` says why not."""

    task_id: str
    task_type: str
    detached: tuple[str, ...]
    events: int
    failure: str | None = None


class AssignmentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A task and a node that has it, or had it when `disconnected_at` is set. `attempt` counts them."""

    task_id: str
    node_id: str
    task_type: str
    task_status: TaskStatus
    requirements: Requirements
    away: Away
    assigned_at: datetime
    disconnected_at: datetime | None = None
    reason: DetachReason | None = None
    execution_status: ExecutionStatus = ExecutionStatus.ASSIGNED
    execution_started_at: datetime | None = None
    execution_completed_at: datetime | None = None
    session_id: str | None = None
    attempt: int = 1


class AwayAssignment(msgspec.Struct, frozen=True, kw_only=True):
    """An assignment whose node is not online and whose task does not wait."""

    task_id: str
    node_id: str
    away: Away
    node_status: NodeStatus
    last_seen: datetime


class ConnectSession(msgspec.Struct, frozen=True, kw_only=True):
    """A relay session. `session_id` is the requester's choice and unique among theirs alone."""

    session_id: str
    requester_id: str
    task_id: str
    node_id: str
    token_hash: bytes
    tunnel_protocol: TunnelProtocol = TunnelProtocol.MTLS
    egress_profile: EgressProfile
    destination_policy_id: str
    bandwidth_limit_mbps: float
    status: ConnectStatus = ConnectStatus.ACTIVE
    created_at: datetime
    updated_at: datetime
    expires_at: datetime
    last_heartbeat_at: datetime | None = None
    ended_at: datetime | None = None
    end_reason: str | None = None
