"""Local runs in SQLite: what re-attaching after a restart needs."""

import apsw

from ambientd.core.records import RunRecord
from ambientd.store.faults import constraints, text, whole
from ambientd.store.keys import Keys

_COLUMNS = "attempt, spool_offset, output_events, output_dropped, end_cause, task_id"
_INSERT = f"INTO local_runs (session_key, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
_GET = f"SELECT {_COLUMNS} FROM local_runs WHERE session_key = ?"  # noqa: S608 - constants


class SqliteRuns:
    """`ports.store.RunRepository` over one transaction."""

    def __init__(self, connection: apsw.Connection, keys: Keys) -> None:
        """Both belong to one transaction."""
        self._connection = connection
        self._keys = keys

    def add(self, run: RunRecord) -> None:
        """Remembers a run; raises ValueError when the session has one, LookupError when it is unknown."""
        self._write("INSERT ", run)

    def get(self, session_id: str) -> RunRecord | None:
        """The run of a session."""
        key = self._keys.find(session_id)
        row = None if key is None else self._connection.execute(_GET, (key,)).fetchone()
        if row is None:
            return None
        return RunRecord(
            session_id=session_id,
            attempt=row[0],
            spool_offset=row[1],
            output_events=row[2],
            output_dropped=row[3],
            end_cause=row[4],
            task_id=row[5],
        )

    def put(self, run: RunRecord) -> None:
        """Replaces the run of a session; raises LookupError when the session is unknown."""
        self._write("INSERT OR REPLACE ", run)

    def _write(self, verb: str, run: RunRecord) -> None:
        row = (
            self._keys.need(run.session_id),
            whole(run.attempt, "attempt"),
            whole(run.spool_offset, "spool_offset"),
            whole(run.output_events, "output_events"),
            whole(run.output_dropped, "output_dropped"),
            text(run.end_cause, "end_cause"),
            text(run.task_id, "task_id"),
        )
        with constraints(f"run of {run.session_id}"):
            self._connection.execute(verb + _INSERT, row)
