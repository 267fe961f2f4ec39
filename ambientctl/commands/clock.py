"""`clock`: what the node knows of the time, and your word for its wall clock."""

import click

from ambientctl import client as wire
from ambientctl.cli import Verb, Verbs
from ambientctl.client import Client, Document
from ambientctl.clock import stamp
from ambientctl.output import emit_document, screen_of
from ambientctl.status import Options
from ambientctl.text import inert
from ambientd.wire import routes


@click.group(
    cls=Verbs, invoke_without_command=True, example="ambientctl clock\nambientctl clock accept --json"
)
@click.pass_context
def clock(context: click.Context) -> None:
    """What the node knows of the time, and whether it believes its wall clock.

    Expiry is held against the later of the wall clock and the latest time the node has seen, so a clock that
    is set back makes nothing valid again. One that jumps a day ahead is used for refusing only, until NTP
    or `clock accept` confirms it.
    """
    if context.invoked_subcommand is None:
        _show(context.find_object(Options) or Options())


@clock.command(cls=Verb, example="ambientctl clock show --json")
@click.pass_obj
def show(options: Options) -> None:
    """The same as plain `clock`."""
    _show(options)


@clock.command(cls=Verb, example="ambientctl clock accept")
@click.pass_obj
def accept(options: Options) -> None:
    """Answer for the wall clock as it is now, even if the node has seen later times. It is audited.

    What expired meanwhile by the wrong clock and was ended stays ended.
    """
    answer = Client(options).post(routes.CLOCK_ACCEPT, {})
    if emit_document(options, _document(answer)):
        return
    screen = screen_of(options)
    screen.line(f"{screen.glyph('✓', '*')} The wall clock is believed: {inert(wire.text(answer, 'wall'))}")
    screen.line(f"  audit #{wire.whole(answer, 'audit_id')}")


def _document(answer: Document) -> Document:
    document: Document = {
        "schema": routes.SCHEMA_CLOCK,
        "generatedAt": stamp(),
        "wall": wire.text(answer, "wall"),
        "mark": wire.text(answer, "mark"),
        "now": wire.text(answer, "now"),
        "confirmed": answer.get("confirmed") is True,
        "synchronised": answer.get("synchronised") is True,
    }
    if wire.text(answer, "doubt"):
        document["doubt"] = wire.text(answer, "doubt")
    if wire.whole(answer, "audit_id"):
        document["auditId"] = wire.whole(answer, "audit_id")
    return document


def _show(options: Options) -> None:
    document = _document(Client(options).get(routes.CLOCK))
    if emit_document(options, document):
        return
    screen = screen_of(options)
    doubt = wire.text(document, "doubt")
    mark = screen.glyph("!", "!") if doubt else screen.glyph("✓", "*")
    screen.line(f"{mark} {'in doubt: ' + inert(doubt) if doubt else 'believed'}")
    screen.line(f"  wall clock     {inert(document['wall'])}")
    screen.line(f"  certainly past {inert(document['mark'])}")
    screen.line(f"  expiry against {inert(document['now'])}")
    screen.line(f"  synchronised   {'yes' if document['synchronised'] else 'nobody says so'}")
    if doubt:
        screen.line("  help           set the clock (timedatectl), then: ambientctl clock accept")
