"""`backup` and `restore`: a running node is asked for its copy; the rest is handed over to `ambientd`."""

import os

import click

from ambientctl import client as wire
from ambientctl.cli import Verb
from ambientctl.client import Client, Document
from ambientctl.clock import monotonic, sleep, stamp
from ambientctl.commands.handover import become, hand_over
from ambientctl.output import emit_document
from ambientctl.progress import Progress
from ambientctl.status import Options
from ambientctl.text import count, inert, size
from ambientctl.trouble import CommandError
from ambientctl.wholefile import need_free, put_all, whole_file
from ambientd.wire import exits, routes
from ambientd.wire.errors import ERRORS

LOOK_SEC = 0.1
LOOK_LAST_SEC = 1.0

restore = hand_over(
    "restore",
    "Put a backup in place of the database, which is set aside. The daemon must not run.",
    "ambientctl restore /var/backups/ambient.tar --yes",
)


@click.command(cls=Verb, example="ambientctl backup /var/backups/ambient-$(date +%F).tar")
@click.argument("file")
@click.option("--with-identity", is_flag=True, help="The node's identity key as well.")
@click.option("--force", is_flag=True, help="Replace a FILE that is there.")
@click.pass_obj
def backup(options: Options, *, file: str, with_identity: bool, force: bool) -> int:
    """Writes a checked copy of the database, and the configuration, into one tar FILE (mode 0600).

    A running node goes on working meanwhile; it needs free disk space for one copy of its database. When
    no daemon runs, the state is read without it. FILE appears only when it is complete.
    """
    need_free(file, replace=force)
    client = Client(options)
    try:
        view = client.post(routes.BACKUP, {"with_identity": with_identity})
    except CommandError as error:
        if error.exit != exits.UNREACHABLE or error.code:
            raise
        flags = [*(["--with-identity"] if with_identity else []), *(["--force"] if force else [])]
        become(["backup", *flags, *(["--json"] if options.is_json else []), "--", file], options)
    progress = Progress("backup")
    view = _made(client, view, progress)
    try:
        _fetch(client, view, file, replace=force, progress=progress)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CommandError(exits.STORAGE, f"Error: {inert(file)} cannot be written: {reason}.") from None
    finally:
        progress.end()
    if with_identity and "identity.key" not in (view.get("files") or ()):
        click.echo("Note: this node has no identity key yet; the backup holds none.", err=True)
    _report(options, view, file)
    return exits.DONE


def _made(client: Client, view: Document, progress: Progress) -> Document:
    """Waits until the node has its copy, however long that takes."""
    target = f"{routes.BACKUP}/{wire.quote(wire.text(view, 'backup_id'))}"
    pause = LOOK_SEC
    while (state := wire.text(view, "state")) == "making":
        progress.show(wire.whole(view, "done"), wire.whole(view, "total"), wire.text(view, "stage"))
        sleep(pause)
        pause = min(pause * 1.5, LOOK_LAST_SEC)
        view = client.get(target)
    if state == "ready":
        return view
    code = wire.text(view, "error_code")
    row = ERRORS.get(code)
    reason = wire.text(view, "error") or f"the backup is {inert(state)}"
    raise CommandError(row.exit if row else exits.FAILED, f"Error: {inert(reason)}.", code=code)


def _fetch(client: Client, view: Document, file: str, *, replace: bool, progress: Progress) -> None:
    target = f"{routes.BACKUP}/{wire.quote(wire.text(view, 'backup_id'))}/content"
    total, done, began = wire.whole(view, "bytes"), 0, monotonic()
    with whole_file(file, replace=replace) as fd:
        while done < total:
            data = client.get_bytes(target, {"offset": str(done)})
            if not data:
                raise wire.not_understood("the backup ends early")
            put_all(fd, data)
            done += len(data)
            rate = done / max(monotonic() - began, 0.001)
            progress.show(done, total, f"writing, {size(round(rate))}/s")
        if done != total:
            raise wire.not_understood("the backup is longer than it was said to be")


def _report(options: Options, view: Document, file: str) -> None:
    counts = wire.part(view, "counts")
    document = {
        "schema": routes.SCHEMA_BACKUP,
        "generatedAt": stamp(),
        "file": os.path.abspath(file),
        "bytes": wire.whole(view, "bytes"),
        "schemaVersion": wire.whole(view, "schema_version"),
        "counts": counts,
        "files": view.get("files") or [],
    }
    if not emit_document(options, document):
        sessions = wire.whole(counts, "session_ledger")
        click.echo(
            f"Wrote {inert(file)}: {count(sessions)} sessions, {size(wire.whole(view, 'bytes'))}, checked."
        )
