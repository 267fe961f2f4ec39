"""This node for programs: what it is, where it stands with its links, what it did lately.

Agents ask here whether they are online; the answer needs no store.
"""

from collections.abc import Awaitable, Callable

import msgspec

from ambientd.api.router import Answer, QueryParameter, Route
from ambientd.ports.http import Request
from ambientd.wire.connectivity_messages import ActivityPage, HeartbeatsPage, NodeView
from ambientd.wire.routes import (
    ACTIVITY_DEFAULT,
    ACTIVITY_MAX,
    HEARTBEATS_MAX,
    NODE,
    NODE_ACTIVITY,
    NODE_HEARTBEATS,
)


class NodeSources(msgspec.Struct, frozen=True, kw_only=True):
    """Where the answers come from; the first two answer from memory."""

    node: Callable[[], NodeView]
    heartbeats: Callable[[int], HeartbeatsPage]
    activity: Callable[[int], Awaitable[ActivityPage]]


def _limit(most: int) -> tuple[QueryParameter, ...]:
    return (QueryParameter(name="limit", doc="How many at most.", kind="integer", minimum=1, maximum=most),)


def node_routes(sources: NodeSources) -> tuple[Route, ...]:
    """`/api/v1/node`, `/heartbeats` and `/activity`."""

    async def node(request: Request) -> Answer:
        return sources.node()

    async def heartbeats(request: Request) -> Answer:
        return sources.heartbeats(int(request.query.get("limit", HEARTBEATS_MAX)))

    async def activity(request: Request) -> Answer:
        return await sources.activity(int(request.query.get("limit", ACTIVITY_DEFAULT)))

    return (
        Route(
            method="GET",
            path=NODE,
            handler=node,
            summary="This node: what it is, its links, and what their state allows now.",
            answers={200: NodeView},
        ),
        Route(
            method="GET",
            path=NODE_HEARTBEATS,
            handler=heartbeats,
            summary="The last beats of this process, the newest first.",
            query=_limit(HEARTBEATS_MAX),
            answers={200: HeartbeatsPage},
        ),
        Route(
            method="GET",
            path=NODE_ACTIVITY,
            handler=activity,
            summary="Sessions and changes of the links in the last 24 hours, the newest first.",
            query=_limit(ACTIVITY_MAX),
            answers={200: ActivityPage},
        ),
    )
