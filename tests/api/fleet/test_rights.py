"""Who may do what: every route of the control plane, from its own table (R1.30, R1.31, R1.75)."""

import json
import re
from typing import Any

from ambientd.api.router import Access, Route
from ambientd.ports.http import Response
from ambientd.wire.fleet_enums import Role
from tests.api.fleet.kit import REGISTRATION, FleetApi, Person, json_of, on
from tests.api.fleet.test_items import policy, signed
from tests.api.fleet.test_tasks import CONNECT
from tests.store.fleet.kit import Place, SqlitePlace

OPEN = {
    "GET /livez",
    "GET /readyz",
    "GET /api/v1/health",
    # These take credentials in their bodies.
    "POST /api/v1/auth/login",
    "POST /api/v1/auth/refresh",
    "POST /api/v1/auth/logout",
    "POST /api/v1/auth/register",
    "POST /api/v1/nodes/enrol",
}


def named(route: Route) -> str:
    return f"{route.method} {route.path}"


def check_shape(answer: Response) -> dict[str, Any]:
    """Every refusal has one shape."""
    error = json.loads(answer.body)
    assert error.keys() == {"error"}
    assert error["error"].keys() == {"code", "message", "details", "requestId"}
    for detail in error["error"]["details"]:
        assert {"field", "issue", "message"} <= detail.keys()
    found: dict[str, Any] = error["error"]
    return found


def test_every_route_but_the_named_ones_answers_401_without_a_token_whatever_else_is_wrong(
    sqlite: SqlitePlace,
) -> None:
    async def body(api: FleetApi) -> None:
        routes, asked = api.plane.routes(), 0
        assert {named(route) for route in routes if route.access is Access.OPEN} == OPEN
        for route in routes:
            if named(route) in OPEN:
                continue
            path = "/" + re.sub(r"\{\w+\}", "x", route.path)
            for token in (None, "nonsense", "at_" + "0" * 64, "vcp_" + "0" * 64, "nd_" + "0" * 64):
                for raw in (b"", b"{not json", b'{"a": 1}'):
                    asked += 1  # each from an address of its own: guessing is not free
                    ip = f"198.51.{asked // 250}.{asked % 250}"
                    answer = await api.ask(route.method, path + "?odd=1", raw, token=token, ip=ip)
                    assert answer.status == 401, (named(route), token, answer.body)
                    assert check_shape(answer)["code"] == "NOT_AUTHENTICATED"
                    assert dict(answer.headers)["WWW-Authenticate"] == "Bearer"

    on(sqlite, body)


async def scene(api: FleetApi) -> dict[str, str]:
    """Something of Ann's for each kind of id that a path can name."""
    ann = await api.person("ann")
    edge = await ann.join("anns-node", node_type="any")
    join = await ann.post("/join-tokens", {}, status=201)
    key = await ann.post("/auth/api-keys", {"name": "k", "scopes": ["nodes:read"]}, status=201)
    await ann.post("/policies", {"items": [signed(policy("anns-policy"))]}, status=201)
    task = (await ann.post("/tasks", CONNECT, status=201))["task_id"]
    await ann.post("/connect-sessions/start", {"task_id": task}, status=201)
    root = await api.person("root", Role.ADMIN)
    wanted = {"tier": "general", "rpm": 1000, "burst": 1000, "expires_in": 3600, "user_id": ann.user_id}
    override = await root.post("/admin/throttle-overrides", wanted, status=201)
    await edge.post(
        "/ledger",
        {
            "after": 0,
            "records": [
                {
                    "seq": 1,
                    "session_id": "ses_ann",
                    "session": {
                        "agent_id": "MARKER",
                        "agent_label": "MARKER",
                        "model_id": "MARKER",
                        "status": "running",
                        "started_at": "2026-11-20T11:00:00Z",
                    },
                }
            ],
        },
    )
    return {
        "node_id": "anns-node",
        "task_id": task,
        "token_id": join["token_id"],
        "key_id": key["key_id"],
        "session_id": "s-1",
        "override_id": override["override_id"],
        "user_id": ann.user_id,
    }


KEY = "ed25519:" + "1" * 64
MISSING = {
    "node_id": "nowhere",
    "task_id": "00000000-0000-4000-8000-000000000000",
    "token_id": "00000000-0000-4000-8000-000000000000",
    "key_id": "00000000-0000-4000-8000-000000000000",
    "session_id": "nothing",
    "override_id": "nothing",
}


def path_of(route: Route, ids: dict[str, str]) -> str:
    if route.path.endswith("/ledger/{session_id}"):
        ids = {**ids, "session_id": "ses_ann" if ids["session_id"] == "s-1" else "ses_no"}
    return "/" + re.sub(r"\{(\w+)\}", lambda found: ids[found[1]], route.path)


def body_of(route: Route, ids: dict[str, str]) -> Any:
    """A body that is good but for whose things it speaks of."""
    if route.body is None:
        return None
    return {
        "/api/v1/nodes/{node_id}/heartbeat": {"seq": 1},
        "/api/v1/nodes/{node_id}/reports": {"reports": [{"seq": 1}]},
        "/api/v1/nodes/{node_id}/audit": {"records": []},
        "/api/v1/nodes/{node_id}/ledger": {"after": 0, "records": []},
        "/api/v1/nodes/{node_id}/delta-v": {"after": 0, "records": []},
        "/api/v1/nodes/{node_id}/assignments/reconcile": {"running": []},
        "/api/v1/nodes/{node_id}/assignments/{task_id}/result": {"status": "completed"},
        "/api/v1/tasks/{task_id}/result": {"node_id": ids["node_id"], "result": 1},
        "/api/v1/nodes/{node_id}/credential/rotate": {
            "public_key": "ed25519:" + "1" * 64,
            "proof": "0" * 128,
        },
        "/api/v1/connect-sessions/start": {"task_id": ids["task_id"]},
        "/api/v1/policies": {"items": [signed(policy("p"))], "node_id": ids["node_id"]},
    }.get(route.path)


def test_what_is_another_owners_is_answered_like_what_is_not_there(place: Place) -> None:
    """With the same bytes: nothing tells whether an id exists."""

    async def body(api: FleetApi) -> None:
        ids = await scene(api)
        bob = await api.person("bob")
        bobs_node = await bob.join("bobs-node")
        before = _all_of_ann(api)
        asked = 0
        for route in api.plane.routes():
            if route.access is Access.OPEN or not (route.parameters or body_of(route, ids)):
                continue
            for who in (bob, bobs_node):
                here = await who.ask(
                    route.method, path_of(route, ids).removeprefix("//api/v1"), body_of(route, ids)
                )
                gone = await who.ask(
                    route.method, path_of(route, MISSING).removeprefix("//api/v1"), body_of(route, MISSING)
                )
                assert here.status in (403, 404), (named(route), here.body)
                assert (here.status, here.body) == (gone.status, gone.body), named(route)
                check_shape(here)
                asked += 1
        assert asked > 60
        assert _all_of_ann(api) == before

    on(place, body)


def _all_of_ann(api: FleetApi) -> list[Any]:
    """What nobody but Ann may have changed."""
    return [
        api.rows("SELECT status, deleted_at, updated_at, report_seq FROM nodes WHERE node_id = 'anns-node'"),
        api.rows("SELECT task_id, status, updated_at FROM tasks"),
        api.rows("SELECT session_id, status, updated_at FROM connect_sessions"),
        api.rows("SELECT token_id, revoked_at, uses_left FROM join_tokens ORDER BY token_id"),
        api.rows("SELECT key_id, revoked_at FROM api_keys"),
        api.rows("SELECT revision, subject FROM fleet_items ORDER BY revision"),
    ]


def test_lists_show_nobody_what_is_anothers(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ids = await scene(api)
        bob = await api.person("bob")
        bobs_node = await bob.join("bobs-node")
        for route in api.plane.routes():
            if route.access is Access.OPEN or route.method != "GET" or route.parameters:
                continue
            for who in (bob, bobs_node):
                path = "/" + route.path
                answer = await who.ask("GET", route.path.removeprefix("/api/v1") if "api" in path else path)
                text = answer.body.decode()
                assert not any(value in text for value in ids.values()), named(route)
                assert "MARKER" not in text

    on(sqlite, body)


def test_an_api_key_does_what_its_scopes_say(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        await ann.register("edge-1")

        async def with_scopes(*scopes: str) -> Person:
            made = await ann.post("/auth/api-keys", {"name": "k", "scopes": list(scopes)}, status=201)
            return Person(api, ann.user_id, made["api_key"])

        reader, worker = await with_scopes("nodes:read"), await with_scopes("tasks:write", "nodes:write")
        assert (await reader.ask("GET", "/nodes/edge-1")).status == 200
        assert (await reader.ask("DELETE", "/nodes/edge-1")).status == 403
        assert (await reader.ask("GET", "/tasks")).status == 403
        assert (await worker.ask("GET", "/nodes")).status == 403
        assert (await worker.ask("POST", "/tasks", {"task_type": "computation", "inputs": {}})).status == 201
        assert (await worker.ask("PUT", "/nodes/edge-1/heartbeat")).status == 200
        assert (await worker.ask("POST", "/auth/api-keys", {"name": "more"})).status == 403
        who = await worker.get("/auth/api-key/validate")
        assert (who["username"], who["authenticated_via"]) == ("ann", "api_key")
        header = await api.ask("GET", "/nodes/edge-1", headers={"x-api-key": reader.token})
        assert header.status == 200

    on(sqlite, body)


def test_refusals_of_the_framework_have_the_same_shape(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        await ann.register("edge-1")
        good = json.dumps({"node_id": "x", **REGISTRATION}).encode()
        token = ann.token
        cases: list[tuple[int, Any]] = [
            (404, await ann.ask("GET", "/nowhere")),
            (405, await ann.ask("PATCH", "/nodes")),
            (400, await ann.ask("POST", "/nodes", b"{broken")),
            (400, await ann.ask("POST", "/nodes", {"node_id": 7})),
            (400, await ann.ask("GET", "/nodes?limit=0")),
            (400, await ann.ask("GET", "/nodes?odd=1")),
            (415, await api.ask("POST", "/nodes", good, token=token, headers={"content-type": "text/plain"})),
            (413, await ann.ask("PUT", "/nodes/edge-1/heartbeat", b" " * 70_000)),
            (400, await api.ask("GET", "/nodes", b"{}", token=token)),
        ]
        for status, answer in cases:
            assert answer.status == status, answer.body
            check_shape(answer)
            names = [name.lower() for name, _ in answer.headers]
            assert "x-content-type-options" in names

    on(sqlite, body)


def test_the_document_lists_every_route_and_says_how_to_get_in(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        document = json_of(await ann.ask("GET", "//openapi.json"))
        assert "/api/v1/nodes/{node_id}/heartbeat/activity" in document["paths"]  # R1.32
        listed = {
            f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods
        }
        assert listed == {named(route) for route in api.plane.routes()}
        assert set(document["components"]["securitySchemes"]) == {"bearer", "apiKey"}
        nodes = document["paths"]["/api/v1/nodes"]["get"]["responses"]["200"]
        assert nodes["content"]["application/json"]["schema"]["type"] == "array"
        beat = document["paths"]["/api/v1/nodes/{node_id}/heartbeat"]["put"]
        assert beat["requestBody"]["required"] is False

    on(sqlite, body)


def test_each_client_has_a_measure_of_its_own_and_hears_when_to_come_again(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge-1")
        answers = [await ann.ask("GET", "/nodes") for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 429, 429]
        assert dict(answers[-1].headers)["Retry-After"] == "10"
        check_shape(answers[-1])
        elsewhere = await api.ask("GET", "/nodes", token=ann.token, ip="192.0.2.77")
        assert elsewhere.status == 200
        assert (await edge.ask("GET", "/nodes")).status == 200  # behind the same address
        assert (await api.ask("GET", "/health")).status == 200
        api.later(10)
        assert (await ann.ask("GET", "/nodes")).status == 200

    on(sqlite, body, general_rpm=6, general_burst=3)


def test_registration_is_closed_unless_it_is_opened(sqlite: SqlitePlace) -> None:
    async def closed(api: FleetApi) -> None:
        account = {"username": "eve", "password": "long enough"}
        assert (await api.ask("POST", "/auth/register", account)).status == 403

    async def opened(api: FleetApi) -> None:
        account = {"username": "eve", "password": "long enough", "email": "eve@example.net"}
        found = json_of(await api.ask("POST", "/auth/register", account), 201)
        assert (found["username"], found["role"], found["api_key"][:4]) == ("eve", "user", "vcp_")
        assert (await api.ask("POST", "/auth/register", account)).status == 409
        log_in = {"username": "eve", "password": "long enough"}
        tokens = json_of(await api.ask("POST", "/auth/login", log_in))
        assert (tokens["token_type"], tokens["expires_in"]) == ("Bearer", 86_400)
        again = json_of(await api.ask("POST", "/auth/refresh", {"refresh_token": tokens["refresh_token"]}))
        assert again["refresh_token"] != tokens["refresh_token"]
        assert (await api.ask("GET", "/nodes", token=again["access_token"])).status == 200

    on(sqlite, closed)
    on(sqlite, opened, registration=True)
