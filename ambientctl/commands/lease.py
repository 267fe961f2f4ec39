"""`lease`: what single sessions may let out, for how long and how much."""

import json
import sys
from typing import NoReturn

import click

from ambientctl import client as wire
from ambientctl.camel import camel
from ambientctl.cli import Verb, Verbs
from ambientctl.client import Client, Document
from ambientctl.clock import stamp
from ambientctl.output import Cell, Column, Item, Screen, emit_document, emit_list, screen_of
from ambientctl.status import Options
from ambientctl.text import count, duration, inert, size
from ambientctl.trouble import CommandError
from ambientd.wire import exits, routes

LIMIT_MAX = 500
FILE_MAX_BYTES = 64 * 1024
ITEM_KEYS = ("body", "issuer", "signature")
_COLORS = {"active": "cyan", "ended": "dim"}


def _state(item: Item, _screen: Screen) -> Cell:
    word = wire.text(item, "state")
    why = wire.text(item, "endReason")
    return Cell(inert(f"{word}: {why}" if why else word), _COLORS.get(word, ""))


def _left(item: Item, _screen: Screen) -> str:
    left = wire.number(item, "leftMs")
    return "-" if left is None else duration(round(left / 1000))


def _used(item: Item, _screen: Screen) -> str:
    used, most = size(wire.whole(item, "bytes")), wire.number(item, "allowance")
    return used if most is None else f"{used} of {size(most)}"


COLUMNS = (
    Column("LEASE", "jti", lambda item, _: inert(wire.text(item, "jti")), least=8),
    Column("SESSION", "sessionId", lambda item, _: inert(wire.text(item, "sessionId")), least=8),
    Column("STATE", "state", _state),
    Column("LEFT", "leftMs", _left, right=True),
    Column("BYTES", "bytes", _used, right=True),
    Column("POLICY", "policyId", lambda item, _: inert(wire.text(item, "policyId"))),
    Column("DENIED", "denied", lambda item, _: count(wire.whole(item, "denied")), right=True, only_wide=True),
    Column("EXPIRES", "exp", lambda item, _: inert(wire.text(item, "exp")), only_wide=True),
)


@click.group(cls=Verbs, example="ambientctl lease list\nambientctl lease activate lease.json")
def lease() -> None:
    """Session leases: signed by an issuer of policy.lease_issuers for one session of this one node.

    A lease works once, for as long and for as many bytes as it says, and allows what its policy allows.
    """


@lease.command("list", cls=Verb, example="ambientctl lease list --state active")
@click.option("--state", type=click.Choice(("all", "active", "ended")), default="all", help="Only these.")
@click.option(
    "--limit", type=click.IntRange(1, LIMIT_MAX), default=100, show_default=True, help="At most so many."
)
@click.pass_obj
def list_leases(options: Options, *, state: str, limit: int) -> None:
    """Leases that were activated here, the last one first."""
    page = Client(options).get(routes.LEASES, {"state": state, "limit": str(limit)})
    items = [camel(row) for row in wire.rows(page, "rows")]
    emit_list(options, routes.SCHEMA_LEASES, items, COLUMNS, {"total": len(items)})
    if not items and options.output in ("table", "wide"):
        click.echo("No leases. Activate one: ambientctl lease activate FILE", err=True)


@lease.command(cls=Verb, example="ambientctl lease show 7f3a")
@click.argument("lease_id", metavar="ID")
@click.pass_obj
def show(options: Options, lease_id: str) -> None:
    """One lease: what it allows, and what it has used. ID may be any unique part at either end."""
    _show(options, Client(options).get(f"{routes.LEASES}/{wire.segment(lease_id)}"))


@lease.command(
    cls=Verb, example="ambientctl lease activate lease.json\nambientctl lease activate - < lease.json"
)
@click.argument("file", metavar="FILE|-")
@click.pass_obj
def activate(options: Options, file: str) -> None:
    """Uses a signed lease: its session may let traffic out from now on. It can be used once, ever.

    Exit 1: it does not hold here; 6: used, over or revoked, or the state of links or clock does not allow it.
    """
    answer = Client(options).post(routes.LEASES, read_item(file))
    left = duration(round(wire.whole(answer, "left_ms") / 1000))
    _show(options, answer, f"Lease {inert(wire.text(answer, 'jti'))} is active, for {left} at most.")


@lease.command(cls=Verb, example="ambientctl lease end 7f3a")
@click.argument("lease_id", metavar="ID")
@click.pass_obj
def end(options: Options, lease_id: str) -> None:
    """Ends an active lease for good: its session lets nothing out any more."""
    answer = Client(options).delete(f"{routes.LEASES}/{wire.segment(lease_id)}")
    used = size(wire.whole(answer, "bytes"))
    _show(options, answer, f"Lease {inert(wire.text(answer, 'jti'))} has ended, after {used}.")


@lease.command(cls=Verb, example="ambientctl lease revoke revocation.json")
@click.argument("file", metavar="FILE|-")
@click.pass_obj
def revoke(options: Options, file: str) -> None:
    """Takes in an issuer's signed revocation. An active lease ends; one to come will not be activated."""
    answer = Client(options).post(routes.LEASE_REVOCATIONS, read_item(file))
    head = {"schema": routes.SCHEMA_LEASE_REVOCATION, "generatedAt": stamp()}
    if emit_document(options, {**head, **camel(answer)}):
        return
    screen = screen_of(options)
    what = "has ended" if answer.get("ended") else "will not be activated"
    known = " (known before)" if answer.get("known") else ""
    screen.line(
        f"{screen.glyph('✓', '*')} Lease {inert(wire.text(answer, 'jti'))} is revoked{known}: it {what}."
    )
    screen.line(f"  audit #{wire.whole(answer, 'audit_id')}")


def _show(options: Options, answer: Document, done: str = "") -> None:
    found = camel(answer)
    if emit_document(options, {"schema": routes.SCHEMA_LEASE, "generatedAt": stamp(), **found}):
        return
    screen = screen_of(options)
    if done:
        screen.line(f"{screen.glyph('✓', '*')} {done}")
        screen.line(f"  audit #{wire.whole(answer, 'audit_id')}")
        return
    protocols = ", ".join(inert(str(name)) for name in answer.get("protocols") or ())
    most = wire.number(found, "maxBytes")
    bound = f", {size(most)} in all" if most is not None else ""
    lines = {
        "lease": wire.text(found, "jti"),
        "state": _state(found, screen).text,
        "session": wire.text(found, "sessionId"),
        "policy": f"{wire.text(found, 'policyId')}, {protocols}",
        "lasts": f"{duration(wire.whole(found, 'elapsedMs') / 1000)} of "
        f"{duration(wire.whole(found, 'maxDurationMs') / 1000)}, {_left(found, screen)} left",
        "bytes": f"{_used(found, screen)} at {wire.whole(found, 'maxMbps')} Mbit/s{bound}",
        "denied": count(wire.whole(found, "denied")),
        "valid": f"{wire.text(found, 'nbf')} to {wire.text(found, 'exp')}",
        "issuer": wire.text(found, "issuer"),
    }
    for name, value in lines.items():
        screen.line(f"{name:<8} {inert(value)}")


def read_item(file: str) -> Document:
    """The signed item in a file, or on standard input. Raises CommandError."""
    try:
        if file == "-":
            data = sys.stdin.buffer.read(FILE_MAX_BYTES + 1)
        else:
            with open(file, "rb") as stream:
                data = stream.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        _refuse(file, (error.strerror or "cannot be read").lower())
    try:
        found = json.loads(data) if len(data) <= FILE_MAX_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in ITEM_KEYS):
        _refuse(file, f"no signed item; a JSON object with {', '.join(ITEM_KEYS)} is wanted")
    return {key: found[key] for key in ITEM_KEYS}


def _refuse(file: str, why: str) -> NoReturn:
    raise CommandError(
        exits.FAILED,
        f"Error: {inert(file)}: {why}.",
        "  try      ambientd lease sign --help: how an issuer makes one",
    )
