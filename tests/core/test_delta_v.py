"""The formula against given vectors and against arithmetic of sixty digits."""

import json
import math
import sys
from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ambientd.core.delta_v import (
    EXPONENT_MAX,
    INERTIA_MIN,
    Formula,
    Parameters,
    Sample,
    Total,
    difference,
    integrate,
    rate_per_hour,
)

VECTORS = json.loads((Path(__file__).parents[1] / "data/vectors/delta_v.json").read_text())["vectors"]
DEFAULT = Formula(Parameters())
ULP_MAX = 4
LARGEST = Decimal(sys.float_info.max)


def exactly(work: Callable[[], Decimal]) -> Decimal:
    """Works with sixty digits and exponents without end."""
    with localcontext(Context(prec=60, Emax=10**9, Emin=-(10**9))):
        return work()


def reference(parameters: Parameters, samples: list[Sample]) -> Decimal:
    """The clamped formula, as it is written down."""
    alpha, v0 = Decimal(parameters.alpha), Decimal(parameters.v0)
    total = Decimal(0)
    for sample in samples:
        gates = [-alpha * Decimal(sample.load) ** 2, 2 * alpha * v0 * Decimal(sample.velocity)]
        term = max(Decimal(sample.power), Decimal(0)) * max(Decimal(sample.dt), Decimal(0))
        for gate in gates:
            term *= max(Decimal(-EXPONENT_MAX), min(Decimal(EXPONENT_MAX), gate)).exp()
        total += term / max(Decimal(sample.inertia), Decimal(INERTIA_MIN))
    return Decimal(parameters.isp) * Decimal(parameters.eta) * (-alpha * v0 * v0).exp() * total


def ulps(value: float, expected: Decimal) -> float:
    """How far a float is from a value, in units of its last place."""
    return float(abs(Decimal(value) - expected) / Decimal(math.ulp(float(expected))))


def summed(*samples: Sample, formula: Formula = DEFAULT) -> Total:
    return integrate(formula, Total(), samples)


# --- the vectors

# The clamp at ±700 is required (R1.38), so `formula_clamped` is what holds, also where a single exponent
# without a clamp would overflow. Where the outer factor is below every float the exact value comes out, not
# the 0 of floating point. Parameters with which the formula means nothing are refused, and samples that are
# no numbers are left out and counted (R1.42), where the original took NaN for 0 or was spoilt by it for good.
BAD_PARAMETERS = {"negative_alpha_inf", "negative_alpha_no_samples_nan"}
LEFT_OUT = {"nan_p": 1, "nan_workload_poison": 1}
CORRECTED = {"negative_p_and_dt": 2}
CLAMPED = {"velocity_exponent_+2e5": 1, "both_clamped_opposite": 1}
POISONED = {"nan_workload_poison"}  # the file has no value for it: ten times the first vector's


def samples_of(vector: dict[str, Any]) -> list[Sample]:
    names = ("p_input", "workload", "velocity", "inertia", "dt")
    return [
        Sample(*(float(item[name]) for name in names))
        for item in vector["samples"]
        for _ in range(item["repeat"])
    ]


def test_the_file_has_all_vectors() -> None:
    names = {vector["name"] for vector in VECTORS}
    assert len(VECTORS) == len(names) == 14
    assert names >= BAD_PARAMETERS | LEFT_OUT.keys() | CORRECTED.keys() | CLAMPED.keys()


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_vector(vector: dict[str, Any]) -> None:
    name, parameters = vector["name"], Parameters(**vector["params"])
    if name in BAD_PARAMETERS:
        assert vector["merged"]["status"] == "bad_params"
        with pytest.raises(ValueError, match="alpha is negative"):
            Formula(parameters)
        return
    samples = samples_of(vector)
    total = integrate(Formula(parameters), Total(), samples)
    assert total.status == "ok"
    assert total.not_finite == total.refused == LEFT_OUT.get(name, 0)
    assert total.corrected == CORRECTED.get(name, 0)
    assert total.clamped == CLAMPED.get(name, 0)
    assert total.samples == len(samples) - LEFT_OUT.get(name, 0)
    expected = (
        Decimal(VECTORS[0]["formula_exact"]) * 10 if name in POISONED else Decimal(vector["formula_clamped"])
    )
    if expected == 0:
        assert total.value == 0
    else:
        assert ulps(total.value, expected) <= ULP_MAX
        assert math.isclose(total.value, float(expected), rel_tol=1e-12)


def test_an_outer_factor_below_every_float_is_no_zero() -> None:
    vector = next(vector for vector in VECTORS if vector["name"] == "outer_gate_underflow")
    total = integrate(Formula(Parameters(**vector["params"])), Total(), samples_of(vector))
    assert vector["original_f64"] == 0.0
    assert total.value == vector["formula_exact_f64"]


# --- the rows of the list


def test_one_sample_and_a_second_one() -> None:
    first = summed(Sample(100, 0.5, 1.2, 10, 1))
    assert math.isclose(first.value, 11.218734375719384, rel_tol=1e-9)
    second = integrate(DEFAULT, first, [Sample(90, 0.6, 1.1, 9, 1)])
    assert math.isclose(second.value, 22.095023313807644, rel_tol=1e-9)
    assert (first.samples, second.samples) == (1, 2)


def test_nothing_is_exactly_nothing() -> None:
    assert (Total().value, Total().samples, Total().status) == (0.0, 0, "ok")


def test_a_velocity_out_of_all_bounds_is_clamped() -> None:
    total = summed(Sample(100, 0, 1e6, 1, 1))
    assert total.value == 9.177151136957274e305
    assert total.clamped == 1


@pytest.mark.parametrize(
    "sample",
    [Sample(-5, 0.5, 1, 10, 1), Sample(5, 0.5, 1, 10, -1), Sample(5, 0.5, 1, 0, 0), Sample(0, 0.5, 1, 10, 1)],
)
def test_what_is_below_its_bound_adds_nothing_and_takes_nothing(sample: Sample) -> None:
    before = summed(Sample(100, 0.5, 1.2, 10, 1))
    after = integrate(DEFAULT, before, [sample])
    assert after.value == before.value
    assert after.samples == 2
    assert after.refused == 0


def test_no_inertia_is_the_least_inertia() -> None:
    least = summed(Sample(100, 0, 1, INERTIA_MIN, 1)).value
    for inertia in (0.0, -3.0, 1e-300):
        total = summed(Sample(100, 0, 1, inertia, 1))
        assert total.value == least
        assert total.corrected == 1


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_left_out_and_counted(place: int, odd: float) -> None:
    sample = [100.0, 0.5, 1.2, 10.0, 1.0]
    sample[place] = odd
    total = summed(Sample(*sample), Sample(100, 0.5, 1.2, 10, 1))
    assert math.isclose(total.value, 11.218734375719384, rel_tol=1e-15)
    assert (total.samples, total.not_finite, total.status) == (1, 1, "ok")


def test_a_sum_that_would_overflow_stays_as_it_is_and_says_so() -> None:
    huge = Sample(1e5, 0, 1e6, 1, 1)
    total = integrate(DEFAULT, Total(), [huge] * 300)
    assert math.isfinite(total.value)
    assert total.samples < 300
    assert total.samples + total.overflowed == 300
    assert total.status == "overflow"
    later = integrate(DEFAULT, total, [Sample(100, 0.5, 1.2, 10, 1)])
    assert later.samples == total.samples + 1
    assert summed(Sample(1e300, 0, 1e6, 1, 1e300)).value == 0


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        (Parameters(isp=-1), "isp is negative"),
        (Parameters(eta=math.nan), "eta is not finite"),
        (Parameters(alpha=math.inf), "alpha is not finite"),
        (Parameters(v0=math.nan), "v0 is not finite"),
    ],
)
def test_parameters_without_a_meaning_are_refused(parameters: Parameters, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Formula(parameters)


FINITE = st.floats(-1e3, 1e3)
SAMPLES = st.builds(
    Sample,
    st.floats(0, 1e6) | st.sampled_from([1e-300, 5e-324, 1e308]),
    FINITE | st.floats(-30, 30) | st.floats(allow_nan=False, allow_infinity=False),
    FINITE | st.floats(-30, 30) | st.floats(allow_nan=False, allow_infinity=False),
    st.floats(1e-3, 1e5) | st.floats(-1, 1e-10) | st.floats(1e-3, 1.7e308),
    st.floats(0, 1e5) | st.sampled_from([1e-300, 1e308]),
)
PARAMETERS = st.builds(
    Parameters,
    isp=st.floats(0, 1e6) | st.sampled_from([1.0, 1e300]),
    eta=st.floats(0, 1) | st.just(1.0),
    alpha=st.floats(0, 10) | st.sampled_from([0.1, 1e-310, 1e300]),
    v0=st.floats(-10, 10) | st.floats(-60, 60) | st.sampled_from([1.0, 1e300]),
)


@given(PARAMETERS, st.lists(SAMPLES, min_size=1, max_size=6))
def test_every_finite_sum_is_within_four_units_of_the_last_place(
    parameters: Parameters, samples: list[Sample]
) -> None:
    expected = exactly(partial(reference, parameters, samples))
    total = integrate(Formula(parameters), Total(), samples)
    if expected > LARGEST:
        assert total.status == "overflow"
        assert math.isfinite(total.value)
        return
    assume(expected < LARGEST * Decimal("0.999999"))
    assert total.refused == 0
    assert ulps(total.value, expected) <= ULP_MAX


@given(st.lists(SAMPLES, min_size=2, max_size=30))
def test_a_sum_never_falls_and_does_not_depend_on_the_order(samples: list[Sample]) -> None:
    total, seen = Total(), 0.0
    for sample in samples:
        after = integrate(DEFAULT, total, [sample])
        assert after.value >= seen
        assert after.units - total.units >= 0
        total, seen = after, after.value
    if total.overflowed == 0:
        assert integrate(DEFAULT, Total(), samples[::-1]).units == total.units == summed(*samples).units


GATED = {"load": st.floats(-5, 5), "velocity": st.floats(-5, 5), "inertia": st.floats(0.01, 1e4)}
POWER = st.floats(1e-3, 1e5)


@given(POWER, GATED["load"], GATED["velocity"], GATED["inertia"], st.integers(1, 50))
def test_two_halves_of_an_interval_are_the_whole(
    power: float, load: float, velocity: float, inertia: float, parts: int
) -> None:
    piece = Sample(power, load, velocity, inertia, 1.0)
    many = integrate(DEFAULT, Total(), [piece] * parts).value
    assert math.isclose(many, summed(piece._replace(dt=float(parts))).value, rel_tol=1e-15)


@given(POWER, GATED["load"], GATED["velocity"], GATED["inertia"], st.floats(1.001, 10))
def test_it_grows_with_power_and_velocity_and_falls_with_deviation_and_inertia(
    power: float, load: float, velocity: float, inertia: float, more: float
) -> None:
    assume(abs(load) > 1e-3)
    sample = Sample(power, load, velocity, inertia, 60.0)
    value = summed(sample).value
    assert summed(sample._replace(power=power * more)).value > value
    assert summed(sample._replace(velocity=velocity + more)).value > value
    assert summed(sample._replace(load=load * more)).value < value
    assert summed(sample._replace(load=-load)).value == value
    assert summed(sample._replace(inertia=inertia * more)).value < value


def test_terms_that_floats_lose_beside_a_large_one_are_kept() -> None:
    large, small = Sample(1e16, 0, 0, 1, 1), Sample(1, 0, 0, 1, 1)
    flat = Formula(Parameters(alpha=0.0))
    total = integrate(flat, integrate(flat, Total(), [large]), [small] * 1000)
    assert total.value == 1e16 + 1000
    tiny = Sample(5e-324, 0, 0, 4, 1)  # a quarter of the smallest float each
    assert integrate(flat, Total(), [tiny]).value == 0
    assert integrate(flat, Total(), [tiny] * 1000).value == 5e-324 * 250


def test_what_came_between_two_states() -> None:
    before = summed(Sample(100, 0.5, 1.2, 10, 1))
    after = integrate(DEFAULT, before, [Sample(100, 0.5, 1.2, 10, 1)])
    assert difference(after, before) == before.value
    assert difference(before, after) == 0


def test_a_rate_is_per_hour() -> None:
    assert rate_per_hour(5.0, 60.0) == 300.0
    assert rate_per_hour(5.0, 0.0) is None
    assert rate_per_hour(1e308, 1e-3) is None
