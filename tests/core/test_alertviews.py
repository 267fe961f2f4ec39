from datetime import timedelta
from typing import Any

import pytest

from ambientd.core.alertrules import AlertScope
from ambientd.core.alerts import AlertState
from ambientd.core.alertviews import (
    alert_problems,
    alert_views,
    count_alerts,
    figure,
    request_of,
    rule_of,
    rule_view,
    sentence,
)
from ambientd.wire.enums import AlertLifecycle, AlertMetric, AlertScopeType, AlertStatus
from ambientd.wire.messages import AlertsStatus, Problem
from tests.core.test_alertrules import AT
from tests.core.test_alertrules import rule as make_rule

STEVE = AlertScope(type=AlertScopeType.AGENT, agent_id="steve")


def state(status: str = "critical", **fields: Any) -> AlertState:
    lifecycle = AlertLifecycle.ACTIVE if status in ("warning", "critical") else AlertLifecycle.RESOLVED
    facts: dict[str, Any] = {
        "rule_id": "r-1",
        "status": AlertStatus(status),
        "lifecycle": lifecycle,
        "last_value": 0.42,
        "last_transition_at": AT,
    }
    return AlertState(**(facts | fields))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("critical", "failure_rate of steve is 42% (limit 50%)"),
        ("warning", "failure_rate of steve is 42% (limit 25%)"),
        ("resolved", "failure_rate of steve is back at 42% (limit 25%)"),
    ],
)
def test_the_sentence_names_metric_scope_value_and_limit(status: str, words: str) -> None:
    assert sentence(make_rule(scope=STEVE), state(status)) == words


def test_an_alert_that_ended_without_data_says_so() -> None:
    ended = state("resolved", no_data_since=AT)
    assert sentence(make_rule(), ended) == "failure_rate has no data any more (limit 25%)"


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("failure_rate", 1 / 3, "33.3%"),
        ("failure_rate", 1.0, "100%"),
        ("daily_cost_usd", 1234.5, "$1,234.50"),
        ("daily_cost_usd", 0.0, "$0.00"),
        ("budget_usd", 0.000012, "$0.000012"),
        ("runtime_p95_ms", 1500.0, "1.5s"),
        ("runtime_p95_ms", 3_600_000.0, "3,600s"),
        ("missed_heartbeats", 3.0, "3"),
        ("gateway_away_sec", 90.0, "90s"),
        ("outbox_depth", 12_345.0, "12,345"),
    ],
)
def test_figures_have_their_unit(metric: str, value: float, text: str) -> None:
    assert figure(AlertMetric(metric), value) == text


def test_a_rule_and_the_request_that_makes_it_are_the_same() -> None:
    rule = make_rule(
        scope=AlertScope(type=AlertScopeType.AGENT_MODEL, agent_id="a", model_id="m"),
        name="x",
        hold_sec=3,
        renotify_sec=900,
    )
    assert rule_of(request_of(rule), rule.rule_id, AT) == rule
    assert rule_of(request_of(make_rule()), "r-1", AT) == make_rule()
    assert rule_view(rule, None).state is None


def test_alerts_are_sorted_by_severity_and_age_and_quiet_ones_are_not_there() -> None:
    def pair(rule_id: str, status: str, hours: int, **fields: Any) -> Any:
        at = AT + timedelta(hours=hours)
        rule = make_rule(rule_id=rule_id, **fields)
        return rule, state(status, rule_id=rule_id, last_transition_at=at)

    found = [
        pair("fine", "ok", 0),
        pair("young", "warning", 5),
        pair("over", "resolved", 0),
        pair("old", "warning", 1),
        pair("worst", "critical", 9),
        pair("off", "critical", 0, enabled=False),
    ]
    assert [view.rule_id for view in alert_views(found)] == ["worst", "old", "young", "over"]


def test_alerts_are_problems_unless_they_are_muted_or_over() -> None:
    later = AT + timedelta(hours=1)
    rule = make_rule(rule_id="7f3a0000-1111", scope=STEVE)
    views = alert_views(
        [
            (rule, state("critical", rule_id=rule.rule_id)),
            (rule, state("warning", acknowledged_at=AT, acknowledged_by="uid:0")),
            (rule, state("warning", muted_at=AT, muted_until=later)),
            (rule, state("resolved")),
        ]
    )
    help_text = "ambientctl alerts show 7f3a0000"
    assert alert_problems(views, {"ops": "answered 503"}) == [
        Problem("alert.failure_rate", "critical", "failure_rate of steve is 42% (limit 50%)", help_text),
        Problem(
            "alert.failure_rate",
            "warning",
            "failure_rate of steve is 42% (limit 25%) (acknowledged)",
            help_text,
        ),
        Problem(
            "notifier.ops",
            "warning",
            "notifier ops could not be told: answered 503",
            "ambientctl alerts test-notifier ops",
        ),
    ]
    assert count_alerts(views) == AlertsStatus(critical=1, warning=1, muted=1)
