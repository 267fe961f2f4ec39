"""`kill`: names the exact session, asks, sends, and waits for the proof that it has ended."""

import sys
from typing import NamedTuple

import click

from ambientctl import client as wire
from ambientctl import follow, term
from ambientctl.cli import Verb
from ambientctl.client import Client, Document
from ambientctl.clock import monotonic, now, sleep, stamp
from ambientctl.output import Screen, put_json, put_tsv, screen_of
from ambientctl.sessionview import running_seconds, task_of
from ambientctl.status import Options
from ambientctl.text import clock_time, duration, inert, short_id, tokens
from ambientctl.trouble import CommandError
from ambientd.wire import exits, routes
from ambientd.wire.enums import TERMINAL

PROOF_SEC = 30.0
# No session has so many events: a poll after this number ends with the session and with nothing else.
AFTER_ALL = 1_000_000_000
PAUSE_SEC = 0.25


class Outcome(NamedTuple):
    """What is known about the end; `status` is empty while there is no proof."""

    status: str
    waited_ms: int


@click.command(
    cls=Verb, example="ambientctl kill 9f8e7d6c\nambientctl kill 9f8e7d6c --yes --timeout 1m --json"
)
@click.argument("session", metavar="ID")
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask; needed where there is no terminal.")
@click.option("--no-wait", is_flag=True, help="Send the signal and do not wait for the proof.")
@click.pass_obj
def kill(options: Options, session: str, *, is_sure: bool, no_wait: bool) -> int:
    """End a session and everything it started. ID may be any unique part at either end.

    Waits up to 30s (--timeout) for the proof: exit 0 when it has ended, 7 when the signal was sent but
    the end is not confirmed, 5 for an unknown or ambiguous ID, 6 when it had ended before.
    """
    if not is_sure and not term.is_terminal(0):
        raise click.UsageError("Without a terminal nobody can be asked; say --yes.")
    client, screen = Client(options), screen_of(options)
    if not is_sure:
        session = _asked(client, screen, session)
        if not session:
            click.echo("Nothing was done.", err=True)
            return exits.FAILED
    answer = client.post(routes.KILL, {"sessionId": session})
    session_id = wire.text(answer, "sessionId")
    if not session_id:
        raise wire.not_understood("it names no session")
    began = monotonic()
    if answer.get("ended") is True:
        outcome = Outcome("cancelled" if answer.get("signal") == "cancelled" else "ended", 0)
    elif no_wait:
        outcome = Outcome("", 0)
    else:
        try:
            outcome = _proof(options, client, session_id, began)
        except KeyboardInterrupt:
            term.complain(f"\nNot waiting any more; the signal was sent. See: {_see(session_id)}")
            return exits.INTERRUPTED
    return _report(options, answer, outcome, no_wait=no_wait)


def _asked(client: Client, screen: Screen, fragment: str) -> str:
    """The whole id of the session that is meant and may be ended; empty when the answer was no."""
    try:
        row = wire.part(client.get(f"{routes.LEDGER}/{wire.segment(fragment)}"), "ledger")
    except CommandError as error:
        row = {}
        if error.code != "NOT_FOUND" or not (row := _active_row(client, fragment)):
            raise
    if wire.text(row, "status") in TERMINAL:
        # A session of a gateway goes on under its id after its first run has ended.
        row = _active_row(client, wire.text(row, "sessionId")) or row
    session_id, status = wire.text(row, "sessionId"), wire.text(row, "status")
    if not session_id:
        raise wire.not_understood("it names no session")
    if status in TERMINAL:
        when = clock_time(wire.text(row, "endedAt"), now())
        raise CommandError(
            exits.WRONG_STATE,
            f"Error: session {inert(session_id)} has already ended: {inert(status)} at {when}.",
        )
    model = wire.text(row, "modelId")
    used = wire.number(row, "totalTokens")
    facts = f"{inert(status)} {duration(running_seconds(row, now()))}"
    facts += f", {tokens(used)} tokens" if used is not None else ""
    named = f" ({inert(model)})" if model not in ("", "unknown") else ""
    for line in (
        f"Session  {inert(session_id)}",
        f"Agent    {inert(wire.text(row, 'agentId'))}{named}, {facts}",
        f"Task     {task_of(row)}",
    ):
        click.echo(line.encode("ascii", "replace").decode() if screen.ascii else line, err=True)
    click.echo("Terminate this session? [y/N] ", nl=False, err=True)
    return session_id if sys.stdin.readline().strip().lower() in ("y", "yes") else ""


def _active_row(client: Client, fragment: str) -> Document:
    """An active session that the status tells of, as a ledger row shows it; empty when none is meant."""
    found = [
        {
            "sessionId": wire.text(item, "id"),
            "status": wire.text(item, "state"),
            "agentId": wire.text(agent, "id"),
            "modelId": wire.text(item, "model"),
            "startedAt": wire.text(item, "since"),
            "taskTitle": wire.text(item, "title"),
        }
        for agent in wire.rows(client.get(routes.STATUS), "agents")
        for item in wire.rows(agent, "sessions")
        if wire.text(item, "id").startswith(fragment) or wire.text(item, "id").endswith(fragment)
    ]
    return found[0] if len(found) == 1 else {}


def _proof(options: Options, client: Client, session_id: str, began: float) -> Outcome:
    """Waits until the ledger says that the session has ended, or the time is up."""
    until = began + (PROOF_SEC if options.timeout is None else options.timeout)
    if _is_talkative(options):
        screen = screen_of(options)
        text = f"{screen.glyph('✓', '*')} Signal sent. Waiting for it to end {screen.glyph('…', '...')} "
        term.write(text, ascii_only=screen.ascii)
    while (left := until - monotonic()) > 0:
        asked_at = monotonic()
        try:
            page = follow.events_page(client, session_id, AFTER_ALL, max(1.0, left))
        except CommandError as error:
            # A daemon that restarts in between still ends the session: the order is in its ledger.
            if error.exit != exits.UNREACHABLE and error.code != "NOT_READY":
                raise
        else:
            if page.status in TERMINAL:
                return Outcome(page.status, int((monotonic() - began) * 1000))
        if monotonic() - asked_at < PAUSE_SEC:
            sleep(PAUSE_SEC)
    return Outcome("", int((monotonic() - began) * 1000))


def _see(session_id: str) -> str:
    return f"ambientctl sessions show {short_id(session_id)}"


def _is_talkative(options: Options) -> bool:
    """Whether a person reads along; the beginning of the sentence then comes before its end."""
    return options.output in ("table", "wide") and term.is_terminal(1)


def _report(options: Options, answer: Document, outcome: Outcome, *, no_wait: bool) -> int:
    code = exits.DONE if outcome.status or no_wait else exits.NOT_CONFIRMED
    document = {
        "schema": routes.SCHEMA_KILL,
        "generatedAt": stamp(),
        "sessionId": wire.text(answer, "sessionId"),
        "signal": wire.text(answer, "signal"),
        "ended": bool(outcome.status),
        "waitedMs": outcome.waited_ms,
        "auditId": wire.whole(answer, "auditId"),
    }
    if outcome.status:
        document["status"] = outcome.status
    if options.is_json:
        put_json(document)
    elif options.output == "tsv":
        put_tsv(list(document), [list(document.values())])
    else:
        _say(options, document, outcome, no_wait=no_wait)
    if code == exits.NOT_CONFIRMED:
        term.complain(f"Error: signal sent, not confirmed. See: {_see(wire.text(answer, 'sessionId'))}")
    return code


def _say(options: Options, document: Document, outcome: Outcome, *, no_wait: bool) -> None:
    screen = screen_of(options)
    good = screen.glyph("✓", "*")
    waited = f"{outcome.waited_ms / 1000:.1f}s"
    if document["signal"] == "cancelled":
        screen.line(f"{good} Cancelled before it started.")
    elif no_wait:
        screen.line(f"{good} Signal sent.")
    else:
        begun = "" if _is_talkative(options) else f"{good} Signal sent. Waiting for it to end "
        begun += "" if _is_talkative(options) else screen.glyph("… ", "... ")
        screen.line(
            begun + (f"{outcome.status} after {waited}" if outcome.status else f"not yet after {waited}")
        )
    screen.line(f"  audit #{document['auditId']}")
