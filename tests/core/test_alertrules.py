from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from ambientd.core.alertrules import AlertRule, AlertScope, check_rule, severity_of, span
from ambientd.wire.enums import AlertComparison, AlertMetric, AlertScopeType, AlertStatus, AlertWindow

AT = datetime(2026, 11, 20, 15, 40, 3, tzinfo=UTC)  # a Friday
ALL = frozenset(AlertMetric)


def rule(**fields: Any) -> AlertRule:
    facts: dict[str, Any] = {
        "rule_id": "r-1",
        "metric": AlertMetric.FAILURE_RATE,
        "warn_threshold": 0.25,
        "critical_threshold": 0.5,
        "window": AlertWindow.HOUR,
        "created_at": AT,
        "updated_at": AT,
    }
    return AlertRule(**(facts | fields))


def problems(measurable: frozenset[AlertMetric] = ALL, **fields: Any) -> list[tuple[str, str]]:
    return [(found.field, found.issue) for found in check_rule(rule(**fields), measurable)]


AGENT, MODEL, BOTH = AlertScopeType.AGENT, AlertScopeType.MODEL, AlertScopeType.AGENT_MODEL


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, []),
        ({"warn_threshold": 0.5}, []),
        ({"critical_threshold": 0.2}, [("criticalThreshold", "order")]),
        ({"warn_threshold": -1.0}, [("warnThreshold", "range")]),
        ({"warn_threshold": float("nan")}, [("warnThreshold", "range")]),
        ({"critical_threshold": float("inf")}, [("criticalThreshold", "range")]),
        ({"critical_threshold": 25.0}, [("criticalThreshold", "range")]),
        ({"warn_threshold": 0.0}, [("warnThreshold", "range")]),
        ({"warn_threshold": 0.0, "comparison": AlertComparison.GT}, []),
        ({"scope": AlertScope(type=AGENT)}, [("scopeRef.agentId", "required")]),
        ({"scope": AlertScope(type=AGENT, agent_id="a")}, []),
        (
            {"scope": AlertScope(type=MODEL, agent_id="a")},
            [("scopeRef.agentId", "not_allowed"), ("scopeRef.modelId", "required")],
        ),
        (
            {"scope": AlertScope(type=BOTH)},
            [("scopeRef.agentId", "required"), ("scopeRef.modelId", "required")],
        ),
        ({"scope": AlertScope(type=BOTH, agent_id="a", model_id="m")}, []),
        ({"scope": AlertScope(agent_id="a")}, [("scopeRef.agentId", "not_allowed")]),
        ({"scope": AlertScope(type=AGENT, agent_id="")}, [("scopeRef.agentId", "bad_text")]),
        ({"scope": AlertScope(type=AGENT, agent_id="a\nb")}, [("scopeRef.agentId", "bad_text")]),
        ({"cooldown_sec": -1}, [("dedupCooldownSec", "range")]),
        ({"cooldown_sec": 0, "hold_sec": 604_800}, []),
        ({"hold_sec": 604_801}, [("holdSec", "range")]),
        ({"renotify_sec": 300}, []),
        ({"renotify_sec": 60, "cooldown_sec": 0}, []),
        ({"renotify_sec": 604_800}, []),
        ({"renotify_sec": 604_801}, [("renotifySec", "range")]),
        ({"renotify_sec": 59, "cooldown_sec": 0}, [("renotifySec", "range")]),
        ({"renotify_sec": 299}, [("renotifySec", "order")]),
        ({"name": ""}, [("name", "bad_text")]),
        ({"name": "x" * 101}, [("name", "bad_text")]),
        ({"metric": AlertMetric.BUDGET_USD}, [("window", "not_allowed")]),
        ({"metric": AlertMetric.BUDGET_USD, "window": AlertWindow.WEEK}, []),
        (
            {"metric": AlertMetric.MISSED_HEARTBEATS, "scope": AlertScope(type=AGENT, agent_id="a")},
            [("scopeType", "not_allowed")],
        ),
    ],
)
def test_every_problem_of_a_rule_is_named(fields: dict[str, Any], found: list[tuple[str, str]]) -> None:
    assert problems(**fields) == found


def test_all_problems_come_at_once_in_the_order_of_the_fields() -> None:
    assert problems(
        name="\x07",
        metric=AlertMetric.BUDGET_USD,
        scope=AlertScope(type=MODEL),
        warn_threshold=2.0,
        critical_threshold=1.0,
        hold_sec=-1,
    ) == [
        ("name", "bad_text"),
        ("scopeRef.modelId", "required"),
        ("criticalThreshold", "order"),
        ("window", "not_allowed"),
        ("holdSec", "range"),
    ]


def test_a_metric_that_nothing_measures_is_refused_with_the_ones_that_are() -> None:
    asked = rule(metric=AlertMetric.GATEWAY_AWAY_SEC)
    (found,) = check_rule(asked, frozenset({AlertMetric.FAILURE_RATE, AlertMetric.DAILY_COST_USD}))
    assert (found.field, found.issue) == ("metric", "not_measured")
    assert found.expected == "one of daily_cost_usd, failure_rate"


OK, WARNING, CRITICAL = AlertStatus.OK, AlertStatus.WARNING, AlertStatus.CRITICAL


@pytest.mark.parametrize(
    ("comparison", "value", "severity"),
    [
        ("gte", 0.0, OK),
        ("gte", 0.24999, OK),
        ("gte", 0.25, WARNING),
        ("gte", 0.49999, WARNING),
        ("gte", 0.5, CRITICAL),
        ("gte", 1.0, CRITICAL),
        ("gt", 0.25, OK),
        ("gt", 0.25001, WARNING),
        ("gt", 0.5, WARNING),
        ("gt", 0.50001, CRITICAL),
        ("gte", float("nan"), OK),
    ],
)
def test_severity_at_above_and_below_both_thresholds(
    comparison: str, value: float, severity: AlertStatus
) -> None:
    assert severity_of(rule(comparison=AlertComparison(comparison)), value) is severity


@pytest.mark.parametrize(
    ("window", "length"),
    [
        ("5m", timedelta(minutes=5)),
        ("1h", timedelta(hours=1)),
        ("24h", timedelta(days=1)),
        ("7d", timedelta(7)),
    ],
)
def test_a_window_ends_at_the_instant_it_is_given(window: str, length: timedelta) -> None:
    for now in (AT, AT - timedelta(days=4000)):
        assert span(rule(window=AlertWindow(window)), now) == (now - length, now)


def test_a_budget_begins_with_the_utc_day_or_the_utc_week() -> None:
    budget = rule(metric=AlertMetric.BUDGET_USD, window=AlertWindow.DAY)
    just_before = timedelta(milliseconds=1)
    assert span(budget, AT) == (datetime(2026, 11, 20, tzinfo=UTC) - just_before, AT)
    week = msgspec.structs.replace(budget, window=AlertWindow.WEEK)
    assert span(week, AT) == (datetime(2026, 11, 16, tzinfo=UTC) - just_before, AT)
    monday = datetime(2026, 11, 16, tzinfo=UTC)
    assert span(week, monday) == (monday - just_before, monday)
