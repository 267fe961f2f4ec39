"""The registry: nodes come, report, leave, are rejected, and are never forgotten for having been away."""

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from ambientd.core.fleet.records import (
    HistoryRow,
    NewNode,
    NodeEvent,
    NodeQuery,
    NodeRecord,
    NodeReport,
    NodeStats,
    ReportOutcome,
    TaskStats,
)
from ambientd.core.records import AuditEntry
from ambientd.flows.fleet.leases import LeaseDesk
from ambientd.flows.fleet.reach import NO_NODE, REVOKED, Reach, find, replayed
from ambientd.flows.fleet.work import WorkRules, delete_node, offer_to_node, register, reject_node
from ambientd.ports.clock import Clock
from ambientd.ports.errors import Rejected
from ambientd.ports.fleet.reports import ReportIntake
from ambientd.ports.fleet.store import FleetStore, FleetTransaction
from ambientd.wire.fleet_enums import NodeStatus, ReportRefusal

_PART = Callable[[FleetTransaction, str, str, datetime, WorkRules], list[str] | None]


class ClusterStats(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the cluster."""

    nodes: NodeStats
    tasks: TaskStats


class Registry:
    """The use cases of nodes."""

    def __init__(
        self, *, store: FleetStore, clock: Clock, reports: ReportIntake, rules: WorkRules, desk: LeaseDesk
    ) -> None:
        self._store = store
        self._desk = desk
        self._clock = clock
        self._reports = reports
        self._rules = rules

    async def register(self, node: NewNode, by: str) -> NodeRecord | Rejected:
        """Adds a node, or takes the owner's own back under its id; waiting work is offered to it."""
        at = self._clock.now()

        def work(tx: FleetTransaction) -> NodeRecord | None:
            made = register(tx, node, at, self._rules)
            if made is not None:
                tx.audit.append(AuditEntry(kind="node_registered", at=at, actor=by, subject=node.node_id))
            return made

        made = await self._store.write(work)
        if made is None:
            return Rejected("CONFLICT", f"the node id {node.node_id} is another owner's; choose another one")
        return made

    async def get(self, reach: Reach) -> NodeRecord | Rejected:
        """One node."""
        return await self._store.read(lambda tx: find(tx, reach)) or NO_NODE

    async def page(self, query: NodeQuery) -> list[NodeRecord]:
        """One page of nodes, newest registration first."""
        return await self._store.read(lambda tx: tx.nodes.page(query))

    async def stats(self) -> ClusterStats:
        """The cluster's statistics."""
        return await self._store.read(lambda tx: ClusterStats(nodes=tx.nodes.stats(), tasks=tx.tasks.stats()))

    async def history(self, reach: Reach, limit: int, before_id: int | None) -> list[HistoryRow] | Rejected:
        """Reports and events of a node, newest first."""

        def work(tx: FleetTransaction) -> list[HistoryRow] | Rejected:
            return tx.history.rows(reach.node_id, limit, before_id) if find(tx, reach) else NO_NODE

        return await self._store.read(work)

    async def activity(self, reach: Reach, limit: int) -> list[NodeEvent] | Rejected:
        """Events of a node, newest first."""

        def work(tx: FleetTransaction) -> list[NodeEvent] | Rejected:
            return tx.history.activity(reach.node_id, limit) if find(tx, reach) else NO_NODE

        return await self._store.read(work)

    async def delete(self, node_id: str, owner_id: str, by: str) -> Rejected | None:
        """Takes a node out of the registry; its work goes elsewhere, its owner may bring it back."""
        return await self._leave(node_id, owner_id, by, delete_node, "node_deleted")

    async def reject(self, node_id: str, owner_id: str, by: str) -> Rejected | None:
        """Refuses a node: its reports no longer make it online, its work goes elsewhere."""
        return await self._leave(node_id, owner_id, by, reject_node, "node_rejected")

    async def _leave(self, node_id: str, owner_id: str, by: str, part: _PART, kind: str) -> Rejected | None:
        at = self._clock.now()

        def work(tx: FleetTransaction) -> Rejected | None:
            tx.assignments.lock()
            session = tx.sessions.active_of_node(node_id)
            tasks = part(tx, node_id, owner_id, at, self._rules)
            if tasks is None:
                return NO_NODE
            if session is not None:
                self._desk.revoke(tx, (session,), at)
            detail = {"tasks": len(tasks)}
            tx.audit.append(AuditEntry(kind=kind, at=at, actor=by, subject=node_id, detail=detail))
            return None

        return await self._store.write(work)

    async def report(self, report: NodeReport) -> ReportOutcome | Rejected:
        """Takes one report; whoever was away is back with it, and waiting work is offered to it."""
        outcome = (await self.report_all([report]))[0]
        return refusal_of(outcome) or outcome

    async def report_all(self, reports: Sequence[NodeReport]) -> list[ReportOutcome]:
        """Takes reports of one node that waited, in order."""
        outcomes = await self._reports.take(reports)
        back = {one.node_id for one in outcomes if _is_back(one)}
        if back:
            at = self._clock.now()

            def work(tx: FleetTransaction) -> None:
                for node_id in sorted(back):
                    offer_to_node(tx, node_id, at, self._rules)

            await self._store.write(work)
        return outcomes


def _is_back(outcome: ReportOutcome) -> bool:
    away = outcome.before in (NodeStatus.UNKNOWN, NodeStatus.OFFLINE)
    return outcome.refused is None and away and outcome.status is NodeStatus.ONLINE


def refusal_of(outcome: ReportOutcome) -> Rejected | None:
    """What a refused report is answered with; None for one that was taken."""
    match outcome.refused:
        case None:
            return None
        case ReportRefusal.NO_NODE:
            return NO_NODE
        case ReportRefusal.REVOKED:
            return REVOKED
        case ReportRefusal.REPLAYED:
            return replayed(outcome.last_request_seq or 0)
