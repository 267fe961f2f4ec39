"""What registrations, reports and tasks may hold."""

import base64
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.fleet.checks import Problems
from ambientd.core.fleet.jsonlimits import JsonLimits, check_json
from ambientd.core.fleet.records import NewNode, NewTask, NodeReport
from ambientd.core.fleet.registration import check_registration, check_report, is_node_id
from ambientd.core.fleet.submission import check_submission
from ambientd.core.fleet.tasktypes import TASK_TYPES
from ambientd.core.rejection import Rejected
from ambientd.wire.fleet_enums import AwayPolicy, NodeType
from ambientd.wire.fleet_messages import NodeRegistration, ReportBody, TaskSubmission

AT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
NODE: dict[str, Any] = {
    "node_id": "edge-07_a",
    "region": "eu-west",
    "node_type": "compute",
    "capabilities": {"bandwidth_mbps": 100.0, "cpu_cores": 8, "memory_gb": 32.0, "gpu_available": True},
}
CONNECT = {
    "session_id": "s1",
    "requester_id": "r1",
    "duration_seconds": 600,
    "bandwidth_limit_mbps": 10.5,
    "egress_profile": "allowlist_domains",
    "destination_policy_id": "p1",
}


def registration(**change: Any) -> NewNode | Rejected:
    has = NODE["capabilities"] | change.pop("capabilities", {})
    return check_registration(msgspec.convert(NODE | {"capabilities": has} | change, NodeRegistration), "ann")


def submission(**body: Any) -> NewTask | Rejected:
    facts = {"task_type": "computation", "inputs": {}} | body
    return check_submission(msgspec.convert(facts, TaskSubmission), task_id="t1", creator_id="ann", at=AT)


def fields(outcome: object) -> list[tuple[str, str]]:
    assert isinstance(outcome, Rejected), outcome
    assert outcome.code == "VALIDATION_ERROR"
    return [(detail.field, detail.issue) for detail in outcome.details]


def test_a_valid_registration_becomes_a_node() -> None:
    node = registration(observability_port=9090, report_interval_sec=30)
    assert isinstance(node, NewNode)
    assert (node.owner_id, node.node_type, node.report_interval_ms) == ("ann", NodeType.COMPUTE, 30_000)
    assert (node.capabilities.cpu_cores, node.capabilities.gpu_available) == (8, True)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"node_id": ""}, "node_id"),
        ({"node_id": "a" * 65}, "node_id"),
        ({"node_id": "a/b"}, "node_id"),
        ({"node_id": "a b"}, "node_id"),
        ({"region": ""}, "region"),
        ({"region": "   "}, "region"),
        ({"region": "e" * 33}, "region"),
        ({"region": "eu\x1b[31m"}, "region"),
        ({"region": "eu\n"}, "region"),
        ({"region": "\u202eeu"}, "region"),
        ({"node_type": "quantum"}, "node_type"),
        ({"capabilities": {"bandwidth_mbps": 9.9}}, "capabilities.bandwidth_mbps"),
        ({"capabilities": {"bandwidth_mbps": float("nan")}}, "capabilities.bandwidth_mbps"),
        ({"capabilities": {"cpu_cores": 0}}, "capabilities.cpu_cores"),
        ({"capabilities": {"cpu_cores": 257}}, "capabilities.cpu_cores"),
        ({"capabilities": {"memory_gb": 2049}}, "capabilities.memory_gb"),
        ({"observability_port": 0}, "observability_port"),
        ({"observability_port": 65_536}, "observability_port"),
        ({"report_interval_sec": 0}, "report_interval_sec"),
    ],
)
def test_what_a_registration_may_not_hold(change: dict[str, Any], expected: str) -> None:
    assert {field for field, _ in fields(registration(**change))} == {expected}


def test_everything_that_is_wrong_is_told_at_once_in_order() -> None:
    found = fields(registration(node_id="", region="\0", node_type="x", capabilities={"cpu_cores": 0}))
    assert [field for field, _ in found] == ["capabilities.cpu_cores", "node_id", "node_type", "region"]


@given(st.text(max_size=70))
def test_a_node_id_is_safe_wherever_it_is_shown(text: str) -> None:
    if is_node_id(text):
        assert 1 <= len(text.encode()) <= 64
        assert text.isprintable()
        assert not set(text) & set("/<>\"'&%.\\ ")


def test_a_bare_report_is_valid_and_a_full_one_reads_back() -> None:
    bare = check_report(ReportBody(), "n1", "ann", AT)
    assert bare == NodeReport(node_id="n1", owner_id="ann", at=AT)
    body = ReportBody(
        seq=7, at="2026-11-20T11:00:00Z", cpu_usage=12.5, audit_head_hash="a" * 64, report_interval_sec=30
    )
    full = check_report(body, "n1", "ann", AT)
    assert isinstance(full, NodeReport)
    assert (full.seq, full.report_interval_ms, full.cpu_usage) == (7, 30_000, 12.5)
    assert full.sampled_at == datetime(2026, 11, 20, 11, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seq": 0}, "seq"),
        ({"seq": 2**63}, "seq"),
        ({"cpu_usage": 100.1}, "cpu_usage"),
        ({"memory_usage": -0.1}, "memory_usage"),
        ({"health_score": float("nan")}, "health_score"),
        ({"network_latency_ms": -1}, "network_latency_ms"),
        ({"delta_v": float("inf")}, "delta_v"),
        ({"delta_v": -1.0}, "delta_v"),
        ({"audit_head_hash": "A" * 64}, "audit_head_hash"),
        ({"audit_head_seq": -1}, "audit_head_seq"),
        ({"at": "yesterday"}, "at"),
        ({"metadata": {"a": {"b": {"c": {"d": {}}}}}}, "metadata"),
        ({"metadata": {"a": "x" * 5_000}}, "metadata"),
        ({"metadata": {"a": "nul \0"}}, "metadata"),
    ],
)
def test_what_a_report_may_not_hold(change: dict[str, Any], expected: str) -> None:
    assert {f for f, _ in fields(check_report(ReportBody(**change), "n1", "ann", AT))} == {expected}


@pytest.mark.parametrize("name", sorted(set(TASK_TYPES) - {"connect_only", "agent_session"}))
def test_each_type_of_task_can_be_submitted(name: str) -> None:
    module = base64.b64encode(b"\0asm").decode() if TASK_TYPES[name].needs_wasm else None
    task = submission(task_type=name, wasm_module=module, inputs={"n": [1, 2, {"x": "y"}]})
    assert isinstance(task, NewTask)
    assert task.requirements.max_execution_time_sec == TASK_TYPES[name].max_time_sec


def test_an_agent_session_takes_a_long_prompt_and_the_spools_fields() -> None:
    inputs = {"agent_id": "reviewer", "prompt": "x" * 100_000, "model": "m-1", "title": "t", "category": "c"}
    assert isinstance(submission(task_type="agent_session", inputs=inputs), NewTask)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({}, {("inputs.agent_id", "required"), ("inputs.prompt", "required")}),
        ({"agent_id": "a", "prompt": ""}, {("inputs.prompt", "length")}),
        ({"agent_id": "a", "prompt": 7}, {("inputs.prompt", "type")}),
        ({"agent_id": "a", "prompt": "p", "requires": []}, {("inputs.requires", "unknown")}),
        ({"agent_id": "a", "prompt": "p", "title": "t" * 201}, {("inputs.title", "length")}),
        (["a"], {("inputs", "type")}),
    ],
)
def test_what_an_agent_session_may_not_hold(inputs: Any, expected: set[tuple[str, str]]) -> None:
    assert set(fields(submission(task_type="agent_session", inputs=inputs))) == expected


def test_what_an_agent_says_cannot_be_proved() -> None:
    inputs = {"agent_id": "reviewer", "prompt": "p"}
    asks = {"min_nodes": 2, "require_gpu": True, "require_proof": True}
    found = fields(submission(task_type="agent_session", inputs=inputs, requirements=asks))
    assert found == [("requirements.require_proof", "enum")]


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"task_type": "inference"}, ("task_type", "enum")),
        ({"task_type": "wasm_execution"}, ("wasm_module", "required")),
        ({"wasm_module": "no base64!"}, ("wasm_module", "format")),
        ({"inputs": nested(17)}, ("inputs", "depth")),
        ({"inputs": list(range(1001))}, ("inputs", "items")),
        ({"inputs": {"k" * 257: 1}}, ("inputs", "length")),
        ({"inputs": {"k": "x" * 10_001}}, ("inputs", "length")),
        ({"inputs": {"k": "a\0b"}}, ("inputs", "encoding")),
        ({"requirements": {"min_nodes": 0}}, ("requirements.min_nodes", "range")),
        ({"requirements": {"min_nodes": 1001}}, ("requirements.min_nodes", "range")),
        (
            {"requirements": {"max_execution_time_sec": 3601}},
            ("requirements.max_execution_time_sec", "range"),
        ),
        ({"away": {"policy": "run"}}, ("away.policy", "enum")),
        ({"away": {"policy": "move"}}, ("away.after_sec", "required")),
        ({"away": {"policy": "stop", "after_sec": 59}}, ("away.after_sec", "range")),
    ],
)
def test_what_a_task_may_not_hold(change: dict[str, Any], expected: tuple[str, str]) -> None:
    assert fields(submission(**change)) == [expected]


def test_limits_are_met_exactly() -> None:
    for inputs in (nested(16), list(range(1000)), {"k" * 256: "x" * 10_000}):
        assert isinstance(submission(inputs=inputs), NewTask)
    away = submission(away={"policy": "move", "after_sec": 60})
    assert isinstance(away, NewTask)
    assert (away.away.policy, away.away.after_ms) == (AwayPolicy.MOVE, 60_000)


def test_a_type_bounds_the_size_of_its_inputs() -> None:
    inputs = ["x" * 10_000] * 600  # about 6 MB
    assert fields(submission(task_type="feen_connectivity", inputs=inputs)) == [("inputs", "length")]
    assert isinstance(submission(task_type="computation", inputs=inputs), NewTask)


def test_a_connect_task_has_exactly_its_fields() -> None:
    assert isinstance(submission(task_type="connect_only", inputs=CONNECT), NewTask)
    found = fields(submission(task_type="connect_only", inputs={"session_id": "", "extra": 1}))
    assert ("inputs.extra", "unknown") in found
    assert ("inputs.session_id", "length") in found
    assert {f for f, issue in found if issue == "required"} == {
        f"inputs.{name}" for name in CONNECT if name != "session_id"
    }


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"duration_seconds": 0}, ("inputs.duration_seconds", "range")),
        ({"duration_seconds": 3601}, ("inputs.duration_seconds", "range")),
        ({"duration_seconds": 1.5}, ("inputs.duration_seconds", "type")),
        ({"duration_seconds": True}, ("inputs.duration_seconds", "type")),
        ({"bandwidth_limit_mbps": 10_001}, ("inputs.bandwidth_limit_mbps", "range")),
        ({"egress_profile": "anything"}, ("inputs.egress_profile", "enum")),
        ({"requester_id": "r" * 129}, ("inputs.requester_id", "length")),
        ({"destination_policy_id": 7}, ("inputs.destination_policy_id", "type")),
    ],
)
def test_each_field_of_a_connect_task_is_checked(change: dict[str, Any], expected: tuple[str, str]) -> None:
    assert fields(submission(task_type="connect_only", inputs=CONNECT | change)) == [expected]


def test_a_connect_task_is_for_one_node_without_extras() -> None:
    asks = {"min_nodes": 2, "require_gpu": True, "require_proof": True}
    found = fields(submission(task_type="connect_only", inputs=CONNECT, requirements=asks))
    assert [field for field, _ in found] == [
        "requirements.min_nodes",
        "requirements.require_gpu",
        "requirements.require_proof",
    ]
    assert fields(submission(task_type="connect_only", inputs=[])) == [("inputs", "type")]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
)


@given(JSON)
def test_a_document_is_refused_exactly_when_it_passes_a_limit(value: Any) -> None:
    limits = JsonLimits(depth=3, items=3, key_bytes=2, string_bytes=3, total_bytes=60)

    def fits(part: Any, level: int) -> bool:
        if isinstance(part, str):
            return len(part.encode(errors="surrogatepass")) <= 3 and "\0" not in part
        if isinstance(part, list):
            return level <= 3 and len(part) <= 3 and all(fits(inner, level + 1) for inner in part)
        if isinstance(part, dict):
            keys = all(len(key.encode(errors="surrogatepass")) <= 2 and "\0" not in key for key in part)
            inner = all(fits(inner, level + 1) for inner in part.values())
            return level <= 3 and len(part) <= 3 and keys and inner
        return True

    problems = Problems()
    check_json(problems, "v", value, limits)
    expected = fits(value, 1) and len(msgspec.json.encode(value)) <= 60
    assert (problems.details() == ()) is expected
