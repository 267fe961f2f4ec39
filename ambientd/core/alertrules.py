"""Alert rules: what they say, and everything that can be wrong with one (specification 8.2.6).

How each metric is defined stands with `wire.enums.AlertMetric`; the sessions counted are those that ended
within the window, which ends at the evaluation.
"""

import math
from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec

from ambientd.wire.enums import AlertComparison, AlertMetric, AlertScopeType, AlertStatus, AlertWindow
from ambientd.wire.messages import ErrorDetail

DEFAULT_COOLDOWN_SEC = 300
SPAN_MAX_SEC = 7 * 86_400  # of a cooldown, a hold time and a reminder: the longest window
RENOTIFY_MIN_SEC = 60
NAME_MAX = 100
ID_MAX = 256

WINDOWS = {
    AlertWindow.FIVE_MINUTES: timedelta(minutes=5),
    AlertWindow.HOUR: timedelta(hours=1),
    AlertWindow.DAY: timedelta(days=1),
    AlertWindow.WEEK: timedelta(days=7),
}
# Measured in the ledger, by scope; every other metric is one figure of the whole node.
LEDGER_METRICS = frozenset(
    {
        AlertMetric.DAILY_COST_USD,
        AlertMetric.RUNTIME_P95_MS,
        AlertMetric.FAILURE_RATE,
        AlertMetric.BUDGET_USD,
    }
)
_BUDGET_WINDOWS = (AlertWindow.DAY, AlertWindow.WEEK)
_NEEDS_AGENT = frozenset({AlertScopeType.AGENT, AlertScopeType.AGENT_MODEL})
_NEEDS_MODEL = frozenset({AlertScopeType.MODEL, AlertScopeType.AGENT_MODEL})


class AlertScope(msgspec.Struct, frozen=True, kw_only=True):
    """Which sessions; an id is there exactly when the type asks for it."""

    type: AlertScopeType = AlertScopeType.GLOBAL
    agent_id: str | None = None
    model_id: str | None = None


class AlertRule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule. `cooldown_sec` keeps equal news quiet; `hold_sec` is how long a breach must last first;
    `renotify_sec` is after how long the same is told again, None for never."""

    rule_id: str
    name: str | None = None
    enabled: bool = True
    metric: AlertMetric
    scope: AlertScope = AlertScope()
    warn_threshold: float
    critical_threshold: float
    window: AlertWindow = AlertWindow.DAY
    comparison: AlertComparison = AlertComparison.GTE
    cooldown_sec: int = DEFAULT_COOLDOWN_SEC
    hold_sec: int = 0
    renotify_sec: int | None = None
    created_at: datetime
    updated_at: datetime


def severity_of(rule: AlertRule, value: float) -> AlertStatus:
    """OK, WARNING or CRITICAL; a value that is no number is OK."""
    if _reaches(rule.comparison, value, rule.critical_threshold):
        return AlertStatus.CRITICAL
    return AlertStatus.WARNING if _reaches(rule.comparison, value, rule.warn_threshold) else AlertStatus.OK


def _reaches(comparison: AlertComparison, value: float, threshold: float) -> bool:
    return value > threshold if comparison is AlertComparison.GT else value >= threshold


def span(rule: AlertRule, now: datetime) -> tuple[datetime, datetime]:
    """The instants between which a session must have ended to count: after the first, up to the second.

    A budget counts from the beginning of the UTC day or week, so that it starts again with them.
    """
    if rule.metric is not AlertMetric.BUDGET_USD:
        return now - WINDOWS[rule.window], now
    began = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if rule.window is AlertWindow.WEEK:
        began -= timedelta(days=began.weekday())
    return began - timedelta(milliseconds=1), now


def check_rule(rule: AlertRule, measurable: frozenset[AlertMetric]) -> tuple[ErrorDetail, ...]:
    """Every problem of a rule, in the order of its fields; none when it can be used.

    `measurable` are the metrics that something on this node measures. A rule over another one could never
    fire and is refused, rather than kept as a promise nobody holds.
    """
    return tuple(
        ErrorDetail(field, issue, message, expected=expected)
        for field, issue, message, expected in (
            *_check_name(rule),
            *_check_metric(rule, measurable),
            *_check_scope(rule),
            *_check_thresholds(rule),
            *_check_window(rule),
            *_check_spans(rule),
        )
    )


_Found = Iterator[tuple[str, str, str, str | None]]


def _check_name(rule: AlertRule) -> _Found:
    if rule.name is not None and not _is_line(rule.name, NAME_MAX):
        yield "name", "bad_text", f"must be one line of 1 to {NAME_MAX} characters", None


def _is_line(text: str, longest: int) -> bool:
    return 0 < len(text) <= longest and text.isprintable()


def _check_metric(rule: AlertRule, measurable: frozenset[AlertMetric]) -> _Found:
    if rule.metric not in measurable:
        known = ", ".join(metric.value for metric in AlertMetric if metric in measurable)
        yield "metric", "not_measured", "nothing on this node measures it yet", f"one of {known}"


def _check_scope(rule: AlertRule) -> _Found:
    scope = rule.scope
    if rule.metric not in LEDGER_METRICS and scope.type is not AlertScopeType.GLOBAL:
        yield "scopeType", "not_allowed", "this metric is a figure of the whole node", "global"
    for field, value, wanted in (
        ("scopeRef.agentId", scope.agent_id, scope.type in _NEEDS_AGENT),
        ("scopeRef.modelId", scope.model_id, scope.type in _NEEDS_MODEL),
    ):
        if wanted and value is None:
            yield field, "required", f"is required when scopeType is {scope.type.value}", None
        elif not wanted and value is not None:
            yield field, "not_allowed", f"says nothing when scopeType is {scope.type.value}", None
        elif value is not None and not _is_line(value, ID_MAX):
            yield field, "bad_text", f"must be one line of 1 to {ID_MAX} characters", None


def _check_thresholds(rule: AlertRule) -> _Found:
    sound = True
    for field, value in (
        ("warnThreshold", rule.warn_threshold),
        ("criticalThreshold", rule.critical_threshold),
    ):
        if not math.isfinite(value) or value < 0:
            sound = False
            yield field, "range", "must be a finite number, not below 0", ">= 0"
        elif value == 0 and rule.comparison is AlertComparison.GTE:
            sound = False
            yield field, "range", "is always reached with the comparison gte", "> 0"
        elif rule.metric is AlertMetric.FAILURE_RATE and value > 1:
            sound = False
            yield field, "range", "can never be reached: the failure rate goes from 0 to 1", "<= 1"
    if sound and rule.critical_threshold < rule.warn_threshold:
        yield "criticalThreshold", "order", "must not be below warnThreshold", ">= warnThreshold"


def _check_window(rule: AlertRule) -> _Found:
    if rule.metric is AlertMetric.BUDGET_USD and rule.window not in _BUDGET_WINDOWS:
        yield "window", "not_allowed", "a budget is for the UTC day or the UTC week", "one of 24h, 7d"


def _check_spans(rule: AlertRule) -> _Found:
    for field, value in (("dedupCooldownSec", rule.cooldown_sec), ("holdSec", rule.hold_sec)):
        if not 0 <= value <= SPAN_MAX_SEC:
            expected = f"from 0 to {SPAN_MAX_SEC}"
            yield field, "range", f"must be {expected}", expected
    again = rule.renotify_sec
    if again is not None and not RENOTIFY_MIN_SEC <= again <= SPAN_MAX_SEC:
        expected = f"from {RENOTIFY_MIN_SEC} to {SPAN_MAX_SEC}, or null for never"
        yield "renotifySec", "range", f"must be {expected}", expected
    elif again is not None and again < rule.cooldown_sec:
        yield "renotifySec", "order", "must not be below dedupCooldownSec", ">= dedupCooldownSec"
