"""The life of an alert: one measurement folded into its state, and what must be told (specification 9.4.3).

Severity (`status`) and lifecycle are two things. Severity follows the measured value at once, upwards only
after the rule's hold time. The lifecycle says whether the alert speaks: `active`, `suppressed` (the cooldown
of equal news, or a mute, keeps it quiet) or `resolved`.

Told are exactly three things: that an alert became active, that it escalated, that it was resolved; and,
where the rule wants it (`renotify_sec`), that it still lasts, unless somebody has acknowledged or muted it.
A fall from critical to warning is silent. Equal news (the same fingerprint) is told once per cooldown: what
comes back within it is told when the cooldown has passed, if it is still there. A drifting value changes the
fingerprint and never tells anything by itself.

No data is neither a breach nor a recovery: everything stays as it is. When a window has held nothing for as
long as it is long, nothing is left of the reason and the alert is resolved.
"""

import math
from datetime import datetime, timedelta
from enum import Enum

import msgspec

from ambientd.core.alertrules import WINDOWS, AlertRule, severity_of
from ambientd.wire.enums import AlertLifecycle, AlertReason, AlertStatus

# A stored instant may lie this far ahead of a clock that was set back a little. When it was set back further,
# cooldowns and mutes are given up, so that none is in force for a day because the clock went back a day.
SKEW = timedelta(minutes=5)

OK, WARNING, CRITICAL = AlertStatus.OK, AlertStatus.WARNING, AlertStatus.CRITICAL
_RANK = {OK: 0, AlertStatus.RESOLVED: 0, WARNING: 1, CRITICAL: 2}


class UnlistedTransitionError(Exception):
    """A state or an event that the table does not list: a defect of this program."""


class NoData(Enum):
    """What a metric says when there is nothing to measure."""

    NO_DATA = "no data"


class AlertState(msgspec.Struct, frozen=True, kw_only=True):
    """Where the alert of one rule stands.

    `told` is the severity that the receivers know of. `fingerprint` is that of the news told last, which is
    kept quiet until `quiet_until`. `warning_since` and `critical_since` say since when the value has reached
    that threshold without a break; `no_data_since` since when there was nothing to measure.
    """

    rule_id: str
    status: AlertStatus = OK
    lifecycle: AlertLifecycle = AlertLifecycle.RESOLVED
    told: AlertStatus = OK
    last_value: float | None = None
    last_evaluated_at: datetime | None = None
    last_transition_at: datetime | None = None
    last_notified_at: datetime | None = None
    fingerprint: str | None = None
    quiet_until: datetime | None = None
    warning_since: datetime | None = None
    critical_since: datetime | None = None
    no_data_since: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    muted_at: datetime | None = None
    muted_until: datetime | None = None

    @property
    def is_breach(self) -> bool:
        """Whether a person should look."""
        return self.status in (WARNING, CRITICAL)

    @property
    def suppressed_until(self) -> datetime | None:
        """Until when it stays quiet, while it does."""
        if self.lifecycle is not AlertLifecycle.SUPPRESSED:
            return None
        return max((at for at in (self.quiet_until, self.muted_until) if at is not None), default=None)


class Changed(msgspec.Struct, frozen=True):
    """The severity is another one."""

    before: AlertStatus
    after: AlertStatus


class Notify(msgspec.Struct, frozen=True):
    """Tell the receivers."""

    reason: AlertReason
    status: AlertStatus


Effect = Changed | Notify


class Event(Enum):
    """What one evaluation found (`_QUIETLY` when a cooldown or a mute keeps it from being told), and what an
    operator did: muted, ended the mute, or changed the rule so that the state says nothing any more."""

    FINE = "fine"
    WARNS = "warns"
    WARNS_QUIETLY = "warns quietly"
    IS_CRITICAL = "is critical"
    IS_CRITICAL_QUIETLY = "is critical quietly"
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    MUTED = "muted"
    UNMUTED = "unmuted"
    FORGOTTEN = "forgotten"


Phase = tuple[AlertStatus, AlertLifecycle]

QUIET: Phase = (OK, AlertLifecycle.RESOLVED)
RESOLVED: Phase = (AlertStatus.RESOLVED, AlertLifecycle.RESOLVED)
WARNING_ACTIVE: Phase = (WARNING, AlertLifecycle.ACTIVE)
WARNING_SUPPRESSED: Phase = (WARNING, AlertLifecycle.SUPPRESSED)
CRITICAL_ACTIVE: Phase = (CRITICAL, AlertLifecycle.ACTIVE)
CRITICAL_SUPPRESSED: Phase = (CRITICAL, AlertLifecycle.SUPPRESSED)

_BREACHES = {
    Event.WARNS: WARNING_ACTIVE,
    Event.WARNS_QUIETLY: WARNING_SUPPRESSED,
    Event.IS_CRITICAL: CRITICAL_ACTIVE,
    Event.IS_CRITICAL_QUIETLY: CRITICAL_SUPPRESSED,
}
_CALM = {
    **_BREACHES,
    Event.FINE: QUIET,
    Event.UNKNOWN: QUIET,
    Event.FORGOTTEN: QUIET,
}


def _breaching(active: Phase, suppressed: Phase, *, here: Phase) -> dict[Event, Phase]:
    return {
        **_BREACHES,
        Event.FINE: RESOLVED,
        Event.EXPIRED: RESOLVED,
        Event.UNKNOWN: here,
        Event.MUTED: suppressed,
        Event.UNMUTED: active,
        Event.FORGOTTEN: QUIET,
    }


# Every phase with every event that can reach it; what is not listed is an error. `resolved` lasts for one
# evaluation, whatever the next one finds; only a breach can expire.
TRANSITIONS: dict[Phase, dict[Event, Phase]] = {
    QUIET: {**_CALM, Event.MUTED: QUIET, Event.UNMUTED: QUIET},
    RESOLVED: {**_CALM, Event.MUTED: RESOLVED, Event.UNMUTED: RESOLVED},
    WARNING_ACTIVE: _breaching(WARNING_ACTIVE, WARNING_SUPPRESSED, here=WARNING_ACTIVE),
    WARNING_SUPPRESSED: _breaching(WARNING_ACTIVE, WARNING_SUPPRESSED, here=WARNING_SUPPRESSED),
    CRITICAL_ACTIVE: _breaching(CRITICAL_ACTIVE, CRITICAL_SUPPRESSED, here=CRITICAL_ACTIVE),
    CRITICAL_SUPPRESSED: _breaching(CRITICAL_ACTIVE, CRITICAL_SUPPRESSED, here=CRITICAL_SUPPRESSED),
}


def step(phase: Phase, event: Event) -> Phase:
    """The phase after an event; raises UnlistedTransitionError for a pair that cannot be."""
    try:
        return TRANSITIONS[phase][event]
    except KeyError:
        raise UnlistedTransitionError(f"{phase[0].value}/{phase[1].value} with {event.value}") from None


def evaluate(
    rule: AlertRule, state: AlertState, value: float | NoData, now: datetime
) -> tuple[AlertState, tuple[Effect, ...]]:
    """Folds one measurement into the state of an enabled rule; `now` is the end of the measured window."""
    state = msgspec.structs.replace(_reconciled(state, now), last_evaluated_at=now)
    if isinstance(value, NoData) or not math.isfinite(value):
        return _fold_no_data(rule, state, now)
    state = _note_value(rule, state, value, now)
    severity = _settled(rule, state, severity_of(rule, value), now)
    if severity is OK:
        return _end(state, Event.FINE, now)
    return _breach(rule, state, severity, now)


def _reconciled(state: AlertState, now: datetime) -> AlertState:
    """A mute that has passed is forgotten."""
    if state.muted_until is not None and not is_muted(state, now):
        return msgspec.structs.replace(state, muted_at=None, muted_until=None)
    return state


def is_muted(state: AlertState, now: datetime) -> bool:
    """Whether an operator wants to hear nothing at `now`."""
    if state.muted_at is None or state.muted_until is None:
        return False
    return state.muted_at - SKEW <= now < state.muted_until


def _is_cooling(rule: AlertRule, state: AlertState, now: datetime) -> bool:
    """Whether the cooldown of the news told last is in force."""
    if state.quiet_until is None:
        return False
    return now < state.quiet_until <= now + timedelta(seconds=rule.cooldown_sec) + SKEW


def _fold_no_data(rule: AlertRule, state: AlertState, now: datetime) -> tuple[AlertState, tuple[Effect, ...]]:
    since = _since(state.no_data_since, now)
    state = msgspec.structs.replace(state, no_data_since=since)
    if state.is_breach and now - since >= WINDOWS[rule.window]:
        state = msgspec.structs.replace(state, warning_since=None, critical_since=None)
        return _end(state, Event.EXPIRED, now)
    return _enter(state, Event.UNKNOWN, now)


def _since(stored: datetime | None, now: datetime) -> datetime:
    """The beginning of something that goes on; it cannot lie ahead when the clock was set back."""
    return now if stored is None else min(stored, now)


def _note_value(rule: AlertRule, state: AlertState, value: float, now: datetime) -> AlertState:
    rank = _RANK[severity_of(rule, value)]
    return msgspec.structs.replace(
        state,
        last_value=float(value),
        no_data_since=None,
        warning_since=_since(state.warning_since, now) if rank >= _RANK[WARNING] else None,
        critical_since=_since(state.critical_since, now) if rank >= _RANK[CRITICAL] else None,
    )


def _settled(rule: AlertRule, state: AlertState, measured: AlertStatus, now: datetime) -> AlertStatus:
    """The severity after the hold time: up only once a breach has lasted, down at once."""
    hold = timedelta(seconds=rule.hold_sec)
    for severity, since in ((CRITICAL, state.critical_since), (WARNING, state.warning_since)):
        if _RANK[measured] < _RANK[severity] or since is None:
            continue
        if _RANK[state.status] >= _RANK[severity] or now - since >= hold:
            return severity
    return OK


def _end(state: AlertState, event: Event, now: datetime) -> tuple[AlertState, tuple[Effect, ...]]:
    """Back to normal; told once, to those who know of the alert, when no mute is in force."""
    state = msgspec.structs.replace(state, acknowledged_at=None, acknowledged_by=None)
    state, effects = _enter(state, event, now)
    if state.told is OK or is_muted(state, now):
        return state, effects
    state = msgspec.structs.replace(state, told=OK, last_notified_at=now)
    return state, (*effects, Notify(AlertReason.RESOLVED, AlertStatus.RESOLVED))


def _breach(
    rule: AlertRule, state: AlertState, severity: AlertStatus, now: datetime
) -> tuple[AlertState, tuple[Effect, ...]]:
    if _RANK[severity] < _RANK[state.told]:
        state = msgspec.structs.replace(state, told=severity)  # a fall is silent, and may rise again
    is_news = _RANK[severity] > _RANK[state.told]
    mark = fingerprint(rule, severity, state.last_value or 0.0)
    cooling, muted = _is_cooling(rule, state, now), is_muted(state, now)
    if not is_news and not muted and not cooling and _is_due_again(rule, state, now):
        reason = AlertReason.REMINDER
    elif not is_news or muted or (cooling and mark == state.fingerprint):
        return _enter(state, _found(severity, quietly=cooling or muted), now)
    else:
        reason = AlertReason.ACTIVE if state.told is OK else AlertReason.ESCALATED
    state = msgspec.structs.replace(
        state,
        told=severity,
        fingerprint=mark,
        last_notified_at=now,
        quiet_until=now + timedelta(seconds=rule.cooldown_sec),
        acknowledged_at=None,  # who acknowledged a warning has not seen that it is critical
        acknowledged_by=None,
    )
    state, effects = _enter(state, _found(severity, quietly=False), now)
    return state, (*effects, Notify(reason, severity))


def _is_due_again(rule: AlertRule, state: AlertState, now: datetime) -> bool:
    """Whether the rule wants an alert that was told, and that nobody has seen, told once more."""
    if rule.renotify_sec is None or state.acknowledged_at is not None or state.last_notified_at is None:
        return False
    since = now - state.last_notified_at
    return since >= timedelta(seconds=rule.renotify_sec) or since < -SKEW


def _found(severity: AlertStatus, *, quietly: bool) -> Event:
    if severity is CRITICAL:
        return Event.IS_CRITICAL_QUIETLY if quietly else Event.IS_CRITICAL
    return Event.WARNS_QUIETLY if quietly else Event.WARNS


def _enter(state: AlertState, event: Event, now: datetime) -> tuple[AlertState, tuple[Effect, ...]]:
    status, lifecycle = step((state.status, state.lifecycle), event)
    before = state.status
    entered = msgspec.structs.replace(state, status=status, lifecycle=lifecycle)
    if _RANK[status] == _RANK[before]:  # resolved -> ok is no change of what is the case
        return entered, ()
    return msgspec.structs.replace(entered, last_transition_at=now), (Changed(before, status),)


def fingerprint(rule: AlertRule, severity: AlertStatus, value: float) -> str:
    """What makes two pieces of news equal: rule, scope, severity, and how often the value has doubled above
    its threshold. So coarse that a drifting value keeps it for long."""
    threshold = rule.critical_threshold if severity is CRITICAL else rule.warn_threshold
    doublings = math.floor(math.log2(value / threshold)) if value > 0 and threshold > 0 else 0
    scope = "/".join(part or "" for part in (rule.scope.type, rule.scope.agent_id, rule.scope.model_id))
    return f"{rule.rule_id}|{scope}|{severity.value}|{doublings}"


# --- what an operator does


def acknowledge(state: AlertState, actor: str, now: datetime) -> AlertState | None:
    """Notes who has seen the alert; None when there is nothing to see. The first one stays."""
    if not state.is_breach:
        return None
    if state.acknowledged_at is not None:
        return state
    return msgspec.structs.replace(state, acknowledged_at=now, acknowledged_by=actor)


def mute(state: AlertState, until: datetime, now: datetime) -> AlertState:
    """Nothing is told before `until`; what is still news then is told by the evaluation after it.

    An `until` that is not after `now` ends a mute.
    """
    muted = until > now
    marked = msgspec.structs.replace(
        state, muted_at=now if muted else None, muted_until=until if muted else None
    )
    is_quiet = muted or (state.quiet_until is not None and now < state.quiet_until)
    return _enter(marked, Event.MUTED if is_quiet else Event.UNMUTED, now)[0]


def forget(state: AlertState, now: datetime) -> AlertState:
    """The state of a rule that asks another question now, or none: nothing is told. A mute stays."""
    entered, _ = _enter(state, Event.FORGOTTEN, now)
    return AlertState(
        rule_id=entered.rule_id,
        last_transition_at=entered.last_transition_at,
        last_notified_at=entered.last_notified_at,
        muted_at=entered.muted_at,
        muted_until=entered.muted_until,
    )
