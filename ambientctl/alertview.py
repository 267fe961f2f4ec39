"""How alerts and alert rules look: columns of their lists, lines about one of them."""

from collections.abc import Iterator

from ambientctl import client as wire
from ambientctl.client import Document
from ambientctl.output import Cell, Column, Screen
from ambientctl.text import age, clock_time, duration, inert, instant

_LOOKS = {
    "critical": ("✕", "x", "red"),
    "warning": ("!", "!", "yellow"),
    "resolved": ("✓", "*", "green"),
    "ok": ("✓", "*", "green"),
    "off": ("○", "o", "dim"),
}
SHORT_ID = 8


def short_rule_id(item: Document) -> str:
    """The first eight characters: what tables show and commands accept."""
    return inert(wire.text(item, "ruleId")[:SHORT_ID])


def severity(word: str, screen: Screen) -> Cell:
    """Glyph, word and colour of a severity."""
    pretty, plain, color = _LOOKS.get(word, ("?", "?", ""))
    return Cell(f"{screen.glyph(pretty, plain)} {inert(word) or 'unknown'}", color)


def figure(metric: str, value: float | None) -> str:
    """A value or a threshold with its unit; `-` when unknown."""
    if value is None:
        return "-"
    if metric == "failure_rate":
        return f"{value * 100:.3g}%"
    if metric in ("daily_cost_usd", "budget_usd"):
        return f"${value:,.2f}" if value >= 0.01 or value == 0 else f"${value:.6f}"
    if metric == "runtime_p95_ms":
        return f"{value / 1000:.3g}s" if value < 60_000 else duration(value / 1000)
    return f"{value:,.0f}s" if metric.endswith("_sec") else f"{value:,.0f}"


def _rule_id(item: Document, screen: Screen) -> str:
    return inert(wire.text(item, "ruleId")) if screen.wide else short_rule_id(item)


def scope_words(scope: Document) -> str:
    """`steve`, `steve, opus-5`, or `all`."""
    ids = [inert(wire.text(scope, key)) for key in ("agentId", "modelId")]
    return ", ".join(part for part in ids if part) or "all"


def _value(item: Document, _: Screen) -> str:
    return figure(wire.text(item, "metric"), wire.number(item, "value"))


def _limit(item: Document, _: Screen) -> str:
    key = "criticalThreshold" if wire.text(item, "status") == "critical" else "warnThreshold"
    return figure(wire.text(item, "metric"), wire.number(item, key))


def _since(key: str, item: Document, screen: Screen) -> str:
    at = instant(wire.text(item, key))
    return "-" if at is None else age(screen.now - at)


def note(item: Document, now: float) -> str:
    """What keeps an alert quiet, or who has seen it."""
    if wire.text(item, "mutedUntil"):
        return f"muted until {clock_time(wire.text(item, 'mutedUntil'), now)}"
    if wire.text(item, "acknowledgedAt"):
        return f"seen by {inert(wire.text(item, 'acknowledgedBy'))}"
    if wire.text(item, "noDataSince"):
        return "no data"
    return "-"


ALERT_COLUMNS = (
    Column("RULE", "ruleId", _rule_id),
    Column("SEVERITY", "status", lambda item, screen: severity(wire.text(item, "status"), screen)),
    Column("METRIC", "metric", lambda item, _: inert(wire.text(item, "metric"))),
    Column("SCOPE", "scope", lambda item, _: scope_words(wire.part(item, "scope"))),
    Column("VALUE", "value", _value, right=True),
    Column("LIMIT", "warnThreshold", _limit, right=True),
    Column("WINDOW", "window", lambda item, _: inert(wire.text(item, "window")), right=True),
    Column("SINCE", "triggeredAt", lambda item, screen: _since("triggeredAt", item, screen), right=True),
    Column("LIFECYCLE", "lifecycle", lambda item, _: inert(wire.text(item, "lifecycle")), only_wide=True),
    Column("NAME", "name", lambda item, _: inert(wire.text(item, "name")) or "-", only_wide=True),
    Column("NOTE", "mutedUntil", lambda item, screen: note(item, screen.now)),
)


def rule_state(rule: Document) -> str:
    """`off`, or the severity; `ok` for one that was not evaluated yet."""
    if rule.get("enabled") is False:
        return "off"
    return wire.text(wire.part(rule, "state"), "status") or "ok"


def _threshold(key: str, item: Document) -> str:
    return figure(wire.text(item, "metric"), wire.number(item, key))


RULE_COLUMNS = (
    Column("RULE", "ruleId", _rule_id),
    Column("STATE", "enabled", lambda item, screen: severity(rule_state(item), screen)),
    Column("METRIC", "metric", lambda item, _: inert(wire.text(item, "metric"))),
    Column("SCOPE", "scopeRef", lambda item, _: scope_words(wire.part(item, "scopeRef"))),
    Column("WARN", "warnThreshold", lambda item, _: _threshold("warnThreshold", item), right=True),
    Column(
        "CRITICAL", "criticalThreshold", lambda item, _: _threshold("criticalThreshold", item), right=True
    ),
    Column("WINDOW", "window", lambda item, _: inert(wire.text(item, "window")), right=True),
    Column("IF", "comparison", lambda item, _: inert(wire.text(item, "comparison")), only_wide=True),
    Column(
        "HOLD", "holdSec", lambda item, _: duration(wire.whole(item, "holdSec")), right=True, only_wide=True
    ),
    Column(
        "AGAIN",
        "renotifySec",
        lambda item, _: (
            duration(wire.whole(item, "renotifySec")) if wire.whole(item, "renotifySec") else "never"
        ),
        right=True,
        only_wide=True,
    ),
    Column(
        "COOLDOWN",
        "dedupCooldownSec",
        lambda item, _: duration(wire.whole(item, "dedupCooldownSec")),
        right=True,
        only_wide=True,
    ),
    Column("NAME", "name", lambda item, _: inert(wire.text(item, "name")) or "-"),
)


def rule_lines(rule: Document, screen: Screen) -> Iterator[str]:
    """One rule and its alert for people."""
    metric, state = wire.text(rule, "metric"), wire.part(rule, "state")
    cell = severity(rule_state(rule), screen)
    yield f"Rule      {inert(wire.text(rule, 'ruleId'))}"
    if wire.text(rule, "name"):
        yield f"Name      {inert(wire.text(rule, 'name'))}"
    since = wire.text(state, "lastTransitionAt")
    yield f"State     {screen.paint(cell.text, cell.color)}" + (
        f" since {clock_time(since, screen.now)}" if since else ""
    )
    lifecycle = wire.text(state, "lifecycle")
    if lifecycle == "suppressed" and not wire.text(state, "mutedUntil"):
        yield f"Quiet     until {clock_time(wire.text(state, 'suppressedUntil'), screen.now)}"
    yield f"Metric    {inert(metric)} of {scope_words(wire.part(rule, 'scopeRef'))}, over {_window(rule)}"
    sign = ">" if wire.text(rule, "comparison") == "gt" else ">=" if screen.ascii else "≥"
    warn, critical = _threshold("warnThreshold", rule), _threshold("criticalThreshold", rule)
    yield f"Limits    warning {sign} {warn}, critical {sign} {critical}"
    yield f"Value     {_seen(metric, state, screen)}"
    told = wire.text(state, "lastNotifiedAt")
    cooldown = duration(wire.whole(rule, "dedupCooldownSec"))
    yield f"Told      {clock_time(told, screen.now) if told else 'never'} (cooldown {cooldown})"
    if wire.whole(rule, "holdSec"):
        yield f"Hold      {duration(wire.whole(rule, 'holdSec'))}"
    if wire.whole(rule, "renotifySec"):
        yield f"Again     every {duration(wire.whole(rule, 'renotifySec'))} until acknowledged"
    if (more := note(state, screen.now)) != "-":
        yield f"Note      {more}"


def _window(rule: Document) -> str:
    return inert(wire.text(rule, "window"))


def _seen(metric: str, state: Document, screen: Screen) -> str:
    at = wire.text(state, "lastEvaluatedAt")
    if not at:
        return "not evaluated yet"
    value = figure(metric, wire.number(state, "lastValue"))
    return f"{value} at {clock_time(at, screen.now)}"
