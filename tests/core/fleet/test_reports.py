"""What becomes of reports that come together."""

from datetime import UTC, datetime
from typing import Any

from ambientd.core.fleet.records import NodeReport
from ambientd.core.fleet.reports import ReportingCredential, ReportingNode, settle, status_after
from ambientd.wire.fleet_enums import NodeStatus, ReportRefusal

AT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
NODES = {"n1": ReportingNode("ann", NodeStatus.ONLINE, 100.0, 1)}


def report(**fields: Any) -> NodeReport:
    facts: dict[str, Any] = {"node_id": "n1", "owner_id": "ann", "at": AT}
    return NodeReport(**(facts | fields))


def signed(number: int, **fields: Any) -> NodeReport:
    return report(credential_id="c1", request_seq=number, **fields)


def test_the_highest_number_says_how_a_node_stands() -> None:
    found = settle([report(seq=3), report(seq=9), report(seq=5), report()], NODES, {})
    assert found.latest == {"n1": 1}
    assert settle([report(), report()], NODES, {}).latest == {"n1": 1}


def test_reports_for_another_owners_node_are_as_those_for_none() -> None:
    found = settle([report(owner_id="bob"), report(node_id="n2"), report()], NODES, {})
    assert found.refused == {0: ReportRefusal.NO_NODE, 1: ReportRefusal.NO_NODE}
    assert found.latest == {"n1": 2}


def test_all_reports_of_a_request_bear_its_number_and_it_is_taken_once() -> None:
    good = {"c1": ReportingCredential("n1", 4, False)}
    found = settle([signed(5, seq=1), signed(5, seq=2)], NODES, good)
    assert (found.refused, found.advances) == ({}, {"c1": 5})
    found = settle([signed(4), signed(6), signed(5)], NODES, good)
    assert found.refused == {0: ReportRefusal.REPLAYED, 2: ReportRefusal.REPLAYED}
    assert found.advances == {"c1": 6}


def test_a_credential_that_is_unknown_revoked_or_another_nodes_takes_nothing() -> None:
    for credentials in (
        {},
        {"c1": ReportingCredential("n1", 0, True)},
        {"c1": ReportingCredential("n2", 0, False)},
    ):
        found = settle([signed(1)], NODES, credentials)
        assert (found.refused, found.latest, found.advances) == ({0: ReportRefusal.REVOKED}, {}, {})


def test_any_report_brings_a_node_back_but_a_rejected_one() -> None:
    assert {before: status_after(before) for before in NodeStatus} == {
        NodeStatus.ONLINE: NodeStatus.ONLINE,
        NodeStatus.UNKNOWN: NodeStatus.ONLINE,
        NodeStatus.OFFLINE: NodeStatus.ONLINE,
        NodeStatus.REJECTED: NodeStatus.REJECTED,
    }
