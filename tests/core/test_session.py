from datetime import UTC, datetime

import pytest

from ambientd.core.session import STEPS, conclude, may_step, transition
from ambientd.wire.enums import TERMINAL, SessionStatus

AT = datetime(2026, 11, 20, 15, 40, tzinfo=UTC)


def concluded(**facts: object) -> tuple[object, object]:
    given: dict[str, object] = {
        "cause": "exit",
        "exit_code": 0,
        "signal": None,
        "error": None,
        "message": None,
        "end_cause": None,
        "timeout": 30.0,
    }
    status, code, _ = conclude(**(given | facts))  # type: ignore[arg-type]
    return status.value, code


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, ("success", None)),
        ({"exit_code": 3}, ("failed", "exit_status")),
        ({"exit_code": None, "signal": 11}, ("failed", "signal")),
        ({"cause": "timeout", "exit_code": None, "signal": 9}, ("failed", "timeout")),
        ({"cause": "ended", "signal": 15, "end_cause": "killed"}, ("killed", None)),
        ({"cause": "ended", "signal": 15}, ("failed", "runner_stopped")),
        ({"cause": "start_failed", "error": "not_found"}, ("failed", "not_found")),
        ({"cause": "exit", "error": "runner_lost", "exit_code": None}, ("failed", "runner_lost")),
    ],
)
def test_the_end_of_a_run_is_told_as_it_was(
    facts: dict[str, object], expected: tuple[object, object]
) -> None:
    assert concluded(**facts) == expected


def test_an_agent_that_finished_before_the_signal_reached_it_has_not_been_killed() -> None:
    assert concluded(cause="exit", exit_code=0, end_cause="killed") == ("success", None)


def test_nothing_leads_out_of_a_terminal_status() -> None:
    for status in TERMINAL:
        assert STEPS[status] == frozenset()
        assert not any(may_step(status, after) for after in SessionStatus)


def test_every_status_has_its_row_in_the_table() -> None:
    assert set(STEPS) == set(SessionStatus)
    assert may_step(SessionStatus.QUEUED, SessionStatus.RUNNING)
    assert not may_step(SessionStatus.RUNNING, SessionStatus.QUEUED)


def test_a_transition_leaves_out_what_is_not_known() -> None:
    event = transition(SessionStatus.RUNNING, SessionStatus.FAILED, AT, exit_code=3, signal=None)
    assert event.payload == {"from": "running", "to": "failed", "exit_code": 3}
