"""Alert rules, states, the outbox and the metrics in SQLite."""

from datetime import timedelta
from typing import Any

import apsw
import pytest

from ambientd.core.alertrules import AlertRule, AlertScope
from ambientd.core.alerts import AlertState
from ambientd.core.records import SessionChange, UsageRecord
from ambientd.core.timefmt import rfc3339_ms
from ambientd.store.alerts import SqliteAlerts
from ambientd.store.unit import SqliteTransaction
from ambientd.wire.enums import (
    AlertComparison,
    AlertLifecycle,
    AlertMetric,
    AlertScopeType,
    AlertStatus,
    AlertWindow,
    CostConfidence,
    CostSource,
    SessionStatus,
)
from tests.store.kit import AT, in_memory, new_session

EVERYWHERE = AlertScope()
HOUR = timedelta(hours=1)


def make_rule(rule_id: str = "r-1", **fields: Any) -> AlertRule:
    facts: dict[str, Any] = {
        "rule_id": rule_id,
        "metric": AlertMetric.FAILURE_RATE,
        "warn_threshold": 0.1,
        "critical_threshold": 0.2,
        "created_at": AT,
        "updated_at": AT,
    }
    return AlertRule(**(facts | fields))


@pytest.fixture
def connection() -> apsw.Connection:
    return in_memory()


@pytest.fixture
def tx(connection: apsw.Connection) -> SqliteTransaction:
    return SqliteTransaction(connection, AT)


@pytest.fixture
def alerts(tx: SqliteTransaction) -> SqliteAlerts:
    return tx.alerts


FULL = make_rule(
    name="Tony fails",
    enabled=False,
    scope=AlertScope(type=AlertScopeType.AGENT_MODEL, agent_id="tony", model_id="opus-5"),
    window=AlertWindow.WEEK,
    comparison=AlertComparison.GT,
    cooldown_sec=7,
    hold_sec=9,
    renotify_sec=3600,
    updated_at=AT + HOUR,
)


@pytest.mark.parametrize("rule", [make_rule(), FULL])
def test_a_rule_comes_back_as_it_was(alerts: SqliteAlerts, rule: AlertRule) -> None:
    alerts.put_rule(rule)
    assert alerts.rule("r-1") == rule
    assert alerts.rules() == [rule]
    assert alerts.rule("r-2") is None


def test_a_replaced_rule_keeps_its_state_and_its_birthday(alerts: SqliteAlerts) -> None:
    alerts.put_rule(make_rule())
    alerts.put_state(AlertState(rule_id="r-1", last_value=1.0))
    alerts.put_rule(FULL)
    assert alerts.rule("r-1") == FULL
    assert alerts.states() == {"r-1": AlertState(rule_id="r-1", last_value=1.0)}


def test_rules_come_oldest_first(alerts: SqliteAlerts) -> None:
    for name, hours in (("c", 1), ("a", 2), ("b", 0)):
        alerts.put_rule(make_rule(name, created_at=AT + hours * HOUR))
    assert [rule.rule_id for rule in alerts.rules()] == ["b", "c", "a"]


def test_the_schema_refuses_a_rule_upside_down(alerts: SqliteAlerts) -> None:
    with pytest.raises(ValueError, match="alert rule r-1"):
        alerts.put_rule(make_rule(critical_threshold=0.05))


STATE = AlertState(
    rule_id="r-1",
    status=AlertStatus.CRITICAL,
    lifecycle=AlertLifecycle.SUPPRESSED,
    told=AlertStatus.WARNING,
    last_value=0.375,
    last_evaluated_at=AT,
    last_transition_at=AT + 1 * HOUR,
    last_notified_at=AT + 2 * HOUR,
    fingerprint="r-1|global//|critical|0",
    quiet_until=AT + 3 * HOUR,
    warning_since=AT + 4 * HOUR,
    critical_since=AT + 5 * HOUR,
    no_data_since=AT + 6 * HOUR,
    acknowledged_at=AT + 7 * HOUR,
    acknowledged_by="uid:0",
    muted_at=AT + 8 * HOUR,
    muted_until=AT + 9 * HOUR,
)


def test_a_state_comes_back_as_it_was_and_shows_until_when_it_is_quiet(
    alerts: SqliteAlerts, connection: apsw.Connection
) -> None:
    alerts.put_rule(make_rule())
    assert alerts.state("r-1") is None
    alerts.put_state(STATE)
    assert alerts.state("r-1") == STATE
    assert alerts.active() == [STATE]
    sql = "SELECT status, lifecycle_state, suppressed_until, active_fingerprint FROM alert_state"
    assert connection.execute(sql).fetchall() == [
        ("critical", "suppressed", rfc3339_ms(AT + 9 * HOUR), "r-1|global//|critical|0")
    ]


def test_only_breaches_and_what_was_just_resolved_are_active(alerts: SqliteAlerts) -> None:
    over, active = AlertLifecycle.RESOLVED, AlertLifecycle.ACTIVE
    phases = [
        (AlertStatus.OK, over),
        (AlertStatus.RESOLVED, over),
        (AlertStatus.WARNING, active),
    ]
    for number, (status, lifecycle) in enumerate(phases):
        alerts.put_rule(make_rule(str(number)))
        alerts.put_state(AlertState(rule_id=str(number), status=status, lifecycle=lifecycle))
    assert {state.rule_id for state in alerts.active()} == {"1", "2"}


def test_a_state_needs_its_rule_and_goes_with_it(alerts: SqliteAlerts) -> None:
    with pytest.raises(ValueError, match="FOREIGN KEY"):
        alerts.put_state(AlertState(rule_id="nobody"))
    alerts.put_rule(make_rule())
    alerts.put_state(STATE)
    alerts.remove_rule("r-1")
    assert (alerts.rules(), alerts.states()) == ([], {})


# --- the outbox


def test_the_outbox_keeps_the_order_of_each_notifier(alerts: SqliteAlerts) -> None:
    for number in range(3):
        for notifier in ("a", "b"):
            alerts.enqueue(notifier, b'{"n":%d}' % number, AT)
    first = alerts.pending("a", 10)
    assert [item.payload for item in first] == [b'{"n":0}', b'{"n":1}', b'{"n":2}']
    alerts.done(first[0].key)
    assert [item.payload for item in alerts.pending("a", 1)] == [b'{"n":1}']
    assert len(alerts.pending("b", 10)) == 3


def test_the_outbox_is_bounded_and_forgets_notifiers_that_are_gone(alerts: SqliteAlerts) -> None:
    for number in range(5):
        for notifier in ("a", "b", "gone"):
            alerts.enqueue(notifier, b'{"n":%d}' % number, AT)
    assert alerts.drop(beyond=2, notifiers=("a", "b")) == 3 + 3 + 5
    assert [item.payload for item in alerts.pending("a", 10)] == [b'{"n":3}', b'{"n":4}']
    assert alerts.pending("gone", 10) == []
    assert alerts.drop(beyond=2, notifiers=("a", "b")) == 0


# --- the metrics


class Sessions:
    """Adds sessions that ended."""

    def __init__(self, tx: SqliteTransaction) -> None:
        self._tx = tx
        self._count = 0

    def end(
        self,
        status: str = "success",
        *,
        ago: float = 60.0,
        runtime_ms: int | None = 1000,
        cost: float | None = None,
        **who: Any,
    ) -> None:
        self._count += 1
        name = f"s-{self._count}"
        at = AT - timedelta(seconds=ago)
        self._tx.ledger.add(new_session(name, started_at=at - HOUR, **who))
        change = SessionChange(status=SessionStatus(status), ended_at=at, runtime_ms=runtime_ms)
        self._tx.ledger.change(name, change)
        if cost is not None:
            usage = UsageRecord(
                session_id=name,
                cost_usd=cost,
                cost_confidence=CostConfidence.EXACT,
                cost_source=CostSource.PROVIDER_REPORTED,
                pricing_version="provider_native",
                computed_at=at,
            )
            self._tx.usage.put(usage)

    def measure(self, metric: str, scope: AlertScope = EVERYWHERE) -> float | None:
        return self._tx.alerts.measure(AlertMetric(metric), scope, AT - HOUR, AT)


@pytest.fixture
def sessions(tx: SqliteTransaction) -> Sessions:
    return Sessions(tx)


def test_the_failure_rate_leaves_killed_and_cancelled_sessions_out(sessions: Sessions) -> None:
    assert sessions.measure("failure_rate") is None
    for status in ("success", "success", "success", "failed", "killed", "killed", "cancelled"):
        sessions.end(status)
    assert sessions.measure("failure_rate") == 0.25


def test_a_failure_rate_of_only_killed_sessions_is_no_data(sessions: Sessions) -> None:
    sessions.end("killed")
    assert sessions.measure("failure_rate") is None


def test_the_95th_percentile_is_the_nearest_rank(sessions: Sessions) -> None:
    assert sessions.measure("runtime_p95_ms") is None
    for number in range(1, 101):
        sessions.end("success", runtime_ms=number * 10)
    assert sessions.measure("runtime_p95_ms") == 950
    sessions.end("killed", runtime_ms=5000)  # a runaway counts
    assert sessions.measure("runtime_p95_ms") == 960


def test_runtimes_that_are_unknown_or_never_were_do_not_count(sessions: Sessions) -> None:
    sessions.end("success", runtime_ms=None)
    sessions.end("cancelled", runtime_ms=99)
    assert sessions.measure("runtime_p95_ms") is None
    sessions.end("failed", runtime_ms=7)
    assert sessions.measure("runtime_p95_ms") == 7


def test_the_cost_is_the_exact_sum_of_what_is_known(sessions: Sessions) -> None:
    assert sessions.measure("daily_cost_usd") == 0
    sessions.end(cost=None)
    assert sessions.measure("daily_cost_usd") is None
    for _ in range(10):
        sessions.end(cost=0.1)
    assert sessions.measure("daily_cost_usd") == 1.0
    sessions.end("killed", cost=0.5)
    assert sessions.measure("budget_usd") == 1.5


def test_the_window_holds_what_ended_after_its_beginning_up_to_its_end(sessions: Sessions) -> None:
    sessions.end("failed", ago=3600)
    sessions.end("failed", ago=-0.001)
    assert sessions.measure("failure_rate") is None
    sessions.end("failed", ago=3599.999)
    sessions.end("success", ago=0)
    assert sessions.measure("failure_rate") == 0.5


def test_what_still_runs_is_not_counted(tx: SqliteTransaction, sessions: Sessions) -> None:
    tx.ledger.add(new_session("running"))
    tx.ledger.change("running", SessionChange(status=SessionStatus.RUNNING, running_since=AT))
    assert sessions.measure("failure_rate") is None


LEDGER_METRICS = ("failure_rate", "runtime_p95_ms", "daily_cost_usd", "budget_usd")


@pytest.mark.parametrize("metric", LEDGER_METRICS)
def test_every_metric_honours_its_scope(sessions: Sessions, metric: str) -> None:
    sessions.end("failed", agent_id="a", model_id="m", runtime_ms=10, cost=1.0)
    sessions.end("failed", agent_id="a", model_id="n", runtime_ms=20, cost=2.0)
    sessions.end("success", agent_id="b", model_id="m", runtime_ms=40, cost=4.0)
    found = [
        sessions.measure(metric, AlertScope(type=AlertScopeType.AGENT_MODEL, agent_id=agent, model_id=model))
        for agent, model in (("a", None), (None, "m"), ("a", "m"), ("b", "n"), (None, None))
    ]
    assert (
        found
        == {
            "failure_rate": [1.0, 0.5, 1.0, None, 2 / 3],
            "runtime_p95_ms": [20, 40, 10, None, 40],
            "daily_cost_usd": [3.0, 5.0, 1.0, 0, 7.0],
            "budget_usd": [3.0, 5.0, 1.0, 0, 7.0],
        }[metric]
    )


def test_a_metric_that_is_not_the_ledgers_cannot_be_measured_in_it(sessions: Sessions) -> None:
    with pytest.raises(ValueError, match="outbox_depth"):
        sessions.measure("outbox_depth")


@pytest.mark.parametrize("metric", LEDGER_METRICS)
def test_every_metric_walks_the_index_of_ends(
    connection: apsw.Connection, sessions: Sessions, metric: str
) -> None:
    plans: list[str] = []
    for number in range(50):
        sessions.end("failed", cost=1.0, agent_id=f"a{number % 3}", ago=float(number))
    connection.execute("ANALYZE")

    def trace(cursor: apsw.Cursor, sql: str, bindings: Any) -> bool:
        if sql.startswith("SELECT"):
            explained = connection.cursor()
            explained.exec_trace = None
            steps = explained.execute("EXPLAIN QUERY PLAN " + sql, bindings)
            plans.extend(str(row[3]) for row in steps)
        return True

    connection.exec_trace = trace
    sessions.measure(metric, AlertScope(type=AlertScopeType.AGENT, agent_id="a1"))
    connection.exec_trace = None
    reads = [plan for plan in plans if plan.startswith(("SEARCH l ", "SCAN l"))]
    assert reads
    assert all("session_ledger_by_end (ended_at>? AND ended_at<?)" in plan for plan in reads), plans
