"""`reload`: the daemon reads its configuration again and says what came of it."""

import click

from ambientctl.cli import Verb
from ambientctl.client import Client, Document
from ambientctl.clock import stamp
from ambientctl.output import put_json, put_tsv, screen_of
from ambientctl.status import Options
from ambientctl.text import inert
from ambientd.wire import exits, routes


@click.command("reload", cls=Verb, example="ambientctl reload\nambientctl reload --json")
@click.pass_obj
def reload(options: Options) -> int:
    """Reads the configuration files again, as HUP does, and names the sections that were applied.

    Those that need a restart stay as they are until then. When a file has mistakes, each is named,
    nothing changes, and the exit code is 78.
    """
    answer = Client(options).order(routes.RELOAD)
    applied, waiting = _names(answer, "applied"), _names(answer, "needs_restart")
    if options.is_json:
        put_json(
            {
                "schema": routes.SCHEMA_RELOAD,
                "generatedAt": stamp(),
                "applied": applied,
                "needsRestart": waiting,
            }
        )
    elif options.output == "tsv":
        rows = [[name, "applied"] for name in applied] + [[name, "needs restart"] for name in waiting]
        put_tsv(["section", "state"], rows)
    else:
        screen = screen_of(options)
        good = screen.glyph("✓", "*")
        screen.line(f"{good} Applied: {', '.join(applied)}." if applied else f"{good} Nothing to apply.")
        if waiting:
            screen.line(f"  Needs a restart: {', '.join(waiting)}.")
    return exits.DONE


def _names(answer: Document, key: str) -> list[str]:
    value = answer.get(key)
    return [inert(name) for name in value if isinstance(name, str)] if isinstance(value, list) else []
