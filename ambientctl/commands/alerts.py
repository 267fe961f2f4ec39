"""`alerts`: what a person should look at, the rules behind it, and the receivers."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ambientctl import client as wire
from ambientctl import term
from ambientctl.alertview import ALERT_COLUMNS, RULE_COLUMNS, rule_lines, short_rule_id
from ambientctl.cli import Verb, Verbs
from ambientctl.client import Client, Document
from ambientctl.clock import stamp
from ambientctl.output import emit_document, emit_list, screen_of
from ambientctl.status import Options
from ambientctl.text import inert
from ambientctl.trouble import CommandError
from ambientd.wire import exits, routes
from ambientd.wire.enums import AlertComparison, AlertMetric, AlertScopeType, AlertWindow

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
TRIAL_WAIT_SEC = 20.0

Function = TypeVar("Function", bound=Callable[..., Any])


def _span(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """`90s`, `5m`, `1h`, `2d`, or a number of seconds."""
    if value is None:
        return None
    digits, unit = (value[:-1], _UNITS.get(value[-1:])) if value[-1:] in _UNITS else (value, 1)
    if unit is None or not (digits.isascii() and digits.isdigit()) or len(digits) > 9:
        raise click.BadParameter(f"{value!r} is no time; say 90s, 5m, 1h or 2d", context, parameter)
    return int(digits) * unit


@click.group(
    cls=Verbs, invoke_without_command=True, example="ambientctl alerts\nambientctl alerts ack 7f3a --json"
)
@click.option("--wide", is_flag=True, help="Whole ids and all columns, the same as -o wide.")
@click.pass_context
def alerts(context: click.Context, *, wide: bool) -> None:
    """What a person should look at now, critical first. A resolved alert stays for one evaluation."""
    options = context.find_object(Options) or Options()
    if wide and options.output == "table":
        options.output = "wide"
    if context.invoked_subcommand is None:
        _list(options)


@alerts.command("list", cls=Verb, example="ambientctl alerts list -o tsv")
@click.pass_obj
def list_alerts(options: Options) -> None:
    """The same as plain `alerts`."""
    _list(options)


def _list(options: Options) -> None:
    items = wire.rows(Client(options).get(routes.ALERTS_ACTIVE), "rows")
    emit_list(options, routes.SCHEMA_ALERTS, items, ALERT_COLUMNS, {"total": len(items)})
    if not items and options.output in ("table", "wide"):
        click.echo("No alerts. The rules: ambientctl alerts rules", err=True)


# --- one alert


def _path(fragment: str) -> str:
    return f"{routes.ALERT_RULES}/{wire.segment(fragment)}"


def _show(options: Options, rule: Document, done: str = "") -> None:
    if emit_document(options, {"schema": routes.SCHEMA_ALERT, "generatedAt": stamp(), **rule}):
        return
    screen = screen_of(options)
    if done:
        screen.line(f"{screen.glyph('✓', '*')} {done}")
        return
    for line in rule_lines(rule, screen):
        screen.line(line)


@alerts.command(cls=Verb, example="ambientctl alerts show 7f3a")
@click.argument("alert", metavar="ID")
@click.pass_obj
def show(options: Options, alert: str) -> None:
    """One rule and where its alert stands. ID may be any unique part at either end."""
    _show(options, Client(options).get(_path(alert)))


@alerts.command(cls=Verb, example="ambientctl alerts ack 7f3a")
@click.argument("alert", metavar="ID")
@click.pass_obj
def ack(options: Options, alert: str) -> None:
    """Note that you have seen an active alert. It stays active, and tells when it gets worse or ends."""
    rule = Client(options).post(f"{routes.ALERTS}/{wire.segment(alert)}/ack", {})
    who = inert(wire.text(wire.part(rule, "state"), "acknowledgedBy"))
    _show(options, rule, f"Alert {short_rule_id(rule)} acknowledged by {who}.")


@alerts.command(
    cls=Verb, example="ambientctl alerts mute 7f3a --for 4h\nambientctl alerts mute 7f3a --for 0s"
)
@click.argument("alert", metavar="ID")
@click.option(
    "--for",
    "seconds",
    metavar="TIME",
    callback=_span,
    default="1h",
    show_default=True,
    help="How long; 0s ends it.",
)
@click.pass_obj
def mute(options: Options, alert: str, *, seconds: int) -> None:
    """Hear nothing of an alert for a time. What is still news then is told afterwards."""
    rule = Client(options).post(f"{routes.ALERTS}/{wire.segment(alert)}/mute", {"forSec": seconds})
    until = wire.text(wire.part(rule, "state"), "mutedUntil")
    told = f"muted until {until}" if until else "not muted any more"
    _show(options, rule, f"Alert {short_rule_id(rule)} {inert(told)}.")


# --- the receivers


@alerts.command("test-notifier", cls=Verb, example="ambientctl alerts test-notifier log")
@click.argument("name", metavar="NAME")
@click.pass_obj
def test_notifier(options: Options, name: str) -> int:
    """Deliver one test notification to a receiver: one of the configuration, or `log`. Exit 1: it failed."""
    answer = Client(options).post(routes.TEST_NOTIFIER, {"name": name}, wait=TRIAL_WAIT_SEC)
    good = answer.get("ok") is True
    code = exits.DONE if good else exits.FAILED
    if emit_document(options, {"schema": routes.SCHEMA_NOTIFIER_TEST, "generatedAt": stamp(), **answer}):
        return code
    who = f"{inert(wire.text(answer, 'name'))} ({inert(wire.text(answer, 'kind'))})"
    if good:
        screen = screen_of(options)
        screen.line(
            f"{screen.glyph('✓', '*')} {who} took the test notification in {wire.whole(answer, 'tookMs')} ms."
        )
    else:
        term.complain(f"Error: {who} did not take it: {inert(wire.text(answer, 'error'))}")
    return code


# --- the rules


@alerts.group(
    cls=Verbs,
    invoke_without_command=True,
    example="ambientctl alerts rules\nambientctl alerts rules add failure_rate --warn 0.1 --critical 0.25",
)
@click.pass_context
def rules(context: click.Context) -> None:
    """The rules behind the alerts, oldest first."""
    if context.invoked_subcommand is None:
        _list_rules(context.find_object(Options) or Options())


@rules.command("list", cls=Verb, example="ambientctl alerts rules list --json")
@click.pass_obj
def list_rules(options: Options) -> None:
    """The same as plain `alerts rules`."""
    _list_rules(options)


def _list_rules(options: Options) -> None:
    items = wire.rows(Client(options).get(routes.ALERT_RULES), "rows")
    emit_list(options, routes.SCHEMA_ALERT_RULES, items, RULE_COLUMNS, {"total": len(items)})
    if not items and options.output in ("table", "wide"):
        click.echo("No rules. Add one: ambientctl alerts rules add --help", err=True)


def _words(kind: type[Any]) -> click.Choice[str]:
    return click.Choice([member.value for member in kind])


def _rule_options(*, required: bool) -> Callable[[Function], Function]:
    """The options that make a rule (with their defaults), or change one."""

    def shown(default: str) -> str:
        return f"  [{default}]" if required else ""

    given = (
        click.option("--warn", type=float, required=required, metavar="N", help="Warns from this value on."),
        click.option(
            "--critical", type=float, required=required, metavar="N", help="Critical from this value on."
        ),
        click.option(
            "--window", type=_words(AlertWindow), metavar="W", help=f"5m, 1h, 24h or 7d.{shown('24h')}"
        ),
        click.option(
            "--comparison",
            type=_words(AlertComparison),
            metavar="C",
            help=f"gte: at the value; gt: past it.{shown('gte')}",
        ),
        click.option("--agent", metavar="ID", help="Only sessions of this agent."),
        click.option("--model", metavar="ID", help="Only sessions with this model."),
        click.option(
            "--cooldown",
            metavar="TIME",
            callback=_span,
            help=f"Equal news is told once in this time.{shown('5m')}",
        ),
        click.option(
            "--hold",
            metavar="TIME",
            callback=_span,
            help=f"A breach must last so long first.{shown('0s')}",
        ),
        click.option(
            "--renotify",
            metavar="TIME",
            callback=_span,
            help=f"Tell it again while it lasts and nobody has acknowledged it; 0s: never.{shown('0s')}",
        ),
        click.option("--name", metavar="TEXT", help="What people call it."),
    )

    def decorate(function: Function) -> Function:
        for option in reversed(given):
            function = option(function)
        return function

    return decorate


def _body(wishes: dict[str, Any]) -> Document:
    names = {
        "metric": "metric",
        "warn": "warnThreshold",
        "critical": "criticalThreshold",
        "window": "window",
        "comparison": "comparison",
        "cooldown": "dedupCooldownSec",
        "hold": "holdSec",
        "name": "name",
    }
    body = {there: wishes[here] for here, there in names.items() if wishes.get(here) is not None}
    if wishes["renotify"] is not None:
        body["renotifySec"] = wishes["renotify"] or None
    ids = {"agentId": wishes["agent"], "modelId": wishes["model"]}
    given = {key: value for key, value in ids.items() if value is not None}
    if given:
        body |= {"scopeType": _scope_type(given).value, "scopeRef": given}
    return body


def _scope_type(given: dict[str, str]) -> AlertScopeType:
    if len(given) == 2:
        return AlertScopeType.AGENT_MODEL
    return AlertScopeType.AGENT if "agentId" in given else AlertScopeType.MODEL


@rules.command(
    cls=Verb,
    example="ambientctl alerts rules add failure_rate --warn 0.1 --critical 0.25\n"
    "ambientctl alerts rules add daily_cost_usd --warn 20 --critical 50 --hold 5m",
)
@click.argument("metric", metavar="METRIC", type=_words(AlertMetric))
@_rule_options(required=True)
@click.option("--disabled", is_flag=True, help="Keep it, but do not evaluate it yet.")
@click.pass_obj
def add(options: Options, /, **wishes: Any) -> None:
    """Add a rule.

    METRIC is one of daily_cost_usd, runtime_p95_ms, failure_rate (from 0 to 1), budget_usd, and
    missed_heartbeats (of the whole node).
    """
    defaults = {
        "scopeType": AlertScopeType.GLOBAL.value,
        "window": AlertWindow.DAY.value,
        "comparison": AlertComparison.GTE.value,
    }
    body = defaults | _body(wishes) | ({"enabled": False} if wishes["disabled"] else {})
    rule = Client(options).post(routes.ALERT_RULES, body)
    _show(options, rule, f"Rule {short_rule_id(rule)} added.")


@rules.command("set", cls=Verb, example="ambientctl alerts rules set 7f3a --critical 0.5 --hold 10m")
@click.argument("rule", metavar="ID")
@_rule_options(required=False)
@click.option("--global", "everywhere", is_flag=True, help="All sessions, whatever agent and model.")
@click.pass_obj
def set_rule(options: Options, /, *, rule: str, everywhere: bool, **wishes: Any) -> None:
    """Change what is named of a rule. Another metric, scope or window forgets where its alert stood."""
    body = _body(wishes)
    if everywhere:
        if "scopeRef" in body:
            raise click.UsageError("--global and --agent or --model exclude each other.")
        body |= {"scopeType": AlertScopeType.GLOBAL.value, "scopeRef": None}
    if not body:
        raise click.UsageError("Nothing to change; name at least one option.")
    changed = Client(options).patch(_path(rule), body)
    _show(options, changed, f"Rule {short_rule_id(changed)} changed.")


def _switch(options: Options, rule: str, *, on: bool) -> None:
    changed = Client(options).patch(_path(rule), {"enabled": on})
    _show(options, changed, f"Rule {short_rule_id(changed)} {'enabled' if on else 'disabled'}.")


@rules.command(cls=Verb, example="ambientctl alerts rules enable 7f3a")
@click.argument("rule", metavar="ID")
@click.pass_obj
def enable(options: Options, rule: str) -> None:
    """Evaluate a rule again."""
    _switch(options, rule, on=True)


@rules.command(cls=Verb, example="ambientctl alerts rules disable 7f3a")
@click.argument("rule", metavar="ID")
@click.pass_obj
def disable(options: Options, rule: str) -> None:
    """Keep a rule, but do not evaluate it; its alert ends without a word."""
    _switch(options, rule, on=False)


@rules.command(cls=Verb, example="ambientctl alerts rules remove 7f3a --yes")
@click.argument("rule", metavar="ID")
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask; needed where there is no terminal.")
@click.pass_obj
def remove(options: Options, rule: str, *, is_sure: bool) -> int:
    """Remove a rule and where its alert stands, after asking."""
    if not is_sure and not term.is_terminal(0):
        raise click.UsageError("Without a terminal nobody can be asked; say --yes.")
    client = Client(options)
    if not is_sure:
        rule = _asked(client, options, rule)
        if not rule:
            click.echo("Nothing was done.", err=True)
            return exits.FAILED
    removed = client.delete(_path(rule))
    _show(options, removed, f"Rule {short_rule_id(removed)} removed.")
    return exits.DONE


def _asked(client: Client, options: Options, fragment: str) -> str:
    """The whole id of the rule that is meant; empty when the answer was no."""
    found = client.get(_path(fragment))
    rule_id = wire.text(found, "ruleId")
    if not rule_id:
        raise CommandError(exits.FAILED, "Error: the daemon's answer names no rule.")
    screen = screen_of(options)
    for line in rule_lines(found, screen):
        click.echo(line.encode("ascii", "replace").decode() if screen.ascii else line, err=True)
    click.echo("Remove this rule? [y/N] ", nl=False, err=True)
    return rule_id if sys.stdin.readline().strip().lower() in ("y", "yes") else ""
