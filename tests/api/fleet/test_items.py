"""Signed items: handed in, signed here, fetched by the nodes they are for, and believed there."""

from typing import Any

import pytest

from ambientd.core.ed25519 import public_of
from ambientd.core.policy import Policy, build_item, parse_body
from ambientd.core.policybundle import item_of, text_of
from ambientd.core.signeditem import SignedItem, issue
from ambientd.core.timefmt import to_ms
from ambientd.wire.fleet_enums import Role
from ambientd.wire.policy_messages import PolicyItem
from tests.api.fleet.kit import ISSUER, FleetApi, Joined, on
from tests.store.fleet.kit import AT, Place, SqlitePlace

NOW = to_ms(AT)
DAY = 86_400_000


def policy(policy_id: str = "web", revision: int = 1, **fields: Any) -> Policy:
    facts: dict[str, Any] = {
        "network": "default",
        "destinations": ("example.net",),
        "protocols": ("https",),
        "not_before": NOW,
        "not_after": NOW + DAY,
        "issued_at": NOW,
    }
    return Policy(id=policy_id, revision=revision, **(facts | fields))


def text(item: SignedItem) -> dict[str, str]:
    found = text_of(item)
    return {"body": found.body, "issuer": found.issuer, "signature": found.signature}


def signed(content: Policy, seed: bytes = ISSUER) -> dict[str, str]:
    return text(build_item(seed, public_of(seed), content))


async def fetched(edge: Joined, since: int = 0) -> Any:
    return await edge.get(f"/policies?since_revision={since}")


def test_an_administrators_items_reach_every_node_and_an_owners_only_theirs(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        root, ann, bob = (
            await api.person("root", Role.ADMIN),
            await api.person("ann"),
            await api.person("bob"),
        )
        edge, other, foreign = await ann.join("edge-1"), await ann.join("edge-2"), await bob.join("b-1")
        await root.post("/policies", {"items": [signed(policy("all"))]}, status=201)
        await ann.post("/policies", {"items": [signed(policy("anns"))]}, status=201)
        await ann.post("/policies", {"items": [signed(policy("one"))], "node_id": "edge-2"}, status=201)
        subjects = {
            node.node_id: [row["subject"] for row in (await fetched(node))["items"]]
            for node in (edge, other, foreign)
        }
        assert subjects == {"edge-1": ["all", "anns"], "edge-2": ["all", "anns", "one"], "b-1": ["all"]}
        refused = await bob.ask("POST", "/policies", {"items": [signed(policy("x"))], "node_id": "edge-1"})
        assert refused.status == 404

    on(place, body)


def test_a_node_asks_for_what_is_new_and_pages_through_much(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        root, ann = await api.person("root", Role.ADMIN), await api.person("ann")
        edge = await ann.join("edge-1")
        many = [signed(policy(f"p{n}")) for n in range(5)]
        await root.post("/policies", {"items": many}, status=201)
        first = await edge.get("/policies?limit=2")
        assert ([row["revision"] for row in first["items"]], first["more"]) == ([1, 2], True)
        rest = await edge.get(f"/policies?since_revision={first['revision']}")
        assert ([row["revision"] for row in rest["items"]], rest["more"]) == ([3, 4, 5], False)
        assert (await fetched(edge, rest["revision"]))["items"] == []
        again = await root.post("/policies", {"items": many[:1]}, status=201)
        assert again["items"][0]["revision"] == 1  # the same item is one item
        # After this database was put back from an older copy, nodes begin anew.
        assert len((await fetched(edge, 99))["items"]) == 5

    on(place, body)


def test_what_is_signed_here_is_what_nodes_verify(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        root, ann = await api.person("root", Role.ADMIN), await api.person("ann")
        edge = await ann.join("edge-1")
        draft = {
            "policy": [
                {"id": "web", "revision": 2, "destinations": ["Example.NET"], "protocols": ["https"],
                 "valid_for": "90d"}
            ],
            "tombstone": [{"id": "old", "revision": 7}],
        }  # fmt: skip
        await root.post("/policies/issue", draft, status=201)
        rows = (await fetched(edge))["items"]
        assert [row["kind"] for row in rows] == ["policy", "tombstone"]
        for row in rows:
            item = item_of(PolicyItem(row["body"], row["issuer"], row["signature"]))
            assert isinstance(item, SignedItem)
            assert item.is_genuine
            assert row["issuer"] in edge.answer["issuers"]
        found = parse_body(rows[0]["body"].encode())
        assert isinstance(found, Policy)
        assert (found.destinations, found.network) == (("example.net",), "default")
        assert (await ann.ask("POST", "/policies/issue", draft)).status == 403
        stale = {"policy": [{**draft["policy"][0], "revision": 1}]}
        error = (await root.post("/policies/issue", stale, status=409))["error"]
        assert error["details"][0]["expected"] == "> 2"
        error = (await root.post("/policies/issue", {"policy": [{"id": "x"}]}, status=400))["error"]
        assert len(error["details"]) >= 2

    on(sqlite, body)


STRANGER = bytes([99]) * 32


@pytest.mark.parametrize(
    ("item", "field"),
    [
        (signed(policy(), STRANGER), "items[0].issuer"),
        (signed(policy(network="other")), "items[0].body.network"),
        (signed(policy(not_before=NOW - 9, not_after=NOW, issued_at=NOW - 9)), "items[0].body"),
        ({**signed(policy()), "signature": "0" * 128}, "items[0].signature"),
        ({**signed(policy()), "signature": "zz"}, "items[0]"),
        ({**signed(policy()), "body": "{}"}, "items[0].body"),
        (text(issue(ISSUER, public_of(ISSUER), b'{"kind":"roster"}')), "items[0].body.kind"),
        (text(issue(ISSUER, public_of(ISSUER), b'{"kind":"policy","v":1}')), "items[0].body.destinations"),
        (text(issue(ISSUER, public_of(ISSUER), b'{"kind": "policy"}')), "items[0].body.body"),
    ],
)
def test_what_nodes_would_not_believe_is_not_passed_on(
    sqlite: SqlitePlace, item: dict[str, str], field: str
) -> None:
    async def body(api: FleetApi) -> None:
        root, ann = await api.person("root", Role.ADMIN), await api.person("ann")
        edge = await ann.join("edge-1")
        good = signed(policy("good"))
        error = (await root.post("/policies", {"items": [item, good]}, status=400))["error"]
        assert error["details"][0]["field"] == field
        assert (await fetched(edge))["items"] == []  # all or none

    on(sqlite, body)
