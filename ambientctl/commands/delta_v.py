"""`delta-v`: the efficiency metric, its inputs with source and confidence, its parameters."""

from collections.abc import Sequence

import click

from ambientctl import client as wire
from ambientctl import term
from ambientctl.camel import camel
from ambientctl.cli import Verb
from ambientctl.client import Client, Document
from ambientctl.clock import now, stamp
from ambientctl.commands.sessions import parse_when
from ambientctl.delta_v_view import (
    INPUT_COLUMNS,
    PARAMETER_COLUMNS,
    SESSION_COLUMNS,
    advice,
    headlines,
    history_columns,
)
from ambientctl.output import Column, emit_document, render_table, screen_of
from ambientctl.status import Options
from ambientd.wire import routes

_HELP = """\
The efficiency metric Δv (AILEE) of this node: sum and rate over a window, what it is made of, and which
parameters it has.

\b
  Δv = Isp·η·e^(-α·v0²) · Σ P·e^(-α·w²)·e^(2α·v0·v)/M · dt    in J/GiB

\b
  P   W     power: RAPL, hwmon, battery, NVML, or an estimate
  w   -     distance of the run queue per core from target_load
  v   -     sessions completed in the last hour / nominal_rate
  M   GiB   memory in use on the machine
  dt  s     time on a clock that never steps

\b
Parameters (section delta_v of the configuration) and safe ranges, no unit:
  isp    0 to 1e6  scales the result                          [1]
  eta    0 to 1    share of the power that counts             [1]
  alpha  0 to 1    falls with w², grows with v by this        [0.1]
  v0     0 to 10   the velocity that is on target             [1]
Of the machine:
  target_load   0 to 4 processes per core, where w is 0      [0.7]
  nominal_rate  0.001 to 1e6 sessions per hour, where v is 1   [6]
  idle_power, core_power  W and W/core of the estimate     [10, 5]

Each inner exponent is clamped to ±700. Other parameters begin another sum. It grows with time: compare rates.
"""


def _when(context: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        return parse_when(value, now())
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value!r} is no time; say 1h, 7d, 2026-11-20 or 2026-11-20T15:00:00Z", context, parameter
        ) from None


@click.command(
    cls=Verb,
    help=_HELP,
    example="ambientctl delta-v --since 24h\nambientctl delta-v --session a1b2c3d4 --json",
)
@click.option(
    "--since",
    metavar="TIME",
    default="1h",
    show_default=True,
    callback=_when,
    help="Begin of the window: 1h, 7d, 2026-11-20, RFC 3339.",
)
@click.option("--session", metavar="ID", default="", help="The part of this session.")
@click.pass_obj
def delta_v(options: Options, *, since: str, session: str) -> None:
    """See `_HELP`."""
    found = camel(Client(options).get(routes.DELTA_V, {"since": since, "session": session}))
    document: Document = {"schema": routes.SCHEMA_DELTA_V, "generatedAt": stamp(), **found}
    if not emit_document(options, document):
        _show(options, document, only_session=bool(session))


def _show(options: Options, document: Document, *, only_session: bool) -> None:
    screen = screen_of(options)
    for line in headlines(document, screen):
        screen.line(line)
    history, sessions = wire.rows(document, "history"), wire.rows(document, "sessions")
    tables: list[tuple[Sequence[Column], list[Document]]] = [(SESSION_COLUMNS, sessions)]
    if not only_session:
        tables.insert(0, (history_columns(history, charted=term.is_terminal(1)), history))
        tables += [
            (INPUT_COLUMNS, wire.rows(document, "inputs")),
            (PARAMETER_COLUMNS, wire.rows(document, "parameters")),
        ]
    for columns, items in tables:
        if items:
            text = "\n" + render_table(columns, items, screen)
            term.write(text, ascii_only=screen.ascii)
    if only_session and not sessions:
        click.echo("This session has no part: it ran elsewhere, or before samples were taken.", err=True)
    hint = advice(document)
    if hint is not None:
        click.echo(hint, err=True)
