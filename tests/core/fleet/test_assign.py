"""Which nodes get a task, and what a node that is back keeps."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.fleet.assign import Candidate, can_take, choose, room_of, status_for
from ambientd.core.fleet.reconcile import reconcile, surplus
from ambientd.core.fleet.records import AssignmentRecord, Away, Capabilities, Requirements
from ambientd.core.fleet.tasktypes import CONNECT_ONLY, TASK_TYPES
from ambientd.wire.fleet_enums import DetachReason, ExecutionStatus, NodeType, TaskStatus, Verdict

AT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
BIG = Capabilities(bandwidth_mbps=1000, cpu_cores=64, memory_gb=256, gpu_available=True)
COMPUTATION = TASK_TYPES["computation"]


def candidate(node_id: str = "n", **fields: Any) -> Candidate:
    facts: dict[str, Any] = {
        "owner_id": "ann",
        "node_type": NodeType.COMPUTE,
        "capabilities": BIG,
        "registered_at": AT,
    }
    return Candidate(node_id=node_id, **(facts | fields))


def has(**fields: Any) -> Capabilities:
    facts: dict[str, Any] = {"bandwidth_mbps": 50, "cpu_cores": 4, "memory_gb": 8, "gpu_available": False}
    return Capabilities(**(facts | fields))


@pytest.mark.parametrize(
    ("change", "asks", "expected"),
    [
        ({"capabilities": has()}, {}, True),
        ({"capabilities": has(bandwidth_mbps=49.9)}, {}, False),
        ({"capabilities": has(cpu_cores=3)}, {}, False),
        ({"capabilities": has(memory_gb=7.9)}, {}, False),
        ({"capabilities": has()}, {"require_gpu": True}, False),
        ({}, {"require_gpu": True}, True),
        ({"node_type": NodeType.ANY}, {}, True),
        ({"node_type": NodeType.STORAGE}, {}, False),
        ({"active": 49, "foreign": 24}, {}, True),
        ({"active": 25, "foreign": 25}, {}, False),
        ({"active": 50}, {}, False),
        ({"connected": True}, {}, True),
    ],
)
def test_who_can_take_a_computation(change: dict[str, Any], asks: dict[str, Any], expected: bool) -> None:
    assert can_take(candidate(**change), COMPUTATION, Requirements(**asks)) is expected


@given(st.integers(1, 1000), st.floats(0, 1), st.integers(0, 1000))
def test_whatever_strangers_hand_in_the_owner_keeps_the_share(most: int, share: float, own: int) -> None:
    room = room_of(most, share)
    own = min(own, most - room.others)
    foreign = 0
    while can_take(
        candidate(active=own + foreign, foreign=foreign),
        COMPUTATION,
        Requirements(),
        creator_id="bob",
        room=room,
    ):
        foreign += 1
    assert foreign <= most - int(most * share)
    mine = candidate(active=own + foreign, foreign=foreign)
    takes = can_take(mine, COMPUTATION, Requirements(), creator_id="ann", room=room)
    assert takes is (own < int(most * share))


def test_a_node_has_one_connect_session_at_a_time() -> None:
    kind = TASK_TYPES[CONNECT_ONLY]
    free = candidate(node_type=NodeType.OPEN_INTERNET)
    busy = candidate(node_type=NodeType.OPEN_INTERNET, connected=True)
    assert (can_take(free, kind, Requirements()), can_take(busy, kind, Requirements())) == (True, False)


def test_a_session_of_an_agent_goes_to_nodes_of_its_own_owner_of_any_type() -> None:
    kind = TASK_TYPES["agent_session"]
    mine, foreign = candidate(node_type=NodeType.STORAGE), candidate(owner_id="bob")
    assert can_take(mine, kind, Requirements(), creator_id="ann")
    assert not can_take(foreign, kind, Requirements(), creator_id="ann")
    assert can_take(foreign, COMPUTATION, Requirements(), creator_id="ann")


@given(st.lists(st.booleans(), max_size=12), st.integers(0, 12))
def test_the_first_that_can_are_chosen_until_there_are_enough(able: list[bool], missing: int) -> None:
    nodes = [candidate(f"n{n}", active=0 if fits else 50) for n, fits in enumerate(able)]
    chosen = choose(COMPUTATION, Requirements(), missing=missing, candidates=nodes)
    assert chosen == [f"n{n}" for n, fits in enumerate(able) if fits][:missing]


def test_work_is_spread_over_the_nodes_that_can_do_it() -> None:
    nodes = [candidate(f"n{n}", active=active) for n, active in enumerate((3, 1, 0, 1))]
    assert choose(COMPUTATION, Requirements(), missing=3, candidates=nodes) == ["n2", "n1", "n3"]


def test_a_task_runs_once_it_has_as_many_nodes_as_it_needs() -> None:
    asks = Requirements(min_nodes=2)
    assert [status_for(asks, n) for n in range(4)] == [
        TaskStatus.PENDING,
        TaskStatus.PENDING,
        TaskStatus.RUNNING,
        TaskStatus.RUNNING,
    ]


def assignment(task_id: str, **fields: Any) -> AssignmentRecord:
    facts: dict[str, Any] = {
        "node_id": "n",
        "task_type": "computation",
        "task_status": TaskStatus.RUNNING,
        "requirements": Requirements(),
        "away": Away(),
        "assigned_at": AT,
    }
    return AssignmentRecord(task_id=task_id, **(facts | fields))


def former(task_id: str, reason: DetachReason, **fields: Any) -> AssignmentRecord:
    return assignment(task_id, disconnected_at=AT, reason=reason, **fields)


@pytest.mark.parametrize(
    ("known", "elsewhere", "expected", "back"),
    [
        (None, False, Verdict.STOP, False),
        (assignment("t"), False, Verdict.KEEP, False),
        (assignment("t"), True, Verdict.KEEP, False),
        (assignment("t", task_status=TaskStatus.COMPLETED), False, Verdict.STOP, False),
        (former("t", DetachReason.MOVED), True, Verdict.KEEP, True),
        (former("t", DetachReason.MOVED, task_status=TaskStatus.FAILED), True, Verdict.STOP, False),
        (former("t", DetachReason.STOPPED), True, Verdict.STOP, False),
        (former("t", DetachReason.STOPPED), False, Verdict.KEEP, True),
        (former("t", DetachReason.NODE_DELETED), False, Verdict.STOP, False),
        (former("t", DetachReason.SESSION_ENDED), False, Verdict.STOP, False),
        (former("t", DetachReason.SURPLUS), True, Verdict.STOP, False),
    ],
)
def test_what_a_node_that_is_back_does_with_work_that_runs(
    known: AssignmentRecord | None, elsewhere: bool, expected: Verdict, back: bool
) -> None:
    found = reconcile(["t"], {} if known is None else {"t": known}, frozenset("t" if elsewhere else ""))
    assert found.verdicts == {"t": expected}
    assert found.back == (("t",) if back else ())
    assert found.lost == ()


def test_what_it_does_not_run_is_begun() -> None:
    known = {
        "new": assignment("new"),
        "lost": assignment("lost", execution_status=ExecutionStatus.IN_PROGRESS),
        "done": assignment("done", execution_status=ExecutionStatus.COMPLETED),
        "over": assignment("over", task_status=TaskStatus.COMPLETED),
        "gone": former("gone", DetachReason.MOVED),
    }
    found = reconcile([], known, frozenset())
    assert found.verdicts == {"new": Verdict.START, "lost": Verdict.START}
    assert found.lost == ("lost",)


def test_the_latest_that_have_not_begun_are_spare() -> None:
    running = assignment("t", node_id="a", execution_status=ExecutionStatus.IN_PROGRESS)
    idle = [
        assignment("t", node_id=node, assigned_at=AT + timedelta(seconds=n)) for n, node in enumerate("bcd")
    ]
    assert surplus([running, *idle], 2) == ["d", "c"]
    assert surplus([running, *idle], 4) == []
    assert surplus([running], 0) == []
