"""The figure that a node reports of itself."""

import pytest

from ambientd.core.health import CRITICAL, WARNING
from ambientd.core.nodehealth import health_score
from ambientd.core.pushbodies import Meters
from ambientd.wire.messages import Problem

IDLE = Meters(cpu=1.0, memory=20.0, disk=30.0)


def problem(name: str, severity: str) -> Problem:
    return Problem(id=name, severity=severity, text="x")


@pytest.mark.parametrize(
    ("problems", "meters", "expected"),
    [
        ([], IDLE, 100.0),
        ([("feed.full", WARNING)], IDLE, 90.0),
        ([(f"agent.{n}", WARNING) for n in range(9)], IDLE, 70.0),
        ([("store", CRITICAL)], IDLE, 60.0),
        ([("store", CRITICAL), ("feed", CRITICAL), ("x", CRITICAL)], IDLE, 0.0),
        ([("control.away", CRITICAL)], IDLE, 100.0),  # no fault of the node
        ([], Meters(cpu=100.0, memory=95.0, disk=99.0), 60.0),
        ([], Meters(cpu=1.0, memory=20.0), 95.0),
        ([], Meters(), 90.0),
    ],
)
def test_what_takes_from_it(problems: list[tuple[str, str]], meters: Meters, expected: float) -> None:
    assert health_score([problem(*one) for one in problems], meters) == expected


def test_a_load_that_cannot_be_read_never_looks_better_than_one_that_is_fine() -> None:
    assert health_score([], Meters(cpu=1.0, memory=None, disk=30.0)) < health_score([], IDLE)
