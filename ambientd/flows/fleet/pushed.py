"""Streams that nodes push: at least once in, each record kept once, acknowledged when it is durable.

Where a number is missing the node has dropped the record itself; where the node and this database disagree
about what is durable, the answer says where to go on.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from ambientd.core.audit import GENESIS, AuditRecord, first_bad
from ambientd.core.fleet.pages import fill, size_of
from ambientd.core.fleet.pushed import (
    LedgerQueryOfNode,
    NodeDeltaV,
    NodeSession,
    NodeSessionEvent,
    NodeUsageTotals,
    StreamPlace,
)
from ambientd.core.fleet.streams import DeltaVEntry, LedgerEntry
from ambientd.core.records import UsageRecord
from ambientd.flows.fleet.reach import NO_NODE, Reach, enter, find
from ambientd.ports.clock import Clock
from ambientd.ports.errors import Rejected
from ambientd.ports.fleet.store import FleetStore, FleetTransaction
from ambientd.wire.fleet_enums import Stream
from ambientd.wire.messages import ErrorDetail

EVENTS_PAGE = 500
_NO_SESSION = Rejected("NOT_FOUND", "the node has pushed no such session")


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a batch. `left_out`: records that were counted and not kept, with the reason."""

    acked_seq: int
    taken: int
    duplicates: int
    left_out: tuple[tuple[int, str], ...] = ()
    head_hash: str = GENESIS


class _Place(NamedTuple):
    """A stream of a node before a batch of `at`; locked until the transaction's end."""

    node_id: str
    stream: Stream
    acked: int
    at: datetime


class SessionOfNode(msgspec.Struct, frozen=True, kw_only=True):
    """One session with its usage and a page of its events."""

    session: NodeSession
    usage: UsageRecord | None
    events: tuple[NodeSessionEvent, ...]
    more: bool


class Pushed:
    """The use cases of streams."""

    def __init__(self, *, store: FleetStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    # --- in

    async def audit(self, reach: Reach, records: Sequence[AuditRecord]) -> Taken | Rejected:
        """Takes consecutive records of the node's chain behind what is here. A chain that does not hold, or
        one that forks from what is here, is refused with the head in the details."""
        bad = None
        if records:
            bad = first_bad(records, prev_hash=records[0].prev_hash, seq=records[0].seq)
        if bad is not None:
            detail = ErrorDetail("records", "chain", f"the chain breaks at record {bad}", str(bad))
            return Rejected("VALIDATION_ERROR", "the records are no chain", (detail,))
        at = self._clock.now()

        def work(tx: FleetTransaction) -> Taken | Rejected:
            node = enter(tx, reach)
            return node if isinstance(node, Rejected) else _take_audit(tx, reach.node_id, records, at)

        return await self._store.write(work)

    async def ledger(self, reach: Reach, after: int, entries: Sequence[LedgerEntry]) -> Taken | Rejected:
        """Takes ledger rows."""
        at = self._clock.now()

        def work(tx: FleetTransaction) -> Taken | Rejected:
            place = _find_place(tx, reach, Stream.LEDGER, after, at)
            if isinstance(place, Rejected):
                return place
            left_out = _put_ledger(tx, reach.node_id, [e for e in entries if e.seq > place.acked])
            return _advance(tx, place, [e.seq for e in entries], left_out)

        return await self._store.write(work)

    async def delta_v(self, reach: Reach, after: int, entries: Sequence[DeltaVEntry]) -> Taken | Rejected:
        """Takes windows of Δv."""
        at = self._clock.now()

        def work(tx: FleetTransaction) -> Taken | Rejected:
            place = _find_place(tx, reach, Stream.DELTA_V, after, at)
            if isinstance(place, Rejected):
                return place
            tx.ledger.put_delta_v(reach.node_id, [e.window for e in entries if e.seq > place.acked])
            return _advance(tx, place, [e.seq for e in entries])

        return await self._store.write(work)

    # --- out

    async def streams(self, reach: Reach) -> list[StreamPlace] | Rejected:
        """How far each stream of a node is durable here."""
        return await self._store.read(
            lambda tx: tx.streams.all_of(reach.node_id) if find(tx, reach) else NO_NODE
        )

    async def sessions(
        self, reach: Reach, query: LedgerQueryOfNode
    ) -> tuple[list[NodeSession], bool] | Rejected:
        """One page of a node's sessions, newest start first, and whether there may be more."""

        def work(tx: FleetTransaction) -> tuple[list[NodeSession], bool] | Rejected:
            if find(tx, reach) is None:
                return NO_NODE

            def fetch(last: NodeSession | None, count: int) -> list[NodeSession]:
                after = query.after if last is None else (last.started_at, last.session_id)
                return tx.ledger.page(msgspec.structs.replace(query, limit=count, after=after))

            return fill(fetch, query.limit, size_of)

        return await self._store.read(work)

    async def session(self, reach: Reach, session_id: str, after_event: int) -> SessionOfNode | Rejected:
        """One session of a node with a page of its events."""

        def work(tx: FleetTransaction) -> SessionOfNode | Rejected:
            if find(tx, reach) is None:
                return NO_NODE
            session = tx.ledger.session(reach.node_id, session_id)
            if session is None:
                return _NO_SESSION

            def fetch(last: NodeSessionEvent | None, count: int) -> list[NodeSessionEvent]:
                after = after_event if last is None else last.seq
                return tx.ledger.events(reach.node_id, session_id, after, count)

            events, more = fill(fetch, EVENTS_PAGE, lambda event: size_of(event.payload))
            return SessionOfNode(
                session=session,
                usage=tx.ledger.usage(reach.node_id, session_id),
                events=tuple(events),
                more=more,
            )

        return await self._store.read(work)

    async def totals(self, reach: Reach, since: datetime, until: datetime) -> NodeUsageTotals | Rejected:
        """Sums over a node's sessions that started within a span."""
        return await self._store.read(
            lambda tx: tx.ledger.totals(reach.node_id, since, until) if find(tx, reach) else NO_NODE
        )

    async def windows(self, reach: Reach, since: datetime, limit: int) -> list[NodeDeltaV] | Rejected:
        """A node's windows of Δv since an instant."""
        return await self._store.read(
            lambda tx: tx.ledger.delta_v(reach.node_id, since, limit) if find(tx, reach) else NO_NODE
        )

    async def audit_records(self, reach: Reach, after_seq: int, limit: int) -> list[AuditRecord] | Rejected:
        """A node's chain as it was pushed: as many records as an answer holds, none at its end."""

        def work(tx: FleetTransaction) -> list[AuditRecord] | Rejected:
            if find(tx, reach) is None:
                return NO_NODE

            def fetch(last: AuditRecord | None, count: int) -> list[AuditRecord]:
                return tx.node_audit.records(reach.node_id, after_seq if last is None else last.seq, count)

            return fill(fetch, limit, size_of)[0]

        return await self._store.read(work)


def _take_audit(
    tx: FleetTransaction, node_id: str, records: Sequence[AuditRecord], at: datetime
) -> Taken | Rejected:
    head = tx.node_audit.head(node_id)
    old = [record for record in records if record.seq <= head.seq]
    new = records[len(old) :]
    if old:
        here = tx.node_audit.records(node_id, old[0].seq - 1, len(old))
        if [record.hash for record in here] != [record.hash for record in old]:
            return _not_behind(head.seq, head.hash, "the chain here has other records of the same numbers")
    if new and new[0].seq != head.seq + 1:
        return _not_behind(head.seq, head.hash, f"record {head.seq + 1} is missing")
    if new and new[0].prev_hash != head.hash:
        return _not_behind(head.seq, head.hash, "the records do not follow the chain here")
    tx.node_audit.add(node_id, new, at)
    last = new[-1] if new else None
    acked = tx.streams.advance(node_id, Stream.AUDIT, last.seq if last else head.seq, at)
    return Taken(
        acked_seq=acked,
        taken=len(new),
        duplicates=len(old),
        head_hash=last.hash if last else head.hash,
    )


def _not_behind(seq: int, digest: str, why: str) -> Rejected:
    details = (
        ErrorDetail("head_seq", "conflict", f"the last record here is {seq}", str(seq)),
        ErrorDetail("head_hash", "conflict", f"its hash is {digest}", digest),
    )
    return Rejected("CONFLICT", why, details)


def _find_place(
    tx: FleetTransaction, reach: Reach, stream: Stream, after: int, at: datetime
) -> _Place | Rejected:
    """How far the stream is durable here, unless the node believes that it is further."""
    node = enter(tx, reach)
    if isinstance(node, Rejected):
        return node
    acked = tx.streams.acked(reach.node_id, stream)
    if after <= acked:
        return _Place(reach.node_id, stream, acked, at)
    detail = ErrorDetail("after", "conflict", f"the last number here is {acked}", str(acked))
    return Rejected("CONFLICT", "this stream is not durable so far; go on behind the last number", (detail,))


def _advance(
    tx: FleetTransaction, place: _Place, numbers: Sequence[int], left_out: tuple[tuple[int, str], ...] = ()
) -> Taken:
    duplicates = sum(number <= place.acked for number in numbers)
    acked = place.acked
    if numbers:
        acked = tx.streams.advance(place.node_id, place.stream, max(numbers), place.at)
    return Taken(
        acked_seq=acked,
        taken=len(numbers) - duplicates - len(left_out),
        duplicates=duplicates,
        left_out=left_out,
    )


def _put_ledger(
    tx: FleetTransaction, node_id: str, entries: Sequence[LedgerEntry]
) -> tuple[tuple[int, str], ...]:
    """Writes entries; those that speak of a session that nobody pushed are left out."""
    known = {entry.session_id for entry in entries if entry.session is not None}
    missing: list[tuple[int, str]] = []
    kept: list[LedgerEntry] = []
    for entry in entries:
        if entry.session_id not in known and tx.ledger.session(node_id, entry.session_id) is None:
            missing.append((entry.seq, "its session was never pushed"))
            continue
        known.add(entry.session_id)
        kept.append(entry)
    tx.ledger.put_sessions(node_id, [e.session for e in kept if e.session is not None])
    tx.ledger.put_events(node_id, [event for e in kept for event in e.events])
    tx.ledger.put_usage(node_id, [e.usage for e in kept if e.usage is not None])
    return tuple(missing)
