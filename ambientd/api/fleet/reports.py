"""Reports of nodes: the heartbeat, alone or with what waited."""

from collections.abc import Callable
from datetime import datetime

import msgspec

from ambientd.api.fleet.nodes import NODE
from ambientd.api.fleet.scope import about_node, by_node
from ambientd.api.fleet.views import view_outcome
from ambientd.api.router import Access, Answer, Route
from ambientd.core.fleet.records import NodeReport, ReportOutcome
from ambientd.core.fleet.registration import check_report
from ambientd.flows.fleet.nodes import Registry, refusal_of
from ambientd.flows.fleet.reach import Reach
from ambientd.ports.errors import Rejected
from ambientd.ports.http import Request
from ambientd.wire.fleet_api_messages import HeartbeatAnswer, ReportsAnswer, ReportsPush
from ambientd.wire.fleet_messages import ReportBody
from ambientd.wire.messages import ErrorDetail

REPORTS_MAX = 500  # of one request: some milliseconds of the database, 9 hours of a node that was away
_BARE = ReportBody()
_BODY_MAX = 64 * 1024


def report_routes(registry: Registry, now: Callable[[], datetime]) -> tuple[Route, ...]:
    """Both routes; `now` is the wall clock."""

    async def heartbeat(reach: Reach, _request: Request, body: ReportBody | None) -> Answer:
        at = now()
        report = _report(body or _BARE, reach, at)
        if isinstance(report, Rejected):
            return report
        outcome = await registry.report(report)
        return outcome if isinstance(outcome, Rejected) else view_outcome(outcome, at)

    async def reports(reach: Reach, _request: Request, body: ReportsPush) -> Answer:
        found = _reports(body, reach, now())
        if isinstance(found, Rejected):
            return found
        outcomes = await registry.report_all(found)
        refused = next((refusal for one in outcomes if (refusal := refusal_of(one))), None)
        return refused or _summed(found, outcomes)

    return (
        Route(
            method="PUT",
            path=NODE + "/heartbeat",
            handler=about_node(heartbeat, change=True),
            summary="The node is there; a body says how it is. Makes it online again.",
            access=Access.WRITE,
            body=ReportBody,
            optional_body=True,
            body_max=_BODY_MAX,
            answers={200: HeartbeatAnswer},
            refusals=(409,),
        ),
        Route(
            method="POST",
            path=NODE + "/reports",
            handler=by_node(reports),
            summary="Reports that waited, in order; a number that was taken before changes nothing.",
            access=Access.WRITE,
            body=ReportsPush,
            answers={200: ReportsAnswer},
            refusals=(409,),
        ),
    )


def _report(body: ReportBody, reach: Reach, at: datetime) -> NodeReport | Rejected:
    report = check_report(body, reach.node_id, reach.owner_id or "", at)
    if isinstance(report, Rejected) or reach.signed is None:
        return report
    signed = reach.signed
    return msgspec.structs.replace(report, credential_id=signed.credential_id, request_seq=signed.number)


def _reports(body: ReportsPush, reach: Reach, at: datetime) -> list[NodeReport] | Rejected:
    problems: list[ErrorDetail] = []
    found: list[NodeReport] = []
    if not 1 <= len(body.reports) <= REPORTS_MAX:
        expected = f"1 to {REPORTS_MAX} reports"
        problems.append(ErrorDetail("reports", "length", f"must have {expected}", expected))
    last = 0
    for place, one in enumerate(body.reports[:REPORTS_MAX]):
        report = _report(one, reach, at)
        field = f"reports[{place}]"
        if isinstance(report, Rejected):
            problems += [
                msgspec.structs.replace(detail, field=f"{field}.{detail.field}") for detail in report.details
            ]
            continue
        if one.seq is None or one.seq <= last:
            expected = f"> {last}"
            problems.append(ErrorDetail(f"{field}.seq", "order", "must be given and ascend", expected))
        last = one.seq or last
        found.append(report)
    if problems:
        return Rejected("VALIDATION_ERROR", "the reports are not valid", tuple(problems[:100]))
    return found


def _summed(reports: list[NodeReport], outcomes: list[ReportOutcome]) -> ReportsAnswer:
    last = outcomes[-1]
    duplicates = sum(one.duplicate for one in outcomes)
    return ReportsAnswer(
        acked_seq=max(report.seq or 0 for report in reports),
        taken=len(outcomes) - duplicates,
        duplicates=duplicates,
        node_status=last.status,
        active_tasks=len(last.assigned),
        assigned_task_ids=[task.task_id for task in last.assigned],
    )
