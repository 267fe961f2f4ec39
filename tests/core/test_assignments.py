"""What a node does about the control plane's word, and when it ends work by itself."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.assignments import (
    AGENT_SESSION,
    Assignment,
    AssignmentState,
    Offered,
    StopCause,
    ended_state,
    failure,
    next_overdue,
    overdue,
    read_order,
    steps_of,
)
from ambientd.core.timefmt import parse_rfc3339, to_ms
from ambientd.core.trustedtime import Trusted
from ambientd.wire.enums import TERMINAL, SessionStatus
from ambientd.wire.fleet_enums import AwayPolicy, Verdict

AT = "2026-11-20T12:00:00.000Z"


def held(
    task_id: str = "t", *, state: AssignmentState = AssignmentState.RUNNING, **fields: Any
) -> Assignment:
    facts: dict[str, Any] = {
        "attempt": 1,
        "task_type": AGENT_SESSION,
        "away_policy": AwayPolicy.WAIT,
        "away_after_ms": None,
        "given_at": AT,
    }
    return Assignment(task_id=task_id, state=state, **(facts | fields))


def time(*, wall_ms: int = 0, boot_ms: int = 0, boot: str = "boot-1") -> Trusted:
    """`wall_ms` after what is held was given."""
    now_ms = to_ms(parse_rfc3339(AT)) + wall_ms
    return Trusted(earliest_ms=now_ms, latest_ms=None, now_ms=now_ms, boot_ms=boot_ms, boot_id=boot)


def offered(task_id: str = "t", attempt: int = 1) -> Offered:
    return Offered(
        task_id=task_id,
        attempt=attempt,
        task_type=AGENT_SESSION,
        inputs={"agent_id": "a", "prompt": "p"},
        away_policy=AwayPolicy.WAIT,
        away_after_ms=None,
        max_execution_sec=60,
    )


def test_a_new_task_is_begun() -> None:
    assert [one.task_id for one in steps_of({"t": Verdict.START}, [offered()], {}).begin] == ["t"]


@pytest.mark.parametrize("verdict", list(Verdict))
def test_what_runs_is_never_begun_again(verdict: Verdict) -> None:
    steps = steps_of({"t": verdict}, [offered()], {"t": held()})
    assert steps.begin == ()
    assert steps.stop == (("t",) if verdict is Verdict.STOP else ())


def test_an_end_that_was_not_heard_is_told_again_and_not_done_again() -> None:
    mine = held(state=AssignmentState.COMPLETED, ended_at=AT)
    steps = steps_of({"t": Verdict.START}, [offered()], {"t": mine})
    assert (steps.begin, steps.tell) == ((), ("t",))


def test_a_further_attempt_of_what_has_ended_is_begun() -> None:
    mine = held(state=AssignmentState.STOPPED, ended_at=AT)
    assert [
        one.attempt for one in steps_of({"t": Verdict.START}, [offered(attempt=2)], {"t": mine}).begin
    ] == [2]


def test_what_the_control_plane_does_not_know_is_not_stopped_by_silence() -> None:
    assert steps_of({}, [], {"t": held()}) == ((), (), ())


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(list(Verdict)))),
    st.lists(st.sampled_from("abc"), unique=True),
    st.dictionaries(st.sampled_from("abc"), st.sampled_from(list(AssignmentState))),
)
def test_nothing_is_both_begun_and_stopped(
    verdicts: list[tuple[str, Verdict]], tasks: list[str], states: dict[str, AssignmentState]
) -> None:
    mine = {
        task: held(
            task, state=state, ended_at=AT if state.value in ("completed", "failed", "stopped") else None
        )
        for task, state in states.items()
    }
    steps = steps_of(dict(verdicts), [offered(task) for task in tasks], mine)
    begun = {one.task_id for one in steps.begin}
    assert not begun & set(steps.stop)
    assert not begun & set(mine)
    assert all(not mine[task].has_ended for task in steps.stop)


# --- away


def test_only_the_policy_stop_ends_work_and_only_after_its_time() -> None:
    many = [
        held("wait", away_policy=AwayPolicy.WAIT, away_after_ms=1),
        held("move", away_policy=AwayPolicy.MOVE, away_after_ms=1),
        held("stop", away_policy=AwayPolicy.STOP, away_after_ms=60_000),
        held(
            "ended", away_policy=AwayPolicy.STOP, away_after_ms=1, state=AssignmentState.FAILED, ended_at=AT
        ),
        held("ending", away_policy=AwayPolicy.STOP, away_after_ms=1, stop_cause=StopCause.AWAY),
    ]
    assert overdue(many, 59_999, time()) == {}
    assert next_overdue(many, 59_000, time()) == 1_000
    assert overdue(many, 60_000, time()) == {"stop": StopCause.AWAY}
    assert next_overdue(many, 10**9, time()) == 0
    assert next_overdue(many[:2], 10**9, time()) is None


def test_a_session_runs_for_its_time_by_the_boot_clock_and_no_longer() -> None:
    one = held(session_id="s", limit_ms=60_000, begun_boot_id="boot-1", begun_boot_ms=5_000)
    assert next_overdue([one], 0, time(wall_ms=10**7, boot_ms=64_000)) == 1_000
    assert overdue([one], 0, time(wall_ms=10**7, boot_ms=64_999)) == {}
    assert overdue([one], 0, time(wall_ms=-(10**7), boot_ms=65_000)) == {"t": StopCause.TIME_LIMIT}
    assert overdue([one], 0, time(wall_ms=59_999, boot_ms=10**9, boot="boot-2")) == {}
    assert overdue([one], 0, time(wall_ms=60_000, boot_ms=0, boot="boot-2")) == {"t": StopCause.TIME_LIMIT}


def test_leases_and_what_has_ended_or_not_begun_have_no_time_limit() -> None:
    ended = held(state=AssignmentState.COMPLETED, ended_at=AT, session_id="s", limit_ms=1)
    waiting = held(state=AssignmentState.STARTING, limit_ms=1)
    lease = held(lease_id="l", limit_ms=1)
    assert next_overdue([ended, waiting, lease], 0, time(wall_ms=10**9)) is None


def test_the_reason_that_came_first_is_the_reason() -> None:
    one = held(session_id="s", limit_ms=60_000, away_policy=AwayPolicy.STOP, away_after_ms=60_000)
    assert overdue([one], 61_000, time(wall_ms=62_000)) == {"t": StopCause.TIME_LIMIT}
    assert overdue([one], 62_000, time(wall_ms=61_000)) == {"t": StopCause.AWAY}


def test_what_becomes_of_a_task_whose_session_ends() -> None:
    for status in SessionStatus:
        assert (ended_state(status, None) is None) == (status not in TERMINAL)
    assert ended_state(SessionStatus.SUCCESS, StopCause.AWAY) is AssignmentState.COMPLETED
    assert ended_state(SessionStatus.KILLED, StopCause.AWAY) is AssignmentState.STOPPED
    assert ended_state(SessionStatus.KILLED, None) is AssignmentState.FAILED


# --- inputs


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (None, "no object"),
        ([], "no object"),
        ({}, "inputs.agent_id is missing"),
        ({"agent_id": "a"}, "inputs.prompt is missing"),
        ({"agent_id": "a", "prompt": "  "}, "inputs.prompt is missing"),
        ({"agent_id": 1, "prompt": "p"}, "inputs.agent_id is no string"),
        ({"agent_id": "a", "prompt": "p", "model": {}}, "inputs.model is no string"),
    ],
)
def test_inputs_that_are_no_order(inputs: Any, words: str) -> None:
    found = read_order(inputs)
    assert isinstance(found, str)
    assert words in found


def test_an_order_is_read() -> None:
    found = read_order({"agent_id": "a", "prompt": "p", "title": "t", "model": None, "more": 1})
    assert not isinstance(found, str)
    assert (found.agent_id, found.prompt, found.title, found.model) == ("a", "p", "t", None)


def test_a_failure_is_short() -> None:
    assert len(failure("code", "x" * 10_000)["error"]["message"]) == 500
