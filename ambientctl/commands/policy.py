"""`policy`: what may leave this node, and who said so."""

import json
import sys
from collections.abc import Iterator
from typing import NamedTuple

import click

from ambientctl import client as wire
from ambientctl import term
from ambientctl.camel import camel
from ambientctl.cli import Verb, Verbs
from ambientctl.client import Client, Document
from ambientctl.clock import stamp
from ambientctl.output import emit_document, emit_list, screen_of
from ambientctl.policyview import COLUMNS, import_lines, policy_lines
from ambientctl.status import Options
from ambientctl.text import count, inert
from ambientctl.trouble import CommandError
from ambientctl.wholefile import need_free, put_all, whole_file
from ambientd.wire import exits, routes

LIMIT_MAX = 500
FILE_MAX_BYTES = 64 * 1024 * 1024
# One request: below the daemon's limit of a body, and one transaction.
PART_ITEMS, PART_BYTES = 500, 768 * 1024
PROBLEMS_SHOWN = 20
WAIT_SEC = 60.0
ITEM_KEYS = ("body", "issuer", "signature")
COUNTS = ("added", "replaced", "removed", "held", "kept", "refused")


@click.group(
    cls=Verbs,
    example="ambientctl policy list\nambientctl policy check https://api.example.com/v1\n"
    "ambientctl policy import fleet.ndjson --dry-run",
)
def policy() -> None:
    """Egress policies: signed by an issuer of policy.issuers, kept on this node, in force also offline."""


# --- reading


@policy.command(
    "list", cls=Verb, example="ambientctl policy list\nambientctl policy list --state held -o tsv"
)
@click.option(
    "--state",
    type=click.Choice(("in_force", "removed", "held", "all")),
    metavar="STATE",
    default="in_force",
    show_default=True,
    help="in_force, removed, held (something newer waits), all.",
)
@click.option("-q", "--query", metavar="TEXT", default="", help="With this text in the id.")
@click.option(
    "--limit", type=click.IntRange(1, LIMIT_MAX), default=100, show_default=True, help="At most so many."
)
@click.option("--after", metavar="ID", default="", help="Those behind this id.")
@click.option("--wide", is_flag=True, help="All destinations, the same as -o wide.")
@click.pass_obj
def list_policies(options: Options, *, state: str, query: str, limit: int, after: str, wide: bool) -> None:
    """The policies of this node, by id."""
    if wide and options.output == "table":
        options.output = "wide"
    wishes = {"state": state, "q": query, "limit": str(limit), "after": after}
    page = camel(Client(options).get(routes.POLICIES, wishes))
    items = [{**item, **_flat(item)} for item in wire.rows(page, "rows")]
    following = wire.text(page, "next")
    extra: Document = {"total": wire.whole(page, "total")}
    if following:
        extra["next"] = following
    emit_list(options, routes.SCHEMA_POLICIES, items, COLUMNS, extra)
    if options.output not in ("table", "wide"):
        return
    if not items:
        click.echo("No policy matches." if query or after or state != "in_force" else _NONE, err=True)
        return
    more = f" More: --after {inert(following)}" if following else ""
    click.echo(f"{count(len(items))} shown, {count(extra['total'])} in force.{more}", err=True)


_NONE = "No policies: nothing may leave this node. Bring some: ambientctl policy import FILE"


def _flat(item: Document) -> Document:
    """What TSV has of a policy."""
    inner = wire.part(item, "item")
    return {key: inner.get(key) for key in ("revision", "notAfter", "protocols", "way", "destinations")}


@policy.command(cls=Verb, example="ambientctl policy show web")
@click.argument("policy_id", metavar="ID")
@click.pass_obj
def show(options: Options, policy_id: str) -> None:
    """One policy: what it allows, who issued it, how it came. ID may be any unique part at either end."""
    found = camel(Client(options).get(f"{routes.POLICIES}/{wire.segment(policy_id)}"))
    if emit_document(options, {"schema": routes.SCHEMA_POLICY, "generatedAt": stamp(), **found}):
        return
    screen = screen_of(options)
    for line in policy_lines(found, screen):
        screen.line(line)


@policy.command(
    cls=Verb,
    example="ambientctl policy check https://api.example.com/v1\n"
    "ambientctl policy check db.example.com:5432 --protocol tcp --json",
)
@click.argument("destination", metavar="DEST")
@click.option("--protocol", metavar="P", help="tcp, udp, http, https or quic.  [DEST's scheme, else https]")
@click.option("--policy", "policy_id", metavar="ID", help="Ask this policy alone.")
@click.option("--address", metavar="IP", help="The address that DEST's name was resolved to.")
@click.option("--lease", "lease_id", metavar="ID", help="Ask for the session that has this lease.")
@click.option("--session", "session_id", metavar="ID", help="Ask for this session, by its lease.")
@click.pass_obj
def check(options: Options, /, destination: str, **given: str | None) -> int:
    """Whether traffic to DEST may leave this node now. Exit 0: allowed; 6: refused, with the reason.

    DEST is a URL, a host, or host:port. Nothing is sent there and no name is looked up. For a session its
    lease must be active too, and only the lease's policy counts.
    """
    answer = _verdict(Client(options), destination, given)
    allowed = answer.get("allowed") is True
    code = exits.DONE if allowed else exits.WRONG_STATE
    if emit_document(options, {"schema": routes.SCHEMA_POLICY_CHECK, "generatedAt": stamp(), **answer}):
        return code
    screen = screen_of(options)
    mark, word, color = (
        (screen.glyph("✓", "*"), "allowed", "green")
        if allowed
        else (screen.glyph("✕", "x"), "refused", "red")
    )
    what = inert(wire.text(answer, "destination") or destination)
    screen.line(f"{mark} {screen.paint(word, color)}  {what}")
    screen.line(f"  {inert(wire.text(answer, 'message'))}")
    if name := inert(wire.text(answer, "policyId")):
        screen.line(f"  policy {name}, node {inert(wire.text(answer, 'state'))}")
    else:
        screen.line(f"  node {inert(wire.text(answer, 'state'))}")
    return code


def _verdict(client: Client, destination: str, given: dict[str, str | None]) -> Document:
    """What the daemon answers, under the same names whichever route was asked."""
    wishes = {key: value for key, value in given.items() if value is not None}
    wishes["destination"] = destination
    if "lease_id" not in wishes and "session_id" not in wishes:
        checked: Document = camel(client.get(routes.POLICY_CHECK, wishes))
        return checked
    if "policy_id" in wishes:
        raise click.UsageError("A lease names its policy: give --policy, or --lease and --session.")
    answer = camel(client.post(routes.EGRESS_CHECK, dict(wishes)))
    return {**answer, "reason": wire.text(answer, "code"), "message": wire.text(answer, "reason")}


# --- bundles


@policy.command(
    cls=Verb, example="ambientctl policy export fleet.ndjson\nambientctl policy export - | ssh edge-2 ..."
)
@click.option("--force", is_flag=True, help="Replace a FILE that is there.")
@click.argument("file", default="-")
@click.pass_obj
def export(options: Options, file: str, *, force: bool) -> int:
    """Writes all signed policies and tombstones to FILE, or to standard output, for another node's import.

    One item a line; with --json one document. Signatures go along, so it does not matter who carries it.
    """
    if options.output == "tsv":
        raise click.UsageError("A bundle is lines of JSON, or one document with --json.")
    items = list(_exported(Client(options)))
    if options.output == "json":
        head = {"schema": routes.SCHEMA_POLICY_BUNDLE, "generatedAt": stamp(), "items": items}
        data = json.dumps(head).encode() + b"\n"
    else:
        data = b"".join(json.dumps(item).encode() + b"\n" for item in items)
    if file == "-":
        term.put(data)
        return exits.DONE
    need_free(file, replace=force)
    try:
        with whole_file(file, replace=force) as descriptor:
            put_all(descriptor, data)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CommandError(exits.STORAGE, f"Error: {inert(file)} cannot be written: {reason}.") from None
    click.echo(f"Wrote {inert(file)}: {count(len(items))} items.", err=True)
    return exits.DONE


def _exported(client: Client) -> Iterator[Document]:
    after = ""
    while True:
        page = client.get(routes.POLICY_EXPORT, {"after": after})
        yield from wire.rows(page, "items")
        following = wire.text(page, "next")
        if not following or following <= after:
            return
        after = following


class Place(NamedTuple):
    """One item of a file, with where it stands."""

    where: str
    item: Document


@policy.command(
    "import",
    cls=Verb,
    example="ambientctl policy import fleet.ndjson --dry-run\nambientctl policy import fleet.ndjson",
)
@click.option("--dry-run", is_flag=True, help="Only say what would become of each item.")
@click.argument("file", metavar="FILE|-")
@click.pass_obj
def import_(options: Options, file: str, *, dry_run: bool) -> int:
    """Takes an issuer's bundle in: signed policies and tombstones, from FILE or standard input.

    While the node is online, higher revisions replace and tombstones remove. Else policies in force stay as
    they are: new ones are added, newer ones held. Exit 1: an item was refused; 6: one was held for that
    reason. A file that cannot be read whole changes nothing; the same file may be imported again.
    """
    places = _places(_read(file), file)
    client, total = Client(options), _nothing(dry_run)
    for part in _parts(places):
        try:
            body = {"items": [place.item for place in part], "dry_run": dry_run}
            answer = client.post(routes.POLICY_IMPORT, body, wait=WAIT_SEC)
        except CommandError as failure:
            done = sum(wire.whole(total, name) for name in COUNTS)
            if done:
                told = f"  {count(done)} of {count(len(places))} items were taken before; import it again"
                raise CommandError(failure.exit, *failure.lines, told, code=failure.code) from None
            raise
        _add_up(total, answer, part)
    document = {"schema": routes.SCHEMA_POLICY_IMPORT, "generatedAt": stamp(), **total}
    if not emit_document(options, document):
        screen = screen_of(options)
        for line in import_lines(total, screen):
            screen.line(line)
    if total["refused"]:
        return exits.FAILED
    return exits.WRONG_STATE if total["held"] and not total["mayChange"] else exits.DONE


def _nothing(dry_run: bool) -> Document:
    return {"dryRun": dry_run, "state": "", "mayChange": False, **dict.fromkeys(COUNTS, 0), "results": []}


def _add_up(total: Document, answer: Document, part: list[Place]) -> None:
    total["state"], total["mayChange"] = wire.text(answer, "state"), answer.get("may_change") is True
    for name in COUNTS:
        total[name] += wire.whole(answer, name)
    for item in wire.rows(answer, "results"):
        place = wire.whole(item, "place")
        where = part[place].where if 0 <= place < len(part) else ""
        total["results"].append({"where": where, **camel(item)})


def _parts(places: list[Place]) -> Iterator[list[Place]]:
    """Runs of items that fit into one request; one, empty, when there is none."""
    part: list[Place] = []
    size = 0
    for place in places:
        long = len(json.dumps(place.item))
        if part and (len(part) >= PART_ITEMS or size + long > PART_BYTES):
            yield part
            part, size = [], 0
        part.append(place)
        size += long
    yield part


def _read(file: str) -> bytes:
    try:
        if file == "-":
            if sys.stdin is None:
                raise click.UsageError("There is no standard input to read from.")
            data = sys.stdin.buffer.read(FILE_MAX_BYTES + 1)
        else:
            with open(file, "rb") as stream:
                data = stream.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise CommandError(exits.FAILED, f"Error: {inert(file)}: {reason}.") from None
    if len(data) > FILE_MAX_BYTES:
        raise CommandError(
            exits.FAILED, f"Error: {inert(file)} is larger than {FILE_MAX_BYTES // 1024 // 1024} MiB."
        )
    return data


def _places(data: bytes, file: str) -> list[Place]:
    """The items of a bundle: one document with `items`, a list, or a line each. Raises CommandError with
    every line that is none, before anything is sent."""
    whole = _json(data)
    if isinstance(whole, dict) and isinstance(whole.get("items"), list):
        whole = whole["items"]
    if isinstance(whole, list):
        found = [(f"item {number}", value) for number, value in enumerate(whole, 1)]
    else:
        lines = enumerate(data.split(b"\n"), 1)
        found = [(f"line {number}", _json(line)) for number, line in lines if line.strip()]
    wrong = [where for where, value in found if not _is_item(value)]
    if wrong:
        shown = [f"  {where}: no signed item (body, issuer, signature)" for where in wrong[:PROBLEMS_SHOWN]]
        more = [f"  and {count(len(wrong) - PROBLEMS_SHOWN)} more"] if len(wrong) > PROBLEMS_SHOWN else []
        head = f"Error: {inert(file)} is no bundle of policies; nothing was changed."
        raise CommandError(
            exits.FAILED, head, *shown, *more, "  try      ambientd policy sign, or ambientctl policy export"
        )
    return [Place(where, {key: value[key] for key in ITEM_KEYS}) for where, value in found]


def _json(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _is_item(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ITEM_KEYS)
