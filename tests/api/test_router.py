"""The router without a socket: values in, values out."""

import locale
from typing import Any

import msgspec
import pytest

from ambientd.api.router import Access, Route, RouteTable, build_application
from ambientd.ports.http import Caller, Request, Response
from ambientd.wire.errors import ERRORS
from tests.fakes import http_app
from tests.fakes.http_log import ListHttpLog
from tests.fakes.http_rig import READER, WRITER

JSON = {"content-type": "application/json"}
GOOD = b'{"agentId":"a"}'


def request(
    method: str,
    path: str,
    *,
    query: dict[str, str] | None = None,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    caller: Caller = WRITER,
) -> Request:
    return Request(
        method=method,
        path=path,
        query=query or {},
        headers=headers or {},
        body=body,
        caller=caller,
        request_id="r-1",
    )


async def ask(
    asked: Request, *, reason: str | None = None, log: ListHttpLog | None = None
) -> tuple[Response, Any]:
    response = await http_app.build(reason=reason, log=log)(asked)
    return response, msgspec.json.decode(response.body) if response.body else None


def code_of(document: Any) -> str:
    """The code, after checking the shape of the envelope (R3.94, R3.160)."""
    assert set(document) == {"error"}
    error = document["error"]
    assert set(error) == {"code", "message", "details", "requestId"}
    assert error["requestId"] == "r-1"
    assert error["message"]
    for detail in error["details"]:
        assert set(detail) <= {"field", "issue", "message", "expected"}
        assert {"field", "issue", "message"} <= set(detail)
    assert [(d["field"], d["issue"]) for d in error["details"]] == sorted(
        (d["field"], d["issue"]) for d in error["details"]
    )
    return str(error["code"])


async def test_a_struct_becomes_an_answer() -> None:
    response, document = await ask(request("GET", "/echo/hi", query={"suffix": "!"}))
    assert (response.status, document) == (200, {"text": "hi!"})


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (request("GET", "/nothing"), "NOT_FOUND"),
        (request("GET", "/echo"), "NOT_FOUND"),
        (request("GET", "/echo/"), "NOT_FOUND"),
        (request("GET", "/echo/a/b"), "NOT_FOUND"),
        (request("GET", "/echo/a/"), "NOT_FOUND"),
        (request("GET", "//livez"), "NOT_FOUND"),
        (request("GET", "/livez/"), "NOT_FOUND"),
        (request("GET", "/LIVEZ"), "NOT_FOUND"),
        (request("GET", "/../livez"), "NOT_FOUND"),
        (request("GET", "/echo/../../etc/passwd"), "NOT_FOUND"),
        (request("GET", "/echo/\x00"), "NOT_FOUND"),
        (request("GET", "/echo/a\x1b[2J"), "NOT_FOUND"),
        (request("GET", ""), "NOT_FOUND"),
        (request("POST", "/livez"), "METHOD_NOT_ALLOWED"),
        (request("get", "/livez"), "METHOD_NOT_ALLOWED"),
        (request("TRACE", "/order"), "METHOD_NOT_ALLOWED"),
        (request("HEAD", "/order"), "METHOD_NOT_ALLOWED"),
        (request("POST", "/order", body=GOOD, headers=JSON, caller=READER), "NOT_AUTHORIZED"),
        (request("POST", "/order", caller=READER), "NOT_AUTHORIZED"),
        (request("DELETE", "/order", caller=READER), "NOT_AUTHORIZED"),
        (request("POST", "/order", body=GOOD), "UNSUPPORTED_MEDIA_TYPE"),
        (
            request("POST", "/order", body=GOOD, headers={"content-type": "text/plain"}),
            "UNSUPPORTED_MEDIA_TYPE",
        ),
        (
            request("POST", "/order", body=GOOD, headers={"content-type": "application/json, text/plain"}),
            "UNSUPPORTED_MEDIA_TYPE",
        ),
        (
            request(
                "POST", "/order", body=GOOD, headers={"content-type": "application/json; charset=latin-1"}
            ),
            "UNSUPPORTED_MEDIA_TYPE",
        ),
        (request("POST", "/order", body=b"", headers=JSON), "VALIDATION_ERROR"),
        (request("DELETE", "/order", body=b"x"), "VALIDATION_ERROR"),
        (request("GET", "/livez", body=b"x"), "VALIDATION_ERROR"),
        (request("DELETE", "/order"), "NOTHING_RUNS"),
        (request("GET", "/fail/defect"), "INTERNAL_ERROR"),
        (request("GET", "/fail/unknown"), "INTERNAL_ERROR"),
        (request("GET", "/fail/busy"), "STORAGE_UNAVAILABLE"),
        (request("GET", "/fail/full"), "STORAGE_FULL"),
        (request("GET", "/fail/store"), "NOT_READY"),
        (request("GET", "/fail/away"), "RUNNER_UNAVAILABLE"),
    ],
)
async def test_refusals_have_their_code_status_shape_and_log_line(asked: Request, code: str) -> None:
    log = ListHttpLog()
    response, document = await ask(asked, log=log)
    assert code_of(document) == code
    assert response.status == ERRORS[code].status
    assert ("Retry-After" in dict(response.headers)) is ERRORS[code].retryable
    assert [(r.request_id, r.status, r.code) for r in log.refusals] == [("r-1", response.status, code)]


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
    ],
)
async def test_json_is_taken_with_and_without_its_charset(kind: str) -> None:
    response, document = await ask(request("POST", "/order", body=GOOD, headers={"content-type": kind}))
    assert (response.status, document) == (200, {"text": "1 for a"})


async def test_a_refused_writer_is_told_the_group_and_the_command() -> None:
    _, document = await ask(request("DELETE", "/order", caller=READER))
    message = document["error"]["message"]
    assert "'ambient-admin'" in message
    assert 'sudo usermod -aG ambient-admin "$USER"' in message


async def test_the_right_to_write_is_asked_before_anything_else_about_the_request() -> None:
    for asked in (
        request("POST", "/order", query={"odd": "1"}, caller=READER),
        request("POST", "/order", body=b"{", headers={"content-type": "x"}, caller=READER),
    ):
        assert code_of((await ask(asked, reason="migrating"))[1]) == "NOT_AUTHORIZED"


async def test_what_needs_the_store_waits_for_it_and_the_rest_does_not() -> None:
    for path in ("/echo/a", "/order"):
        response, document = await ask(
            request("DELETE" if path == "/order" else "GET", path), reason="migrating 3 of 5"
        )
        assert code_of(document) == "NOT_READY"
        assert document["error"]["message"] == "migrating 3 of 5"
        assert dict(response.headers)["Retry-After"] == "2"
    for path in ("/livez", "/readyz", "/openapi.json"):
        response, _ = await ask(request("GET", path), reason="migrating 3 of 5")
        assert response.status == 200
    assert (await ask(request("GET", "/nothing"), reason="migrating"))[0].status == 404


async def test_a_wrong_method_is_told_the_right_ones() -> None:
    response, _ = await ask(request("PUT", "/order"))
    assert dict(response.headers)["Allow"] == "DELETE, OPTIONS, POST"
    response, _ = await ask(request("PUT", "/livez"))
    assert dict(response.headers)["Allow"] == "GET, HEAD, OPTIONS"
    response, _ = await ask(request("OPTIONS", "/livez"))
    assert (response.status, response.body) == (204, b"")


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        ("/livez", {"b": "1", "a": "2"}, [("a", "unknown"), ("b", "unknown")]),
        ("/echo/a", {"sort": "sideways", "zzz": ""}, [("sort", "enum"), ("zzz", "unknown")]),
        ("/echo/a", {"suffix": "x" * 5000}, [("suffix", "length")]),
        ("/readyz", {"verbose": "maybe"}, [("verbose", "type")]),
        ("/big", {}, [("size", "required")]),
        ("/big", {"size": "-1"}, [("size", "range")]),
        ("/big", {"size": "50000001"}, [("size", "range")]),
        ("/big", {"size": "1_0"}, [("size", "type")]),
        ("/big", {"size": " 1"}, [("size", "type")]),
        ("/big", {"size": "٣"}, [("size", "type")]),
        ("/big", {"size": "1e3"}, [("size", "type")]),
        ("/big", {"size": "9" * 5000}, [("size", "length")]),
        ("/big", {"size": "9" * 50}, [("size", "type")]),
        ("/big", {"size": ""}, [("size", "type")]),
        ("/big", {"size": "--1"}, [("size", "type")]),
    ],
)
async def test_every_wrong_parameter_is_named(
    path: str, query: dict[str, str], expected: list[tuple[str, str]]
) -> None:
    response, document = await ask(request("GET", path, query=query))
    assert (response.status, code_of(document)) == (400, "VALIDATION_ERROR")
    assert [(d["field"], d["issue"]) for d in document["error"]["details"]] == expected


async def test_every_wrong_field_of_a_body_is_named_at_once() -> None:
    body = b'{"zz":1,"count":"x","parts":[{"size":"1"},{}],"agentId":7}'
    _, document = await ask(request("POST", "/order", body=body, headers=JSON))
    assert code_of(document) == "VALIDATION_ERROR"
    assert [(d["field"], d["issue"], d.get("expected")) for d in document["error"]["details"]] == [
        ("agentId", "type", "string"),
        ("count", "type", "integer"),
        ("parts[0].size", "type", "integer"),
        ("parts[1].size", "required", None),
        ("zz", "unknown", None),
    ]


async def test_the_same_bad_input_gives_the_same_bytes_whatever_the_order_of_keys_or_the_locale() -> None:
    one = b'{"zz":1,"aa":2,"count":"x","agentId":7}'
    other = b'{"agentId":7,"count":"x","aa":2,"zz":1}'
    expected = (await ask(request("POST", "/order", body=one, headers=JSON)))[0].body
    for body in (one, other) * 5:
        assert (await ask(request("POST", "/order", body=body, headers=JSON)))[0].body == expected
    before = locale.setlocale(locale.LC_ALL)
    try:
        locale.setlocale(locale.LC_ALL, "C.UTF-8")
        assert (await ask(request("POST", "/order", body=other, headers=JSON)))[0].body == expected
    finally:
        locale.setlocale(locale.LC_ALL, before)


async def test_a_defect_is_logged_and_not_told() -> None:
    log = ListHttpLog()
    _, document = await ask(request("GET", "/fail/defect"), log=log)
    assert document["error"]["message"] == ERRORS["INTERNAL_ERROR"].sentence
    assert [(where, str(error), request_id) for where, error, request_id in log.faults] == [
        ("GET /fail/defect", "a secret of the handler", "r-1")
    ]


async def _nothing(request: Request) -> Response:
    return Response(204)


def _route(method: str, path: str, access: Access = Access.READ) -> Route:
    return Route(method=method, path=path, handler=_nothing, summary="x", access=access)


@pytest.mark.parametrize(
    ("routes", "reason"),
    [
        ([_route("GET", "/a"), _route("GET", "/a")], "two routes for GET /a"),
        ([_route("GET", "/a/{x}"), _route("GET", "/a/{y}")], "two routes"),
        ([_route("GET", "a")], "malformed"),
        ([_route("get", "/a")], "malformed"),
        ([_route("HEAD", "/a")], "answered by the router"),
        ([_route("POST", "/a")], "must need the right to write"),
        ([_route("PATCH", "/a", Access.OPEN)], "must need the right to write"),
    ],
)
def test_a_bad_table_is_found_when_it_is_built(routes: list[Route], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build_application(routes, readiness=lambda: None, log=ListHttpLog(), admin_group="g")


def test_an_exact_path_wins_over_a_template() -> None:
    table = RouteTable([_route("GET", "/a/{x}"), _route("GET", "/a/b"), _route("GET", "/{y}/b")])
    for path, found in (("/a/b", "/a/b"), ("/a/c", "/a/{x}"), ("/z/b", "/{y}/b")):
        methods = table.find(path)
        assert methods is not None
        assert methods["GET"].route.path == found
    assert table.find("/z/z") is None


def test_a_word_that_leads_nowhere_is_no_hindrance_to_a_parameter() -> None:
    table = RouteTable([_route("GET", "/a/b/c"), _route("GET", "/{x}/b/{y}/d"), _route("GET", "/{x}/{y}")])
    for path, found in (("/a/b/z/d", "/{x}/b/{y}/d"), ("/a/z", "/{x}/{y}"), ("/a/b", "/{x}/{y}")):
        methods = table.find(path)
        assert methods is not None
        assert methods["GET"].route.path == found
    assert table.find("/a//z/d") is table.find("/a/b/z") is table.find("/a") is table.find("//b") is None


async def test_parameters_of_the_path_reach_the_handler_by_name() -> None:
    seen: list[dict[str, str]] = []

    async def handler(request: Request) -> Response:
        seen.append(dict(request.params))
        return Response(204)

    route = Route(method="GET", path="/a/{one}/b/{two}", handler=handler, summary="x")
    app = build_application([route], readiness=lambda: None, log=ListHttpLog(), admin_group="g")
    await app(request("GET", "/a/ses_1~x/b/%2Fz"))
    assert seen == [{"one": "ses_1~x", "two": "%2Fz"}]
