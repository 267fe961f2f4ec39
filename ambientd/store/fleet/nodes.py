"""The registry of nodes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ambientd.core.fleet.records import (
    Capabilities,
    NewNode,
    NodeQuery,
    NodeRecord,
    NodeReport,
    NodeStats,
    QuietNode,
    ReportOutcome,
    StatusChange,
)
from ambientd.core.timefmt import from_ms, to_ms
from ambientd.store.fleet.reports import take_reports
from ambientd.store.fleet.sql import Bulk, Row, Sql, at, marks, ms, one
from ambientd.wire.enums import Connectivity
from ambientd.wire.fleet_enums import NodeStatus, NodeType

HEALTHY = 70  # of 100
_COLUMNS = (
    "node_id, owner_id, region, node_type, bandwidth_mbps, cpu_cores, memory_gb, gpu_available,"
    " observability_port, health_score, status, registered_at, last_seen, updated_at, report_interval_ms,"
    " last_heartbeat, deleted_at, incarnation, state, delta_v, audit_head_seq, audit_head_hash, report_seq"
)
_GIVEN = (
    "node_id, owner_id, region, node_type, bandwidth_mbps, cpu_cores, memory_gb, gpu_available,"
    " observability_port, health_score, status, registered_at, last_seen, updated_at, report_interval_ms"
)
_REGISTER = (
    f"INSERT INTO nodes ({_GIVEN}) VALUES ({marks(_GIVEN)})"
    " ON CONFLICT (node_id) DO UPDATE SET region = excluded.region, node_type = excluded.node_type,"
    " bandwidth_mbps = excluded.bandwidth_mbps, cpu_cores = excluded.cpu_cores,"
    " memory_gb = excluded.memory_gb, gpu_available = excluded.gpu_available,"
    " observability_port = excluded.observability_port,"
    " report_interval_ms = excluded.report_interval_ms, status ="
    " CASE WHEN nodes.deleted_at IS NULL AND nodes.status = 'rejected' THEN 'rejected' ELSE 'online' END,"
    " registered_at ="
    " CASE WHEN nodes.deleted_at IS NULL THEN nodes.registered_at ELSE excluded.registered_at END,"
    " last_seen = excluded.last_seen, updated_at = excluded.updated_at, deleted_at = NULL"
    f" WHERE nodes.owner_id = excluded.owner_id RETURNING {_COLUMNS}"
)
_GET = f"SELECT {_COLUMNS} FROM nodes WHERE node_id = ? AND deleted_at IS NULL"
_DELETE = (
    "UPDATE nodes SET deleted_at = ?, status = 'offline', updated_at = ?"
    " WHERE node_id = ? AND owner_id = ? AND deleted_at IS NULL"
)
_REJECT = (
    "UPDATE nodes SET status = 'rejected', updated_at = ?"
    " WHERE node_id = ? AND owner_id = ? AND deleted_at IS NULL"
)
_QUIET = (
    "SELECT node_id, status, last_seen, report_interval_ms FROM nodes"
    " WHERE deleted_at IS NULL AND status IN ('online', 'unknown') AND last_seen < ? AND node_id > ?"
    " ORDER BY node_id LIMIT ?"
)
# Whoever reported meanwhile has another `last_seen`, and is left alone.
_CHANGE = Bulk(
    (("node_id", "text"), ("before", "text"), ("after", "text"), ("seen", "bigint")),
    "UPDATE nodes SET status = batch.after FROM batch WHERE nodes.node_id = batch.node_id"
    " AND nodes.status = batch.before AND nodes.last_seen = batch.seen AND nodes.deleted_at IS NULL"
    " RETURNING nodes.node_id",
)
_STATS = (
    "SELECT count(*), coalesce(sum(CASE WHEN status = 'online' THEN 1 ELSE 0 END), 0),"
    f" coalesce(sum(CASE WHEN status = 'online' AND health_score >= {HEALTHY} THEN 1 ELSE 0 END), 0),"
    " coalesce(avg(health_score), 0), coalesce(sum(cpu_cores * memory_gb), 0)"
    " FROM nodes WHERE deleted_at IS NULL AND status <> 'rejected'"
)


class Nodes:
    """`ports.fleet.store.NodeRepository`."""

    def __init__(self, sql: Sql) -> None:
        """Good for as long as the transaction."""
        self._sql = sql

    def register(self, node: NewNode, at: datetime) -> NodeRecord | None:
        """Adds a node, or brings back or changes the owner's node of that id. A rejected one stays rejected
        unless it had been deleted. None, and nothing written, when the id is another owner's."""
        now, has = to_ms(at), node.capabilities
        row = (
            node.node_id,
            node.owner_id,
            node.region,
            node.node_type,
            float(has.bandwidth_mbps),
            has.cpu_cores,
            float(has.memory_gb),
            int(has.gpu_available),
            node.observability_port,
            100.0,
            NodeStatus.ONLINE,
            now,
            now,
            now,
            node.report_interval_ms,
        )
        found = one(self._sql.rows(_REGISTER, row))
        return None if found is None else _node(found)

    def get(self, node_id: str, *, owner_id: str | None = None) -> NodeRecord | None:
        """A node that is not deleted; with `owner_id` only when it is theirs."""
        row = one(self._sql.rows(_GET, (node_id,)))
        if row is None or (owner_id is not None and row[1] != owner_id):
            return None
        return _node(row)

    def page(self, query: NodeQuery) -> list[NodeRecord]:
        """One page of nodes."""
        where, params = ["deleted_at IS NULL"], list[Any]()
        for column, value in (
            ("owner_id", query.owner_id),
            ("status", query.status),
            ("node_type", query.node_type),
        ):
            if value is not None:
                where.append(f"{column} = ?")
                params.append(value)
        if not query.include_rejected and query.status is not NodeStatus.REJECTED:
            where.append("status <> 'rejected'")
        if query.after is not None:
            where.append("(registered_at, node_id) < (?, ?)")
            params += [ms(query.after[0]), query.after[1]]
        sql = (
            f"SELECT {_COLUMNS} FROM nodes WHERE {' AND '.join(where)}"
            " ORDER BY registered_at DESC, node_id DESC LIMIT ?"
        )
        return [_node(row) for row in self._sql.rows(sql, (*params, query.limit))]

    def delete(self, node_id: str, owner_id: str, at: datetime) -> bool:
        """Marks it as deleted and offline. False when the owner has no such node."""
        return self._sql.run(_DELETE, (ms(at), ms(at), node_id, owner_id)) == 1

    def reject(self, node_id: str, owner_id: str, at: datetime) -> bool:
        """Marks it as rejected. False when the owner has no such node."""
        return self._sql.run(_REJECT, (ms(at), node_id, owner_id)) == 1

    def report(self, reports: Sequence[NodeReport]) -> list[ReportOutcome]:
        """Takes reports and writes a history row for each that is no duplicate; outcomes in their order."""
        return take_reports(self._sql, reports)

    def quiet(self, before: datetime, limit: int, after: str | None = None) -> list[QuietNode]:
        """Online and unknown nodes last seen before an instant, by id."""
        return [
            QuietNode(
                node_id=row[0],
                status=NodeStatus(row[1]),
                last_seen=from_ms(row[2]),
                report_interval_ms=row[3],
            )
            for row in self._sql.rows(_QUIET, (ms(before), after or "", limit))
        ]

    def change_status(self, changes: Sequence[StatusChange]) -> list[str]:
        """Ids of those that still stood as they were seen, and were changed."""
        rows = [(c.node_id, c.before, c.after, to_ms(c.last_seen)) for c in changes]
        return [row[0] for row in self._sql.bulk(_CHANGE, rows)]

    def stats(self) -> NodeStats:
        """Sums for the cluster's statistics."""
        (row,) = self._sql.rows(_STATS)
        return NodeStats(
            total=row[0],
            online=int(row[1]),
            healthy=int(row[2]),
            average_health=float(row[3]),
            capacity=float(row[4]),
        )


def _node(row: Row) -> NodeRecord:
    return NodeRecord(
        node_id=row[0],
        owner_id=row[1],
        region=row[2],
        node_type=NodeType(row[3]),
        capabilities=Capabilities(
            bandwidth_mbps=row[4], cpu_cores=row[5], memory_gb=row[6], gpu_available=bool(row[7])
        ),
        observability_port=row[8],
        health_score=row[9],
        status=NodeStatus(row[10]),
        registered_at=from_ms(row[11]),
        last_seen=from_ms(row[12]),
        updated_at=from_ms(row[13]),
        report_interval_ms=row[14],
        last_heartbeat=at(row[15]),
        deleted_at=at(row[16]),
        incarnation=row[17],
        state=None if row[18] is None else Connectivity(row[18]),
        delta_v=row[19],
        audit_head_seq=row[20],
        audit_head_hash=row[21],
        report_seq=row[22],
    )
