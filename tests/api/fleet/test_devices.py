"""Joining, signing, rotation and revocation over HTTP."""

import json
from typing import Any

import pytest

from ambientd.core.ed25519 import public_of, show_key, sign
from ambientd.core.fleet.signing import enrol_bytes
from tests.api.fleet.kit import ISSUER, REGISTRATION, FleetApi, Joined, json_of, on
from tests.store.fleet.kit import Place, SqlitePlace


def test_a_node_joins_by_a_token_and_signs_every_request(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge-1")
        assert edge.answer["owner_id"] == ann.user_id
        assert edge.answer["network"] == "default"
        assert edge.answer["issuers"] == [show_key(public_of(ISSUER))]
        assert (await edge.beat({"seq": 1}))["node_status"] == "online"
        assert (await edge.get(""))["report_seq"] == 1
        (token,) = (await ann.get("/join-tokens"))["tokens"]
        assert (token["uses_left"], "join_token" in token) == (0, False)

    on(place, body)


def test_a_number_is_taken_once_and_the_refusal_tells_where_to_go_on(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge-1")
        await edge.beat({"seq": 1})
        path = edge.own("/heartbeat")
        for sequence in (1, edge.sequence):
            answer = await edge.ask("PUT", path, {"seq": 2}, sequence=sequence)
            error = json_of(answer, 409)["error"]
            assert error["code"] == "REPLAYED"
            assert error["details"][0]["expected"] == "1"
        assert api.rows("SELECT count(*) FROM node_heartbeat_history") == [(1,)]
        # What reads may bear the last number, not a lower one.
        edge.sequence = 7
        await edge.beat({"seq": 2})
        assert (await edge.ask("GET", edge.own(""), sequence=8)).status == 200
        assert (await edge.ask("GET", edge.own(""), sequence=7)).status == 409
        for rest, batch in (("/ledger", {"after": 0, "records": []}), ("/audit", {"records": []})):
            assert (await edge.ask("POST", edge.own(rest), batch, sequence=8)).status == 409

    on(place, body)


@pytest.mark.parametrize("wrong", ["body", "target", "method", "key", "sequence", "none"])
def test_a_token_alone_opens_nothing(sqlite: SqlitePlace, wrong: str) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge-1")
        path, raw = edge.own("/heartbeat"), b'{"seq": 1}'
        signed = {"method": "PUT", "target": "/api/v1" + path, "body": raw, "sequence": 5}
        other: dict[str, object] = {
            "body": b'{"seq": 2}',
            "target": "/api/v1" + path + "?x=1",
            "method": "POST",
            "sequence": 6,
        }
        if wrong in other:
            signed[wrong] = other[wrong]
        if wrong == "key":
            edge.seed = bytes(32)
        headers = edge.headers(**signed)  # type: ignore[arg-type]  # by name
        headers["x-ambient-sequence"] = "5"
        if wrong == "none":
            headers = {}
        answer = await api.ask("PUT", path, raw, token=edge.token, headers=headers)
        assert json_of(answer, 401)["error"]["code"] == "NOT_AUTHENTICATED"
        assert api.rows("SELECT count(*) FROM node_heartbeat_history") == [(0,)]

    on(sqlite, body)


def test_a_node_speaks_for_itself_alone(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge, other = await ann.join("edge-1"), await ann.join("edge-2")
        task = await ann.submit(requirements={"min_nodes": 2})
        foreign: list[tuple[str, str, Any]] = [
            ("GET", "/nodes/edge-2", None),
            ("PUT", "/nodes/edge-2/heartbeat", {"seq": 1}),
            ("GET", "/nodes/edge-2/assignments", None),
            ("POST", f"/nodes/edge-2/assignments/{task}/result", {"status": "completed"}),
            ("POST", "/nodes/edge-2/ledger", {"after": 0, "records": []}),
            ("GET", "/tasks?node_id=edge-2", None),
        ]
        for method, path, batch in foreign:
            answer = await edge.ask(method, path, batch)
            assert json_of(answer, 404)["error"]["message"] == "there is no such node"
        of_people: list[tuple[str, str, Any]] = [
            ("DELETE", "/nodes/edge-1", None),
            ("POST", "/tasks", {"task_type": "computation", "inputs": {}}),
            ("POST", "/join-tokens", {}),
            ("GET", "/admin/users", None),
        ]
        for method, path, batch in of_people:
            assert (await edge.ask(method, path, batch)).status == 403
        assert [node["node_id"] for node in json_of(await edge.ask("GET", "/nodes"))] == ["edge-1"]
        assert [row["task_id"] for row in json_of(await other.ask("GET", "/tasks"))] == [task]
        assert json_of(await other.ask("GET", f"/tasks/{task}"))["task_id"] == task

    on(sqlite, body)


def test_people_cannot_do_what_is_the_nodes_own_affair(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        await ann.join("edge-1")
        for path, batch in (
            ("/nodes/edge-1/audit", {"records": []}),
            ("/nodes/edge-1/ledger", {"after": 0, "records": []}),
            ("/nodes/edge-1/delta-v", {"after": 0, "records": []}),
            ("/nodes/edge-1/reports", {"reports": [{"seq": 1}]}),
            ("/nodes/edge-1/assignments/reconcile", {"running": []}),
        ):
            assert (await ann.ask("POST", path, batch)).status == 403

    on(sqlite, body)


async def rotated(edge: Joined, seed: bytes) -> Joined:
    key = public_of(seed)
    proof = sign(
        seed, enrol_bytes(node_id=edge.node_id, public_key=key, join_token=edge.answer["credential_id"])
    )
    found = await edge.post(
        "/credential/rotate", {"public_key": show_key(key), "proof": proof.hex()}, status=201
    )
    return Joined(edge.api, edge.node_id, seed, found["device_token"], found)


def test_a_credential_is_changed_without_a_moment_in_which_none_is_good(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge-1")
        await edge.post("/delta-v", {"after": 0, "records": []})
        new = await rotated(edge, bytes([9]) * 32)
        await edge.beat()
        await new.post("/credential/confirm", None)
        await new.beat()
        assert (await edge.beat(status=401))["error"]["code"] == "NOT_AUTHENTICATED"
        assert (await new.get(""))["incarnation"] == 2

    on(place, body)


def test_the_owner_revokes_and_the_node_must_join_again(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann, bob = await api.person("ann"), await api.person("bob")
        edge = await ann.join("edge-1")
        assert (await bob.ask("DELETE", "/nodes/edge-1/credential")).status == 404
        await ann.delete("/nodes/edge-1/credential")
        await edge.beat(status=401)
        again = await ann.join("edge-1")
        await again.beat()
        await ann.delete("/nodes/edge-1")
        await again.beat(status=401)

    on(place, body)


def test_two_machines_of_one_name_do_not_drive_each_other_out(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge, other = await ann.join("edge-1"), bytes([9]) * 32
        await edge.beat()
        taken = await ann.enrol("edge-1", other)
        assert (taken.status, json_of(taken, 409)["error"]["code"]) == (409, "CONFLICT")
        await edge.beat()
        await (await ann.join("edge-1")).beat()  # the same machine again
        named = await ann.enrol("edge-1", other, token_for="edge-1")  # by a token for just this id
        assert named.status == 201
        quiet = await ann.join("edge-2")
        await quiet.beat()
        api.later(200)
        await api.sweep()
        assert (await ann.enrol("edge-2", other)).status == 201  # nobody reports under it

    on(place, body)


def test_join_tokens_are_bounded_listed_and_revoked(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann, bob = await api.person("ann"), await api.person("bob")
        bad = {"uses": 0, "expires_in": 1, "node_id": "a b"}
        error = (await ann.post("/join-tokens", bad, status=400))["error"]
        assert {detail["field"] for detail in error["details"]} == {"uses", "expires_in", "node_id"}
        made = await ann.post("/join-tokens", {"uses": 3, "node_id": "edge-9"}, status=201)
        assert (await bob.ask("DELETE", f"/join-tokens/{made['token_id']}")).status == 404
        await ann.delete(f"/join-tokens/{made['token_id']}")
        await ann.delete(f"/join-tokens/{made['token_id']}", status=404)
        seed = bytes([3]) * 32
        key = public_of(seed)
        proof = sign(seed, enrol_bytes(node_id="edge-9", public_key=key, join_token=made["join_token"]))
        enrol = {
            "join_token": made["join_token"],
            "node_id": "edge-9",
            "public_key": show_key(key),
            "proof": proof.hex(),
            **REGISTRATION,
        }
        assert (await api.ask("POST", "/nodes/enrol", enrol)).status == 401
        for field, value in (("public_key", "ed25519:" + "0" * 64), ("proof", "zz"), ("node_id", "a b")):
            assert (await api.ask("POST", "/nodes/enrol", {**enrol, field: value})).status == 400

    on(sqlite, body)


def test_control_actions_are_in_the_control_planes_own_chain(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        from ambientd.core.audit import AuditRecord, first_bad
        from ambientd.wire.fleet_enums import Role

        ann, root = await api.person("ann"), await api.person("root", Role.ADMIN)
        await ann.join("edge-1")
        await ann.delete("/nodes/edge-1")
        await ann.delete(f"/tasks/{await ann.submit()}")
        records = (await root.get("/admin/audit-log"))["records"]
        assert [record["kind"] for record in records] == [
            "join_token_made",
            "node_enrolled",
            "node_deleted",
            "task_deleted",
        ]
        assert first_bad([AuditRecord(**record) for record in records]) is None
        assert "jt_" not in json.dumps(records)
        assert (await ann.ask("GET", "/admin/audit-log")).status == 403

    on(sqlite, body)
