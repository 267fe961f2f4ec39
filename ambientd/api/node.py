"""This node: its status as a document or as text, its schema, its retention."""

from collections.abc import Awaitable, Callable

import msgspec

from ambientd.api.control import actor_of
from ambientd.api.router import Access, Answer, QueryParameter, Route
from ambientd.core.statustext import Look, render, render_short
from ambientd.flows.status import StatusSources, gather
from ambientd.ports.errors import Rejected
from ambientd.ports.http import Request, Response
from ambientd.ports.retention import RetentionControl
from ambientd.wire.messages import MigrationsView, RetentionAnswer, RetentionRequest, StatusDocument
from ambientd.wire.routes import HEALTH_HEADER, LONG_POLL_MAX_SEC, MIGRATIONS, RETENTION, STATUS

RETENTION_WAIT_SEC = 2.0  # a short run is answered with its end

_encoder = msgspec.json.Encoder()

STATUS_QUERY = (
    QueryParameter(name="width", doc="Columns of the text form.", kind="integer", minimum=1, maximum=1000),
    QueryParameter(name="color", doc="Colours in the text form.", choices=("0", "1")),
    QueryParameter(name="ascii", doc="No more than ASCII in the text form.", choices=("0", "1")),
    QueryParameter(name="short", doc="One line only in the text form.", choices=("0", "1")),
)

RETENTION_QUERY = (
    QueryParameter(
        name="wait",
        doc="Seconds to wait for the end of the run.",
        kind="integer",
        minimum=0,
        maximum=LONG_POLL_MAX_SEC,
    ),
)


def status_routes(sources: StatusSources) -> tuple[Route, ...]:
    """`GET /api/system/status`; `Accept: text/plain` gives the screen that `ambientctl status` prints."""

    async def status(request: Request) -> Answer:
        document = await gather(sources)
        headers = ((HEALTH_HEADER, document.health.value),)
        if "text/plain" not in request.headers.get("accept", ""):
            return Response(200, _encoder.encode(document), headers=headers)
        query = request.query
        look = Look(
            width=int(query.get("width", "80")),
            colour=query.get("color") == "1",
            ascii_only=query.get("ascii") == "1",
        )
        text = render_short(document, look) if query.get("short") == "1" else render(document, look)
        return Response(200, text.encode(), content_type="text/plain; charset=utf-8", headers=headers)

    return (
        Route(
            method="GET",
            path=STATUS,
            handler=status,
            summary="This node and its agents, as JSON or, with Accept: text/plain, as a screen.",
            query=STATUS_QUERY,
            answers={200: StatusDocument},
        ),
    )


def upkeep_routes(
    retention: RetentionControl, migrations: Callable[[], Awaitable[MigrationsView]]
) -> tuple[Route, ...]:
    """Schema and retention of this node."""

    async def clean(request: Request, body: RetentionRequest) -> Answer:
        actor = actor_of(request.caller)
        if body.dry_run:
            return await retention.preview(actor)
        return await retention.start(body.plan_id, actor, wait=RETENTION_WAIT_SEC)

    async def latest(request: Request) -> Answer:
        found = await retention.latest(wait=int(request.query.get("wait", "0")))
        return found or Rejected("NOT_FOUND", "retention has not run since the node was started")

    async def schema(request: Request) -> Answer:
        return await migrations()

    return (
        Route(
            method="POST",
            path=RETENTION,
            handler=clean,
            summary="Says what retention would remove, as a plan; or runs a plan, whoever waits for it.",
            access=Access.WRITE,
            body=RetentionRequest,
            answers={200: RetentionAnswer},
        ),
        Route(
            method="GET",
            path=RETENTION,
            handler=latest,
            summary="The run of retention that is under way, or the last one; `wait` waits for its end.",
            query=RETENTION_QUERY,
            answers={200: RetentionAnswer},
        ),
        Route(
            method="GET",
            path=MIGRATIONS,
            handler=schema,
            summary="Migrations of the running schema.",
            answers={200: MigrationsView},
        ),
    )
