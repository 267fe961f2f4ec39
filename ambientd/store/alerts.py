"""Alert rules, their states, what waits to be told, and what the metrics measure, in SQLite."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import apsw
import msgspec

from ambientd.core.alertrules import AlertRule, AlertScope
from ambientd.core.alerts import AlertState
from ambientd.core.records import PendingNotification
from ambientd.core.timefmt import rfc3339_ms
from ambientd.store.faults import constraints, text
from ambientd.wire.enums import (
    AlertComparison,
    AlertLifecycle,
    AlertMetric,
    AlertScopeType,
    AlertStatus,
    AlertWindow,
)

_RULE_COLUMNS = (
    "rule_id, enabled, metric, scope_type, scope_ref, warn_threshold, critical_threshold, window, comparison,"
    " dedup_cooldown_sec, created_at, updated_at, name, hold_sec, renotify_sec"
)
_RULES = f"SELECT {_RULE_COLUMNS} FROM alert_rules"  # noqa: S608 - constants
_PUT_RULE = (
    f"INSERT INTO alert_rules ({_RULE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - constants
    " ON CONFLICT (rule_id) DO UPDATE SET enabled = excluded.enabled, metric = excluded.metric,"
    " scope_type = excluded.scope_type, scope_ref = excluded.scope_ref,"
    " warn_threshold = excluded.warn_threshold, critical_threshold = excluded.critical_threshold,"
    " window = excluded.window, comparison = excluded.comparison,"
    " dedup_cooldown_sec = excluded.dedup_cooldown_sec, updated_at = excluded.updated_at,"
    " name = excluded.name, hold_sec = excluded.hold_sec, renotify_sec = excluded.renotify_sec"
)
_STATE_COLUMNS = (
    "rule_id, status, lifecycle_state, suppressed_until, last_value, last_evaluated_at, last_transition_at,"
    " last_notified_at, active_fingerprint, told, quiet_until, warning_since, critical_since, no_data_since,"
    " acknowledged_at, acknowledged_by, muted_at, muted_until"
)
_STATES = f"SELECT {_STATE_COLUMNS} FROM alert_state"  # noqa: S608 - constants
_PUT_STATE = (
    f"INSERT OR REPLACE INTO alert_state ({_STATE_COLUMNS})"  # noqa: S608 - constants
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_ACTIVE = (
    f"{_STATES} WHERE lifecycle_state IN ('active', 'suppressed')"
    f" UNION ALL {_STATES} WHERE lifecycle_state = 'resolved' AND status = 'resolved'"
)
# The sessions of a window, always by the index on `ended_at`: the planner would walk all sessions of an agent
# or a model, or the whole table while that is small.
_ENDED = (
    " FROM session_ledger AS l INDEXED BY session_ledger_by_end{join}"
    " WHERE l.ended_at > ?1 AND l.ended_at <= ?2{scope}"
)
_USAGE = " LEFT JOIN session_usage_rows AS u ON u.session_key = l.session_key"
_RAN = " AND l.status IN ('success', 'failed', 'killed') AND l.runtime_ms IS NOT NULL"
NANO = 1_000_000_000
_COST = "SELECT count(*), count(u.cost_usd), sum(CAST(round(u.cost_usd * 1e9) AS INTEGER))"
_FAILED = (
    "SELECT count(*) FILTER (WHERE l.status = 'failed'),"
    " count(*) FILTER (WHERE l.status IN ('success', 'failed'))"
)
_P95 = 0.95


class SqliteAlerts:
    """`ports.store.AlertRepository` over one transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        """The connection belongs to one transaction."""
        self._connection = connection

    # --- rules

    def rules(self) -> list[AlertRule]:
        """All rules, oldest first."""
        return [_rule(row) for row in self._connection.execute(f"{_RULES} ORDER BY created_at, rule_id")]

    def rule(self, rule_id: str) -> AlertRule | None:
        """One rule by its whole id."""
        row = self._connection.execute(f"{_RULES} WHERE rule_id = ?", (text(rule_id, "rule_id"),)).fetchone()
        return None if row is None else _rule(row)

    def put_rule(self, rule: AlertRule) -> None:
        """Inserts or replaces a rule; raises ValueError for one that the schema refuses."""
        scope = {"agentId": rule.scope.agent_id, "modelId": rule.scope.model_id}
        ids = {key: text(value, key) for key, value in scope.items() if value is not None}
        row = (
            text(rule.rule_id, "rule_id"),
            int(rule.enabled),
            rule.metric.value,
            rule.scope.type.value,
            msgspec.json.encode(ids).decode() if ids else None,
            rule.warn_threshold,
            rule.critical_threshold,
            rule.window.value,
            rule.comparison.value,
            rule.cooldown_sec,
            rfc3339_ms(rule.created_at),
            rfc3339_ms(rule.updated_at),
            text(rule.name, "name"),
            rule.hold_sec,
            rule.renotify_sec,
        )
        with constraints(f"alert rule {rule.rule_id}"):
            self._connection.execute(_PUT_RULE, row)

    def remove_rule(self, rule_id: str) -> None:
        """Removes a rule with its state; what waits to be told is told."""
        self._connection.execute("DELETE FROM alert_rules WHERE rule_id = ?", (text(rule_id, "rule_id"),))

    # --- states

    def states(self) -> dict[str, AlertState]:
        """The states of all rules that were ever evaluated."""
        return {row[0]: _state(row) for row in self._connection.execute(_STATES)}

    def active(self) -> list[AlertState]:
        """States in breach, or just resolved, by index."""
        return [_state(row) for row in self._connection.execute(_ACTIVE)]

    def state(self, rule_id: str) -> AlertState | None:
        """The state of one rule."""
        found = self._connection.execute(f"{_STATES} WHERE rule_id = ?", (text(rule_id, "rule_id"),))
        row = found.fetchone()
        return None if row is None else _state(row)

    def put_state(self, state: AlertState) -> None:
        """Inserts or replaces the state of a rule; raises ValueError when there is no such rule."""
        row = (
            text(state.rule_id, "rule_id"),
            state.status.value,
            state.lifecycle.value,
            _text(state.suppressed_until),
            state.last_value,
            _text(state.last_evaluated_at),
            _text(state.last_transition_at),
            _text(state.last_notified_at),
            text(state.fingerprint, "fingerprint"),
            state.told.value,
            _text(state.quiet_until),
            _text(state.warning_since),
            _text(state.critical_since),
            _text(state.no_data_since),
            _text(state.acknowledged_at),
            text(state.acknowledged_by, "acknowledged_by"),
            _text(state.muted_at),
            _text(state.muted_until),
        )
        with constraints(f"alert state of {state.rule_id}"):
            self._connection.execute(_PUT_STATE, row)

    # --- what waits to be told

    def enqueue(self, notifier: str, payload: bytes, at: datetime) -> None:
        """Keeps a notification for one notifier until `done`."""
        self._connection.execute(
            "INSERT INTO alert_notifications (notifier, payload_json, created_at) VALUES (?, ?, ?)",
            (text(notifier, "notifier"), payload.decode(), rfc3339_ms(at)),
        )

    def pending(self, notifier: str, limit: int) -> list[PendingNotification]:
        """What waits for a notifier, oldest first."""
        rows = self._connection.execute(
            "SELECT notification_key, payload_json FROM alert_notifications"
            " WHERE notifier = ? ORDER BY notification_key LIMIT ?",
            (text(notifier, "notifier"), limit),
        )
        return [PendingNotification(key=key, payload=payload.encode()) for key, payload in rows]

    def done(self, key: int) -> None:
        """A notification was delivered, or given up."""
        self._connection.execute("DELETE FROM alert_notifications WHERE notification_key = ?", (key,))

    def drop(self, *, beyond: int, notifiers: Sequence[str]) -> int:
        """Drops what waits for other notifiers, and of each of these the oldest beyond a number.

        Returns how many went.
        """
        before = self._connection.total_changes()
        known = msgspec.json.encode([text(name, "notifier") for name in notifiers]).decode()
        self._connection.execute(
            "DELETE FROM alert_notifications WHERE notifier NOT IN (SELECT value FROM json_each(?))", (known,)
        )
        for name in notifiers:
            self._connection.execute(
                "DELETE FROM alert_notifications WHERE notifier = ?1 AND notification_key <= ("
                " SELECT notification_key FROM alert_notifications WHERE notifier = ?1"
                " ORDER BY notification_key DESC LIMIT 1 OFFSET ?2)",
                (name, beyond),
            )
        return self._connection.total_changes() - before

    # --- what the metrics measure

    def measure(
        self, metric: AlertMetric, scope: AlertScope, since: datetime, until: datetime
    ) -> float | None:
        """A ledger metric over the sessions that ended after `since` and not after `until`.

        None when there is nothing to measure; raises ValueError for a metric that is not the ledger's.
        """
        bindings = (
            rfc3339_ms(since),
            rfc3339_ms(until),
            text(scope.agent_id, "agent_id"),
            text(scope.model_id, "model_id"),
        )
        condition = " AND (?3 IS NULL OR l.agent_id = ?3) AND (?4 IS NULL OR l.model_id = ?4)"
        match metric:
            case AlertMetric.DAILY_COST_USD | AlertMetric.BUDGET_USD:
                return self._cost(condition, bindings)
            case AlertMetric.FAILURE_RATE:
                return self._failure_rate(condition, bindings)
            case AlertMetric.RUNTIME_P95_MS:
                return self._p95(condition, bindings)
            case _:
                raise ValueError(f"{metric.value} is not measured in the ledger")

    def _cost(self, scope: str, bindings: tuple[str | None, ...]) -> float | None:
        """The sum of the known costs: 0 when no session ended, None when none of those costs is known."""
        sql = _COST + _ENDED.format(join=_USAGE, scope=scope)
        ended, known, nano = self._connection.execute(sql, bindings).fetchone() or (0, 0, 0)
        return None if ended and not known else (nano or 0) / NANO

    def _failure_rate(self, scope: str, bindings: tuple[str | None, ...]) -> float | None:
        sql = _FAILED + _ENDED.format(join="", scope=scope)
        failed, counted = self._connection.execute(sql, bindings).fetchone() or (0, 0)
        return failed / counted if counted else None

    def _p95(self, scope: str, bindings: tuple[str | None, ...]) -> float | None:
        """The nearest-rank percentile: the smallest runtime that 95 of 100 do not exceed."""
        ran = _ENDED.format(join="", scope=scope) + _RAN
        counted = int(self._connection.execute("SELECT count(*)" + ran, bindings).get or 0)
        if not counted:
            return None
        place = math.ceil(_P95 * counted) - 1
        sql = "SELECT l.runtime_ms" + ran + " ORDER BY l.runtime_ms LIMIT 1 OFFSET ?5"
        return float(self._connection.execute(sql, (*bindings, place)).get)


def _text(at: datetime | None) -> str | None:
    return None if at is None else rfc3339_ms(at)


def _instant(stored: str | None) -> datetime | None:
    return None if stored is None else datetime.fromisoformat(stored)


def _rule(row: tuple[Any, ...]) -> AlertRule:
    ids = {} if row[4] is None else msgspec.json.decode(row[4])
    return AlertRule(
        rule_id=row[0],
        enabled=bool(row[1]),
        metric=AlertMetric(row[2]),
        scope=AlertScope(
            type=AlertScopeType(row[3]), agent_id=ids.get("agentId"), model_id=ids.get("modelId")
        ),
        warn_threshold=row[5],
        critical_threshold=row[6],
        window=AlertWindow(row[7]),
        comparison=AlertComparison(row[8]),
        cooldown_sec=row[9],
        created_at=datetime.fromisoformat(row[10]),
        updated_at=datetime.fromisoformat(row[11]),
        name=row[12],
        hold_sec=row[13],
        renotify_sec=row[14],
    )


def _state(row: tuple[Any, ...]) -> AlertState:
    return AlertState(
        rule_id=row[0],
        status=AlertStatus(row[1]),
        lifecycle=AlertLifecycle(row[2]),
        last_value=row[4],
        last_evaluated_at=_instant(row[5]),
        last_transition_at=_instant(row[6]),
        last_notified_at=_instant(row[7]),
        fingerprint=row[8],
        told=AlertStatus(row[9]),
        quiet_until=_instant(row[10]),
        warning_since=_instant(row[11]),
        critical_since=_instant(row[12]),
        no_data_since=_instant(row[13]),
        acknowledged_at=_instant(row[14]),
        acknowledged_by=row[15],
        muted_at=_instant(row[16]),
        muted_until=_instant(row[17]),
    )
