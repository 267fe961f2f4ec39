"""`tasks`, `nodes`, `node activity`: the control plane's view, through this node or asked directly."""

from collections.abc import Callable, Mapping
from typing import Any

import click

from ambientctl import client as wire
from ambientctl import nodeview
from ambientctl.camel import camel
from ambientctl.cli import Verb, Verbs
from ambientctl.client import Client, Document, segment
from ambientctl.clock import stamp
from ambientctl.commands.join import read_token
from ambientctl.controlplane import ControlPlane
from ambientctl.nodeview import NOTHING_ACTIVE, is_active, line_of, log_of, short_task
from ambientctl.output import Cell, Column, Item, Screen, emit_list, put_json, screen_of
from ambientctl.peerview import since
from ambientctl.status import Options
from ambientctl.text import inert
from ambientctl.trouble import CommandError
from ambientd.wire import exits, routes

WAIT_SEC = 15.0
RENEW_SEC = 60.0
TASKS_READ = 200  # of a node, for its activity
_TASK_LOOKS = {
    "pending": ("…", ".", "dim"),
    "running": ("▶", ">", "cyan"),
    "completed": ("✓", "*", "green"),
    "failed": ("✕", "x", "red"),
}
_NODE_LOOKS = {
    "online": ("✓", "*", "green"),
    "unknown": ("!", "!", "yellow"),
    "offline": ("✕", "x", "red"),
    "rejected": ("○", "o", "dim"),
}
_Looks = Mapping[str, tuple[str, str, str]]


def _state(key: str, looks: _Looks) -> Callable[[Item, Screen], Cell]:
    def show(item: Item, screen: Screen) -> Cell:
        word = wire.text(item, key)
        pretty, plain, color = looks.get(word, ("?", "?", ""))
        return Cell(f"{screen.glyph(pretty, plain)} {inert(word) or 'unknown'}", color)

    return show


def _task_id(item: Item, screen: Screen) -> str:
    found = wire.text(item, "taskId")
    return inert(found) if screen.wide else short_task(found, screen)


def _why(item: Item, _: Screen) -> str:
    return inert(wire.text(wire.part(wire.part(item, "result"), "error"), "message")) or "-"


def _names(key: str) -> Callable[[Item, Screen], str]:
    def show(item: Item, _: Screen) -> str:
        value = item.get(key)
        return ", ".join(inert(str(one)) for one in value) if isinstance(value, list) and value else "-"

    return show


def _text(key: str) -> Callable[[Item, Screen], str]:
    return lambda item, _: inert(wire.text(item, key)) or "-"


def _figure(key: str) -> Callable[[Item, Screen], str]:
    def show(item: Item, _: Screen) -> str:
        value = wire.number(item, key)
        return "-" if value is None else f"{value:g}"

    return show


TASKS = (
    Column("TASK", "taskId", _task_id),
    Column("TYPE", "taskType", _text("taskType")),
    Column("STATUS", "status", _state("status", _TASK_LOOKS)),
    Column("AGE", "createdAt", since("createdAt"), right=True),
    Column("NODES", "assignedNodes", _names("assignedNodes")),
    Column("FORMER", "formerAssignedNodes", _names("formerAssignedNodes")),
    Column("ERROR", "error", _why, only_wide=True),
)
ACTIVE = TASKS[:4]
NODES = (
    Column("NODE", "nodeId", _text("nodeId"), least=8),
    Column("STATUS", "status", _state("status", _NODE_LOOKS)),
    Column("SEEN", "lastSeen", since("lastSeen"), right=True),
    Column("STATE", "state", _text("state")),
    Column("HEALTH", "healthScore", _figure("healthScore"), right=True),
    Column("Δv", "deltaV", _figure("deltaV"), right=True),
    Column("AUDIT", "auditHeadSeq", _figure("auditHeadSeq"), right=True),
    Column("TYPE", "nodeType", _text("nodeType")),
    Column("REGION", "region", _text("region")),
    Column("OWNER", "ownerId", _text("ownerId"), only_wide=True),
)
EVENTS = (
    Column("TASK", "taskId", _task_id),
    Column("EVENT", "event", _text("event")),
    Column("AGE", "at", since("at"), right=True),
    Column("TYPE", "taskType", _text("taskType")),
)

_FROM = (
    click.option(
        "--control-plane", "url", default="", metavar="URL", help="Ask this control plane, not the node."
    ),
    click.option(
        "--token-file", default="", metavar="FILE", help="API key or access token for it; - reads it here."
    ),
    click.option("--ca-file", default="", metavar="FILE", help="Authorities that are believed for it."),
)


def _ways(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_FROM):
        command = option(command)
    return command


class _Source:
    """Where a list comes from: a control plane with an account's token, or this node's daemon."""

    def __init__(self, options: Options, url: str, token_file: str, ca_file: str) -> None:
        self._client = Client(options)
        self._direct: ControlPlane | None = None
        if url:
            if not token_file:
                raise CommandError(exits.USAGE, "Error: --control-plane needs --token-file.")
            token = read_token(token_file)
            self._direct = ControlPlane(url, token, timeout=options.limit, ca_file=ca_file or None)
        elif token_file or ca_file:
            raise CommandError(exits.USAGE, "Error: --token-file and --ca-file go with --control-plane URL.")

    def rows(self, own: str, theirs: str, key: str, query: Mapping[str, str]) -> tuple[list[Item], Document]:
        """The rows of a list, and what else is said of it."""
        if self._direct is None:
            answer = camel(self._client.get(own, query, wait=WAIT_SEC))
            return wire.rows(answer, key), {"next": wire.text(answer, "next") or None}
        value, headers = self._direct.get(theirs, query)
        found = value.get(key) if isinstance(value, dict) else value
        items = [camel(one) for one in found if isinstance(one, dict)] if isinstance(found, list) else []
        return items, {"next": headers.get("x-next-cursor")}


@click.command(
    cls=Verb,
    example="ambientctl tasks --status running\n"
    "ambientctl tasks --control-plane https://cp.example.net --token-file key",
)
@click.option(
    "--status",
    default="",
    type=click.Choice(("", *_TASK_LOOKS)),
    metavar="STATUS",
    help=", ".join(_TASK_LOOKS),
)
@click.option("--limit", type=click.IntRange(1, 500), default=100, metavar="N", help="Rows at most.  [100]")
@click.option("--after", default="", metavar="CURSOR", help="Go on behind a page: its `next`.")
@_ways
@click.pass_obj
def tasks(
    options: Options, *, status: str, limit: int, after: str, url: str, token_file: str, ca_file: str
) -> int:
    """The control plane's tasks: those that this node has or had, or with --control-plane your own.

    Exit 6: this node belongs to no control plane; 3: the control plane does not answer.
    """
    source = _Source(options, url, token_file, ca_file)
    query = {"status": status, "limit": str(limit), "cursor": after}
    items, more = source.rows(routes.FLEET_TASKS, "/api/v1/tasks", "tasks", query)
    emit_list(options, routes.SCHEMA_TASKS, items, TASKS, more | {"total": len(items)})
    _say_of(options, items, more, "No tasks.")
    return exits.DONE


@click.command(
    cls=Verb,
    example="ambientctl nodes\nambientctl nodes --control-plane https://cp.example.net --token-file key",
)
@click.option(
    "--status",
    default="",
    type=click.Choice(("", *_NODE_LOOKS)),
    metavar="STATUS",
    help=", ".join(_NODE_LOOKS),
)
@click.option("--limit", type=click.IntRange(1, 500), default=100, metavar="N", help="Rows at most.  [100]")
@click.option("--after", default="", metavar="CURSOR", help="Go on behind a page: its `next`.")
@_ways
@click.pass_obj
def nodes(
    options: Options, *, status: str, limit: int, after: str, url: str, token_file: str, ca_file: str
) -> int:
    """The control plane's nodes: this one, or with --control-plane all of yours. What is shown is what each
    node last said of itself; `SEEN` tells how long ago."""
    source = _Source(options, url, token_file, ca_file)
    query = {"status": status, "limit": str(limit), "cursor": after}
    items, more = source.rows(routes.FLEET_NODES, "/api/v1/nodes", "nodes", query)
    emit_list(options, routes.SCHEMA_NODES, items, NODES, more | {"total": len(items)})
    _say_of(options, items, more, "No nodes.")
    return exits.DONE


@click.group(cls=Verbs, example="ambientctl node activity edge-07")
def node() -> None:
    """One node, as the control plane knows it."""


@node.command(
    cls=Verb,
    example="ambientctl node activity edge-07\nambientctl node activity edge-07 --limit 5 --json",
)
@click.argument("node_id", metavar="NODE")
@click.option("--limit", type=click.IntRange(1, 50), default=50, metavar="N", help="Lines at most.  [50]")
@_ways
@click.pass_obj
def activity(options: Options, *, node_id: str, limit: int, url: str, token_file: str, ca_file: str) -> int:
    """What a node has to do, and what happened to its work, newest first.

    What is cleared and connected outlives the tasks. With -o jsonl and tsv only these events; --json has all.
    """
    source = _Source(options, url, token_file, ca_file)
    name = segment(node_id)
    own, theirs = f"{routes.FLEET_NODES}/{name}/activity", f"/api/v1/nodes/{name}/heartbeat/activity"
    items, _ = source.rows(own, theirs, "events", {"limit": str(limit)})
    if options.output in ("jsonl", "tsv"):
        emit_list(options, routes.SCHEMA_NODE_ACTIVITY, items, EVENTS, {})
        return exits.DONE
    tasks, more = source.rows(
        routes.FLEET_TASKS,
        "/api/v1/tasks",
        "tasks",
        {"limit": str(TASKS_READ)} | ({"node_id": node_id} if url else {}),
    )
    active = [task for task in tasks if is_active(task, node_id)]
    entries = log_of(node_id, tasks, items)[:limit]
    if options.output == "json":
        log = [entry.item() for entry in entries]
        extra = {"node": node_id, "activeTasks": active, "log": log}
        emit_list(options, routes.SCHEMA_NODE_ACTIVITY, items, EVENTS, extra)
        return exits.DONE
    screen = screen_of(options)
    screen.line(nodeview.ACTIVE)
    if active:
        emit_list(options, routes.SCHEMA_NODE_ACTIVITY, active, ACTIVE, {})
    else:
        screen.line(NOTHING_ACTIVE)
    screen.line("")
    screen.line(nodeview.LOG)
    for entry in entries:
        screen.line(line_of(entry, screen))
    if not entries:
        screen.line("Nothing has happened yet.")
    if more.get("next"):
        screen.line(f"Of its tasks the newest {TASKS_READ} were looked at.")
    return exits.DONE


@node.command(cls=Verb, example="ambientctl node renew")
@click.pass_obj
def renew(options: Options) -> int:
    """Exchanges this node's credential at its control plane for a new one.

    The old one counts until the new one is kept here, so it may be repeated whatever is lost on the way.
    """
    answer = camel(Client(options).order(routes.MEMBERSHIP_RENEW, wait=RENEW_SEC))
    if options.output not in ("table", "wide"):
        put_json({"schema": routes.SCHEMA_MEMBERSHIP, "generatedAt": stamp(), **answer})
        return exits.DONE
    screen = screen_of(options)
    where = f"{inert(wire.text(answer, 'nodeId'))} at {inert(wire.text(answer, 'url'))}"
    screen.line(f"{screen.glyph('✓', '*')} {where} has a new credential; the old one counts no longer.")
    screen.line(f"  audit #{wire.whole(answer, 'auditId')}")
    return exits.DONE


def _say_of(options: Options, items: list[Item], more: Document, nothing: str) -> None:
    if options.output not in ("table", "wide"):
        return
    screen = screen_of(options)
    if not items:
        screen.line(nothing)
    elif more.get("next"):
        screen.line(f"More: --after {inert(str(more['next']))}")
