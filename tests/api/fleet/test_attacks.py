"""What somebody with some right tries to make of it: each was possible once."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ambientd.core.audit import GENESIS, record_hash
from ambientd.core.ed25519 import public_of, show_key, sign
from ambientd.core.fleet.records import Requirements, StatusChange
from ambientd.core.fleet.signing import enrol_bytes
from ambientd.flows.fleet.work import PENDING_LOOKED_AT
from ambientd.store.fleet.assignments import Assignments
from ambientd.wire.fleet_enums import NodeStatus, Role
from tests.api.fleet.kit import REGISTRATION, FleetApi, Joined, Person, json_of, on
from tests.api.fleet.test_items import policy, signed
from tests.api.fleet.test_tasks import CONNECT
from tests.store.fleet.kit import Place, SqlitePlace, new_task

MIB = 1024 * 1024


def test_an_administrators_api_key_makes_no_accounts_whatever_its_scopes(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        root = await api.person("root", Role.ADMIN)
        wish = {"username": "mallory", "password": "long enough", "role": "admin"}
        for scopes in (["tasks:read"], ["tasks:write", "nodes:write"]):
            key = await root.post("/auth/api-keys", {"name": "k", "scopes": scopes}, status=201)
            answer = await api.ask("POST", "/auth/register", wish, token=key["api_key"])
            assert answer.status == 403, answer.body
        assert api.rows("SELECT username FROM users") == [("root",)]
        await root.post("/auth/register", wish, status=201)

    on(sqlite, body)


def test_work_of_strangers_cannot_make_an_answer_that_its_node_does_not_read(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann, bob = await api.person("ann"), await api.person("bob")
        edge = await ann.join("edge", node_type="any")
        large = {"a": ["x" * 9_000] * 300}
        tasks = [await bob.submit(inputs=large) for _ in range(4)]
        begun: list[str] = []
        for _ in range(4):
            answer = await edge.ask(
                "POST",
                edge.own("/assignments/reconcile"),
                {"running": [{"task_id": one} for one in begun]},
            )
            found = json_of(answer)
            assert len(answer.body) < 5 * MIB
            verdicts = {one["task_id"]: one["verdict"] for one in found["verdicts"]}
            assert verdicts == {one: "keep" if one in begun else "start" for one in tasks}
            new = [one["task_id"] for one in found["assignments"] if one["task_id"] not in begun]
            assert new
            begun += new
            if len(begun) == len(tasks):
                break
        assert sorted(begun) == sorted(tasks)
        assert len((await edge.ask("GET", edge.own("/assignments"))).body) < 5 * MIB

    on(place, body)


async def pages(
    person: Person, path: str, rows: Callable[[Any], list[Any]], cursor: Callable[[Any], Any]
) -> int:
    """All rows of a list, page by page; each page is of a size that anybody can take."""
    found, after = 0, ""
    for _ in range(100):
        answer = await person.ask("GET", path + after)
        assert len(answer.body) < 6 * MIB
        page = json_of(answer)
        found += len(rows(page))
        following = cursor((page, dict(answer.headers)))
        if not following:
            return found
        after = following
    raise AssertionError(found)


def test_what_a_node_hands_in_cannot_make_a_list_that_fills_the_memory(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge")
        for _ in range(8):
            task = await ann.submit()
            path = edge.own(f"/assignments/{task}/result")
            answer = await edge.ask("POST", path, {"status": "completed", "result": ["x" * MIB]})
            assert answer.status == 400, answer.status
            await edge.post(f"/assignments/{task}/result", {"status": "completed", "result": "x" * (MIB - 9)})
        session = {
            "agent_id": "a",
            "agent_label": "a",
            "model_id": "m",
            "status": "running",
            "started_at": "2026-11-20T11:00:00.000Z",
            "error_message": "x" * MIB,
        }
        event = {"event_type": "message", "at": "2026-11-20T11:00:00.000Z", "payload": {"text": "x" * MIB}}
        for seq in range(1, 9):
            record = {"seq": seq, "session_id": f"s{seq}", "session": session}
            await edge.post("/ledger", {"after": seq - 1, "records": [record]})
        for seq in range(1, 9):
            record = {"seq": 8 + seq, "session_id": "s1", "events": [{"seq": seq, **event}]}
            await edge.post("/ledger", {"after": 7 + seq, "records": [record]})
        after = GENESIS
        for seq in range(1, 9):
            fields: Any = {
                "seq": seq,
                "kind": "x",
                "at": "2026-11-20T11:00:00.000Z",
                "actor": "a",
                "subject": "s",
            }
            detail = {"text": "x" * MIB}
            digest = record_hash(prev_hash=after, detail=detail, **fields)
            await edge.post(
                "/audit", {"records": [{**fields, "detail": detail, "prev_hash": after, "hash": digest}]}
            )
            after = digest
        ledger, one = "/nodes/edge/ledger?limit=500", "/nodes/edge/ledger/s1"
        lists = (
            ("/tasks?limit=500", lambda page: page, lambda a: _with("&cursor=", a[1].get("X-Next-Cursor"))),
            (ledger, lambda page: page["rows"], lambda a: _with("&cursor=", a[0]["next_cursor"])),
            (one, lambda page: page["events"], lambda a: _with("?after_event=", a[0]["next_event"])),
            (
                "/nodes/edge/audit?limit=500",
                lambda page: page["records"],
                lambda a: _with("&after=", a[0]["records"][-1]["seq"] if a[0]["records"] else None),
            ),
        )
        for path, rows, cursor in lists:
            assert await pages(ann, path, rows, cursor) == 8, path

    on(place, body)


def _with(name: str, value: object) -> str:
    return f"{name}{value}" if value else ""


@pytest.mark.parametrize("how", ["restart", "clock forward"])
def test_an_outage_of_the_control_plane_takes_no_work_from_healthy_nodes(
    place: Place, tmp_path: Path, how: str
) -> None:
    async def first(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge, other = await ann.join("edge"), await ann.join("other")
        task = await ann.submit(away={"policy": "move", "after_sec": 60})
        await edge.post("/assignments/reconcile", {"running": [{"task_id": task}]})
        if how == "clock forward":
            api.clock.at += timedelta(days=1)
            await other.beat()
            await check(api)

    async def check(api: FleetApi) -> None:
        await api.sweep()
        await api.sweep()
        assert api.rows("SELECT DISTINCT status FROM nodes") == [("online",)]
        assert api.rows("SELECT count(*) FROM task_assignments WHERE disconnected_at IS NOT NULL") == [(0,)]
        api.later(1_000)
        await api.sweep()
        assert ("edge", "offline") in api.rows("SELECT node_id, status FROM nodes")

    async def again(api: FleetApi) -> None:
        await check(api)

    on(place, first)
    if how == "restart":
        on(place, again, at_sec=86_400)


def test_a_clock_that_is_set_back_leaves_no_node_online_for_ever(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge")
        api.clock.at += timedelta(days=3650)
        await edge.beat()
        api.clock.at -= timedelta(days=3650)
        api.listen()
        await edge.beat()
        api.later(1_000)
        await api.sweep()
        assert (await ann.get("/nodes/edge"))["status"] == "offline"

    on(place, body)


def test_a_rejected_node_gets_no_work_back_and_its_results_count_no_more(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge")
        task = await ann.submit(away={"policy": "move", "after_sec": 60})
        await edge.post("/assignments/reconcile", {"running": [{"task_id": task}]})
        other = await ann.join("other")
        api.later(200)
        await other.beat()
        await api.sweep()
        assert (await ann.get(f"/tasks/{task}"))["assigned_nodes"] == ["other"]
        await ann.post("/nodes/edge/reject")
        found = await edge.post("/assignments/reconcile", {"running": [{"task_id": task}]})
        assert found == {"verdicts": [{"task_id": task, "verdict": "stop"}], "assignments": []}
        for status in ("in_progress", "completed", "stopped"):
            said = {"status": status, "result": "mine"}
            await edge.post(f"/assignments/{task}/result", said, status=409)
        task_now = await ann.get(f"/tasks/{task}")
        assert (task_now["status"], task_now["assigned_nodes"]) == ("running", ["other"])

    on(place, body)


@pytest.mark.parametrize("how", ["reject", "delete", "away"])
def test_a_session_that_ends_with_its_node_takes_the_lease_back(place: Place, how: str) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge", node_type="any")
        task = (await ann.post("/tasks", CONNECT, status=201))["task_id"]
        session = (await ann.post("/connect-sessions/start", {"task_id": task}, status=201))["session"]
        if how == "reject":
            await ann.post("/nodes/edge/reject")
        elif how == "delete":
            await ann.delete("/nodes/edge")
            edge = await ann.join("edge", node_type="any")
        else:
            await api.plane.store.write(_fall_silent)
            await api.sweep()
            await edge.beat()
        now = await ann.get(f"/connect-sessions/{session['session_id']}")
        assert now["status"] == "ended"
        kinds = [item["kind"] for item in (await edge.get("/leases"))["items"]]
        assert kinds == ["lease", "revocation"]

    on(place, body)


def _fall_silent(tx: Any) -> None:
    """The node is offline before its session is over."""
    node = tx.nodes.get("edge")
    change = StatusChange(
        node_id="edge", before=node.status, after=NodeStatus.OFFLINE, last_seen=node.last_seen
    )
    assert tx.nodes.change_status([change]) == ["edge"]


def test_nobody_keeps_a_policy_from_others_by_handing_it_in_first(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        root = await api.person("root", Role.ADMIN)
        ann, bob = await api.person("ann"), await api.person("bob")
        anns, bobs, other = await ann.join("anns"), await bob.join("bobs"), await bob.join("other")
        items = {"items": [signed(policy("p"))]}
        revisions = [
            (await person.post("/policies", wish, status=201))["revision"]
            for person, wish in (
                (bob, {**items, "node_id": "bobs"}),
                (ann, items),
                (ann, items),
                (bob, {**items, "node_id": "bobs"}),
            )
        ]
        assert revisions == [1, 2, 2, 1]
        assert [len((await one.get("/policies"))["items"]) for one in (anns, bobs, other)] == [1, 1, 0]
        assert (await root.post("/policies", items, status=201))["revision"] == 3
        assert (await bob.post("/policies", items, status=201))["revision"] == 3
        assert len((await other.get("/policies"))["items"]) == 1

    on(place, body)


def test_tasks_that_can_never_run_hold_up_nobody_elses(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann, bob = await api.person("ann"), await api.person("bob")
        edge = await ann.join("edge")
        running = [await ann.submit() for _ in range(3)]

        def crowd(tx: Any) -> None:
            need = Requirements(min_nodes=1_000)
            for n in range(PENDING_LOOKED_AT + 20):
                task_id = f"00000000-0000-0000-0000-{n:012}"
                tx.tasks.add(new_task(task_id, bob.user_id, requirements=need, at=api.clock.now()))

        await api.plane.store.write(crowd)
        api.clock.at += timedelta(seconds=1)
        wanted = await ann.submit(requirements={"require_gpu": True})
        relay = (await ann.post("/tasks", CONNECT, status=201))["task_id"]
        assert (await ann.get(f"/tasks/{wanted}"))["status"] == "pending"
        await ann.register("door", node_type="open_internet")
        assert (await ann.get(f"/tasks/{relay}"))["status"] == "running"
        capable: Any = REGISTRATION["capabilities"]
        capable = {**capable, "gpu_available": True}
        await ann.register("gpu", capabilities=capable)
        # Every result and every cleared task once offered hundreds of them anew, and held up everybody.
        steps = await offers(
            api, lambda: edge.post(f"/assignments/{running[0]}/result", {"status": "completed"})
        )
        steps += await offers(api, lambda: ann.delete(f"/tasks/{running[1]}"))
        assert steps == 0
        await api.sweep()
        assert (await ann.get(f"/tasks/{wanted}"))["status"] == "running"

    on(place, body, max_active_tasks=700)


async def offers(api: FleetApi, ask: Callable[[], Awaitable[Any]]) -> int:
    """How many tasks were held against all nodes while something was asked for."""
    count = 0
    real = Assignments.candidates

    def counting(*args: Any, **more: Any) -> Any:
        nonlocal count
        count += 1
        return real(*args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Assignments, "candidates", counting)
        await ask()
    return count


def test_parts_that_have_failed_take_no_room_on_their_node(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann, bob = await api.person("ann"), await api.person("bob")
        edge = await ann.join("edge", node_type="any")
        for _ in range(3):  # which need a node more than there are, and so never end
            task = await bob.submit(requirements={"min_nodes": 2})
            await edge.post(f"/assignments/{task}/result", {"status": "failed", "result": "cannot"})
        mine = await ann.submit()
        assert (await ann.get(f"/tasks/{mine}"))["assigned_nodes"] == ["edge"]

    on(place, body, max_active_tasks=3)


def test_guessing_from_many_addresses_of_one_network_is_guessing_from_one(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        statuses = [
            (await api.ask("GET", "/nodes", token="at_" + "0" * 64, ip=f"2001:db8::{n:x}")).status
            for n in range(1, 60)
        ]
        assert statuses.count(429) >= 25
        assert (await api.ask("GET", "/nodes", token="at_" + "0" * 64, ip="2001:db9::1")).status == 401

    on(sqlite, body)


def test_a_node_that_asks_for_new_credentials_again_and_again_has_few(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge")
        key = public_of(edge.seed)
        message = enrol_bytes(node_id="edge", public_key=key, join_token=edge.answer["credential_id"])
        wish = {"public_key": show_key(key), "proof": sign(edge.seed, message).hex()}
        made = [await edge.post("/credential/rotate", wish, status=201) for _ in range(20)]
        assert api.rows("SELECT count(*) FROM device_credentials")[0][0] <= 6
        last = Joined(api, "edge", edge.seed, made[-1]["device_token"], made[-1])
        await last.post("/credential/confirm", None)
        await last.beat()

    on(place, body)


def test_a_window_without_length_is_refused(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge")
        at = "2026-11-20T11:00:00.000Z"
        window = {"seq": 1, "window_start": at, "window_end": at, "value": 1.0, "samples": 1}
        await edge.post("/delta-v", {"after": 0, "records": [window]}, status=400)

    on(place, body)


def test_sums_over_what_nodes_say_do_not_overflow(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge")
        at = "2026-11-20T11:00:00.000Z"
        most = 2**63 - 1
        session = {
            "agent_id": "a",
            "agent_label": "a",
            "model_id": "m",
            "status": "success",
            "started_at": at,
            "runtime_ms": most,
        }
        usage = {"computed_at": at, "total_tokens": most, "cost_usd": 1e12}
        records = [{"seq": n, "session_id": f"s{n}", "session": session, "usage": usage} for n in range(1, 4)]
        await edge.post("/ledger", {"after": 0, "records": records})
        found = await ann.get("/nodes/edge/usage")
        assert (found["sessions"], found["total_tokens"], found["runtime_ms"]) == (3, 3 * most, 3 * most)

    on(place, body)
