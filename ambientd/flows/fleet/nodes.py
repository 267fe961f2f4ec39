"""The registry: nodes come, report, leave, are rejected, and are never forgotten for having been away."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from ambientd.core.fleet.records import (
    HistoryRow,
    NewNode,
    NodeQuery,
    NodeRecord,
    NodeReport,
    NodeStats,
    ReportOutcome,
    TaskStats,
)
from ambientd.flows.fleet.work import offer, take_away
from ambientd.ports.clock import Clock
from ambientd.ports.errors import Rejected
from ambientd.ports.fleet.store import FleetStore, FleetTransaction
from ambientd.wire.fleet_enums import ConnectStatus, DetachReason, NodeStatus, ReportRefusal
from ambientd.wire.messages import ErrorDetail

NO_NODE = Rejected("NOT_FOUND", "there is no such node")
_REVOKED = Rejected("NOT_AUTHENTICATED", "this credential is revoked; join again")


class Reports(Protocol):
    """Takes reports, many callers' in one commit."""

    async def take(self, reports: Sequence[NodeReport]) -> list[ReportOutcome]:
        """Outcomes in the order of the reports; raises as `FleetStore.write`."""


class ClusterStats(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the cluster."""

    nodes: NodeStats
    tasks: TaskStats


class Registry:
    """The use cases of nodes."""

    def __init__(self, *, store: FleetStore, clock: Clock, reports: Reports) -> None:
        self._store = store
        self._clock = clock
        self._reports = reports

    async def register(self, node: NewNode) -> NodeRecord | Rejected:
        """Adds a node, or takes the owner's own back under its id; waiting work is offered to it."""
        at = self._clock.now()

        def work(tx: FleetTransaction) -> NodeRecord | None:
            registered = tx.nodes.register(node, at)
            if registered is not None:
                tx.assignments.lock()
                offer(tx, at)
            return registered

        registered = await self._store.write(work)
        if registered is None:
            return Rejected("CONFLICT", f"the node id {node.node_id} is another owner's; choose another one")
        return registered

    async def get(self, node_id: str) -> NodeRecord | Rejected:
        """One node of any owner: what is shown of it is decided by the view."""
        return await self._store.read(lambda tx: tx.nodes.get(node_id)) or NO_NODE

    async def page(self, query: NodeQuery) -> list[NodeRecord]:
        """One page of nodes, newest registration first."""
        return await self._store.read(lambda tx: tx.nodes.page(query))

    async def stats(self) -> ClusterStats:
        """The cluster's statistics."""
        return await self._store.read(lambda tx: ClusterStats(nodes=tx.nodes.stats(), tasks=tx.tasks.stats()))

    async def history(
        self, node_id: str, owner_id: str, limit: int, before_id: int | None
    ) -> list[HistoryRow] | Rejected:
        """Reports and events of an owner's node, newest first."""

        def work(tx: FleetTransaction) -> list[HistoryRow] | None:
            if tx.nodes.get(node_id, owner_id=owner_id) is None:
                return None
            return tx.history.rows(node_id, limit, before_id)

        found = await self._store.read(work)
        return NO_NODE if found is None else found

    async def delete(self, node_id: str, owner_id: str) -> Rejected | None:
        """Takes a node out of the registry; its work goes elsewhere, its owner may bring it back."""

        def mark(tx: FleetTransaction, at: datetime) -> bool:
            return tx.nodes.delete(node_id, owner_id, at)

        return await self._leave(node_id, mark, DetachReason.NODE_DELETED)

    async def reject(self, node_id: str, owner_id: str) -> Rejected | None:
        """Refuses a node: its reports no longer make it online, its work goes elsewhere."""

        def mark(tx: FleetTransaction, at: datetime) -> bool:
            return tx.nodes.reject(node_id, owner_id, at)

        return await self._leave(node_id, mark, DetachReason.NODE_REJECTED)

    async def _leave(self, node_id: str, mark: "Mark", reason: DetachReason) -> Rejected | None:
        at = self._clock.now()

        def work(tx: FleetTransaction) -> bool:
            tx.assignments.lock()
            if not mark(tx, at):
                return False
            if reason is DetachReason.NODE_DELETED:
                tx.devices.revoke(node_id, at)
            session = tx.sessions.active_of_node(node_id)
            if session is not None:
                tx.sessions.end(
                    session.requester_id, session.session_id, ConnectStatus.ENDED, at, reason.value
                )
            take_away(tx, [one.task_id for one in tx.assignments.of_node(node_id)], node_id, at, reason)
            return True

        return None if await self._store.write(work) else NO_NODE

    async def report(self, report: NodeReport) -> ReportOutcome | Rejected:
        """Takes one report; whoever was away is back with it, and waiting work is offered to it."""
        outcome = (await self.report_all([report]))[0]
        return refusal_of(outcome) or outcome

    async def report_all(self, reports: Sequence[NodeReport]) -> list[ReportOutcome]:
        """Takes reports of one node that waited, in order."""
        outcomes = await self._reports.take(reports)
        if any(one.refused is None and one.before is not NodeStatus.ONLINE for one in outcomes):
            at = self._clock.now()

            def work(tx: FleetTransaction) -> None:
                tx.assignments.lock()
                offer(tx, at)

            await self._store.write(work)
        return outcomes


class Mark(Protocol):
    """Marks a node in a transaction; False when the owner has no such node."""

    def __call__(self, tx: FleetTransaction, at: datetime, /) -> bool: ...


def refusal_of(outcome: ReportOutcome) -> Rejected | None:
    """What a refused report is answered with; None for one that was taken."""
    match outcome.refused:
        case None:
            return None
        case ReportRefusal.NO_NODE:
            return NO_NODE
        case ReportRefusal.REVOKED:
            return _REVOKED
        case ReportRefusal.REPLAYED:
            return replayed(outcome.last_request_seq or 0)


def replayed(last: int) -> Rejected:
    """A request whose number was taken before; the sender goes on behind the last one."""
    detail = ErrorDetail("sequence", "replayed", f"the last number taken is {last}", f"> {last}")
    return Rejected("REPLAYED", "a request with this number was taken before", (detail,))
