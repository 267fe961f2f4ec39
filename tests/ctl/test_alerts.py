"""`ambientctl alerts` against a scripted daemon: what it asks, what it prints, how it ends."""

import json
from typing import Any

import msgspec
import pytest

from ambientd.wire import alert_messages as m
from ambientd.wire import enums, routes
from tests.ctl.conftest import Ctl
from tests.fakes.daemon_http import FakeDaemon, Reply, refused

RULE_ID = "7f3a1b2c-0000-4000-8000-00000000000a"
AT = "2026-11-20T15:28:11.000Z"


def rule(**changes: Any) -> m.AlertRuleView:
    view = m.AlertRuleView(
        rule_id=RULE_ID,
        enabled=True,
        metric=enums.AlertMetric.FAILURE_RATE,
        scope_type=enums.AlertScopeType.AGENT,
        warn_threshold=0.25,
        critical_threshold=0.5,
        window=enums.AlertWindow.HOUR,
        comparison=enums.AlertComparison.GTE,
        dedup_cooldown_sec=300,
        created_at=AT,
        updated_at=AT,
        hold_sec=0,
        scope_ref=m.AlertScopeRef(agent_id="steve\x1b[31m"),
        name="Steve fails",
        state=m.AlertStateView(
            status=enums.AlertStatus.CRITICAL,
            lifecycle=enums.AlertLifecycle.SUPPRESSED,
            last_value=0.625,
            last_evaluated_at=AT,
            last_transition_at=AT,
            last_notified_at=AT,
            suppressed_until="2026-11-20T15:33:11.000Z",
        ),
    )
    return msgspec.structs.replace(view, **changes)


def alert(**changes: Any) -> m.AlertView:
    view = m.AlertView(
        rule_id=RULE_ID,
        metric=enums.AlertMetric.FAILURE_RATE,
        scope={"agentId": "steve"},
        value=0.625,
        warn_threshold=0.25,
        critical_threshold=0.5,
        status=enums.AlertStatus.CRITICAL,
        triggered_at=AT,
        deduped=True,
        lifecycle=enums.AlertLifecycle.SUPPRESSED,
        window=enums.AlertWindow.HOUR,
        comparison=enums.AlertComparison.GTE,
        text="failure_rate of steve is 62.5% (limit 50%)",
    )
    return msgspec.structs.replace(view, **changes)


def answers(value: Any, status: int = 200) -> Reply:
    return Reply(status, msgspec.json.encode(value))


@pytest.fixture
def alerts(daemon: FakeDaemon) -> FakeDaemon:
    second = alert(
        rule_id="8" * 36,
        scope={"type": "global"},
        metric=enums.AlertMetric.DAILY_COST_USD,
        value=12.5,
        warn_threshold=10,
        critical_threshold=50,
        status=enums.AlertStatus.WARNING,
        acknowledged_at=AT,
        acknowledged_by="uid:0",
    )
    daemon.script |= {
        routes.ALERTS_ACTIVE: answers(m.AlertsPage(rows=[alert(), second])),
        routes.ALERT_RULES: answers(m.AlertRulesPage(rows=[rule(), rule(enabled=False, state=None)])),
        f"{routes.ALERT_RULES}/7f3a": answers(rule()),
        f"{routes.ALERT_RULES}/{RULE_ID}": answers(rule()),
        f"{routes.ALERTS}/7f3a/ack": answers(rule()),
        f"{routes.ALERTS}/7f3a/mute": answers(rule()),
    }
    return daemon


def body(daemon: FakeDaemon) -> tuple[str, str, Any]:
    """Method, path and document of the last request."""
    seen = daemon.seen[-1]
    return seen.method, seen.path, json.loads(seen.body) if seen.body else None


def test_alerts_are_a_table_with_value_against_limit(ctl: Ctl, alerts: FakeDaemon) -> None:
    for argv in (["alerts"], ["alerts", "list"]):
        found = ctl(*argv)
        assert (found.code, found.err) == (0, "")
        header, first, second = found.out.splitlines()
        assert header.split() == [
            "RULE",
            "SEVERITY",
            "METRIC",
            "SCOPE",
            "VALUE",
            "LIMIT",
            "WINDOW",
            "SINCE",
            "NOTE",
        ]
        assert first.startswith("7f3a1b2c  ✕ critical  failure_rate    steve   62.5%     50%")
        assert second.startswith("88888888  ! warning   daily_cost_usd  all    $12.50  $10.00")
        assert second.endswith("seen by uid:0")


def test_json_and_tsv_are_for_programs(ctl: Ctl, alerts: FakeDaemon) -> None:
    document = json.loads(ctl("alerts", "--json").out)
    assert (document["schema"], document["total"]) == ("ambient.alerts/1", 2)
    assert document["items"][0]["text"] == "failure_rate of steve is 62.5% (limit 50%)"
    lines = ctl("alerts", "-o", "jsonl").out.splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["critical", "warning"]
    header, first, _ = ctl("alerts", "-o", "tsv").out.splitlines()
    assert header.split("\t")[:3] == ["ruleId", "status", "metric"]
    assert first.split("\t")[0] == RULE_ID
    assert RULE_ID in ctl("alerts", "--wide").out


def test_no_alerts_is_said_on_standard_error(ctl: Ctl, alerts: FakeDaemon) -> None:
    alerts.script[routes.ALERTS_ACTIVE] = answers(m.AlertsPage(rows=[]))
    found = ctl("alerts")
    assert (found.code, found.out) == (0, "")
    assert found.err == "No alerts. The rules: ambientctl alerts rules\n"
    assert json.loads(ctl("alerts", "--json").out)["items"] == []


def test_one_alert_for_people_and_for_programs(ctl: Ctl, alerts: FakeDaemon) -> None:
    lines = ctl("alerts", "show", "7f3a").out.splitlines()
    assert lines[0] == f"Rule      {RULE_ID}"
    assert lines[1] == "Name      Steve fails"
    assert lines[2].startswith("State     ✕ critical since ")
    assert "Metric    failure_rate of steve\\x1b[31m, over 1h" in lines
    assert "Limits    warning ≥ 25%, critical ≥ 50%" in lines
    assert any(line.startswith("Value     62.5% at ") for line in lines)
    document = json.loads(ctl("alerts", "show", "7f3a", "--json").out)
    assert (document["schema"], document["ruleId"]) == ("ambient.alert/1", RULE_ID)


def test_rules_show_their_state(ctl: Ctl, alerts: FakeDaemon) -> None:
    header, first, second = ctl("alerts", "rules").out.splitlines()
    assert header.split() == ["RULE", "STATE", "METRIC", "SCOPE", "WARN", "CRITICAL", "WINDOW", "NAME"]
    assert first.split()[:5] == ["7f3a1b2c", "✕", "critical", "failure_rate", "steve\\x1b[31m"]
    assert second.split()[:3] == ["7f3a1b2c", "○", "off"]
    document = json.loads(ctl("alerts", "rules", "list", "--json").out)
    assert (document["schema"], document["total"]) == ("ambient.alert-rules/1", 2)


def test_a_rule_is_added_with_the_defaults_that_help_names(ctl: Ctl, alerts: FakeDaemon) -> None:
    alerts.script[routes.ALERT_RULES] = answers(rule(), 201)
    found = ctl("alerts", "rules", "add", "failure_rate", "--warn", "0.1", "--critical", "0.25")
    assert (found.code, found.out) == (0, "✓ Rule 7f3a1b2c added.\n")
    assert body(alerts) == (
        "POST",
        routes.ALERT_RULES,
        {
            "metric": "failure_rate",
            "scopeType": "global",
            "warnThreshold": 0.1,
            "criticalThreshold": 0.25,
            "window": "24h",
            "comparison": "gte",
        },
    )


def test_every_option_of_a_rule_arrives(ctl: Ctl, alerts: FakeDaemon) -> None:
    alerts.script[routes.ALERT_RULES] = answers(rule(), 201)
    argv = "alerts rules add daily_cost_usd --warn 1 --critical 2 --window 7d --comparison gt --agent tony"
    found = ctl(
        *argv.split(),
        "--model",
        "m",
        "--cooldown",
        "10m",
        "--hold",
        "90",
        "--renotify",
        "4h",
        "--name",
        "A b",
        "--disabled",
    )
    assert found.code == 0
    assert body(alerts)[2] == {
        "metric": "daily_cost_usd",
        "scopeType": "agent_model",
        "scopeRef": {"agentId": "tony", "modelId": "m"},
        "warnThreshold": 1.0,
        "criticalThreshold": 2.0,
        "window": "7d",
        "comparison": "gt",
        "dedupCooldownSec": 600,
        "holdSec": 90,
        "renotifySec": 14_400,
        "name": "A b",
        "enabled": False,
    }


@pytest.mark.parametrize(
    ("argv", "sent"),
    [
        (["--critical", "0.75", "--hold", "10m"], {"criticalThreshold": 0.75, "holdSec": 600}),
        (["--renotify", "30m"], {"renotifySec": 1800}),
        (["--renotify", "0s"], {"renotifySec": None}),
        (["--agent", "tony"], {"scopeType": "agent", "scopeRef": {"agentId": "tony"}}),
        (["--model", "m"], {"scopeType": "model", "scopeRef": {"modelId": "m"}}),
        (["--global"], {"scopeType": "global", "scopeRef": None}),
    ],
)
def test_a_change_sends_what_it_names(
    ctl: Ctl, alerts: FakeDaemon, argv: list[str], sent: dict[str, Any]
) -> None:
    found = ctl("alerts", "rules", "set", "7f3a", *argv)
    assert (found.code, found.out) == (0, "✓ Rule 7f3a1b2c changed.\n")
    assert body(alerts) == ("PATCH", f"{routes.ALERT_RULES}/7f3a", sent)


@pytest.mark.parametrize(("verb", "on"), [("enable", True), ("disable", False)])
def test_a_rule_is_switched(ctl: Ctl, alerts: FakeDaemon, verb: str, on: bool) -> None:
    found = ctl("alerts", "rules", verb, "7f3a")
    assert (found.code, found.out) == (0, f"✓ Rule 7f3a1b2c {verb}d.\n")
    assert body(alerts)[2] == {"enabled": on}


def test_removing_needs_a_yes_where_nobody_can_be_asked(ctl: Ctl, alerts: FakeDaemon) -> None:
    found = ctl("alerts", "rules", "remove", "7f3a")
    assert (found.code, found.out) == (2, "")
    assert "say --yes" in found.err
    assert alerts.seen == []
    found = ctl("alerts", "rules", "remove", "7f3a", "--yes")
    assert (found.code, found.out) == (0, "✓ Rule 7f3a1b2c removed.\n")
    assert body(alerts) == ("DELETE", f"{routes.ALERT_RULES}/7f3a", None)


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("", 1), ("y\n", 0)])
def test_on_a_terminal_the_rule_is_shown_and_asked_for(
    ctl: Ctl, alerts: FakeDaemon, environment: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    environment.setattr("ambientctl.term.is_terminal", lambda descriptor: descriptor == 0)
    found = ctl("alerts", "rules", "remove", "7f3a", stdin=answer.encode())
    assert found.code == code
    assert f"Rule      {RULE_ID}" in found.err
    assert "Remove this rule? [y/N]" in found.err
    last = body(alerts)
    assert last[:2] == (
        ("DELETE" if code == 0 else "GET"),
        f"{routes.ALERT_RULES}/{RULE_ID if code == 0 else '7f3a'}",
    )


def test_ack_and_mute(ctl: Ctl, alerts: FakeDaemon) -> None:
    seen = rule()
    assert seen.state is not None
    seen.state.acknowledged_by = "uid:0"
    seen.state.muted_until = "2026-11-20T19:28:11.000Z"
    alerts.script[f"{routes.ALERTS}/7f3a/ack"] = alerts.script[f"{routes.ALERTS}/7f3a/mute"] = answers(seen)
    assert ctl("alerts", "ack", "7f3a").out == "✓ Alert 7f3a1b2c acknowledged by uid:0.\n"
    assert body(alerts) == ("POST", f"{routes.ALERTS}/7f3a/ack", {})
    found = ctl("alerts", "mute", "7f3a", "--for", "4h")
    assert found.out == "✓ Alert 7f3a1b2c muted until 2026-11-20T19:28:11.000Z.\n"
    assert body(alerts)[2] == {"forSec": 14_400}
    ctl("alerts", "mute", "7f3a")
    assert body(alerts)[2] == {"forSec": 3600}
    assert json.loads(ctl("alerts", "ack", "7f3a", "--json").out)["state"]["acknowledgedBy"] == "uid:0"


def test_a_refusal_keeps_its_exit_code(ctl: Ctl, alerts: FakeDaemon) -> None:
    alerts.script[f"{routes.ALERTS}/7f3a/ack"] = refused(
        "ALERT_NOT_ACTIVE", "there is nothing to acknowledge"
    )
    found = ctl("alerts", "ack", "7f3a")
    assert (found.code, found.out) == (6, "")
    assert found.err == "Error: there is nothing to acknowledge\n"
    alerts.script[f"{routes.ALERT_RULES}/zz"] = refused("NOT_FOUND", "no alert rule has the id 'zz'")
    assert ctl("alerts", "show", "zz").code == 5


def test_a_notifier_is_tried_out(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.TEST_NOTIFIER] = answers(m.NotifierTestAnswer(True, "ops", "webhook", 12))
    found = ctl("alerts", "test-notifier", "ops")
    assert (found.code, found.out) == (0, "✓ ops (webhook) took the test notification in 12 ms.\n")
    daemon.script[routes.TEST_NOTIFIER] = answers(
        m.NotifierTestAnswer(False, "ops", "webhook", 12, "answered 503")
    )
    found = ctl("alerts", "test-notifier", "ops")
    assert (found.code, found.out) == (1, "")
    assert found.err == "Error: ops (webhook) did not take it: answered 503\n"
    found = ctl("alerts", "test-notifier", "ops", "--json")
    assert (found.code, json.loads(found.out)["ok"]) == (1, False)


@pytest.mark.parametrize(
    "argv",
    [
        ["alerts", "mute", "x", "--for", "soon"],
        ["alerts", "mute", "x", "--for", "-1h"],
        ["alerts", "rules", "add", "nonsense", "--warn", "1", "--critical", "2"],
        ["alerts", "rules", "add", "failure_rate", "--warn", "hot", "--critical", "2"],
        ["alerts", "rules", "add", "failure_rate", "--warn", "1"],
        ["alerts", "rules", "set", "x"],
        ["alerts", "rules", "set", "x", "--global", "--agent", "a"],
        ["alerts", "rules", "set", "x", "--window", "2h"],
    ],
)
def test_wrong_usage_asks_nobody(ctl: Ctl, daemon: FakeDaemon, argv: list[str]) -> None:
    found = ctl(*argv)
    assert (found.code, found.out) == (2, "")
    assert daemon.seen == []
