"""The AILEE efficiency metric Δv as a sum that loses nothing (seed "AILEE ∆v Metric", Equation 1).

    Δv = Isp · η · e^(−α·v0²) · Σ P · e^(−α·w²) · e^(2α·v0·v) / M · dt

Each of the two inner exponents is clamped to ±700 by itself, the outer one is not (R1.38). All three are
added before anything is raised to a power, so that an outer factor of e^−900 and an inner one of e^600 make
e^−300 and not 0. Exponents, factors and the sum are integers in fixed point: of the whole computation only
`exp` of a number between −0.35 and 0.35, and the last conversion to a float, are rounded. Adding is exact,
whatever the order and the sizes of the terms.
"""

from collections.abc import Iterable
from math import exp, frexp, isfinite
from typing import NamedTuple

import msgspec

EXPONENT_MAX = 700
"""Bound of each inner exponent, both ways."""

INERTIA_MIN = 2.0**-52
"""What an M of less counts as (R1.40)."""

# Exponents in units of 2^-128: below half a unit in the last place of any result by 60 bits and more.
_BITS = 128
_ONE = 1 << _BITS
_UNIT = 2.0**-_BITS
_LN2 = 0xB17217F7D1CF79ABC9E3B39803F2F6AF
_HALF_LN2 = _LN2 >> 1
_CLAMP = EXPONENT_MAX << _BITS
# Past this the outer factor makes 0 of every term: the others are below 2^4148 and e^1400.
_OUTER_MAX = 8000 << _BITS
# Mantissas as whole numbers. What `exp` gives for the rest of an exponent is a whole number of 2^-53 too.
_FLOAT_BITS = 53
_FLOAT_SCALE = 2.0**_FLOAT_BITS
# The sum in units of 2^-1200, so that terms below the smallest float add up to what they are.
_SUM_BITS = 1200
_SUM_ONE = 1 << _SUM_BITS
_LOAD_SHIFT, _VELOCITY_SHIFT = _BITS - 2 * _FLOAT_BITS, _BITS - _FLOAT_BITS
_TERM_SHIFT = _SUM_BITS - _BITS - 2 * _FLOAT_BITS  # two mantissas over one, and exp
_INERTIA_MIN_POWER = -52 + _FLOAT_BITS
_SUM_MAX = int((2.0**53 - 1) * 2.0**971) << _SUM_BITS  # the largest float


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """The formula's constants, all without a unit. `isp` and `eta` scale the result; `alpha` says how fast it
    falls with a deviation of the load and grows with velocity; `v0` is the velocity that is on target."""

    isp: float = 1.0
    eta: float = 1.0
    alpha: float = 0.1
    v0: float = 1.0

    @property
    def problem(self) -> str | None:
        """Why the formula means nothing with these; None when it does."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not isfinite(value):
                return f"{name} is not finite"
            if value < 0 and name != "v0":
                return f"{name} is negative"
        return None


class Sample(NamedTuple):
    """One interval: power in W, deviation of the load, velocity, inertia, and its length in seconds."""

    power: float
    load: float
    velocity: float
    inertia: float
    dt: float


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """A sum and what went into it; made by `integrate`, good to be stored and gone on with.

    `units` is the sum in units of 2^-1200. `samples` are those that were added. Refused were `not_finite`
    ones (NaN or infinite) and `overflowed` ones (with which the sum would not be finite any more). `clamped`
    are samples with an exponent cut at ±700: their share is no longer what the formula means. `corrected` are
    samples with a negative power or interval, which count as 0, or an inertia of less than 2^-52.
    """

    units: int = 0
    samples: int = 0
    not_finite: int = 0
    overflowed: int = 0
    clamped: int = 0
    corrected: int = 0

    @property
    def value(self) -> float:
        """Δv, correctly rounded; always finite."""
        return self.units / _SUM_ONE

    @property
    def refused(self) -> int:
        """Samples that were not added."""
        return self.not_finite + self.overflowed

    @property
    def status(self) -> str:
        """`overflow` when a sample was too large to be added: the value is then a lower bound. Else `ok`."""
        return "overflow" if self.overflowed else "ok"


class Formula:
    """Parameters made ready, each as a whole number and a power of two.

    Raises ValueError for those with which the formula means nothing.
    """

    __slots__ = ("alpha", "gain", "outer", "parameters", "slope")

    def __init__(self, parameters: Parameters) -> None:
        problem = parameters.problem
        if problem is not None:
            raise ValueError(problem)
        self.parameters = parameters
        self.alpha = an, ae = _whole(parameters.alpha)
        vn, ve = _whole(parameters.v0)
        self.slope = an * vn, ae + ve + 1
        self.outer = min(_moved(an * vn * vn, ae + 2 * ve + _BITS), _OUTER_MAX)
        (in_, ie), (en, ee) = _whole(parameters.isp), _whole(parameters.eta)
        self.gain = in_ * en, ie + ee


def _whole(value: float) -> tuple[int, int]:
    """A finite float exactly, as a whole number and the power of two it is multiplied with."""
    part, power = frexp(value)
    return int(part * _FLOAT_SCALE), power - _FLOAT_BITS


def _moved(number: int, power: int) -> int:
    """A whole number times a power of two, cut downwards to a whole number."""
    return number << power if power >= 0 else number >> -power


def integrate(formula: Formula, total: Total, samples: Iterable[Sample]) -> Total:
    """The sum with further samples. One that cannot be added is counted and changes nothing else."""
    (an, ae), (cn, ce), (gn, ge), outer = formula.alpha, formula.slope, formula.gain, formula.outer
    units, added, not_finite, overflowed = total.units, total.samples, total.not_finite, total.overflowed
    clamped, corrected = total.clamped, total.corrected
    ae, ce, ge = ae + _LOAD_SHIFT, ce + _VELOCITY_SHIFT, ge + _TERM_SHIFT
    for power, load, velocity, inertia, dt in samples:
        try:  # in line, for half of the time would go into calls
            p, pe = frexp(power)
            w, we = frexp(load)
            v, ve = frexp(velocity)
            m, me = frexp(inertia)
            t, te = frexp(dt)
            pn, wn, vn = int(p * _FLOAT_SCALE), int(w * _FLOAT_SCALE), int(v * _FLOAT_SCALE)
            mn, tn = int(m * _FLOAT_SCALE), int(t * _FLOAT_SCALE)
        except (OverflowError, ValueError):  # infinite, or no number
            not_finite += 1
            continue
        if inertia < INERTIA_MIN:
            mn, me = 1, _INERTIA_MIN_POWER
            corrected += 1
        elif pn < 0 or tn < 0:
            corrected += 1
        if pn <= 0 or tn <= 0:
            added += 1
            continue
        x, y = _moved(an * wn * wn, ae + 2 * we), _moved(cn * vn, ce + ve)
        if x > _CLAMP or not -_CLAMP <= y <= _CLAMP:
            x, y = min(x, _CLAMP), max(-_CLAMP, min(y, _CLAMP))
            clamped += 1
        x = y - x - outer
        k = (x + _HALF_LN2) // _LN2
        x -= k * _LN2
        rest = float(x)
        grown = int(exp(rest * _UNIT) * _FLOAT_SCALE) * (_ONE + x - int(rest))
        step = _moved(pn * tn * gn * grown // mn, pe + te - me + ge + k)
        if units + step > _SUM_MAX:
            overflowed += 1
            continue
        units += step
        added += 1
    return Total(
        units=units,
        samples=added,
        not_finite=not_finite,
        overflowed=overflowed,
        clamped=clamped,
        corrected=corrected,
    )


def difference(after: Total, before: Total) -> float:
    """What was added between two states of one sum; never less than 0."""
    return max(0, after.units - before.units) / _SUM_ONE


def rate_per_hour(value: float, seconds: float) -> float | None:
    """A sum over `seconds` as a rate; None when nothing was measured, or it is too large for a float."""
    if seconds <= 0:
        return None
    rate = value / seconds * 3600.0
    return rate if isfinite(rate) else None
