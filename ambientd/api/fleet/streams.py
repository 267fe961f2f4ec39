"""What nodes push: audit chain, ledger rows, Δv; and what was pushed, for their owners."""

from collections.abc import Callable
from datetime import datetime

from ambientd.api.fleet.nodes import CURSOR, LIMIT, NODE
from ambientd.api.fleet.scope import about_node, by_node
from ambientd.api.fleet.views import when
from ambientd.api.router import Access, Answer, QueryParameter, Route
from ambientd.core.audit import AuditRecord
from ambientd.core.fleet.cursor import decode_cursor, encode_cursor
from ambientd.core.fleet.pushed import LedgerQueryOfNode, NodeSession, NodeSessionEvent
from ambientd.core.fleet.streams import read_audit, read_delta_v, read_ledger
from ambientd.core.records import UsageRecord
from ambientd.core.timefmt import from_ms, parse_rfc3339, rfc3339_ms
from ambientd.flows.fleet.pushed import Pushed, Taken
from ambientd.flows.fleet.reach import Reach
from ambientd.ports.errors import Rejected
from ambientd.ports.http import Request
from ambientd.wire.enums import SessionStatus
from ambientd.wire.fleet_push_messages import (
    AuditAnswer,
    AuditBody,
    AuditPush,
    DeltaVAnswer,
    DeltaVPush,
    DeltaVView,
    EventBody,
    LedgerPush,
    LeftOut,
    NodeLedgerPage,
    NodeSessionDetail,
    NodeSessionView,
    NodeUsageAnswer,
    StreamAnswer,
    StreamsAnswer,
    StreamView,
    UsageBody,
)
from ambientd.wire.messages import ErrorDetail

LEDGER = NODE + "/ledger"
BODY_MAX = 4 * 1024 * 1024
_SINCE = QueryParameter(name="from", doc="Since this instant (RFC 3339).")
_UNTIL = QueryParameter(name="to", doc="Before this instant (RFC 3339).")


def stream_routes(pushed: Pushed, now: Callable[[], datetime]) -> tuple[Route, ...]:
    """All of them; `now` is the wall clock."""
    return (*_push_routes(pushed), *_ledger_routes(pushed), *_other_routes(pushed, now))


def _push_routes(pushed: Pushed) -> tuple[Route, ...]:
    async def audit(reach: Reach, _request: Request, body: AuditPush) -> Answer:
        records = read_audit(body)
        taken = records if isinstance(records, Rejected) else await pushed.audit(reach, records)
        if isinstance(taken, Rejected):
            return taken
        return AuditAnswer(taken.acked_seq, taken.head_hash, taken.taken, taken.duplicates)

    async def ledger(reach: Reach, _request: Request, body: LedgerPush) -> Answer:
        entries = read_ledger(body)
        return _acked(
            entries if isinstance(entries, Rejected) else await pushed.ledger(reach, body.after, entries)
        )

    async def delta_v(reach: Reach, _request: Request, body: DeltaVPush) -> Answer:
        entries = read_delta_v(body)
        return _acked(
            entries if isinstance(entries, Rejected) else await pushed.delta_v(reach, body.after, entries)
        )

    return (
        Route(
            method="POST",
            path=NODE + "/audit",
            handler=by_node(audit),
            summary="Records of the node's audit chain, behind those that are here; 409 names the head.",
            access=Access.WRITE,
            body=AuditPush,
            body_max=BODY_MAX,
            answers={200: AuditAnswer},
            refusals=(409,),
        ),
        Route(
            method="POST",
            path=LEDGER,
            handler=by_node(ledger),
            summary="Sessions, events and usage of the node's ledger.",
            access=Access.WRITE,
            body=LedgerPush,
            body_max=BODY_MAX,
            answers={200: StreamAnswer},
            refusals=(409,),
        ),
        Route(
            method="POST",
            path=NODE + "/delta-v",
            handler=by_node(delta_v),
            summary="Windows of the node's Δv.",
            access=Access.WRITE,
            body=DeltaVPush,
            answers={200: StreamAnswer},
            refusals=(409,),
        ),
    )


def _ledger_routes(pushed: Pushed) -> tuple[Route, ...]:
    async def page(reach: Reach, request: Request) -> Answer:
        after = decode_cursor(request.query.get("cursor"))
        if isinstance(after, Rejected):
            return after
        limit, status = int(request.query.get("limit", "100")), request.query.get("status")
        query = LedgerQueryOfNode(
            node_id=reach.node_id,
            status=None if status is None else SessionStatus(status),
            task_id=request.query.get("task_id"),
            limit=limit,
            after=after,
        )
        found = await pushed.sessions(reach, query)
        if isinstance(found, Rejected):
            return found
        rows, more = found
        cursor = encode_cursor(rows[-1].started_at, rows[-1].session_id) if more else None
        return NodeLedgerPage([_view_session(row) for row in rows], cursor)

    async def one(reach: Reach, request: Request) -> Answer:
        after = int(request.query.get("after_event", "0"))
        found = await pushed.session(reach, request.params["session_id"], after)
        if isinstance(found, Rejected):
            return found
        following = found.events[-1].seq if found.more else None
        return NodeSessionDetail(
            _view_session(found.session),
            None if found.usage is None else _view_usage(found.usage),
            [_view_event(event) for event in found.events],
            following,
        )

    return (
        Route(
            method="GET",
            path=LEDGER,
            handler=about_node(page),
            summary="Sessions that a node has pushed, newest start first.",
            query=(
                LIMIT,
                CURSOR,
                QueryParameter(
                    name="status",
                    doc="Only sessions that stand so.",
                    choices=tuple(status.value for status in SessionStatus),
                ),
                QueryParameter(name="task_id", doc="Only sessions of this task."),
            ),
            answers={200: NodeLedgerPage},
        ),
        Route(
            method="GET",
            path=LEDGER + "/{session_id}",
            handler=about_node(one),
            summary="One session of a node with its usage and events.",
            query=(
                QueryParameter(
                    name="after_event", doc="`next_event` of the page before.", kind="integer", minimum=0
                ),
            ),
            answers={200: NodeSessionDetail},
        ),
    )


def _other_routes(pushed: Pushed, now: Callable[[], datetime]) -> tuple[Route, ...]:
    async def usage(reach: Reach, request: Request) -> Answer:
        span = _span(request, now())
        if isinstance(span, Rejected):
            return span
        found = await pushed.totals(reach, *span)
        if isinstance(found, Rejected):
            return found
        return NodeUsageAnswer(found.sessions, found.total_tokens, found.cost_usd, found.runtime_ms)

    async def windows(reach: Reach, request: Request) -> Answer:
        span = _span(request, now())
        if isinstance(span, Rejected):
            return span
        found = await pushed.windows(reach, span[0], int(request.query.get("limit", "100")))
        if isinstance(found, Rejected):
            return found
        return DeltaVAnswer(
            [
                DeltaVView(
                    rfc3339_ms(row.window_start),
                    rfc3339_ms(row.window_end),
                    row.value,
                    row.samples,
                    row.refused,
                    row.source,
                    row.confidence,
                )
                for row in found
            ]
        )

    async def streams(reach: Reach, _request: Request) -> Answer:
        found = await pushed.streams(reach)
        if isinstance(found, Rejected):
            return found
        return StreamsAnswer([StreamView(s.stream, s.acked_seq, rfc3339_ms(s.updated_at)) for s in found])

    async def audit(reach: Reach, request: Request) -> Answer:
        after, limit = int(request.query.get("after", "0")), int(request.query.get("limit", "100"))
        found = await pushed.audit_records(reach, after, limit)
        return found if isinstance(found, Rejected) else AuditPush([view_audit(row) for row in found])

    return (
        Route(
            method="GET",
            path=NODE + "/usage",
            handler=about_node(usage),
            summary="Sums over sessions that a node has pushed.",
            query=(_SINCE, _UNTIL),
            answers={200: NodeUsageAnswer},
        ),
        Route(
            method="GET",
            path=NODE + "/delta-v",
            handler=about_node(windows),
            summary="Windows of Δv that a node has pushed, oldest first.",
            query=(_SINCE, LIMIT),
            answers={200: DeltaVAnswer},
        ),
        Route(
            method="GET",
            path=NODE + "/streams",
            handler=about_node(streams),
            summary="How far each stream of a node is durable here.",
            answers={200: StreamsAnswer},
        ),
        Route(
            method="GET",
            path=NODE + "/audit",
            handler=about_node(audit),
            summary="The node's audit chain as it was pushed, word for word; at its end there are none.",
            query=(
                LIMIT,
                QueryParameter(name="after", doc="Records behind this number.", kind="integer", minimum=0),
            ),
            answers={200: AuditPush},
        ),
    )


def _acked(taken: Taken | Rejected) -> Answer:
    if isinstance(taken, Rejected):
        return taken
    left_out = [LeftOut(seq, reason) for seq, reason in taken.left_out]
    return StreamAnswer(taken.acked_seq, taken.taken, taken.duplicates, left_out)


def _span(request: Request, now: datetime) -> tuple[datetime, datetime] | Rejected:
    """From and to; without them everything until now."""
    problems: list[ErrorDetail] = []
    since, until = _instant(request, "from", problems), _instant(request, "to", problems)
    if problems:
        return Rejected("VALIDATION_ERROR", "the query is not valid", tuple(problems))
    return since or from_ms(0), until or now


def _instant(request: Request, name: str, problems: list[ErrorDetail]) -> datetime | None:
    text = request.query.get(name)
    try:
        return None if text is None else parse_rfc3339(text)
    except ValueError:
        expected = "an RFC 3339 time"
        problems.append(ErrorDetail(name, "format", f"must be {expected} with an offset", expected))
        return None


def _view_session(row: NodeSession) -> NodeSessionView:
    return NodeSessionView(
        session_id=row.session_id,
        agent_id=row.agent_id,
        agent_label=row.agent_label,
        model_id=row.model_id,
        status=row.status,
        started_at=rfc3339_ms(row.started_at),
        ended_at=when(row.ended_at),
        runtime_ms=row.runtime_ms,
        task_id=row.task_id,
        task_title=row.task_title,
        task_category=row.task_category,
        artifact_count=row.artifact_count,
        error_code=row.error_code,
        error_message=row.error_message,
        gateway_session_id=row.gateway_session_id,
    )


def _view_event(row: NodeSessionEvent) -> EventBody:
    return EventBody(
        seq=row.seq,
        event_type=row.event_type,
        at=rfc3339_ms(row.at),
        payload=dict(row.payload),
        event_id=row.event_id,
    )


def _view_usage(row: UsageRecord) -> UsageBody:
    values = {name: getattr(row, name) for name in row.__struct_fields__ if name != "session_id"}
    return UsageBody(**values | {"computed_at": rfc3339_ms(row.computed_at)})


def view_audit(row: AuditRecord) -> AuditBody:
    """A record of a chain."""
    return AuditBody(
        seq=row.seq,
        kind=row.kind,
        at=row.at,
        actor=row.actor,
        subject=row.subject,
        detail=dict(row.detail),
        prev_hash=row.prev_hash,
        hash=row.hash,
    )
