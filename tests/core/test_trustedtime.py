"""Trusted time under arbitrary wall clocks, suspends, restarts and switched-off machines."""

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.trustedtime import (
    DAY_MS,
    OFF_MAX_MS,
    SLACK_MS,
    STEP_MAX_MS,
    Mark,
    Reading,
    Trusted,
    accept,
    fold,
    judge,
)

RELEASED = round(datetime(2026, 11, 1, tzinfo=UTC).timestamp() * 1000)
T0 = RELEASED + 20 * DAY_MS
HOUR = 3_600_000
YEAR = 365 * DAY_MS


class Machine:
    """A machine with a true time, a wall clock that is off by something, and a node that keeps its mark."""

    def __init__(self, true_ms: int = T0) -> None:
        self.true = true_ms
        self.off = 0
        self.boots = 1
        self.boot_ms = HOUR
        self.mark: Mark | None = None
        self.synchronised = False

    def reading(self) -> Reading:
        return Reading(
            wall_ms=self.true + self.off,
            boot_ms=self.boot_ms,
            boot_id=f"boot-{self.boots}",
            synchronised=self.synchronised,
        )

    def look(self) -> Trusted:
        reading = self.reading()
        self.mark = fold(self.mark, reading, released_ms=RELEASED)
        return judge(self.mark, reading, released_ms=RELEASED)

    def run(self, ms: int) -> None:
        """Time passes; a suspend is the same to the boot clock."""
        self.true += ms
        self.boot_ms += ms

    def restart(self) -> None:
        """The daemon alone: the mark is read again as it was written."""
        if self.mark is not None:
            self.mark = msgspec.json.decode(msgspec.json.encode(self.mark), type=Mark)

    def reboot(self, off_ms: int) -> None:
        self.true += off_ms
        self.boots += 1
        self.boot_ms = 5_000
        self.restart()


OFFSETS = st.one_of(
    st.sampled_from([0, DAY_MS, -DAY_MS, 2 * DAY_MS, 100 * DAY_MS, 10 * YEAR, -T0, -YEAR, HOUR, -4_990_000]),
    st.integers(-60 * YEAR, 60 * YEAR),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("run"), st.integers(0, 3 * DAY_MS)),
        st.tuples(st.just("set"), OFFSETS),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("reboot"), st.integers(0, 200 * DAY_MS)),
        st.tuples(st.just("ntp"), st.integers(0, 1)),
    ),
    max_size=30,
)


def do(machine: Machine, step: tuple[str, int]) -> None:
    name, value = step
    if name == "run":
        machine.run(value)
    elif name == "set":
        machine.off, machine.synchronised = value, False
    elif name == "restart":
        machine.restart()
    elif name == "reboot":
        machine.reboot(value)
    else:
        machine.synchronised = bool(value)
        machine.off = 0 if value else machine.off


@given(STEPS)
def test_the_floor_never_goes_back_and_now_is_never_before_it(steps: list[tuple[str, int]]) -> None:
    machine, floor = Machine(), 0
    for step in steps:
        do(machine, step)
        found = machine.look()
        assert found.earliest_ms >= max(floor, RELEASED)
        assert found.now_ms >= found.earliest_ms
        assert found.latest_ms is None or found.latest_ms == found.now_ms
        floor = found.earliest_ms


@given(STEPS, st.integers(0, 40 * DAY_MS))
def test_what_had_expired_by_a_believed_clock_is_never_valid_again(
    steps: list[tuple[str, int]], life: int
) -> None:
    """Valid as a lease is: the latest possible time is known, and before the expiry."""
    machine, expiry, expired = Machine(), T0 + life, False
    for step in steps:
        do(machine, step)
        found = machine.look()
        valid = found.latest_ms is not None and found.latest_ms < expiry
        assert not (valid and expired)
        assert not (valid and found.earliest_ms >= expiry)
        expired = expired or found.earliest_ms >= expiry


@given(STEPS, st.integers(0, 40 * DAY_MS))
def test_a_clock_that_was_right_once_in_this_boot_lets_nothing_expired_through(
    steps: list[tuple[str, int]], life: int
) -> None:
    """However the wall clock is set afterwards, the boot clock knows how much later it is."""
    machine, expiry = Machine(), T0 + life
    machine.look()
    for step in steps:
        if step[0] == "reboot":
            continue
        do(machine, step)
        found = machine.look()
        if machine.true >= expiry:
            assert found.latest_ms is None or found.latest_ms >= expiry


@given(STEPS)
def test_time_passes_by_the_boot_clock_at_least(steps: list[tuple[str, int]]) -> None:
    machine = Machine()
    before = machine.look()
    for step in steps:
        boot = machine.boot_ms
        do(machine, step)
        found = machine.look()
        if step[0] == "run":
            assert found.earliest_ms - before.earliest_ms >= machine.boot_ms - boot
        before = found


def test_a_wall_clock_that_runs_is_believed() -> None:
    machine = Machine()
    for _ in range(100):
        machine.run(HOUR)
        found = machine.look()
        assert (found.doubt, found.now_ms, found.latest_ms) == (None, machine.true, machine.true)


def test_set_back_it_is_in_doubt_and_time_goes_on_from_what_was_seen() -> None:
    machine = Machine()
    machine.look()
    machine.off = -4_990_000
    machine.run(600_000)
    found = machine.look()
    assert (found.now_ms, found.earliest_ms, found.latest_ms) == (machine.true,) * 3
    assert found.doubt == "the wall clock is 1 h behind what this node has seen"


def test_a_day_ahead_is_believed_and_stays_over_a_restart() -> None:
    machine = Machine()
    machine.look()
    machine.off = STEP_MAX_MS
    assert machine.look().earliest_ms == T0 + DAY_MS
    machine.off = 0
    machine.restart()
    found = machine.look()
    assert found.now_ms == T0 + DAY_MS
    assert found.doubt == "the wall clock is 1 d behind what this node has seen"


def test_ten_years_ahead_refuses_while_it_lasts_and_leaves_no_mark() -> None:
    machine = Machine()
    machine.look()
    machine.off = 10 * YEAR
    found = machine.look()
    assert found.earliest_ms == T0
    assert found.latest_ms == found.now_ms == T0 + 10 * YEAR
    assert found.doubt == "the wall clock is 3650 d ahead of where it should be, and nothing confirms it"
    machine.off = 0
    machine.restart()
    found = machine.look()
    assert (found.doubt, found.now_ms) == (None, T0)


def test_a_synchronised_kernel_is_believed_however_far_it_goes() -> None:
    machine = Machine()
    machine.look()
    machine.off, machine.synchronised = 10 * YEAR, True
    found = machine.look()
    assert (found.doubt, found.earliest_ms) == (None, T0 + 10 * YEAR)


@pytest.mark.parametrize("wall", [0, RELEASED - 1])
def test_a_boot_in_1970_knows_the_mark_and_no_more(wall: int) -> None:
    machine = Machine()
    machine.look()
    machine.reboot(3 * HOUR)
    machine.off = wall - machine.true
    found = machine.look()
    assert (found.earliest_ms, found.now_ms, found.latest_ms) == (T0, T0, None)
    assert found.doubt == "the wall clock is before the day this version was made: it was never set"
    machine.run(HOUR)
    machine.off = 0
    found = machine.look()
    assert (found.doubt, found.latest_ms) == (None, machine.true)


def test_the_first_start_of_all_in_1970_waits_for_a_clock() -> None:
    machine = Machine()
    machine.off = -T0
    found = machine.look()
    assert (found.earliest_ms, found.latest_ms) == (RELEASED, None)
    machine.off = 0
    assert machine.look().latest_ms == T0


def test_set_back_while_the_machine_was_off_nothing_is_known_to_be_valid() -> None:
    machine = Machine()
    machine.look()
    machine.reboot(0)
    machine.off = -SLACK_MS - 1
    assert machine.look().latest_ms is None


def test_a_season_off_is_believed() -> None:
    machine = Machine()
    machine.look()
    machine.reboot(OFF_MAX_MS)
    found = machine.look()
    assert (found.doubt, found.earliest_ms) == (None, machine.true)


def test_years_off_are_remembered_for_refusing_until_something_confirms_them() -> None:
    """The clock may have been right: setting it back must not make valid what had expired."""
    machine = Machine()
    machine.look()
    machine.reboot(YEAR)
    assert machine.look().latest_ms is None
    machine.off = -YEAR
    machine.restart()
    found = machine.look()
    assert found.latest_ms == found.now_ms == machine.true
    assert found.doubt == "the wall clock was 365 d later before it was set, and nothing refutes it"
    machine.synchronised = True
    found = machine.look()
    assert (found.doubt, found.latest_ms) == (None, machine.true - YEAR)


def test_an_operator_may_set_the_mark_back_but_not_before_the_release() -> None:
    machine = Machine()
    machine.off = 80 * DAY_MS
    machine.look()
    machine.off = 0
    assert machine.look().doubt is not None
    machine.mark = accept(machine.reading(), released_ms=RELEASED)
    found = machine.look()
    assert (found.doubt, found.now_ms, found.latest_ms) == (None, T0, T0)
    machine.off = RELEASED - 1 - T0
    assert accept(machine.reading(), released_ms=RELEASED) is None


def test_steps_of_less_than_a_minute_are_not_worth_a_word() -> None:
    machine = Machine()
    machine.look()
    machine.off = -SLACK_MS
    found = machine.look()
    assert (found.doubt, found.now_ms) == (None, T0)
