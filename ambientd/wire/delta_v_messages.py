"""The efficiency metric Δv as `GET /api/v1/node/delta-v` answers it; keys are only ever added.

Δv is a sum over time and grows without end: compare rates (`per_hour`), not sums of different lengths.
"""

import msgspec

from ambientd.wire.enums import MetricConfidence


class DeltaVInput(msgspec.Struct, omit_defaults=True):
    """An input of the last sample; `reason` says why its source is no better."""

    name: str
    symbol: str
    value: float
    unit: str
    source: str
    confidence: MetricConfidence
    reason: str | None = None


class DeltaVParameter(msgspec.Struct):
    """A setting (`delta_v.<name>`) that the sum depends on, with its unit and the range that is safe."""

    name: str
    value: float
    unit: str
    minimum: float
    maximum: float
    meaning: str


class DeltaVWindow(msgspec.Struct):
    """What was measured since `since`. `seconds` of it were, `gap_sec` passed without. `confidence` is the
    weakest; `value` is null when it is too large for a number."""

    since: str
    seconds: float
    gap_sec: float
    value: float | None
    per_hour: float | None
    joules: float
    samples: int
    refused: int
    confidence: MetricConfidence


class DeltaVPoint(msgspec.Struct):
    """A piece of the window: its sum and rate, and the mean inputs."""

    at: str
    seconds: float
    gap_sec: float
    value: float
    per_hour: float | None
    watts: float | None
    load: float | None
    velocity: float | None
    inertia: float | None
    samples: int
    refused: int
    source: str
    confidence: MetricConfidence


class DeltaVSession(msgspec.Struct):
    """A session's part. `source` says how its part of the power is known: by processor time, or in equal
    shares. `current` is false for one that was counted with other parameters."""

    session_id: str
    since: str
    value: float
    per_hour: float | None
    seconds: float
    joules: float
    samples: int
    refused: int
    source: str
    confidence: MetricConfidence
    current: bool


class DeltaVRefused(msgspec.Struct):
    """Samples that were not added: not finite, or with which the sum would overflow."""

    not_finite: int = 0
    overflow: int = 0


class DeltaVAnswer(msgspec.Struct, omit_defaults=True):
    """`GET /api/v1/node/delta-v`.

    `value` is the sum since `since`, in `unit`; `reason` why it does not go further back. `status` is
    "overflow" when samples were too large to be added, which makes the sum a lower bound, else "ok".
    `clamped` samples had an exponent cut at ±700, `corrected` ones an input below its bound. `history` has
    pieces of `step_sec`; `sessions` are those with the largest parts, or the one that was asked for.
    """

    generated_at: str
    status: str
    value: float
    unit: str
    mapping: str
    since: str
    generation: int
    seconds: float
    gap_sec: float
    samples: int
    refused: DeltaVRefused
    clamped: int
    corrected: int
    interval_sec: float
    window: DeltaVWindow
    inputs: list[DeltaVInput]
    parameters: list[DeltaVParameter]
    step_sec: int
    history: list[DeltaVPoint]
    sessions: list[DeltaVSession]
    reason: str | None = None
