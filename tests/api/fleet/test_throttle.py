"""Rate limits that administrators change for a while, over HTTP."""

import itertools
from typing import Any

import pytest

from ambientd.flows.fleet import throttle
from ambientd.ports.errors import UnavailableError
from ambientd.ports.http import Response
from ambientd.wire.fleet_enums import Role
from tests.api.fleet.kit import FleetApi, Person, api_over, json_of, on
from tests.store.fleet.kit import Place, PostgresqlPlace, SqlitePlace

PATH = "/admin/throttle-overrides"
HERE, THERE = "192.0.2.9", "192.0.2.200"
_PLACES = itertools.count(1)
TIGHT: Any = {"general_rpm": 60, "general_burst": 2}


def wanted(**fields: Any) -> dict[str, Any]:
    return {"tier": "general", "rpm": 600, "burst": 5, "expires_in": 3600, **fields}


async def passes(api: FleetApi, person: Person, ip: str = HERE) -> int:
    """How many requests are taken at once."""
    for count in range(100):
        if (await api.ask("GET", "/nodes", token=person.token, ip=ip)).status == 429:
            return count
    raise AssertionError("no limit")


async def root_of(api: FleetApi) -> Person:
    return await api.person("root", Role.ADMIN)


async def administer(api: FleetApi, root: Person, method: str, path: str, body: Any = None) -> Any:
    """Each time from an address of its own, which has its whole measure."""
    answer = await from_afar(api, root, method, path, body)
    return json_of(answer, 201 if method == "POST" else 200)


async def from_afar(api: FleetApi, person: Person, method: str, path: str, body: Any = None) -> Response:
    return await api.ask(method, path, body, token=person.token, ip=f"2001:db8:0:{next(_PLACES):x}::1")


def test_an_override_counts_at_once_and_until_it_expires(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        root, ann = await root_of(api), await api.person("ann")
        assert await passes(api, ann) == 2
        made = await administer(api, root, "POST", PATH, wanted(client="192.0.2.0/24", reason="moving"))
        assert made == {
            "override_id": made["override_id"],
            "tier": "general",
            "client": "192.0.2.0/24",
            "user_id": None,
            "rpm": 600,
            "burst": 5,
            "reason": "moving",
            "created_by": "id-of-root",
            "created_at": "2026-11-20T12:00:00.000Z",
            "expires_at": "2026-11-20T13:00:00.000Z",
        }
        assert await passes(api, ann) == 5
        assert await passes(api, ann, THERE) == 5  # each address of the network by itself
        assert await passes(api, ann, "198.51.100.1") == 2
        api.later(0.5)
        assert await passes(api, ann) == 5
        assert (await administer(api, root, "GET", PATH))["overrides"] == [made]
        api.later(3600)
        assert await passes(api, ann) == 2
        assert (await administer(api, root, "GET", PATH))["overrides"] == []
        api.later(86_400)
        await api.sweep()
        assert api.rows("SELECT count(*) FROM throttle_overrides") == [(0,)]

    on(place, body, **TIGHT, access_lifetime="1d")


def test_it_is_replaced_taken_back_and_written_down(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        root, ann = await root_of(api), await api.person("ann")
        first = await administer(api, root, "POST", PATH, wanted(client=HERE))
        second = await administer(api, root, "POST", PATH, wanted(client=HERE, rpm=60, burst=1))
        assert second["client"] == HERE
        assert (await administer(api, root, "GET", PATH))["overrides"] == [second]
        assert await passes(api, ann) == 1
        for name in (first["override_id"], "nothing"):
            gone = await from_afar(api, root, "DELETE", f"{PATH}/{name}")
            assert gone.status == 404
        await administer(api, root, "DELETE", f"{PATH}/{second['override_id']}")
        assert await passes(api, ann) == 2
        records = (await administer(api, root, "GET", "/admin/audit-log"))["records"]
        assert [(row["kind"], row["subject"], row["actor"]) for row in records] == [
            ("throttle_override_set", first["override_id"], "user:id-of-root"),
            ("throttle_override_set", second["override_id"], "user:id-of-root"),
            ("throttle_override_removed", second["override_id"], "user:id-of-root"),
        ]
        assert records[1]["detail"] == {
            "tier": "general",
            "for": f"client:{HERE}/32",
            "rpm": 60,
            "burst": 1,
            "expires_at": second["expires_at"],
        }

    on(place, body, **TIGHT)


def test_an_accounts_own_is_one_measure_wherever_it_calls_from(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        root, ann, bob = await root_of(api), await api.person("ann"), await api.person("bob")
        await administer(api, root, "POST", PATH, wanted(user_id=ann.user_id, burst=4))
        await administer(api, root, "POST", PATH, wanted(client=HERE, burst=1))
        assert await passes(api, ann) == 4
        assert await passes(api, ann, THERE) == 0
        assert await passes(api, bob) == 1
        unknown = await from_afar(api, root, "POST", PATH, wanted(user_id="nobody"))
        assert [d["field"] for d in json_of(unknown, 400)["error"]["details"]] == ["user_id"]

    on(place, body, **TIGHT)


def test_guessing_tokens_is_not_free_where_it_matters_who_asks(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        root, ann = await root_of(api), await api.person("ann")
        await administer(api, root, "POST", PATH, wanted(user_id=ann.user_id))
        asked = []
        caller = api.plane.throttle._caller

        async def counting(token: str) -> Any:
            asked.append(token)
            return await caller(token)

        api.plane.throttle._caller = counting
        for number in range(100):
            await api.ask("GET", "/nodes", token=f"at_{number:064x}")
        assert len(asked) < 50
        assert (await api.ask("GET", "/nodes", token=ann.token, ip=THERE)).status == 200
        for _ in range(3):
            await api.ask("GET", "/nodes", token=ann.token, ip=THERE)
        assert asked.count(ann.token) == 1

    on(sqlite, body)


def test_a_database_that_is_away_leaves_everybody_their_addresss_measure(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        root, ann = await root_of(api), await api.person("ann")
        await administer(api, root, "POST", PATH, wanted(user_id=ann.user_id))

        async def away(_token: str) -> Any:
            raise UnavailableError("the database is away")

        api.plane.throttle._caller = away
        assert await passes(api, ann) == 2

    on(sqlite, body, **TIGHT)


def test_they_survive_a_restart(place: Place) -> None:
    async def before(api: FleetApi) -> None:
        await administer(api, await root_of(api), "POST", PATH, wanted(client=HERE))

    async def after(api: FleetApi) -> None:
        ann = await api.person("ann")
        assert await passes(api, ann) == 2
        await api.plane.throttle.refresh()
        assert await passes(api, ann) == 5

    on(place, before, **TIGHT)
    on(place, after, **TIGHT)


async def test_another_process_hears_of_it_with_its_next_sweep(pg_place: PostgresqlPlace) -> None:
    async with api_over(pg_place, **TIGHT) as one, api_over(pg_place, **TIGHT) as two:
        root, ann = await root_of(one), await one.person("ann")
        made = await administer(one, root, "POST", PATH, wanted(client=HERE))
        assert await passes(two, ann) == 2
        assert [sweep.interval for sweep in two.plane.sweeps._sweeps if sweep.name == "throttle"] == [15.0]
        await two.sweep()
        assert await passes(two, ann) == 5
        await administer(two, root, "DELETE", f"{PATH}/{made['override_id']}")
        one.later(60)
        assert await passes(one, ann) == 5
        await one.sweep()
        assert await passes(one, ann) == 2


def test_there_is_an_end_to_how_many(sqlite: SqlitePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "OVERRIDES_MAX", 3)

    async def body(api: FleetApi) -> None:
        root = await root_of(api)
        for number in range(3):
            await root.post(PATH, wanted(client=f"10.0.0.{number}"), status=201)
        assert (await root.ask("POST", PATH, wanted(client="10.0.0.3"))).status == 409
        await root.post(PATH, wanted(client="10.0.0.2", rpm=7), status=201)  # in place of the one there
        api.later(3601)
        await root.post(PATH, wanted(client="10.0.0.3"), status=201)

    on(sqlite, body)


def test_only_administrators_with_their_own_token_change_them(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        root, ann = await root_of(api), await api.person("ann")
        edge = await ann.join("edge-1")
        scopes = ["nodes:read", "nodes:write", "tasks:read", "tasks:write"]
        key = (await root.post("/auth/api-keys", {"name": "k", "scopes": scopes}, status=201))["api_key"]
        asks = (("POST", PATH, wanted(client=HERE)), ("GET", PATH, None), ("DELETE", f"{PATH}/x", None))
        for method, path, sent in asks:
            for who in (ann, edge):
                assert (await who.ask(method, path, sent)).status == 403
        assert (await api.ask("POST", PATH, wanted(client=HERE), token=key)).status == 403
        assert api.rows("SELECT count(*) FROM throttle_overrides") == [(0,)]
        wrong = await root.ask("POST", PATH, {**wanted(client="10.0.0.1/8", rpm=0), "forever": True})
        assert json_of(wrong, 400)["error"]["details"][0]["field"] == "forever"
        wrong = await root.ask("POST", PATH, wanted(client="10.0.0.1/8", rpm=0))
        assert [d["field"] for d in json_of(wrong, 400)["error"]["details"]] == ["client", "rpm"]

    on(sqlite, body)
