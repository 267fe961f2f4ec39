"""Runs of a gateway enter the ledger without any POST, through the same writes as any other ingest.

The gateway's audit list comes first where it exists: it is right about starts, ends, and killed against
failed, and it can be read again after an absence. Rows add tokens, cost, model and error, and are all there
is elsewhere.
"""

import json
from collections.abc import Callable, Iterable
from datetime import datetime

import msgspec

from ambientd.core.gateway_ledger import (
    PRICING,
    RESTARTED,
    RESTARTED_TEXT,
    SOURCE,
    AuditEvent,
    Known,
    Look,
    Place,
    RunReport,
    as_open,
    conclude,
    enrich,
    is_other_run,
    parse_audit,
    place,
    report_of_row,
    run_row_id,
    to_ingest,
)
from ambientd.core.gateway_view.rows import SessionRow, parse_row
from ambientd.core.gateway_view.status import WINDOW_MS
from ambientd.core.gateway_view.view import GatewayView
from ambientd.core.ingest import StoredSession
from ambientd.core.pricing import Cost, PriceTable, with_cost
from ambientd.core.rejection import Rejected
from ambientd.core.timefmt import from_ms, to_ms
from ambientd.flows.ingest import Ingested, apply
from ambientd.ports.clock import Clock
from ambientd.ports.gateway import GatewayLink, GatewayRefusedError
from ambientd.ports.store import Store, Transaction
from ambientd.wire.enums import TERMINAL, CostConfidence, CostSource, MetricConfidence, SessionStatus

AUDIT_PAGE = 200
AUDIT_FIRST_PAGE = 50
# Of one absence; more than this many pages back, the oldest runs are not taken in.
AUDIT_PAGES_MAX = 25
AUDIT_EVENTS_MAX = AUDIT_PAGE * AUDIT_PAGES_MAX  # whatever the length of a page
BATCH = 50
OPEN_MAX = 500
LOOKED_UP_MAX = 10
RUNS_LOOKED_AT = 20
ROWS_MARK_EVERY_MS = 30_000
# Clocks and late writes: rows may be this much older than the last ones that were seen.
ROWS_OVERLAP_MS = 60_000

AUDIT_MARK = "gateway.audit_sequence"
ROWS_MARK = "gateway.rows_until_ms"
BOOT_MARK = "gateway.boot"


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the gateway's audit list. `cut`: it went back further than is read at once."""

    supported: bool
    taken: int = 0
    cut: bool = False


class GatewayLedger:
    """One per node; its methods are called one after another."""

    def __init__(
        self,
        *,
        link: GatewayLink,
        view: GatewayView,
        store: Store,
        clock: Clock,
        prices: Callable[[], PriceTable | None],
        changed: Callable[[str], None],
        ended: Callable[[str], None],
    ) -> None:
        """`changed` and `ended` hear of ledger rows, as `IngestFlow`'s do."""
        self._link = link
        self._view = view
        self._store = store
        self._clock = clock
        self._prices = prices
        self._changed = changed
        self._ended = ended
        self._boot_ms: int | None = None
        self._rows_mark = 0
        self._others: dict[str, int] = {}  # open run -> since when another one has been seen in its place
        self.audited: bool | None = None
        """Whether the gateway has an audit list; None while nobody has asked."""
        self.has_open = True
        """Whether runs of the gateway were open when they were looked at last."""

    # --- beginning

    async def begin(self) -> None:
        """What a restart of this daemon must not forget: recent kills, and how far rows were read."""
        since = from_ms(to_ms(self._clock.now()) - WINDOW_MS)

        def work(tx: Transaction) -> tuple[list[tuple[str, str | None, datetime]], str | None]:
            rows = tx.ledger.ended_since(since, OPEN_MAX)
            killed = [row for row in rows if row.status is SessionStatus.KILLED and row.gateway_session_id]
            found = [
                (row.gateway_session_id or "", row.run_id, row.ended_at or row.started_at) for row in killed
            ]
            return found, tx.settings.get(ROWS_MARK)

        kills, mark = await self._store.read(work)
        for session_id, run_id, at in kills:
            self._view.add_kill(session_id, run_id, self._view.gateway_ms(to_ms(at)))
        self._rows_mark = int(mark) if mark and mark.isdigit() else 0

    async def connected(self, *, restarted: bool) -> None:
        """A handshake stands: notes when the gateway's process was seen for the first time."""
        self.audited = None
        boot_id, now_ms = self._link.state.boot_id, to_ms(self._clock.now())

        def work(tx: Transaction) -> int | None:
            kept = json.loads(tx.settings.get(BOOT_MARK) or "{}")
            if boot_id is not None and kept.get("id") == boot_id:
                return int(kept["seen_ms"])
            if boot_id is None and not restarted:
                return None
            tx.settings.put(BOOT_MARK, json.dumps({"id": boot_id, "seen_ms": now_ms}))
            return now_ms if kept or restarted else None

        seen = await self._store.write(work)
        self._boot_ms = None if seen is None else self._view.gateway_ms(seen)

    # --- the audit list

    async def pull_audit(self) -> Pulled:
        """Takes in what the audit list has behind the mark; raises what the link and the store raise."""
        mark = int(await self._store.read(lambda tx: tx.settings.get(AUDIT_MARK)) or 0)
        try:
            events, cut = await self._audit_since(mark)
        except GatewayRefusedError as error:
            if error.retryable:
                raise
            self.audited = False
            self._view.backlog_since_ms = self._rows_mark or None
            return Pulled(supported=False)
        self.audited, self._view.backlog_since_ms = True, None
        for first in range(0, len(events), BATCH):
            batch = events[first : first + BATCH]
            reports = [self._enriched(event.report) for event in batch if event.report is not None]
            for report in reports:
                if report.status is SessionStatus.KILLED:
                    at = report.ended_ms or self._view.gateway_ms(to_ms(self._clock.now()))
                    self._view.add_kill(report.gateway_session_id, report.run_id, at)
            await self._take(reports, audit_mark=batch[-1].sequence)
        return Pulled(supported=True, taken=len(events), cut=cut)

    async def _audit_since(self, mark: int) -> tuple[list[AuditEvent], bool]:
        """Entries after the mark, oldest first. A list that ends before the mark began anew."""
        found: list[AuditEvent] = []
        cursor: str | None = None
        for number in range(AUDIT_PAGES_MAX):
            params: dict[str, object] = {"limit": AUDIT_PAGE if number else AUDIT_FIRST_PAGE}
            params |= {"kind": "agent_run"} | ({"cursor": cursor} if cursor else {})
            page = parse_audit(await self._link.call("audit.activity.list", params))
            if page is None or not page.events:
                return found[::-1], False
            if number == 0 and max(event.sequence for event in page.events) < mark:
                mark = 0
            new = [event for event in page.events if event.sequence > mark]
            found += sorted(new, key=lambda event: -event.sequence)
            if len(found) >= AUDIT_EVENTS_MAX:
                return found[:AUDIT_EVENTS_MAX][::-1], True
            cursor = page.cursor
            if len(new) < len(page.events) or cursor is None:
                return found[::-1], False
        return found[::-1], True

    def _enriched(self, report: RunReport) -> RunReport:
        row = self._view.by_id(report.gateway_session_id)
        return self._labelled(enrich(report, row))

    def _labelled(self, report: RunReport) -> RunReport:
        entry = self._view.agent(report.agent_id)
        return report if entry is None else msgspec.structs.replace(report, label=entry.name)

    # --- rows

    async def take_rows(self, limit: int = BATCH) -> int:
        """Takes in what the view has heard of runs; returns how many rows it looked at."""
        rows = self._view.take_dirty(limit)
        reports = [self._labelled(report) for row in rows if (report := self._report(row)) is not None]
        now_ms = self._view.gateway_ms(to_ms(self._clock.now()))
        mark = now_ms - ROWS_OVERLAP_MS
        moves = not self.audited and len(rows) < limit and mark - self._rows_mark > ROWS_MARK_EVERY_MS
        if reports or moves:
            await self._take(reports, rows_mark=mark if moves else None)
        if moves:
            self._rows_mark = mark
        return len(rows)

    def _report(self, row: SessionRow) -> RunReport | None:
        report = report_of_row(row, self._view.kills)
        if report is None or report.status is not SessionStatus.FAILED:
            return report
        if row.aborted and row.error is None and (report.started_ms or 0) < (self._boot_ms or 0):
            # Older gateways call it failed and say no more of a run that ended with their process.
            report = msgspec.structs.replace(report, error_code=RESTARTED, error_message=RESTARTED_TEXT)
        if self.audited:
            # The audit tells a failure from a kill, a moment later; `settle` goes on without it.
            return msgspec.structs.replace(report, provisional=True)
        return report

    # --- what nobody tells

    async def settle(self) -> int:
        """Closes runs whose end nobody told; returns how many. Only to be asked while the view is live."""
        opened = await self._store.read(lambda tx: tx.ingest.open_of(SOURCE, OPEN_MAX))
        reports, looked_up = [], 0
        newest = {stored.gateway_session_id: stored.session_id for stored in opened}
        for stored in opened:
            session_id = stored.gateway_session_id or stored.session_id
            row = self._view.by_id(session_id)
            if row is None and looked_up < LOOKED_UP_MAX:
                looked_up += 1
                row = await self._look_up(session_id)
            elif row is None:
                continue
            look = self._look(stored, row, is_newest=newest[stored.gateway_session_id] == stored.session_id)
            report = conclude(stored, look, self._view.kills, skew_ms=self._skew())
            if report is not None:
                reports.append(self._labelled(report))
        self.has_open = len(opened) > len(reports)
        still = {stored.session_id for stored in opened}
        self._others = {name: at for name, at in self._others.items() if name in still}
        for first in range(0, len(reports), BATCH):
            await self._take(reports[first : first + BATCH])
        return len(reports)

    def _look(self, stored: StoredSession, row: SessionRow | None, *, is_newest: bool) -> Look:
        session_id = stored.gateway_session_id or stored.session_id
        started = to_ms(stored.started_at) + self._skew()
        killed = self._view.kills.covers_run(session_id, stored.run_id, started, None)
        now_ms = self._view.gateway_ms(to_ms(self._clock.now()))
        if row is None or (is_newest and not is_other_run(stored, row)):
            self._others.pop(stored.session_id, None)
        else:
            self._others.setdefault(stored.session_id, now_ms)
        return Look(
            row=row,
            now_ms=now_ms,
            boot_ms=self._boot_ms,
            other_ms=self._others.get(stored.session_id),
            audited=self.audited is True,
            killed=killed,
        )

    async def _look_up(self, session_id: str) -> SessionRow | None:
        """A session that the view does not keep."""
        try:
            found = await self._link.call("sessions.resolve", {"sessionId": session_id})
            key = found.get("key") if isinstance(found, dict) else None
            answer = await self._link.call("sessions.describe", {"key": key}) if key else None
        except GatewayRefusedError as error:
            if error.retryable:
                raise
            return None
        row = parse_row(answer.get("session") if isinstance(answer, dict) else None)
        return row if row is not None and row.session_id == session_id else None

    # --- writing

    def _skew(self) -> int:
        return self._view.gateway_ms(0)

    async def note_run(self, report: RunReport) -> str | None:
        """One run at once, for the control flows; the id of its ledger row."""
        ids = await self._take([self._labelled(report)])
        return ids[0] if ids else None

    async def _take(
        self, reports: Iterable[RunReport], *, audit_mark: int | None = None, rows_mark: int | None = None
    ) -> list[str]:
        """Everything in one transaction, with how far it was read."""
        at, prices, skew = self._clock.now(), self._prices(), self._skew()
        version, batch = self._link.state.server_version, list(reports)

        def work(tx: Transaction) -> list[Ingested]:
            done = []
            for report in batch:
                taken = take(tx, report, at, prices=prices, skew_ms=skew, version=version)
                if taken is not None:
                    done.append(taken)
            if audit_mark is not None:
                tx.settings.put(AUDIT_MARK, str(audit_mark))
            if rows_mark is not None:
                tx.settings.put(ROWS_MARK, str(rows_mark))
            return done

        done = await self._store.write(work)
        for ingested in done:
            if ingested.changed:
                self._changed(ingested.session_id)
            if ingested.ended:
                self._ended(ingested.session_id)
        return [ingested.session_id for ingested in done]


def take(
    tx: Transaction,
    report: RunReport,
    at: datetime,
    *,
    prices: PriceTable | None,
    skew_ms: int = 0,
    version: str | None = None,
) -> Ingested | None:
    """One report inside a transaction; None when it belongs nowhere (yet), or contradicts the record."""
    where = place(report, _known(tx, report), skew_ms=skew_ms)
    if where is None or not _is_ours(where):
        return None
    report = as_open(report, where)
    ingest = to_ingest(report, where, at, skew_ms=skew_ms, version=version)
    done = apply(tx, ingest, at, prices=prices)
    if isinstance(done, Rejected):
        return None
    if ingest.session.status in TERMINAL and _estimate(tx, done.session_id, report, at):
        done = msgspec.structs.replace(done, changed=True)
    return done


def _known(tx: Transaction, report: RunReport) -> Known:
    session_id, run_id = report.gateway_session_id, report.run_id
    own = None if run_id is None else tx.ingest.session(run_row_id(session_id, run_id))
    runs = tx.ingest.of_gateway_session(session_id, RUNS_LOOKED_AT)
    return Known(tx.ingest.session(session_id), own, runs)


def _is_ours(where: Place) -> bool:
    """Whether the row is not somebody else's, who handed in a session under that id."""
    return where.stored is None or where.stored.source == SOURCE


def _estimate(tx: Transaction, session_id: str, report: RunReport, at: datetime) -> bool:
    """The gateway's own estimate of the cost, where our price table has none: called what it is."""
    usage = tx.usage.get(session_id)
    if report.cost_usd is None or usage is None or usage.cost_source is not CostSource.UNKNOWN:
        return False
    cost = Cost(
        usd=report.cost_usd,
        source=CostSource.ESTIMATED_FROM_PRICING,
        confidence=CostConfidence.ESTIMATED,
        level=MetricConfidence.MEDIUM,
        pricing_version=PRICING,
    )
    tx.usage.put(msgspec.structs.replace(with_cost(usage, cost), computed_at=at))
    tx.usage.account(session_id)
    return True
