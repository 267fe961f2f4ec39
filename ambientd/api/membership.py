"""`/api/v1/node/membership` and beside it: joining, leaving, the outbox, the control plane's view."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from ambientd.api.router import Access, Answer, Audited, QueryParameter, Route, actor_of
from ambientd.core.canonical import UNREADABLE
from ambientd.core.rejection import Rejected
from ambientd.ports.http import Request
from ambientd.wire.fleet_states import NodeStatus, TaskStatus
from ambientd.wire.outbox_messages import JoinRequest, MembershipView, OutboxView
from ambientd.wire.routes import FLEET_NODES, FLEET_TASKS, MEMBERSHIP, MEMBERSHIP_RENEW, OUTBOX

if TYPE_CHECKING:
    from ambientd.ports.membership import MembershipControl

NEXT_CURSOR = "x-next-cursor"
LIMIT_MAX = 500
_TASK, _ACTIVITY = FLEET_TASKS + "/{task_id}", FLEET_NODES + "/{node_id}/activity"
T = TypeVar("T")
_NO_VIEW = Rejected("CONTROL_UNREACHABLE", "the control plane's answer cannot be understood")
_LIMIT = QueryParameter(name="limit", doc="Rows at most.", kind="integer", minimum=1, maximum=LIMIT_MAX)
_CURSOR = QueryParameter(name="cursor", doc="`next` of the page before.")


def membership_routes(control: "MembershipControl", audited: Audited) -> tuple[Route, ...]:
    """All of them."""
    return (*_own_routes(control, audited), *_fleet_routes(control))


def _own_routes(control: "MembershipControl", audited: Audited) -> tuple[Route, ...]:
    async def view(_request: Request) -> Answer:
        return control.view()

    async def join(request: Request, body: JoinRequest) -> Answer:
        answer = await control.join(body, actor=actor_of(request.caller))
        return _told(audited, request, "control.join", answer)

    async def leave(request: Request) -> Answer:
        answer = await control.leave(actor=actor_of(request.caller))
        return _told(audited, request, "control.leave", answer)

    async def renew(request: Request) -> Answer:
        answer = await control.renew(actor=actor_of(request.caller))
        return _told(audited, request, "control.renew", answer)

    async def outbox(_request: Request) -> Answer:
        return await control.outbox()

    return (
        Route(
            method="GET",
            path=MEMBERSHIP,
            handler=view,
            summary="The control plane that this node belongs to.",
            answers={200: MembershipView},
        ),
        Route(
            method="POST",
            path=MEMBERSHIP,
            handler=join,
            summary="Joins a control plane by a token; the same key may ask again.",
            access=Access.WRITE,
            body=JoinRequest,
            answers={200: MembershipView},
            refusals=(403, 409, 503),
            action="control.join",
        ),
        Route(
            method="DELETE",
            path=MEMBERSHIP,
            handler=leave,
            summary="Leaves the control plane; what waits for it goes.",
            access=Access.WRITE,
            answers={200: MembershipView},
            refusals=(409,),
            action="control.leave",
        ),
        Route(
            method="POST",
            path=MEMBERSHIP_RENEW,
            handler=renew,
            summary="Exchanges the credential for a new one; the old one is given up when that is kept.",
            access=Access.WRITE,
            answers={200: MembershipView},
            refusals=(401, 409, 503),
            action="control.renew",
        ),
        Route(
            method="GET",
            path=OUTBOX,
            handler=outbox,
            summary="What waits for the control plane, by stream.",
            answers={200: OutboxView},
        ),
    )


def _fleet_routes(control: "MembershipControl") -> tuple[Route, ...]:
    async def tasks(request: Request) -> Answer:
        from ambientd.wire.fleet_api_messages import TaskInfo
        from ambientd.wire.fleet_view_messages import FleetTasks

        found = await _listed(control, f"/api/v1/tasks{_query(request)}", list[TaskInfo])
        return found if isinstance(found, Rejected) else FleetTasks(*found)

    async def task(request: Request) -> Answer:
        from ambientd.wire.fleet_api_messages import TaskInfo

        return await _one(control, f"/api/v1/tasks/{_segment(request, 'task_id')}", TaskInfo)

    async def nodes(request: Request) -> Answer:
        from ambientd.wire.fleet_api_messages import NodeInfo
        from ambientd.wire.fleet_view_messages import FleetNodes

        found = await _listed(control, f"/api/v1/nodes{_query(request)}", list[NodeInfo])
        return found if isinstance(found, Rejected) else FleetNodes(*found)

    async def activity(request: Request) -> Answer:
        from ambientd.wire.fleet_api_messages import ActivityAnswer

        target = f"/api/v1/nodes/{_segment(request, 'node_id')}/heartbeat/activity{_query(request)}"
        return await _one(control, target, ActivityAnswer)

    return (
        Route(
            method="GET",
            path=FLEET_TASKS,
            handler=tasks,
            summary="Tasks that this node has or had, as the control plane knows them.",
            query=(
                _LIMIT,
                _CURSOR,
                QueryParameter(
                    name="status",
                    doc="Only tasks that stand so.",
                    choices=tuple(status.value for status in TaskStatus),
                ),
            ),
            answers=partial(_fleet_answers, FLEET_TASKS),
            refusals=(409, 503),
        ),
        Route(
            method="GET",
            path=_TASK,
            handler=task,
            summary="One task, as the control plane knows it.",
            answers=partial(_fleet_answers, _TASK),
            refusals=(404, 409, 503),
        ),
        Route(
            method="GET",
            path=FLEET_NODES,
            handler=nodes,
            summary="The nodes that the control plane shows this one: itself.",
            query=(
                _LIMIT,
                _CURSOR,
                QueryParameter(
                    name="status",
                    doc="Only nodes that stand so.",
                    choices=tuple(status.value for status in NodeStatus),
                ),
            ),
            answers=partial(_fleet_answers, FLEET_NODES),
            refusals=(409, 503),
        ),
        Route(
            method="GET",
            path=_ACTIVITY,
            handler=activity,
            summary="What happened to work of a node, newest first.",
            query=(
                QueryParameter(name="limit", doc="Events at most.", kind="integer", minimum=1, maximum=50),
            ),
            answers=partial(_fleet_answers, _ACTIVITY),
            refusals=(404, 409, 503),
        ),
    )


def _fleet_answers(path: str) -> Mapping[int, Any]:
    """What is answered there. Loaded when somebody asks for it, or for the document."""
    from ambientd.wire.fleet_api_messages import ActivityAnswer, TaskInfo
    from ambientd.wire.fleet_view_messages import FleetNodes, FleetTasks

    kinds = {FLEET_TASKS: FleetTasks, _TASK: TaskInfo, FLEET_NODES: FleetNodes, _ACTIVITY: ActivityAnswer}
    return {200: kinds[path]}


async def _one(control: "MembershipControl", target: str, kind: type[msgspec.Struct]) -> Answer:
    found = await control.ask(target)
    if isinstance(found, Rejected):
        return found
    decoded = _decoded(found.body, kind)
    return _NO_VIEW if decoded is None else decoded


async def _listed(
    control: "MembershipControl", target: str, kind: type[list[T]]
) -> tuple[list[T], str | None] | Rejected:
    found = await control.ask(target)
    if isinstance(found, Rejected):
        return found
    rows = _decoded(found.body, kind)
    return _NO_VIEW if rows is None else (rows, found.headers.get(NEXT_CURSOR))


def _decoded(raw: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except UNREADABLE:
        return None


def _query(request: Request) -> str:
    return "?" + urlencode(request.query, quote_via=quote) if request.query else ""


def _segment(request: Request, name: str) -> str:
    return quote(request.params[name], safe="")


def _told(
    audited: Audited, request: Request, action: str, answer: MembershipView | Rejected
) -> MembershipView | Rejected:
    facts = (
        {"refused": answer.code}
        if isinstance(answer, Rejected)
        else {"url": answer.url or "", "node": answer.node_id or ""}
    )
    audited(action=action, actor=actor_of(request.caller), pid=request.caller.pid, **facts)
    return answer
