"""How much a node can do and how quickly, as the fleet API weighs it; what was not measured adds nothing.

This is no judgement of whether a node is well: that is its own `health_score` (`core.nodehealth`).
"""

from typing import NamedTuple

import msgspec

# What each part is worth; together 1.
BANDWIDTH, LATENCY, COMPUTE, REPUTATION = 0.4, 0.3, 0.2, 0.1
_BANDWIDTH_BEST = 1_000.0  # Mbit/s
_LATENCY_WORST = 100.0  # ms
_DISPUTE, _DISPUTES_MOST = 0.05, 0.3
_UNTRIED = 0.5  # a node that has had no task


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a node, None where nobody has measured it: Mbit/s, milliseconds, percent, tasks."""

    bandwidth_mbps: float | None = None
    latency_ms: float | None = None
    cpu: float | None = None
    memory: float | None = None
    completed: int | None = None
    failed: int | None = None
    disputes: int = 0


class NodeScore(NamedTuple):
    """`value` of at most `most`, which is 1 when everything was measured; `unmeasured` names the rest."""

    value: float
    most: float
    unmeasured: tuple[str, ...]


def slower_of(up_mbps: float, down_mbps: float, either_mbps: float) -> float:
    """The bandwidth that counts of three figures, of which those that are not positive were not measured."""
    if up_mbps > 0 and down_mbps > 0:
        return min(up_mbps, down_mbps)
    return next((one for one in (up_mbps, down_mbps) if one > 0), either_mbps)


def node_score(node: Measured) -> NodeScore:
    """The sum of the parts that were measured."""
    parts = (
        ("bandwidth", BANDWIDTH, _bandwidth(node)),
        ("latency", LATENCY, _latency(node)),
        ("compute", COMPUTE, _compute(node)),
        ("reputation", REPUTATION, _reputation(node)),
    )
    known = [(worth, part) for _, worth, part in parts if part is not None]
    return NodeScore(
        value=sum(worth * part for worth, part in known),
        most=min(1.0, round(sum(worth for worth, _ in known), 9)),
        unmeasured=tuple(name for name, _, part in parts if part is None),
    )


def _clamped(value: float) -> float:
    return min(1.0, max(0.0, value))


def _bandwidth(node: Measured) -> float | None:
    return None if node.bandwidth_mbps is None else _clamped(node.bandwidth_mbps / _BANDWIDTH_BEST)


def _latency(node: Measured) -> float | None:
    return None if node.latency_ms is None else _clamped(1 - node.latency_ms / _LATENCY_WORST)


def _compute(node: Measured) -> float | None:
    """Of half a measurement nothing is said."""
    if node.cpu is None or node.memory is None:
        return None
    return _clamped(((100 - node.cpu) + (100 - node.memory)) / 200)


def _reputation(node: Measured) -> float | None:
    if node.completed is None or node.failed is None:
        return None
    total = node.completed + node.failed
    if total == 0:
        return _UNTRIED
    return _clamped(node.completed / total - min(_DISPUTE * node.disputes, _DISPUTES_MOST))
