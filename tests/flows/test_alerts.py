"""Rules, the sweep and the outbox over a real database, on virtual time."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from ambientd.core.rejection import Rejected
from ambientd.core.timefmt import parse_rfc3339
from ambientd.flows import alerts as flow
from ambientd.wire.alert_messages import (
    AlertMuteRequest,
    AlertNotification,
    AlertRulePatch,
    AlertRuleView,
    AlertView,
)
from ambientd.wire.enums import AlertLifecycle, AlertMetric, AlertStatus
from tests.fakes.alerts import AlertRig, alerting, request

Clock = trio.testing.MockClock


def patch(**fields: Any) -> AlertRulePatch:
    return msgspec.convert(fields, AlertRulePatch)


def taken(answer: AlertRuleView | Rejected) -> AlertRuleView:
    assert not isinstance(answer, Rejected), answer
    return answer


def refused(answer: AlertRuleView | Rejected) -> tuple[str, list[str]]:
    assert isinstance(answer, Rejected)
    return answer.code, [f"{detail.field}: {detail.issue}" for detail in answer.details]


async def active(rig: AlertRig) -> list[AlertView]:
    return await flow.list_active(rig.alerting)


def sql(tmp_path: Path, query: str) -> list[tuple[Any, ...]]:
    """As an outsider reads the file."""
    with sqlite3.connect(f"file:{tmp_path}/ambient.db?mode=ro", uri=True) as connection:
        found = connection.execute(query).fetchall()
    connection.close()
    return found


# --- rules


async def test_a_rule_is_kept_and_wakes_the_sweep(autojump_clock: Clock, tmp_path: Path) -> None:
    async with alerting(tmp_path) as rig:
        added = await rig.add(name="Too many failures")
        assert added.rule_id == "00000001-0000-4000-8000-000000000001"
        assert (added.dedup_cooldown_sec, added.enabled, added.scope_ref) == (300, True, None)
        assert await flow.list_rules(rig.alerting) == [added]
        assert await flow.show_rule(rig.alerting, "00000001") == added
        assert rig.wakes == 1
        assert sql(tmp_path, "SELECT kind, subject FROM audit_records") == [
            ("alerts.rule.add", added.rule_id)
        ]


async def test_a_rule_with_problems_is_refused_with_all_of_them(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with alerting(tmp_path) as rig:
        bad = request(
            metric="gateway_away_sec", scopeType="agent", warnThreshold=2, criticalThreshold=1, holdSec=-1
        )
        assert refused(await flow.add_rule(rig.alerting, bad, "uid:0")) == (
            "VALIDATION_ERROR",
            [
                "metric: not_measured",
                "scopeType: not_allowed",
                "scopeRef.agentId: required",
                "criticalThreshold: order",
                "holdSec: range",
            ],
        )
        assert (await flow.list_rules(rig.alerting), rig.wakes) == ([], 0)
        assert sql(tmp_path, "SELECT count(*) FROM audit_records") == [(0,)]


async def test_a_metric_can_be_watched_once_something_measures_it(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with alerting(tmp_path) as rig:
        rig.gauges[AlertMetric.OUTBOX_DEPTH] = lambda: 7.0
        await rig.add(metric="outbox_depth", warnThreshold=5, criticalThreshold=50)
        await rig.sweep()
        (alert,) = await active(rig)
        assert (alert.value, alert.text) == (7.0, "outbox_depth is 7 (limit 5)")


async def test_a_patch_changes_what_it_names(autojump_clock: Clock, tmp_path: Path) -> None:
    async with alerting(tmp_path) as rig:
        rule = await rig.add(scopeType="agent", scopeRef={"agentId": "tony"}, name="old")
        await trio.sleep(5)
        changed = taken(
            await flow.change_rule(rig.alerting, rule.rule_id, patch(warnThreshold=0.3, name=None), "uid:0")
        )
        expected = msgspec.structs.replace(rule, warn_threshold=0.3, name=None, updated_at=changed.updated_at)
        assert changed == expected
        assert parse_rfc3339(changed.updated_at) > parse_rfc3339(rule.updated_at)
        everywhere = patch(scopeType="global", scopeRef=None)
        changed = taken(await flow.change_rule(rig.alerting, rule.rule_id, everywhere, "uid:0"))
        assert changed.scope_ref is None


async def test_a_rule_that_wants_reminders_gets_them_until_somebody_acknowledges(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with alerting(tmp_path) as rig:
        rig.gauges[AlertMetric.OUTBOX_DEPTH] = lambda: 7.0
        rule = await rig.add(metric="outbox_depth", warnThreshold=5, criticalThreshold=50, renotifySec=900)
        assert rule.renotify_sec == 900
        told = []
        for _ in range(10):  # a sweep every five minutes
            told.append((await rig.sweep()).told)
            await trio.sleep(300)
        assert told == [1, 0, 0, 1, 0, 0, 1, 0, 0, 1]
        taken(await flow.acknowledge_alert(rig.alerting, rule.rule_id, "uid:0"))
        for _ in range(10):
            assert (await rig.sweep()).told == 0
            await trio.sleep(300)
        never = taken(await flow.change_rule(rig.alerting, rule.rule_id, patch(renotifySec=None), "uid:0"))
        assert never.renotify_sec is None
        assert sql(tmp_path, "SELECT renotify_sec FROM alert_rules") == [(None,)]
        assert sql(tmp_path, "SELECT json_extract(payload_json, '$.reason') FROM alert_notifications") == [
            ("active",),
            ("reminder",),
            ("reminder",),
            ("reminder",),
        ]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"criticalThreshold": 0.1}, "criticalThreshold: order"),
        ({"warnThreshold": 0.9}, "criticalThreshold: order"),
        ({"scopeType": "agent"}, "scopeRef.agentId: required"),
        ({"scopeRef": {"agentId": "a"}}, "scopeRef.agentId: not_allowed"),
        ({"metric": "budget_usd"}, "window: not_allowed"),
    ],
)
async def test_a_patch_is_checked_with_what_it_leaves_as_it_is(
    autojump_clock: Clock, tmp_path: Path, fields: dict[str, Any], problem: str
) -> None:
    async with alerting(tmp_path) as rig:
        rule = await rig.add()
        answer = await flow.change_rule(rig.alerting, rule.rule_id, patch(**fields), "uid:0")
        assert refused(answer) == ("VALIDATION_ERROR", [problem])
        assert await flow.show_rule(rig.alerting, rule.rule_id) == rule


async def test_ids_may_be_shortened_but_not_ambiguous(autojump_clock: Clock, tmp_path: Path) -> None:
    async with alerting(tmp_path) as rig:
        first, second = await rig.add(), await rig.add()
        assert taken(await flow.show_rule(rig.alerting, "00000002")).rule_id == second.rule_id
        assert taken(await flow.show_rule(rig.alerting, "0001")).rule_id == first.rule_id
        code, details = refused(await flow.show_rule(rig.alerting, "0000"))
        assert (code, len(details)) == ("AMBIGUOUS", 2)
        for unknown in ("", "zzz", "0000000\udcff"):
            assert refused(await flow.show_rule(rig.alerting, unknown))[0] == "NOT_FOUND"


async def test_what_is_unknown_is_not_found_by_any_verb(autojump_clock: Clock, tmp_path: Path) -> None:
    async with alerting(tmp_path) as rig:
        answers = [
            await flow.show_rule(rig.alerting, "x"),
            await flow.change_rule(rig.alerting, "x", patch(enabled=False), "uid:0"),
            await flow.remove_rule(rig.alerting, "x", "uid:0"),
            await flow.acknowledge_alert(rig.alerting, "x", "uid:0"),
            await flow.mute_alert(rig.alerting, "x", AlertMuteRequest(for_sec=60), "uid:0"),
        ]
        assert [refused(answer)[0] for answer in answers] == ["NOT_FOUND"] * 5


async def test_there_is_a_bound_on_rules(
    autojump_clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "RULES_MAX", 2)
    async with alerting(tmp_path) as rig:
        await rig.add()
        await rig.add()
        answer = await flow.add_rule(rig.alerting, request(), "uid:0")
        assert refused(answer) == ("VALIDATION_ERROR", ["rules: limit"])


# --- the sweep


async def test_the_sequence_of_the_specification_makes_three_notifications(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with alerting(tmp_path) as rig:
        levels = [0.0, 2.0, 2.0, 7.0, 7.0, 2.0, 0.0, 0.0]
        rig.gauges[AlertMetric.MISSED_HEARTBEATS] = lambda: levels.pop(0)
        await rig.add(metric="missed_heartbeats", warnThreshold=1, criticalThreshold=5)
        told = []
        while levels:
            await trio.sleep(60)
            await rig.sweep()
            told += await rig.outbox()
        assert told == ["active", "escalated", "resolved"]


async def test_a_session_that_ends_changes_the_state_by_the_next_sweep(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with alerting(tmp_path) as rig:
        await rig.add()
        await rig.sweep()
        assert await active(rig) == []
        await rig.end("failed")
        swept = await rig.sweep()
        assert (swept.rules, swept.told) == (1, 1)
        row = "SELECT status, lifecycle_state, last_value, active_fingerprint IS NOT NULL FROM alert_state"
        assert sql(tmp_path, row) == [("critical", "active", 1.0, 1)]
        (alert,) = await active(rig)
        assert alert.status is AlertStatus.CRITICAL
        assert alert.text == "failure_rate is 100% (limit 50%)"
        assert alert.scope == {"type": "global"}
        assert alert.deduped is False


async def test_suppressed_evaluations_are_stored_and_tell_nothing(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with alerting(tmp_path) as rig:
        await rig.add()
        await rig.end("failed")
        await rig.sweep()
        assert await rig.outbox() == ["active"]
        for _ in range(100):
            await trio.sleep(2.9)
            assert (await rig.sweep()).told == 0
        (alert,) = await active(rig)
        assert (alert.deduped, alert.lifecycle) == (True, AlertLifecycle.SUPPRESSED)
        assert sql(tmp_path, "SELECT lifecycle_state, suppressed_until FROM alert_state") == [
            ("suppressed", "2026-11-20T12:05:00.000Z")
        ]


async def test_the_notification_says_all_that_a_receiver_needs(autojump_clock: Clock, tmp_path: Path) -> None:
    async with alerting(tmp_path) as rig:
        rule = await rig.add(scopeType="agent", scopeRef={"agentId": "tony"}, name="Tony fails")
        await rig.end("failed")
        await rig.end("success", count=2)
        await rig.sweep()
        (payload,) = sql(tmp_path, "SELECT payload_json FROM alert_notifications")
        assert msgspec.json.decode(payload[0]) == {
            "schema": "ambient.notification/1",
            "id": "00000002-0000-4000-8000-000000000002",
            "reason": "active",
            "at": "2026-11-20T12:00:00.000Z",
            "node": "edge-07",
            "ruleId": rule.rule_id,
            "metric": "failure_rate",
            "scope": {"agentId": "tony"},
            "status": "warning",
            "warnThreshold": 0.25,
            "criticalThreshold": 0.5,
            "window": "1h",
            "comparison": "gte",
            "triggeredAt": "2026-11-20T12:00:00.000Z",
            "text": "failure_rate of tony is 33.3% (limit 25%)",
            "name": "Tony fails",
            "value": 1 / 3,
        }


@pytest.mark.parametrize("metric", ["failure_rate", "runtime_p95_ms", "daily_cost_usd", "budget_usd"])
@pytest.mark.parametrize("scope", ["agent", "model", "agent_model"])
async def test_a_rule_about_others_never_fires(
    autojump_clock: Clock, tmp_path: Path, metric: str, scope: str
) -> None:
    refs: Mapping[str, dict[str, str]] = {
        "agent": {"agentId": "nobody"},
        "model": {"modelId": "nothing"},
        "agent_model": {"agentId": "tony", "modelId": "nothing"},
    }
    async with alerting(tmp_path) as rig:
        limits = {"warnThreshold": 0.1, "criticalThreshold": 0.2, "window": "24h"}
        await rig.add(metric=metric, scopeType=scope, scopeRef=refs[scope], **limits)
        watched = await rig.add(metric=metric, **limits)
        await rig.end("failed", cost=9.0, runtime_ms=60_000)
        for _ in range(5):
            await trio.sleep(300)
            await rig.sweep()
        assert [alert.rule_id for alert in await active(rig)] == [watched.rule_id]
        assert await rig.outbox() == ["active"]


async def test_an_empty_window_is_neither_a_breach_nor_a_recovery(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with alerting(tmp_path) as rig:
        await rig.add(window="5m")
        await rig.sweep()
        assert await active(rig) == []
        await rig.end("failed")
        await rig.sweep()
        await trio.sleep(301)
        await rig.sweep()
        (alert,) = await active(rig)
        assert (alert.status, alert.value) == (AlertStatus.CRITICAL, 1.0)
        assert alert.no_data_since is not None
        assert await rig.outbox() == ["active"]


async def test_an_alert_whose_window_stays_empty_is_resolved(autojump_clock: Clock, tmp_path: Path) -> None:
    async with alerting(tmp_path) as rig:
        await rig.add(window="5m")
        await rig.end("failed")
        for _ in range(4):
            await rig.sweep()
            await trio.sleep(300)
        assert await rig.outbox() == ["active", "resolved"]


async def test_money_that_left_the_window_resolves_the_alert(autojump_clock: Clock, tmp_path: Path) -> None:
    async with alerting(tmp_path) as rig:
        await rig.add(metric="daily_cost_usd", window="5m", warnThreshold=1, criticalThreshold=2)
        await rig.end(cost=3.0)
        await rig.sweep()
        await trio.sleep(299)
        await rig.sweep()
        assert [alert.status for alert in await active(rig)] == [AlertStatus.CRITICAL]
        await trio.sleep(2)
        await rig.sweep()
        (alert,) = await active(rig)
        assert alert.status is AlertStatus.RESOLVED
        assert alert.text == "daily_cost_usd is back at $0.00 (limit $1.00)"
        await rig.sweep()
        assert await active(rig) == []
        assert await rig.outbox() == ["active", "resolved"]


async def test_a_budget_starts_again_with_the_day(autojump_clock: Clock, tmp_path: Path) -> None:
    async with alerting(tmp_path) as rig:  # at noon
        await rig.add(metric="budget_usd", window="24h", warnThreshold=1, criticalThreshold=2)
        await rig.end(cost=3.0)
        for _ in range(13):
            await rig.sweep()
            await trio.sleep(3600)
        assert await rig.outbox() == ["active", "resolved"]


async def test_a_restart_in_the_middle_repeats_nothing_and_forgets_nothing(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with alerting(tmp_path) as rig:
        rule = await rig.add(window="5m", metric="daily_cost_usd", warnThreshold=1, criticalThreshold=5)
        await rig.end(cost=2.0)
        await rig.sweep()
        clock = rig.clock
    for _ in range(3):
        await trio.sleep(30)
        async with alerting(tmp_path, clock=clock) as rig:
            await rig.sweep()
            (alert,) = await active(rig)
            assert (alert.rule_id, alert.deduped) == (rule.rule_id, True)
    await trio.sleep(300)
    async with alerting(tmp_path, clock=clock) as rig:
        await rig.sweep()
        assert await rig.outbox() == ["active", "resolved"]


async def test_state_and_notification_are_written_together_or_not_at_all(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with alerting(tmp_path) as rig:
        await rig.add()
        await rig.end("failed")
        rig.store.trouble = RuntimeError("no power")
        with pytest.raises(RuntimeError):
            await rig.sweep()
        rig.store.trouble = None
        assert (await active(rig), await rig.outbox()) == ([], [])
        await rig.sweep()
        assert (len(await active(rig)), await rig.outbox()) == (1, ["active"])


async def test_each_notifier_gets_its_own_copy_and_the_outbox_is_bounded(
    autojump_clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "OUTBOX_MAX", 3)
    async with alerting(tmp_path, notifiers=("ops", "page")) as rig:
        for _ in range(5):
            await rig.add()
        await rig.end("failed")
        swept = await rig.sweep()
        assert (swept.told, swept.dropped) == (5, 4)
        assert await rig.outbox("ops") == await rig.outbox("page") == ["active"] * 3
        counters = await rig.store.read(lambda tx: tx.tasks.counters())
        assert counters[flow.DROPPED] == 4


async def test_equal_questions_are_measured_once(autojump_clock: Clock, tmp_path: Path) -> None:
    asked = 0

    def depth() -> float:
        nonlocal asked
        asked += 1
        return 1.0

    async with alerting(tmp_path) as rig:
        rig.gauges[AlertMetric.OUTBOX_DEPTH] = depth
        for warn in (1, 2, 3):
            await rig.add(metric="outbox_depth", warnThreshold=warn, criticalThreshold=9)
        assert (await rig.sweep()).rules == 3
        assert asked == 1


async def test_without_an_enabled_rule_a_sweep_writes_nothing(autojump_clock: Clock, tmp_path: Path) -> None:
    async with alerting(tmp_path) as rig:
        assert await rig.store.read(flow.active_alerts) is None
        await rig.add(enabled=False)
        rig.store.trouble = RuntimeError("a write")
        assert (await rig.sweep()).rules == 0
        assert await rig.store.read(flow.active_alerts) == []


# --- the operator


async def test_an_acknowledgement_needs_an_active_alert(autojump_clock: Clock, tmp_path: Path) -> None:
    async with alerting(tmp_path) as rig:
        rule = await rig.add()
        answer = await flow.acknowledge_alert(rig.alerting, rule.rule_id, "uid:7")
        assert refused(answer) == ("ALERT_NOT_ACTIVE", [])
        await rig.end("failed")
        await rig.sweep()
        seen = taken(await flow.acknowledge_alert(rig.alerting, rule.rule_id, "uid:7"))
        assert seen.state is not None
        assert (seen.state.acknowledged_by, seen.state.status) == ("uid:7", AlertStatus.CRITICAL)
        await rig.sweep()
        assert (await active(rig))[0].acknowledged_by == "uid:7"
        assert sql(tmp_path, "SELECT actor FROM audit_records WHERE kind = 'alerts.ack'") == [("uid:7",)]


async def test_a_mute_keeps_quiet_and_tells_afterwards(autojump_clock: Clock, tmp_path: Path) -> None:
    async with alerting(tmp_path) as rig:
        rule = await rig.add(window="24h")
        await flow.mute_alert(rig.alerting, rule.rule_id, AlertMuteRequest(for_sec=600), "uid:0")
        await rig.end("failed")
        await rig.sweep()
        (alert,) = await active(rig)
        assert (alert.lifecycle, alert.muted_until) == (
            AlertLifecycle.SUPPRESSED,
            "2026-11-20T12:10:00.000Z",
        )
        assert await rig.outbox() == []
        await trio.sleep(601)
        await rig.sweep()
        assert await rig.outbox() == ["active"]


async def test_a_mute_until_an_instant_and_its_end(autojump_clock: Clock, tmp_path: Path) -> None:
    async with alerting(tmp_path) as rig:
        rule = await rig.add()
        until = AlertMuteRequest(until="2026-11-20T14:00:00+01:00")
        muted = taken(await flow.mute_alert(rig.alerting, rule.rule_id, until, "uid:0"))
        assert muted.state is not None
        assert muted.state.muted_until == "2026-11-20T13:00:00.000Z"
        ended = taken(await flow.mute_alert(rig.alerting, rule.rule_id, AlertMuteRequest(for_sec=0), "uid:0"))
        assert ended.state is not None
        assert ended.state.muted_until is None


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (AlertMuteRequest(), "forSec: required"),
        (AlertMuteRequest(for_sec=1, until="2026-11-20T14:00:00Z"), "forSec: required"),
        (AlertMuteRequest(for_sec=-1), "forSec: range"),
        (AlertMuteRequest(for_sec=2**62), "forSec: range"),
        (AlertMuteRequest(until="tomorrow"), "until: format"),
        (AlertMuteRequest(until="2026-11-20T11:00:00Z"), "until: range"),
        (AlertMuteRequest(until="2099-11-20T11:00:00Z"), "until: range"),
    ],
)
async def test_a_mute_that_makes_no_sense_is_refused(
    autojump_clock: Clock, tmp_path: Path, body: AlertMuteRequest, problem: str
) -> None:
    async with alerting(tmp_path) as rig:
        rule = await rig.add()
        answer = await flow.mute_alert(rig.alerting, rule.rule_id, body, "uid:0")
        assert refused(answer) == ("VALIDATION_ERROR", [problem])


@pytest.mark.parametrize("fields", [{"enabled": False}, {"window": "7d"}, {"metric": "daily_cost_usd"}])
async def test_a_rule_that_asks_something_else_forgets_its_alert_without_a_word(
    autojump_clock: Clock, tmp_path: Path, fields: dict[str, Any]
) -> None:
    async with alerting(tmp_path) as rig:
        rule = await rig.add()
        await rig.end("failed", ago=10)
        await rig.sweep()
        assert await rig.outbox() == ["active"]
        changed = taken(await flow.change_rule(rig.alerting, rule.rule_id, patch(**fields), "uid:0"))
        assert changed.state is not None
        assert changed.state.status is AlertStatus.OK
        assert (await active(rig), await rig.outbox()) == ([], [])


async def test_a_changed_threshold_is_evaluated_from_where_the_alert_stood(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with alerting(tmp_path) as rig:
        rule = await rig.add()
        await rig.end("failed")
        await rig.end("success", count=2)
        await rig.sweep()
        await flow.change_rule(rig.alerting, rule.rule_id, patch(criticalThreshold=0.3), "uid:0")
        await rig.sweep()
        assert await rig.outbox() == ["active", "escalated"]


async def test_a_removed_rule_takes_its_state_with_it(autojump_clock: Clock, tmp_path: Path) -> None:
    async with alerting(tmp_path) as rig:
        rule = await rig.add()
        await rig.end("failed")
        await rig.sweep()
        gone = taken(await flow.remove_rule(rig.alerting, rule.rule_id, "uid:0"))
        assert gone.state is not None
        assert await flow.list_rules(rig.alerting) == []
        assert sql(tmp_path, "SELECT count(*) FROM alert_state") == [(0,)]
        assert await rig.outbox() == ["active"]


async def test_a_rule_that_changed_while_it_was_measured_waits_for_the_next_sweep(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with alerting(tmp_path) as rig:
        rule = await rig.add()
        other = await rig.add()
        await rig.end("failed")
        measured = await rig.store.read(lambda tx: flow._measure(tx, rig.gauges, rig.alerting.now()))
        await flow.change_rule(rig.alerting, rule.rule_id, patch(warnThreshold=0.4), "uid:0")
        await flow.remove_rule(rig.alerting, other.rule_id, "uid:0")
        swept = await rig.store.write(lambda tx: flow._fold(tx, rig.alerting, measured, rig.alerting.now()))
        assert swept.told == 0
        await rig.sweep()
        assert await rig.outbox() == ["active"]


def test_a_notification_of_another_version_is_unreadable_and_no_crash() -> None:
    from ambientd.core.records import PendingNotification

    assert flow.read_notification(PendingNotification(key=1, payload=b'{"schema":"other/9"}')) is None
    assert AlertNotification.__struct_fields__[0] == "schema"
