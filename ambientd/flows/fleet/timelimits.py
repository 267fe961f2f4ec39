"""Ends tasks that run for longer than they may and whose nodes say nothing of it."""

from datetime import datetime

from ambientd.core.fleet.timelimit import LATE_MAX, LatePart, LateParts, late_result
from ambientd.flows.fleet.work import WorkRules, note_result, offer_to_freed
from ambientd.ports.fleet.store import FleetStore, FleetTransaction
from ambientd.wire.fleet_enums import ExecutionStatus

STEP = 500
FAIL_STEP = 20  # tasks: their nodes are offered others, under the lock of all assignments
_RUNS = frozenset({ExecutionStatus.ASSIGNED, ExecutionStatus.IN_PROGRESS})


async def sweep_late(
    store: FleetStore, now: datetime, monotonic: float, seen: LateParts, rules: WorkRules
) -> list[LatePart]:
    """Fails parts that have been late for all of the grace while their node was online; which. A node that is
    away is left to the task's away policy. Raises as `FleetStore` does."""
    late: list[LatePart] = []
    after: tuple[str, str] | None = ("", "")
    while after is not None and len(late) < LATE_MAX:
        page = await store.read(lambda tx, after=after: tx.assignments.late(now, STEP, after))  # type: ignore[misc]
        late += page
        after = (page[-1].node_id, page[-1].task_id) if len(page) == STEP else None
    failed: list[LatePart] = []
    due = seen.look(late, monotonic)
    for first in range(0, len(due), FAIL_STEP):
        some = due[first : first + FAIL_STEP]
        failed += await store.write(lambda tx, some=some: _fail(tx, some, now, rules))  # type: ignore[misc]
    return failed


def _fail(tx: FleetTransaction, due: list[LatePart], now: datetime, rules: WorkRules) -> list[LatePart]:
    if not tx.try_sweep_lock("late"):
        return []
    tx.assignments.lock()
    failed = [part for part in due if _fail_one(tx, part, now)]
    offer_to_freed(tx, (part.node_id for part in failed), now, rules)
    return failed


def _fail_one(tx: FleetTransaction, part: LatePart, now: datetime) -> bool:
    """False when something was heard of it meanwhile."""
    mine = tx.assignments.get(part.task_id, part.node_id)
    if mine is None or mine.attempt != part.attempt or mine.execution_status not in _RUNS:
        return False
    result = late_result(part)
    return note_result(tx, part.task_id, part.node_id, ExecutionStatus.FAILED, now, result=result) is not None
