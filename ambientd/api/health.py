"""`/livez` and `/readyz`: open to everybody who can connect, whatever state the store is in."""

from collections.abc import Callable, Sequence

import msgspec

from ambientd.api.router import Access, QueryParameter, Route
from ambientd.core.envelope import error_body
from ambientd.ports.http import Request, Response
from ambientd.wire.messages import ErrorBody, ErrorDetail, Live, Ready, ReadyCheck
from ambientd.wire.routes import LIVEZ, READYZ

_encoder = msgspec.json.Encoder()
_ALIVE = Response(200, _encoder.encode(Live(ok=True)))


class NotReady(msgspec.Struct):
    """`/readyz` at 503: the error envelope, with the keys of the 200 answer beside it."""

    error: ErrorBody
    ready: bool
    checks: list[ReadyCheck]


async def _live(request: Request) -> Response:
    return _ALIVE


def health_routes(checks: Callable[[], Sequence[ReadyCheck]]) -> tuple[Route, ...]:
    """Both routes. `checks` answers without waiting; the node is ready when each is ok.

    `/readyz` names the checks that failed, `/readyz?verbose` all of them.
    """

    async def ready(request: Request) -> Response:
        found = list(checks())
        failed = [check for check in found if not check.ok]
        shown = found if "verbose" in request.query else failed
        if not failed:
            return Response(200, _encoder.encode(Ready(ready=True, checks=shown)))
        reasons = [(check.name, check.reason or "not ready yet") for check in failed]
        error = error_body(
            "NOT_READY",
            "; ".join(reason for _, reason in reasons),
            [ErrorDetail(field=name, issue="not_ready", message=reason) for name, reason in reasons],
            request.request_id,
        )
        answer = NotReady(error=error, ready=False, checks=shown)
        return Response(503, _encoder.encode(answer), headers=(("Retry-After", "2"),))

    return (
        Route(
            method="GET",
            path=LIVEZ,
            handler=_live,
            summary="The process is alive and its loop turns.",
            access=Access.OPEN,
            answers={200: Live},
            ready=False,
        ),
        Route(
            method="GET",
            path=READYZ,
            handler=ready,
            summary="The node can do its work; 503 with the reason while it cannot.",
            access=Access.OPEN,
            query=(QueryParameter(name="verbose", doc="List the checks that hold too.", kind="flag"),),
            answers={200: Ready, 503: NotReady},
            ready=False,
        ),
    )
