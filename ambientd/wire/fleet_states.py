"""How nodes and tasks of a control plane stand; what a node knows of it that has joined none."""

from enum import StrEnum


class NodeStatus(StrEnum):
    """Where a node stands. A report makes any but a rejected node `online` again."""

    ONLINE = "online"
    UNKNOWN = "unknown"
    OFFLINE = "offline"
    REJECTED = "rejected"


class TaskStatus(StrEnum):
    """Life of a task: `pending` while nodes are missing, `running`, then one of the last two for good."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
