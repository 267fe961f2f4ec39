"""Bringing in the JSON store of the earlier generation, and comparing it with the ledger (9.2.4, 9.2.5).

The files are only ever read. A batch of records is one transaction; what was imported stays imported when a
later batch fails, and importing again finds it there.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from ambientd.core.drift import Comparison, SessionState, compare
from ambientd.core.legacy import Normalised, group, normalise
from ambientd.core.pricing import with_cost
from ambientd.core.records import AuditEntry
from ambientd.core.rejection import Rejected, reject
from ambientd.core.timefmt import rfc3339_ms
from ambientd.flows.ingest import apply
from ambientd.ports.clock import Clock
from ambientd.ports.legacy import LegacyFiles, OpenLegacy
from ambientd.ports.store import Store, Transaction
from ambientd.wire.legacy_messages import (
    RECORDS_MAX,
    DriftSource,
    ImportDriftView,
    LegacyComparison,
    LegacyImportAnswer,
    LegacyImportRequest,
    LegacyOutcome,
    LegacyRecord,
    LegacyResult,
)

# Of one comparison: enough to see what is wrong; the count tells of the rest.
DIFFERENCES_MAX = 200
EVENTS_COMPARED = 10_000  # the contract's own bound


class Importing(msgspec.Struct, frozen=True, kw_only=True):
    """What the use cases need, given once. `open_legacy` reads records through the repositories' interface;
    `ended` hears of every session that an import closed."""

    store: Store
    clock: Clock
    files: LegacyFiles
    open_legacy: OpenLegacy
    paths: Callable[[], Sequence[str]]
    ended: Callable[[str], None]


class _DryRunError(Exception):
    """Carries the results out of a transaction that must not stay."""

    def __init__(self, results: list[LegacyResult]) -> None:
        super().__init__()
        self.results = results


async def import_batch(
    importing: Importing, order: LegacyImportRequest, *, actor: str
) -> LegacyImportAnswer | Rejected:
    """Imports records, each by itself: a broken one is reported and keeps no other from being taken.

    A dry run does the same and takes all of it back. Raises what `Store.write` raises.
    """
    refused = _too_many(order.records)
    if refused is not None:
        return refused
    at = importing.clock.now()
    read = [normalise(record) for record in order.records]

    def work(tx: Transaction) -> list[LegacyResult]:
        results = [_import_one(tx, item, at) for item in read]
        written = sum(result.outcome is LegacyOutcome.WRITTEN for result in results)
        if order.dry_run:
            raise _DryRunError(results)
        if written:
            detail = {"sessions": written, "events": sum(result.events_written for result in results)}
            tx.audit.append(
                AuditEntry(kind="ledger.import", at=at, actor=actor, subject="node", detail=detail)
            )
        return results

    try:
        results = await importing.store.write(work)
    except _DryRunError as done:
        results = done.results
    else:
        for result, item in zip(results, read, strict=True):
            if isinstance(item, Normalised) and result.outcome is LegacyOutcome.WRITTEN:
                _tell(importing, item)
    return LegacyImportAnswer(dry_run=order.dry_run, results=results)


def _tell(importing: Importing, item: Normalised) -> None:
    if item.ingest.session.is_terminal:
        importing.ended(item.ingest.session.session_id)


def _import_one(tx: Transaction, item: Normalised | Rejected, at: datetime) -> LegacyResult:
    if isinstance(item, Rejected):
        return _error(item, None)
    ingest = item.ingest
    session_id = ingest.session.session_id
    ids = [event.event_id for event in ingest.events if event.event_id is not None]
    there = len(tx.ingest.events_by_id(session_id, ids)) if tx.ingest.session(session_id) else 0
    had_usage = tx.usage.get(session_id)
    done = apply(tx, ingest, at)
    if isinstance(done, Rejected):
        return _error(done, session_id)
    if not done.changed:
        return LegacyResult(outcome=LegacyOutcome.SKIPPED, session_id=session_id)
    usage = tx.usage.get(session_id)
    if usage is not None and item.estimate is not None and usage.cost_usd is None:
        usage = with_cost(usage, item.estimate)  # an old row keeps the price it had (R3.180)
        tx.usage.put(usage)
        if ingest.session.is_terminal:
            tx.usage.account(session_id)
    return LegacyResult(
        outcome=LegacyOutcome.WRITTEN,
        session_id=session_id,
        events_written=len(ingest.events) - there,
        usage_written=usage is not None and usage != had_usage,
    )


def _error(refused: Rejected, session_id: str | None) -> LegacyResult:
    return LegacyResult(
        outcome=LegacyOutcome.ERROR,
        session_id=session_id,
        code=refused.code,
        message=refused.message,
        details=list(refused.details),
    )


def _too_many(records: Sequence[LegacyRecord]) -> Rejected | None:
    if len(records) <= RECORDS_MAX:
        return None
    return reject("VALIDATION_ERROR", "too many records", ("records", "length", f"at most {RECORDS_MAX}"))


# --- verification


async def verify_batch(importing: Importing, records: Sequence[LegacyRecord]) -> LegacyComparison | Rejected:
    """Compares records with the ledger, value by value. Raises what `Store.read` raises."""
    refused = _too_many(records)
    if refused is not None:
        return refused
    return (await _compare(importing, records)).view()


async def _compare(importing: Importing, records: Sequence[LegacyRecord]) -> Comparison:
    found = [item for item in map(normalise, records) if isinstance(item, Normalised)]
    legacy = importing.open_legacy(found)
    ids = list(dict.fromkeys(item.ingest.session.session_id for item in found))
    theirs = await legacy.read(lambda tx: [_state(tx, session_id) for session_id in ids])
    ours = await importing.store.read(lambda tx: [_state(tx, session_id) for session_id in ids])
    comparison = Comparison(unusable=len(records) - len(found), limit=DIFFERENCES_MAX)
    for one, other in zip(theirs, ours, strict=True):
        compare(one, other, comparison)
    return comparison


def _state(tx: Transaction, session_id: str) -> SessionState:
    return SessionState(
        session_id=session_id,
        session=tx.ledger.get(session_id),
        usage=tx.usage.get(session_id),
        events=len(tx.ledger.events(session_id, 0, EVENTS_COMPARED)),
    )


async def import_drift(importing: Importing, *, sample: int) -> ImportDriftView:
    """Compares the configured files with the ledger: at most `sample` sessions, spread evenly over them.

    A file that cannot be read is told as such. Raises what `Store.read` raises.
    """
    sources: list[DriftSource] = []
    records: list[LegacyRecord] = []
    for path in importing.paths():
        source, found = await _read_source(importing.files, path)
        sources += source
        records += found
    step = max(1, -(-len(records) // sample))
    chosen = records[::step]
    total = Comparison(unusable=0, limit=DIFFERENCES_MAX)
    for start in range(0, len(chosen), RECORDS_MAX):
        total.add(await _compare(importing, chosen[start : start + RECORDS_MAX]))
    view = total.view()
    return ImportDriftView(
        generated_at=rfc3339_ms(importing.clock.now()),
        sources=sources,
        sessions=len(records),
        compared=view.compared,
        unusable=view.unusable,
        drift=view.difference_count > 0,
        json=view.json,
        sqlite=view.sqlite,
        differences=view.differences,
        difference_count=view.difference_count,
    )


async def _read_source(files: LegacyFiles, path: str) -> tuple[list[DriftSource], list[LegacyRecord]]:
    sources: list[DriftSource] = []
    records: list[LegacyRecord] = []
    for file in await files.read(path):
        grouped = group(file.document) if file.problem is None else file.problem
        if isinstance(grouped, str):
            sources.append(DriftSource(path=file.path, bytes=file.bytes, problem=grouped))
            continue
        records += grouped.records
        sources.append(
            DriftSource(path=file.path, bytes=file.bytes, sha256=file.sha256, sessions=len(grouped.records))
        )
    return sources, records
