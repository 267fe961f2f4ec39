"""`sessions`: the ledger, one session, its events."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import click

from ambientctl import client as wire
from ambientctl import follow
from ambientctl.cli import Verb, Verbs
from ambientctl.client import Client, Document
from ambientctl.clock import now, stamp
from ambientctl.output import emit_document, emit_list, put_json, put_tsv, screen_of
from ambientctl.sessionview import COLUMNS, session_lines
from ambientctl.status import Options
from ambientctl.text import count, inert
from ambientd.wire import routes
from ambientd.wire.enums import ACTIVE, LedgerSort, SessionStatus

LIMIT_MAX = 1000
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


# --- the list


def parse_when(text: str, at: float) -> str:
    """`2h`, `3d`, `2026-11-20` (local midnight) or RFC 3339 as RFC 3339 in UTC. Raises ValueError."""
    unit = _UNITS.get(text[-1:], 0)
    if unit and text[:-1].isascii() and text[:-1].isdigit():
        moment = datetime.fromtimestamp(at, UTC) - timedelta(seconds=int(text[:-1]) * unit)
    else:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _when(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    if not value:
        return ""
    try:
        return parse_when(value, now())
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value!r} is no time; say 2h, 3d, 2026-11-20 or 2026-11-20T15:00:00Z", context, parameter
        ) from None


def _statuses(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    words = [word.strip() for word in (value or "").split(",") if word.strip()]
    known = [status.value for status in SessionStatus]
    odd = [word for word in words if word not in known]
    if odd:
        raise click.BadParameter(f"{odd[0]!r} is no status; known: {', '.join(known)}", context, parameter)
    return ",".join(words)


Wishes = str | int | bool
Command = TypeVar("Command", bound=Callable[..., object])

_FILTERS = (
    click.option("--agent", metavar="ID", default="", help="Of this agent."),
    click.option(
        "--status", metavar="WORDS", callback=_statuses, help="With one of these, joined by commas."
    ),
    click.option("--active", is_flag=True, help="The same as --status queued,running."),
    click.option("--model", metavar="ID", default="", help="With this model."),
    click.option("--category", metavar="WORD", default="", help="Of this task category."),
    click.option(
        "--since", metavar="TIME", callback=_when, help="Started at or after: 2h, 3d, 2026-11-20, RFC 3339."
    ),
    click.option("--until", metavar="TIME", callback=_when, help="Started before."),
    click.option("-q", "--query", metavar="TEXT", default="", help="With this text in id, title or task."),
)


def filter_options(command: Command) -> Command:
    """The options that say which sessions, on a command that lists or exports them."""
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def ledger_query(wishes: Mapping[str, Wishes]) -> dict[str, str]:
    """The filters as the ledger's list takes them; empty ones are not meant."""
    names = {"agent": "agent", "model": "model", "category": "category", "since": "from", "until": "to"}
    query = {there: str(wishes[here] or "") for here, there in names.items()}
    query["status"] = str(wishes["status"]) or (",".join(sorted(ACTIVE)) if wishes["active"] else "")
    query["q"] = str(wishes["query"])
    return query


@click.group(
    cls=Verbs,
    invoke_without_command=True,
    example="ambientctl sessions --active\nambientctl sessions --agent tony --since 2h -o tsv",
)
@filter_options
@click.option(
    "--sort",
    type=click.Choice([word.value for word in LedgerSort]),
    metavar="ORDER",
    default=LedgerSort.NEWEST.value,
    show_default=True,
    help="newest, runtime or cost, highest first.",
)
@click.option(
    "--limit", type=click.IntRange(1, LIMIT_MAX), default=50, show_default=True, help="At most so many."
)
@click.option("--after", metavar="CURSOR", default="", help="The page after the one that ended with CURSOR.")
@click.option("--wide", is_flag=True, help="Whole ids and all columns, the same as -o wide.")
@click.pass_context
def sessions(context: click.Context, /, **wishes: Wishes) -> None:
    """The sessions of this node, newest first unless --sort says otherwise."""
    options = context.find_object(Options) or Options()
    if wishes["wide"] and options.output == "table":
        options.output = "wide"
    if context.invoked_subcommand is None:
        _list(options, wishes)


def _list(options: Options, wishes: Mapping[str, Wishes]) -> None:
    filters = ledger_query(wishes)
    order = "" if wishes["sort"] == LedgerSort.NEWEST.value else str(wishes["sort"])
    query = filters | {"sort": order, "limit": str(wishes["limit"]), "cursor": str(wishes["after"])}
    page = Client(options).get(routes.LEDGER, query)
    items, total = wire.rows(page, "rows"), wire.whole(page, "total")
    following = wire.text(page, "nextCursor")
    extra: Document = {"total": total}
    if page.get("totalIsLowerBound") is True:
        extra["totalIsLowerBound"] = True
    if following:
        extra["next"] = following
    emit_list(options, routes.SCHEMA_SESSIONS, items, COLUMNS, extra)
    if options.output in ("table", "wide"):
        is_filtered = any(filters.values()) or bool(wishes["after"])
        _footer(len(items), extra, is_filtered=is_filtered, is_wide=options.output == "wide")


def _footer(shown: int, extra: Document, *, is_filtered: bool, is_wide: bool) -> None:
    """Goes to standard error, so that a pipe gets rows and nothing else."""
    if not shown:
        more = (
            "No session matches."
            if is_filtered
            else "No sessions yet. Start one: ambientctl spawn AGENT TEXT"
        )
        click.echo(more, err=True)
        return
    total = count(extra["total"])
    of = (
        f" of {'more than ' if 'totalIsLowerBound' in extra else ''}{total}"
        if shown != extra["total"]
        else ""
    )
    line = f"{shown}{of} session{'' if shown == 1 and not of else 's'}."
    line += "" if is_wide else " Whole ids: --wide or --json."
    if "next" in extra:
        line += f" More: --after {inert(extra['next'])}"
    click.echo(line, err=True)


# --- one


@sessions.command(cls=Verb, example="ambientctl sessions show 9f8e7d6c")
@click.argument("session", metavar="ID")
@click.pass_obj
def show(options: Options, session: str) -> None:
    """One session: what it was asked, how it went, what it cost. ID may be any unique part at either end."""
    document = Client(options).get(f"{routes.LEDGER}/{wire.segment(session)}")
    if emit_document(options, {"schema": routes.SCHEMA_SESSION, "generatedAt": stamp(), **document}):
        return
    screen = screen_of(options)
    for line in session_lines(document, screen):
        screen.line(line)


# --- its events


@sessions.command(
    cls=Verb, example="ambientctl sessions events 9f8e7d6c -f\nambientctl sessions events 9f8e -o jsonl"
)
@click.argument("session", metavar="ID")
@click.option("-f", "--follow", "is_live", is_flag=True, help="Go on until the session ends.")
@click.option(
    "--after", type=click.IntRange(0), default=0, metavar="SEQ", help="Only events after this number."
)
@click.pass_obj
def events(options: Options, session: str, *, is_live: bool, after: int) -> None:
    """The events of a session, oldest first. With -f and JSON, each event is one line."""
    client = Client(options)
    if options.output in ("json", "tsv") and not is_live:
        _whole_events(options, client, session, after)
        return
    screen = screen_of(options)
    pages = follow.live_pages if is_live else follow.stored_pages
    for page in pages(client, session, after):
        for event in page.events:
            if options.output in ("table", "wide"):
                line = follow.timed_line(event, screen)
                screen.line(line)
            else:
                put_json(event)


def _whole_events(options: Options, client: Client, session: str, after: int) -> None:
    pages = list(follow.stored_pages(client, session, after))
    items = [event for page in pages for event in page.events]
    if options.output == "tsv":
        keys = ("seq", "eventTs", "eventType", "payload")
        put_tsv(keys, [[event.get(key) for key in keys] for event in items])
        return
    last = pages[-1]
    head: Document = {"schema": routes.SCHEMA_EVENTS, "generatedAt": stamp()}
    put_json(
        head | {"sessionId": last.session_id, "status": last.status, "ended": last.ended, "items": items}
    )
