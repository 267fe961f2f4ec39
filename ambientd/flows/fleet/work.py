"""Work and the nodes that do it: submitting, assigning, ending, clearing.

Each function is part of one transaction (`FleetStore.write`), so that what it decides and what it writes see
the same state, and events are written with what they tell of. Functions that change assignments take the
assignments' lock first: of several control-plane processes one decides at a time.
"""

import itertools
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from ambientd.core.fleet.assign import (
    MAX_ACTIVE_PER_NODE,
    OWNER_SHARE,
    Candidate,
    Room,
    can_take,
    choose,
    is_able,
    room_of,
    status_for,
)
from ambientd.core.fleet.reconcile import Reconciled, reconcile, surplus
from ambientd.core.fleet.records import (
    DeletedTask,
    NewNode,
    NewTask,
    NodeRecord,
    TaskRecord,
)
from ambientd.core.fleet.tasktypes import TASK_TYPES, TaskType
from ambientd.ports.fleet.store import FleetTransaction
from ambientd.wire.fleet_enums import (
    TASK_ENDED,
    ConnectStatus,
    DetachReason,
    ExecutionStatus,
    TaskStatus,
)

CANDIDATES_PAGE = 256  # looked at in one query; the search goes on until enough are found
PENDING_LOOKED_AT = 500  # pending tasks that are offered to a node that has become free
MAX_OPEN = 10_000  # tasks of one account that have not ended: each takes room, and is looked at again
FREED_MAX = 4  # nodes that are offered pending tasks at once


class WorkRules(msgspec.Struct, frozen=True, kw_only=True):
    """How much a node is given, and how much an account may ask for. `max_active`: tasks of a node at once;
    `owner_share` of these places are kept for its owner; `max_open`: tasks of an account that have not ended.
    """

    max_active: int = MAX_ACTIVE_PER_NODE
    owner_share: float = OWNER_SHARE
    max_open: int = MAX_OPEN

    @property
    def room(self) -> Room:
        """The same in places."""
        return room_of(self.max_active, self.owner_share)


def submit(tx: FleetTransaction, task: NewTask, rules: WorkRules) -> TaskRecord:
    """Adds a task and gives it to nodes at once, as many as there are for it."""
    tx.assignments.lock()
    tx.tasks.add(task)
    return offer(tx, task.task_id, task.at, rules)


def offer(tx: FleetTransaction, task_id: str, at: datetime, rules: WorkRules) -> TaskRecord:
    """Gives an open task to as many nodes as it misses, see `_find`, and sets its status.

    Returns the task as it stands then; raises LookupError when it is gone.
    """
    tx.assignments.lock()
    task = _need(tx, task_id)
    kind = TASK_TYPES.get(task.task_type)
    if task.status in TASK_ENDED or kind is None:
        return task
    for node_id in _find(tx, task, kind, task.requirements.min_nodes - len(task.assigned_nodes), rules):
        tx.assignments.attach(task_id, node_id, at)
    return _settle(tx, task_id, at)


def _find(
    tx: FleetTransaction, task: TaskRecord, kind: TaskType, missing: int, rules: WorkRules
) -> list[str]:
    """Up to so many nodes that can take a task: of a page of them, oldest registration first, those with the
    fewest tasks."""
    found: list[str] = []
    owner = task.creator_id if kind.own_nodes else None
    after: tuple[datetime, str] | None = None
    while len(found) < missing:
        page = tx.assignments.candidates(kind.node_type, task.task_id, CANDIDATES_PAGE, after, owner_id=owner)
        wanted = missing - len(found)
        found += choose(
            kind,
            task.requirements,
            missing=wanted,
            candidates=page,
            creator_id=task.creator_id,
            room=rules.room,
        )
        if len(page) < CANDIDATES_PAGE:
            break
        after = (page[-1].registered_at, page[-1].node_id)
    return found


def offer_to_node(tx: FleetTransaction, node_id: str, at: datetime, rules: WorkRules) -> list[str]:
    """Gives a node that is new, back or freer the pending tasks that it can take, oldest first; which.

    To be called in a transaction of its own, after the one that made the node so.
    """
    tx.assignments.lock()
    node = tx.assignments.candidate(node_id)
    if node is None:
        return []
    given = []
    # Nothing that it could never do: somebody else's tasks would stand before those that wait for it.
    kinds = [kind.name for kind in TASK_TYPES.values() if is_able(node, kind)]
    for task in tx.tasks.pending(PENDING_LOOKED_AT, task_types=kinds):
        kind = TASK_TYPES.get(task.task_type)
        if kind is None or node_id in task.assigned_nodes:
            continue
        if node.active >= rules.max_active:
            break
        if can_take(node, kind, task.requirements, creator_id=task.creator_id, room=rules.room):
            tx.assignments.attach(task.task_id, node_id, at)
            _settle(tx, task.task_id, at)
            given.append(task.task_id)
            node = _busier(node, exclusive=kind.exclusive, foreign=task.creator_id != node.owner_id)
    return given


def offer_to_freed(tx: FleetTransaction, nodes: Iterable[str], at: datetime, rules: WorkRules) -> None:
    """The same for nodes that have become freer together. Others than the first of them wait for the next
    sweep: everybody else waits for this transaction."""
    for node_id in itertools.islice(dict.fromkeys(nodes), FREED_MAX):
        offer_to_node(tx, node_id, at, rules)


def _busier(node: Candidate, *, exclusive: bool, foreign: bool) -> Candidate:
    return msgspec.structs.replace(
        node,
        active=node.active + 1,
        foreign=node.foreign + int(foreign),
        connected=node.connected or exclusive,
    )


def offer_pending(
    tx: FleetTransaction, at: datetime, rules: WorkRules, *, limit: int = PENDING_LOOKED_AT
) -> list[str]:
    """Offers the oldest pending tasks anew; which of them run now."""
    tx.assignments.lock()
    offered = [offer(tx, task.task_id, at, rules) for task in tx.tasks.pending(limit)]
    return [task.task_id for task in offered if task.status is TaskStatus.RUNNING]


def release(
    tx: FleetTransaction,
    task_id: str,
    nodes: Sequence[str],
    reason: DetachReason,
    at: datetime,
    rules: WorkRules,
) -> TaskRecord:
    """Takes an open task from nodes and gives it to others, as far as there are any."""
    tx.assignments.lock()
    execution = ExecutionStatus.STOPPED if reason is DetachReason.STOPPED else ExecutionStatus.FAILED
    tx.assignments.detach(task_id, at, reason, nodes=nodes, execution=execution)
    return offer(tx, task_id, at, rules)


def move(tx: FleetTransaction, task_id: str, node_id: str, at: datetime, rules: WorkRules) -> bool:
    """Takes an open task from a node that is away, if another one can take it; whether it did.

    Otherwise the node keeps it: it may still do it.
    """
    tx.assignments.lock()
    task = _need(tx, task_id)
    kind = TASK_TYPES.get(task.task_type)
    if kind is None or not _find(tx, task, kind, 1, rules):
        return False
    release(tx, task_id, (node_id,), DetachReason.MOVED, at, rules)
    return True


def note_result(
    tx: FleetTransaction,
    task_id: str,
    node_id: str,
    status: ExecutionStatus,
    at: datetime,
    *,
    result: object = None,
    proof_id: str | None = None,
) -> TaskRecord | None:
    """A node has ended its part. The first part that is completed ends the task well; it ends badly once all
    of its nodes have failed. None, and nothing written, when the node does not have the task or it has ended.
    """
    tx.assignments.lock()
    task = tx.tasks.get(task_id)
    if task is None or task.status in TASK_ENDED or node_id not in task.assigned_nodes:
        return None
    tx.assignments.note_execution(task_id, node_id, status, at)
    if status is ExecutionStatus.COMPLETED:
        finish(tx, task_id, TaskStatus.COMPLETED, at, result=result, proof_id=proof_id)
    elif status is ExecutionStatus.FAILED:
        parts = [a for a in tx.assignments.of_task(task_id) if a.disconnected_at is None]
        enough = len(parts) >= task.requirements.min_nodes
        if enough and all(part.execution_status is ExecutionStatus.FAILED for part in parts):
            finish(tx, task_id, TaskStatus.FAILED, at, result=result)
    return tx.tasks.get(task_id)


def finish(
    tx: FleetTransaction,
    task_id: str,
    status: TaskStatus,
    at: datetime,
    *,
    result: object = None,
    proof_id: str | None = None,
) -> bool:
    """Ends a task with its connect sessions and takes it from its nodes. False when it had ended."""
    tx.assignments.lock()
    if not tx.tasks.finish(task_id, status, at, result=result, proof_id=proof_id):
        return False
    for session in tx.sessions.active_of_task(task_id):
        tx.sessions.end(
            session.requester_id, session.session_id, ConnectStatus.ENDED, at, DetachReason.TASK_ENDED
        )
    execution = ExecutionStatus.COMPLETED if status is TaskStatus.COMPLETED else ExecutionStatus.FAILED
    tx.assignments.detach(task_id, at, DetachReason.TASK_ENDED, execution=execution)
    return True


def delete_task(tx: FleetTransaction, task_id: str, creator_id: str, at: datetime) -> DeletedTask | None:
    """Removes a creator's task; every node that has or had it gets an event in the same transaction.

    None when they have no such task. A `failure` in the answer (the events could not be written) is to be
    logged: the task is gone all the same.
    """
    tx.assignments.lock()
    if tx.tasks.get(task_id, creator_id=creator_id) is None:
        return None
    return tx.tasks.delete(task_id, at)


def register(tx: FleetTransaction, node: NewNode, at: datetime, rules: WorkRules) -> NodeRecord | None:
    """Registers a node and gives it what waits for one like it. None when its id is another owner's."""
    tx.assignments.lock()
    made = tx.nodes.register(node, at)
    if made is not None:
        offer_to_node(tx, node.node_id, at, rules)
    return made


def delete_node(
    tx: FleetTransaction, node_id: str, owner_id: str, at: datetime, rules: WorkRules
) -> list[str] | None:
    """Marks an owner's node as deleted, revokes its credentials, gives its tasks to others; which tasks.

    None when they have no such node.
    """
    return _part(tx, node_id, owner_id, DetachReason.NODE_DELETED, at, rules)


def reject_node(
    tx: FleetTransaction, node_id: str, owner_id: str, at: datetime, rules: WorkRules
) -> list[str] | None:
    """Marks an owner's node as rejected and gives its tasks to others; which. None when there is no such
    node. Its credentials stay, so that it can be told."""
    return _part(tx, node_id, owner_id, DetachReason.NODE_REJECTED, at, rules)


def _part(
    tx: FleetTransaction,
    node_id: str,
    owner_id: str,
    reason: DetachReason,
    at: datetime,
    rules: WorkRules,
) -> list[str] | None:
    tx.assignments.lock()
    if tx.nodes.get(node_id, owner_id=owner_id) is None:
        return None
    if reason is DetachReason.NODE_DELETED:
        # Credentials before the node, as reports do: two transactions never wait for each other crosswise.
        tx.devices.revoke(node_id, at)
        tx.nodes.delete(node_id, owner_id, at)
    else:
        tx.nodes.reject(node_id, owner_id, at)
    session = tx.sessions.active_of_node(node_id)
    if session is not None:
        tx.sessions.end(session.requester_id, session.session_id, ConnectStatus.ENDED, at, reason)
    tasks = [assignment.task_id for assignment in tx.assignments.of_node(node_id)]
    for task_id in tasks:
        release(tx, task_id, (node_id,), reason, at, rules)
    return tasks


def reconcile_node(
    tx: FleetTransaction, node_id: str, running: Iterable[str], at: datetime, rules: WorkRules
) -> Reconciled:
    """A node is back and says which tasks it runs: what it shall do, and the registry is brought in line.

    Work that it still runs and that was moved meanwhile is its own again; others that have not begun it give
    it back. Work that it had begun and lost is begun anew.
    """
    tx.assignments.lock()
    known = {a.task_id: a for a in tx.assignments.of_node(node_id, former=True)}
    elsewhere = frozenset(
        task_id
        for task_id in known
        if any(a.disconnected_at is None and a.node_id != node_id for a in tx.assignments.of_task(task_id))
    )
    found = reconcile(running, known, elsewhere)
    for task_id in found.back:
        tx.assignments.reattach(task_id, node_id, at)
        current = [a for a in tx.assignments.of_task(task_id) if a.disconnected_at is None]
        extra = surplus(current, known[task_id].requirements.min_nodes)
        tx.assignments.detach(task_id, at, DetachReason.SURPLUS, nodes=extra)
        _settle(tx, task_id, at)
    for task_id in found.lost:
        tx.assignments.detach(
            task_id, at, DetachReason.MOVED, nodes=(node_id,), execution=ExecutionStatus.FAILED
        )
        tx.assignments.attach(task_id, node_id, at)
    return found


def end_session(
    tx: FleetTransaction,
    requester_id: str,
    session_id: str,
    status: ConnectStatus,
    reason: str,
    at: datetime,
) -> bool:
    """Ends a connect session and takes its task from the session's node. False when it is not active."""
    tx.assignments.lock()
    session = tx.sessions.get(requester_id, session_id)
    if session is None or not tx.sessions.end(requester_id, session_id, status, at, reason):
        return False
    nodes = (session.node_id,)
    tx.assignments.detach(
        session.task_id,
        at,
        DetachReason.SESSION_ENDED,
        nodes=nodes,
        execution=ExecutionStatus.COMPLETED,
    )
    _settle(tx, session.task_id, at)
    return True


def _settle(tx: FleetTransaction, task_id: str, at: datetime) -> TaskRecord:
    """Sets an open task's status by the nodes that it has."""
    task = _need(tx, task_id)
    status = status_for(task.requirements, len(task.assigned_nodes))
    if task.status in TASK_ENDED or task.status is status:
        return task
    tx.tasks.set_status(task_id, status, at)
    return _need(tx, task_id)


def _need(tx: FleetTransaction, task_id: str) -> TaskRecord:
    task = tx.tasks.get(task_id)
    if task is None:
        raise LookupError(f"task {task_id} is gone")
    return task
