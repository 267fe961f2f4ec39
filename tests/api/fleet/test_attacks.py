"""What somebody with some right tries to make of it: each was possible once."""

from ambientd.wire.fleet_enums import Role
from tests.api.fleet.kit import FleetApi, json_of, on
from tests.store.fleet.kit import Place, SqlitePlace

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
