"""Messages of the alerts' routes (CONTRACT 5, facts/v3-shapes) and what a receiver of notifications gets.

Absent means unknown, as everywhere; keys are only ever added.
"""

import msgspec

from ambientd.wire.enums import (
    AlertComparison,
    AlertLifecycle,
    AlertMetric,
    AlertReason,
    AlertScopeType,
    AlertStatus,
    AlertWindow,
)


class AlertScopeRef(msgspec.Struct, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """The ids that a scope needs."""

    agent_id: str | None = None
    model_id: str | None = None


class AlertRuleRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """`POST /api/v3/alerts/rules`."""

    metric: AlertMetric
    scope_type: AlertScopeType
    warn_threshold: float
    critical_threshold: float
    window: AlertWindow
    comparison: AlertComparison
    scope_ref: AlertScopeRef | None = None
    enabled: bool = True
    dedup_cooldown_sec: int = 300
    hold_sec: int = 0
    renotify_sec: int | None = None
    name: str | None = None


class AlertRulePatch(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """`PATCH /api/v3/alerts/rules/{id}`: what is absent stays as it is."""

    metric: AlertMetric | msgspec.UnsetType = msgspec.UNSET
    scope_type: AlertScopeType | msgspec.UnsetType = msgspec.UNSET
    warn_threshold: float | msgspec.UnsetType = msgspec.UNSET
    critical_threshold: float | msgspec.UnsetType = msgspec.UNSET
    window: AlertWindow | msgspec.UnsetType = msgspec.UNSET
    comparison: AlertComparison | msgspec.UnsetType = msgspec.UNSET
    scope_ref: AlertScopeRef | msgspec.UnsetType | None = msgspec.UNSET
    enabled: bool | msgspec.UnsetType = msgspec.UNSET
    dedup_cooldown_sec: int | msgspec.UnsetType = msgspec.UNSET
    hold_sec: int | msgspec.UnsetType = msgspec.UNSET
    renotify_sec: int | msgspec.UnsetType | None = msgspec.UNSET
    name: str | msgspec.UnsetType | None = msgspec.UNSET


class AlertStateView(msgspec.Struct, rename="camel", omit_defaults=True):
    """Where the alert of a rule stands. `lastValue` is the value measured last."""

    status: AlertStatus
    lifecycle: AlertLifecycle
    last_value: float | None = None
    last_evaluated_at: str | None = None
    last_transition_at: str | None = None
    last_notified_at: str | None = None
    active_fingerprint: str | None = None
    suppressed_until: str | None = None
    no_data_since: str | None = None
    acknowledged_at: str | None = None
    acknowledged_by: str | None = None
    muted_until: str | None = None


class AlertRuleView(msgspec.Struct, rename="camel", omit_defaults=True):
    """One rule; `state` is absent until it was evaluated for the first time. Without `renotifySec` nothing is
    told twice."""

    rule_id: str
    enabled: bool
    metric: AlertMetric
    scope_type: AlertScopeType
    warn_threshold: float
    critical_threshold: float
    window: AlertWindow
    comparison: AlertComparison
    dedup_cooldown_sec: int
    created_at: str
    updated_at: str
    hold_sec: int
    renotify_sec: int | None = None
    scope_ref: AlertScopeRef | None = None
    name: str | None = None
    state: AlertStateView | None = None


class AlertRulesPage(msgspec.Struct):
    """`GET /api/v3/alerts/rules`: oldest first."""

    rows: list[AlertRuleView]


class AlertView(msgspec.Struct, rename="camel", omit_defaults=True):
    """One alert that a person should know of; `scope` is `{agentId?, modelId?}` or `{"type": "global"}`.

    `status` is `resolved` for the one evaluation after its end; `deduped` says that it keeps quiet.
    """

    rule_id: str
    metric: AlertMetric
    scope: dict[str, str]
    value: float
    warn_threshold: float
    critical_threshold: float
    status: AlertStatus
    triggered_at: str
    deduped: bool
    lifecycle: AlertLifecycle
    window: AlertWindow
    comparison: AlertComparison
    text: str
    name: str | None = None
    suppressed_until: str | None = None
    last_evaluated_at: str | None = None
    last_notified_at: str | None = None
    no_data_since: str | None = None
    acknowledged_at: str | None = None
    acknowledged_by: str | None = None
    muted_until: str | None = None


class AlertsPage(msgspec.Struct):
    """`GET /api/v3/alerts/active`: critical first, then the longest active."""

    rows: list[AlertView]


class AlertAckRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """`POST /api/v3/alerts/{ruleId}/ack`."""


class AlertMuteRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """`POST /api/v3/alerts/{ruleId}/mute`: one of the two; 0 seconds end a mute."""

    for_sec: int | None = None
    until: str | None = None


class AlertNotification(msgspec.Struct, rename="camel", omit_defaults=True):
    """What a command gets on standard input and a webhook as its body.

    `id` is the same when one notification arrives twice: delivery is at least once.
    """

    schema: str
    id: str
    reason: AlertReason
    at: str
    node: str
    rule_id: str
    metric: AlertMetric
    scope: dict[str, str]
    status: AlertStatus
    warn_threshold: float
    critical_threshold: float
    window: AlertWindow
    comparison: AlertComparison
    triggered_at: str
    text: str
    name: str | None = None
    value: float | None = None


class NotifierTestRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """`POST /api/v1/node/alerts/test-notifier`."""

    name: str


class NotifierTestAnswer(msgspec.Struct, rename="camel", omit_defaults=True):
    """Whether one test notification arrived; `error` says why not."""

    ok: bool
    name: str
    kind: str
    took_ms: int
    error: str | None = None
