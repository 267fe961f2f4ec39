"""The outbox in SQLite. Reports lie in it; audit records and sessions lie where they always do, and it holds
only what of them has not been acknowledged."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import apsw
import msgspec

from ambientd.core.outboxrecords import (
    ALL_EVENTS,
    Contact,
    DeltaVWindow,
    Depth,
    Flight,
    KeptReport,
    LedgerItem,
    OutboxState,
    ReportMark,
    StreamState,
)
from ambientd.core.timefmt import to_ms
from ambientd.store.faults import text
from ambientd.store.keys import Keys
from ambientd.store.ledger import SqliteLedger
from ambientd.store.usage import SqliteUsage
from ambientd.wire.outbox_enums import OutboxStream

MINUTE_MS = 60_000
NO_EVENTS = 2**62  # as the triggers note a session of which only the row is new

_STATE = (
    "SELECT joined, membership, request_seq, history_after, history_upto, policies_revision, leases_revision,"
    " contact_ms, contact_boot_id, contact_boot_ms FROM outbox_state"
)
_STREAM = "SELECT last_seq, acked_seq, acknowledged, dropped, refused FROM outbox_streams WHERE stream = ?"
_REPORTS = "SELECT seq, at_ms, priority, body FROM outbox_reports"
_FLIGHTS = "SELECT seq, session_key, first_event, last_event FROM outbox_flight"
_NEW = "SELECT session_key, from_event FROM outbox_sessions ORDER BY session_key LIMIT ?"
_EVENTS_FROM = (
    "SELECT count(*), max(seq) FROM (SELECT seq FROM session_event_rows"
    " WHERE session_key = ? AND seq >= ? ORDER BY seq LIMIT ?)"
)
_HAS_MORE = "SELECT 1 FROM session_event_rows WHERE session_key = ? AND seq > ? LIMIT 1"
_OLD = (
    "SELECT session_key FROM session_ledger WHERE session_key > ? AND session_key <= ?"
    " ORDER BY session_key LIMIT ?"
)
_WINDOWS = (
    "SELECT start_ms, sum(value), sum(samples), sum(refused), max(source),"
    " CASE max(instr('high medium low unknown', confidence))"
    " WHEN 1 THEN 'high' WHEN 6 THEN 'medium' WHEN 13 THEN 'low' ELSE 'unknown' END"
    " FROM delta_v_history WHERE width_sec = 60 AND start_ms > ? AND start_ms <= ?"
    " GROUP BY start_ms ORDER BY start_ms LIMIT ?"
)
_NEW_WINDOWS = (
    "SELECT count(DISTINCT start_ms) FROM delta_v_history"
    " WHERE width_sec = 60 AND start_ms > ? AND start_ms <= ?"
)


class SqliteOutbox:
    """`ports.outbox.OutboxRepository` over one transaction."""

    def __init__(
        self, connection: apsw.Connection, keys: Keys, ledger: SqliteLedger, usage: SqliteUsage
    ) -> None:
        """All belong to one transaction."""
        self._connection = connection
        self._keys = keys
        self._ledger = ledger
        self._usage = usage

    # --- the node's registration

    def state(self) -> OutboxState:
        """What is remembered."""
        row = self._connection.execute(_STATE).fetchone()
        if row is None:  # somebody has taken it away
            return OutboxState()
        contact = None if row[7] is None else Contact(at_ms=row[7], boot_id=row[8], boot_ms=row[9])
        return OutboxState(
            joined=bool(row[0]),
            membership=row[1],
            request_seq=row[2],
            history_after=row[3],
            history_upto=row[4],
            policies_revision=row[5],
            leases_revision=row[6],
            contact=contact,
        )

    def join(self, membership: str) -> bool:
        """Notes changes from now on; for another registration than before everything begins anew."""
        before = self.state()
        if before.joined and before.membership == membership:
            return False
        if before.membership != membership:
            self._clear()
            self._connection.execute(
                "UPDATE outbox_state SET membership = ?, request_seq = 0, policies_revision = 0,"
                " leases_revision = 0, contact_ms = NULL, contact_boot_id = NULL, contact_boot_ms = NULL",
                (text(membership, "membership"),),
            )
            self._connection.execute(
                "UPDATE outbox_streams SET last_seq = 0, acked_seq = 0, acknowledged = 0, dropped = 0,"
                " refused = 0"
            )
        self._connection.execute("UPDATE outbox_state SET joined = 1")
        self._renote()
        return True

    def _renote(self) -> None:
        """All sessions that there are, with all their events, count as new."""
        self._connection.execute(
            "UPDATE outbox_state SET history_after = 0,"
            " history_upto = coalesce((SELECT max(session_key) FROM session_ledger), 0)"
        )

    def leave(self) -> None:
        """Notes nothing any more."""
        self._clear()
        self._connection.execute("UPDATE outbox_state SET joined = 0, history_after = 0, history_upto = 0")

    def _clear(self) -> None:
        for table in ("outbox_reports", "outbox_sessions", "outbox_flight"):
            self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 - constants

    def reserve_requests(self, upto: int) -> None:
        """Request numbers up to this one may be used."""
        self._connection.execute("UPDATE outbox_state SET request_seq = max(request_seq, ?)", (upto,))

    def put_policies_revision(self, revision: int) -> None:
        """Policies and tombstones up to this revision were taken."""
        self._connection.execute("UPDATE outbox_state SET policies_revision = ?", (revision,))

    def put_leases_revision(self, revision: int) -> None:
        """Leases and revocations up to this revision were taken."""
        self._connection.execute("UPDATE outbox_state SET leases_revision = ?", (revision,))

    def put_contact(self, contact: Contact) -> None:
        """The control plane has answered."""
        self._connection.execute(
            "UPDATE outbox_state SET contact_ms = ?, contact_boot_id = ?, contact_boot_ms = ?",
            (contact.at_ms, text(contact.boot_id, "boot_id"), contact.boot_ms),
        )

    # --- streams

    def stream(self, stream: OutboxStream) -> StreamState:
        """One stream."""
        row = self._connection.execute(_STREAM, (stream.value,)).fetchone() or (0, 0, 0, 0, 0)
        return StreamState(
            stream=stream,
            last_seq=row[0],
            acked_seq=row[1],
            acknowledged=row[2],
            dropped=row[3],
            refused=row[4],
        )

    def depth(self, windows_before_ms: int) -> Depth:
        """What waits in all streams."""
        if not self.state().joined:
            return Depth(streams=tuple(self.stream(one) for one in OutboxStream))
        reports, size = self.report_bytes()
        results, result_bytes = self._results()
        waiting = {
            OutboxStream.REPORTS: reports,
            OutboxStream.AUDIT: self._audit_waiting(),
            OutboxStream.LEDGER: self._ledger_waiting(),
            OutboxStream.DELTA_V: self._windows_waiting(windows_before_ms),
            OutboxStream.RESULTS: results,
        }
        streams = tuple(
            msgspec.structs.replace(self.stream(one), waiting=waiting[one]) for one in OutboxStream
        )
        return Depth(streams=streams, bytes=size + result_bytes, oldest_ms=self._oldest())

    def _count(self, sql: str, bindings: Sequence[int] = ()) -> int:
        return int(self._connection.execute(sql, tuple(bindings)).get or 0)

    def _results(self) -> tuple[int, int]:
        row = self._connection.execute(
            "SELECT count(*), coalesce(sum(octet_length(result_json)), 0) FROM assignments"
            " WHERE told <> 'ended' AND state IN ('completed', 'failed', 'stopped')"
        ).fetchone()
        return (0, 0) if row is None else (int(row[0]), int(row[1]))

    def _audit_waiting(self) -> int:
        last = self._count("SELECT max(seq) FROM audit_records")
        return max(0, last - self.stream(OutboxStream.AUDIT).acked_seq)

    def _ledger_waiting(self) -> int:
        noted = self._count("SELECT count(*) FROM outbox_sessions")
        state = self.state()
        history = 0
        if state.history_after < state.history_upto:
            history = self._count(
                "SELECT count(*) FROM session_ledger WHERE session_key > ? AND session_key <= ?",
                (state.history_after, state.history_upto),
            )
        return noted + history + self._count("SELECT count(*) FROM outbox_flight")

    def _windows_waiting(self, before_ms: int) -> int:
        acked = self.stream(OutboxStream.DELTA_V).acked_seq
        return self._count(_NEW_WINDOWS, (acked * MINUTE_MS, before_ms - MINUTE_MS))

    def _oldest(self) -> int | None:
        report = self._connection.execute("SELECT at_ms FROM outbox_reports ORDER BY seq LIMIT 1").get
        record = self._connection.execute(
            "SELECT at FROM audit_records WHERE seq > ? ORDER BY seq LIMIT 1",
            (self.stream(OutboxStream.AUDIT).acked_seq,),
        ).get
        found = [] if report is None else [int(report)]
        if record is not None:
            found.append(to_ms(datetime.fromisoformat(record)))
        return min(found, default=None)

    def jump(self, stream: OutboxStream, seq: int) -> None:
        """Numbers up to `seq` are taken there. Of what is under way with one of them nobody knows whether it
        was taken, or another record: it goes once more, with a number of its own."""
        if stream is OutboxStream.LEDGER:
            self._land(seq)
        self._connection.execute(
            "UPDATE outbox_streams SET last_seq = max(last_seq, ?1), acked_seq = max(acked_seq, ?1)"
            " WHERE stream = ?2",
            (seq, stream.value),
        )

    def _land(self, seq: int) -> None:
        """What is under way up to `seq` is new again."""
        for row in self._connection.execute(f"{_FLIGHTS} WHERE seq <= ? ORDER BY seq", (seq,)).fetchall():
            flight = _flight(row)
            events = flight.first_event <= flight.last_event
            self._note(flight.session_key, flight.first_event if events else NO_EVENTS)
        self._connection.execute("DELETE FROM outbox_flight WHERE seq <= ?", (seq,))

    def go_back(self, stream: OutboxStream, seq: int) -> None:
        """No more than `seq` is kept there."""
        self._connection.execute(
            "UPDATE outbox_streams SET acked_seq = min(acked_seq, ?) WHERE stream = ?", (seq, stream.value)
        )
        if stream is OutboxStream.LEDGER:
            self._renote()

    def count(
        self, stream: OutboxStream, *, acknowledged: int = 0, dropped: int = 0, refused: int = 0
    ) -> None:
        """Adds to a stream's counts."""
        self._connection.execute(
            "UPDATE outbox_streams SET acknowledged = acknowledged + ?, dropped = dropped + ?,"
            " refused = refused + ? WHERE stream = ?",
            (acknowledged, dropped, refused, stream.value),
        )

    def _next(self, stream: OutboxStream, count: int = 1) -> int:
        """The first of so many numbers that were never given."""
        last = self.stream(stream).last_seq
        self._connection.execute(
            "UPDATE outbox_streams SET last_seq = ? WHERE stream = ?", (last + count, stream.value)
        )
        return last + 1

    # --- reports

    def add_report(self, at_ms: int, priority: int, body: bytes) -> int:
        """Keeps a report under the next number."""
        seq = self._next(OutboxStream.REPORTS)
        self._connection.execute(
            "INSERT INTO outbox_reports (seq, at_ms, priority, body) VALUES (?, ?, ?, ?)",
            (seq, at_ms, priority, body),
        )
        return seq

    def reports(self, after: int, limit: int) -> list[KeptReport]:
        """Reports that wait, oldest first."""
        rows = self._connection.execute(f"{_REPORTS} WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit))
        return [_report(row) for row in rows]

    def newest_report(self) -> KeptReport | None:
        """The last one."""
        row = self._connection.execute(f"{_REPORTS} ORDER BY seq DESC LIMIT 1").fetchone()
        return None if row is None else _report(row)

    def report_marks(self) -> list[ReportMark]:
        """All that wait, without bodies."""
        rows = self._connection.execute(
            "SELECT seq, at_ms, priority, length(body) FROM outbox_reports ORDER BY seq"
        )
        return [ReportMark(*row) for row in rows]

    def report_bytes(self) -> tuple[int, int]:
        """How many wait, and their bytes."""
        row = self._connection.execute(
            "SELECT count(*), coalesce(sum(length(body)), 0) FROM outbox_reports"
        ).fetchone()
        return (0, 0) if row is None else (int(row[0]), int(row[1]))

    def acknowledge_reports(self, numbers: Sequence[int]) -> int:
        """These are kept there."""
        gone = self._delete_reports(numbers)
        if numbers:
            self.jump(OutboxStream.REPORTS, max(numbers))
        self.count(OutboxStream.REPORTS, acknowledged=gone)
        return gone

    def drop_reports(self, numbers: Sequence[int]) -> None:
        """There is no room for these."""
        self.count(OutboxStream.REPORTS, dropped=self._delete_reports(numbers))

    def _delete_reports(self, numbers: Sequence[int]) -> int:
        among = msgspec.json.encode(list(numbers)).decode()
        self._connection.execute(
            "DELETE FROM outbox_reports WHERE seq IN (SELECT value FROM json_each(?))", (among,)
        )
        return self._connection.changes()

    # --- audit

    def acknowledge_audit(self, seq: int) -> None:
        """Records up to `seq` are kept there."""
        before = self.stream(OutboxStream.AUDIT).acked_seq
        self.jump(OutboxStream.AUDIT, seq)
        self.count(OutboxStream.AUDIT, acknowledged=max(0, seq - before))

    # --- the ledger

    def ledger_flight(self, *, sessions: int, events: int) -> list[Flight]:
        """What is under way, or else the next sessions."""
        under_way = [_flight(row) for row in self._connection.execute(f"{_FLIGHTS} ORDER BY seq")]
        if under_way:
            return under_way[:sessions]
        found: list[Flight] = []
        rows: list[tuple[Any, ...]] = self._connection.execute(_NEW, (sessions,)).fetchall()
        first = self._next(OutboxStream.LEDGER, len(rows)) if rows else 0
        for key, from_event in rows:
            if events <= 0:
                break
            flight = self._take_off(first + len(found), key, from_event, events)
            events -= max(0, flight.last_event - flight.first_event + 1)
            found.append(flight)
        return found

    def _take_off(self, seq: int, key: int, from_event: int, room: int) -> Flight:
        row: tuple[int, int | None] | None
        row = self._connection.execute(_EVENTS_FROM, (key, from_event, room)).fetchone()
        found = None if row is None else row[1]
        first, last = (from_event, found) if found is not None else (1, 0)
        flight = Flight(seq=seq, session_key=key, first_event=first, last_event=last)
        self._connection.execute(
            "INSERT INTO outbox_flight (seq, session_key, first_event, last_event) VALUES (?, ?, ?, ?)",
            (seq, key, first, last),
        )
        if found is not None and self._connection.execute(_HAS_MORE, (key, last)).fetchone() is not None:
            self._connection.execute(
                "UPDATE outbox_sessions SET from_event = ? WHERE session_key = ?", (last + 1, key)
            )
        else:
            self._connection.execute("DELETE FROM outbox_sessions WHERE session_key = ?", (key,))
        return flight

    def ledger_items(self, flights: Sequence[Flight]) -> list[LedgerItem]:
        """What flights carry now."""
        found = []
        for flight in flights:
            session = self._ledger.by_handles([flight.session_key])
            if not session:
                continue
            record = session[0]
            self._keys.remember(record.session_id, flight.session_key)
            count = max(0, flight.last_event - flight.first_event + 1)
            events = self._ledger.events(record.session_id, flight.first_event - 1, count) if count else []
            found.append(
                LedgerItem(
                    flight=flight,
                    session=record,
                    task_id=self._task_of(record.session_id),
                    events=tuple(event for event in events if event.seq <= flight.last_event),
                    usage=self._usage.get(record.session_id),
                )
            )
        return found

    def _task_of(self, session_id: str) -> str | None:
        found = self._connection.execute(
            "SELECT task_id FROM assignments WHERE session_id = ? LIMIT 1", (session_id,)
        ).get
        return None if found is None else str(found)

    def acknowledge_ledger(self, seq: int) -> int:
        """All up to `seq` is kept there."""
        self._connection.execute("DELETE FROM outbox_flight WHERE seq <= ?", (seq,))
        gone = self._connection.changes()
        self.jump(OutboxStream.LEDGER, seq)
        self.count(OutboxStream.LEDGER, acknowledged=gone)
        return gone

    def shorten_flight(self, flight: Flight, last_event: int, *, again: bool = True) -> Flight:
        """Events behind `last_event` wait again, unless not."""
        self._connection.execute(
            "UPDATE outbox_flight SET last_event = ? WHERE seq = ?", (last_event, flight.seq)
        )
        if again:
            self._note(flight.session_key, last_event + 1)
        return msgspec.structs.replace(flight, last_event=last_event)

    def _note(self, key: int, from_event: int) -> None:
        self._connection.execute(
            "INSERT INTO outbox_sessions (session_key, from_event) VALUES (?1, ?2)"
            " ON CONFLICT DO UPDATE SET from_event = ?2 WHERE from_event > ?2",
            (key, from_event),
        )

    def drop_flight(self, seq: int, *, refused: bool) -> None:
        """One record that will not be sent."""
        self._connection.execute("DELETE FROM outbox_flight WHERE seq = ?", (seq,))
        if self._connection.changes():
            self.count(OutboxStream.LEDGER, refused=int(refused), dropped=int(not refused))

    def note_history(self, limit: int) -> bool:
        """Notes older sessions."""
        state = self.state()
        if state.history_after >= state.history_upto:
            return False
        rows: list[tuple[Any, ...]] = self._connection.execute(
            _OLD, (state.history_after, state.history_upto, limit)
        ).fetchall()
        for (key,) in rows:
            self._note(key, ALL_EVENTS)
        after = rows[-1][0] if len(rows) == limit else state.history_upto
        self._connection.execute("UPDATE outbox_state SET history_after = ?", (after,))
        return bool(after < state.history_upto)

    # --- Δv

    def delta_v(self, after: int, before_ms: int, limit: int) -> list[DeltaVWindow]:
        """Windows of a minute each, numbered by it."""
        rows = self._connection.execute(_WINDOWS, (after * MINUTE_MS, before_ms - MINUTE_MS, limit))
        return [
            DeltaVWindow(
                seq=row[0] // MINUTE_MS,
                start_ms=row[0],
                end_ms=row[0] + MINUTE_MS,
                value=row[1],
                samples=row[2],
                refused=row[3],
                source=row[4],
                confidence=row[5],
            )
            for row in rows
        ]

    def acknowledge_delta_v(self, seq: int, count: int) -> None:
        """All windows up to `seq` are kept there."""
        self.jump(OutboxStream.DELTA_V, seq)
        self.count(OutboxStream.DELTA_V, acknowledged=count)


def _report(row: tuple[Any, ...]) -> KeptReport:
    return KeptReport(seq=row[0], at_ms=row[1], priority=row[2], body=bytes(row[3]))


def _flight(row: tuple[Any, ...]) -> Flight:
    return Flight(seq=row[0], session_key=row[1], first_event=row[2], last_event=row[3])
