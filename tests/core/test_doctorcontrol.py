import msgspec
import pytest

from ambientd.core.doctorcontrol import judge_known, judge_reply, judge_told
from ambientd.core.outbox import Reply
from ambientd.wire.autonomy_messages import ControlStatus
from ambientd.wire.doctor_messages import CheckResult
from ambientd.wire.fleet_api_messages import NodeInfo
from ambientd.wire.fleet_enums import NodeStatus, NodeType
from ambientd.wire.fleet_messages import CapabilitiesBody
from ambientd.wire.messages import Problem
from tests.core.test_statustext import document

URL = "https://cp.example.net"
AT = "2026-11-20T15:39:48.000Z"
NODE = NodeInfo(
    node_id="edge-1",
    region="eu",
    node_type=NodeType.ANY,
    capabilities=CapabilitiesBody(bandwidth_mbps=100, cpu_cores=2, memory_gb=4),
    owner_id="o",
    health_score=100,
    status=NodeStatus.ONLINE,
    registered_at=AT,
    last_seen=AT,
    observability_port=None,
    last_heartbeat=AT,
    state=None,
    delta_v=None,
    audit_head_seq=None,
    audit_head_hash=None,
    report_interval_sec=60,
    report_seq=1,
    incarnation=1,
    updated_at=AT,
)
KNOWN = f"{URL} answers in 9ms and knows this node as edge-1 (online)"
STATUS = document(control=ControlStatus(connected=True, url=URL, node_id="edge-1"), problems=[])


def test_a_node_that_is_known_there_is_well() -> None:
    assert judge_told(STATUS, NODE, ("", ""), 9) == (CheckResult.OK, KNOWN, None)


@pytest.mark.parametrize("words", [f"{URL}: connection refused", "connection refused"])
def test_an_answer_that_did_not_come_says_why(words: str) -> None:
    found = judge_told(STATUS, None, ("CONTROL_UNREACHABLE", words), 9)
    assert (found.result, found.text) == (CheckResult.FAIL, f"{URL}: connection refused")
    assert "firewall" in (found.remedy or "")


def test_a_credential_that_counts_no_longer_is_named_with_the_way_back() -> None:
    by_daemon = judge_told(STATUS, None, ("NOT_AUTHENTICATED", "whatever"), 9)
    assert by_daemon == judge_reply(URL, Reply(401, "NOT_AUTHENTICATED", "this needs a token"))
    assert by_daemon.result is CheckResult.FAIL
    assert "another machine has joined" in by_daemon.text
    assert f"ambientctl join {URL}" in (by_daemon.remedy or "")


def test_another_refusal_is_told_as_it_came() -> None:
    found = judge_reply(URL, Reply(503, "NOT_READY", "migrations run"))
    assert (found.result, found.text) == (CheckResult.FAIL, f"{URL} answered 503 NOT_READY: migrations run")


def test_what_the_daemon_cannot_tell_it_is_a_warning() -> None:
    problem = Problem("control.audit", "warning", "audit cannot be told", "")
    status = msgspec.structs.replace(STATUS, problems=[problem])
    found = judge_told(status, NODE, ("", ""), 9)
    assert (found.result, found.text) == (CheckResult.WARN, f"{KNOWN}; audit cannot be told")
    assert "join --name" in (found.remedy or "")
    other = msgspec.structs.replace(STATUS, problems=[Problem("alert.x", "warning", "x", "")])
    assert judge_told(other, NODE, ("", ""), 9).result is CheckResult.OK


def test_a_rejected_node_is_told_that_it_gets_no_work() -> None:
    rejected = msgspec.structs.replace(NODE, status=NodeStatus.REJECTED)
    found = judge_known(URL, rejected, 9)
    assert (found.result, "gets no work" in found.text) == (CheckResult.WARN, True)
    assert judge_known(URL, None, 9).result is CheckResult.FAIL
