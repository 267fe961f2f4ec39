"""A small application with one route of each kind."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import trio

from ambientd.api.health import health_routes
from ambientd.api.openapi import openapi_route
from ambientd.api.router import Access, QueryParameter, Route, build_application
from ambientd.ports.errors import Rejected, StoreBusyError, StoreError, StoreFullError, UnavailableError
from ambientd.ports.http import Application, HttpLog, Request, Response
from ambientd.wire.messages import ReadyCheck
from tests.fakes.http_log import ListHttpLog


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    """Part of a body."""

    size: int
    label: str | None = None


class Order(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """A body."""

    agent_id: str
    count: int = 1
    price: float = 0.0
    parts: list[Inner] = msgspec.field(default_factory=list)
    extra: dict[str, Any] = msgspec.field(default_factory=dict)


class Echo(msgspec.Struct):
    """An answer."""

    text: str


FAULTS: dict[str, Exception] = {
    "defect": RuntimeError("a secret of the handler"),
    "busy": StoreBusyError("the database is busy"),
    "full": StoreFullError("the disk is full"),
    "store": StoreError("the schema is newer"),
    "away": UnavailableError("the runner is away"),
    "group": ExceptionGroup("several", [KeyError("one")]),
}


async def echo(request: Request) -> Echo:
    return Echo(text=request.params["word"] + request.query.get("suffix", ""))


async def fail(request: Request) -> Response:
    raise FAULTS[request.params["kind"]]


async def reject(request: Request) -> Rejected:
    return Rejected("NOTHING_RUNS", "it has already ended")


async def order(request: Request, body: Order) -> Echo:
    return Echo(text=f"{body.count} for {body.agent_id}")


async def big(request: Request) -> Response:
    return Response(200, b"x" * int(request.query["size"]), "text/plain")


async def slow(request: Request) -> Response:
    await trio.sleep(float(request.params["seconds"]))
    return Response(200, b"late", "text/plain")


async def count_up(request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        for number in range(int(request.params["to"])):
            yield b"%d\n" % number
            await trio.sleep(1)

    return Response(200, content_type="text/event-stream", stream=parts())


async def tear(request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        yield b"begun\n"
        raise RuntimeError("a defect in the middle")

    return Response(200, content_type="text/plain", stream=parts())


async def split(request: Request) -> Response:
    return Response(200, b"", headers=(("X-Bad", "a\r\nSet-Cookie: b"),))


SIZE = QueryParameter(name="size", doc="Bytes.", kind="integer", required=True, minimum=0, maximum=50_000_000)
SUFFIX = QueryParameter(name="suffix", doc="Appended.")
SORT = QueryParameter(name="sort", doc="Order.", choices=("up", "down"))


def routes(checks: Callable[[], list[ReadyCheck]] = list) -> list[Route]:
    """The table; the OpenAPI route describes itself too."""
    table: list[Route] = [
        *health_routes(checks),
        Route(
            method="GET",
            path="/echo/{word}",
            handler=echo,
            summary="Says it again.",
            query=(SUFFIX, SORT),
            answers={200: Echo},
        ),
        Route(
            method="POST",
            path="/order",
            handler=order,
            summary="Takes an order.",
            access=Access.WRITE,
            body=Order,
            answers={200: Echo},
        ),
        Route(method="DELETE", path="/order", handler=reject, summary="Refuses.", access=Access.WRITE),
        Route(method="GET", path="/fail/{kind}", handler=fail, summary="Fails.", ready=False),
        Route(method="GET", path="/big", handler=big, summary="Much.", query=(SIZE,), ready=False),
        Route(method="GET", path="/slow/{seconds}", handler=slow, summary="Late.", ready=False),
        Route(method="GET", path="/count/{to}", handler=count_up, summary="Streams.", ready=False),
        Route(method="GET", path="/tear", handler=tear, summary="Breaks.", ready=False),
        Route(method="GET", path="/split", handler=split, summary="A bad header.", ready=False),
    ]
    table.append(openapi_route(lambda: table, version="0.1.0"))
    return table


def build(
    *,
    log: HttpLog | None = None,
    reason: str | None = None,
    checks: Callable[[], list[ReadyCheck]] = list,
) -> Application:
    """The application; `reason` makes it not ready."""
    return build_application(
        routes(checks), readiness=lambda: reason, log=log or ListHttpLog(), admin_group="ambient-admin"
    )
