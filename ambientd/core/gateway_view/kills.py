"""What was killed: a gateway may call a killed run failed or timed out, and we know better."""

from collections import OrderedDict
from typing import NamedTuple

from ambientd.core.gateway_view.rows import SessionRow

KILLS_MAX = 500
# An end that came this much earlier than the order to end was not its work; clocks differ a little.
SLACK_MS = 5_000


class Kill(NamedTuple):
    """One kill; `run_id` is None where the run was not known. `at_ms` on the gateway's clock."""

    session_id: str
    run_id: str | None
    at_ms: int


class KillLog:
    """The newest kills, by run where the run is known, else by session and time. Bounded."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, Kill] = OrderedDict()
        self._sessions: OrderedDict[str, Kill] = OrderedDict()

    def add(self, session_id: str, run_id: str | None, at_ms: int) -> None:
        """A run was killed, or told to end."""
        kill = Kill(session_id, run_id, at_ms)
        for log, name in ((self._runs, run_id), (self._sessions, session_id)):
            if name:
                log[name] = kill
                log.move_to_end(name)
                while len(log) > KILLS_MAX:
                    log.popitem(last=False)

    def drop(self, session_id: str, run_id: str | None) -> None:
        """Forgets a kill."""
        self._sessions.pop(session_id, None)
        if run_id is not None:
            self._runs.pop(run_id, None)

    def has_run(self, run_id: str | None) -> bool:
        """Whether this run was killed."""
        return run_id is not None and run_id in self._runs

    def covers(self, row: SessionRow) -> bool:
        """Whether the run that a row tells of was killed."""
        return self.covers_run(row.session_id, row.run_id, row.started_ms, row.ended_ms or row.updated_ms)

    def covers_run(
        self, session_id: str, run_id: str | None, started_ms: int | None, ended_ms: int | None
    ) -> bool:
        """Whether a run that started and ended then was killed; a named run is known by its name alone."""
        if self.has_run(run_id):
            return True
        kill = self._sessions.get(session_id)
        if kill is None or (run_id is not None and kill.run_id is not None):
            return False
        began = started_ms is None or started_ms <= kill.at_ms
        return began and (not ended_ms or ended_ms >= kill.at_ms - SLACK_MS)
