"""What becomes of reports that come together: pure, from what the registry says of their nodes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ambientd.core.fleet.records import NodeReport
from ambientd.wire.fleet_enums import NodeStatus, ReportRefusal


class ReportingNode(NamedTuple):
    """A node as it stands before its reports."""

    owner_id: str
    status: NodeStatus
    health_score: float
    incarnation: int
    report_seq: int = 0


class ReportingCredential(NamedTuple):
    """A device credential as it stands before its requests."""

    node_id: str
    last_seq: int
    revoked: bool


class Settled(NamedTuple):
    """`refused`: of which reports (by place) nothing is written, and why. `latest`: by node, the place of the
    report that says how it stands now. `advances`: by credential, the highest number that was taken."""

    refused: Mapping[int, ReportRefusal]
    latest: Mapping[str, int]
    advances: Mapping[str, int]


def settle(
    reports: Sequence[NodeReport],
    nodes: Mapping[str, ReportingNode],
    credentials: Mapping[str, ReportingCredential],
) -> Settled:
    """Which reports are taken.

    A signed request's number must be higher than the last one of its credential; its reports all bear it, and
    no other request in `reports` does (the caller sees to that). Nothing of a request that is refused counts.
    """
    refused: dict[int, ReportRefusal] = {}
    latest: dict[str, int] = {}
    advances: dict[str, int] = {}
    for place, report in enumerate(reports):
        refusal = _refuse(report, nodes, credentials, advances)
        if refusal is not None:
            refused[place] = refusal
            continue
        if report.credential_id is not None and report.request_seq is not None:
            advances[report.credential_id] = report.request_seq
        before = latest.get(report.node_id)
        if before is None or (report.seq or 0) >= (reports[before].seq or 0):
            latest[report.node_id] = place
    return Settled(refused, latest, advances)


def _refuse(
    report: NodeReport,
    nodes: Mapping[str, ReportingNode],
    credentials: Mapping[str, ReportingCredential],
    advances: Mapping[str, int],
) -> ReportRefusal | None:
    node = nodes.get(report.node_id)
    if node is None or node.owner_id != report.owner_id:
        return ReportRefusal.NO_NODE
    if report.credential_id is None:
        return None
    credential = credentials.get(report.credential_id)
    if credential is None or credential.revoked or credential.node_id != report.node_id:
        return ReportRefusal.REVOKED
    taken = advances.get(report.credential_id)
    number = report.request_seq or 0
    if number <= credential.last_seq or (taken is not None and number < taken):
        return ReportRefusal.REPLAYED
    return None


def status_after(before: NodeStatus) -> NodeStatus:
    """Any report makes a node online, but for one that its owner has rejected."""
    return NodeStatus.REJECTED if before is NodeStatus.REJECTED else NodeStatus.ONLINE
