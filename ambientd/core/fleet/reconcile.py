"""A node is back and says what it runs: what it shall keep, stop, start. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ambientd.core.fleet.records import AssignmentRecord
from ambientd.wire.fleet_enums import TASK_ENDED, DetachReason, ExecutionStatus, Verdict

_RUNS = frozenset({ExecutionStatus.ASSIGNED, ExecutionStatus.IN_PROGRESS})


class Reconciled(NamedTuple):
    """`verdicts` by task. `back`: tasks that the node gets back, since it still runs them. `lost`: tasks that
    it had begun and no longer runs, which it gets anew."""

    verdicts: Mapping[str, Verdict]
    back: tuple[str, ...]
    lost: tuple[str, ...]


def reconcile(
    running: Iterable[str], assignments: Mapping[str, AssignmentRecord], held_elsewhere: frozenset[str]
) -> Reconciled:
    """Compares what a node runs with its assignments, current and former.

    `held_elsewhere`: tasks that another node has now. Work that runs is kept as long as nobody has completed
    it, but for work whose task must never run twice and that another node has.
    """
    listed = dict.fromkeys(running)
    verdicts, back, lost = {}, [], []
    for task_id in listed:
        assignment = assignments.get(task_id)
        verdicts[task_id] = verdict = _for_running(assignment, task_id in held_elsewhere)
        former = assignment is not None and assignment.disconnected_at is not None
        if former and verdict is Verdict.KEEP:
            back.append(task_id)
    for task_id, assignment in assignments.items():
        if task_id in listed or assignment.disconnected_at is not None:
            continue
        if assignment.task_status in TASK_ENDED or assignment.execution_status not in _RUNS:
            continue
        verdicts[task_id] = Verdict.START
        if assignment.execution_status is ExecutionStatus.IN_PROGRESS:
            lost.append(task_id)
    return Reconciled(verdicts, tuple(back), tuple(lost))


def _for_running(assignment: AssignmentRecord | None, held_elsewhere: bool) -> Verdict:
    if assignment is None or assignment.task_status in TASK_ENDED:
        return Verdict.STOP
    if assignment.disconnected_at is None or assignment.reason is DetachReason.MOVED:
        return Verdict.KEEP
    if assignment.reason is DetachReason.STOPPED and not held_elsewhere:
        return Verdict.KEEP
    return Verdict.STOP


def surplus(assignments: Sequence[AssignmentRecord], min_nodes: int) -> list[str]:
    """Nodes that need not begin a task since it has more than it needs: those that have not begun it, the
    latest first. `assignments` are the task's current ones."""
    spare = len(assignments) - min_nodes
    idle = [a for a in assignments if a.execution_status is ExecutionStatus.ASSIGNED]
    idle.sort(key=lambda a: (a.assigned_at, a.node_id), reverse=True)
    return [a.node_id for a in idle[: max(0, spare)]]
