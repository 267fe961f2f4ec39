"""Repositories of what nodes push and of what comes down to them (see `ports.fleet.store` for the rules)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from ambientd.core.audit import AuditRecord
from ambientd.core.fleet.pushed import (
    AuditHead,
    FleetItem,
    LedgerQueryOfNode,
    NodeDeltaV,
    NodeSession,
    NodeSessionEvent,
    NodeUsage,
    NodeUsageTotals,
    StreamPlace,
)
from ambientd.core.records import AuditEntry, UsageRecord
from ambientd.wire.fleet_enums import ItemKind, Stream


class ItemRepository(Protocol):
    """Signed policies, tombstones, leases, revocations and rosters."""

    def add(self, item: FleetItem) -> int:
        """Adds an item and returns its revision, which is higher than all before and seen in that order.

        The same signed item again changes nothing and returns the revision it has.
        """

    def since(
        self,
        revision: int,
        *,
        owner_id: str,
        node_id: str,
        kinds: Sequence[ItemKind] | None = None,
        limit: int = 200,
    ) -> list[FleetItem]:
        """Items of higher revisions that are meant for a node, in order."""

    def latest(self, kind: ItemKind, subject: str) -> FleetItem | None:
        """The newest item of a kind about a subject."""

    def revision(self) -> int:
        """The highest revision, 0 when there is none."""

    def of_kind(self, kind: ItemKind) -> list[FleetItem]:
        """All items of a kind, in order."""

    def keep_newest(self, kind: ItemKind, subject: str, revision: int) -> int:
        """Removes what items of a kind said of a subject before this one; how many went."""

    def begin_era(self) -> int:
        """An older copy of the database was put in its place: from now on revisions are given that nobody
        was given since (see `core.fleet.era`). Returns the counter."""

    def remove_expired(self, before: datetime, limit: int) -> int:
        """Removes items that expired before an instant; how many went."""


class StreamRepository(Protocol):
    """How far the streams of nodes are durable here."""

    def acked(self, node_id: str, stream: Stream) -> int:
        """The last number taken, 0 for none. In a write the place is locked until its end."""

    def advance(self, node_id: str, stream: Stream, seq: int, at: datetime) -> int:
        """Remembers a number unless a higher one is remembered; returns the one that is."""

    def all_of(self, node_id: str) -> list[StreamPlace]:
        """All streams of a node."""


class NodeLedgerRepository(Protocol):
    """Ledger rows and Δv that nodes pushed. What was put before changes nothing when it is put again."""

    def put_sessions(self, node_id: str, sessions: Sequence[NodeSession]) -> None:
        """Inserts or replaces sessions; one with a lower `stream_seq` than stored is left out."""

    def put_events(self, node_id: str, events: Sequence[NodeSessionEvent]) -> None:
        """Inserts events that are not there yet; raises ValueError for a session that is not there."""

    def put_usage(self, node_id: str, usage: Sequence[NodeUsage]) -> None:
        """Inserts or replaces usage, as `put_sessions`."""

    def put_delta_v(self, node_id: str, windows: Sequence[NodeDeltaV]) -> None:
        """Inserts windows, or replaces what was said of them before."""

    def session(self, node_id: str, session_id: str) -> NodeSession | None:
        """One session of a node."""

    def page(self, query: LedgerQueryOfNode) -> list[NodeSession]:
        """One page of sessions."""

    def events(
        self, node_id: str, session_id: str, after_seq: int = 0, limit: int = 1000
    ) -> list[NodeSessionEvent]:
        """Events with `seq` greater than `after_seq`, in order."""

    def usage(self, node_id: str, session_id: str) -> UsageRecord | None:
        """The usage of a session."""

    def totals(self, node_id: str, since: datetime, until: datetime) -> NodeUsageTotals:
        """Sums over sessions that started at or after `since` and before `until`."""

    def delta_v(self, node_id: str, since: datetime, limit: int) -> list[NodeDeltaV]:
        """Windows that began at or after an instant, in order."""


class NodeAuditRepository(Protocol):
    """Audit chains of nodes, word for word."""

    def head(self, node_id: str) -> AuditHead:
        """The last record that is here, of the node's present incarnation."""

    def add(self, node_id: str, records: Sequence[AuditRecord], at: datetime) -> None:
        """Appends records behind the head. The caller has checked that they follow it; raises ValueError
        when their first number does not."""

    def records(self, node_id: str, after_seq: int, limit: int) -> list[AuditRecord]:
        """Records with `seq` greater than `after_seq`, in order."""


class ControlAuditRepository(Protocol):
    """The control plane's own chain of control actions."""

    def append(self, entry: AuditEntry) -> int:
        """Appends a record; returns its number. Raises ValueError for a detail without canonical bytes."""

    def records(self, after_seq: int, limit: int) -> list[AuditRecord]:
        """Records with `seq` greater than `after_seq`, in order."""
