"""The registry over HTTP: registration, lists, deletion, rejection."""

from ambientd.api.fleet.answers import created
from ambientd.api.fleet.principal import Machine, Person, for_people, principal_of
from ambientd.api.fleet.scope import about_node, actor_of, own_reach
from ambientd.api.fleet.views import listed, view_event, view_history, view_node
from ambientd.api.router import Access, Answer, QueryParameter, Route
from ambientd.core.fleet.cursor import decode_cursor, encode_cursor
from ambientd.core.fleet.records import NodeQuery
from ambientd.core.fleet.registration import check_registration
from ambientd.flows.fleet.nodes import Registry
from ambientd.flows.fleet.reach import Reach
from ambientd.ports.errors import Rejected
from ambientd.ports.http import Request
from ambientd.wire.fleet_api_messages import ActivityAnswer, HistoryAnswer, NodeDone, NodeInfo
from ambientd.wire.fleet_enums import NodeStatus, NodeType, Role
from ambientd.wire.fleet_messages import NodeRegistration
from ambientd.wire.messages import ErrorDetail

NODES = "/api/v1/nodes"
NODE = NODES + "/{node_id}"
PAGE_MAX = 500
EVENTS_MAX = 50
RESERVED_IDS = frozenset({"enrol"})  # names of routes beside the nodes

LIMIT = QueryParameter(name="limit", doc="Rows at most.", kind="integer", minimum=1, maximum=PAGE_MAX)
CURSOR = QueryParameter(name="cursor", doc="Where the page before ended: its header X-Next-Cursor.")


def reserved(node_id: str) -> Rejected | None:
    """Why a node cannot have this id, when a route has it."""
    if node_id not in RESERVED_IDS:
        return None
    detail = ErrorDetail("node_id", "reserved", "is a word of this API; choose another id")
    return Rejected("VALIDATION_ERROR", "the registration is not valid", (detail,))


def node_routes(registry: Registry) -> tuple[Route, ...]:
    """All of them."""
    return (*_registry_routes(registry), *_one_node_routes(registry), *_history_routes(registry))


def _registry_routes(registry: Registry) -> tuple[Route, ...]:
    async def register(person: Person, _request: Request, body: NodeRegistration) -> Answer:
        node = check_registration(body, person.user_id)
        if isinstance(node, Rejected):
            return node
        outcome = reserved(body.node_id) or await registry.register(node, actor_of(person))
        return outcome if isinstance(outcome, Rejected) else created(view_node(outcome))

    async def list_nodes(request: Request) -> Answer:
        after = decode_cursor(request.query.get("cursor"))
        if isinstance(after, Rejected):
            return after
        found = principal_of(request)
        if isinstance(found, Machine):  # of its owner's nodes it knows itself
            node = await registry.get(own_reach(found))
            return listed(request, [] if isinstance(node, Rejected) else [view_node(node)], None)
        limit = int(request.query.get("limit", "100"))
        mine = found.role is not Role.ADMIN or request.query.get("owner") == "me"
        status, node_type = request.query.get("status"), request.query.get("node_type")
        rows = await registry.page(
            NodeQuery(
                owner_id=found.user_id if mine else None,
                status=None if status is None else NodeStatus(status),
                node_type=None if node_type is None else NodeType(node_type),
                include_rejected=status == NodeStatus.REJECTED,
                limit=limit,
                after=after,
            )
        )
        last = rows[-1] if len(rows) == limit else None
        cursor = None if last is None else encode_cursor(last.registered_at, last.node_id)
        return listed(request, [view_node(row) for row in rows], cursor)

    return (
        Route(
            method="POST",
            path=NODES,
            handler=for_people(register),
            summary="Registers a node, or changes or brings back the owner's node of that id.",
            access=Access.WRITE,
            body=NodeRegistration,
            answers={201: NodeInfo},
            refusals=(409,),
        ),
        Route(
            method="GET",
            path=NODES,
            handler=list_nodes,
            summary="The owner's nodes, newest registration first; administrators see all.",
            query=(
                LIMIT,
                CURSOR,
                QueryParameter(
                    name="status",
                    doc="Only nodes that stand so; rejected ones are listed only when asked for.",
                    choices=tuple(status.value for status in NodeStatus),
                ),
                QueryParameter(
                    name="node_type",
                    doc="Only nodes of this type.",
                    choices=tuple(kind.value for kind in NodeType),
                ),
                QueryParameter(name="owner", doc="Administrators: only their own.", choices=("me",)),
            ),
            answers={200: list[NodeInfo]},
        ),
    )


def _one_node_routes(registry: Registry) -> tuple[Route, ...]:
    async def get(reach: Reach, _request: Request) -> Answer:
        node = await registry.get(reach)
        return node if isinstance(node, Rejected) else view_node(node)

    async def delete(person: Person, request: Request) -> Answer:
        node_id = request.params["node_id"]
        refused = await registry.delete(node_id, person.user_id, actor_of(person))
        return refused or NodeDone("Node deregistered successfully", node_id)

    async def reject(person: Person, request: Request) -> Answer:
        node_id = request.params["node_id"]
        refused = await registry.reject(node_id, person.user_id, actor_of(person))
        return refused or NodeDone("Node rejected", node_id, NodeStatus.REJECTED)

    return (
        Route(
            method="GET",
            path=NODE,
            handler=about_node(get),
            summary="One node.",
            answers={200: NodeInfo},
        ),
        Route(
            method="DELETE",
            path=NODE,
            handler=for_people(delete),
            summary="Takes a node out of the registry; its work goes elsewhere, its owner may bring it back.",
            access=Access.WRITE,
            answers={200: NodeDone},
        ),
        Route(
            method="POST",
            path=NODE + "/reject",
            handler=for_people(reject),
            summary="Refuses a node: its reports no longer make it online.",
            access=Access.WRITE,
            answers={200: NodeDone},
        ),
    )


def _history_routes(registry: Registry) -> tuple[Route, ...]:
    async def activity(reach: Reach, request: Request) -> Answer:
        events = await registry.activity(reach, int(request.query.get("limit", str(EVENTS_MAX))))
        if isinstance(events, Rejected):
            return events
        return ActivityAnswer([view_event(event) for event in events])

    async def history(reach: Reach, request: Request) -> Answer:
        limit = int(request.query.get("limit", "100"))
        before = request.query.get("before")
        rows = await registry.history(reach, limit, None if before is None else int(before))
        if isinstance(rows, Rejected):
            return rows
        following = rows[-1].heartbeat_id if len(rows) == limit else None
        return HistoryAnswer([view_history(row) for row in rows], following)

    return (
        Route(
            method="GET",
            path=NODE + "/heartbeat/activity",
            handler=about_node(activity),
            summary="What happened to work of a node, newest first; outlives the tasks.",
            query=(
                QueryParameter(
                    name="limit", doc="Events at most.", kind="integer", minimum=1, maximum=EVENTS_MAX
                ),
            ),
            answers={200: ActivityAnswer},
        ),
        Route(
            method="GET",
            path=NODE + "/history",
            handler=about_node(history),
            summary="Reports and events of a node, newest first.",
            query=(
                LIMIT,
                QueryParameter(name="before", doc="`next` of the page before.", kind="integer", minimum=1),
            ),
            answers={200: HistoryAnswer},
        ),
    )
