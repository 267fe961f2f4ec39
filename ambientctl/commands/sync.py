"""`sync`: one round with the peers (or the control plane) now, and what it moved."""

import click

from ambientctl import client as wire
from ambientctl import term
from ambientctl.camel import camel
from ambientctl.cli import Verb
from ambientctl.client import Client, Document
from ambientctl.clock import stamp
from ambientctl.output import Column, Item, Screen, emit_list, put_json, screen_of
from ambientctl.peerview import key_cell, name_of, since
from ambientctl.status import Options
from ambientctl.text import inert
from ambientd.wire import exits, routes

# A round waits for the slowest peer, but not longer than the daemon does.
WAIT_SEC = 30.0
_DOCTOR = "ambientctl doctor control"


def _policies(item: Item, _: Screen) -> str:
    number = wire.number(item, "policies")
    return "unknown" if number is None else str(int(number))


def _refused(item: Item, _: Screen) -> str:
    return str(len(wire.rows(item, "refused")))


STREAMS = (
    Column("STREAM", "stream", lambda item, _: inert(wire.text(item, "stream"))),
    Column("SENT", "sent", lambda item, _: str(wire.whole(item, "sent")), right=True),
    Column("ACKNOWLEDGED", "acknowledged", lambda item, _: str(wire.whole(item, "acknowledged")), right=True),
    Column("WAITING", "waiting", lambda item, _: str(wire.whole(item, "waiting")), right=True),
    Column("DROPPED", "dropped", lambda item, _: str(wire.whole(item, "dropped")), right=True),
    Column("REFUSED", "refused", lambda item, _: str(wire.whole(item, "refused")), right=True),
    Column("PROBLEM", "problem", lambda item, _: inert(wire.text(item, "problem")) or "-", only_wide=True),
)
COLUMNS = (
    Column("PEER", "name", name_of, least=8),
    Column("KEY", "key", key_cell),
    Column("POLICY", "policies", _policies, right=True),
    Column("SEEN", "seenAt", since("seenAt"), right=True),
    Column("ADDED", "added", lambda item, _: str(wire.whole(item, "added")), right=True),
    Column("KEPT", "kept", lambda item, _: str(wire.whole(item, "kept")), right=True),
    Column("REFUSED", "refused", _refused, right=True),
)


@click.command(
    cls=Verb, example="ambientctl sync\nambientctl sync --dry-run --json\nambientctl sync --peers --strict"
)
@click.option("--peers", "with_peers", is_flag=True, help="With the peers on the LAN.")
@click.option("--control-plane", "with_control", is_flag=True, help="With the control plane.")
@click.option(
    "--dry-run", is_flag=True, help="Only say what would be taken; nothing is changed or passed on."
)
@click.option("--strict", is_flag=True, help="Exit 1 when something was refused or a peer did not answer.")
@click.pass_obj
def sync(options: Options, *, with_peers: bool, with_control: bool, dry_run: bool, strict: bool) -> int:
    """One round now, with the peers that are linked, with the control plane, or with everything there is.

    Peers exchange policies, and nothing that this node holds is ever overwritten by them; without an upstream
    it only receives. The control plane gets what waits for it, and gives work, policies and leases. Exit 3:
    no trusted peer is linked, or the control plane does not answer; 4: it does not know this node any more;
    1: some of what waits cannot be told to it; 6: this node has no peers, or belongs to no control plane.
    """
    wish = {"peers": with_peers, "control_plane": with_control, "dry_run": dry_run}
    answer = camel(Client(options).post(routes.SYNC, wish, wait=WAIT_SEC))
    items, control = wire.rows(answer, "peers"), wire.part(answer, "control")
    if options.output == "json":
        put_json({"schema": routes.SCHEMA_SYNC, "generatedAt": stamp(), **answer})
        return _exit(answer, items, control, strict=strict)
    if control:
        emit_list(options, routes.SCHEMA_SYNC, wire.rows(control, "streams"), STREAMS, {})
        if options.output in ("table", "wide"):
            _say_control(screen_of(options), control)
    if items or not control:
        emit_list(options, routes.SCHEMA_SYNC, items, COLUMNS, {})
        if options.output in ("table", "wide"):
            _say(screen_of(options), answer, items)
    return _exit(answer, items, control, strict=strict)


def _say_control(screen: Screen, control: Document) -> None:
    where = f"{inert(wire.text(control, 'nodeId'))} at {inert(wire.text(control, 'url'))}"
    if control.get("dryRun"):
        screen.line(f"{screen.glyph('○', 'o')} {where}: nothing was sent")
    elif control.get("complete"):
        screen.line(f"{screen.glyph('✓', '*')} {where}: in step")
    elif wire.text(control, "reason"):
        screen.line(f"{screen.glyph('✕', 'x')} {where}: {inert(wire.text(control, 'reason'))}")
        tip = f"ambientctl join {inert(wire.text(control, 'url'))}" if control.get("refused") else _DOCTOR
        screen.line(f"  try      {tip}")
    else:
        screen.line(f"{screen.glyph('!', '!')} {where}: in step, but for what cannot go on")
    for stream in wire.rows(control, "streams"):
        if wire.text(stream, "problem"):
            name, problem = (inert(wire.text(stream, key)) for key in ("stream", "problem"))
            screen.line(f"  {name}: {problem}")
    for item in wire.rows(control, "items"):
        seen, taken, refused = (wire.whole(item, key) for key in ("seen", "taken", "refused"))
        if seen:
            kind = inert(wire.text(item, "kind"))
            screen.line(f"  {kind}: {seen} came down, {taken} changed something, {refused} refused")
    if wire.whole(control, "started"):
        screen.line(f"  work: {wire.whole(control, 'started')} begun or ended")


def _exit(answer: Document, items: list[Document], control: Document, *, strict: bool) -> int:
    if control:
        if not control.get("complete") and not control.get("dryRun"):
            if control.get("refused"):
                return exits.NOT_PERMITTED
            return exits.UNREACHABLE if wire.text(control, "reason") else exits.FAILED
        if not items:
            return exits.DONE
    failed = [item for item in items if wire.text(item, "error")]
    if len(failed) == len(items) and not wire.text(answer, "controlPlane"):
        if not items:
            term.complain("Error: no peer is trusted.\n  try      ambientctl peers trust KEY")
        else:
            term.complain("Error: no trusted peer is linked.\n  try      ambientctl peers --wide")
        return exits.UNREACHABLE
    return exits.FAILED if strict and (failed or wire.whole(answer, "refused")) else exits.DONE


def _say(screen: Screen, answer: Document, items: list[Document]) -> None:
    added, refused = wire.whole(answer, "added"), wire.whole(answer, "refused")
    would = "would be added" if answer.get("dryRun") else "added"
    entries = "1 entry" if added == 1 else f"{added} entries"
    mark = screen.glyph("!", "!") if refused else screen.glyph("✓", "*")
    screen.line(f"{mark} {entries} {would}, 0 changed (import never overwrites), {refused} refused")
    for item in items:
        who = name_of(item, screen)
        for one in wire.rows(item, "refused"):
            what = inert(wire.text(one, "item"))[:16]
            screen.line(f"  {who}  {f'item {what}: ' if what else ''}{inert(wire.text(one, 'code'))}")
        if wire.text(item, "error"):
            screen.line(f"  {who}  {inert(wire.text(item, 'error'))}")
    if answer.get("receiveOnly"):
        screen.line("  No upstream: this node only receives (peers.send_without_upstream).")
    control = inert(wire.text(answer, "controlPlane"))
    if control:
        screen.line(f"  control plane: {control}")
