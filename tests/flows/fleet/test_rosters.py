"""Rosters are made when the nodes of an owner or their keys change, on both databases."""

from ambientd.core.ed25519 import public_of
from ambientd.core.roster import LIFE_MS, Roster, read_roster
from ambientd.flows.fleet.rosters import RosterDesk, sweep_rosters
from ambientd.ports.fleet.store import FleetStore, FleetTransaction
from ambientd.wire.fleet_enums import ItemKind
from tests.store.fleet.kit import AT, Place, credential, later, opened, scene

SEED = bytes([7]) * 32
DESK = RosterDesk(seed=SEED, public=public_of(SEED), network="default")
KEYS = {
    name: public_of(bytes([number]) * 32) for number, name in enumerate(("n1", "n2", "n3", "b1", "new"), 1)
}


def enrol(tx: FleetTransaction, *names: str) -> None:
    for name in names:
        tx.devices.add(credential(f"c-{name}", name, public_key=KEYS[name]))


async def rosters(store: FleetStore) -> dict[str, Roster]:
    items = await store.read(lambda tx: tx.items.of_kind(ItemKind.ROSTER))
    assert all(item.item.is_genuine and item.owner_id == item.subject for item in items)
    found = {item.subject: read_roster(item.item.body) for item in items}
    assert len(found) == len(items)  # the newest of each owner alone
    return {owner: roster for owner, roster in found.items() if roster is not None}


async def names(store: FleetStore, owner: str = "ann") -> list[str]:
    return [member.node_id for member in (await rosters(store))[owner].members]


async def test_each_owners_nodes_are_named_as_they_come_and_go(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(lambda tx: enrol(tx, "n1", "b1"))
        assert await sweep_rosters(store, AT, DESK) == []  # nobody to trust
        await store.write(lambda tx: enrol(tx, "n2", "n3"))
        [made] = await sweep_rosters(store, later(1), DESK)
        assert (made.owner_id, made.nodes, made.left_out) == ("ann", 3, 0)
        assert await names(store) == ["n1", "n2", "n3"]
        assert await sweep_rosters(store, later(2), DESK) == []
        before = (await rosters(store))["ann"].revision

        await store.write(lambda tx: tx.nodes.reject("n3", "ann", later(3)))
        await store.write(lambda tx: tx.devices.revoke("n2", later(3)))
        assert len(await sweep_rosters(store, later(4), DESK)) == 1
        assert await names(store) == ["n1"]
        assert (await rosters(store))["ann"].revision > before

        await store.write(lambda tx: tx.nodes.delete("n1", "ann", later(5)))
        await sweep_rosters(store, later(6), DESK)
        assert await names(store) == []
        assert await sweep_rosters(store, later(7), DESK) == []
        records = await store.read(lambda tx: tx.audit.records(0, 100))
        assert [record.kind for record in records] == ["roster_issued"] * 3
        seen = await store.read(lambda tx: tx.items.since(0, owner_id="bob", node_id="b1"))
        assert seen == []


async def test_a_key_that_is_being_changed_is_named_beside_the_one_before(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(lambda tx: enrol(tx, "n1", "n2"))
        await sweep_rosters(store, AT, DESK)
        await store.write(lambda tx: tx.devices.add(credential("c-2", "n1", public_key=KEYS["new"])))
        await sweep_rosters(store, later(1), DESK)
        assert await names(store) == ["n1", "n1", "n2"]
        await store.write(lambda tx: tx.devices.revoke("n1", later(2), keep="c-2"))
        await sweep_rosters(store, later(2), DESK)
        found = {member.digits for member in (await rosters(store))["ann"].members}
        assert found == {KEYS["new"].hex(), KEYS["n2"].hex()}


async def test_it_is_made_anew_at_half_of_its_life(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(lambda tx: enrol(tx, "n1", "n2"))
        await sweep_rosters(store, AT, DESK)
        half = LIFE_MS / 2000
        assert await sweep_rosters(store, later(half - 1), DESK) == []
        assert len(await sweep_rosters(store, later(half), DESK)) == 1
