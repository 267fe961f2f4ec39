"""Outcomes of spool tasks, and counters, in SQLite."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import apsw

from ambientd.core.records import TaskOutcome
from ambientd.core.timefmt import rfc3339_ms
from ambientd.store.faults import INT_LIMIT, constraints, text

_COLUMNS = "task_id, outcome, session_id, file_name, at"
# A replaced row gets a new, higher key, so that the highest key is what was written last.
_PUT = f"INSERT OR REPLACE INTO spool_tasks ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)"  # noqa: S608 - constants
_GET = f"SELECT {_COLUMNS} FROM spool_tasks WHERE task_id = ?"  # noqa: S608 - constants
_LATEST = f"SELECT {_COLUMNS} FROM spool_tasks ORDER BY task_key DESC LIMIT 1"  # noqa: S608 - constants
_COUNT = (
    "INSERT INTO counters (name, value) VALUES (?, ?)"
    " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"
)


class SqliteTasks:
    """`ports.store.TaskRepository` over one transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        """The connection belongs to one transaction."""
        self._connection = connection

    def get(self, task_id: str) -> TaskOutcome | None:
        """What became of a task id; raises ValueError for an id that cannot be stored."""
        return _outcome(self._connection.execute(_GET, (text(task_id, "task_id"),)).fetchone())

    def put(self, outcome: TaskOutcome) -> None:
        """Inserts or replaces the outcome of a task id."""
        row = (
            text(outcome.task_id, "task_id"),
            text(outcome.outcome, "outcome"),
            text(outcome.session_id, "session_id"),
            text(outcome.file_name, "file_name"),
            rfc3339_ms(outcome.at),
        )
        with constraints(f"task {outcome.task_id}"):
            self._connection.execute(_PUT, row)

    def latest(self) -> TaskOutcome | None:
        """The outcome written last."""
        return _outcome(self._connection.execute(_LATEST).fetchone())

    def count(self, counter: str, by: int = 1) -> None:
        """Adds to a named counter."""
        if not -INT_LIMIT <= by < INT_LIMIT:
            raise ValueError("by: past 64 bits")
        with constraints(f"counter {counter}"):
            self._connection.execute(_COUNT, (text(counter, "counter"), by))

    def counters(self) -> Mapping[str, int]:
        """All counters."""
        return dict(self._connection.execute("SELECT name, value FROM counters"))


def _outcome(row: tuple[Any, ...] | None) -> TaskOutcome | None:
    if row is None:
        return None
    return TaskOutcome(
        task_id=row[0],
        outcome=row[1],
        session_id=row[2],
        file_name=row[3],
        at=datetime.fromisoformat(row[4]),
    )
