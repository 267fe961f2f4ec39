"""`join` and `leave`: the control plane that this node belongs to."""

import sys

import click

from ambientctl import client as wire
from ambientctl.camel import camel
from ambientctl.cli import Verb
from ambientctl.client import Client, Document
from ambientctl.clock import stamp
from ambientctl.output import put_json, screen_of
from ambientctl.status import Options
from ambientctl.text import inert
from ambientctl.trouble import CommandError
from ambientd.wire import exits, routes

# The control plane answers to the daemon, which waits for it up to its own limit.
WAIT_SEC = 60.0
TOKEN_MAX = 4096
KINDS = ("any", "compute", "gateway", "storage", "validator", "open_internet", "feen_resonator")


@click.command(
    cls=Verb,
    example="ambientctl join https://control.example.net --token-file join.token\n"
    "pass show join | ambientctl join https://control.example.net --name edge-07",
)
@click.argument("url", metavar="URL")
@click.option(
    "--token-file", default="-", metavar="FILE", help="Where the join token is; - reads it here.  [-]"
)
@click.option("--name", default="", metavar="ID", help="The node's id there.  [the node's name]")
@click.option("--region", default="", metavar="TEXT", help="Where the node is.  [default]")
@click.option(
    "--type",
    "kind",
    type=click.Choice(KINDS),
    metavar="TYPE",
    help="What the node is for; any takes all work.  [any]",
)
@click.pass_obj
def join(options: Options, *, url: str, token_file: str, name: str, region: str, kind: str | None) -> int:
    """Enrol this node at a control plane by a join token, which its owner made there.

    The node proves its own key and gets a credential of its own; nobody's password is ever on it. Should the
    answer be lost, the same command may be given again.
    """
    token = read_token(token_file)
    wish = {"url": url, "join_token": token}
    wish |= {
        key: value for key, value in (("node_id", name), ("region", region), ("node_type", kind)) if value
    }
    answer = camel(Client(options).post(routes.MEMBERSHIP, wish, wait=WAIT_SEC))
    if options.output not in ("table", "wide"):
        put_json({"schema": routes.SCHEMA_MEMBERSHIP, "generatedAt": stamp(), **answer})
        return exits.DONE
    screen = screen_of(options)
    text = {key: inert(wire.text(answer, key)) for key in ("nodeId", "url", "ownerId", "network")}
    screen.line(f"{screen.glyph('✓', '*')} This node is {text['nodeId']} at {text['url']}.")
    screen.line(f"  owner    {text['ownerId']}")
    screen.line(f"  network  {text['network']}{_issuers(answer)}")
    screen.line(f"  audit #{wire.whole(answer, 'auditId')}")
    return exits.DONE


def _issuers(answer: Document) -> str:
    policies, leases = answer.get("issuers"), answer.get("leaseIssuers")
    counts = [len(value) if isinstance(value, list) else 0 for value in (policies, leases)]
    return f", {counts[0]} issuer{'' if counts[0] == 1 else 's'} of policies, {counts[1]} of leases"


def read_token(path: str) -> str:
    """The token in a file, or on the standard input. Raises CommandError; the token is never shown."""
    try:
        if path == "-":
            if sys.stdin.isatty():
                text = click.prompt("Join token", hide_input=True, err=True)
            else:
                text = sys.stdin.read(TOKEN_MAX + 1)
        else:
            with open(path, encoding="ascii") as file:
                text = file.read(TOKEN_MAX + 1)
    except OSError as error:
        why = (error.strerror or "error").lower()
        raise CommandError(
            exits.USAGE, f"Error: the token file {inert(path)} cannot be read: {why}."
        ) from None
    except UnicodeDecodeError:
        raise CommandError(exits.USAGE, f"Error: {inert(path)} holds no token.") from None
    token = text.strip()
    if not token or len(token) > TOKEN_MAX or len(token.split()) != 1:
        raise CommandError(
            exits.USAGE,
            "Error: there is no token (one word is expected).",
            "  try      ambientctl join URL --token-file FILE",
        )
    return token


@click.command(cls=Verb, example="ambientctl leave --yes")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def leave(options: Options, *, yes: bool) -> int:
    """Leave the control plane: the credential is removed here, and what waits for it goes.

    The node goes on by itself. Its owner may delete it at the control plane.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise CommandError(exits.USAGE, "Error: without a terminal this needs --yes.")
        if not click.confirm("Leave the control plane? What waits for it goes.", err=True):
            return exits.FAILED
    answer = camel(Client(options).delete(routes.MEMBERSHIP))
    if options.output not in ("table", "wide"):
        put_json({"schema": routes.SCHEMA_MEMBERSHIP, "generatedAt": stamp(), **answer})
        return exits.DONE
    screen = screen_of(options)
    screen.line(f"{screen.glyph('✓', '*')} This node has left {inert(wire.text(answer, 'url'))}.")
    screen.line(f"  audit #{wire.whole(answer, 'auditId')}")
    return exits.DONE
