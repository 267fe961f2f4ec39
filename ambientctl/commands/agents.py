"""`agents`: the agents of this node and what they do, out of the status."""

import click

from ambientctl import client as wire
from ambientctl.cli import Verb
from ambientctl.client import Client, Document
from ambientctl.output import Column, Screen, emit_list
from ambientctl.status import Options
from ambientctl.text import age, inert, instant, short_id
from ambientd.wire import routes


def _since(item: Document, screen: Screen) -> str:
    at = instant(wire.text(item, "since") or wire.text(item, "lastActivityAt"))
    return age(screen.now - at) if at is not None else "-"


def _session(item: Document, screen: Screen) -> str:
    whole = wire.text(item, "sessionId")
    return (inert(whole) if screen.wide else short_id(whole)) or "-"


def _model(item: Document, screen: Screen) -> str:
    name = wire.text(item, "model")
    return inert(name if screen.wide else name.rpartition("/")[2]) or "-"


COLUMNS = (
    Column("AGENT", "id", lambda item, _: inert(wire.text(item, "id"))),
    Column("KIND", "kind", lambda item, _: inert(wire.text(item, "kind")) or "local", only_wide=True),
    Column("NAME", "name", lambda item, _: inert(wire.text(item, "name")), only_wide=True),
    Column("STATUS", "status", lambda item, screen: screen.state(wire.text(item, "status"))),
    Column("SINCE", "since", _since, right=True),
    Column("RUNNING", "running", lambda item, _: str(wire.whole(item, "running")), right=True),
    Column("QUEUED", "queued", lambda item, _: str(wire.whole(item, "queued")), right=True),
    Column("SESSION", "sessionId", _session),
    Column("MODEL", "model", _model),
    Column("REASON", "reason", lambda item, _: inert(wire.text(item, "reason")) or "-", only_wide=True),
    Column("TASK", "task", lambda item, _: inert(wire.text(item, "task")) or "-"),
)


@click.command(cls=Verb, example="ambientctl agents\nambientctl agents --json")
@click.option("--wide", is_flag=True, help="Whole ids and all columns, the same as -o wide.")
@click.pass_obj
def agents(options: Options, *, wide: bool) -> None:
    """The agents that this node can give work to: failed first, then running, done, idle."""
    if wide and options.output == "table":
        options.output = "wide"
    items = wire.rows(Client(options).get(routes.STATUS), "agents")
    emit_list(options, routes.SCHEMA_AGENTS, items, COLUMNS, {"total": len(items)})
    if not items and options.output in ("table", "wide"):
        click.echo("No agents. Add one to the configuration: ambientctl config path", err=True)
