"""What clients and nodes send to the control plane. Fields that are not known are ignored."""

from typing import Any

import msgspec

from ambientd.wire.enums import Connectivity


class CapabilitiesBody(msgspec.Struct, frozen=True, kw_only=True):
    """What a node can do: Mbit/s, cores, GB."""

    bandwidth_mbps: float
    cpu_cores: int
    memory_gb: float
    gpu_available: bool = False


class NodeRegistration(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /nodes`. `report_interval_sec`: how often the node means to report."""

    node_id: str
    region: str
    node_type: str
    capabilities: CapabilitiesBody
    observability_port: int | None = None
    report_interval_sec: int | None = None


class ReportBody(msgspec.Struct, frozen=True, kw_only=True):
    """`PUT /nodes/{id}/heartbeat`; all of it may be missing. Percentages are 0 to 100, `at` is RFC 3339."""

    seq: int | None = None
    at: str | None = None
    health_score: float | None = None
    cpu_usage: float | None = None
    memory_usage: float | None = None
    disk_usage: float | None = None
    network_latency_ms: int | None = None
    state: Connectivity | None = None
    delta_v: float | None = None
    audit_head_seq: int | None = None
    audit_head_hash: str | None = None
    report_interval_sec: int | None = None
    metadata: dict[str, Any] | None = None


class RequirementsBody(msgspec.Struct, frozen=True, kw_only=True):
    """What a task asks of its nodes."""

    min_nodes: int = 1
    max_execution_time_sec: int = 3600
    require_gpu: bool = False
    require_proof: bool = False


class AwayBody(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a task when its node is away for `after_sec`."""

    policy: str = "wait"
    after_sec: int | None = None


class TaskSubmission(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /tasks`. `wasm_module` is base64."""

    task_type: str
    inputs: Any
    wasm_module: str | None = None
    requirements: RequirementsBody = RequirementsBody()
    away: AwayBody = AwayBody()
