"""Connect sessions over HTTP, and the leases that come of them."""

import hashlib
import json

from ambientd.core.ed25519 import public_of, show_key
from ambientd.core.lease import Ground, Lease, Revocation, authentic
from ambientd.core.policybundle import item_of
from ambientd.wire.fleet_enums import Role
from ambientd.wire.policy_messages import PolicyItem
from tests.api.fleet.kit import LEASE_ISSUER, FleetApi, Joined, Person, on
from tests.api.fleet.test_tasks import CONNECT
from tests.store.fleet.kit import Place, SqlitePlace


async def started(api: FleetApi, person: Person) -> str:
    task = (await person.post("/tasks", CONNECT, status=201))["task_id"]
    found = await person.post("/connect-sessions/start", {"task_id": task}, status=201)
    assert found["session"]["status"] == "active"
    return str(task)


def test_a_session_lives_by_its_heartbeats_and_ends_with_its_task(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        await ann.register("edge-1", node_type="open_internet")
        task = await started(api, ann)
        again = await ann.ask("POST", "/connect-sessions/start", {"task_id": task})
        assert again.status == 409
        api.later(30)
        beat = await ann.post("/connect-sessions/s-1/heartbeat")
        assert (beat["status"], beat["node_id"], beat["internet_active"]) == ("active", "edge-1", True)
        assert beat["last_heartbeat_at"] is not None
        stopped = await ann.post("/connect-sessions/s-1/stop")
        assert (stopped["status"], stopped["end_reason"]) == ("ended", "stopped")
        assert (await ann.get(f"/tasks/{task}"))["status"] == "completed"
        assert await ann.post("/connect-sessions/s-1/stop") == stopped
        assert (await ann.ask("POST", "/connect-sessions/s-1/heartbeat")).status == 404

    on(place, body)


def test_a_session_id_is_its_requesters_own(place: Place) -> None:
    """S2: whoever chooses the same id gets a session of their own and touches nobody else's."""

    async def body(api: FleetApi) -> None:
        ann, bob = await api.person("ann"), await api.person("bob")
        await ann.register("edge-1", node_type="open_internet")
        await ann.register("edge-2", node_type="open_internet")
        await started(api, ann)
        hashes = api.rows("SELECT token_hash FROM connect_sessions")
        await started(api, bob)
        assert {bytes(row[0]) for row in hashes} < {
            bytes(row[0]) for row in api.rows("SELECT token_hash FROM connect_sessions")
        }
        nodes = [(await person.get("/connect-sessions/s-1"))["node_id"] for person in (ann, bob)]
        assert sorted(nodes) == ["edge-1", "edge-2"]
        await bob.post("/connect-sessions/s-1/stop")
        assert (await ann.get("/connect-sessions/s-1"))["status"] == "active"

    on(place, body)


def test_only_the_keyed_hash_of_a_session_token_is_kept(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        await ann.register("edge-1", node_type="open_internet")
        task = (await ann.post("/tasks", CONNECT, status=201))["task_id"]
        token = (await ann.post("/connect-sessions/start", {"task_id": task}, status=201))["session_token"]
        kept = sqlite.path.read_bytes() + sqlite.path.with_name("fleet.db-wal").read_bytes()
        assert token.encode() not in kept
        assert hashlib.sha256(token.encode()).digest() not in kept  # nor anything that needs no pepper

    on(sqlite, body)


def test_without_a_node_that_can_connect_the_task_waits(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        task = (await ann.post("/tasks", CONNECT, status=201))["task_id"]
        refused = await ann.ask("POST", "/connect-sessions/start", {"task_id": task})
        assert (refused.status, dict(refused.headers)["Retry-After"]) == (503, "1")
        other = await ann.submit()
        assert (await ann.ask("POST", "/connect-sessions/start", {"task_id": other})).status == 400

    on(sqlite, body)


async def items(edge: Joined, kind: str, since: int = 0) -> tuple[list[Lease | Revocation], int]:
    """What the node makes of the items that it fetches, as it does."""
    found = await edge.get(f"/{kind}?since_revision={since}")
    ground = Ground(
        network="default", node=public_of(edge.seed), issuers=frozenset({public_of(LEASE_ISSUER)})
    )
    read = []
    for row in found["items"]:
        item = item_of(PolicyItem(row["body"], row["issuer"], row["signature"]))
        assert not isinstance(item, str)
        content = authentic(item, ground)
        assert isinstance(content, Lease | Revocation), content
        read.append(content)
    return read, found["revision"]


def test_a_session_becomes_a_lease_of_its_node_and_its_end_a_revocation(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann, root = await api.person("ann"), await api.person("root", Role.ADMIN)
        edge = await ann.join("edge-1", node_type="open_internet")
        policy = {"id": "web", "revision": 1, "destinations": ["example.net"], "protocols": ["https"]}
        await root.post("/policies/issue", {"policy": [{**policy, "valid_for": "30d"}]}, status=201)
        assert (await items(edge, "leases"))[0] == []
        task = await started(api, ann)
        (lease,), revision = await items(edge, "leases")
        assert isinstance(lease, Lease)
        assert (lease.policy_id, lease.session_id, lease.node) == (
            "web",
            task,
            show_key(public_of(edge.seed)),
        )
        assert (lease.protocols, lease.max_mbps, lease.max_duration_ms) == (("https",), 10, 600_000)
        assert await items(edge, "leases", revision) == ([], revision)
        await ann.post("/connect-sessions/s-1/stop")
        (revocation,), _ = await items(edge, "leases", revision)
        assert isinstance(revocation, Revocation)
        assert revocation.jti == lease.jti

    on(place, body)


def test_a_lease_is_for_its_node_alone(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge-1", node_type="open_internet")
        other = await ann.join("edge-2", node_type="open_internet")
        await started(api, ann)
        assert len((await edge.get("/leases"))["items"]) == 1
        assert (await other.get("/leases"))["items"] == []
        assert (await other.ask("GET", "/nodes/edge-1/leases")).status == 404

    on(sqlite, body)


def test_clearing_the_task_of_a_session_revokes_its_lease(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge-1", node_type="open_internet")
        task = await started(api, ann)
        await ann.delete(f"/tasks/{task}")
        kinds = [row["kind"] for row in (await edge.get("/leases"))["items"]]
        assert kinds == ["lease", "revocation"]
        assert json.loads((await edge.get("/leases"))["items"][1]["body"])["kind"] == "lease_revocation"

    on(sqlite, body)
