from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest

from ambientd.config.schema import AgentConfig
from ambientd.core.agentstatus import RECENT, view_agents
from ambientd.core.records import SessionRecord
from ambientd.wire.enums import TERMINAL, AgentStatus, SessionStatus

NOW = datetime(2026, 11, 20, 15, 40, tzinfo=UTC)
AGENT = AgentConfig(id="steve", name="Steve", command=("x",))


def session(
    status: SessionStatus, *, ago: timedelta = timedelta(minutes=1), agent: str = "steve"
) -> SessionRecord:
    ended = NOW - ago if status in TERMINAL else None
    return SessionRecord(
        session_id=f"ses_{status.value}",
        run_id=None,
        agent_id=agent,
        agent_label=agent,
        model_id="m",
        task_title=None,
        task_text="first line\nsecond",
        task_category=None,
        status=status,
        started_at=NOW - ago - timedelta(minutes=1),
        ended_at=ended,
        runtime_ms=None,
        running_since=NOW - ago if status is SessionStatus.RUNNING else None,
        artifact_count=0,
        error_code=None,
        error_message="it broke" if status is SessionStatus.FAILED else None,
        source_version=None,
        ingested_at=NOW,
    )


def status_of(*rows: SessionRecord) -> AgentStatus:
    active = [row for row in rows if row.ended_at is None]
    ended = [row for row in rows if row.ended_at is not None]
    (view,) = view_agents({"steve": AGENT}, active, ended, NOW)
    return view.status


FAILED, RUNNING, DONE = (
    session(SessionStatus.FAILED),
    session(SessionStatus.RUNNING),
    session(SessionStatus.SUCCESS),
)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ((FAILED, RUNNING, DONE), AgentStatus.FAILED),
        ((FAILED, RUNNING), AgentStatus.FAILED),
        ((FAILED, DONE), AgentStatus.FAILED),
        ((RUNNING, DONE), AgentStatus.RUNNING),
        ((DONE,), AgentStatus.DONE),
        ((), AgentStatus.IDLE),
        ((session(SessionStatus.QUEUED),), AgentStatus.IDLE),
        ((session(SessionStatus.KILLED),), AgentStatus.IDLE),
    ],
)
def test_failed_goes_over_running_over_done_over_idle_in_any_order(
    rows: tuple[SessionRecord, ...], expected: AgentStatus
) -> None:
    for order in permutations(rows):
        assert status_of(*order) is expected


def test_an_old_failure_does_not_stick_for_ever() -> None:
    old = session(SessionStatus.FAILED, ago=RECENT + timedelta(seconds=1))
    assert status_of(old) is AgentStatus.IDLE
    assert status_of(session(SessionStatus.FAILED, ago=RECENT)) is AgentStatus.FAILED


def test_last_activity_is_the_newest_over_all_sessions_and_none_without_any() -> None:
    rows = [session(SessionStatus.SUCCESS, ago=timedelta(minutes=5)), session(SessionStatus.KILLED)]
    (view,) = view_agents({"steve": AGENT}, [], rows, NOW)
    assert view.last_activity_at == "2026-11-20T15:39:00.000Z"
    (bare,) = view_agents({"steve": AGENT}, [], [], NOW)
    assert bare.last_activity_at is None
    assert bare.model is None


def test_sessions_of_agents_that_are_not_configured_are_left_out() -> None:
    assert view_agents({}, [session(SessionStatus.RUNNING)], [], NOW) == []


def test_the_row_names_the_session_that_gave_the_status_and_its_task() -> None:
    (view,) = view_agents({"steve": AGENT}, [RUNNING], [], NOW)
    assert (view.session_id, view.task, view.since) == (
        "ses_running",
        "first line",
        "2026-11-20T15:39:00.000Z",
    )
