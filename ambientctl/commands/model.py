"""`model`: the model that an agent's sessions use from now on."""

import click

from ambientctl import client as wire
from ambientctl.cli import Verb
from ambientctl.client import Client, Document
from ambientctl.clock import stamp
from ambientctl.output import put_json, put_tsv, screen_of
from ambientctl.status import Options
from ambientctl.text import inert
from ambientd.wire import routes


@click.command(
    cls=Verb, example="ambientctl model reviewer provider/model-1\nambientctl model gateway:tony m-2"
)
@click.argument("agent")
@click.argument("model")
@click.pass_obj
def model(options: Options, agent: str, model: str) -> None:
    """Prefer MODEL for AGENT: for sessions that start later, and at the gateway as far as that is allowed.

    A run under way keeps its model. Where two agents have one id, say local:ID or gateway:ID.
    """
    answer = Client(options).post(routes.MODEL, {"agentId": agent, "model": model})
    document: Document = {
        "schema": routes.SCHEMA_MODEL,
        "generatedAt": stamp(),
        "agentId": wire.text(answer, "agentId"),
        "model": wire.text(answer, "model"),
        "applied": answer.get("applied") or [],
        "sessions": wire.whole(answer, "sessions"),
        "auditId": wire.whole(answer, "auditId"),
    }
    if options.is_json:
        put_json(document)
    elif options.output == "tsv":
        put_tsv(["agentId", "model"], [[document["agentId"], document["model"]]])
    else:
        _say(options, document)


def _say(options: Options, document: Document) -> None:
    screen = screen_of(options)
    count = document["sessions"]
    where = ["sessions that start from now on"]
    if "agent" in document["applied"]:
        where.append("the agent's own setting at the gateway")
    if count:
        where.append(f"{count} session{'' if count == 1 else 's'} at the gateway")
    name, agent = inert(document["model"]), inert(document["agentId"])
    screen.line(f"{screen.glyph('✓', '*')} {agent} uses {name}: {', '.join(where)}.")
    screen.line(f"  audit #{document['auditId']}")
