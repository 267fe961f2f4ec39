"""`migrate status`: which schema the ledger has."""

import click

from ambientctl import client as wire
from ambientctl.cli import Verb, Verbs
from ambientctl.client import Client
from ambientctl.output import Column, emit_list
from ambientctl.status import Options
from ambientctl.text import clock_time, inert
from ambientd.wire import routes

COLUMNS = (
    Column("VERSION", "version", lambda item, _: str(wire.whole(item, "version")), right=True),
    Column("NAME", "name", lambda item, _: inert(wire.text(item, "name"))),
    Column("APPLIED", "appliedAt", lambda item, s: clock_time(wire.text(item, "appliedAt"), s.now)),
)


@click.group(cls=Verbs, example="ambientctl migrate status")
def migrate() -> None:
    """The ledger's schema. Applying is `ambientd migrate`, and happens at every start."""


@migrate.command("status", cls=Verb, example="ambientctl migrate status --json")
@click.pass_obj
def migrate_status(options: Options) -> None:
    """The migrations, and when each was applied."""
    view = Client(options).get(routes.MIGRATIONS)
    current, known = wire.whole(view, "current"), wire.whole(view, "known")
    extra = {"current": current, "known": known}
    emit_list(options, routes.SCHEMA_MIGRATIONS, wire.rows(view, "migrations"), COLUMNS, extra)
    if options.output in ("table", "wide"):
        click.echo(f"Schema {current} of {known}.", err=True)
