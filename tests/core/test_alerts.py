from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import product
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ambientd.core import alerts
from ambientd.core.alertrules import AlertRule
from ambientd.core.alerts import (
    AlertState,
    Changed,
    Event,
    NoData,
    Notify,
    UnlistedTransitionError,
    acknowledge,
    evaluate,
    forget,
    mute,
    step,
)
from ambientd.wire.enums import AlertLifecycle, AlertReason, AlertStatus
from tests.core.test_alertrules import AT
from tests.core.test_alertrules import rule as make_rule

OK, WARNING, CRITICAL = AlertStatus.OK, AlertStatus.WARNING, AlertStatus.CRITICAL
RESOLVED = AlertStatus.RESOLVED
ACTIVE, SUPPRESSED, OVER = AlertLifecycle.ACTIVE, AlertLifecycle.SUPPRESSED, AlertLifecycle.RESOLVED
NO_DATA = NoData.NO_DATA
VALUES = {"ok": 0.1, "warn": 0.3, "crit": 0.6}
RULE = make_rule()  # warns at 0.25, is critical at 0.5, cooldown 300 s


class Run:
    """One rule evaluated again and again, a minute apart unless told otherwise."""

    def __init__(self, rule: AlertRule = RULE, now: datetime = AT) -> None:
        self.rule = rule
        self.state = AlertState(rule_id=rule.rule_id)
        self.now = now
        self.told: list[str] = []
        self.changes: list[str] = []

    def see(self, value: float | NoData | str, after: float = 60.0) -> str | None:
        """Evaluates; returns what was told."""
        measured = VALUES[value] if isinstance(value, str) else value
        self.now += timedelta(seconds=after)
        self.state, effects = evaluate(self.rule, self.state, measured, self.now)
        told = [effect.reason.value for effect in effects if isinstance(effect, Notify)]
        self.told += told
        self.changes += [effect.after.value for effect in effects if isinstance(effect, Changed)]
        return told[0] if told else None

    def all(self, values: Iterable[float | NoData | str], after: float = 60.0) -> list[str | None]:
        return [self.see(value, after) for value in values]

    @property
    def phase(self) -> tuple[AlertStatus, AlertLifecycle]:
        return self.state.status, self.state.lifecycle


# --- reminders


def test_what_lasts_is_told_again_only_by_a_rule_that_wants_it_and_only_at_its_period() -> None:
    run = Run(make_rule(renotify_sec=1800))
    assert run.all(["warn"] * 61, after=60) == ["active", *([*[None] * 29, "reminder"] * 2)]
    silent = Run()
    assert silent.all(["warn"] * 61, after=60) == ["active", *[None] * 60]


def test_an_escalation_and_an_end_are_told_as_ever_and_begin_the_period_anew() -> None:
    run = Run(make_rule(renotify_sec=600))
    assert run.all(["warn", "warn", "crit"], after=540) == ["active", None, "escalated"]
    assert run.all(["crit", "crit", "ok", "ok"], after=540) == [None, "reminder", "resolved", None]
    assert run.all(["ok"] * 20, after=540) == [None] * 20


def test_after_a_silent_fall_the_reminder_says_the_severity_of_the_moment() -> None:
    run = Run(make_rule(renotify_sec=600))
    run.all(["crit", "warn"])
    assert run.see("warn", after=600) == "reminder"
    assert run.phase == (WARNING, ACTIVE)
    assert run.see("crit") == "escalated"


def test_who_has_acknowledged_or_muted_an_alert_is_not_reminded() -> None:
    run = Run(make_rule(renotify_sec=600))
    run.see("warn")
    run.state = acknowledge(run.state, "uid:0", run.now) or run.state
    assert run.all(["warn"] * 5, after=600) == [None] * 5
    assert run.see("crit", after=600) == "escalated"
    run.state = mute(run.state, run.now + timedelta(hours=1), run.now)
    assert run.all(["crit"] * 5, after=600) == [None] * 5
    assert run.see("crit", after=600) == "reminder"


def test_nobody_is_reminded_while_there_is_no_data_or_after_the_end() -> None:
    run = Run(make_rule(renotify_sec=600))
    assert run.all(["warn", NO_DATA, NO_DATA], after=600) == ["active", None, None]
    assert run.see("warn", after=600) == "reminder"
    assert run.all(["ok", "ok", "ok"], after=600) == ["resolved", None, None]


def test_a_reminder_is_not_lost_for_a_day_because_the_clock_was_set_back_a_day() -> None:
    run = Run(make_rule(renotify_sec=600))
    run.see("warn")
    run.now -= timedelta(days=1)
    assert run.see("warn") == "reminder"


# --- the table


PHASES = list(product(AlertStatus, AlertLifecycle))
POSSIBLE = {
    (OK, OVER),
    (RESOLVED, OVER),
    (WARNING, ACTIVE),
    (WARNING, SUPPRESSED),
    (CRITICAL, ACTIVE),
    (CRITICAL, SUPPRESSED),
}


@pytest.mark.parametrize(("phase", "event"), list(product(PHASES, Event)), ids=str)
def test_every_pair_of_phase_and_event_leads_somewhere_or_is_an_error(
    phase: tuple[AlertStatus, AlertLifecycle], event: Event
) -> None:
    if phase not in POSSIBLE or (event is Event.EXPIRED and phase[1] is OVER):
        with pytest.raises(UnlistedTransitionError):
            step(phase, event)
        return
    after = step(phase, event)
    assert after in POSSIBLE
    named = {
        Event.WARNS: (WARNING, ACTIVE),
        Event.WARNS_QUIETLY: (WARNING, SUPPRESSED),
        Event.IS_CRITICAL: (CRITICAL, ACTIVE),
        Event.IS_CRITICAL_QUIETLY: (CRITICAL, SUPPRESSED),
        Event.FORGOTTEN: (OK, OVER),
    }
    if event in named:
        assert after == named[event]
    elif event in (Event.FINE, Event.EXPIRED):
        assert after == ((OK, OVER) if phase[1] is OVER else (RESOLVED, OVER))
    elif event in (Event.MUTED, Event.UNMUTED):
        assert after[0] is phase[0]
        assert phase[1] is OVER or after[1] is (SUPPRESSED if event is Event.MUTED else ACTIVE)
    else:
        assert after == ((OK, OVER) if phase[0] is RESOLVED else phase)


def test_the_table_lists_exactly_the_possible_phases() -> None:
    assert set(alerts.TRANSITIONS) == POSSIBLE


# --- what is told


def test_the_sequence_of_the_specification_tells_exactly_three_things() -> None:
    run = Run()
    run.all(["ok", "warn", "warn", "crit", "crit", "warn", "ok", "ok"])
    assert run.told == ["active", "escalated", "resolved"]
    assert run.changes == ["warning", "critical", "warning", "resolved"]
    assert run.phase == (OK, OVER)


@pytest.mark.parametrize("after", [1.0, 60.0, 300.0, 7200.0])
def test_that_sequence_tells_the_same_at_any_pace(after: float) -> None:
    run = Run()
    run.all(["ok", "warn", "warn", "crit", "crit", "warn", "ok", "ok"], after)
    assert run.told == ["active", "escalated", "resolved"]


def test_resolved_is_a_status_for_one_evaluation_and_told_once() -> None:
    run = Run()
    run.all(["warn", "ok"])
    assert run.phase == (RESOLVED, OVER)
    assert run.all(["ok"] * 20, 400) == [None] * 20
    assert run.phase == (OK, OVER)


def test_a_hundred_evaluations_in_the_cooldown_tell_nothing() -> None:
    run = Run()
    run.see("warn")
    assert run.all(["warn"] * 100, 2.9) == [None] * 100
    assert run.phase == (WARNING, SUPPRESSED)
    assert run.state.suppressed_until == AT + timedelta(seconds=360)
    assert run.state.fingerprint == "r-1|global//|warning|0"


def test_after_the_cooldown_it_is_active_again_and_still_tells_nothing() -> None:
    run = Run()
    run.see("warn")
    assert run.all(["warn"] * 10, 300) == [None] * 10
    assert run.phase == (WARNING, ACTIVE)
    assert run.state.suppressed_until is None


def test_a_value_that_drifts_at_one_severity_never_tells() -> None:
    steady = make_rule(warn_threshold=0.01, critical_threshold=1.0)
    run = Run(steady)
    run.see(0.011)
    marks = set()
    for drifting in (0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 0.9, 0.05, 0.011):
        assert run.see(drifting, 400) is None
        marks.add(alerts.fingerprint(steady, WARNING, drifting))
    assert len(marks) > 3
    assert run.told == ["active"]


def test_the_fingerprint_is_coarse() -> None:
    marks = {alerts.fingerprint(RULE, WARNING, 0.25 + n / 1000) for n in range(250)}
    assert len(marks) == 1
    assert alerts.fingerprint(RULE, CRITICAL, 0.5) not in marks


def test_flapping_within_the_cooldown_is_told_once_in_and_once_out() -> None:
    run = Run()
    run.all(["warn", "ok", "warn", "ok", "warn", "ok"], 20)
    assert run.told == ["active", "resolved"]


def test_what_comes_back_within_the_cooldown_and_stays_is_told_when_it_has_passed() -> None:
    run = Run()
    run.all(["warn", "ok"], 20)
    assert run.see("warn", 20) is None
    assert run.phase == (WARNING, SUPPRESSED)
    assert run.see("warn", 200) is None
    assert run.see("warn", 100) == "active"


def test_a_new_episode_after_the_cooldown_is_told_at_once() -> None:
    run = Run()
    run.all(["warn", "ok", "warn"], 300)
    assert run.told == ["active", "resolved", "active"]


def test_other_news_is_told_within_the_cooldown() -> None:
    run = Run()
    run.all(["warn", "ok", "crit"], 10)
    assert run.told == ["active", "resolved", "active"]
    assert run.phase == (CRITICAL, ACTIVE)


def test_a_second_escalation_of_one_alert_is_told_after_the_cooldown_only() -> None:
    run = Run()
    run.all(["warn", "crit", "warn", "crit", "warn"], 10)
    assert run.told == ["active", "escalated"]
    assert run.see("crit", 600) == "escalated"


def test_critical_at_once_is_told_once() -> None:
    run = Run()
    run.all(["crit", "crit", "warn", "ok"])
    assert run.told == ["active", "resolved"]


def test_without_a_cooldown_nothing_is_ever_suppressed() -> None:
    run = Run(make_rule(cooldown_sec=0))
    run.all(["warn", "warn", "ok", "warn"], 1)
    assert run.told == ["active", "resolved", "active"]
    assert run.phase == (WARNING, ACTIVE)


# --- no data


def test_no_data_is_not_a_breach() -> None:
    run = Run()
    assert run.all([NO_DATA] * 200, 600) == [None] * 200
    assert run.phase == (OK, OVER)


def test_no_data_is_not_a_recovery() -> None:
    run = Run()
    run.see("crit")
    before = run.phase, run.state.last_value, run.state.last_transition_at
    assert run.see(NO_DATA) is None
    assert (run.phase, run.state.last_value, run.state.last_transition_at) == before
    assert run.see("crit") is None
    assert run.told == ["active"]


def test_a_window_that_was_empty_for_its_own_length_resolves_the_alert() -> None:
    run = Run()  # a window of one hour
    run.see("warn")
    run.all([NO_DATA] * 12, 300)
    assert run.phase[0] is WARNING
    assert run.see(NO_DATA, 300) == "resolved"
    assert run.see(NO_DATA, 300) is None
    assert run.phase == (OK, OVER)


def test_data_in_between_starts_that_hour_again() -> None:
    run = Run()
    run.see("warn")
    for _ in range(5):
        run.all([NO_DATA] * 11, 300)
        run.see("warn")
    assert run.told == ["active"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_number_is_no_data(value: float) -> None:
    run = Run()
    run.all(["warn", value])
    assert run.told == ["active"]
    assert run.state.no_data_since == run.now


# --- hold


def test_a_breach_is_told_only_after_it_has_lasted_for_the_hold_time() -> None:
    run = Run(make_rule(hold_sec=300))
    assert run.all(["warn"] * 5) == [None] * 5
    assert run.phase == (OK, OVER)
    assert run.see("warn") == "active"


def test_a_break_starts_the_hold_time_again() -> None:
    run = Run(make_rule(hold_sec=300))
    assert run.all(["warn", "warn", "warn", "ok", "warn", "warn", "warn", "warn", "warn"]) == [None] * 9
    assert run.see("warn") == "active"


def test_an_escalation_waits_for_the_hold_time_and_a_fall_does_not() -> None:
    run = Run(make_rule(hold_sec=120))
    assert run.all(["warn", "warn", "warn", "crit", "crit", "crit"]) == [
        None,
        None,
        "active",
        None,
        None,
        "escalated",
    ]
    run.see("warn")
    assert run.phase[0] is WARNING
    assert run.see("ok") == "resolved"


def test_critical_from_the_start_warns_never_when_both_holds_end_together() -> None:
    run = Run(make_rule(hold_sec=120))
    assert run.all(["crit", "crit", "crit"]) == [None, None, "active"]
    assert run.changes == ["critical"]


# --- the operator


def test_an_acknowledgement_is_kept_until_it_gets_worse_or_ends() -> None:
    run = Run()
    assert acknowledge(run.state, "uid:0", run.now) is None
    run.see("warn")
    seen = acknowledge(run.state, "uid:0", run.now)
    assert seen is not None
    run.state = seen
    assert acknowledge(run.state, "uid:1", run.now) == seen
    run.see("warn")
    assert (run.state.acknowledged_by, run.told) == ("uid:0", ["active"])
    run.see("crit")
    assert (run.state.acknowledged_by, run.told) == (None, ["active", "escalated"])
    run.state = acknowledge(run.state, "uid:0", run.now) or run.state
    run.see("ok")
    assert (run.state.acknowledged_at, run.told[-1]) == (None, "resolved")


def test_a_mute_keeps_everything_quiet_and_what_is_still_news_is_told_after_it() -> None:
    run = Run()
    run.see("warn")
    run.state = mute(run.state, run.now + timedelta(hours=2), run.now)
    assert run.phase == (WARNING, SUPPRESSED)
    assert run.state.suppressed_until == run.now + timedelta(hours=2)
    assert run.all(["crit"] * 10, 600) == [None] * 10
    assert run.phase == (CRITICAL, SUPPRESSED)
    assert run.see("crit", 1200) == "escalated"
    assert run.state.muted_until is None


def test_what_was_resolved_during_a_mute_is_told_after_it() -> None:
    run = Run()
    run.see("warn")
    run.state = mute(run.state, run.now + timedelta(hours=1), run.now)
    assert run.all(["ok", "ok"]) == [None, None]
    assert run.all(["ok", "ok"], 3600) == ["resolved", None]


def test_what_came_and_went_during_a_mute_is_never_told() -> None:
    run = Run()
    run.state = mute(run.state, run.now + timedelta(hours=1), run.now)
    run.all(["warn", "crit", "ok"])
    run.all(["ok"] * 3, 3600)
    assert run.told == []


def test_a_mute_can_be_ended() -> None:
    run = Run()
    run.see("warn")
    run.state = mute(run.state, run.now + timedelta(hours=1), run.now)
    run.now += timedelta(minutes=10)
    run.state = mute(run.state, run.now, run.now)
    assert run.phase == (WARNING, ACTIVE)
    assert run.see("crit") == "escalated"


def test_a_mute_that_ends_within_the_cooldown_leaves_the_alert_quiet() -> None:
    run = Run()
    run.see("warn")
    run.state = mute(run.state, run.now + timedelta(hours=1), run.now)
    run.state = mute(run.state, run.now, run.now)
    assert run.phase == (WARNING, SUPPRESSED)


def test_a_changed_rule_forgets_its_alert_but_not_its_mute() -> None:
    run = Run()
    run.see("crit")
    run.state = mute(run.state, run.now + timedelta(hours=1), run.now)
    fresh = forget(run.state, run.now)
    assert (fresh.status, fresh.lifecycle, fresh.told, fresh.fingerprint) == (OK, OVER, OK, None)
    assert fresh.muted_until == run.state.muted_until
    assert fresh.last_notified_at == run.state.last_notified_at


# --- clocks that step


@pytest.mark.parametrize("jump", [-86_400.0, -315_360_000.0, 86_400.0, 315_360_000.0])
def test_no_cooldown_and_no_mute_is_stuck_after_the_clock_was_set(jump: float) -> None:
    run = Run()
    run.see("warn")
    run.state = mute(run.state, run.now + timedelta(hours=1), run.now)
    run.see("warn", jump)
    assert run.state.muted_until is None
    assert run.see("crit") == "escalated"
    assert run.see("ok") == "resolved"


def test_a_small_step_back_ends_no_mute_and_no_cooldown() -> None:
    run = Run()
    run.see("warn")
    run.state = mute(run.state, run.now + timedelta(hours=1), run.now)
    run.see("warn", -2)
    assert run.phase == (WARNING, SUPPRESSED)
    assert run.state.muted_until is not None


def test_a_hold_goes_on_from_now_when_the_clock_was_set_back() -> None:
    run = Run(make_rule(hold_sec=300))
    run.see("warn")
    run.see("warn", -86_400)
    assert run.all(["warn"] * 5) == [None] * 4 + ["active"]


# --- properties


SEEN = st.sampled_from(["ok", "warn", "crit", NO_DATA])
PACE = st.sampled_from([1.0, 60.0, 299.0, 300.0, 4000.0])


@given(st.lists(st.tuples(SEEN, PACE), max_size=40), st.integers(0, 40))
def test_a_restart_in_the_middle_changes_nothing(
    seen: list[tuple[str | NoData, float]], stop_at: int
) -> None:
    whole, cut = Run(), Run()
    for number, (value, pace) in enumerate(seen):
        whole.see(value, pace)
        if number == stop_at:  # all there is of an alert is its state
            fields: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(cut.state))
            cut.state = msgspec.convert(fields, AlertState)
        cut.see(value, pace)
    assert (whole.told, whole.state) == (cut.told, cut.state)


@given(st.lists(st.tuples(SEEN, PACE), max_size=60))
def test_what_is_told_makes_sense_to_someone_who_hears_nothing_else(
    seen: list[tuple[str | NoData, float]],
) -> None:
    run = Run()
    for value, pace in seen:
        run.see(value, pace)
    for before, after in zip([None, *run.told], run.told, strict=False):
        assert after in {None: {"active"}, "resolved": {"active"}}.get(before, {"escalated", "resolved"})


class AlertMachine(RuleBasedStateMachine):
    """Evaluations, operators and clocks in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.rule = make_rule()
        self.state = AlertState(rule_id="r-1")
        self.now = AT
        self.heard: str | None = None  # what a receiver believes
        self.last_told: dict[str, datetime] = {}

    @rule(value=SEEN, pace=st.floats(0, 4000))
    def evaluated(self, value: str | NoData, pace: float) -> None:
        self.now += timedelta(seconds=round(pace))
        before = self.state
        muted = alerts.is_muted(before, self.now)
        self.seen = before.acknowledged_at is not None
        self.state, effects = evaluate(
            self.rule, before, VALUES[value] if isinstance(value, str) else value, self.now
        )
        told = [effect for effect in effects if isinstance(effect, Notify)]
        assert len(told) <= 1
        assert not (muted and told)
        changed = [effect for effect in effects if isinstance(effect, Changed)]
        assert bool(changed) is (self.state.last_transition_at != before.last_transition_at) or self.now == (
            before.last_transition_at
        )
        for effect in told:
            self._hear(effect)

    def _hear(self, effect: Notify) -> None:
        assert effect.status is self.state.status or effect.reason is AlertReason.RESOLVED
        if effect.reason is AlertReason.RESOLVED:
            assert self.heard is not None
            assert not self.state.is_breach
            self.heard = None
            return
        assert (effect.reason is AlertReason.ACTIVE) is (self.heard is None)
        if effect.reason is AlertReason.REMINDER:
            assert not self.seen
            assert self.rule.renotify_sec is not None
            assert self.now - max(self.last_told.values()) >= timedelta(seconds=self.rule.renotify_sec)
        mark = self.state.fingerprint or ""
        told_at = self.last_told.get("mark:" + mark)
        if mark == getattr(self, "latest_mark", None) and told_at is not None:
            assert self.now - told_at >= timedelta(seconds=self.rule.cooldown_sec)
        self.latest_mark = mark
        self.last_told["mark:" + mark] = self.now
        self.heard = effect.status.value

    @rule()
    def acknowledged(self) -> None:
        seen = acknowledge(self.state, "uid:0", self.now)
        assert (seen is None) is (not self.state.is_breach)
        self.state = seen or self.state

    @rule(seconds=st.integers(0, 7200))
    def muted(self, seconds: int) -> None:
        self.state = mute(self.state, self.now + timedelta(seconds=seconds), self.now)
        assert alerts.is_muted(self.state, self.now) is (seconds > 0)

    @invariant()
    def is_possible(self) -> None:
        assert (self.state.status, self.state.lifecycle) in POSSIBLE
        assert (self.state.suppressed_until is None) or self.state.lifecycle is SUPPRESSED
        assert self.state.acknowledged_at is None or self.state.is_breach
        assert (self.state.told is OK) is (self.heard is None)


class RemindingMachine(AlertMachine):
    """The same with a rule that wants reminders."""

    def __init__(self) -> None:
        super().__init__()
        self.rule = make_rule(renotify_sec=900)


RemindingMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestRemindingMachine = RemindingMachine.TestCase
AlertMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAlertMachine = AlertMachine.TestCase
