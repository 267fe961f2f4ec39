"""Δv in words: names and units of its inputs, its parameters with their ranges, its line of the status."""

from math import isfinite
from typing import NamedTuple

import msgspec

from ambientd.core.delta_v_account import Basis
from ambientd.core.delta_v_inputs import VELOCITY_MAX, Inputs
from ambientd.wire.autonomy_messages import DeltaVStatus
from ambientd.wire.delta_v_messages import DeltaVInput, DeltaVParameter

_INPUTS = (("power", "P", "W"), ("load", "w", ""), ("velocity", "v", ""), ("inertia", "M", "GiB"))
_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = ".:-=+*#@"


class _Parameter(NamedTuple):
    name: str
    unit: str
    minimum: float
    maximum: float
    meaning: str


# The safe ranges: in them no exponent comes near ±700, and sums of years stay far below the largest float.
# The configuration takes a little more.
PARAMETERS = (
    _Parameter("isp", "", 0.0, 1e6, "Isp: scales the result"),
    _Parameter("eta", "", 0.0, 1.0, "η: the share of the power that counts"),
    _Parameter("alpha", "", 0.0, 1.0, "α: how fast Δv falls with w² and grows with v"),
    _Parameter("v0", "", 0.0, VELOCITY_MAX, "v0: the velocity that is on target"),
    _Parameter("target_load", "processes/core", 0.0, 4.0, "the run queue per core at which w is 0"),
    _Parameter("nominal_rate", "sessions/h", 0.001, 1e6, "completions per hour at which v is 1"),
    _Parameter("idle_power", "W", 0.0, 1e5, "power of the idle machine, where it is estimated"),
    _Parameter("core_power", "W/core", 0.0, 1e4, "power of a busy core, where it is estimated"),
)


def input_views(inputs: Inputs) -> list[DeltaVInput]:
    """The inputs with names, symbols and units."""
    found = []
    for name, symbol, unit in _INPUTS:
        one = getattr(inputs, name)
        found.append(
            DeltaVInput(
                name=name,
                symbol=symbol,
                value=one.value,
                unit=unit,
                source=one.source,
                confidence=one.confidence,
                reason=one.reason,
            )
        )
    return found


def parameter_views(basis: Basis) -> list[DeltaVParameter]:
    """All that the sum depends on, with units and safe ranges."""
    values = {**msgspec.structs.asdict(basis.parameters), **msgspec.structs.asdict(basis.yardstick)}
    return [DeltaVParameter(item.name, float(values[item.name]), *item[1:]) for item in PARAMETERS]


def figure(value: float) -> str:
    """Three digits of a number, however large or small: `3.42`, `97.2k`, `9.18e305`, `1.2e-09`."""
    if value == 0 or not isfinite(value):
        return f"{value:g}"
    size = abs(value)
    for limit, unit in ((1e3, ""), (1e6, "k"), (1e9, "M"), (1e12, "G")):
        if 1e-2 <= size < limit * 0.9995:
            return f"{value / (limit / 1e3):#.3g}".rstrip(".") + unit
    return f"{value:.2e}".replace("e+", "e")


def spark(values: list[float], *, ascii_only: bool = False) -> str:
    """A small chart from nothing to the largest."""
    bars = _ASCII_BARS if ascii_only else _BARS
    most = max(values, default=0.0)
    if most <= 0:
        return bars[0] * len(values)
    return "".join(bars[min(len(bars) - 1, int(value / most * len(bars)))] for value in values)


def delta_v_line(found: DeltaVStatus, *, ascii_only: bool = False) -> str:
    """The row of the status: over the window, with a small chart."""
    hours = found.window_sec / 3600
    if found.window_value is None:
        return found.reason or (f"nothing within {hours:g}h" if found.samples else "no sample yet")
    text = f"{figure(found.window_value)} over {hours:g}h"
    if found.spark:
        text += f" ({spark(found.spark, ascii_only=ascii_only)})"
    if found.confidence in ("low", "unknown"):
        text += f", {found.confidence} confidence"
    return text
