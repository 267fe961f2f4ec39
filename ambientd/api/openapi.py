"""The OpenAPI 3.1 document, made from the route table and the wire types."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from ambientd.api.router import Access, QueryParameter, Route
from ambientd.ports.http import Request, Response
from ambientd.wire.errors import ERRORS
from ambientd.wire.messages import ErrorEnvelope
from ambientd.wire.routes import KEY_HEADER, OPENAPI, REQUEST_ID_HEADER

_REF = "#/components/schemas/{name}"


class About(NamedTuple):
    """What a document says of its API besides the routes. `schemes`: securitySchemes, any of which opens a
    route."""

    title: str
    description: str
    schemes: dict[str, Any]


NODE = About(
    title="Ambient node",
    description="The local API of one node, on its Unix socket and on loopback. The Unix socket knows its "
    "callers and wants no key.",
    schemes={
        "secretKey": {
            "type": "apiKey",
            "in": "header",
            "name": KEY_HEADER,
            "description": "The node's secret; needed on TCP only. Without it: 401, whatever else.",
        }
    },
)


def _parameter(parameter: QueryParameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer" if parameter.kind == "integer" else "string"}
    if parameter.minimum is not None:
        schema["minimum"] = parameter.minimum
    if parameter.maximum is not None:
        schema["maximum"] = parameter.maximum
    if parameter.kind == "flag":
        schema["enum"] = ["", "1", "true"]
    elif parameter.choices:
        schema["enum"] = list(parameter.choices)
    return {
        "name": parameter.name,
        "in": "query",
        "description": parameter.doc,
        "required": parameter.required,
        "allowEmptyValue": parameter.kind == "flag",
        "schema": schema,
    }


def _statuses(route: Route) -> list[str]:
    """Error statuses that the router itself can give on this route."""
    found = ["400", "500"]
    if route.access is not Access.OPEN:
        found.append("401")
    if route.access is Access.WRITE:
        found.append(str(ERRORS[route.unauthorized].status))
    if route.parameters:
        found.append("404")
    if route.body is not None:
        found += ["413", "415"]
    if route.ready:
        found.append("503")
    return sorted({*found, *map(str, route.refusals)})


def _answer(status: int, schema: dict[str, Any] | None) -> dict[str, Any]:
    from http import HTTPStatus

    answer: dict[str, Any] = {
        "description": HTTPStatus(status).phrase,
        "headers": {REQUEST_ID_HEADER: {"schema": {"type": "string"}}},
    }
    if schema is not None:
        answer["content"] = {"application/json": {"schema": schema}}
    return answer


class _Writer:
    def __init__(self, routes: tuple[Route, ...], about: About) -> None:
        self.security: list[dict[str, Any]] = [{name: []} for name in about.schemes]
        types: list[Any] = [ErrorEnvelope]
        for route in routes:
            types += [kind for kind in (route.body, *route.kinds.values()) if kind is not None]
        self._types = list(dict.fromkeys(types))
        schemas, self.components = msgspec.json.schema_components(self._types, ref_template=_REF)
        self._schema = dict(zip(self._types, schemas, strict=True))

    def operation(self, route: Route) -> dict[str, Any]:
        answers: dict[str, Any] = {
            status: {"$ref": "#/components/responses/Error"} for status in _statuses(route)
        }
        for status, kind in route.kinds.items():
            answers[str(status)] = _answer(status, None if kind is None else self._schema[kind])
        words = [word for word in route.path.replace("{", "").replace("}", "").split("/") if word]
        operation: dict[str, Any] = {
            "operationId": "_".join([route.method.lower(), *words]).replace(".", "_"),
            "summary": route.summary,
            "x-access": route.access.value,
            "x-needs-ready": route.ready,
            "security": [] if route.access is Access.OPEN else self.security,
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in route.parameters
            ]
            + [_parameter(parameter) for parameter in route.query],
            "responses": dict(sorted(answers.items())),
        }
        if route.body is not None:
            content = {"application/json": {"schema": self._schema[route.body]}}
            operation["requestBody"] = {"required": not route.optional_body, "content": content}
        return operation

    def error_response(self) -> dict[str, Any]:
        return {
            "description": "Every refusal, in one shape.",
            "headers": {REQUEST_ID_HEADER: {"schema": {"type": "string"}}},
            "content": {"application/json": {"schema": self._schema[ErrorEnvelope]}},
        }


def openapi_document(routes: Iterable[Route], *, version: str, about: About = NODE) -> dict[str, Any]:
    """The document as plain values: every route, and every type they name."""
    table = tuple(routes)
    writer = _Writer(table, about)
    paths: dict[str, dict[str, Any]] = {}
    for route in table:
        paths.setdefault(route.path, {})[route.method.lower()] = writer.operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": about.title, "version": version, "description": about.description},
        "paths": paths,
        "security": writer.security,
        "components": {
            "schemas": writer.components,
            "responses": {"Error": writer.error_response()},
            "securitySchemes": about.schemes,
        },
    }


def openapi_route(routes: Callable[[], Iterable[Route]], *, version: str, about: About = NODE) -> Route:
    """`/openapi.json`. The document is made at the first request and kept; `routes` may name itself."""
    kept: list[Response] = []

    async def document(request: Request) -> Response:
        if not kept:
            content = msgspec.json.encode(
                openapi_document(routes(), version=version, about=about), order="sorted"
            )
            kept.append(Response(200, content))
        return kept[0]

    return Route(
        method="GET",
        path=OPENAPI,
        handler=document,
        summary="This document.",
        answers={200: None},
        ready=False,
    )
