"""The node's score against given vectors; and that nothing is won by not measuring."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.fleet.nodescore import Measured, node_score, slower_of

VECTORS = json.loads((Path(__file__).parents[2] / "data/vectors/node_health.json").read_text())["vectors"]


def measured(vector: dict[str, Any]) -> Measured:
    return Measured(
        bandwidth_mbps=slower_of(vector["upload_mbps"], vector["download_mbps"], vector["bandwidth_mbps"]),
        latency_ms=vector["latency_ms"],
        cpu=vector["cpu"],
        memory=vector["mem"],
        completed=vector["completed"],
        failed=vector["failed"],
        disputes=vector["disputes"],
    )


def test_the_file_has_all_vectors() -> None:
    assert len(VECTORS) == 6


@pytest.mark.parametrize("vector", VECTORS, ids=range(len(VECTORS)))
def test_a_node_that_was_measured_scores_as_the_fleet_api_says(vector: dict[str, Any]) -> None:
    found = node_score(measured(vector))
    assert found.value == pytest.approx(vector["health_score"], abs=1e-12)
    assert (found.most, found.unmeasured) == (1.0, ())


def test_a_node_that_nobody_measured_has_nothing_to_show() -> None:
    """The fleet API gives it 0.55: zero latency, and a processor that rests."""
    assert node_score(Measured()) == (0, 0, ("bandwidth", "latency", "compute", "reputation"))
    half = node_score(Measured(latency_ms=20, cpu=50, memory=None))
    assert half.value == pytest.approx(0.24)
    assert half.most == 0.3
    assert half.unmeasured == ("bandwidth", "compute", "reputation")


@given(
    st.sampled_from(VECTORS),
    st.sets(st.sampled_from(("bandwidth_mbps", "latency_ms", "cpu", "memory", "completed", "failed"))),
)
def test_what_is_left_out_never_helps(vector: dict[str, Any], gone: set[str]) -> None:
    whole = measured(vector)
    less = node_score(msgspec.structs.replace(whole, **dict.fromkeys(gone)))
    assert less.value <= node_score(whole).value + 1e-12
    assert less.value <= less.most + 1e-12
    assert bool(less.unmeasured) is bool(gone)
