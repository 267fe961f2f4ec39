"""`retention run`: removes what is old from the ledger and the node's folders, or says what would go."""

import sys

import click

from ambientctl import client as wire
from ambientctl.cli import Verb, Verbs
from ambientctl.client import Client
from ambientctl.clock import now, stamp
from ambientctl.output import Column, Item, emit_list, put_json, screen_of
from ambientctl.status import Options
from ambientctl.text import count, duration, inert, size
from ambientctl.trouble import CommandError
from ambientd.wire import exits, routes

DAY_SEC = 86400
WAIT_SEC = 2
COUNT_SEC = 60.0  # counting a million sessions takes seconds
SAY_EVERY_SEC = 10.0

COLUMNS = (
    Column("TABLE", "name", lambda item, _: inert(wire.text(item, "name"))),
    Column("KEEP", "keepDays", lambda item, _: _kept(wire.whole(item, "keepSec")), right=True),
    Column("OLDER THAN", "before", lambda item, _: inert(wire.text(item, "before")[:10])),
    Column("ROWS", "rows", lambda item, _: count(wire.whole(item, "rows")), right=True),
    Column(
        "FREES", "bytes", lambda item, _: size(wire.whole(item, "bytes")) if item["rows"] else "-", right=True
    ),
)


@click.group(
    cls=Verbs, example="ambientctl retention run --dry-run\nambientctl retention run --plan 6f1c2a0b9d3e"
)
def retention() -> None:
    """How long the node keeps what it knows: ended sessions, totals, handed-in tasks, folders."""


@retention.command("run", cls=Verb, example="ambientctl retention run --dry-run\nambientctl retention run")
@click.option("--dry-run", is_flag=True, help="Only say what would go, as a plan.")
@click.option("--plan", metavar="ID", help="Run exactly what a dry run of the last hour has shown.")
@click.pass_obj
def retention_run(options: Options, *, dry_run: bool, plan: str | None) -> int:
    """Removes what is older than it is kept for. What runs or waits stays, whatever its age.

    The daemon does the same once a day (retention.hour chooses when); from cron, say
    `17 3 * * * ambientctl retention run`. One run at a time; it goes on when this command is stopped.
    """
    if dry_run and plan is not None:
        raise click.UsageError("--dry-run makes a plan, --plan runs one: give one of them.")
    client = Client(options)
    request: Item = {"dryRun": dry_run}
    if plan is not None:
        request["planId"] = plan
    answer = client.post(routes.RETENTION, request, wait=COUNT_SEC if dry_run else 0.0)
    if answer.get("running"):
        answer = _wait_end(client, wire.text(answer, "planId"))
    _show(options, answer)
    if "error" in answer:
        raise CommandError(
            exits.FAILED, f"Error: retention stopped early: {inert(wire.text(answer, 'error'))}"
        )
    return exits.DONE


def _wait_end(client: Client, plan_id: str) -> Item:
    """Asks until the run has ended, telling how far it is: on a terminal in place, else now and then."""
    said, in_place = now(), sys.stderr.isatty()
    while True:
        answer = client.get(routes.RETENTION, {"wait": str(WAIT_SEC)}, wait=WAIT_SEC)
        if wire.text(answer, "planId") != plan_id or not answer.get("running"):
            break
        if in_place or now() - said >= SAY_EVERY_SEC:
            said = now()
            gone = sum(wire.whole(item, "rows") for item in wire.rows(answer, "tables"))
            click.echo(
                ("\r" if in_place else "") + f"removed {count(gone)} rows so far", err=True, nl=not in_place
            )
    if in_place:
        click.echo("\r\x1b[K", err=True, nl=False)
    return answer


def _kept(seconds: int) -> str:
    return f"{seconds // DAY_SEC}d" if seconds % DAY_SEC == 0 else duration(seconds)


def _show(options: Options, answer: Item) -> None:
    places = wire.rows(answer, "tables")
    if options.output == "json":
        put_json({"schema": routes.SCHEMA_RETENTION, "generatedAt": stamp()} | answer)
        return
    emit_list(options, routes.SCHEMA_RETENTION, places, COLUMNS, {})
    if options.output not in ("table", "wide"):
        return
    screen = screen_of(options)
    screen.line(_sum(answer, places))
    if answer.get("dryRun"):
        plan = inert(wire.text(answer, "planId"))
        screen.line(f"Plan {plan}.  Run this plan: ambientctl retention run --plan {plan}")


def _sum(answer: Item, places: list[Item]) -> str:
    """The last line: rows of the ledger, and the database's room; files are told with them."""
    total, freed = (sum(wire.whole(item, key) for item in places) for key in ("rows", "bytes"))
    of = size(wire.whole(answer, "usedBytes"))
    if answer.get("dryRun"):
        would = f"Would delete {count(total)} rows and files, free about {size(freed)}"
        return f"{would}; the ledger has {of}. Nothing changed."
    smaller = wire.whole(answer, "freedBytes")
    file = f"; its file is {size(smaller)} smaller" if smaller else ""
    return f"Deleted {count(total)} rows and files, about {size(freed)}; the ledger had {of}{file}."
