"""Which node has which task."""

from collections.abc import Sequence
from datetime import datetime

from ambientd.core.fleet.assign import Candidate
from ambientd.core.fleet.records import AssignmentRecord, Away, AwayAssignment, Capabilities, Requirements
from ambientd.core.fleet.tasktypes import CONNECT_ONLY
from ambientd.core.fleet.timelimit import LatePart
from ambientd.core.timefmt import from_ms, to_ms
from ambientd.store.fleet.sql import Row, Sql, at, is_in, ms, one
from ambientd.wire.fleet_enums import (
    AwayPolicy,
    DetachReason,
    ExecutionStatus,
    NodeStatus,
    NodeType,
    TaskStatus,
)

_EARLIEST = -(2**62)
ASSIGNMENTS = "assignments"  # the name under which whoever changes them waits
# A part that has ended takes no room, though its task goes on and the node still has it.
_CURRENT = (
    "SELECT count(*) FROM task_assignments AS a WHERE a.node_id = n.node_id AND a.disconnected_at IS NULL"
    " AND a.execution_status IN ('assigned', 'in_progress')"
)
_FOREIGN = (
    "SELECT count(*) FROM task_assignments AS a JOIN tasks AS t ON t.task_id = a.task_id"
    " WHERE a.node_id = n.node_id AND a.disconnected_at IS NULL"
    " AND a.execution_status IN ('assigned', 'in_progress')"
    " AND (t.creator_id IS NULL OR t.creator_id <> n.owner_id)"
)
_CONNECTED = (
    "EXISTS (SELECT 1 FROM connect_sessions AS s WHERE s.node_id = n.node_id AND s.status = 'active')"
    " OR EXISTS (SELECT 1 FROM task_assignments AS a JOIN tasks AS t ON t.task_id = a.task_id"
    f" WHERE a.node_id = n.node_id AND a.disconnected_at IS NULL AND t.task_type = '{CONNECT_ONLY}')"
)
_CANDIDATE = (
    "SELECT n.node_id, n.owner_id, n.registered_at, n.node_type, n.bandwidth_mbps, n.cpu_cores, n.memory_gb,"
    " n.gpu_available,"
    f" ({_CURRENT}), ({_FOREIGN}), CASE WHEN {_CONNECTED} THEN 1 ELSE 0 END FROM nodes AS n"
    " WHERE n.status = 'online' AND n.deleted_at IS NULL"
)
_CANDIDATES = (
    f"{_CANDIDATE} AND (n.node_type IN (?, 'any') OR CAST(? AS TEXT) = 'any')"
    " AND (CAST(? AS TEXT) IS NULL OR n.owner_id = ?)"
    " AND (n.registered_at, n.node_id) > (?, ?) AND NOT EXISTS"
    " (SELECT 1 FROM task_assignments AS h WHERE h.task_id = ? AND h.node_id = n.node_id"
    " AND h.disconnected_at IS NULL) ORDER BY n.registered_at, n.node_id LIMIT ?"
)
_ATTACH = (
    "INSERT INTO task_assignments (task_id, node_id, assigned_at, execution_status, attempt)"
    " VALUES (?, ?, ?, 'assigned', 1) ON CONFLICT (task_id, node_id) DO UPDATE SET"
    " assigned_at = excluded.assigned_at, disconnected_at = NULL, detach_reason = NULL,"
    " execution_status = 'assigned', execution_started_at = NULL, execution_completed_at = NULL,"
    " session_id = NULL, attempt = task_assignments.attempt + 1"
    " WHERE task_assignments.disconnected_at IS NOT NULL"
)
_REATTACH = (
    "UPDATE task_assignments SET disconnected_at = NULL, detach_reason = NULL,"
    " execution_status = 'in_progress', execution_started_at = coalesce(execution_started_at, ?),"
    " execution_completed_at = NULL"
    " WHERE task_id = ? AND node_id = ? AND disconnected_at IS NOT NULL"
)
_RUNS = "execution_status IN ('assigned', 'in_progress')"
_DETACH = (
    "UPDATE task_assignments SET disconnected_at = ?, detach_reason = ?{more}"
    " WHERE task_id = ? AND disconnected_at IS NULL{nodes} RETURNING node_id"
)
_DETACH_AS = (
    f", execution_status = CASE WHEN {_RUNS} THEN ? ELSE execution_status END,"
    f" execution_completed_at = CASE WHEN {_RUNS} THEN CAST(? AS BIGINT) ELSE execution_completed_at END"
)
_COLUMNS = (
    "a.task_id, a.node_id, t.task_type, t.status, t.min_nodes, t.max_execution_time_sec, t.require_gpu,"
    " t.require_proof, t.away_policy, t.away_after_ms, a.assigned_at, a.disconnected_at, a.detach_reason,"
    " a.execution_status, a.execution_started_at, a.execution_completed_at, a.session_id, a.attempt"
)
_SELECT = f"SELECT {_COLUMNS} FROM task_assignments AS a JOIN tasks AS t ON t.task_id = a.task_id"
_NOTE = (
    "UPDATE task_assignments SET execution_status = ?, session_id = coalesce(?, session_id),"
    " execution_started_at = coalesce(execution_started_at, ?),"
    " execution_completed_at = CAST(? AS BIGINT)"
    " WHERE task_id = ? AND node_id = ? AND disconnected_at IS NULL"
)
_AWAY = (
    "SELECT a.task_id, a.node_id, t.away_policy, t.away_after_ms, n.status, n.last_seen FROM tasks AS t"
    " JOIN task_assignments AS a ON a.task_id = t.task_id AND a.disconnected_at IS NULL"
    " JOIN nodes AS n ON n.node_id = a.node_id"
    " WHERE t.away_policy <> 'wait' AND t.status IN ('pending', 'running')"
    " AND n.status IN ('unknown', 'offline') AND n.deleted_at IS NULL"
    " AND (a.task_id, a.node_id) > (?, ?) ORDER BY a.task_id, a.node_id LIMIT ?"
)
# By node, whose current assignments have an index: what has ended is never looked at.
_LATE = (
    "SELECT a.task_id, a.node_id, a.attempt, t.max_execution_time_sec FROM nodes AS n"
    " JOIN task_assignments AS a ON a.node_id = n.node_id AND a.disconnected_at IS NULL"
    " JOIN tasks AS t ON t.task_id = a.task_id"
    " WHERE n.status = 'online' AND n.deleted_at IS NULL AND t.status = 'running'"
    f" AND t.task_type <> '{CONNECT_ONLY}' AND a.execution_status IN ('assigned', 'in_progress')"
    " AND coalesce(a.execution_started_at,"
    " CASE WHEN a.assigned_at > t.updated_at THEN a.assigned_at ELSE t.updated_at END)"
    " + CAST(t.max_execution_time_sec AS BIGINT) * 1000 <= ?"
    " AND n.node_id >= ? AND (n.node_id, a.task_id) > (?, ?) ORDER BY n.node_id, a.task_id LIMIT ?"
)


class Assignments:
    """`ports.fleet.store.AssignmentRepository`."""

    def __init__(self, sql: Sql) -> None:
        """Good for as long as the transaction."""
        self._sql = sql

    def lock(self) -> None:
        """Nobody else changes assignments until the end of this transaction."""
        self._sql.serialize(ASSIGNMENTS)

    def candidates(
        self,
        node_type: NodeType,
        task_id: str,
        limit: int,
        after: tuple[datetime, str] | None = None,
        *,
        owner_id: str | None = None,
    ) -> list[Candidate]:
        """Online nodes of a type (or `any`; with `any` of every type) that do not have the task, oldest
        registration first.

        `after`: (registered_at, node_id) of the last one seen. With `owner_id` only theirs.
        """
        place = (_EARLIEST, "") if after is None else (to_ms(after[0]), after[1])
        rows = self._sql.rows(_CANDIDATES, (node_type, node_type, owner_id, owner_id, *place, task_id, limit))
        return [_candidate(row) for row in rows]

    def candidate(self, node_id: str) -> Candidate | None:
        """One node, when it is online."""
        row = one(self._sql.rows(f"{_CANDIDATE} AND n.node_id = ?", (node_id,)))
        return None if row is None else _candidate(row)

    def attach(self, task_id: str, node_id: str, at: datetime) -> AssignmentRecord:
        """Gives a task to a node, also anew. It must not have it; raises ValueError when it does."""
        if self._sql.run(_ATTACH, (task_id, node_id, ms(at))) != 1:
            raise ValueError(f"node {node_id} has task {task_id} already")
        found = self.get(task_id, node_id)
        if found is None:
            raise LookupError(f"task {task_id} is gone")
        return found

    def reattach(self, task_id: str, node_id: str, at: datetime) -> bool:
        """Undoes the loss of a task that a node still runs; False when it never had it, or has it."""
        return self._sql.run(_REATTACH, (ms(at), task_id, node_id)) == 1

    def detach(
        self,
        task_id: str,
        at: datetime,
        reason: DetachReason,
        *,
        nodes: Sequence[str] | None = None,
        execution: ExecutionStatus | None = None,
    ) -> list[str]:
        """Takes a task from some of its nodes or all; which had it. `execution` becomes their status unless
        they had ended it."""
        if nodes is not None and not nodes:
            return []
        more = () if execution is None else (execution, ms(at))
        sql = _DETACH.format(
            more="" if execution is None else _DETACH_AS,
            nodes="" if nodes is None else f" AND node_id {is_in(nodes)}",
        )
        params = (ms(at), reason, *more, task_id, *(nodes or ()))
        return sorted(row[0] for row in self._sql.rows(sql, params))

    def get(self, task_id: str, node_id: str) -> AssignmentRecord | None:
        """One assignment, current or former."""
        sql = f"{_SELECT} WHERE a.task_id = ? AND a.node_id = ?"
        row = one(self._sql.rows(sql, (task_id, node_id)))
        return None if row is None else _assignment(row)

    def of_node(self, node_id: str, *, former: bool = False) -> list[AssignmentRecord]:
        """What a node has, oldest first; with `former` what it once had too."""
        current = "" if former else " AND a.disconnected_at IS NULL"
        sql = f"{_SELECT} WHERE a.node_id = ?{current} ORDER BY a.assigned_at, a.task_id"
        return [_assignment(row) for row in self._sql.rows(sql, (node_id,))]

    def of_task(self, task_id: str) -> list[AssignmentRecord]:
        """All assignments of a task, current and former."""
        sql = f"{_SELECT} WHERE a.task_id = ? ORDER BY a.assigned_at, a.node_id"
        return [_assignment(row) for row in self._sql.rows(sql, (task_id,))]

    def note_execution(
        self,
        task_id: str,
        node_id: str,
        status: ExecutionStatus,
        at: datetime,
        *,
        session_id: str | None = None,
    ) -> bool:
        """How far a node is; False when it does not have the task."""
        begun = None if status is ExecutionStatus.ASSIGNED else ms(at)
        ended = None if status in (ExecutionStatus.ASSIGNED, ExecutionStatus.IN_PROGRESS) else ms(at)
        return self._sql.run(_NOTE, (status, session_id, begun, ended, task_id, node_id)) == 1

    def away(self, limit: int, after: tuple[str, str] = ("", "")) -> list[AwayAssignment]:
        """Current assignments of tasks that do not wait, on nodes that are not online, by (task, node)."""
        return [
            AwayAssignment(
                task_id=row[0],
                node_id=row[1],
                away=Away(policy=AwayPolicy(row[2]), after_ms=row[3]),
                node_status=NodeStatus(row[4]),
                last_seen=from_ms(row[5]),
            )
            for row in self._sql.rows(_AWAY, (*after, limit))
        ]

    def late(self, now: datetime, limit: int, after: tuple[str, str] = ("", "")) -> list[LatePart]:
        """Parts of running tasks that go on although their time is over, on nodes that are online, by (node,
        task). What a node has not begun counts from when its task ran."""
        return [
            LatePart(task_id=row[0], node_id=row[1], attempt=row[2], limit_sec=row[3])
            for row in self._sql.rows(_LATE, (ms(now), after[0], *after, limit))
        ]


def _candidate(row: Row) -> Candidate:
    return Candidate(
        node_id=row[0],
        owner_id=row[1],
        registered_at=from_ms(row[2]),
        node_type=NodeType(row[3]),
        capabilities=Capabilities(
            bandwidth_mbps=row[4], cpu_cores=row[5], memory_gb=row[6], gpu_available=bool(row[7])
        ),
        active=row[8],
        foreign=row[9],
        connected=bool(row[10]),
    )


def _assignment(row: Row) -> AssignmentRecord:
    return AssignmentRecord(
        task_id=row[0],
        node_id=row[1],
        task_type=row[2],
        task_status=TaskStatus(row[3]),
        requirements=Requirements(
            min_nodes=row[4],
            max_execution_time_sec=row[5],
            require_gpu=bool(row[6]),
            require_proof=bool(row[7]),
        ),
        away=Away(policy=AwayPolicy(row[8]), after_ms=row[9]),
        assigned_at=from_ms(row[10]),
        disconnected_at=at(row[11]),
        reason=None if row[12] is None else DetachReason(row[12]),
        execution_status=ExecutionStatus(row[13]),
        execution_started_at=at(row[14]),
        execution_completed_at=at(row[15]),
        session_id=row[16],
        attempt=row[17],
    )
