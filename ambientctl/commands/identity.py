"""`identity`: the node's own key, and what to do with it when the state was copied to another host."""

import sys

import click

from ambientctl import client as wire
from ambientctl.cli import Verb, Verbs
from ambientctl.client import Client, Document
from ambientctl.clock import stamp
from ambientctl.output import emit_document, screen_of
from ambientctl.status import Options
from ambientctl.text import inert
from ambientctl.trouble import CommandError
from ambientd.wire import audit_routes as routes
from ambientd.wire import exits


@click.group(
    cls=Verbs,
    invoke_without_command=True,
    example="ambientctl identity\nambientctl identity renew --yes",
)
@click.pass_context
def identity(context: click.Context) -> None:
    """The node's own key: peers and the control plane know the node by it."""
    if context.invoked_subcommand is None:
        _show(context.find_object(Options) or Options())


@identity.command("show", cls=Verb, example="ambientctl identity show --json")
@click.pass_obj
def show(options: Options) -> None:
    """The public key, whether it may be used, and the keys before it."""
    _show(options)


def _show(options: Options) -> None:
    _tell(options, Client(options).get(routes.IDENTITY))


@identity.command("keep", cls=Verb, example="ambientctl identity keep --yes")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def keep(options: Options, *, yes: bool) -> int:
    """Binds the key to this host: this node goes on as the one that the state was copied from.

    Only where the other one is gone. Two nodes with one key look like one to everybody else.
    """
    if not yes:
        _ask(options, "Use this key on this host from now on? The node it comes from must be gone.")
    _tell(options, Client(options).order(routes.IDENTITY_KEEP))
    return exits.DONE


@identity.command("renew", cls=Verb, example="ambientctl identity renew --yes")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def renew(options: Options, *, yes: bool) -> int:
    """Makes a new key: this node becomes another one, which nobody trusts yet.

    The old key stays beside the new one (0600), and a statement signed by both says that one follows the
    other; whether to believe it is for others to decide.
    """
    if not yes:
        _ask(options, "Make a new key? Peers and the control plane must learn to trust it.")
    _tell(options, Client(options).order(routes.IDENTITY_RENEW))
    return exits.DONE


def _ask(options: Options, question: str) -> None:
    found = Client(options).get(routes.IDENTITY)
    click.echo(f"Key    {inert(wire.text(found, 'key')) or 'cannot be read'}", err=True)
    click.echo(f"Host   {inert(wire.text(found, 'host_id'))}", err=True)
    if not sys.stdin.isatty():
        raise CommandError(exits.USAGE, "Error: nobody can be asked here. Say --yes.")
    click.echo(f"{question} [y/N] ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandError(exits.FAILED, "Nothing was changed.")


def _tell(options: Options, found: Document) -> None:
    document: Document = {
        "schema": routes.SCHEMA_IDENTITY,
        "generatedAt": stamp(),
        "key": found.get("key"),
        "usable": found.get("usable") is True,
        "reason": found.get("reason"),
        "place": wire.text(found, "place"),
        "hostId": wire.text(found, "host_id"),
        "boundTo": found.get("bound_to"),
        "fromCredential": found.get("from_credential") is True,
        "rollovers": [
            {
                "oldKey": wire.text(one, "old_key"),
                "newKey": wire.text(one, "new_key"),
                "at": wire.text(one, "at"),
                "genuine": one.get("genuine") is True,
                "statement": wire.text(one, "statement"),
            }
            for one in wire.rows(found, "rollovers")
        ],
    }
    for name, key in (("changed", "changed"), ("previous", "previous"), ("auditId", "audit_id")):
        if found.get(key) is not None:
            document[name] = found[key]
    if not emit_document(options, document):
        _lines(options, document)


def _lines(options: Options, document: Document) -> None:
    screen = screen_of(options)
    good, bad = screen.glyph("✓", "*"), screen.glyph("✕", "x")
    screen.line(
        f"key      {good if document['usable'] else bad} {inert(document['key'] or 'cannot be read')}"
    )
    screen.line(f"from     {inert(document['place'])}")
    screen.line(f"host     {inert(document['hostId'])}")
    bound = document["boundTo"]
    if bound != document["hostId"]:
        screen.line(f"made on  {inert(bound) if bound else 'any host'}")
    for one in document["rollovers"]:
        screen.line(f"before   {inert(one['oldKey'])}, until {inert(one['at'])}")
    if document.get("previous"):
        screen.line(f"old key  kept as {inert(document['previous'])}")
    if document["reason"]:
        screen.line(f"{bad} {inert(document['reason'])}")
    if document.get("changed") is False:
        screen.line("Nothing was to be changed.")
    if document.get("auditId") is not None:
        screen.line(f"audit #{document['auditId']}")
