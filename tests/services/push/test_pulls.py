"""What comes down signed: policies and tombstones, leases for connect sessions, revocations."""

from pathlib import Path
from typing import Any

from ambientd.core.assignments import AssignmentState
from ambientd.core.policy import Policy, Tombstone, build_item
from ambientd.core.policybundle import text_of
from ambientd.core.policyrecords import PolicyQuery
from ambientd.core.timefmt import to_ms
from ambientd.wire.enums import Connectivity
from ambientd.wire.fleet_enums import Role
from tests.api.fleet.kit import ISSUER, Person
from tests.api.fleet.test_tasks import CONNECT
from tests.pushkit import LOST, OK, NodeRig, node_beside
from tests.store.kit import AT

NOW = to_ms(AT)
DAY = 86_400_000


def policy(policy_id: str, revision: int = 1, **fields: Any) -> Policy:
    facts: dict[str, Any] = {
        "network": "default",
        "destinations": ("example.net",),
        "protocols": ("https",),
        "not_before": NOW,
        "not_after": NOW + DAY,
        "issued_at": NOW,
    }
    return Policy(id=policy_id, revision=revision, **(facts | fields))


async def hand_in(root: Person, *contents: Any, seed: bytes = ISSUER) -> None:
    from ambientd.core.ed25519 import public_of

    items = [text_of(build_item(seed, public_of(seed), content)) for content in contents]
    rows = [{"body": one.body, "issuer": one.issuer, "signature": one.signature} for one in items]
    await root.post("/policies", {"items": rows}, status=201)


async def root_of(rig: NodeRig) -> Person:
    return await rig.api.person("root", Role.ADMIN)


async def held(rig: NodeRig) -> dict[str, int]:
    policies = rig.service._parts.policies
    pages, _ = await policies.page(PolicyQuery())
    return {rows[0].policy_id: rows[0].revision for rows in pages}


async def test_policies_come_down_are_replaced_and_removed(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        root = await root_of(rig)
        await hand_in(root, policy("web"), policy("mail"))
        result = await rig.sync()
        assert (result.policies.seen, result.policies.taken, result.policies.refused) == (2, 2, 0)
        assert await held(rig) == {"web": 1, "mail": 1}
        again = await rig.sync()
        assert again.policies.seen == 0
        gone = Tombstone(network="default", id="mail", revision=2, issued_at=NOW, not_after=NOW + 401 * DAY)
        await hand_in(root, policy("web", 2), gone)
        result = await rig.sync()
        assert result.policies.taken == 2
        assert (await held(rig))["web"] == 2


async def test_an_empty_answer_leaves_no_trace_in_the_audit(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        for _ in range(5):
            await rig.sync()
        assert (await rig.here())["audit"] == []


async def test_more_than_a_page_comes_in_pages_and_a_break_between_them_loses_nothing(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        root = await root_of(rig)
        for start in range(0, 450, 150):
            await hand_in(root, *(policy(f"p{n:03}") for n in range(start, start + 150)))
        rig.wire.faults = [*[OK] * 5, LOST]  # the second page
        assert (await rig.sync()).reason
        rig.wire.sent.clear()
        await rig.sync()
        asked = len([path for path in rig.wire.paths("GET") if path.startswith("policies")])
        assert asked == 2
        assert rig.service._parts.policies.facts.totals.policies == 450
        state = await rig.store.read(lambda tx: tx.outbox.state())
        assert state.policies_revision == 450


async def test_while_the_node_is_offline_the_place_is_kept(tmp_path: Path) -> None:
    """The cache is read-only then; what came down is asked for again."""
    async with node_beside(tmp_path) as rig:
        root = await root_of(rig)
        await hand_in(root, policy("web"))
        rig.links.state = Connectivity.OFFLINE
        result = await rig.sync()
        assert result.policies is None or result.policies.taken == 0
        assert await held(rig) == {}
        rig.links.state = Connectivity.ONLINE
        await rig.drain()
        assert await held(rig) == {"web": 1}


async def test_issuers_count_as_long_as_the_membership_lasts(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        root = await root_of(rig)
        await hand_in(root, policy("web"))
        await rig.drain()
        cache = rig.service._parts.policies
        assert (await cache.check("https://example.net")).allowed
        rig.file.current = None
        assert not (await cache.check("https://example.net")).allowed


# --- connect sessions


async def connected(rig: NodeRig) -> str:
    """A connect session of the owner at this node; its task."""
    await hand_in(await root_of(rig), policy("web"))
    await rig.drain()
    task_id = (await rig.owner.post("/tasks", CONNECT, status=201))["task_id"]
    await rig.owner.post("/connect-sessions/start", {"task_id": task_id}, status=201)
    return str(task_id)


async def mine(rig: NodeRig, task_id: str) -> Any:
    return await rig.store.read(lambda tx: tx.assignments.get(task_id))


def as_gateway(rig: NodeRig) -> None:
    rig.api.place.rows("UPDATE nodes SET node_type = 'any', bandwidth_mbps = 1000")


async def test_a_connect_session_becomes_a_lease_and_its_end_a_result(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        as_gateway(rig)
        task_id = await connected(rig)
        await rig.sync()
        one = await mine(rig, task_id)
        assert one.state is AssignmentState.RUNNING, rig.log.lines
        row = await rig.store.read(lambda tx: tx.leases.get(one.lease_id))
        assert row is not None
        assert row.is_active
        assert row.lease.session_id == task_id
        await rig.leases.end(one.lease_id, "uid:0")
        await rig.drain()
        found = await rig.owner.get(f"/tasks/{task_id}")
        assert found["status"] == "completed"
        assert found["result"]["end_reason"] == "operator"


async def test_a_session_that_is_stopped_there_is_revoked_here(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        as_gateway(rig)
        task_id = await connected(rig)
        await rig.sync()
        lease_id = (await mine(rig, task_id)).lease_id
        await rig.owner.post("/connect-sessions/s-1/stop")
        await rig.sync()
        row = await rig.store.read(lambda tx: tx.leases.get(lease_id))
        assert row is not None
        assert row.end_reason == "revoked"
        await rig.drain()
        assert (await mine(rig, task_id)).has_ended


async def test_a_lease_is_activated_once_whatever_is_lost(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        as_gateway(rig)
        task_id = await connected(rig)
        for place in range(6):
            rig.wire.faults = [*[OK] * place, LOST]
            await rig.sync()
            rig.restart()
        await rig.drain()
        leases = await rig.store.read(lambda tx: tx.leases.active())
        assert [row.lease.session_id for row in leases] == [task_id]
        assert (await mine(rig, task_id)).state is AssignmentState.RUNNING
