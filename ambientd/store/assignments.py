"""Work that the control plane gave, in SQLite."""

from typing import Any

import apsw
import msgspec

from ambientd.core.assignments import Assignment, AssignmentState, StopCause, Told
from ambientd.store.faults import constraints, text, whole
from ambientd.wire.fleet_enums import AwayPolicy

_COLUMNS = (
    "task_id, attempt, task_type, away_policy, away_after_ms, state, session_id, lease_id, stop_cause,"
    " result_json, told, given_at, ended_at, limit_ms, begun_boot_id, begun_boot_ms"
)
_MARKS = ", ".join("?" * (_COLUMNS.count(",") + 1))
_PUT = f"INSERT OR REPLACE INTO assignments ({_COLUMNS}) VALUES ({_MARKS})"  # noqa: S608 - constants
_READ = f"SELECT {_COLUMNS} FROM assignments"  # noqa: S608 - constants
_OPEN = f"{_READ} WHERE told <> 'ended' ORDER BY given_at, task_id"
_FORGET = (
    "DELETE FROM assignments WHERE task_id IN (SELECT task_id FROM assignments"
    " WHERE told = 'ended' AND ended_at < ? ORDER BY ended_at LIMIT ?)"
)


class SqliteAssignments:
    """`ports.outbox.AssignmentRepository` over one transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        """The connection belongs to one transaction."""
        self._connection = connection

    def get(self, task_id: str) -> Assignment | None:
        """One by its task's id."""
        row = self._connection.execute(f"{_READ} WHERE task_id = ?", (text(task_id, "task_id"),)).fetchone()
        return None if row is None else _assignment(row)

    def put(self, assignment: Assignment) -> None:
        """Inserts or replaces; raises ValueError for what cannot be stored."""
        cause = assignment.stop_cause
        result = assignment.result
        row = (
            text(assignment.task_id, "task_id"),
            assignment.attempt,
            text(assignment.task_type, "task_type"),
            assignment.away_policy.value,
            whole(assignment.away_after_ms, "away_after_ms"),
            assignment.state.value,
            text(assignment.session_id, "session_id"),
            text(assignment.lease_id, "lease_id"),
            None if cause is None else cause.value,
            None if result is None else msgspec.json.encode(result).decode(),
            assignment.told.value,
            assignment.given_at,
            assignment.ended_at,
            whole(assignment.limit_ms, "limit_ms"),
            text(assignment.begun_boot_id, "begun_boot_id"),
            whole(assignment.begun_boot_ms, "begun_boot_ms"),
        )
        with constraints(f"assignment {assignment.task_id}"):
            self._connection.execute(_PUT, row)

    def open(self) -> list[Assignment]:
        """Those of which something is still to be done or told."""
        return [_assignment(row) for row in self._connection.execute(_OPEN)]

    def forget(self, before: str, limit: int) -> int:
        """Removes ones that are over for both sides."""
        self._connection.execute(_FORGET, (before, limit))
        return self._connection.changes()

    def task_of(self, session_id: str) -> str | None:
        """The task that a session was started for."""
        found = self._connection.execute(
            "SELECT task_id FROM assignments WHERE session_id = ? LIMIT 1", (text(session_id, "session_id"),)
        ).get
        return None if found is None else str(found)


def _assignment(row: tuple[Any, ...]) -> Assignment:
    return Assignment(
        task_id=row[0],
        attempt=row[1],
        task_type=row[2],
        away_policy=AwayPolicy(row[3]),
        away_after_ms=row[4],
        state=AssignmentState(row[5]),
        session_id=row[6],
        lease_id=row[7],
        stop_cause=None if row[8] is None else StopCause(row[8]),
        result=None if row[9] is None else msgspec.json.decode(row[9]),
        told=Told(row[10]),
        given_at=row[11],
        ended_at=row[12],
        limit_ms=row[13],
        begun_boot_id=row[14],
        begun_boot_ms=row[15],
    )
