import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.connectivity import (
    ALLOWED,
    NO_CONTROL_PLANE,
    SOONEST_SEC,
    Action,
    Answer,
    Changed,
    Link,
    Links,
    Probe,
    State,
    judge,
    may,
    next_round,
    since,
    step,
)
from ambientd.wire.enums import Connectivity

ONLINE, OFFLINE, NONE = Connectivity.ONLINE, Connectivity.OFFLINE, Connectivity.NO_UPSTREAM
YES, NO = Answer(True, latency_ms=3), Answer(False, "connect timeout")
ROUTED, BARE = Links(usable=(Link("eth0", routed=True),)), Links(usable=(Link("eth0"),))
DOWN, BLIND = Links(none="no link is up"), Links(error="the interfaces cannot be read")
NOW = datetime(2026, 11, 20, 15, 40, tzinfo=UTC)

RANK = {NONE: 0, OFFLINE: 1, ONLINE: 2}
GOOD = Probe(links=ROUTED, control=YES)
CUT = Probe(links=ROUTED, control=NO)
DEAD = Probe(links=DOWN)

ANSWERS = st.sampled_from([YES, NO])
PROBES = st.builds(
    Probe,
    links=st.sampled_from([ROUTED, BARE, DOWN, BLIND]),
    targets=st.lists(ANSWERS, max_size=3).map(tuple),
    control=st.none() | ANSWERS,
)
ROUNDS = st.lists(st.tuples(PROBES, st.floats(0.01, 40)), max_size=60)


@pytest.mark.parametrize(
    ("links", "targets", "control", "state", "reason"),
    [
        (DOWN, (), YES, NONE, "no link is up"),  # R1.48: whatever the control plane says
        (DOWN, (YES,), YES, NONE, "no link is up"),
        (ROUTED, (), YES, ONLINE, "the control plane answers"),
        (ROUTED, (), NO, OFFLINE, "connect timeout"),
        (ROUTED, (), None, OFFLINE, NO_CONTROL_PLANE),
        (BARE, (), None, NONE, "no default route"),
        (BARE, (), NO, NONE, "no default route"),
        (BARE, (), YES, ONLINE, "the control plane answers"),  # it is on the link
        (BARE, (YES,), NO, OFFLINE, "connect timeout"),
        (ROUTED, (NO, NO), NO, NONE, "no target answers (connect timeout)"),
        (ROUTED, (NO, YES), None, OFFLINE, NO_CONTROL_PLANE),
        (ROUTED, (NO,), YES, ONLINE, "the control plane answers"),
        (BLIND, (), NO, NONE, "the interfaces cannot be read"),
        (BLIND, (), YES, ONLINE, "the control plane answers"),
        (BLIND, (YES,), NO, OFFLINE, "connect timeout"),
    ],
)
def test_what_one_round_says(
    links: Links, targets: tuple[Answer, ...], control: Answer | None, state: Connectivity, reason: str
) -> None:
    verdict = judge(Probe(links=links, targets=targets, control=control))
    assert (verdict.state, verdict.reason) == (state, reason)


@pytest.mark.parametrize(("links", "state"), [(ROUTED, OFFLINE), (BARE, NONE), (DOWN, NONE)])
def test_an_order_to_stay_offline_is_a_state_with_its_own_reason(links: Links, state: Connectivity) -> None:
    verdict = judge(Probe(links=links, order="told so"))
    assert verdict.state is state
    assert (verdict.reason == "told so") == (state is OFFLINE)


def fold(
    state: State, rounds: list[tuple[Probe, float]], *, misses: int, hold: float
) -> list[tuple[float, State, tuple[Changed, ...], Probe]]:
    told, now = [], 100.0
    for probe, pause in rounds:
        now += pause
        state, effects = step(state, probe, now, misses=misses, hold=hold)
        told.append((now, state, effects, probe))
    return told


@given(ROUNDS, st.integers(1, 5), st.floats(0, 60))
def test_one_effect_per_change_and_none_otherwise(
    rounds: list[tuple[Probe, float]], misses: int, hold: float
) -> None:
    before = State()
    for now, state, effects, probe in fold(before, rounds, misses=misses, hold=hold):
        assert len(effects) == (before.name is not state.name)
        for changed in effects:
            assert (changed.before, changed.after) == (before.name, state.name)
            assert changed.after is judge(probe).state, "the newest evidence, nothing queued"
            assert changed.reason == state.reason != ""
            assert state.entered == now
        before = state


@given(ROUNDS, st.integers(1, 5), st.floats(0, 60))
def test_never_faster_than_the_hold_and_never_unknown_again(
    rounds: list[tuple[Probe, float]], misses: int, hold: float
) -> None:
    told = fold(State(), rounds, misses=misses, hold=hold)
    assert all(state.name is not Connectivity.UNKNOWN for _, state, _, _ in told)
    changes = [now for now, _, effects, _ in told if effects]
    assert all(later - earlier >= hold for earlier, later in itertools.pairwise(changes))


@given(ROUNDS, st.integers(1, 5))
def test_less_needs_so_many_rounds_in_a_row_that_spoke_for_less(
    rounds: list[tuple[Probe, float]], misses: int
) -> None:
    told = fold(State(), rounds, misses=misses, hold=0)
    names = [state.name for _, state, _, _ in told]
    for place, (_, _, effects, _) in enumerate(told):
        if place and effects and RANK[effects[0].after] < RANK[effects[0].before]:
            last = [judge(rounds[n][0]).state for n in range(place - misses + 1, place + 1)]
            assert len(last) == misses
            assert all(RANK[state] < RANK[names[place - 1]] for state in last)


@given(ROUNDS, PROBES, st.integers(1, 5), st.floats(0, 60))
def test_what_stays_true_becomes_the_state_within_the_misses_after_the_hold(
    rounds: list[tuple[Probe, float]], last: Probe, misses: int, hold: float
) -> None:
    told = fold(State(), rounds, misses=misses, hold=hold)
    now, state = (told[-1][0], told[-1][1]) if told else (100.0, State())
    now += hold  # the hold is over, whenever it began
    for _ in range(misses):
        now += 1
        state, _ = step(state, last, now, misses=misses, hold=hold)
    assert state.name is judge(last).state


def test_a_link_that_flaps_ten_times_a_second_moves_the_state_once_per_hold() -> None:
    state, hold = State(), 2.0
    changes: list[Changed] = []
    for tick in range(100):
        probe = DEAD if tick % 2 else GOOD
        state, effects = step(state, probe, 100 + tick / 10, misses=1, hold=hold)
        changes += effects
    assert 2 <= len(changes) <= 1 + 10 / hold
    state, changes = State(), []
    for tick in range(100):
        probe = DEAD if tick % 2 else GOOD
        state, effects = step(state, probe, 100 + tick / 10, misses=3, hold=hold)
        changes += effects
    assert changes == [Changed(Connectivity.UNKNOWN, ONLINE, "the control plane answers")]


def test_what_came_during_the_hold_is_neither_lost_nor_applied_late() -> None:
    """Both defects of the system before: a link that went down during the dwell time stayed up, and a stale
    failure was applied when a good probe came."""
    state, _ = step(State(), GOOD, 0.0, misses=1, hold=10)
    state, effects = step(state, DEAD, 5.0, misses=1, hold=10)
    assert (state.name, effects) == (ONLINE, ())
    down, effects = step(state, DEAD, 10.0, misses=1, hold=10)
    assert (down.name, len(effects)) == (NONE, 1)
    up, effects = step(state, GOOD, 10.0, misses=1, hold=10)
    assert (up.name, effects, up.misses) == (ONLINE, (), 0)


def test_an_order_is_followed_at_once() -> None:
    state, _ = step(State(), GOOD, 0.0, misses=5, hold=600)
    state, effects = step(state, Probe(links=ROUTED, order="told so"), 0.1, misses=5, hold=600)
    assert effects == (Changed(ONLINE, OFFLINE, "told so"),)


def test_the_reason_is_that_of_the_last_round_that_agreed() -> None:
    state, _ = step(State(), CUT, 0.0, misses=3, hold=0)
    refused = Probe(links=ROUTED, control=Answer(False, "connection refused"))
    state, effects = step(state, refused, 1.0, misses=3, hold=0)
    assert (state.reason, state.entered, effects) == ("connection refused", 0.0, ())
    state, _ = step(state, DEAD, 2.0, misses=3, hold=0)
    assert state.reason == "connection refused"


@given(
    PROBES, st.sampled_from([ONLINE, OFFLINE, NONE]), st.floats(0, 100), st.floats(1, 600), st.floats(0, 3600)
)
def test_the_next_round_is_never_at_once_and_never_later_than_the_interval(
    probe: Probe, name: Connectivity, now: float, interval: float, hold: float
) -> None:
    pause = next_round(State(name=name, entered=0.0), probe, now, interval=interval, hold=hold)
    assert min(SOONEST_SEC, interval) <= pause <= interval
    if judge(probe).state is name:
        assert pause == interval
    elif now >= hold:
        assert pause == min(interval, max(SOONEST_SEC, interval / 10))


@pytest.mark.parametrize("jump", [0, 86400, -86400, 10 * 365 * 86400, -56 * 365 * 86400, 3600, -3600])
def test_a_wall_clock_that_is_set_makes_no_duration_negative_or_longer(jump: float) -> None:
    began, passed = NOW, 372.0
    now = began + timedelta(seconds=passed + jump)
    assert abs((now - since(began, passed, now)).total_seconds() - passed) <= 2
    if not jump:
        assert since(began, passed + 0.7, now) == began, "the same text each time"


def test_what_each_state_allows() -> None:
    """R1.51, R1.52, R1.54: the table of the README."""
    assert {action for action in Action if may(ONLINE, action)} == set(Action)
    assert set(Action) - ALLOWED[OFFLINE] == {Action.WRITE_POLICIES, Action.RECONCILE}
    for state in (NONE, Connectivity.UNKNOWN):
        assert ALLOWED[state] == {Action.ADD_POLICIES, Action.RECEIVE_SYNC}
