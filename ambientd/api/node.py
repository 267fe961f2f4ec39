"""This node: its status as a document or as text, its schema, its retention."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from ambientd.api.errors import FAMILIES
from ambientd.api.router import Access, Answer, Audited, QueryParameter, Route, actor_of
from ambientd.ports.errors import Rejected
from ambientd.ports.http import Request, Response
from ambientd.ports.retention import RetentionControl
from ambientd.ports.statusboard import StatusShots
from ambientd.wire.messages import MigrationsView, RetentionAnswer, RetentionRequest, StatusDocument
from ambientd.wire.routes import (
    HEALTH_HEADER,
    LONG_POLL_MAX_SEC,
    MIGRATIONS,
    RETENTION,
    STATUS,
    STATUS_STREAM,
)

RETENTION_WAIT_SEC = 2.0  # a short run is answered with its end
# Pages that are open at the same time; each costs a connection.
STREAMS_MAX = 16
STREAM_RETRY_MS = 2000

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


def status_routes(board: StatusShots) -> tuple[Route, ...]:
    """`GET /api/system/status` and its stream; `Accept: text/plain` gives the screen of `ambientctl status`.

    Whoever asks on the Unix socket is a person or a script that waits for this one answer, and gets a
    status that was begun after the question. On TCP pages poll, and share one.
    """

    async def status(request: Request) -> Answer:
        shot = await board.latest(fresh=request.caller.transport != "tcp")
        headers = ((HEALTH_HEADER, shot.document.health.value),)
        if "text/plain" not in request.headers.get("accept", ""):
            return Response(200, shot.body, headers=headers)
        from ambientd.core.statustext import Look, render, render_short

        query = request.query
        look = Look(
            width=int(query.get("width", "80")),
            colour=query.get("color") == "1",
            ascii_only=query.get("ascii") == "1",
        )
        document = shot.document
        text = render_short(document, look) if query.get("short") == "1" else render(document, look)
        return Response(200, text.encode(), content_type="text/plain; charset=utf-8", headers=headers)

    async def stream(request: Request) -> Answer:
        if board.followers >= STREAMS_MAX:
            return Rejected("TOO_MANY_REQUESTS", f"{STREAMS_MAX} streams are open; poll {STATUS} instead")
        return Response(200, stream=_framed(board), content_type="text/event-stream", endless=True)

    return (
        Route(
            method="GET",
            path=STATUS,
            handler=status,
            summary="This node and its agents, as JSON or, with Accept: text/plain, as a screen.",
            query=STATUS_QUERY,
            answers={200: StatusDocument},
        ),
        Route(
            method="GET",
            path=STATUS_STREAM,
            handler=stream,
            summary="The same as server-sent events (`status`), now and whenever it has changed.",
            answers={200: None},
            refusals=(429,),
        ),
    )


async def _framed(board: StatusShots) -> AsyncIterator[bytes]:
    """Server-sent events; the JSON is one line. A store that is not ready any more ends the stream: the
    client comes again, and is told why."""
    yield f"retry: {STREAM_RETRY_MS}\n\n".encode()
    following = board.follow()
    try:
        async for shot in following:
            yield b": beat\n\n" if shot is None else b"event: status\ndata: " + shot.body + b"\n\n"
    except FAMILIES:
        return
    finally:
        if isinstance(following, AsyncGenerator):
            await following.aclose()


def upkeep_routes(
    retention: RetentionControl, migrations: Callable[[], Awaitable[MigrationsView]], audited: Audited
) -> tuple[Route, ...]:
    """Schema and retention of this node."""

    async def clean(request: Request, body: RetentionRequest) -> Answer:
        actor = actor_of(request.caller)
        if body.dry_run:
            answer: RetentionAnswer | Rejected = await retention.preview(actor)
        else:
            answer = await retention.start(body.plan_id, actor, wait=RETENTION_WAIT_SEC)
        told: dict[str, object] = {"action": "retention", "actor": actor, "pid": request.caller.pid}
        if isinstance(answer, Rejected):
            audited(**told, refused=answer.code)
        else:
            audited(**told, plan=answer.plan_id, dry_run=body.dry_run)
        return answer

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
            action="retention",
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
