"""Whether a node's registration and its reports are valid."""

import re
from datetime import datetime

from ambientd.core.fleet.checks import Problems
from ambientd.core.fleet.jsonlimits import JsonLimits, check_json
from ambientd.core.fleet.records import DEFAULT_REPORT_INTERVAL_MS, Capabilities, NewNode, NodeReport
from ambientd.core.rejection import Rejected
from ambientd.core.timefmt import parse_rfc3339
from ambientd.wire.fleet_enums import NodeType
from ambientd.wire.fleet_messages import NodeRegistration, ReportBody

NODE_ID_MAX = 64  # bytes
REGION_MAX = 32  # bytes
BANDWIDTH = (10, 100_000)  # Mbit/s
CORES = (1, 256)
MEMORY = (1, 2_048)  # GB
INTERVAL = (1, 86_400)  # seconds between reports
LATENCY = (0, 3_600_000)  # milliseconds
_INT_MAX = 2**63 - 1
# Metadata of a report stays small: there is one for every report of every node.
METADATA_LIMITS = JsonLimits(depth=4, items=64, key_bytes=64, string_bytes=1_000, total_bytes=4_096)
_DELTA_V_MAX = 1e308
_HASH = re.compile("[0-9a-f]{64}")


def is_node_id(text: str) -> bool:
    """Whether a text can name a node: letters, digits, `-` and `_`, 1 to 64 bytes."""
    return 1 <= len(text.encode(errors="replace")) <= NODE_ID_MAX and all(
        c.isalnum() or c in "-_" for c in text
    )


def check_registration(body: NodeRegistration, owner_id: str) -> NewNode | Rejected:
    """The node to register, or everything that is wrong with the request."""
    problems, has = Problems(), body.capabilities
    if not is_node_id(body.node_id):
        expected = f"1 to {NODE_ID_MAX} bytes of letters, digits, - and _"
        problems.add("node_id", "format", f"must be {expected}", expected)
    problems.sized("region", body.region, 1, REGION_MAX)
    if not body.region.isprintable() or not body.region.strip():
        problems.add("region", "format", "must be printable text", "printable text")
    problems.one_of("node_type", body.node_type, tuple(kind.value for kind in NodeType))
    problems.between("capabilities.bandwidth_mbps", has.bandwidth_mbps, *BANDWIDTH)
    problems.between("capabilities.cpu_cores", has.cpu_cores, *CORES)
    problems.between("capabilities.memory_gb", has.memory_gb, *MEMORY)
    if body.observability_port is not None:
        problems.between("observability_port", body.observability_port, 1, 65_535)
    if body.report_interval_sec is not None:
        problems.between("report_interval_sec", body.report_interval_sec, *INTERVAL)
    details = problems.details()
    if details:
        return Rejected("VALIDATION_ERROR", "the registration is not valid", details)
    interval = body.report_interval_sec
    return NewNode(
        node_id=body.node_id,
        owner_id=owner_id,
        region=body.region,
        node_type=NodeType(body.node_type),
        capabilities=Capabilities(
            bandwidth_mbps=has.bandwidth_mbps,
            cpu_cores=has.cpu_cores,
            memory_gb=has.memory_gb,
            gpu_available=has.gpu_available,
        ),
        observability_port=body.observability_port,
        report_interval_ms=DEFAULT_REPORT_INTERVAL_MS if interval is None else interval * 1000,
    )


def check_report(body: ReportBody, node_id: str, owner_id: str, at: datetime) -> NodeReport | Rejected:
    """The report to take, received at `at`, or everything that is wrong with it."""
    problems = Problems()
    if not _is_plain(body):
        _check_figures(problems, body)
    if body.metadata is not None:
        check_json(problems, "metadata", body.metadata, METADATA_LIMITS)
    sampled_at = _instant(problems, "at", body.at)
    details = problems.details()
    if details:
        return Rejected("VALIDATION_ERROR", "the report is not valid", details)
    interval = body.report_interval_sec
    return NodeReport(
        node_id=node_id,
        owner_id=owner_id,
        at=at,
        seq=body.seq,
        sampled_at=sampled_at,
        health_score=body.health_score,
        cpu_usage=body.cpu_usage,
        memory_usage=body.memory_usage,
        disk_usage=body.disk_usage,
        network_latency_ms=body.network_latency_ms,
        state=body.state,
        delta_v=body.delta_v,
        audit_head_seq=body.audit_head_seq,
        audit_head_hash=body.audit_head_hash,
        report_interval_ms=None if interval is None else interval * 1000,
        metadata=body.metadata,
    )


def _is_plain(body: ReportBody) -> bool:
    """Whether all figures are as they should be: nearly always, and quickly found. Not-a-number is not."""
    for percent in (body.health_score, body.cpu_usage, body.memory_usage, body.disk_usage):
        if percent is not None and not 0 <= percent <= 100:
            return False
    head, delta_v = body.audit_head_hash, body.delta_v
    return (
        (body.seq is None or 1 <= body.seq <= _INT_MAX)
        and (body.network_latency_ms is None or LATENCY[0] <= body.network_latency_ms <= LATENCY[1])
        and (body.audit_head_seq is None or 0 <= body.audit_head_seq <= _INT_MAX)
        and (delta_v is None or 0 <= delta_v <= _DELTA_V_MAX)
        and (head is None or _HASH.fullmatch(head) is not None)
        and body.report_interval_sec is None
    )


def _check_figures(problems: Problems, body: ReportBody) -> None:
    for field in ("health_score", "cpu_usage", "memory_usage", "disk_usage"):
        value = getattr(body, field)
        if value is not None:
            problems.between(field, value, 0, 100)
    for field, bounds in (
        ("seq", (1, _INT_MAX)),
        ("network_latency_ms", LATENCY),
        ("audit_head_seq", (0, _INT_MAX)),
        ("report_interval_sec", INTERVAL),
    ):
        value = getattr(body, field)
        if value is not None:
            problems.between(field, value, *bounds)
    if body.delta_v is not None:
        problems.between("delta_v", body.delta_v, 0, _DELTA_V_MAX)
    head = body.audit_head_hash
    if head is not None and _HASH.fullmatch(head) is None:
        problems.add("audit_head_hash", "format", "must be 64 hexadecimal digits", "64 hexadecimal digits")


def _instant(problems: Problems, field: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_rfc3339(text)
    except ValueError:
        problems.add(field, "format", "must be an RFC 3339 time with an offset", "an RFC 3339 time")
        return None
