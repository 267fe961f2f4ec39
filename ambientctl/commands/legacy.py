"""`ledger import` and `ledger verify-import`: the JSON store of the earlier generation."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import click

from ambientctl import client as wire
from ambientctl.cli import Verb
from ambientctl.client import Client, Document
from ambientctl.clock import stamp
from ambientctl.legacyfile import (
    Batch,
    Record,
    Source,
    Stray,
    batches,
    find_files,
    is_unchanged,
    read_source,
    take_apart,
)
from ambientctl.output import Column, emit_list
from ambientctl.progress import Progress
from ambientctl.status import Options
from ambientctl.text import count, inert
from ambientctl.trouble import CommandError
from ambientd.wire import exits, routes

WAIT_SEC = 60.0
PROBLEMS_SHOWN = 20
TABLES = ("session_ledger", "session_events", "session_usage")
IGNORED = {"alertRules": "rules", "alertStates": "states of alerts"}


def _counted(key: str) -> Column:
    return Column(key.upper(), key, lambda item, _: count(wire.whole(item, key)), right=True)


COLUMNS = (
    Column("TABLE", "name", lambda item, _: wire.text(item, "name")),
    *map(_counted, ("read", "written", "skipped", "errors")),
)


class Tally:
    """The report: rows per table, and what was wrong with those that could not be taken."""

    def __init__(self) -> None:
        self.rows = {name: dict.fromkeys(("read", "written", "skipped", "errors"), 0) for name in TABLES}
        self.problems: list[Document] = []

    def add(self, table: str, outcome: str, rows: int = 1) -> None:
        """Counts rows that were read, and what became of them."""
        self.rows[table]["read"] += rows
        self.rows[table][outcome] += rows

    def note(self, record: Record, result: Document, events: int, *, first: bool) -> None:
        """What became of one record, or of a further part of it with more events."""
        outcome = wire.text(result, "outcome")
        word = {"written": "written", "skipped": "skipped"}.get(outcome, "errors")
        if word == "errors":
            facts = {"file": record.path, "list": "ledger", "row": record.row, "sessionId": record.session_id}
            self.problems.append({**facts, **{k: result.get(k) for k in ("code", "message", "details")}})
        new_events = wire.whole(result, "events_written") if word == "written" else 0
        if word == "errors":
            self.add("session_events", "errors", events)
        else:
            self.add("session_events", "written", new_events)
            self.add("session_events", "skipped", events - new_events)
        if first:
            self.add("session_ledger", word)
            if record.body["usage"] is not None:
                usage = "written" if result.get("usage_written") is True else "skipped"
                self.add("session_usage", "errors" if word == "errors" else usage)

    def stray(self, stray: Stray) -> None:
        """A row that belongs to no session."""
        self.add("session_usage" if stray.collection == "usage" else "session_events", "errors")
        self.problems.append(
            {
                "file": stray.path,
                "list": stray.collection,
                "row": stray.row,
                "sessionId": stray.session_id,
                "code": "NOT_FOUND",
                "message": "belongs to no session of this file",
                "details": [],
            }
        )

    def items(self) -> list[Document]:
        """One line per table."""
        return [{"name": name, **rows} for name, rows in self.rows.items()]


@click.command(
    "import", cls=Verb, example="ambientctl ledger import /srv/helicarrier/web/data --dry-run --report r.json"
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--dry-run", is_flag=True, help="Try everything, keep nothing.")
@click.option("--report", metavar="FILE", help="Write the whole report as JSON to this file too.")
@click.pass_obj
def import_(options: Options, *, paths: tuple[str, ...], dry_run: bool, report: str | None) -> int:
    """Imports sessions, events and usage of the earlier generation's JSON store, by the running node.

    PATH is a file, or a folder that holds one. The files are only read. Broken rows are listed and the
    rest is imported (exit 1). Doing it again, also after an interruption, writes nothing twice.
    """
    sources = [read_source(path) for path in find_files(paths)]
    tally, client, progress = Tally(), Client(options), Progress("import")
    try:
        _send(client, sources, tally, progress, dry_run=dry_run)
    finally:
        progress.end()
    document = _report(sources, tally, dry_run=dry_run)
    if report:
        _write_report(report, document)
    _print(options, document, tally)
    changed = [source.path for source in sources if not is_unchanged(source)]
    for path in changed:
        click.echo(f"Warning: {inert(path)} changed while it was read; import it again.", err=True)
    return exits.FAILED if tally.problems or changed else exits.DONE


def _send(client: Client, sources: list[Source], tally: Tally, progress: Progress, *, dry_run: bool) -> None:
    for source in sources:
        records, strays = take_apart(source)
        for stray in strays:
            tally.stray(stray)
        seen: set[int] = set()
        for batch in batches(records):
            results = _asked(client, routes.LEGACY_IMPORT, batch, {"dry_run": dry_run}, _results)
            for place, body, result in zip(batch.places, batch.bodies, results, strict=True):
                tally.note(records[place], result, len(body["events"]), first=place not in seen)
                seen.add(place)
            progress.show(len(seen), len(records), inert(source.path))


def _results(answer: Document) -> list[Document]:
    return wire.rows(answer, "results")


def _asked(
    client: Client,
    path: str,
    batch: Batch,
    more: Document,
    read: Callable[[Document], list[Document]],
) -> list[Document]:
    """The daemon's result for each body. A batch that it does not take as a whole is sent one by one, so
    that a row that is no proper JSON, or too large, costs itself only."""
    try:
        results = read(client.post(path, {"records": batch.bodies, **more}, wait=WAIT_SEC))
    except CommandError as error:
        if error.code not in ("VALIDATION_ERROR", "PAYLOAD_TOO_LARGE", "BAD_REQUEST"):
            raise
        if len(batch.bodies) == 1:
            text = error.lines[0].removeprefix("Error: ") if error.lines else ""
            return [{"outcome": "error", "code": error.code, "message": text, "details": []}]
        ones = (Batch([place], [body]) for place, body in zip(batch.places, batch.bodies, strict=True))
        return [result for one in ones for result in _asked(client, path, one, more, read)]
    if len(results) != len(batch.bodies):
        raise wire.not_understood("it does not answer for every record")
    return results


def _report(sources: list[Source], tally: Tally, *, dry_run: bool) -> Document:
    files = [
        {"path": os.path.abspath(source.path), "bytes": source.size, "sha256": source.sha256}
        | {"rows": source.rows}
        for source in sources
    ]
    return {
        "schema": routes.SCHEMA_LEGACY_IMPORT,
        "generatedAt": stamp(),
        "dryRun": dry_run,
        "files": files,
        "items": tally.items(),
        "problems": tally.problems,
    }


def _write_report(path: str, document: Document) -> None:
    """The report, whole or not at all."""
    partial = f"{path}.{os.getpid()}.partial"
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
            json.dump(document, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(partial)
        reason = (error.strerror or str(error)).lower()
        raise CommandError(exits.FAILED, f"Error: {path} cannot be written: {reason}.") from None


def _print(options: Options, document: Document, tally: Tally) -> None:
    extra = {key: value for key, value in document.items() if key not in ("schema", "generatedAt", "items")}
    emit_list(options, routes.SCHEMA_LEGACY_IMPORT, tally.items(), COLUMNS, extra)
    if options.output not in ("table", "wide"):
        return
    for line in _problem_lines(tally.problems):
        click.echo(line, err=True)
    for name, what in IGNORED.items():
        rows = sum(source["rows"].get(name, 0) for source in document["files"])
        if rows:
            were = f"{what} were" if rows != 1 else f"{what.removesuffix('s')} was"
            click.echo(f"Note: {count(rows)} {were} not imported; see ambientctl alerts rules.", err=True)
    if document["dryRun"]:
        click.echo("Nothing was changed.", err=True)


def _problem_lines(problems: list[Document]) -> Iterator[str]:
    for problem in problems[:PROBLEMS_SHOWN]:
        where = f"{inert(problem['file'])}: {problem['list']} row {problem['row']}"
        named = f" ({inert(problem['sessionId'])})" if problem["sessionId"] else ""
        details = [item for item in problem.get("details") or [] if isinstance(item, dict)]
        said = "; ".join(f"{wire.text(item, 'field')} {wire.text(item, 'message')}" for item in details)
        yield f"Error: {where}{named}: {inert(said or str(problem.get('message') or ''))}"
    if len(problems) > PROBLEMS_SHOWN:
        yield f"Error: {count(len(problems) - PROBLEMS_SHOWN)} more rows; --report FILE lists them all."


# --- verification

_SUMS = ("sessions", "events", "tokens", "runtimeMs", "costUsd")
DRIFT_COLUMNS = (
    Column("SESSION", "sessionId", lambda item, _: inert(wire.text(item, "sessionId"))),
    Column("FIELD", "field", lambda item, _: wire.text(item, "field")),
    Column("JSON", "json", lambda item, _: inert(wire.text(item, "json"))),
    Column("LEDGER", "sqlite", lambda item, _: inert(wire.text(item, "sqlite")) or "-"),
)


@click.command(
    "verify-import", cls=Verb, example="ambientctl ledger verify-import /srv/helicarrier/web/data --json"
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.pass_obj
def verify_import(options: Options, *, paths: tuple[str, ...]) -> int:
    """Compares the earlier generation's JSON store with the ledger, value by value (exit 1 on a difference).

    What the store did not know cannot differ. Nothing is changed.
    """
    sources = [read_source(path) for path in find_files(paths)]
    client, progress = Client(options), Progress("verify")
    total = _Drift()
    try:
        for source in sources:
            records, _ = take_apart(source)
            seen: set[int] = set()
            for batch in batches(records):
                total.add(_unseen(batch, seen), partial(_verify, client))
                progress.show(len(seen), len(records), inert(source.path))
    finally:
        progress.end()
    total.show(options)
    return exits.FAILED if total.differences or total.unusable else exits.DONE


def _verify(client: Client, body: Document) -> Document:
    return client.post(routes.LEGACY_VERIFY, body, wait=WAIT_SEC)


def _unseen(batch: Batch, seen: set[int]) -> Batch:
    """The batch without further parts of a record: what is compared is in the first."""
    chosen = []
    for place, body in zip(batch.places, batch.bodies, strict=True):
        if place not in seen:
            chosen.append((place, body))
            seen.add(place)
    return Batch([place for place, _ in chosen], [body for _, body in chosen])


class _Drift:
    """What was compared so far."""

    def __init__(self) -> None:
        self.compared = self.unusable = self.differences = 0
        self.sums: dict[str, dict[str, Any]] = {side: dict.fromkeys(_SUMS, 0) for side in ("json", "sqlite")}
        self.items: list[Document] = []

    def add(self, batch: Batch, ask: Callable[[Document], Document]) -> None:
        if not batch.bodies:
            return
        try:
            answer = ask({"records": batch.bodies})
        except CommandError as error:
            if error.code not in ("VALIDATION_ERROR", "PAYLOAD_TOO_LARGE", "BAD_REQUEST"):
                raise
            if len(batch.bodies) == 1:
                self.unusable += 1
                return
            for place, body in zip(batch.places, batch.bodies, strict=True):
                self.add(Batch([place], [body]), ask)
            return
        self.compared += wire.whole(answer, "compared")
        self.unusable += wire.whole(answer, "unusable")
        self.differences += wire.whole(answer, "differenceCount")
        self.items += wire.rows(answer, "differences")
        for side, sums in self.sums.items():
            for name in _SUMS:
                sums[name] += wire.number(wire.part(answer, side), name) or 0

    def show(self, options: Options) -> None:
        for sums in self.sums.values():
            sums["costUsd"] = round(sums["costUsd"], 9)
        extra = {
            "compared": self.compared,
            "unusable": self.unusable,
            "differenceCount": self.differences,
            "drift": self.differences > 0,
            **self.sums,
        }
        if options.output in ("table", "wide"):
            emit_list(options, routes.SCHEMA_IMPORT_DRIFT, self.items, DRIFT_COLUMNS, extra)
            click.echo(
                f"Compared {count(self.compared)} sessions: {count(self.differences)} differences,"
                f" {count(self.unusable)} unusable rows.",
                err=bool(self.items),
            )
        else:
            emit_list(options, routes.SCHEMA_IMPORT_DRIFT, self.items, DRIFT_COLUMNS, extra)
