"""What somebody with some right tries to make of it: each was possible once."""

from ambientd.wire.fleet_enums import Role
from tests.api.fleet.kit import FleetApi, on
from tests.store.fleet.kit import SqlitePlace


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
