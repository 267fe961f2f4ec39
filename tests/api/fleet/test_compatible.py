"""A client that was written for the fleet API works with this one, and meets none of its known defects.

`FleetClient` is the node client that the fleet API needs: it registers, logs in, refreshes before the end and
after a 401, adopts or registers its node, sends bare heartbeats and waits as `Retry-After` says. Where it is
told otherwise on purpose stands in README ("Where it differs from the fleet API").

Its defects, and what shows that they are none here. Those marked * are held by tests elsewhere, by name in
`tests/meta/rows/compatible.toml`; a meta test sees that they exist.

0.1*  a changed destination leaves the hash of a peer's message as it was
0.2*  peers' messages are unsigned
0.3*  a cleared task leaves no row at nodes that had it before
0.4*  an example task type that cannot exist
0.6*  no task ever fails
0.7*  an event shows the moment of rendering for its own
0.8*  what a node may do without an upstream is not looked at
0.9*  Δv is computed by nobody
2.2a  a token is good whatever has become of its account: test_a_token_is_worth_what_its_account_is_worth_now
2.2b* rotation is three statements, and a lost answer locks a client out; no reuse is noticed
2.2c  validating an API key answers 500: test_a_client_of_the_fleet_api_finds_what_it_expects
2.2d* scopes are not enforced
2.2e* an unattended node needs a person's password
2.2f* tokens of connect sessions are kept in the clear (S5)
2.2g* peppers fall back to one, random ones are refused by chance, empty ones taken
2.4a* a heartbeat changes no status (S1)
2.4b  an event's task has the spelling of whoever deleted it: test_an_event_has_the_tasks_own_id
2.4c* events are written behind the deletion (S3), with a key of another event
2.4d* history has no retention (S9), and nothing of the node's condition
2.4e* a row keeps the number of tasks from before
2.6*  silent nodes stay online; who was away is never revived; its name is burned
S1*   the same
S2*   a session's id overwrites another requester's
S3*   cleared events incomplete and outside the transaction
S4*   a node's owner does not see work of others on it
S5*   clear-text tokens
S6    text of nodes becomes markup: test_no_text_of_a_node_can_become_a_page
S7*   a heartbeat proves nothing
S8    a node without an owner breaks the list: test_no_node_is_without_an_owner
S9*   unbounded history
S10   deletion and sweeps get in each other's way:
      test_deleting_while_silent_nodes_are_looked_for_leaves_no_work_behind
S11   errors are empty lists: test_a_database_in_trouble_is_no_empty_list; * lists without pages
S12   mail is sent inside GET: test_reading_changes_nothing
"""

import json
from typing import Any

import apsw
import psycopg
import pytest
import trio

from ambientd.api.router import Access
from ambientd.ports.http import Response
from ambientd.wire.fleet_enums import Role
from tests.api.fleet.kit import REGISTRATION, FleetApi, json_of, on
from tests.api.fleet.test_tasks import CONNECT
from tests.store.fleet.kit import Place, SqlitePlace

NODE_KEYS = {
    "node_id", "region", "node_type", "capabilities", "owner_id", "health_score", "status", "registered_at",
    "last_seen", "observability_port",
}  # fmt: skip
BEAT_KEYS = {
    "message", "node_id", "timestamp", "health_score", "node_status", "active_tasks", "assigned_task_ids",
    "assigned_tasks", "internet_active",
}  # fmt: skip
TASK_KEYS = {
    "task_id", "task_type", "status", "assigned_nodes", "former_assigned_nodes", "created_at", "updated_at",
    "result", "proof_id",
}  # fmt: skip
SESSION_KEYS = {
    "session_id", "task_id", "node_id", "requester_id", "tunnel_protocol", "egress_profile",
    "destination_policy_id", "bandwidth_limit_mbps", "status", "created_at", "expires_at",
    "last_heartbeat_at", "ended_at", "internet_active",
}  # fmt: skip
STATS_KEYS = {
    "total_nodes", "healthy_nodes", "total_tasks", "completed_tasks", "failed_tasks", "avg_health_score",
    "total_compute_capacity",
}  # fmt: skip
TOKEN_KEYS = {"access_token", "refresh_token", "token_type", "expires_in"}
REFRESH_EARLY = 300  # seconds before the end


class FleetClient:
    """Knows nothing of this control plane but what the fleet API says."""

    def __init__(self, api: FleetApi, name: str) -> None:
        self._api = api
        self._name = name
        self._access = self._refresh = self.user_id = self.api_key = ""
        self._until = 0.0
        self.log_ins = self.refreshes = 0

    async def call(self, method: str, path: str, body: Any = None) -> Response:
        """With a token that is good; refreshed before its end, and once more after a 401."""
        if self._api.clock.seconds > self._until - REFRESH_EARLY:
            await self._renew()
        answer = await self._api.ask(method, path, body, token=self._access)
        while answer.status == 429:
            self._api.later(float(dict(answer.headers).get("Retry-After", 60)))
            answer = await self._api.ask(method, path, body, token=self._access)
        if answer.status == 401:
            await self._renew()
            answer = await self._api.ask(method, path, body, token=self._access)
        return answer

    async def json(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        return json_of(await self.call(method, path, body), status)

    async def sign_up(self) -> None:
        body = {"username": self._name, "password": "long enough", "email": f"{self._name}@example.net"}
        made = json_of(await self._api.ask("POST", "/auth/register", body), 201)
        assert made.keys() >= {"user_id", "username", "email", "api_key", "message"}
        assert made["api_key"].startswith("vcp_")
        self.user_id, self.api_key = made["user_id"], made["api_key"]

    async def log_in(self) -> None:
        # A field that the server does not know is ignored.
        body = {"username": self._name, "password": "long enough", "device_info": "x"}
        self.log_ins += 1
        self._keep(json_of(await self._api.ask("POST", "/auth/login", body)))

    async def _renew(self) -> None:
        answer = await self._api.ask("POST", "/auth/refresh", {"refresh_token": self._refresh})
        self.refreshes += 1
        if answer.status == 401:
            await self.log_in()
            return
        self._keep(json_of(answer))

    def _keep(self, tokens: Any) -> None:
        assert tokens.keys() >= TOKEN_KEYS
        assert tokens["token_type"] == "Bearer"
        assert tokens["refresh_token"].startswith("rt_")
        self._access, self._refresh = tokens["access_token"], tokens["refresh_token"]
        self._until = self._api.clock.seconds + tokens["expires_in"]

    async def enter(self, node_id: str, **fields: Any) -> str:
        """Registers its node, or adopts it, or takes another name; the name."""
        body = {"node_id": node_id, **REGISTRATION, **fields}
        answer = await self.call("POST", "/nodes", body)
        if answer.status == 201:
            assert json.loads(answer.body).keys() >= NODE_KEYS
            return node_id
        assert answer.status == 409
        seen = await self.call("GET", f"/nodes/{node_id}")
        if seen.status == 200:
            node = json.loads(seen.body)
            assert node["owner_id"] == self.user_id
            assert node["status"] != "rejected"
            return node_id
        assert seen.status == 404
        return await self.enter(f"{node_id}-1", **fields)

    async def beat(self, node_id: str) -> Any:
        found = await self.json("PUT", f"/nodes/{node_id}/heartbeat")
        assert found.keys() >= BEAT_KEYS
        assert found["node_id"] == node_id
        return found


async def signed_up(api: FleetApi, name: str = "ann") -> FleetClient:
    client = FleetClient(api, name)
    await client.sign_up()
    await client.log_in()
    return client


def test_a_client_of_the_fleet_api_finds_what_it_expects(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        health = json_of(await api.ask("GET", "/health"))
        assert health["status"] == "healthy"
        assert health.keys() >= {"version", "timestamp"}
        ann = await signed_up(api)
        key = json_of(await api.ask("GET", "/auth/api-key/validate", headers={"x-api-key": ann.api_key}))
        assert key == {
            "user_id": ann.user_id,
            "username": "ann",
            "role": "user",
            "authenticated_via": "api_key",
        }
        node = await ann.enter("edge-1", node_type="open_internet", observability_port=9090)
        (listed,) = await ann.json("GET", "/nodes")
        assert listed == await ann.json("GET", f"/nodes/{node}")
        assert (listed["status"], listed["health_score"], listed["observability_port"]) == (
            "online", 100.0, 9090,
        )  # fmt: skip
        assert await ann.json("GET", f"/nodes/{node}/heartbeat/activity") == {"events": []}
        await _work(ann, await ann.enter("edge-2"))
        await _connect(ann, node)
        stats = await ann.json("GET", "/cluster/stats")
        assert stats.keys() >= STATS_KEYS
        assert (stats["total_nodes"], stats["total_compute_capacity"]) == (2, 2 * 16 * 64)
        gone = await ann.json("DELETE", f"/nodes/{node}")
        assert gone.keys() >= {"message", "node_id"}
        assert (await ann.call("GET", f"/nodes/{node}")).status == 404
        assert await ann.enter("edge-1") == "edge-1"  # its name is not burned
        rejected = await ann.json("POST", "/nodes/edge-1/reject")
        assert rejected.keys() >= {"message", "node_id", "status"}
        assert rejected["status"] == "rejected"
        assert (await ann.beat("edge-1"))["node_status"] == "rejected"

    on(place, body, registration=True)


async def _work(ann: FleetClient, node: str) -> None:
    """A task from its submission to its result, and another one to its deletion."""
    submitted = await ann.json(
        "POST",
        "/tasks",
        {
            "task_type": "computation",
            "inputs": {"n": 1},
            "requirements": {
                "min_nodes": 1,
                "max_execution_time_sec": 60,
                "require_gpu": False,
                "require_proof": False,
            },
        },
        status=201,
    )
    task = submitted["task_id"]
    assert submitted.keys() >= TASK_KEYS
    assert (submitted["status"], submitted["assigned_nodes"]) == ("running", [node])
    beat = await ann.beat(node)
    assert (beat["active_tasks"], beat["assigned_task_ids"]) == (1, [task])
    assert beat["assigned_tasks"][0].keys() >= {"task_id", "task_type", "execution_status"}
    said = {"node_id": node, "result": {"sum": 1}, "execution_time_ms": 5}
    done = await ann.json("POST", f"/tasks/{task}/result", said)
    assert done.keys() == {"task_id", "status", "node_id", "proof_verified", "completed_at"}
    found = await ann.json("GET", f"/tasks/{task}")
    assert (found["status"], found["result"]) == ("completed", {"sum": 1})
    assert found == (await ann.json("GET", "/tasks"))[0]
    other = await ann.json("POST", "/tasks", {"task_type": "computation", "inputs": {}}, status=201)
    cleared = await ann.json("DELETE", f"/tasks/{other['task_id']}")
    assert cleared.keys() >= {"message", "task_id"}
    (event,) = (await ann.json("GET", f"/nodes/{node}/heartbeat/activity"))["events"]
    assert event.keys() >= {"task_id", "task_type", "event", "cleared_at"}
    assert (event["task_id"], event["event"]) == (other["task_id"], "task_cleared")


async def _connect(ann: FleetClient, node: str) -> None:
    task = (await ann.json("POST", "/tasks", CONNECT, status=201))["task_id"]
    started = await ann.json("POST", "/connect-sessions/start", {"task_id": task}, status=201)
    assert started["session_token"].startswith("cs_")
    session = started["session"]
    assert session.keys() >= SESSION_KEYS
    assert (session["node_id"], session["tunnel_protocol"], session["status"]) == (node, "mtls", "active")
    assert (await ann.beat(node))["internet_active"] is True
    path = f"/connect-sessions/{session['session_id']}"
    assert (await ann.json("GET", path)).keys() >= SESSION_KEYS
    assert (await ann.json("POST", path + "/heartbeat"))["last_heartbeat_at"] is not None
    assert (await ann.json("POST", path + "/stop"))["status"] == "ended"
    assert (await ann.call("POST", path + "/heartbeat")).status == 404
    again = await ann.call("POST", "/connect-sessions/start", {"task_id": task})
    assert again.status == 400  # it has ended with its session


def test_a_client_goes_on_for_weeks_with_one_password(place: Place) -> None:
    """Refreshed before the end each time; a silence longer than a refresh token costs one log-in."""

    async def body(api: FleetApi) -> None:
        ann = await signed_up(api)
        node = await ann.enter("edge-1")
        for _ in range(30):
            api.later(900)
            assert (await ann.beat(node))["node_status"] == "online"
        assert (ann.log_ins, ann.refreshes) == (1, 30)
        api.later(31 * 86_400)
        await api.sweep()
        assert (await ann.beat(node))["node_status"] == "online"  # away for a month, back at once
        assert ann.log_ins == 2

    on(place, body, registration=True, access_lifetime="15m")


def test_a_client_whose_name_is_taken_finds_another(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann, bob = await signed_up(api), await signed_up(api, "bob")
        assert await ann.enter("edge-1") == "edge-1"
        assert await ann.enter("edge-1") == "edge-1"  # registering again is no conflict with oneself
        assert await bob.enter("edge-1") == "edge-1-1"

    on(sqlite, body, registration=True)


def test_a_client_that_is_too_quick_waits_as_it_is_told(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann = await signed_up(api)
        node = await ann.enter("edge-1")
        before = api.clock.seconds
        for _ in range(12):
            await ann.beat(node)
        assert 0 < api.clock.seconds - before <= 60

    on(sqlite, body, registration=True, general_rpm=12, general_burst=3)


@pytest.mark.parametrize(
    ("method", "path", "sent", "status"),
    [
        ("POST", "/auth/register", {"username": "ann", "password": "long enough"}, 409),
        ("POST", "/auth/login", {"username": "ann", "password": "not her password"}, 401),
        ("POST", "/auth/refresh", {"refresh_token": "rt_" + "a" * 64}, 401),
        ("GET", "/auth/api-key/validate", None, 401),
        ("POST", "/nodes", {"node_id": "x", **REGISTRATION}, 401),
        ("GET", "/health", None, 200),
    ],
)
def test_refusals_before_anybody_is_known(
    sqlite: SqlitePlace, method: str, path: str, sent: Any, status: int
) -> None:
    async def body(api: FleetApi) -> None:
        await signed_up(api)
        assert (await api.ask(method, path, sent)).status == status

    on(sqlite, body, registration=True)


MISSING = "00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    ("method", "path", "sent", "status"),
    [
        ("POST", "/nodes", {"node_id": "x", **REGISTRATION, "node_type": "toaster"}, 400),
        ("GET", "/nodes/nowhere", None, 404),
        ("DELETE", "/nodes/nowhere", None, 404),
        ("POST", "/nodes/nowhere/reject", None, 404),
        ("PUT", "/nodes/nowhere/heartbeat", None, 404),
        ("GET", "/nodes/nowhere/heartbeat/activity", None, 404),
        ("POST", "/tasks", {"task_type": "inference", "inputs": {}}, 400),
        ("GET", f"/tasks/{MISSING}", None, 404),
        ("GET", "/tasks/no-uuid", None, 404),
        ("DELETE", f"/tasks/{MISSING}", None, 404),
        ("POST", f"/tasks/{MISSING}/result", {"node_id": "edge-1", "result": 1}, 404),
        ("POST", "/connect-sessions/start", {"task_id": MISSING}, 404),
        ("GET", "/connect-sessions/nothing", None, 404),
        ("POST", "/connect-sessions/nothing/heartbeat", None, 404),
        ("POST", "/connect-sessions/nothing/stop", None, 404),
        ("POST", "/proofs/verify", {"task_id": MISSING, "proof_data": "?", "public_inputs": ""}, 400),
        ("GET", "/admin/users", None, 403),
        ("POST", "/admin/throttle-overrides", {"tier": "node", "rpm": 1, "burst": 1, "expires_in": 60}, 403),
        ("GET", "/admin/audit-log", None, 403),
    ],
)
def test_refusals_have_the_status_that_the_fleet_api_gives(
    sqlite: SqlitePlace, method: str, path: str, sent: Any, status: int
) -> None:
    async def body(api: FleetApi) -> None:
        ann = await signed_up(api)
        await ann.enter("edge-1")
        error = (await ann.json(method, path, sent, status=status))["error"]
        assert error["message"]

    on(sqlite, body, registration=True)


# --- its defects


def test_a_token_is_worth_what_its_account_is_worth_now(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        root = await api.person("root", Role.ADMIN)
        assert (await root.ask("GET", "/admin/users")).status == 200
        await api.plane.store.write(lambda tx: tx.users.set_role(root.user_id, Role.USER))
        assert (await root.ask("GET", "/admin/users")).status == 403
        api.rows("DELETE FROM users WHERE user_id = 'id-of-root'")
        assert (await root.ask("GET", "/nodes")).status == 401

    on(place, body)


def test_an_event_has_the_tasks_own_id(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        await ann.register("edge-1")
        task = await ann.submit()
        assert (await ann.delete(f"/tasks/{task.upper()}"))["task_id"] == task
        (event,) = (await ann.get("/nodes/edge-1/heartbeat/activity"))["events"]
        assert event["task_id"] == task

    on(place, body)


def test_no_text_of_a_node_can_become_a_page(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        region = "<img src=x onerror=alert(1)>"
        await ann.register("edge-1", region=region)
        assert (await ann.get("/nodes/edge-1"))["region"] == region
        for path in ("/nodes", "/nodes/edge-1", "/nodes/<script>"):
            answer = await ann.ask("GET", path)
            headers = {name.lower(): value for name, value in answer.headers}
            assert answer.content_type.startswith("application/json")
            assert headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in headers["content-security-policy"]
        for bad in ("a\x1b[31m", "a\nb", " "):  # nor a terminal's command
            await ann.post("/nodes", {"node_id": "edge-2", **REGISTRATION, "region": bad}, status=400)

    on(sqlite, body)


def test_no_node_is_without_an_owner(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        await ann.register("edge-1")
        with pytest.raises((apsw.ConstraintError, psycopg.errors.NotNullViolation)):
            api.rows("UPDATE nodes SET owner_id = NULL")
        assert [node["owner_id"] for node in await ann.get("/nodes")] == [ann.user_id]

    on(place, body)


def test_deleting_while_silent_nodes_are_looked_for_leaves_no_work_behind(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        nodes = [f"edge-{number}" for number in range(8)]
        for node in nodes:
            await ann.register(node)
        tasks = [await ann.submit(away={"policy": "move", "after_sec": 60}) for _ in nodes]
        api.later(2000)
        for node in nodes[4:]:
            await ann.put(f"/nodes/{node}/heartbeat")
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(api.sweep)
            for node in nodes[:4]:
                nursery.start_soon(ann.delete, f"/nodes/{node}")
        await api.sweep()
        alive = "SELECT node_id FROM nodes WHERE deleted_at IS NULL ORDER BY node_id"
        assert [row[0] for row in api.rows(alive)] == nodes[4:]
        held = api.rows("SELECT task_id, node_id FROM task_assignments WHERE disconnected_at IS NULL")
        assert sorted(row[0] for row in held) == sorted(tasks)  # each once
        assert {row[1] for row in held} <= set(nodes[4:])

    on(place, body)


def test_a_database_in_trouble_is_no_empty_list(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        await ann.register("edge-1")
        for table, path in (("tasks", "/tasks"), ("nodes", "/nodes"), ("tasks", "/cluster/stats")):
            api.rows(f"ALTER TABLE {table} RENAME TO away")
            answer = await ann.ask("GET", path)
            api.rows(f"ALTER TABLE away RENAME TO {table}")
            assert answer.status >= 500
            assert json.loads(answer.body)["error"]["code"]
            assert (await ann.ask("GET", path)).status == 200

    on(place, body)


def test_reading_changes_nothing(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        await ann.register("edge-1")
        await ann.register("way-out", node_type="open_internet")
        task = await ann.submit()
        await ann.post(f"/tasks/{task}/result", {"node_id": "edge-1", "result": 1})
        connect = (await ann.post("/tasks", CONNECT, status=201))["task_id"]
        await ann.post("/connect-sessions/start", {"task_id": connect}, status=201)
        ids = {"node_id": "edge-1", "task_id": task, "session_id": "s-1"}
        before, asked = everything(api), 0
        for route in api.plane.routes():
            if route.method == "GET" and route.access is not Access.OPEN:
                api.later(1)
                path = "/" + route.path
                for name in route.parameters:
                    path = path.replace("{" + name + "}", ids[name])
                assert (await ann.ask("GET", path)).status in (200, 403, 404), path
                asked += 1
        assert asked > 20
        assert everything(api) == before

    on(place, body)


def everything(api: FleetApi) -> dict[str, list[str]]:
    """All rows of all tables."""
    names = "SELECT name FROM sqlite_master WHERE type = 'table'"
    if api.place.engine == "postgresql":
        names = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    tables = [row[0] for row in api.rows(names)]
    assert "nodes" in tables
    query = "SELECT * FROM {}"
    return {table: sorted(map(str, api.rows(query.format(table)))) for table in tables}
