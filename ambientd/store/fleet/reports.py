"""The busiest write: many reports in a few statements, whatever database."""

from collections.abc import Mapping, Sequence
from typing import Any

from ambientd.core.fleet.records import AssignedTask, NodeReport, ReportOutcome
from ambientd.core.fleet.reports import ReportingCredential, ReportingNode, Settled, settle, status_after
from ambientd.core.timefmt import to_ms
from ambientd.store.fleet.sql import Bulk, Sql, all_of_batch, json_text, ms
from ambientd.wire.fleet_enums import ExecutionStatus, NodeStatus

_NODE = (("node_id", "text"),)
# In the order of their ids, so that two processes never wait for each other crosswise.
_CREDENTIALS = Bulk(
    (("credential_id", "text"),),
    "SELECT c.credential_id, c.node_id, c.last_seq, c.revoked_at FROM batch, device_credentials AS c"
    " WHERE c.credential_id = batch.credential_id ORDER BY c.credential_id",
    lock="c",
)
_NODES = Bulk(
    _NODE,
    "SELECT n.node_id, n.owner_id, n.status, n.health_score, n.incarnation, n.report_seq"
    " FROM batch, nodes AS n WHERE n.node_id = batch.node_id AND n.deleted_at IS NULL ORDER BY n.node_id",
    lock="n",
)
_ASSIGNED = Bulk(
    _NODE,
    "SELECT a.node_id, a.task_id, t.task_type, a.execution_status"
    " FROM batch, task_assignments AS a JOIN tasks AS t ON t.task_id = a.task_id"
    " WHERE a.node_id = batch.node_id AND a.disconnected_at IS NULL"
    " ORDER BY a.node_id, a.assigned_at, a.task_id",
)
# An older report that comes late says nothing of how the node stands now.
_NEWER = (
    "{0} = CASE WHEN batch.seq IS NULL OR batch.seq >= nodes.report_seq"
    " THEN coalesce(batch.{0}, nodes.{0}) ELSE nodes.{0} END"
)
# Clocks of two control-plane processes may differ: nobody was seen earlier than before. What is later by more
# was written by a clock that was wrong; a node would count as seen until then.
_SKEW_MS = 300_000
_LATER = (
    "{0} = CASE WHEN nodes.{0} > batch.at"
    f" AND nodes.{{0}} <= batch.at + {_SKEW_MS} THEN nodes.{{0}} ELSE batch.at END"
)
_SAID = ("health_score", "state", "delta_v", "audit_head_seq", "audit_head_hash", "report_interval_ms")
_UPDATE = Bulk(
    (
        ("node_id", "text"),
        ("at", "bigint"),
        ("seq", "bigint"),
        ("status", "text"),
        ("health_score", "double precision"),
        ("state", "text"),
        ("delta_v", "double precision"),
        ("audit_head_seq", "bigint"),
        ("audit_head_hash", "text"),
        ("report_interval_ms", "bigint"),
    ),
    "UPDATE nodes SET status = batch.status, report_seq ="
    " CASE WHEN batch.seq > nodes.report_seq THEN batch.seq ELSE nodes.report_seq END, "
    + ", ".join(_LATER.format(name) for name in ("last_heartbeat", "last_seen", "updated_at"))
    + ", "
    + ", ".join(_NEWER.format(name) for name in _SAID)
    + " FROM batch WHERE nodes.node_id = batch.node_id",
)
_ADVANCE = Bulk(
    (("credential_id", "text"), ("seq", "bigint")),
    "UPDATE device_credentials SET last_seq = batch.seq FROM batch"
    " WHERE device_credentials.credential_id = batch.credential_id",
)
_ROW = (
    ("node_id", "text"),
    ("health_score", "double precision"),
    ("cpu_usage", "double precision"),
    ("memory_usage", "double precision"),
    ("disk_usage", "double precision"),
    ("network_latency_ms", "bigint"),
    ("active_tasks", "bigint"),
    ("status", "text"),
    ("metadata", "jsonb"),
    ("recorded_at", "bigint"),
    ("sampled_at", "bigint"),
    ("incarnation", "bigint"),
    ("report_seq", "bigint"),
)
_NAMES = ", ".join(name for name, _ in _ROW)
_HISTORY = Bulk(
    _ROW,
    # WHERE: without one SQLite takes ON for the beginning of a join
    f"INSERT INTO node_heartbeat_history ({_NAMES}) SELECT {all_of_batch(_ROW)} FROM batch WHERE true"
    " ON CONFLICT (node_id, incarnation, report_seq) WHERE report_seq IS NOT NULL DO NOTHING"
    " RETURNING node_id, report_seq",
)


def take_reports(sql: Sql, reports: Sequence[NodeReport]) -> list[ReportOutcome]:
    """See ports.fleet.store.NodeRepository.report."""
    credentials = _credentials(sql, reports)
    ids = [(node_id,) for node_id in sorted({report.node_id for report in reports})]
    nodes = {row[0]: ReportingNode(row[1], NodeStatus(row[2]), *row[3:]) for row in sql.bulk(_NODES, ids)}
    settled = settle(reports, nodes, credentials)
    assigned = _assigned(sql, settled)
    _update(sql, reports, settled, nodes)
    fresh = _insert(sql, reports, settled, nodes, assigned)
    outcomes = []
    for place, report in enumerate(reports):
        refusal = settled.refused.get(place)
        if refusal is not None:
            known = credentials.get(report.credential_id or "")
            last = None if known is None else known.last_seq
            outcome = ReportOutcome(node_id=report.node_id, refused=refusal, last_request_seq=last)
        else:
            node = nodes[report.node_id]
            health = reports[settled.latest[report.node_id]].health_score
            outcome = ReportOutcome(
                node_id=report.node_id,
                status=status_after(node.status),
                before=node.status,
                health_score=node.health_score if health is None else health,
                duplicate=report.seq is not None and (report.node_id, report.seq) not in fresh,
                assigned=assigned.get(report.node_id, ()),
                known_report_seq=node.report_seq,
            )
        outcomes.append(outcome)
    return outcomes


def _credentials(sql: Sql, reports: Sequence[NodeReport]) -> dict[str, ReportingCredential]:
    ids = sorted({report.credential_id for report in reports if report.credential_id is not None})
    found = sql.bulk(_CREDENTIALS, [(one,) for one in ids])
    return {row[0]: ReportingCredential(row[1], row[2], row[3] is not None) for row in found}


def _assigned(sql: Sql, settled: Settled) -> dict[str, tuple[AssignedTask, ...]]:
    found: dict[str, tuple[AssignedTask, ...]] = {}
    for node_id, task_id, kind, status in sql.bulk(_ASSIGNED, [(one,) for one in settled.latest]):
        task = AssignedTask(task_id=task_id, task_type=kind, execution_status=ExecutionStatus(status))
        found[node_id] = (*found.get(node_id, ()), task)
    return found


def _update(
    sql: Sql, reports: Sequence[NodeReport], settled: Settled, nodes: Mapping[str, ReportingNode]
) -> None:
    rows = []
    for node_id, place in settled.latest.items():
        report = reports[place]
        rows.append(
            (
                node_id,
                to_ms(report.at),
                report.seq,
                status_after(nodes[node_id].status),
                report.health_score,
                report.state,
                report.delta_v,
                report.audit_head_seq,
                report.audit_head_hash,
                report.report_interval_ms,
            )
        )
    sql.bulk(_UPDATE, rows)
    sql.bulk(_ADVANCE, list(settled.advances.items()))


def _insert(
    sql: Sql,
    reports: Sequence[NodeReport],
    settled: Settled,
    nodes: Mapping[str, ReportingNode],
    assigned: Mapping[str, Sequence[AssignedTask]],
) -> set[tuple[str, int]]:
    """The history rows; which numbered reports are new."""
    rows: list[tuple[Any, ...]] = []
    for place, report in enumerate(reports):
        if place in settled.refused:
            continue
        node = nodes[report.node_id]
        rows.append(
            (
                report.node_id,
                node.health_score if report.health_score is None else report.health_score,
                report.cpu_usage,
                report.memory_usage,
                report.disk_usage,
                report.network_latency_ms,
                len(assigned.get(report.node_id, ())),
                status_after(node.status),
                None if report.metadata is None else json_text(report.metadata),
                to_ms(report.at),
                ms(report.sampled_at),
                node.incarnation,
                report.seq,
            )
        )
    return {(row[0], row[1]) for row in sql.bulk(_HISTORY, rows)}
