"""Which of a machine's power meters is believed, and what is estimated where there is none."""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from ambientd.wire.enums import MetricConfidence

MODEL = "model:cpu-time"
NOTHING_FOUND = "no power meter was found"


class MeterKind(StrEnum):
    """What a meter covers: the whole machine, its processors, a graphics card, or some other part."""

    WHOLE = "whole"
    CPU = "cpu"
    GPU = "gpu"
    OTHER = "other"


class Metered(msgspec.Struct, frozen=True):
    """What one meter says; `problem` is why it says nothing, in words."""

    kind: MeterKind
    source: str
    watts: float | None = None
    problem: str | None = None


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """One input of the formula with where it comes from; `reason` says why it is no better."""

    value: float
    source: str
    confidence: MetricConfidence
    reason: str | None = None


def choose_power(
    found: Sequence[Metered], *, busy_cores: float | None, idle_power: float, core_power: float
) -> Input:
    """Watts of the machine, from the first that there is: a meter of the whole machine (high), of its
    processors or other parts (medium), an estimate from the busy cores (low). Graphics cards with a meter of
    their own are added to all but the first."""
    told = [meter for meter in found if meter.watts is not None]
    whole = next((meter for meter in told if meter.kind is MeterKind.WHOLE), None)
    if whole is not None:
        return Input(value=whole.watts or 0.0, source=whole.source, confidence=MetricConfidence.HIGH)
    reason = "; ".join(dict.fromkeys(meter.problem for meter in found if meter.problem)) or None
    cards = [meter for meter in told if meter.kind is MeterKind.GPU]
    for kind in (MeterKind.CPU, MeterKind.OTHER):
        parts = [meter for meter in told if meter.kind is kind]
        if parts:
            return _summed([*parts, *cards], MetricConfidence.MEDIUM, reason)
    estimate = Metered(MeterKind.CPU, MODEL, idle_power + core_power * (busy_cores or 0.0))
    if reason is None:
        reason = NOTHING_FOUND
    if busy_cores is None:
        reason += "; the time of the cores cannot be read either"
    return _summed([estimate, *cards], MetricConfidence.LOW, reason)


def _summed(parts: Sequence[Metered], confidence: MetricConfidence, reason: str | None) -> Input:
    return Input(
        value=sum(part.watts or 0.0 for part in parts),
        source="+".join(dict.fromkeys(part.source for part in parts)),
        confidence=confidence,
        reason=reason,
    )
