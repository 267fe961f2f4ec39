"""Alert rules and alerts: kept by an operator, evaluated in a sweep, told through an outbox."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from ambientd.core.alertrules import LEDGER_METRICS, AlertRule, check_rule, span
from ambientd.core.alerts import AlertState, Changed, NoData, Notify, acknowledge, evaluate, forget, mute
from ambientd.core.alertviews import alert_views, notification, request_of, rule_of, rule_view
from ambientd.core.records import AuditEntry, PendingNotification
from ambientd.core.rejection import Rejected, reject
from ambientd.core.timefmt import parse_rfc3339
from ambientd.ports.clock import Clock
from ambientd.ports.store import Store, Transaction
from ambientd.wire.alert_messages import (
    AlertMuteRequest,
    AlertNotification,
    AlertRulePatch,
    AlertRuleRequest,
    AlertRuleView,
    AlertView,
)
from ambientd.wire.enums import AlertMetric
from ambientd.wire.messages import ErrorDetail

# More rules than anybody reads alerts of; every sweep evaluates all of them.
RULES_MAX = 500
# For one notifier that cannot be reached. What is older says little any more.
OUTBOX_MAX = 1000
MUTE_MAX = timedelta(days=365)
CANDIDATES_SHOWN = 10
DROPPED, FAILED, DELIVERED = "alerts.dropped", "alerts.failed", "alerts.delivered"  # counters

Gauges = Mapping[AlertMetric, Callable[[], float | None]]
"""Figures of this moment by metric; None is no data. A metric that is neither here nor the ledger's cannot be
watched."""


class Alerting(msgspec.Struct, frozen=True, kw_only=True):
    """What the alerts need, given once. `notifiers` are the names of the receivers."""

    store: Store
    clock: Clock
    gauges: Gauges
    notifiers: Sequence[str]
    node: str
    new_id: Callable[[], str]
    woken: Callable[[], None]  # a rule has changed: evaluate soon

    @property
    def measurable(self) -> frozenset[AlertMetric]:
        """The metrics a rule may watch on this node."""
        return LEDGER_METRICS | self.gauges.keys()

    def now(self) -> datetime:
        """This moment, cut to milliseconds as it is stored."""
        at = self.clock.now()
        return at.replace(microsecond=at.microsecond // 1000 * 1000)


# --- reading


def active_alerts(tx: Transaction) -> list[AlertView] | None:
    """Alerts that a person should know of, critical first; None when no rule exists."""
    rules = {rule.rule_id: rule for rule in tx.alerts.rules()}
    if not rules:
        return None
    return alert_views((rules[state.rule_id], state) for state in tx.alerts.active())


async def list_active(alerting: Alerting) -> list[AlertView]:
    """What `active_alerts` finds; empty without rules."""
    return await alerting.store.read(active_alerts) or []


async def list_rules(alerting: Alerting) -> list[AlertRuleView]:
    """All rules with where their alerts stand, oldest first."""

    def work(tx: Transaction) -> list[AlertRuleView]:
        states = tx.alerts.states()
        return [rule_view(rule, states.get(rule.rule_id)) for rule in tx.alerts.rules()]

    return await alerting.store.read(work)


def resolve(tx: Transaction, fragment: str) -> AlertRule | Rejected:
    """The one rule meant by a whole id, or by a unique prefix or suffix of one."""
    rules = tx.alerts.rules() if fragment else []
    found = [rule for rule in rules if rule.rule_id == fragment] or [
        rule for rule in rules if rule.rule_id.startswith(fragment) or rule.rule_id.endswith(fragment)
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        return Rejected("NOT_FOUND", f"no alert rule has the id {fragment[:64]!r}")
    shown = [
        (rule.rule_id, "candidate", f"{rule.metric.value}  {rule.name or rule.scope.type.value}")
        for rule in found[:CANDIDATES_SHOWN]
    ]
    return reject("AMBIGUOUS", f"{fragment[:64]!r} fits {len(found)} rules; give more of the id", *shown)


async def show_rule(alerting: Alerting, fragment: str) -> AlertRuleView | Rejected:
    """One rule with where its alert stands."""

    def work(tx: Transaction) -> AlertRuleView | Rejected:
        rule = resolve(tx, fragment)
        return rule if isinstance(rule, Rejected) else rule_view(rule, tx.alerts.state(rule.rule_id))

    return await alerting.store.read(work)


# --- what an operator does


async def add_rule(alerting: Alerting, request: AlertRuleRequest, actor: str) -> AlertRuleView | Rejected:
    """Keeps a new rule; refused with every problem of it."""
    at = alerting.now()
    rule = rule_of(request, alerting.new_id(), at)
    problems = check_rule(rule, alerting.measurable)
    if problems:
        return _invalid(problems)

    def work(tx: Transaction) -> AlertRuleView | Rejected:
        if len(tx.alerts.rules()) >= RULES_MAX:
            text = f"there are {RULES_MAX} rules already; remove one first"
            return reject("VALIDATION_ERROR", text, ("rules", "limit", text))
        tx.alerts.put_rule(rule)
        _audit(tx, "alerts.rule.add", rule, at, actor)
        return rule_view(rule, None)

    return await _changed(alerting, work)


async def change_rule(
    alerting: Alerting, fragment: str, patch: AlertRulePatch, actor: str
) -> AlertRuleView | Rejected:
    """Changes what the patch names. A rule that asks another question, or is off, forgets its alert."""
    at = alerting.now()

    def work(tx: Transaction) -> AlertRuleView | Rejected:
        old = resolve(tx, fragment)
        if isinstance(old, Rejected):
            return old
        rule = _patched(old, patch, at)
        problems = check_rule(rule, alerting.measurable)
        if problems:
            return _invalid(problems)
        tx.alerts.put_rule(rule)
        state = tx.alerts.state(rule.rule_id)
        if state is not None and (not rule.enabled or _question(rule) != _question(old)):
            state = forget(state, at)
            tx.alerts.put_state(state)
        _audit(tx, "alerts.rule.change", rule, at, actor)
        return rule_view(rule, state)

    return await _changed(alerting, work)


def _patched(rule: AlertRule, patch: AlertRulePatch, at: datetime) -> AlertRule:
    given = {
        name: value
        for name in patch.__struct_fields__
        if (value := getattr(patch, name)) is not msgspec.UNSET
    }
    merged = rule_of(msgspec.structs.replace(request_of(rule), **given), rule.rule_id, rule.created_at)
    # Two changes within a millisecond must not look like one to a sweep between them.
    updated_at = max(at, rule.updated_at + timedelta(milliseconds=1))
    return msgspec.structs.replace(merged, updated_at=updated_at)


def _question(rule: AlertRule) -> tuple[object, ...]:
    return rule.metric, rule.scope, rule.window


async def remove_rule(alerting: Alerting, fragment: str, actor: str) -> AlertRuleView | Rejected:
    """Removes a rule with its state; answers what it was. Nothing is told of it any more."""
    at = alerting.now()

    def work(tx: Transaction) -> AlertRuleView | Rejected:
        rule = resolve(tx, fragment)
        if isinstance(rule, Rejected):
            return rule
        view = rule_view(rule, tx.alerts.state(rule.rule_id))
        tx.alerts.remove_rule(rule.rule_id)
        _audit(tx, "alerts.rule.remove", rule, at, actor)
        return view

    return await _changed(alerting, work)


async def acknowledge_alert(alerting: Alerting, fragment: str, actor: str) -> AlertRuleView | Rejected:
    """Notes who has seen the alert; refused when it is not active."""
    at = alerting.now()

    def work(tx: Transaction) -> AlertRuleView | Rejected:
        rule = resolve(tx, fragment)
        if isinstance(rule, Rejected):
            return rule
        state = tx.alerts.state(rule.rule_id) or AlertState(rule_id=rule.rule_id)
        seen = acknowledge(state, actor, at)
        if seen is None:
            return Rejected("ALERT_NOT_ACTIVE", "there is nothing to acknowledge: the alert is not active")
        tx.alerts.put_state(seen)
        _audit(tx, "alerts.ack", rule, at, actor)
        return rule_view(rule, seen)

    return await alerting.store.write(work)


async def mute_alert(
    alerting: Alerting, fragment: str, request: AlertMuteRequest, actor: str
) -> AlertRuleView | Rejected:
    """Keeps an alert quiet until an instant, active or not; 0 seconds end that."""
    at = alerting.now()
    until = _until(request, at)
    if isinstance(until, Rejected):
        return until

    def work(tx: Transaction) -> AlertRuleView | Rejected:
        rule = resolve(tx, fragment)
        if isinstance(rule, Rejected):
            return rule
        state = mute(tx.alerts.state(rule.rule_id) or AlertState(rule_id=rule.rule_id), until, at)
        tx.alerts.put_state(state)
        _audit(tx, "alerts.mute", rule, at, actor)
        return rule_view(rule, state)

    return await _changed(alerting, work)


def _until(request: AlertMuteRequest, now: datetime) -> datetime | Rejected:
    days = MUTE_MAX.days
    if (request.for_sec is None) == (request.until is None):
        text = "give one of forSec and until"
        return reject("VALIDATION_ERROR", text, ("forSec", "required", text))
    if request.for_sec is not None:
        if 0 <= request.for_sec <= MUTE_MAX.total_seconds():
            return now + timedelta(seconds=request.for_sec)
        text = f"must be from 0 to {int(MUTE_MAX.total_seconds())} (a year)"
        return reject("VALIDATION_ERROR", f"forSec {text}", ("forSec", "range", text))
    try:
        until = parse_rfc3339(request.until or "")
    except ValueError:
        text = "must be an RFC 3339 time"
        return reject("VALIDATION_ERROR", f"until {text}", ("until", "format", text))
    if now < until <= now + MUTE_MAX:
        return until
    text = f"must be in the future, by at most {days} days"
    return reject("VALIDATION_ERROR", f"until {text}", ("until", "range", text))


def _invalid(problems: tuple[ErrorDetail, ...]) -> Rejected:
    return Rejected("VALIDATION_ERROR", "the alert rule is not valid", problems)


def _audit(tx: Transaction, kind: str, rule: AlertRule, at: datetime, actor: str) -> None:
    """The chain takes no floats, so thresholds are text."""
    detail = {
        "metric": rule.metric.value,
        "enabled": rule.enabled,
        "warn": repr(rule.warn_threshold),
        "critical": repr(rule.critical_threshold),
    }
    tx.audit.append(AuditEntry(kind=kind, at=at, actor=actor, subject=rule.rule_id, detail=detail))


async def _changed(
    alerting: Alerting, work: Callable[[Transaction], AlertRuleView | Rejected]
) -> AlertRuleView | Rejected:
    answer = await alerting.store.write(work)
    if not isinstance(answer, Rejected):
        alerting.woken()
    return answer


# --- the sweep


class Measured(msgspec.Struct, frozen=True):
    """One rule as it was when its metric was measured."""

    rule: AlertRule
    value: float | NoData


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """What one sweep did. `changed` are sentences for the log, by severity before and after."""

    rules: int = 0
    told: int = 0
    dropped: int = 0
    changed: tuple[tuple[AlertView, Changed], ...] = ()


async def sweep(alerting: Alerting) -> Swept:
    """Evaluates every enabled rule once. State and what is to be told are durable together when it returns.

    The metrics are measured in a read, which may take long, and folded in a short write: nobody who ingests
    waits for a percentile. A rule that changed in between is left to the next sweep.
    """
    now = alerting.now()
    measured = await alerting.store.read(lambda tx: _measure(tx, alerting.gauges, now))
    if not measured:
        return Swept()
    return await alerting.store.write(lambda tx: _fold(tx, alerting, measured, now))


def _measure(tx: Transaction, gauges: Gauges, now: datetime) -> list[Measured]:
    seen: dict[tuple[object, ...], float | None] = {}
    found = []
    for rule in tx.alerts.rules():
        if not rule.enabled:
            continue
        question = _question(rule)
        if question not in seen:
            seen[question] = _value(tx, gauges, rule, now)
        value = seen[question]
        found.append(Measured(rule, NoData.NO_DATA if value is None else value))
    return found


def _value(tx: Transaction, gauges: Gauges, rule: AlertRule, now: datetime) -> float | None:
    if rule.metric in LEDGER_METRICS:
        return tx.alerts.measure(rule.metric, rule.scope, *span(rule, now))
    gauge = gauges.get(rule.metric)
    return None if gauge is None else gauge()


def _fold(tx: Transaction, alerting: Alerting, measured: list[Measured], now: datetime) -> Swept:
    told, changed = 0, []
    for rule, value in ((item.rule, item.value) for item in measured):
        if tx.alerts.rule(rule.rule_id) != rule:
            continue
        before = tx.alerts.state(rule.rule_id) or AlertState(rule_id=rule.rule_id)
        state, effects = evaluate(rule, before, value, now)
        tx.alerts.put_state(state)
        for effect in effects:
            if isinstance(effect, Notify):
                told += 1
                _enqueue(tx, alerting, rule, state, effect, now)
            else:
                changed += [(view, effect) for view in alert_views([(rule, state)])]
    dropped = tx.alerts.drop(beyond=OUTBOX_MAX, notifiers=alerting.notifiers)
    if dropped:
        tx.tasks.count(DROPPED, dropped)
    return Swept(rules=len(measured), told=told, dropped=dropped, changed=tuple(changed))


def _enqueue(
    tx: Transaction, alerting: Alerting, rule: AlertRule, state: AlertState, effect: Notify, now: datetime
) -> None:
    told = notification(rule, state, effect, notification_id=alerting.new_id(), node=alerting.node, at=now)
    payload = msgspec.json.encode(told)
    for name in alerting.notifiers:
        tx.alerts.enqueue(name, payload, now)


# --- the outbox


async def next_pending(alerting: Alerting, notifier: str) -> PendingNotification | None:
    """What waits longest for a notifier."""
    found = await alerting.store.read(lambda tx: tx.alerts.pending(notifier, 1))
    return found[0] if found else None


async def finish(alerting: Alerting, pending: PendingNotification, *, delivered: bool) -> None:
    """Removes a notification for good: it was delivered, or given up."""

    def work(tx: Transaction) -> None:
        tx.alerts.done(pending.key)
        tx.tasks.count(DELIVERED if delivered else FAILED)

    await alerting.store.write(work)


_decoder = msgspec.json.Decoder(AlertNotification)


def read_notification(pending: PendingNotification) -> AlertNotification | None:
    """The notification; None when an earlier version of this program wrote what cannot be read any more."""
    try:
        return _decoder.decode(pending.payload)
    except msgspec.DecodeError:
        return None
