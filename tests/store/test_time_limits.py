"""The table of assignments is made anew by a migration: what it holds stays."""

import apsw

from ambientd.store.assignments import SqliteAssignments
from ambientd.store.migrate import default_folder, known_migrations, migrate
from tests.store.kit import StillClock

AT = "2026-11-20T12:00:00.000Z"


def test_work_that_was_begun_before_stays_and_has_no_limit() -> None:
    connection = apsw.Connection(":memory:")
    known = known_migrations(default_folder("node"))
    [ours] = [one for one in known if "time_limits" in one.name]
    before = tuple(one for one in known if one.version < ours.version)
    migrate(connection, before, StillClock())
    connection.execute(
        "INSERT INTO assignments (task_id, attempt, task_type, away_policy, away_after_ms, state, session_id,"
        " stop_cause, told, given_at) VALUES ('t', 2, 'agent_session', 'stop', 60000, 'running', 's', 'away',"
        " 'in_progress', ?)",
        (AT,),
    )
    migrate(connection, known, StillClock())
    [one] = SqliteAssignments(connection).open()
    assert (one.task_id, one.attempt, one.session_id, one.stop_cause) == ("t", 2, "s", "away")
    assert (one.given_at, one.limit_ms, one.begun_boot_ms) == (AT, None, None)
