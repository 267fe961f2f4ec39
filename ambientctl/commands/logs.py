"""`logs` and `log-level`: what the daemon has said lately, and how much it says."""

import json
from collections.abc import Iterator

import click

from ambientctl import client as wire
from ambientctl import follow, term
from ambientctl.cli import Verb
from ambientctl.client import Client, Document
from ambientctl.clock import monotonic, sleep, stamp
from ambientctl.output import Screen, put_json, put_tsv, put_tsv_rows, screen_of
from ambientctl.status import Options, parse_seconds
from ambientctl.text import clock_time, duration, inert
from ambientctl.trouble import CommandError
from ambientd.wire import exits, routes

LEVELS = ("debug", "info", "warning", "error")
PAGE_LINES = 500
# A server that does not hold the question open must not turn following into a busy loop.
EMPTY_PAUSE_SEC = 0.2
AWAY_PAUSE_SEC = 0.5
AWAY_MAX_SEC = 60.0

TSV = ("seq", "ts", "level", "msg", "component", "fields")
_COLORS = {"debug": "dim", "warning": "yellow", "error": "red", "critical": "red"}


@click.command(cls=Verb, example="ambientctl logs --level warning\nambientctl logs -f")
@click.option("-f", "--follow", "is_following", is_flag=True, help="Go on with the lines to come.")
@click.option("--level", type=click.Choice(LEVELS), metavar="LEVEL", help="Leave out what is less severe.")
@click.option(
    "--limit",
    type=click.IntRange(1, routes.LOGS_MAX),
    default=routes.LOGS_DEFAULT,
    metavar="N",
    help=f"Lines at most.  [{routes.LOGS_DEFAULT}]",
)
@click.pass_obj
def logs(options: Options, *, is_following: bool, level: str | None, limit: int) -> int:
    """The newest lines of the daemon's log, oldest first. It keeps 2 000 of them in memory.

    Everything that was logged is in the journal: journalctl -u ambientd. More is logged after
    `ambientctl log-level debug --for 15m`.
    """
    client = Client(options)
    query = {"limit": str(limit)} | ({"level": level} if level else {})
    page = client.get(routes.LOGS, query)
    if options.output == "json" and not is_following:
        put_json({"schema": routes.SCHEMA_LOGS} | page)
        return exits.DONE
    lines = wire.rows(page, "logs")
    screen = screen_of(options)
    if options.output == "tsv":
        put_tsv(TSV, [])
    _tell(options, screen, lines)
    if not lines and not is_following and options.output in ("table", "wide"):
        click.echo("Nothing was logged at this level.", err=True)
    if is_following:
        try:
            for more in _coming(client, level, wire.whole(page, "lastSeq")):
                _tell(options, screen, more)
        except KeyboardInterrupt:
            return exits.DONE
    return exits.DONE


def _coming(client: Client, level: str | None, after: int) -> Iterator[list[Document]]:
    """Lines as they come. A restarted daemon counts anew, so its lines are read from the first."""
    away_until: float | None = None
    while True:
        asked_at = monotonic()
        query = {"after": str(after), "limit": str(PAGE_LINES), "wait": str(routes.LONG_POLL_MAX_SEC)}
        query |= {"level": level} if level else {}
        try:
            page = client.get(routes.LOGS, query, wait=routes.LONG_POLL_MAX_SEC)
        except CommandError as error:
            if error.exit != exits.UNREACHABLE and error.code != "NOT_READY":
                raise
            if away_until is None:
                away_until = monotonic() + AWAY_MAX_SEC
                follow.note("The daemon is away. Waiting for it to come back.")
            if monotonic() >= away_until:
                raise
            sleep(AWAY_PAUSE_SEC)
            continue
        away_until = None
        lines, newest = wire.rows(page, "logs"), wire.whole(page, "lastSeq")
        if newest < after:
            after = 0
            continue
        after = max([wire.whole(line, "seq") for line in lines], default=newest)
        if lines:
            yield lines
        elif monotonic() - asked_at < EMPTY_PAUSE_SEC:
            sleep(EMPTY_PAUSE_SEC)


def _tell(options: Options, screen: Screen, lines: list[Document]) -> None:
    if options.output == "tsv":
        put_tsv_rows([[line.get(name) for name in TSV] for line in lines])
        return
    for line in lines:
        if options.is_json:
            put_json(line)
        else:
            screen.line(_line(line, screen))


def _line(line: Document, screen: Screen) -> str:
    level = inert(wire.text(line, "level"))
    facts = " ".join(f"{key}={_fact(value)}" for key, value in wire.part(line, "fields").items())
    shown = f"{clock_time(wire.text(line, 'ts'), screen.now)}  {level:<7}  {inert(wire.text(line, 'msg'))}"
    shown += f"  {inert(facts)}" if facts else ""
    return screen.paint(shown, _COLORS.get(level, ""))


def _fact(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f'"{text}"' if not text or " " in text else text


@click.command(cls=Verb, example="ambientctl log-level debug --for 15m\nambientctl log-level")
@click.argument("level", type=click.Choice(LEVELS), metavar="[LEVEL]", required=False)
@click.option("--for", "time", metavar="TIME", help="Go back by itself after this time: 90s, 15m, 2h.")
@click.pass_obj
def log_level(options: Options, *, level: str | None, time: str | None) -> int:
    """Shows how much the daemon logs, or changes it: debug, info, warning, error.

    With --for the level before holds again when the time is up; without it the new one holds until a
    reload or a restart. `log.level` in the configuration is the lasting one.
    """
    seconds = parse_seconds(time) if time is not None else None
    if time is not None and level is None:
        raise click.UsageError("--for needs a level: ambientctl log-level debug --for 15m")
    if time is not None and (seconds is None or seconds < 1):
        raise click.BadParameter(f"{time!r} is no time; say 90s, 15m or 2h (up to a day)")
    client = Client(options)
    if level is None:
        view = client.get(routes.LOG_LEVEL)
    else:
        request: Document = {"level": level} | ({"for_sec": int(seconds)} if seconds is not None else {})
        view = client.post(routes.LOG_LEVEL, request)
    _show_level(options, view)
    return exits.DONE


def _show_level(options: Options, view: Document) -> None:
    now, usual, left = wire.text(view, "level"), wire.text(view, "configured"), wire.number(view, "for_sec")
    document: Document = {"schema": routes.SCHEMA_LOG_LEVEL, "generatedAt": stamp()}
    document |= {"level": now, "configured": usual}
    if left is not None:
        document["forSec"] = int(left)
    if options.is_json:
        put_json(document)
    elif options.output == "tsv":
        put_tsv(list(document), [list(document.values())])
    else:
        text = f"{inert(now)} for {duration(left)}, then {inert(usual)} again" if left else inert(now)
        term.write(text + "\n", ascii_only=term.is_ascii())
