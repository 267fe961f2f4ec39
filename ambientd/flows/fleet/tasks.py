"""Tasks as people submit and clear them, and as nodes take, do and return them."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from ambientd.core.fleet.pages import fill, size_of
from ambientd.core.fleet.records import (
    AssignmentRecord,
    DeletedTask,
    NewTask,
    TaskQuery,
    TaskRecord,
    TaskWork,
)
from ambientd.core.fleet.tasktypes import CONNECT_ONLY
from ambientd.core.records import AuditEntry
from ambientd.core.rejection import reject
from ambientd.flows.fleet.leases import LeaseDesk
from ambientd.flows.fleet.reach import NO_NODE, Reach, enter, find
from ambientd.flows.fleet.work import (
    WorkRules,
    delete_task,
    note_result,
    offer_to_freed,
    reconcile_node,
    release,
    submit,
)
from ambientd.ports.clock import Clock
from ambientd.ports.errors import Rejected
from ambientd.ports.fleet.store import FleetStore, FleetTransaction
from ambientd.wire.fleet_enums import TASK_ENDED, DetachReason, ExecutionStatus, NodeStatus, Verdict

NO_TASK = Rejected("NOT_FOUND", "there is no such task")
# Of inputs and modules in one answer to a node, which reads no endless ones. What is left out comes with the
# next answer, when what is in this one runs.
GIVEN_MAX = 4 * 1024 * 1024
UNPROVED = reject(
    "VALIDATION_ERROR",
    "the task requires a proof, and no proof is trusted here: it can fail or be deleted, not be completed",
    ("proof_data", "unsupported", "cannot be verified here"),
)
# What a node may still be doing although it no longer has the task.
_RUNS_ON = frozenset({DetachReason.MOVED, DetachReason.STOPPED})
_ENDED = frozenset({ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.STOPPED})


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """An assignment with what its node needs to do it."""

    assignment: AssignmentRecord
    work: TaskWork


class Reconciled(msgspec.Struct, frozen=True, kw_only=True):
    """What a node has now, and what it is to do with each task."""

    given: tuple[Given, ...]
    verdicts: Mapping[str, Verdict]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How far a node is with a task, or what came of it."""

    status: ExecutionStatus
    result: Any = None
    session_id: str | None = None
    proof_id: str | None = None


class Tasks:
    """The use cases of tasks."""

    def __init__(
        self,
        *,
        store: FleetStore,
        clock: Clock,
        rules: WorkRules,
        desk: LeaseDesk,
        warn: Callable[..., object],
    ) -> None:
        """`warn(event, **facts)` tells of what went wrong without stopping anything."""
        self._store = store
        self._clock = clock
        self._rules = rules
        self._desk = desk
        self._warn = warn

    # --- of people

    async def submit(self, task: NewTask) -> TaskRecord | Rejected:
        """Adds a task that was found valid and gives it to the nodes that can take it, unless its creator has
        as many open ones as may be."""
        most = self._rules.max_open

        def work(tx: FleetTransaction) -> TaskRecord | Rejected:
            tx.assignments.lock()
            if tx.tasks.open_of(task.creator_id) >= most:
                return Rejected(
                    "QUOTA_EXCEEDED",
                    f"this account has {most} tasks that have not ended (server.max_open_tasks);"
                    " wait for some, or delete them",
                )
            return submit(tx, task, self._rules)

        return await self._store.write(work)

    async def get(
        self, task_id: str, *, creator_id: str | None = None, node: Reach | None = None
    ) -> TaskRecord | Rejected:
        """One task of its creator, or one that a node has or had."""

        def work(tx: FleetTransaction) -> TaskRecord | None:
            if node is None:
                return tx.tasks.get(task_id, creator_id=creator_id)
            if find(tx, node) is None or tx.assignments.get(task_id, node.node_id) is None:
                return None
            return tx.tasks.get(task_id)

        return await self._store.read(work) or NO_TASK

    async def page(
        self, query: TaskQuery, node: Reach | None = None
    ) -> tuple[list[TaskRecord], bool] | Rejected:
        """One page of tasks, newest first, and whether there may be more; with `node` those that it has or
        had, whoever submitted them."""

        def work(tx: FleetTransaction) -> tuple[list[TaskRecord], bool] | Rejected:
            if node is not None and find(tx, node) is None:
                return NO_NODE

            def fetch(last: TaskRecord | None, count: int) -> list[TaskRecord]:
                after = query.after if last is None else (last.created_at, last.task_id)
                return tx.tasks.page(msgspec.structs.replace(query, limit=count, after=after))

            return fill(fetch, query.limit, lambda task: size_of(task.result))

        return await self._store.read(work)

    async def delete(self, task_id: str, creator_id: str, by: str) -> DeletedTask | Rejected:
        """Clears a task; every node that has or had it keeps an event. An event that cannot be written is
        warned of and stops nothing (R1.27)."""
        at = self._clock.now()

        def work(tx: FleetTransaction) -> DeletedTask | None:
            tx.assignments.lock()
            sessions = tx.sessions.active_of_task(task_id)
            deleted = delete_task(tx, task_id, creator_id, at)
            if deleted is None:
                return None
            self._desk.revoke(tx, sessions, at)
            offer_to_freed(tx, deleted.detached, at, self._rules)
            tx.audit.append(AuditEntry(kind="task_deleted", at=at, actor=by, subject=task_id))
            return deleted

        deleted = await self._store.write(work)
        if deleted is None:
            return NO_TASK
        if deleted.failure is not None:
            self._warn("fleet.history_failed", task=task_id, reason=deleted.failure)
        return deleted

    # --- of nodes

    async def given(self, reach: Reach) -> list[Given] | Rejected:
        """What a node has, with what it needs to do it."""

        def work(tx: FleetTransaction) -> list[Given] | Rejected:
            return _given(tx, reach.node_id) if find(tx, reach) else NO_NODE

        return await self._store.read(work)

    async def reconcile(self, reach: Reach, running: Mapping[str, str | None]) -> Reconciled | Rejected:
        """Hears what a node runs (sessions by task), after it was away or at any time: healthy work that
        nobody else has done goes on, what is done or gone is stopped."""
        at = self._clock.now()

        def work(tx: FleetTransaction) -> Reconciled | Rejected:
            tx.assignments.lock()
            node = enter(tx, reach)
            if isinstance(node, Rejected):
                return node
            if node.status is NodeStatus.REJECTED:
                return Reconciled(given=(), verdicts=dict.fromkeys(running, Verdict.STOP))
            found = reconcile_node(tx, reach.node_id, running, at, self._rules)
            for task_id, session_id in running.items():
                if found.verdicts.get(task_id) is Verdict.KEEP:
                    tx.assignments.note_execution(
                        task_id, reach.node_id, ExecutionStatus.IN_PROGRESS, at, session_id=session_id
                    )
            given = _given(tx, reach.node_id, frozenset(running))
            return Reconciled(given=tuple(given), verdicts=found.verdicts)

        return await self._store.write(work)

    async def result(self, reach: Reach, task_id: str, said: Result) -> TaskRecord | Rejected:
        """A node's word about its part of a task. The same word again changes nothing."""
        at = self._clock.now()

        def work(tx: FleetTransaction) -> TaskRecord | Rejected:
            tx.assignments.lock()
            node = enter(tx, reach)
            if isinstance(node, Rejected):
                return node
            task, mine = tx.tasks.get(task_id), tx.assignments.get(task_id, reach.node_id)
            if task is None or mine is None:
                return NO_TASK
            return self._take(tx, task, mine, said, at, rejected=node.status is NodeStatus.REJECTED)

        return await self._store.write(work)

    async def complete(self, reach: Reach, task_id: str, result: Any) -> TaskRecord | Rejected:
        """A node's result as its owner hands it in by the task's id; again, it changes nothing.

        What a stranger asks for is not there: only the task's creator hears that their task has other nodes.
        """
        at = self._clock.now()
        said = Result(status=ExecutionStatus.COMPLETED, result=result)

        def work(tx: FleetTransaction) -> TaskRecord | Rejected:
            tx.assignments.lock()
            node = enter(tx, reach)
            if isinstance(node, Rejected):
                return node
            task, mine = tx.tasks.get(task_id), tx.assignments.get(task_id, reach.node_id)
            if task is None or (mine is None and task.creator_id != reach.owner_id):
                return NO_TASK
            if task.task_type == CONNECT_ONLY:
                return _unfit("task_id", f"a {CONNECT_ONLY} task ends with its session and has no result")
            if mine is None:
                return _unfit("node_id", "the task is not assigned to this node")
            found = self._take(tx, task, mine, said, at, rejected=node.status is NodeStatus.REJECTED)
            if isinstance(found, Rejected) and found.code == "CONFLICT":
                return _unfit("task_id", found.message)
            return found

        return await self._store.write(work)

    def _take(
        self,
        tx: FleetTransaction,
        task: TaskRecord,
        mine: AssignmentRecord,
        said: Result,
        at: datetime,
        *,
        rejected: bool,
    ) -> TaskRecord | Rejected:
        """Writes what a node says of its part, if it may still say so."""
        task_id, node_id = task.task_id, mine.node_id
        if said.status in _ENDED and mine.execution_status is said.status:
            return task  # its answer was lost
        if task.status in TASK_ENDED:
            return Rejected("CONFLICT", f"the task has already {task.status.value}")
        if rejected:
            return Rejected("CONFLICT", "its owner has rejected this node")
        if mine.disconnected_at is not None and mine.reason not in _RUNS_ON:
            return Rejected("CONFLICT", "the task was taken from this node")
        if said.status is ExecutionStatus.COMPLETED and task.requirements.require_proof:
            return UNPROVED
        if mine.disconnected_at is not None:
            tx.assignments.reattach(task_id, node_id, at)
        self._note(tx, task_id, node_id, said, at)
        return tx.tasks.get(task_id) or NO_TASK

    def _note(self, tx: FleetTransaction, task_id: str, node_id: str, said: Result, at: datetime) -> None:
        tx.assignments.note_execution(task_id, node_id, said.status, at, session_id=said.session_id)
        match said.status:
            case ExecutionStatus.STOPPED:  # by its own rule: another node may do it
                release(tx, task_id, (node_id,), DetachReason.STOPPED, at, self._rules)
            case ExecutionStatus.COMPLETED | ExecutionStatus.FAILED:
                self._desk.revoke(tx, tx.sessions.active_of_task(task_id), at)
                before = tx.tasks.get(task_id)
                note_result(tx, task_id, node_id, said.status, at, result=said.result, proof_id=said.proof_id)
                others = () if before is None else before.assigned_nodes
                offer_to_freed(tx, (node_id, *others), at, self._rules)
            case _:
                pass


def _unfit(field: str, message: str) -> Rejected:
    return reject("VALIDATION_ERROR", message, (field, "state", message))


def _given(tx: FleetTransaction, node_id: str, running: frozenset[str] = frozenset()) -> list[Given]:
    """As much as one answer may hold, oldest first, at least one; what runs has its inputs and comes last."""
    found: list[Given] = []
    room = GIVEN_MAX
    for assignment in sorted(tx.assignments.of_node(node_id), key=lambda one: _runs(one, running)):
        if assignment.task_status in TASK_ENDED:
            continue
        room -= tx.tasks.work_size(assignment.task_id)
        if found and room < 0:
            break
        work = tx.tasks.work(assignment.task_id)
        if work is not None:
            found.append(Given(assignment=assignment, work=work))
    return found


def _runs(one: AssignmentRecord, running: frozenset[str]) -> bool:
    return one.task_id in running or one.execution_status is ExecutionStatus.IN_PROGRESS
