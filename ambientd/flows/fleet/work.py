"""Work of the cluster: tasks come in, find their nodes, and end; whatever frees a node offers it what waits.

Everything that changes who has what runs under `assignments.lock`: no task is given out twice, also not by
several processes over one database.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from ambientd.core.fleet.assign import choose, status_for
from ambientd.core.fleet.reconcile import Running, Verdict, reconcile
from ambientd.core.fleet.records import (
    AssignmentRecord,
    DeletedTask,
    NewTask,
    NodeEvent,
    TaskQuery,
    TaskRecord,
    TaskWork,
)
from ambientd.core.fleet.tasktypes import TASK_TYPES
from ambientd.ports.clock import Clock
from ambientd.ports.errors import Rejected
from ambientd.ports.fleet.store import FleetStore, FleetTransaction
from ambientd.wire.fleet_enums import (
    TASK_ENDED,
    ConnectStatus,
    DetachReason,
    ExecutionStatus,
    NodeEventKind,
    TaskStatus,
)

OFFERED_MAX = 200  # waiting tasks looked at when a node becomes free; the sweep looks at the rest
CANDIDATES_MAX = 2000  # nodes looked at for one task
NO_TASK = Rejected("NOT_FOUND", "there is no such task")
_ENDS = {ExecutionStatus.COMPLETED: TaskStatus.COMPLETED, ExecutionStatus.FAILED: TaskStatus.FAILED}


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """An assignment with what its node needs to do it."""

    assignment: AssignmentRecord
    work: TaskWork


class Reconciled(msgspec.Struct, frozen=True, kw_only=True):
    """What a node has now, and what it is to do with each task that it said it runs."""

    given: tuple[Given, ...]
    verdicts: tuple[tuple[str, Verdict], ...]


class Work:
    """The use cases of tasks."""

    def __init__(self, *, store: FleetStore, clock: Clock, warn: Callable[..., object]) -> None:
        """`warn(event, **facts)` tells of what went wrong without stopping anything."""
        self._store = store
        self._clock = clock
        self._warn = warn

    # --- of people

    async def submit(self, task: NewTask) -> TaskRecord:
        """Adds a task that was found valid and gives it to the nodes that can take it."""

        def work(tx: FleetTransaction) -> TaskRecord:
            tx.assignments.lock()
            tx.tasks.add(task)
            place(tx, _known(tx, task.task_id), task.at)
            return _known(tx, task.task_id)

        return await self._store.write(work)

    async def get(self, task_id: str, creator_id: str) -> TaskRecord | Rejected:
        """One task of its creator."""
        found = await self._store.read(lambda tx: tx.tasks.get(task_id, creator_id=creator_id))
        return found or NO_TASK

    async def page(self, query: TaskQuery) -> list[TaskRecord]:
        """One page of tasks, newest first."""
        return await self._store.read(lambda tx: tx.tasks.page(query))

    async def delete(self, task_id: str, creator_id: str) -> DeletedTask | Rejected:
        """Clears a task; every node that has or had it keeps an event. An event that cannot be written is
        warned of and stops nothing (R1.27)."""
        at = self._clock.now()

        def work(tx: FleetTransaction) -> DeletedTask | None:
            if tx.tasks.get(task_id, creator_id=creator_id) is None:
                return None
            tx.assignments.lock()
            end_sessions(tx, task_id, at, "the task was deleted")
            deleted = tx.tasks.delete(task_id, at)
            offer(tx, at)
            return deleted

        deleted = await self._store.write(work)
        if deleted is None:
            return NO_TASK
        if deleted.failure is not None:
            self._warn("fleet.history_failed", task=task_id, reason=deleted.failure)
        return deleted

    # --- of nodes

    async def given(self, node_id: str) -> list[Given]:
        """What a node has, with what it needs to do it."""
        return await self._store.read(lambda tx: _given(tx, node_id))

    async def reconcile(self, node_id: str, running: Sequence[Running]) -> Reconciled:
        """Hears what a node runs, after it was away or at any time: healthy work that nobody else has done
        goes on, also when it was meanwhile given to another node; what is done or gone is stopped.
        """
        at = self._clock.now()

        def work(tx: FleetTransaction) -> Reconciled:
            tx.assignments.lock()
            verdicts = [(one.task_id, self._settle(tx, node_id, one, at)) for one in running]
            return Reconciled(given=tuple(_given(tx, node_id)), verdicts=tuple(verdicts))

        return await self._store.write(work)

    def _settle(self, tx: FleetTransaction, node_id: str, one: Running, at: datetime) -> Verdict:
        task, mine = tx.tasks.get(one.task_id), tx.assignments.get(one.task_id, node_id)
        decided = reconcile(task, mine, tx.assignments.of_task(one.task_id) if task else ())
        if decided.verdict is Verdict.STOP:
            return decided.verdict
        if decided.take_back:
            tx.assignments.reattach(one.task_id, node_id, at)
        if decided.surplus:
            tx.assignments.detach(one.task_id, at, DetachReason.SURPLUS, nodes=decided.surplus)
        tx.assignments.note_execution(
            one.task_id, node_id, ExecutionStatus.IN_PROGRESS, at, session_id=one.session_id
        )
        if task is not None and decided.take_back:
            place(tx, _known(tx, one.task_id), at)
        return decided.verdict

    async def finish(
        self, node_id: str, task_id: str, execution: ExecutionStatus, *, result: Any, session_id: str | None
    ) -> TaskRecord | Rejected:
        """A node's result. The first one ends the task; the same node's again changes nothing."""
        at = self._clock.now()

        def work(tx: FleetTransaction) -> TaskRecord | Rejected:
            tx.assignments.lock()
            task, mine = tx.tasks.get(task_id), tx.assignments.get(task_id, node_id)
            if task is None or mine is None:
                return NO_TASK
            if task.status in TASK_ENDED:
                same = mine.execution_status is execution
                return task if same else Rejected("CONFLICT", f"the task has already {task.status.value}")
            if mine.disconnected_at is not None and not tx.assignments.reattach(task_id, node_id, at):
                return NO_TASK
            tx.assignments.note_execution(task_id, node_id, execution, at, session_id=session_id)
            if execution not in _ENDS:  # stopped by its own rule: another node may do it
                tx.assignments.detach(task_id, at, DetachReason.STOPPED, nodes=[node_id])
                place(tx, _known(tx, task_id), at)
                return _known(tx, task_id)
            tx.tasks.finish(task_id, _ENDS[execution], at, result=result)
            tx.assignments.detach(task_id, at, DetachReason.TASK_ENDED)
            end_sessions(tx, task_id, at, "the task has ended")
            offer(tx, at)
            return _known(tx, task_id)

        return await self._store.write(work)

    async def activity(self, node_id: str, owner_id: str, limit: int) -> list[NodeEvent] | Rejected:
        """Events of an owner's node, newest first; whose node it is is looked at before any of them."""

        def work(tx: FleetTransaction) -> list[NodeEvent] | None:
            if tx.nodes.get(node_id, owner_id=owner_id) is None:
                return None
            return tx.history.activity(node_id, limit)

        found = await self._store.read(work)
        return Rejected("NOT_FOUND", "there is no such node") if found is None else found


def _known(tx: FleetTransaction, task_id: str) -> TaskRecord:
    task = tx.tasks.get(task_id)
    if task is None:
        raise ValueError(f"task {task_id} is gone inside its own transaction")
    return task


def _given(tx: FleetTransaction, node_id: str) -> list[Given]:
    found = []
    for assignment in tx.assignments.of_node(node_id):
        work = tx.tasks.work(assignment.task_id)
        if work is not None and assignment.task_status not in TASK_ENDED:
            found.append(Given(assignment=assignment, work=work))
    return found


def place(tx: FleetTransaction, task: TaskRecord, at: datetime) -> list[str]:
    """Gives a task to the nodes it lacks and sets its status; who got it. Under the lock."""
    kind = TASK_TYPES[task.task_type]
    attached = len(task.assigned_nodes)
    chosen: list[str] = []
    if attached < task.requirements.min_nodes:
        candidates = tx.assignments.candidates(kind.node_type, task.task_id, CANDIDATES_MAX)
        chosen = choose(kind, task.requirements, attached=attached, candidates=candidates)
    for node_id in chosen:
        tx.assignments.attach(task.task_id, node_id, at)
    status = status_for(task.requirements, attached + len(chosen))
    if status is not task.status:
        tx.tasks.set_status(task.task_id, status, at)
    return chosen


def offer(tx: FleetTransaction, at: datetime, *, limit: int = OFFERED_MAX) -> int:
    """Offers waiting tasks to nodes that have become free; how many were attached. Under the lock."""
    return sum(len(place(tx, task, at)) for task in tx.tasks.pending(limit))


def take_away(
    tx: FleetTransaction,
    task_ids: Sequence[str],
    node_id: str,
    at: datetime,
    reason: DetachReason,
) -> None:
    """Takes tasks from a node and gives them to others, if any can take them. Under the lock."""
    for task_id in task_ids:
        tx.assignments.detach(task_id, at, reason, nodes=[node_id])
        task = tx.tasks.get(task_id)
        if task is not None and task.status not in TASK_ENDED:
            place(tx, task, at)


def end_sessions(tx: FleetTransaction, task_id: str, at: datetime, reason: str) -> None:
    """Ends the connect sessions of a task."""
    for session in tx.sessions.active_of_task(task_id):
        tx.sessions.end(session.requester_id, session.session_id, ConnectStatus.ENDED, at, reason)


def connected_event(node_id: str, task: TaskRecord, session_id: str, at: datetime) -> NodeEvent:
    """A connect session began at a node."""
    return NodeEvent(
        node_id=node_id,
        kind=NodeEventKind.TASK_CONNECTED,
        task_id=task.task_id,
        task_type=task.task_type,
        at=at,
        session_id=session_id,
    )
