"""The words of the control plane. Unlisted words are refused, never guessed."""

from enum import StrEnum

from ambientd.wire import fleet_states

NodeStatus = fleet_states.NodeStatus
TaskStatus = fleet_states.TaskStatus


class Role(StrEnum):
    """What a user account may do."""

    USER = "user"
    ADMIN = "admin"


class NodeType(StrEnum):
    """What a node is for; `any` takes work of every type."""

    COMPUTE = "compute"
    GATEWAY = "gateway"
    STORAGE = "storage"
    VALIDATOR = "validator"
    OPEN_INTERNET = "open_internet"
    FEEN_RESONATOR = "feen_resonator"
    ANY = "any"


TASK_ENDED = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED})


class ReportRefusal(StrEnum):
    """Why a report was not taken: the owner has no such node; its request's number was taken before; the
    credential is revoked, or another node's."""

    NO_NODE = "no_node"
    REPLAYED = "replayed"
    REVOKED = "revoked"


class ExecutionStatus(StrEnum):
    """How far a node is with a task that was assigned to it."""

    ASSIGNED = "assigned"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"


class AwayPolicy(StrEnum):
    """What becomes of work when its node has been away for the task's time.

    `wait`: nothing. `move`: it is assigned elsewhere, and may run twice for a while. `stop`: the node stops
    it by itself after that time, and only then it is assigned elsewhere, so that it never runs twice.
    """

    WAIT = "wait"
    MOVE = "move"
    STOP = "stop"


class DetachReason(StrEnum):
    """Why a node no longer has a task."""

    TASK_ENDED = "task_ended"
    SESSION_ENDED = "session_ended"
    MOVED = "moved"
    STOPPED = "stopped"
    SURPLUS = "surplus"
    NODE_DELETED = "node_deleted"
    NODE_REJECTED = "node_rejected"


class Verdict(StrEnum):
    """What a node that is back shall do with a task: go on, end it, or begin it (anew)."""

    KEEP = "keep"
    STOP = "stop"
    START = "start"


class NodeEventKind(StrEnum):
    """Rows of a node's history that are events and no reports."""

    TASK_CLEARED = "task_cleared"
    TASK_CONNECTED = "task_connected"


class ConnectStatus(StrEnum):
    """Life of a connect session."""

    ACTIVE = "active"
    ENDED = "ended"
    EXPIRED = "expired"


class TunnelProtocol(StrEnum):
    """How the client of a connect session reaches its node."""

    MTLS = "mtls"
    WIREGUARD = "wireguard"
    QUIC = "quic"


class EgressProfile(StrEnum):
    """What a connect session may reach."""

    ALLOWLIST_DOMAINS = "allowlist_domains"
    PROTOCOL_LIMITED = "protocol_limited"
    METERED_GENERAL_EGRESS = "metered_general_egress"


class ItemKind(StrEnum):
    """Signed items that come down from the control plane."""

    POLICY = "policy"
    TOMBSTONE = "tombstone"
    LEASE = "lease"
    REVOCATION = "revocation"
    ROSTER = "roster"


class Stream(StrEnum):
    """Ordered streams that a node pushes; each has its own sequence numbers."""

    REPORTS = "reports"
    AUDIT = "audit"
    LEDGER = "ledger"
    DELTA_V = "delta_v"
