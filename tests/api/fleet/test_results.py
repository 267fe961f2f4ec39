"""Results by the task's id, as the fleet API has them, and proofs, which are not believed."""

import base64
from typing import Any

import pytest

from tests.api.fleet.kit import FleetApi, json_of, on
from tests.api.fleet.test_tasks import CONNECT
from tests.store.fleet.kit import Place, SqlitePlace

PROOF = {"proof_data": base64.b64encode(b"proof").decode(), "public_inputs": base64.b64encode(b"x").decode()}


def result_of(node: str, result: Any = 42, **fields: Any) -> dict[str, Any]:
    return {"node_id": node, "result": result, **fields}


def test_the_owner_of_a_node_completes_its_task_whoever_submitted_it(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann, bob = await api.person("ann"), await api.person("bob")
        await ann.register("edge-1")
        task = await bob.submit()
        api.later(3)
        said = result_of("edge-1", {"sum": 3}, execution_time_ms=1200, circuit_id="c", **PROOF)
        done = await ann.post(f"/tasks/{task}/result", said)
        assert done == {
            "task_id": task,
            "status": "completed",
            "node_id": "edge-1",
            "proof_verified": False,
            "completed_at": "2026-11-20T12:00:03.000Z",
        }
        found = await bob.get(f"/tasks/{task}")
        assert (found["status"], found["result"], found["proof_id"]) == ("completed", {"sum": 3}, None)
        assert (found["assigned_nodes"], found["former_assigned_nodes"]) == ([], ["edge-1"])
        api.later(60)
        assert await ann.post(f"/tasks/{task}/result", said) == done  # its answer was lost
        statuses = api.rows("SELECT execution_status FROM task_assignments")
        assert statuses == [("completed",)]

    on(place, body)


def test_a_joined_node_may_hand_it_in_for_itself_with_a_number_that_is_taken_once(
    sqlite: SqlitePlace,
) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge-1")
        await ann.register("edge-2")
        task = await ann.submit()
        path = f"/tasks/{task}/result"
        assert (await edge.ask("POST", path, result_of("edge-2"))).status == 404
        assert json_of(await edge.ask("POST", path, result_of("edge-1")))["status"] == "completed"
        again = await edge.ask("POST", path, result_of("edge-1"), sequence=edge.sequence)
        assert again.status == 409

    on(sqlite, body)


def test_what_cannot_be_completed_is_a_400_that_says_why(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        await ann.register("edge-1")
        await ann.register("way-out", node_type="open_internet")
        connect = (await ann.post("/tasks", CONNECT, status=201))["task_id"]
        ended, taken = await ann.submit(), await ann.submit()
        await ann.register("edge-2")
        await ann.post(f"/tasks/{ended}/result", result_of("edge-1"))
        proved = await ann.submit(requirements={"require_proof": True})

        async def refused(task: str, node: str, **fields: Any) -> str:
            path = f"/tasks/{task}/result"
            error = (await ann.post(path, result_of(node, **fields), status=400))["error"]
            assert error["code"] == "VALIDATION_ERROR"
            assert error["details"]
            return str(error["message"])

        assert "connect_only" in await refused(connect, "way-out")
        assert "not assigned" in await refused(ended, "edge-2")
        assert "not assigned" in await refused(taken, "edge-2")
        await ann.post("/nodes/edge-1/reject")
        assert "rejected this node" in await refused(taken, "edge-1")
        await ann.post(f"/tasks/{taken}/result", result_of("edge-2"))
        assert "already completed" in await refused(taken, "edge-1")
        node = (await ann.get(f"/tasks/{proved}"))["assigned_nodes"][0]
        for fields in ({}, PROOF):
            assert "proof" in await refused(proved, node, **fields)
        assert (await ann.get(f"/tasks/{proved}"))["status"] == "running"

    on(place, body)


def test_a_required_proof_is_missing_on_both_ways_and_the_task_may_fail(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge-1")
        task = await ann.submit(requirements={"require_proof": True})
        way = f"/assignments/{task}/result"
        refused = await edge.post(way, {"status": "completed", "proof_id": "p"}, status=400)
        assert "no proof is trusted" in refused["error"]["message"]
        assert (await edge.post(way, {"status": "failed"}))["status"] == "failed"

    on(sqlite, body)


def test_a_task_that_is_nobodys_business_is_not_there(sqlite: SqlitePlace) -> None:
    """Whether another owner has a task of that id is not told, with or without a node of one's own."""

    async def body(api: FleetApi) -> None:
        ann, bob = await api.person("ann"), await api.person("bob")
        await ann.register("anns")
        task = await ann.submit()
        await bob.register("bobs")
        nothing = "00000000-0000-4000-8000-000000000000"
        answers = [
            await bob.ask("POST", f"/tasks/{task_id}/result", result_of("bobs"))
            for task_id in (task, nothing, "x")
        ]
        assert {(one.status, one.body) for one in answers} == {(404, answers[0].body)}
        theirs = await bob.ask("POST", f"/tasks/{task}/result", result_of("anns"))
        none = await bob.ask("POST", f"/tasks/{task}/result", result_of("nowhere"))
        assert (theirs.status, theirs.body) == (none.status, none.body)
        assert (await ann.get(f"/tasks/{task}"))["status"] == "running"

    on(sqlite, body)


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"proof_data": "not base64!"}, "proof_data"),
        ({"proof_data": "A" * 100_004}, "proof_data"),
        ({"public_inputs": "A" * 10_004}, "public_inputs"),
        ({"circuit_id": ""}, "circuit_id"),
        ({"execution_time_ms": -1}, "execution_time_ms"),
        ({"node_id": 7}, "node_id"),
    ],
)
def test_a_result_of_the_wrong_form_is_refused_by_field(
    sqlite: SqlitePlace, said: dict[str, Any], field: str
) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        await ann.register("edge-1")
        task = await ann.submit()
        error = (await ann.post(f"/tasks/{task}/result", result_of("edge-1", **said), status=400))["error"]
        assert [detail["field"] for detail in error["details"]] == [field]

    on(sqlite, body)


def test_no_proof_is_ever_called_valid(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge-1")
        good = {"task_id": await ann.submit(), **PROOF}
        path = "/proofs/verify"
        assert (await api.ask("POST", path, good)).status == 401
        for who in (ann, edge):
            error = json_of(await who.ask("POST", path, good), 501)["error"]
            assert (error["code"], error["details"]) == ("NOT_IMPLEMENTED", [])
            assert "anybody can make a proof" in error["message"]
        wrong: list[tuple[dict[str, Any], list[str]]] = [
            ({**good, "proof_data": "?"}, ["proof_data"]),
            ({**good, "public_inputs": "A" * 10_004}, ["public_inputs"]),
            ({"task_id": "x", "proof_data": "", "public_inputs": ""}, ["proof_data", "task_id"]),
            ({"task_id": good["task_id"]}, ["proof_data", "public_inputs"]),
        ]
        for bad, fields in wrong:
            error = json_of(await ann.ask("POST", path, bad), 400)["error"]
            assert [detail["field"] for detail in error["details"]] == fields
        large = {**good, "proof_data": "A" * 140_000}
        assert (await ann.ask("POST", path, large)).status == 413
        listed = json_of(await ann.ask("GET", "//openapi.json"))["paths"]["/api/v1/proofs/verify"]["post"]
        assert "501" in listed["responses"]
        assert "200" not in listed["responses"]

    on(place, body)
