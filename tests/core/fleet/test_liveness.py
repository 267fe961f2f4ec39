"""When a silent node counts as unknown and as offline, and what becomes of its work."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.fleet.away import STOP_DRIFT, STOP_GRACE, taken_away
from ambientd.core.fleet.liveness import LivenessTimes, changes, status_at, suspects_before
from ambientd.core.fleet.records import Away, AwayAssignment, QuietNode
from ambientd.wire.fleet_enums import AwayPolicy, DetachReason, NodeStatus

AT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
TIMES = LivenessTimes()
ONLINE, UNKNOWN, OFFLINE = NodeStatus.ONLINE, NodeStatus.UNKNOWN, NodeStatus.OFFLINE


def quiet(
    seconds: float, status: NodeStatus = ONLINE, interval_ms: int = 60_000, node_id: str = "n"
) -> QuietNode:
    seen = AT - timedelta(seconds=seconds)
    return QuietNode(node_id=node_id, status=status, last_seen=seen, report_interval_ms=interval_ms)


@pytest.mark.parametrize(
    ("silent", "interval_ms", "expected"),
    [
        (0, 60_000, ONLINE),
        (179.9, 60_000, ONLINE),
        (180, 60_000, UNKNOWN),
        (899, 60_000, UNKNOWN),
        (900, 60_000, OFFLINE),
        (10**7, 60_000, OFFLINE),
        # who reports more often is not dropped sooner: a restart of the node must not look like its loss
        (100, 10_000, ONLINE),
        (180, 10_000, UNKNOWN),
        # who reports less often is given as many intervals
        (800, 300_000, ONLINE),
        (900, 300_000, UNKNOWN),
        (4500, 300_000, OFFLINE),
        (-50, 60_000, ONLINE),
    ],
)
def test_a_nodes_standing_follows_its_silence(silent: float, interval_ms: int, expected: NodeStatus) -> None:
    assert status_at(quiet(silent, ONLINE, interval_ms), AT, TIMES) is expected


def test_only_a_report_makes_it_better() -> None:
    assert status_at(quiet(1, UNKNOWN), AT, TIMES) is UNKNOWN


@given(st.lists(st.tuples(st.floats(0, 5000), st.sampled_from([ONLINE, UNKNOWN]))))
def test_changes_are_those_that_stand_worse(nodes: list[tuple[float, NodeStatus]]) -> None:
    seen = [quiet(silent, status, node_id=str(n)) for n, (silent, status) in enumerate(nodes)]
    found = {change.node_id: change for change in changes(seen, AT, TIMES)}
    order = [ONLINE, UNKNOWN, OFFLINE]
    for node in seen:
        after = status_at(node, AT, TIMES)
        assert (node.node_id in found) is (after is not node.status)
        assert order.index(after) >= order.index(node.status)
        if node.node_id in found:
            assert node.last_seen < suspects_before(AT, TIMES) + timedelta(milliseconds=1)
            assert found[node.node_id].last_seen == node.last_seen


def held(policy: AwayPolicy, after_ms: int | None, away: float) -> AwayAssignment:
    return AwayAssignment(
        task_id="t",
        node_id="n",
        away=Away(policy=policy, after_ms=after_ms),
        node_status=OFFLINE,
        last_seen=AT - timedelta(seconds=away),
    )


@pytest.mark.parametrize(
    ("policy", "after_ms", "away", "expected"),
    [
        (AwayPolicy.WAIT, None, 10**7, None),
        (AwayPolicy.WAIT, 1, 10**7, None),
        (AwayPolicy.MOVE, 600_000, 599, None),
        (AwayPolicy.MOVE, 600_000, 600, DetachReason.MOVED),
        (AwayPolicy.STOP, 600_000, 600, None),
        (AwayPolicy.STOP, 600_000, 600 * (1 + STOP_DRIFT) + STOP_GRACE - 1, None),
        (AwayPolicy.STOP, 600_000, 600 * (1 + STOP_DRIFT) + STOP_GRACE, DetachReason.STOPPED),
    ],
)
def test_work_is_taken_away_as_its_policy_says(
    policy: AwayPolicy, after_ms: int | None, away: float, expected: DetachReason | None
) -> None:
    assert taken_away(held(policy, after_ms, away), AT) is expected
