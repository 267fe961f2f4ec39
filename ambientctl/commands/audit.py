"""`audit`: the record of what was ordered and done, and whether anybody has changed it."""

import json
import os
import sys

import click

from ambientctl import client as wire
from ambientctl import term
from ambientctl.camel import camel
from ambientctl.cli import Verb, Verbs
from ambientctl.client import Client, Document
from ambientctl.clock import now, stamp
from ambientctl.commands.handover import become
from ambientctl.commands.sessions import parse_when
from ambientctl.output import Column, Item, emit_document, emit_list, screen_of
from ambientctl.progress import Progress
from ambientctl.status import Options
from ambientctl.text import count, inert, size
from ambientctl.transport import Sink
from ambientctl.trouble import CommandError
from ambientctl.wholefile import need_free, put_all, whole_file
from ambientd.wire import audit_routes as routes
from ambientd.wire import exits

# The records of one stretch are checked, or listed by a rare word, within this many seconds.
WAIT_SEC = 60.0
_RECORD = b'{"type":"record",'

COLUMNS = (
    Column("SEQ", "seq", lambda item, _: str(wire.whole(item, "seq")), right=True),
    Column("AT", "at", lambda item, _: inert(wire.text(item, "at")).replace("T", " ")[:19]),
    Column("KIND", "kind", lambda item, _: inert(wire.text(item, "kind"))),
    Column("ACTOR", "actor", lambda item, _: inert(wire.text(item, "actor"))),
    Column("SUBJECT", "subject", lambda item, _: inert(wire.text(item, "subject")), least=8),
    Column("DETAIL", "detail", lambda item, _: _detail(item)),
    Column("HASH", "hash", lambda item, _: inert(wire.text(item, "hash")), only_wide=True),
)


def _detail(item: Item) -> str:
    detail = wire.part(item, "detail")
    words = (f"{name}={_word(value)}" for name, value in sorted(detail.items()))
    return inert(" ".join(words)) or "-"


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _when(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    try:
        return parse_when(value, now()) if value else ""
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value!r} is no time; say 2h, 3d, 2026-11-20 or 2026-11-20T15:00:00Z", context, parameter
        ) from None


@click.group(
    cls=Verbs,
    example="ambientctl audit list --kind control --since 1d\n"
    "ambientctl audit verify\n"
    "ambientctl audit export audit.ndjson && ambientctl audit verify audit.ndjson",
)
def audit() -> None:
    """What was ordered and done on this node, as a chain that shows when it was changed."""


@audit.command("list", cls=Verb, example="ambientctl audit list --kind control.kill --since 7d -o jsonl")
@click.option("--kind", metavar="WORD", default="", help="Of this kind, or of a group of kinds: control.")
@click.option("--since", metavar="TIME", callback=_when, help="At or after: 2h, 3d, 2026-11-20, RFC 3339.")
@click.option("--until", metavar="TIME", callback=_when, help="Before.")
@click.option("--actor", metavar="WHO", default="", help="By this actor: uid:1000, node.")
@click.option("--limit", type=click.IntRange(1, routes.PAGE_MAX), default=50, show_default=True)
@click.option("--after", metavar="SEQ", default="", help="The page after the one that ended with SEQ.")
@click.pass_obj
def audit_list(options: Options, /, *, limit: int, **wishes: str) -> None:
    """Records of the chain, newest first."""
    if wishes["after"] and not wishes["after"].isdecimal():
        raise click.BadParameter("the number of a record", param_hint="--after")
    page = Client(options).get(routes.AUDIT, {**wishes, "limit": str(limit)}, wait=WAIT_SEC)
    items = [camel(row, as_is=("detail",)) for row in wire.rows(page, "rows")]
    following = wire.text(page, "next")
    extra: Document = {
        "headSeq": wire.whole(page, "head_seq"),
        "prunedSeq": wire.whole(page, "pruned_seq"),
        "acknowledgedSeq": wire.whole(page, "acknowledged_seq"),
    }
    if following:
        extra["next"] = following
    emit_list(options, routes.SCHEMA_AUDIT, items, COLUMNS, extra)
    if options.output in ("table", "wide"):
        _footer(items, following)


def _footer(items: list[Item], following: str) -> None:
    """Goes to standard error, so that a pipe gets rows and nothing else."""
    if not items:
        click.echo("No record matches.", err=True)
        return
    more = f" More: --after {inert(following)}" if following else ""
    click.echo(f"{len(items)} record{'s' * (len(items) != 1)}.{more}", err=True)


# --- verify


@audit.command(
    "verify",
    cls=Verb,
    example="ambientctl audit verify\nambientctl audit verify audit.ndjson --key ed25519:…",
)
@click.argument("file", required=False)
@click.option("--key", metavar="KEY", help="Whose checkpoints a FILE must have: ed25519:…")
@click.pass_obj
def verify(options: Options, *, file: str | None, key: str | None) -> int:
    """Checks every record and every checkpoint; exit 1 names the first record that does not hold.

    With FILE, an export (- is standard input) is checked without a daemon. Without one, the daemon's own
    chain; when no daemon runs, its database is read.
    """
    if file is not None or key is not None:
        _hand_over(options, file, key)
    client, progress = Client(options), Progress("verify")
    sums = {"checked": 0, "checkpoints": 0, "other_keys": 0}
    place = {"after": "0", "hash": ""}
    try:
        while True:
            try:
                found = client.get(routes.AUDIT_VERIFY, place, wait=WAIT_SEC)
            except CommandError as error:
                if error.exit == exits.UNREACHABLE and not error.code and not sums["checked"]:
                    _hand_over(options, None, None)
                raise
            for name in sums:
                sums[name] += wire.whole(found, name)
            if found.get("ended") is True:
                break
            progress.show(sums["checked"], wire.whole(found, "head_seq"), f"{count(sums['checked'])} records")
            place = {"after": str(wire.whole(found, "after")), "hash": wire.text(found, "hash")}
    finally:
        progress.end()
    return _report(options, found, sums)


def _hand_over(options: Options, file: str | None, key: str | None) -> None:
    json_flag = ["--json"] if options.is_json else []
    key_flag = ["--key", key] if key is not None else []
    become(["audit", "verify", *json_flag, *key_flag, *(["--", file] if file is not None else [])], options)


def _report(options: Options, found: Document, sums: dict[str, int]) -> int:
    bad = wire.part(found, "bad")
    document: Document = {
        "schema": routes.SCHEMA_AUDIT_VERIFY,
        "generatedAt": stamp(),
        "ok": not bad,
        "records": sums["checked"],
        "checkpoints": sums["checkpoints"],
        "otherKeys": sums["other_keys"],
        "headSeq": wire.whole(found, "head_seq"),
        "prunedSeq": wire.whole(found, "pruned_seq"),
        "bad": {"seq": wire.whole(bad, "seq"), "reason": wire.text(bad, "reason")} if bad else None,
    }
    if not emit_document(options, document):
        _say(options, document)
    return exits.FAILED if bad else exits.DONE


def _say(options: Options, document: Document) -> None:
    screen, bad = screen_of(options), document["bad"]
    if bad is not None:
        screen.line(f"{screen.glyph('✕', 'x')} Record {bad['seq']} does not hold: {inert(bad['reason'])}.")
        screen.line("  Records before it hold. Those behind it are listed by: ambientctl audit list")
        return
    first = document["prunedSeq"] + 1
    pruned = f", from #{first} on" if first > 1 else ""
    mark = screen.glyph("✓", "*")
    screen.line(
        f"{mark} {count(document['records'])} records hold{pruned},"
        f" {count(document['checkpoints'])} signed checkpoints, last record #{document['headSeq']}."
    )
    if document["otherKeys"]:
        click.echo(
            f"Note: {count(document['otherKeys'])} of the checkpoints are signed by keys that this node's"
            " key did not follow. That is so after a restore without the identity.",
            err=True,
        )


# --- export


class _Lines(Sink):
    """What goes to a descriptor; -1 is standard output."""

    __slots__ = ("_descriptor", "_progress", "_tail", "bytes", "records")

    def __init__(self, descriptor: int, progress: Progress) -> None:
        self._descriptor = descriptor
        self._progress = progress
        self._tail = b""
        self.bytes = 0
        self.records = 0

    def take(self, data: bytes) -> None:
        """Writes one piece. Raises OSError, BrokenPipeError among them."""
        if self._descriptor < 0:
            term.put(data)
        else:
            put_all(self._descriptor, data)
        self.bytes += len(data)
        self.records += (self._tail + data).count(_RECORD)
        self._tail = data[1 - len(_RECORD) :]
        self._progress.show(0, 0, size(self.bytes))


@audit.command("export", cls=Verb, example="ambientctl audit export /srv/audit/$(hostname).ndjson")
@click.option("--force", is_flag=True, help="Replace a FILE that is there.")
@click.argument("file", default="-")
@click.pass_obj
def export(options: Options, *, file: str, force: bool) -> int:
    """Writes the whole chain with its checkpoints as NDJSON to FILE, or to standard output.

    FILE appears only when it is complete. `ambientctl audit verify FILE` checks it anywhere.
    """
    client, progress = Client(options), Progress("export")
    if file == "-":
        try:
            client.download(routes.AUDIT_EXPORT, {}, _Lines(-1, progress), wait=WAIT_SEC)
        finally:
            progress.end()
        return exits.DONE
    need_free(file, replace=force)
    try:
        with whole_file(file, replace=force) as descriptor:
            lines = _Lines(descriptor, progress)
            client.download(routes.AUDIT_EXPORT, {}, lines, wait=WAIT_SEC)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CommandError(exits.STORAGE, f"Error: {inert(file)} cannot be written: {reason}.") from None
    finally:
        progress.end()
    document = {
        "schema": routes.SCHEMA_AUDIT_EXPORT,
        "generatedAt": stamp(),
        "file": os.path.abspath(file),
        "records": lines.records,
        "bytes": lines.bytes,
    }
    if not emit_document(options, document):
        click.echo(f"Wrote {inert(file)}: {count(lines.records)} records, {size(lines.bytes)}.")
    return exits.DONE


# --- accept


@audit.command("accept", cls=Verb, example="ambientctl audit verify; ambientctl audit accept --yes")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def accept(options: Options, *, yes: bool) -> int:
    """Says that a break of the chain was looked into: it is no problem in the status any more.

    Nothing is mended. `audit verify` goes on to name it, and the chain gets a record of who accepted it.
    """
    if not yes:
        _ask()
    answer = Client(options).order(routes.AUDIT_ACCEPT)
    breaks = wire.rows(answer, "breaks")
    document: Document = {
        "schema": routes.SCHEMA_AUDIT_ACCEPT,
        "generatedAt": stamp(),
        "breaks": [{"seq": wire.whole(one, "seq"), "reason": wire.text(one, "reason")} for one in breaks],
        "auditId": answer.get("audit_id"),
    }
    if emit_document(options, document):
        return exits.DONE
    screen = screen_of(options)
    for one in document["breaks"]:
        screen.line(f"Accepted: record {one['seq']}: {inert(one['reason'])}")
    screen.line(f"  audit #{document['auditId']}" if breaks else "There is no open break.")
    return exits.DONE


def _ask() -> None:
    if not sys.stdin.isatty():
        raise CommandError(exits.USAGE, "Error: nobody can be asked here. Say --yes.")
    click.echo("Accept that the audit chain is broken as the status says? [y/N] ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandError(exits.FAILED, "Nothing was changed.")
