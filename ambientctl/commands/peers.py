"""`peers`: the nodes on the LAN that this one exchanges policies with, and whom it trusts."""

import click

from ambientctl import client as wire
from ambientctl.camel import camel
from ambientctl.cli import Verb, Verbs
from ambientctl.client import Client, Document
from ambientctl.clock import stamp
from ambientctl.output import Cell, Column, Item, Screen, emit_list, put_json, screen_of
from ambientctl.peerview import agreement, key_cell, name_of, since
from ambientctl.status import Options
from ambientctl.text import inert
from ambientd.wire import exits, routes

_LOOKS = {
    "linked": ("✓", "*", "green"),
    "away": ("!", "!", "yellow"),
    "stranger": ("○", "o", "dim"),
}


def _state(item: Item, screen: Screen) -> Cell:
    word = wire.text(item, "state")
    pretty, plain, color = _LOOKS.get(word, ("?", "?", ""))
    return Cell(f"{screen.glyph(pretty, plain)} {inert(word) or 'unknown'}", color)


def _trust(item: Item, _: Screen) -> str:
    return inert(wire.text(item, "trusted")) or "no"


def _refused(item: Item, _: Screen) -> str:
    return str(sum(count for count in wire.part(item, "refused").values() if isinstance(count, int)))


def _reason(item: Item, _: Screen) -> str:
    counts = wire.part(item, "refused")
    found = [inert(wire.text(item, "reason"))] if wire.text(item, "reason") else []
    found += [f"{inert(code)} ×{count}" for code, count in counts.items() if isinstance(count, int)]
    return ", ".join(found) or "-"


COLUMNS = (
    Column("PEER", "name", name_of, least=8),
    Column("KEY", "key", key_cell),
    Column("STATE", "state", _state),
    Column("TRUST", "trusted", _trust),
    Column("AGREES", "agrees", agreement),
    Column("SEEN", "seenAt", since("seenAt"), right=True),
    Column("SYNC", "syncedAt", since("syncedAt"), right=True),
    Column("REFUSED", "refused", _refused, right=True),
    Column("ADDRESS", "address", lambda item, _: inert(wire.text(item, "address")) or "-"),
    Column("REASON", "reason", _reason, only_wide=True),
)


@click.group(
    cls=Verbs,
    invoke_without_command=True,
    example="ambientctl peers\nambientctl peers trust ed25519:5f0c… --name edge-03\nambientctl peers --json",
)
@click.option("--wide", is_flag=True, help="Whole keys and all columns, the same as -o wide.")
@click.pass_context
def peers(context: click.Context, *, wide: bool) -> None:
    """The nodes on the LAN: who is linked, when it was last seen and compared, and whether it is trusted.

    Names and addresses are what a node says of itself; only its key proves who it is. A `stranger` has shown
    a key that is not trusted.
    """
    options = context.find_object(Options) or Options()
    if wide and options.output == "table":
        options.output = "wide"
    if context.invoked_subcommand is None:
        _list(options)


@peers.command("list", cls=Verb, example="ambientctl peers list -o tsv")
@click.pass_obj
def list_peers(options: Options) -> None:
    """The same as plain `peers`."""
    _list(options)


def _list(options: Options) -> None:
    answer = camel(Client(options).get(routes.PEERS), as_is=("refused",))
    items = wire.rows(answer, "peers")
    extra = {key: value for key, value in answer.items() if key != "peers"}
    emit_list(options, routes.SCHEMA_PEERS, items, COLUMNS, extra | {"total": len(items)})
    if options.output in ("table", "wide"):
        _say(screen_of(options), answer, items)


def _say(screen: Screen, answer: Document, items: list[Document]) -> None:
    """What stands below the table: why it may be empty, and what others need to trust this node."""
    if not answer.get("enabled"):
        screen.line(f"{screen.glyph('○', 'o')} Peers are off: {inert(wire.text(answer, 'reason'))}")
    else:
        linked = sum(wire.text(item, "state") == "linked" for item in items)
        trusted = sum(bool(wire.text(item, "trusted")) for item in items)
        where = inert(wire.text(answer, "listening"))
        said = f"{linked} of {trusted} trusted peers linked"
        said += (
            f", listening on {where}" if where else f", not listening: {inert(wire.text(answer, 'reason'))}"
        )
        screen.line(said + (", receiving only" if answer.get("receiveOnly") else "") + ".")
    key = inert(wire.text(answer, "key"))
    if key:
        screen.line(f"This node's key: {key}")


@peers.command(cls=Verb, example="ambientctl peers trust ed25519:5f0c…e1 --name edge-03")
@click.argument("key", metavar="KEY")
@click.option("--name", default="", metavar="TEXT", help="What you call it.")
@click.pass_obj
def trust(options: Options, *, key: str, name: str) -> int:
    """Believe a node that has this key: exchange policies with it. Ask its operator for `ambientctl peers`.

    A key is never learnt from another node. Policies are believed for their issuer's signature
    (policy.issuers), whoever brings them.
    """
    answer = Client(options).post(routes.PEERS_TRUST, {"key": key, "name": name})
    return _told(options, answer, "is trusted", "was trusted before")


@peers.command(cls=Verb, example="ambientctl peers untrust edge-03")
@click.argument("peer", metavar="KEY|NAME")
@click.pass_obj
def untrust(options: Options, *, peer: str) -> int:
    """Stop believing a node: its link ends, nothing of it is taken any more. What it brought stays.

    Give its key, a part of it that fits no other, or the name that you gave it.
    """
    answer = Client(options).delete(f"{routes.PEERS_TRUST}/{wire.segment(peer)}")
    return _told(options, answer, "is not trusted any more", "was not trusted")


def _told(options: Options, answer: Document, now: str, before: str) -> int:
    answer = camel(answer, as_is=("refused",))
    if options.output != "table" and options.output != "wide":
        put_json({"schema": routes.SCHEMA_PEER_TRUST, "generatedAt": stamp(), **answer})
        return exits.DONE
    screen = screen_of(options)
    name = inert(wire.text(answer, "name"))
    who = inert(wire.text(answer, "key")) + (f" ({name})" if name else "")
    mark = screen.glyph("✓", "*")
    screen.line(f"{mark} {who} {now if answer.get('changed') else before}.")
    screen.line(f"  audit #{wire.whole(answer, 'auditId')}")
    return exits.DONE
