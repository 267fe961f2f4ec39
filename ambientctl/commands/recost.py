"""`ledger recost`: new prices on old rows."""

import click

from ambientctl import client as wire
from ambientctl.cli import Verb
from ambientctl.client import Client, Document
from ambientctl.clock import now, stamp
from ambientctl.commands.sessions import parse_when
from ambientctl.output import emit_document
from ambientctl.progress import Progress
from ambientctl.status import Options
from ambientctl.text import count, inert
from ambientd.wire import exits, routes

# The rows of one call are costed within this many seconds on any disk that deserves the name.
WAIT_SEC = 60.0
SUMS = ("read", "changed", "unchanged", "unpriced")


def _when(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    try:
        return parse_when(value, now()) if value else None
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value!r} is no time; say 2h, 3d, 2026-11-20 or 2026-11-20T15:00:00Z", context, parameter
        ) from None


@click.command(
    "recost",
    cls=Verb,
    example="ambientctl ledger recost --dry-run\nambientctl ledger recost --table 2026-11 --since 30d",
)
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@click.option("--table", metavar="NAME", help="The price table; pricing.current when left out.")
@click.option("--since", metavar="TIME", callback=_when, help="Sessions that started at or after.")
@click.option("--until", metavar="TIME", callback=_when, help="Sessions that started before.")
@click.pass_obj
def recost(
    options: Options, *, dry_run: bool, table: str | None, since: str | None, until: str | None
) -> int:
    """Costs sessions anew whose cost is an estimate, or could not be estimated before.

    Costs that a provider reported stay; so do sessions whose model has no price in the table. Doing it
    again changes nothing.
    """
    order: Document = {"dry_run": dry_run, "version": table, "since": since, "until": until, "after": 0}
    client, progress = Client(options), Progress("recost")
    sums: Document = dict.fromkeys(SUMS, 0)
    before = after = 0.0
    try:
        while True:
            answer = client.post(routes.RECOST, order, wait=WAIT_SEC)
            for name in SUMS:
                sums[name] += wire.whole(answer, name)
            before += wire.number(answer, "cost_before_usd") or 0.0
            after += wire.number(answer, "cost_after_usd") or 0.0
            progress.show(sums["read"], 0, f"{count(sums['read'])} rows, {count(sums['changed'])} changed")
            if answer.get("next") is None:
                break
            order["after"] = wire.whole(answer, "next")
    finally:
        progress.end()
    _report(options, wire.text(answer, "version"), sums, (before, after), dry_run=dry_run)
    return exits.DONE


def _report(
    options: Options, version: str, sums: Document, costs: tuple[float, float], *, dry_run: bool
) -> None:
    before, after = costs
    document = {
        "schema": routes.SCHEMA_RECOST,
        "generatedAt": stamp(),
        "dryRun": dry_run,
        "version": version,
        **sums,
        "costBeforeUsd": round(before, 9),
        "costAfterUsd": round(after, 9),
    }
    if emit_document(options, document):
        return
    done = "Would change" if dry_run else "Changed"
    click.echo(
        f"{done} {count(sums['changed'])} of {count(sums['read'])} rows by table {inert(version)}:"
        f" ${before:,.4f} before, ${after:,.4f} after."
    )
    click.echo(f"  {count(sums['unchanged'])} cost the same, {count(sums['unpriced'])} have no price in it.")
    if dry_run:
        click.echo("Nothing was changed.", err=True)
