"""Tasks: the cluster's units of work."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ambientd.core.fleet.history import cleared
from ambientd.core.fleet.records import (
    Away,
    DeletedTask,
    NewTask,
    Requirements,
    TaskQuery,
    TaskRecord,
    TaskStats,
    TaskWork,
)
from ambientd.core.timefmt import from_ms
from ambientd.store.fleet.assignments import ASSIGNMENTS
from ambientd.store.fleet.history import History
from ambientd.store.fleet.sql import Bulk, Row, Sql, at, is_in, json_text, json_value, marks, ms, one
from ambientd.wire.fleet_enums import AwayPolicy, TaskStatus

_COLUMNS = (
    "task_id, creator_id, task_type, status, min_nodes, max_execution_time_sec, require_gpu, require_proof,"
    " away_policy, away_after_ms, result, proof_id, created_at, updated_at, completed_at"
)
_GIVEN = (
    "task_id, creator_id, task_type, status, min_nodes, max_execution_time_sec, require_gpu, require_proof,"
    " away_policy, away_after_ms, created_at, updated_at, inputs, wasm_module"
)
_ADD = f"INSERT INTO tasks ({_GIVEN}) VALUES ({marks(_GIVEN)})"
_SELECT = f"SELECT {_COLUMNS} FROM tasks"
_NODES = Bulk(
    (("task_id", "text"),),
    "SELECT a.task_id, a.node_id, a.disconnected_at FROM batch, task_assignments AS a"
    " WHERE a.task_id = batch.task_id"
    " ORDER BY a.task_id, coalesce(a.disconnected_at, a.assigned_at), a.node_id",
)
_OPEN = "status IN ('pending', 'running')"
_OPEN_OF = f"SELECT count(*) FROM tasks WHERE creator_id = ? AND {_OPEN}"
_SET = f"UPDATE tasks SET status = ?, updated_at = ? WHERE task_id = ? AND {_OPEN}"
_FINISH = (
    "UPDATE tasks SET status = ?, updated_at = ?, completed_at = ?, result = ?, proof_id = ?"
    f" WHERE task_id = ? AND {_OPEN}"
)
_HOLDERS = (
    "SELECT node_id, disconnected_at FROM task_assignments WHERE task_id = ? ORDER BY assigned_at, node_id"
)
_WORK_SIZE = (
    "SELECT length(CAST(inputs AS TEXT)) + coalesce(length(wasm_module), 0) FROM tasks WHERE task_id = ?"
)
_STATS = (
    "SELECT count(*), coalesce(sum(CASE WHEN status = 'completed' THEN 1 ELSE 0 END), 0),"
    " coalesce(sum(CASE WHEN status = 'failed' THEN 1 ELSE 0 END), 0) FROM tasks"
)


class Tasks:
    """`ports.fleet.store.TaskRepository`."""

    def __init__(self, sql: Sql, history: History) -> None:
        """Good for as long as the transaction."""
        self._sql = sql
        self._history = history

    def add(self, task: NewTask) -> None:
        """Adds a pending task."""
        asks = task.requirements
        row = (
            task.task_id,
            task.creator_id,
            task.task_type,
            TaskStatus.PENDING,
            asks.min_nodes,
            asks.max_execution_time_sec,
            int(asks.require_gpu),
            int(asks.require_proof),
            task.away.policy,
            task.away.after_ms,
            ms(task.at),
            ms(task.at),
            json_text(task.inputs),
            task.wasm_module,
        )
        self._sql.run(_ADD, row)

    def get(self, task_id: str, *, creator_id: str | None = None) -> TaskRecord | None:
        """One task; with `creator_id` only when it is theirs."""
        rows = self._sql.rows(f"{_SELECT} WHERE task_id = ?", (task_id,))
        if not rows or (creator_id is not None and rows[0][1] != creator_id):
            return None
        return self._with_nodes(rows)[0]

    def page(self, query: TaskQuery) -> list[TaskRecord]:
        """One page of tasks."""
        where, params = ["1 = 1"], list[Any]()
        for column, value in (
            ("creator_id", query.creator_id),
            ("status", query.status),
            ("task_type", query.task_type),
        ):
            if value is not None:
                where.append(f"{column} = ?")
                params.append(value)
        if query.node_id is not None:
            where.append("task_id IN (SELECT task_id FROM task_assignments WHERE node_id = ?)")
            params.append(query.node_id)
        if query.after is not None:
            where.append("(created_at, task_id) < (?, ?)")
            params += [ms(query.after[0]), query.after[1]]
        sql = f"{_SELECT} WHERE {' AND '.join(where)} ORDER BY created_at DESC, task_id DESC LIMIT ?"
        return self._with_nodes(self._sql.rows(sql, (*params, query.limit)))

    def open_of(self, creator_id: str) -> int:
        """How many of a creator's tasks have not ended."""
        (row,) = self._sql.rows(_OPEN_OF, (creator_id,))
        return int(row[0])

    def work(self, task_id: str) -> TaskWork | None:
        """Inputs and module of a task."""
        row = one(self._sql.rows("SELECT inputs, wasm_module FROM tasks WHERE task_id = ?", (task_id,)))
        return None if row is None else TaskWork(inputs=json_value(row[0]), wasm_module=row[1])

    def work_size(self, task_id: str) -> int:
        """About how long inputs and module of a task are, in characters; 0 when it is gone."""
        row = one(self._sql.rows(_WORK_SIZE, (task_id,)))
        return 0 if row is None else int(row[0])

    def pending(
        self,
        limit: int,
        *,
        task_types: Sequence[str] | None = None,
        after: tuple[datetime, str] | None = None,
    ) -> list[TaskRecord]:
        """Tasks that nodes are missing for, oldest first; `after`: (created_at, task_id) of the last seen."""
        if task_types is not None and not task_types:
            return []
        where, params = ["status = 'pending'"], list[Any]()
        if task_types is not None:
            where.append(f"task_type {is_in(task_types)}")
            params += task_types
        if after is not None:
            where.append("(created_at, task_id) > (?, ?)")
            params += [ms(after[0]), after[1]]
        sql = f"{_SELECT} WHERE {' AND '.join(where)} ORDER BY created_at, task_id LIMIT ?"
        return self._with_nodes(self._sql.rows(sql, (*params, limit)))

    def set_status(self, task_id: str, status: TaskStatus, at: datetime) -> bool:
        """Moves a task between pending and running; False when it has ended or is gone."""
        return self._sql.run(_SET, (status, ms(at), task_id)) == 1

    def finish(
        self, task_id: str, status: TaskStatus, at: datetime, *, result: object, proof_id: str | None = None
    ) -> bool:
        """Ends a task; False, and nothing written, when it had ended or is gone."""
        document = None if result is None else json_text(result)
        return self._sql.run(_FINISH, (status, ms(at), ms(at), document, proof_id, task_id)) == 1

    def delete(self, task_id: str, at: datetime) -> DeletedTask | None:
        """Removes a task, leaving an event at every node that has or had it. None when there is none.

        The events are part of the same transaction; when they cannot be written the task goes all the same.
        """
        self._sql.serialize(ASSIGNMENTS)
        row = one(self._sql.locked("SELECT task_type FROM tasks WHERE task_id = ?", (task_id,)))
        if row is None:
            return None
        holders = self._sql.rows(_HOLDERS, (task_id,))
        failure = self._history.add_events(cleared(task_id, row[0], (h[0] for h in holders), at))
        self._sql.run("DELETE FROM tasks WHERE task_id = ?", (task_id,))
        return DeletedTask(
            task_id=task_id,
            task_type=row[0],
            detached=tuple(h[0] for h in holders if h[1] is None),
            events=0 if failure else len(holders),
            failure=failure,
        )

    def stats(self) -> TaskStats:
        """Sums for the cluster's statistics."""
        (row,) = self._sql.rows(_STATS)
        return TaskStats(total=row[0], completed=int(row[1]), failed=int(row[2]))

    def _with_nodes(self, rows: Sequence[Row]) -> list[TaskRecord]:
        """The tasks of rows, in their order, with their nodes."""
        now: dict[str, list[str]] = {row[0]: [] for row in rows}
        once: dict[str, list[str]] = {row[0]: [] for row in rows}
        for task_id, node_id, gone in self._sql.bulk(_NODES, [(row[0],) for row in rows]):
            (now if gone is None else once)[task_id].append(node_id)
        return [_task(row, now[row[0]], once[row[0]]) for row in rows]


def requirements(row: Sequence[Any]) -> Requirements:
    """From min_nodes, max_execution_time_sec, require_gpu, require_proof."""
    return Requirements(
        min_nodes=row[0],
        max_execution_time_sec=row[1],
        require_gpu=bool(row[2]),
        require_proof=bool(row[3]),
    )


def _task(row: Row, now: list[str], once: list[str]) -> TaskRecord:
    return TaskRecord(
        task_id=row[0],
        creator_id=row[1],
        task_type=row[2],
        status=TaskStatus(row[3]),
        requirements=requirements(row[4:8]),
        away=Away(policy=AwayPolicy(row[8]), after_ms=row[9]),
        result=None if row[10] is None else json_value(row[10]),
        proof_id=row[11],
        created_at=from_ms(row[12]),
        updated_at=from_ms(row[13]),
        completed_at=at(row[14]),
        assigned_nodes=tuple(now),
        former_assigned_nodes=tuple(once),
    )
