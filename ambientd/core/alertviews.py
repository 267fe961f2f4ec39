"""Rules, alerts and notifications as the wire shows them, and the sentence about an alert."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from ambientd.core.alertrules import AlertRule, AlertScope
from ambientd.core.alerts import AlertState, Notify
from ambientd.core.timefmt import rfc3339_ms
from ambientd.wire.alert_messages import (
    AlertNotification,
    AlertRuleRequest,
    AlertRuleView,
    AlertScopeRef,
    AlertStateView,
    AlertView,
)
from ambientd.wire.enums import (
    AlertLifecycle,
    AlertMetric,
    AlertReason,
    AlertScopeType,
    AlertStatus,
    AlertWindow,
)
from ambientd.wire.messages import AlertsStatus, Problem
from ambientd.wire.routes import SCHEMA_NOTIFICATION

# Two alerts with the same eight characters are rarer than anything else that can go wrong here.
SHORT_ID = 8


def rule_of(request: AlertRuleRequest, rule_id: str, at: datetime) -> AlertRule:
    """The rule that a request asks for, not yet checked."""
    return AlertRule(
        rule_id=rule_id,
        name=request.name,
        enabled=request.enabled,
        metric=request.metric,
        scope=scope_of(request.scope_type, request.scope_ref),
        warn_threshold=request.warn_threshold,
        critical_threshold=request.critical_threshold,
        window=request.window,
        comparison=request.comparison,
        cooldown_sec=request.dedup_cooldown_sec,
        hold_sec=request.hold_sec,
        renotify_sec=request.renotify_sec,
        created_at=at,
        updated_at=at,
    )


def request_of(rule: AlertRule) -> AlertRuleRequest:
    """What would make this rule; a change is laid over it."""
    return AlertRuleRequest(
        metric=rule.metric,
        scope_type=rule.scope.type,
        warn_threshold=rule.warn_threshold,
        critical_threshold=rule.critical_threshold,
        window=rule.window,
        comparison=rule.comparison,
        scope_ref=_scope_ref(rule.scope),
        enabled=rule.enabled,
        dedup_cooldown_sec=rule.cooldown_sec,
        hold_sec=rule.hold_sec,
        renotify_sec=rule.renotify_sec,
        name=rule.name,
    )


def scope_of(kind: AlertScopeType, ref: AlertScopeRef | None) -> AlertScope:
    """The scope with the ids that were given, needed or not."""
    return AlertScope(
        type=kind, agent_id=ref.agent_id if ref else None, model_id=ref.model_id if ref else None
    )


def _scope_ref(scope: AlertScope) -> AlertScopeRef | None:
    if scope.agent_id is None and scope.model_id is None:
        return None
    return AlertScopeRef(scope.agent_id, scope.model_id)


def scope_words(scope: AlertScope) -> dict[str, str]:
    """`{agentId?, modelId?}`, or `{"type": "global"}` (facts/v3-shapes)."""
    ids = {"agentId": scope.agent_id, "modelId": scope.model_id}
    return {key: value for key, value in ids.items() if value is not None} or {
        "type": AlertScopeType.GLOBAL.value
    }


def _at(instant: datetime | None) -> str | None:
    return None if instant is None else rfc3339_ms(instant)


def rule_view(rule: AlertRule, state: AlertState | None) -> AlertRuleView:
    """One rule, with where its alert stands."""
    return AlertRuleView(
        rule_id=rule.rule_id,
        enabled=rule.enabled,
        metric=rule.metric,
        scope_type=rule.scope.type,
        warn_threshold=rule.warn_threshold,
        critical_threshold=rule.critical_threshold,
        window=rule.window,
        comparison=rule.comparison,
        dedup_cooldown_sec=rule.cooldown_sec,
        created_at=rfc3339_ms(rule.created_at),
        updated_at=rfc3339_ms(rule.updated_at),
        hold_sec=rule.hold_sec,
        renotify_sec=rule.renotify_sec,
        scope_ref=_scope_ref(rule.scope),
        name=rule.name,
        state=None if state is None else _state_view(state),
    )


def _state_view(state: AlertState) -> AlertStateView:
    return AlertStateView(
        status=state.status,
        lifecycle=state.lifecycle,
        last_value=state.last_value,
        last_evaluated_at=_at(state.last_evaluated_at),
        last_transition_at=_at(state.last_transition_at),
        last_notified_at=_at(state.last_notified_at),
        active_fingerprint=state.fingerprint,
        suppressed_until=_at(state.suppressed_until),
        no_data_since=_at(state.no_data_since),
        acknowledged_at=_at(state.acknowledged_at),
        acknowledged_by=state.acknowledged_by,
        muted_until=_at(state.muted_until),
    )


def alert_view(rule: AlertRule, state: AlertState) -> AlertView:
    """One alert that is, or has just been resolved."""
    return AlertView(
        rule_id=rule.rule_id,
        metric=rule.metric,
        scope=scope_words(rule.scope),
        value=state.last_value or 0.0,
        warn_threshold=rule.warn_threshold,
        critical_threshold=rule.critical_threshold,
        status=state.status,
        triggered_at=rfc3339_ms(_triggered(rule, state)),
        deduped=state.lifecycle is AlertLifecycle.SUPPRESSED,
        lifecycle=state.lifecycle,
        window=rule.window,
        comparison=rule.comparison,
        text=sentence(rule, state),
        name=rule.name,
        suppressed_until=_at(state.suppressed_until),
        last_evaluated_at=_at(state.last_evaluated_at),
        last_notified_at=_at(state.last_notified_at),
        no_data_since=_at(state.no_data_since),
        acknowledged_at=_at(state.acknowledged_at),
        acknowledged_by=state.acknowledged_by,
        muted_until=_at(state.muted_until),
    )


def _triggered(rule: AlertRule, state: AlertState) -> datetime:
    return state.last_transition_at or state.last_evaluated_at or rule.created_at


def alert_views(found: Iterable[tuple[AlertRule, AlertState]]) -> list[AlertView]:
    """Those of enabled rules that are in breach or were just resolved: critical first, then the oldest."""
    order = {AlertStatus.CRITICAL: 0, AlertStatus.WARNING: 1, AlertStatus.RESOLVED: 2}
    shown = [(rule, state) for rule, state in found if rule.enabled and state.status in order]
    shown.sort(key=lambda pair: (order[pair[1].status], _triggered(*pair), pair[0].rule_id))
    return [alert_view(rule, state) for rule, state in shown]


def notification(
    rule: AlertRule, state: AlertState, effect: Notify, *, notification_id: str, node: str, at: datetime
) -> AlertNotification:
    """What the receivers are told (R3.196)."""
    return AlertNotification(
        schema=SCHEMA_NOTIFICATION,
        id=notification_id,
        reason=effect.reason,
        at=rfc3339_ms(at),
        node=node,
        rule_id=rule.rule_id,
        metric=rule.metric,
        scope=scope_words(rule.scope),
        status=effect.status,
        warn_threshold=rule.warn_threshold,
        critical_threshold=rule.critical_threshold,
        window=rule.window,
        comparison=rule.comparison,
        triggered_at=rfc3339_ms(_triggered(rule, state)),
        text=sentence(rule, state),
        name=rule.name,
        value=state.last_value,
    )


def trial_notification(*, notification_id: str, node: str, at: datetime) -> AlertNotification:
    """A notification that is about nothing; its reason says so."""
    instant = rfc3339_ms(at)
    rule = AlertRule(
        rule_id="test",
        metric=AlertMetric.FAILURE_RATE,
        warn_threshold=0.25,
        critical_threshold=0.5,
        window=AlertWindow.HOUR,
        created_at=at,
        updated_at=at,
    )
    told = notification(
        rule,
        AlertState(rule_id="test", last_transition_at=at),
        Notify(AlertReason.TEST, AlertStatus.OK),
        notification_id=notification_id,
        node=node,
        at=at,
    )
    return msgspec.structs.replace(told, text=f"test notification of {node}", at=instant)


# --- words


def alert_problems(alerts: Iterable[AlertView], failing: Mapping[str, str]) -> list[Problem]:
    """The alerts as problems of the node, and receivers that could not be told (name and reason).

    An alert that somebody acknowledged is still a problem, one that was muted is none.
    """
    found = [
        Problem(
            id=f"alert.{alert.metric.value}",
            severity=alert.status.value,
            text=alert.text + (" (acknowledged)" if alert.acknowledged_at else ""),
            help=f"ambientctl alerts show {alert.rule_id[:SHORT_ID]}",
        )
        for alert in alerts
        if alert.status in (AlertStatus.WARNING, AlertStatus.CRITICAL) and alert.muted_until is None
    ]
    found += [
        Problem(
            id=f"notifier.{name}",
            severity=AlertStatus.WARNING.value,
            text=f"notifier {name} could not be told: {reason}",
            help=f"ambientctl alerts test-notifier {name}",
        )
        for name, reason in sorted(failing.items())
    ]
    return found


def count_alerts(alerts: Iterable[AlertView]) -> AlertsStatus:
    """How many speak, by severity, and how many are muted."""
    loud: Counter[AlertStatus] = Counter()
    muted = 0
    for alert in alerts:
        if alert.status is not AlertStatus.RESOLVED:
            muted += alert.muted_until is not None
            loud[alert.status] += alert.muted_until is None
    return AlertsStatus(critical=loud[AlertStatus.CRITICAL], warning=loud[AlertStatus.WARNING], muted=muted)


def sentence(rule: AlertRule, state: AlertState) -> str:
    """`failure_rate of steve is 42% (limit 25%)`."""
    subject = rule.metric.value
    ids = [part for part in (rule.scope.agent_id, rule.scope.model_id) if part]
    if ids:
        subject += f" of {' with '.join(ids)}"
    limit = rule.critical_threshold if state.status is AlertStatus.CRITICAL else rule.warn_threshold
    shown = "unknown" if state.last_value is None else figure(rule.metric, state.last_value)
    back = "is back at" if state.status is AlertStatus.RESOLVED else "is"
    if state.status is AlertStatus.RESOLVED and state.no_data_since is not None:
        return f"{subject} has no data any more (limit {figure(rule.metric, limit)})"
    return f"{subject} {back} {shown} (limit {figure(rule.metric, limit)})"


def figure(metric: AlertMetric, value: float) -> str:
    """A measured value or a threshold for people, with its unit."""
    match metric:
        case AlertMetric.FAILURE_RATE:
            return f"{value * 100:.3g}%"
        case AlertMetric.DAILY_COST_USD | AlertMetric.BUDGET_USD:
            return f"${value:,.2f}" if value >= 0.01 or value == 0 else f"${value:.6f}"
        case AlertMetric.RUNTIME_P95_MS:
            return f"{value / 1000:,.3g}s" if value < 1000_000 else f"{value / 1000:,.0f}s"
        case AlertMetric.GATEWAY_AWAY_SEC:
            return f"{value:,.0f}s"
        case AlertMetric.MISSED_HEARTBEATS | AlertMetric.OUTBOX_DEPTH:
            return f"{value:,.0f}"
