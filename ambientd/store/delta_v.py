"""The account of Δv in SQLite: its sum, its history by minutes and hours, the sums of sessions."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import apsw
import msgspec

from ambientd.core.delta_v import Total
from ambientd.core.delta_v_account import HOUR_MS, LARGEST, MINUTE_MS, Account, Basis, SessionSum, Slice, Span
from ambientd.core.delta_v_inputs import UNIT, Present
from ambientd.core.timefmt import parse_rfc3339, rfc3339_ms, to_ms
from ambientd.store.faults import text
from ambientd.store.keys import Keys
from ambientd.wire.enums import MetricConfidence

KEEP = {60: timedelta(days=7), 3600: timedelta(days=365)}
"""How long minutes and hours are kept, by their width in seconds."""

# Of each width at one write: what a node that was off for a week has too many of goes within the hour.
REMOVED_MAX = 500

_COUNTS = "samples, not_finite, overflowed, clamped, corrected"
_GET = (
    f"SELECT generation, since, reason, basis_json, units, seconds, gap_sec, {_COUNTS} FROM delta_v_account"  # noqa: S608 - constants
)
_PUT = (
    "INSERT OR REPLACE INTO delta_v_account (account_key, generation, since, reason, mapping, unit,"  # noqa: S608 - constants
    f" basis_json, units, value, seconds, gap_sec, {_COUNTS}, updated_at)"
    " VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SUMS = ("seconds", "gap_sec", "value", "joules", "load_sec", "velocity_sec", "inertia_sec")
_ADDED = ", ".join(f"{name} = min({name} + excluded.{name}, {LARGEST!r})" for name in _SUMS)
_ADD = (
    "INSERT INTO delta_v_history (width_sec, start_ms, generation, seconds, gap_sec, value, joules, load_sec,"  # noqa: S608 - constants
    " velocity_sec, inertia_sec, samples, refused, source, confidence)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
    f" {_ADDED}, samples = samples + excluded.samples, refused = refused + excluded.refused,"
    " source = excluded.source, confidence = CASE WHEN"
    " instr('high medium low unknown', excluded.confidence) > instr('high medium low unknown', confidence)"
    " THEN excluded.confidence ELSE confidence END"
)
_READ = (
    "SELECT start_ms / ?2 * ?2 AS piece, sum(seconds), sum(gap_sec), min(sum(value), ?5), sum(joules),"
    " sum(load_sec), sum(velocity_sec), sum(inertia_sec), sum(samples), sum(refused), max(source),"
    " CASE max(instr('high medium low unknown', confidence))"
    " WHEN 1 THEN 'high' WHEN 6 THEN 'medium' WHEN 13 THEN 'low' ELSE 'unknown' END"
    " FROM delta_v_history WHERE width_sec = ?1 AND start_ms >= ?3 AND start_ms <= ?7 AND generation = ?4"
    " GROUP BY piece ORDER BY piece LIMIT ?6"
)
_FORGET = (
    "DELETE FROM delta_v_history WHERE (width_sec, start_ms, generation) IN ("
    "SELECT width_sec, start_ms, generation FROM delta_v_history"
    " WHERE width_sec = ? AND start_ms < ? LIMIT ?)"
)
_SESSION = (
    "SELECT l.session_id, d.since, d.generation, d.units, d.samples, d.refused, d.seconds, d.joules,"
    " d.source, d.confidence FROM delta_v_sessions AS d JOIN session_ledger AS l USING (session_key)"
)
_SUMS_OF = f"{_SESSION} WHERE l.session_id IN (SELECT value FROM json_each(?))"  # noqa: S608 - constants
_LARGEST = f"{_SESSION} WHERE d.generation = ? ORDER BY d.value DESC, d.session_key DESC LIMIT ?"
_PUT_SESSION = (
    "INSERT OR REPLACE INTO delta_v_sessions (session_key, generation, since, units, value, seconds, joules,"
    " samples, refused, source, confidence) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_COMPLETED = (
    "SELECT count(*) FROM session_ledger WHERE ended_at > ? AND ended_at <= ? AND +status = 'success'"
)
# A session that neither this node nor its gateway ran is somebody else's, and so is the power that it takes.
_HERE = (
    "SELECT l.session_id, coalesce(l.running_since, l.started_at), l.ended_at, r.session_key IS NULL"
    " FROM session_ledger AS l LEFT JOIN local_runs AS r USING (session_key)"
    " WHERE (r.session_key IS NOT NULL OR (?1 AND l.gateway_session_id IS NOT NULL)) AND"
)
_PRESENT = (
    f"{_HERE} l.status = 'running' UNION ALL {_HERE} l.ended_at > ?2 AND l.running_since IS NOT NULL LIMIT ?3"
)


class SqliteDeltaV:
    """`ports.delta_v.DeltaVRepository` over one transaction."""

    def __init__(self, connection: apsw.Connection, keys: Keys) -> None:
        """Both belong to one transaction."""
        self._connection = connection
        self._keys = keys

    def account(self) -> Account | None:
        """The account as it was kept last."""
        row = self._connection.execute(_GET).fetchone()
        if row is None:
            return None
        try:
            basis = msgspec.json.decode(row[3], type=Basis)
        except msgspec.DecodeError:
            return None
        return Account(
            generation=row[0],
            since=parse_rfc3339(row[1]),
            reason=row[2],
            basis=basis,
            total=Total(
                units=int(row[4], 16),
                samples=row[7],
                not_finite=row[8],
                overflowed=row[9],
                clamped=row[10],
                corrected=row[11],
            ),
            seconds=row[5],
            gap_sec=row[6],
        )

    def put(
        self, account: Account, slices: Sequence[Slice], sessions: Sequence[SessionSum], at: datetime
    ) -> None:
        """Keeps the account, adds slices to their minutes and hours, keeps the sums of sessions."""
        total = account.total
        row = (
            account.generation,
            rfc3339_ms(account.since),
            text(account.reason, "reason"),
            account.basis.mapping,
            UNIT,
            msgspec.json.encode(account.basis).decode(),
            f"{total.units:x}",
            total.value,
            account.seconds,
            account.gap_sec,
            total.samples,
            total.not_finite,
            total.overflowed,
            total.clamped,
            total.corrected,
            rfc3339_ms(at),
        )
        self._connection.execute(_PUT, row)
        for piece in slices:
            self._add(piece, account.generation)
        for one in sessions:
            self._put_session(one)
        for width, keep in KEEP.items():
            self._connection.execute(_FORGET, (width, to_ms(at - keep), REMOVED_MAX))

    def _add(self, piece: Slice, generation: int) -> None:
        sums = [getattr(piece, name) for name in _SUMS]
        counts = (piece.samples, piece.refused, text(piece.source, "source"), piece.confidence.value)
        for width, width_ms in ((60, MINUTE_MS), (3600, HOUR_MS)):
            start = piece.start_ms // width_ms * width_ms
            self._connection.execute(_ADD, (width, start, generation, *sums, *counts))

    def _put_session(self, one: SessionSum) -> None:
        key = self._keys.find(one.session_id)
        if key is None:
            return
        row = (
            key,
            one.generation,
            rfc3339_ms(one.since),
            f"{one.total.units:x}",
            one.total.value,
            one.seconds,
            one.joules,
            one.total.samples,
            one.total.refused,
            text(one.source, "source"),
            one.confidence.value,
        )
        self._connection.execute(_PUT_SESSION, row)

    def slices(self, asked: Span) -> list[Slice]:
        """History between two instants, in pieces of a width."""
        width_ms = asked.width_ms
        width = 3600 if width_ms >= HOUR_MS else 60
        first = asked.since_ms // (width * 1000) * (width * 1000)
        rows = self._connection.execute(
            _READ, (width, width_ms, first, asked.generation, LARGEST, asked.limit, asked.until_ms)
        )
        names = ("start_ms", *_SUMS, "samples", "refused", "source")
        return [
            Slice(**dict(zip(names, row, strict=False)), confidence=MetricConfidence(row[-1])) for row in rows
        ]

    def sums(self, session_ids: Collection[str]) -> list[SessionSum]:
        """The sums of these sessions."""
        among = msgspec.json.encode(list(session_ids)).decode()
        rows = self._connection.execute(_SUMS_OF, (among,))
        return [_session_sum(row) for row in rows]

    def largest(self, generation: int, limit: int) -> list[SessionSum]:
        """Sessions with the largest sums."""
        rows = self._connection.execute(_LARGEST, (generation, limit))
        return [_session_sum(row) for row in rows]

    def completed(self, since: datetime, until: datetime) -> int:
        """Successful ends after `since` and not after `until`."""
        return int(self._connection.execute(_COMPLETED, (rfc3339_ms(since), rfc3339_ms(until))).get)

    def present(self, since: datetime, now: datetime, limit: int, *, gateway: bool) -> list[Present]:
        """Sessions that ran here at some time after `since`, with their seconds of it."""
        found = []
        rows = self._connection.execute(_PRESENT, (gateway, rfc3339_ms(since), limit))
        for session_id, began, ended, is_remote in rows:
            start = max(since, parse_rfc3339(began))
            end = now if ended is None else min(now, parse_rfc3339(ended))
            seconds = max(0.0, (end - start).total_seconds())
            found.append(Present(session_id, seconds, own=not is_remote))
        return found


def _session_sum(row: tuple[Any, ...]) -> SessionSum:
    return SessionSum(
        session_id=row[0],
        since=parse_rfc3339(row[1]),
        generation=row[2],
        total=Total(units=int(row[3], 16), samples=row[4], not_finite=row[5]),
        seconds=row[6],
        joules=row[7],
        source=row[8],
        confidence=MetricConfidence(row[9]),
    )
