"""A node comes back and says what it runs: what goes on, what stops, who gives way.

The rule: work that is healthy at the node it was first given to goes on; a replacement that has not begun it
gives way; one that has begun it keeps it, and the older copy stops.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from ambientd.core.fleet.records import AssignmentRecord, TaskRecord
from ambientd.wire.fleet_enums import TASK_ENDED, DetachReason, ExecutionStatus


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A task that a node says it runs."""

    task_id: str
    session_id: str | None = None


class Verdict(StrEnum):
    """What the node is to do with it."""

    KEEP = "keep"
    STOP = "stop"


class Decision(NamedTuple):
    """`take_back`: the node had lost the task and has it again; `surplus`: nodes that give way."""

    verdict: Verdict
    take_back: bool = False
    surplus: tuple[str, ...] = ()


# For these the node itself was meant, not its being away.
_FOR_GOOD = frozenset(
    {
        DetachReason.TASK_ENDED,
        DetachReason.SESSION_ENDED,
        DetachReason.STOPPED,
        DetachReason.SURPLUS,
        DetachReason.NODE_DELETED,
        DetachReason.NODE_REJECTED,
    }
)
_STOP = Decision(Verdict.STOP)


def reconcile(
    task: TaskRecord | None, mine: AssignmentRecord | None, everybody: Sequence[AssignmentRecord]
) -> Decision:
    """What becomes of a task that a node runs. `everybody`: all assignments of the task."""
    if task is None or mine is None or task.status in TASK_ENDED:
        return _STOP
    if mine.disconnected_at is None:
        return Decision(Verdict.KEEP)
    if mine.reason in _FOR_GOOD:
        return _STOP
    current = [one for one in everybody if one.disconnected_at is None]
    missing = task.requirements.min_nodes - len(current)
    if missing > 0:
        return Decision(Verdict.KEEP, take_back=True)
    idle = [one for one in current if one.execution_status is ExecutionStatus.ASSIGNED]
    if not idle:
        return _STOP
    latest = max(idle, key=lambda one: (one.assigned_at, one.node_id))
    return Decision(Verdict.KEEP, take_back=True, surplus=(latest.node_id,))
