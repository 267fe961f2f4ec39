"""Records of the control plane as its clients see them."""

from collections.abc import Sequence
from datetime import datetime
from urllib.parse import quote, urlencode

import msgspec

from ambientd.core.fleet.nodescore import Measured, node_score
from ambientd.core.fleet.records import (
    AssignedTask,
    Away,
    ConnectSession,
    HistoryRow,
    NodeEvent,
    NodeRecord,
    ReportOutcome,
    Requirements,
    TaskRecord,
)
from ambientd.core.fleet.tasktypes import CONNECT_ONLY
from ambientd.core.timefmt import rfc3339_ms
from ambientd.flows.fleet.tasks import Given
from ambientd.ports.http import Request, Response
from ambientd.wire.fleet_api_messages import (
    AssignedTaskView,
    AssignmentView,
    AwayView,
    ConnectInfo,
    EventView,
    HeartbeatAnswer,
    HistoryRowView,
    NodeInfo,
    RequirementsView,
    ScoreView,
    TaskInfo,
)
from ambientd.wire.fleet_enums import ConnectStatus, NodeEventKind
from ambientd.wire.fleet_messages import CapabilitiesBody

NEXT_CURSOR = "X-Next-Cursor"
_EVENTS = frozenset(NodeEventKind)
_ENCODER = msgspec.json.Encoder()


def when(at: datetime | None) -> str | None:
    """An instant, or none."""
    return None if at is None else rfc3339_ms(at)


def listed(request: Request, rows: Sequence[msgspec.Struct], cursor: str | None) -> Response:
    """A bare array, as clients of the fleet API expect it; headers say where it goes on."""
    headers: tuple[tuple[str, str], ...] = ()
    if cursor is not None:
        query = urlencode({**request.query, "cursor": cursor}, quote_via=quote)
        headers = ((NEXT_CURSOR, cursor), ("Link", f'<{quote(request.path)}?{query}>; rel="next"'))
    return Response(200, _ENCODER.encode(rows), headers=headers)


def view_node(node: NodeRecord) -> NodeInfo:
    """A node."""
    has = node.capabilities
    return NodeInfo(
        node_id=node.node_id,
        region=node.region,
        node_type=node.node_type,
        capabilities=CapabilitiesBody(
            bandwidth_mbps=has.bandwidth_mbps,
            cpu_cores=has.cpu_cores,
            memory_gb=has.memory_gb,
            gpu_available=has.gpu_available,
        ),
        owner_id=node.owner_id,
        health_score=node.health_score,
        status=node.status,
        registered_at=rfc3339_ms(node.registered_at),
        last_seen=rfc3339_ms(node.last_seen),
        observability_port=node.observability_port,
        last_heartbeat=when(node.last_heartbeat),
        state=node.state,
        delta_v=node.delta_v,
        audit_head_seq=node.audit_head_seq,
        audit_head_hash=node.audit_head_hash,
        report_interval_sec=node.report_interval_ms // 1000,
        report_seq=node.report_seq,
        incarnation=node.incarnation,
        updated_at=rfc3339_ms(node.updated_at),
    )


def view_outcome(outcome: ReportOutcome, at: datetime) -> HeartbeatAnswer:
    """The answer to a report."""
    return HeartbeatAnswer(
        message="Heartbeat updated successfully",
        node_id=outcome.node_id,
        timestamp=rfc3339_ms(at),
        health_score=outcome.health_score,
        node_status=outcome.status,
        active_tasks=len(outcome.assigned),
        assigned_task_ids=[task.task_id for task in outcome.assigned],
        assigned_tasks=[_assigned(task) for task in outcome.assigned],
        internet_active=any(task.task_type == CONNECT_ONLY for task in outcome.assigned),
        duplicate=outcome.duplicate,
        known_report_seq=outcome.known_report_seq,
    )


def _assigned(task: AssignedTask) -> AssignedTaskView:
    return AssignedTaskView(task.task_id, task.task_type, task.execution_status)


def view_event(event: NodeEvent) -> EventView:
    """An event of a node."""
    at = rfc3339_ms(event.at)
    return EventView(event.task_id, event.task_type, event.kind.value, at, at, event.session_id)


def view_history(row: HistoryRow) -> HistoryRowView:
    """A row of a node's history."""
    return HistoryRowView(
        heartbeat_id=row.heartbeat_id,
        recorded_at=rfc3339_ms(row.recorded_at),
        sampled_at=when(row.sampled_at),
        health_score=row.health_score,
        cpu_usage=row.cpu_usage,
        memory_usage=row.memory_usage,
        disk_usage=row.disk_usage,
        network_latency_ms=row.network_latency_ms,
        active_tasks=row.active_tasks,
        status=row.status,
        seq=row.report_seq,
        metadata=None if row.metadata is None else dict(row.metadata),
        score=None if row.status in _EVENTS else _score(row),
    )


def _score(row: HistoryRow) -> ScoreView:
    """Of bandwidth and reputation a report says nothing: what a node was registered with was not measured."""
    found = node_score(
        Measured(latency_ms=row.network_latency_ms, cpu=row.cpu_usage, memory=row.memory_usage)
    )
    return ScoreView(value=round(found.value, 4), most=found.most, unmeasured=list(found.unmeasured))


def _requirements(asks: Requirements) -> RequirementsView:
    return RequirementsView(asks.min_nodes, asks.max_execution_time_sec, asks.require_gpu, asks.require_proof)


def _away(away: Away) -> AwayView:
    return AwayView(away.policy, None if away.after_ms is None else away.after_ms // 1000)


def view_task(task: TaskRecord) -> TaskInfo:
    """A task, without its inputs."""
    return TaskInfo(
        task_id=task.task_id,
        task_type=task.task_type,
        status=task.status,
        assigned_nodes=list(task.assigned_nodes),
        former_assigned_nodes=list(task.former_assigned_nodes),
        created_at=rfc3339_ms(task.created_at),
        updated_at=rfc3339_ms(task.updated_at),
        completed_at=when(task.completed_at),
        result=task.result,
        proof_id=task.proof_id,
        requirements=_requirements(task.requirements),
        away=_away(task.away),
    )


def view_given(given: Given) -> AssignmentView:
    """Work as its node gets it."""
    one = given.assignment
    return AssignmentView(
        task_id=one.task_id,
        task_type=one.task_type,
        inputs=given.work.inputs,
        wasm_module=given.work.wasm_module,
        requirements=_requirements(one.requirements),
        away=_away(one.away),
        assigned_at=rfc3339_ms(one.assigned_at),
        execution_status=one.execution_status,
        session_id=one.session_id,
        attempt=one.attempt,
    )


def view_session(session: ConnectSession) -> ConnectInfo:
    """A connect session."""
    return ConnectInfo(
        session_id=session.session_id,
        task_id=session.task_id,
        node_id=session.node_id,
        requester_id=session.requester_id,
        tunnel_protocol=session.tunnel_protocol,
        egress_profile=session.egress_profile,
        destination_policy_id=session.destination_policy_id,
        bandwidth_limit_mbps=session.bandwidth_limit_mbps,
        status=session.status,
        created_at=rfc3339_ms(session.created_at),
        expires_at=rfc3339_ms(session.expires_at),
        last_heartbeat_at=when(session.last_heartbeat_at),
        ended_at=when(session.ended_at),
        end_reason=session.end_reason,
        internet_active=session.status is ConnectStatus.ACTIVE,
    )
