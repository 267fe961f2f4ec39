"""`usage` and `performance`: what the runs took and cost, and which model does well."""

import click

from ambientctl import client as wire
from ambientctl import term
from ambientctl.cli import Verb
from ambientctl.client import Client, Document
from ambientctl.clock import now
from ambientctl.commands.sessions import parse_when
from ambientctl.output import Column, emit_list
from ambientctl.status import Options
from ambientctl.usageview import (
    day_of,
    matrix_chart,
    matrix_columns,
    matrix_lines,
    matrix_programs,
    usage_chart,
    usage_columns,
    usage_lines,
    without_empty_start,
)
from ambientd.wire import routes
from ambientd.wire.enums import MatrixSplit, UsageGroup

DEFAULT_FROM = "30d"
MIN_SAMPLE_MAX = 1_000_000


def _when(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    if not value:
        return ""
    try:
        return day_of(value, now()) or parse_when(value, now())
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value!r} is no time; say 7d, 2w, 12h, 2026-11-20 or 2026-11-20T15:00:00Z", context, parameter
        ) from None


def _words(kind: type[UsageGroup] | type[MatrixSplit]) -> click.Choice[str]:
    return click.Choice([word.value for word in kind])


def _charted(options: Options, columns: list[Column], chart: Column) -> list[Column]:
    """With bars, where a person looks at a table."""
    is_drawn = options.output in ("table", "wide") and term.is_terminal(1)
    return [*columns, chart] if is_drawn else columns


def _tell(options: Options, lines: list[str]) -> None:
    """Goes to standard error, so that a pipe gets rows and nothing else."""
    if options.output in ("table", "wide"):
        for line in lines:
            click.echo(line, err=True)


@click.command(
    cls=Verb,
    example="ambientctl usage\nambientctl usage --from 12w --group-by week\nambientctl usage -g model -o tsv",
)
@click.option(
    "--from",
    "since",
    metavar="TIME",
    callback=_when,
    default=DEFAULT_FROM,
    show_default=True,
    help="Started at or after: 7d, 2026-11-20, RFC 3339.",
)
@click.option("--to", "until", metavar="TIME", callback=_when, help="Started before.")
@click.option(
    "-g",
    "--group-by",
    "group",
    type=_words(UsageGroup),
    metavar="WORD",
    default=UsageGroup.DAY.value,
    show_default=True,
    help="day, week, agent, model or task.",
)
@click.option("--agent", metavar="ID", default="", help="Of this agent.")
@click.option("--model", metavar="ID", default="", help="With this model.")
@click.option("--task", metavar="WORD", default="", help="Of this task category.")
@click.option("--tz", metavar="NAME", default="", help="Days of this time zone.  [UTC]")
@click.pass_obj
def usage(options: Options, /, **wishes: str) -> None:
    """Runs, tokens, time and cost of ended sessions."""
    group = UsageGroup(wishes["group"])
    query = {
        "from": wishes["since"],
        "to": wishes["until"],
        "groupBy": group.value,
        "agent": wishes["agent"],
        "model": wishes["model"],
        "task": wishes["task"],
        "tz": wishes["tz"],
    }
    document = Client(options).get(routes.ANALYTICS_USAGE, query)
    items = wire.rows(document, "series")
    if options.output in ("table", "wide"):
        items = without_empty_start(items)
    columns = _charted(options, usage_columns(group), usage_chart(items))
    emit_list(options, routes.SCHEMA_USAGE, items, columns, _without(document, "series"))
    found = wire.whole(wire.part(document, "totals"), "runs")
    _tell(options, usage_lines(document) if found else ["No ended sessions in this range."])


@click.command(
    cls=Verb,
    example="ambientctl performance\nambientctl performance --from 90d --task review --split-by agent",
)
@click.option(
    "--from",
    "since",
    metavar="TIME",
    callback=_when,
    default=DEFAULT_FROM,
    show_default=True,
    help="Started at or after: 7d, 2026-11-20, RFC 3339.",
)
@click.option("--to", "until", metavar="TIME", callback=_when, help="Started before.")
@click.option("--agent", metavar="ID", default="", help="Of this agent.")
@click.option("--task", metavar="WORD", default="", help="Of this task category.")
@click.option(
    "--split-by",
    "split",
    type=_words(MatrixSplit),
    metavar="WORD",
    default=MatrixSplit.NONE.value,
    help="A row for each agent or task of a model.",
)
@click.option(
    "--min-sample",
    type=click.IntRange(1, MIN_SAMPLE_MAX),
    metavar="N",
    help="Mark rows with fewer runs.  [5]",
)
@click.pass_obj
def performance(options: Options, /, *, min_sample: int | None, **wishes: str) -> None:
    """Which model does well: success, time and cost of ended sessions, most runs first."""
    split = MatrixSplit(wishes["split"])
    query = {
        "from": wishes["since"],
        "to": wishes["until"],
        "agent": wishes["agent"],
        "task": wishes["task"],
        "splitBy": "" if split is MatrixSplit.NONE else split.value,
        "minSample": "" if min_sample is None else str(min_sample),
    }
    document = Client(options).get(routes.ANALYTICS_PERFORMANCE, query)
    items = wire.rows(document, "rows")
    plain = matrix_programs(split) if options.output == "tsv" else matrix_columns(split)
    columns = _charted(options, plain, matrix_chart())
    emit_list(options, routes.SCHEMA_PERFORMANCE, items, columns, _without(document, "rows"))
    _tell(options, matrix_lines(document) if items else ["No ended sessions in this range."])


def _without(document: Document, key: str) -> Document:
    return {name: value for name, value in document.items() if name != key}
