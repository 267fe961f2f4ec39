"""`spawn`: starts a session, and follows it when asked."""

import sys

import click

from ambientctl import client as wire
from ambientctl import follow, term
from ambientctl.cli import Verb
from ambientctl.client import Client, Document
from ambientctl.clock import stamp
from ambientctl.output import put_json, put_tsv, screen_of
from ambientctl.status import Options
from ambientctl.text import short_id
from ambientctl.trouble import CommandError
from ambientd.wire import exits, routes

_TEACH = (
    "Say what to do: ambientctl spawn {agent} 'Look at the last commit'\n"
    "or hand it in:  git diff | ambientctl spawn {agent} -"
)


@click.command(
    cls=Verb,
    example=(
        "ambientctl spawn reviewer 'Look at the last commit' --follow\n"
        "git diff | ambientctl spawn reviewer --title 'Today'"
    ),
)
@click.argument("agent")
@click.argument("prompt", required=False)
@click.option("--model", metavar="ID", help="Another model than the agent's own.")
@click.option("--title", metavar="TEXT", help="What lists call the session.")
@click.option("--category", metavar="WORD", help="Task category, for the statistics.")
@click.option("-f", "--follow", "is_followed", is_flag=True, help="Show the agent's output until the end.")
@click.pass_obj
def spawn(
    options: Options, /, agent: str, prompt: str | None, *, is_followed: bool, **words: str | None
) -> int:
    """Start a session of AGENT with PROMPT, or with what comes on standard input.

    Prints the session's id. With --follow, exits 0 when the session succeeds and 1 when it does not.
    """
    order: Document = {"agentId": agent, "prompt": _prompt(agent, prompt)}
    order |= {name: value for name, value in words.items() if value is not None}
    client = Client(options)
    answer = client.post(routes.SPAWN, order)
    session_id = wire.text(answer, "sessionId")
    if not session_id:
        raise wire.not_understood("the new session has no id")
    _announce(options, answer, session_id, is_followed=is_followed)
    return _follow(options, client, session_id) if is_followed else exits.DONE


def _prompt(agent: str, prompt: str | None) -> str:
    if prompt is None and term.is_terminal(0):
        raise click.UsageError("A session needs a prompt. " + _TEACH.format(agent=agent))
    if prompt is not None and prompt != "-":
        data = prompt.encode("utf-8", "surrogateescape")
    elif sys.stdin is None:
        raise click.UsageError("There is no standard input to read the prompt from.")
    else:
        data = sys.stdin.buffer.read(routes.PROMPT_MAX_BYTES + 1)
    if len(data) > routes.PROMPT_MAX_BYTES:
        raise click.UsageError(f"The prompt is longer than {routes.PROMPT_MAX_BYTES // 1024} KiB.")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"The prompt is not UTF-8 (byte {error.start + 1}).") from None
    if not text.strip():
        raise click.UsageError("The prompt is empty. " + _TEACH.format(agent=agent))
    return text


def _announce(options: Options, answer: Document, session_id: str, *, is_followed: bool) -> None:
    if options.is_json:
        status, audit = wire.text(answer, "status"), wire.whole(answer, "auditId")
        head: Document = {"schema": routes.SCHEMA_SPAWN, "generatedAt": stamp()}
        put_json(head | {"sessionId": session_id, "status": status, "auditId": audit})
    elif options.output == "tsv":
        put_tsv(["sessionId", "status"], [[session_id, wire.text(answer, "status")]])
    elif is_followed:
        follow.note(f"session {session_id}")
    elif term.is_terminal(1):
        short = short_id(session_id)
        screen = screen_of(options)
        screen.line(f"{screen.glyph('✓', '*')} Session {session_id} is {wire.text(answer, 'status')}.")
        screen.line(f"  watch it   ambientctl sessions events {short} -f")
        screen.line(f"  end it     ambientctl kill {short}")
    else:
        term.put(session_id.encode() + b"\n")


def _follow(options: Options, client: Client, session_id: str) -> int:
    teller = follow.Teller(screen_of(options))
    status = ""
    try:
        for page in follow.live_pages(client, session_id, 0):
            status = page.status
            if options.output in ("table", "wide"):
                teller.tell(page)
            else:
                for event in page.events:
                    put_json(event)
    except KeyboardInterrupt:
        teller.close()
        follow.note("Not following any more. The session goes on.")
        follow.note(f"  end it     ambientctl kill {short_id(session_id)}")
        return exits.INTERRUPTED
    except CommandError:
        teller.close()
        follow.note(f"The session may go on: ambientctl sessions show {short_id(session_id)}")
        raise
    teller.close()
    return exits.DONE if status == "success" else exits.FAILED
