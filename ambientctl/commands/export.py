"""`ledger export`: sessions into a file, for a spreadsheet or a program."""

import click

from ambientctl import term
from ambientctl.cli import Verb
from ambientctl.client import Client, Document
from ambientctl.commands.sessions import Wishes, filter_options, ledger_query
from ambientctl.progress import Progress
from ambientctl.status import Options
from ambientctl.text import count, inert, size
from ambientctl.transport import Sink
from ambientctl.trouble import CommandError
from ambientctl.wholefile import need_free, put_all, whole_file
from ambientd.wire import exits, routes
from ambientd.wire.enums import LedgerSort

FORMATS = ("csv", "ndjson")
# The daemon first settles which sessions it will send: of a million, in some seconds.
WAIT_SEC = 60.0


class _Lines(Sink):
    """Counts what goes to a descriptor; -1 is standard output."""

    __slots__ = ("_descriptor", "_progress", "bytes", "lines")

    def __init__(self, descriptor: int, progress: Progress) -> None:
        self._descriptor = descriptor
        self._progress = progress
        self.bytes = 0
        self.lines = 0

    def take(self, data: bytes) -> None:
        """Writes one piece. Raises OSError, BrokenPipeError among them."""
        if self._descriptor < 0:
            term.put(data)
        else:
            put_all(self._descriptor, data)
        self.bytes += len(data)
        self.lines += data.count(b"\n")
        self._progress.show(0, 0, size(self.bytes))


@click.command(
    "export",
    cls=Verb,
    example="ambientctl ledger export --since 30d sessions.csv\n"
    "ambientctl ledger export --status failed --format ndjson - | jq .errorCode",
)
@filter_options
@click.option(
    "--sort",
    type=click.Choice([word.value for word in LedgerSort]),
    metavar="ORDER",
    default=LedgerSort.NEWEST.value,
    show_default=True,
    help="newest, runtime or cost.",
)
@click.option("--format", "form", type=click.Choice(FORMATS), metavar="FORMAT", help="csv or ndjson.  [csv]")
@click.option("--force", is_flag=True, help="Replace a FILE that is there.")
@click.argument("file", default="-")
@click.pass_obj
def export(options: Options, /, *, file: str, form: str | None, force: bool, **wishes: Wishes) -> int:
    """Writes all sessions that match to FILE, or to standard output without one, or with -.

    The format follows the end of FILE unless --format, or -o jsonl, says it. Text that a spreadsheet would
    take for a formula gets an apostrophe in front in CSV; NDJSON has everything as it is. FILE appears only
    when it is complete.
    """
    chosen = form or _form(options.output, file)
    query = ledger_query(wishes) | {"sort": str(wishes["sort"]), "format": chosen}
    client, progress = Client(options), Progress("export")
    if file == "-":
        try:
            client.download(routes.LEDGER_EXPORT, query, _Lines(-1, progress), wait=WAIT_SEC)
        finally:
            progress.end()
        return exits.DONE
    need_free(file, replace=force)
    lines = _to_file(client, query, file, progress, replace=force)
    rows = _rows(lines, chosen)
    click.echo(f"Wrote {inert(file)}{rows}, {size(lines.bytes)}.", err=True)
    return exits.DONE


def _form(output: str, file: str) -> str:
    """The format that -o, or else the end of the name, asks for."""
    if output in ("json", "tsv"):
        raise click.UsageError(f"An export is csv or ndjson, not {output}; say --format.")
    return "ndjson" if output == "jsonl" or file.endswith((".ndjson", ".jsonl")) else "csv"


def _to_file(client: Client, query: Document, file: str, progress: Progress, *, replace: bool) -> _Lines:
    try:
        with whole_file(file, replace=replace) as descriptor:
            lines = _Lines(descriptor, progress)
            client.download(routes.LEDGER_EXPORT, query, lines, wait=WAIT_SEC)
            return lines
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CommandError(exits.STORAGE, f"Error: {inert(file)} cannot be written: {reason}.") from None
    finally:
        progress.end()


def _rows(lines: _Lines, form: str) -> str:
    """How many sessions, where lines tell: in CSV a text of several lines is several."""
    return f": {count(lines.lines)} sessions" if form == "ndjson" else ""
