"""Which meter is believed, what the inputs are made of, and how the power is parted."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.delta_v_inputs import (
    HIGH,
    LOW,
    MEDIUM,
    VELOCITY_MAX,
    Present,
    Reading,
    Yardstick,
    build_inputs,
    share_power,
)
from ambientd.core.power import MODEL, NOTHING_FOUND, Input, Metered, MeterKind, choose_power

WHOLE = Metered(MeterKind.WHOLE, "battery", 12.5)
PACKAGE = Metered(MeterKind.CPU, "rapl:package", 20.0)
CARD = Metered(MeterKind.GPU, "nvml", 100.0)
RAIL = Metered(MeterKind.OTHER, "hwmon:ina226", 7.0)
REFUSED = Metered(MeterKind.CPU, "rapl:package", problem="RAPL needs read access to energy_uj")


def chosen(*found: Metered, busy: float | None = 1.5) -> Input:
    return choose_power(found, busy_cores=busy, idle_power=10.0, core_power=4.0)


@pytest.mark.parametrize(
    ("found", "watts", "source", "confidence"),
    [
        ((PACKAGE, WHOLE, CARD), 12.5, "battery", HIGH),
        ((PACKAGE,), 20.0, "rapl:package", MEDIUM),
        ((PACKAGE, CARD, RAIL), 120.0, "rapl:package+nvml", MEDIUM),
        ((RAIL, RAIL), 14.0, "hwmon:ina226", MEDIUM),
        ((CARD,), 116.0, f"{MODEL}+nvml", LOW),
        ((), 16.0, MODEL, LOW),
        ((REFUSED,), 16.0, MODEL, LOW),
        ((REFUSED, RAIL), 7.0, "hwmon:ina226", MEDIUM),
    ],
)
def test_the_best_meter_there_is(
    found: tuple[Metered, ...], watts: float, source: str, confidence: str
) -> None:
    power = chosen(*found)
    assert (power.value, power.source, power.confidence) == (watts, source, confidence)
    if REFUSED in found:
        assert power.reason == REFUSED.problem


def test_why_there_is_no_better_one_is_said() -> None:
    assert chosen().reason == NOTHING_FOUND
    assert chosen(busy=None).value == 10.0
    assert chosen(busy=None).reason == f"{NOTHING_FOUND}; the time of the cores cannot be read either"
    assert chosen(WHOLE, REFUSED).reason is None
    assert chosen(REFUSED, Metered(MeterKind.GPU, "nvml", problem="nvml: lost")).reason == (
        "RAPL needs read access to energy_uj; nvml: lost"
    )


def reading(**changes: object) -> Reading:
    facts: dict[str, object] = {"seconds": 60.0, "busy": 60.0, "cores": 2, "queue": 2.4, "memory": 4.0}
    return Reading(**(facts | changes))  # type: ignore[arg-type]


def test_the_mapping() -> None:
    inputs = build_inputs(reading(power=(PACKAGE,)), 12, Yardstick(target_load=0.7, nominal_rate=6.0))
    assert inputs.sample(60.0) == (20.0, 0.5, 2.0, 4.0, 60.0)
    assert inputs.sample(60.0, 0.25).power == 5.0
    assert inputs.confidence is MEDIUM
    assert [one.source for one in (inputs.power, inputs.load, inputs.velocity, inputs.inertia)] == [
        "rapl:package",
        "loadavg",
        "ledger",
        "meminfo",
    ]


def test_a_load_below_the_target_is_as_far_away_as_one_above() -> None:
    below, above = (
        build_inputs(reading(queue=queue), 0, Yardstick(target_load=1.0)).load for queue in (1.0, 3.0)
    )
    assert below.value == above.value == 0.5


def test_without_a_run_queue_the_time_of_the_cores_is_the_load() -> None:
    load = build_inputs(reading(queue=None), 0, Yardstick(target_load=0.7)).load
    assert (round(load.value, 9), load.source, load.confidence) == (0.2, "cpu-time", MEDIUM)


def test_what_cannot_be_read_has_a_stand_in_that_is_not_trusted() -> None:
    inputs = build_inputs(Reading(), None, Yardstick())
    assert inputs.sample(1.0) == (10.0, 0.7, 0.0, 1.0, 1.0)
    found = (inputs.power, inputs.load, inputs.velocity, inputs.inertia)
    assert {one.confidence for one in found} == {LOW}
    assert all(one.reason for one in found)


def test_a_rush_of_completions_does_not_run_away_with_the_sum() -> None:
    velocity = build_inputs(reading(), 10_000, Yardstick()).velocity
    assert (velocity.value, velocity.confidence) == (VELOCITY_MAX, LOW)
    assert velocity.reason is not None


def parts(present: list[Present], found: Reading, dt: float = 60.0) -> dict[str, tuple[float, str]]:
    return {one.session_id: (one.part, one.source) for one in share_power(present, found, dt)}


def test_power_is_parted_by_processor_time_and_the_rest_in_equal_shares() -> None:
    found = reading(sessions={"a": 30.0, "b": 6.0})
    shares = parts([Present("a", 60), Present("b", 60), Present("c", 60), Present("d", 30)], found)
    assert shares == {
        "a": (0.5, "cpu-time"),
        "b": (0.1, "cpu-time"),
        "c": (0.2, "equal"),
        "d": (0.1, "equal"),
    }


def test_without_any_processor_time_all_have_the_same() -> None:
    shares = parts([Present("a", 60), Present("b", 60)], Reading(seconds=60.0))
    assert shares == {"a": (0.5, "equal"), "b": (0.5, "equal")}


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.none() | st.floats(0, 1e6)), max_size=20),
    st.none() | st.floats(0, 1e6),
    st.floats(0, 1e5),
)
def test_the_parts_never_come_to_more_than_the_whole(
    given_sessions: list[tuple[float, float | None]], busy: float | None, dt: float
) -> None:
    present = [Present(str(number), seconds) for number, (seconds, _) in enumerate(given_sessions)]
    used = {str(number): cpu for number, (_, cpu) in enumerate(given_sessions) if cpu is not None}
    shares = share_power(present, reading(busy=busy, sessions=used), dt)
    assert len(shares) == len(present)
    assert all(0 <= share.part <= 1 + 1e-9 for share in shares)
    assert math.fsum(share.part for share in shares) <= 1 + 1e-9
