"""Nodes as devices on a real store: enrolment, lost answers, rotation, revocation."""

import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import trio

from ambientd.core.ed25519 import public_of, sign
from ambientd.core.fleet.records import Device, NewNode
from ambientd.core.fleet.secrets import SecretName
from ambientd.core.fleet.signing import enrol_bytes
from ambientd.core.fleet.tokens import TokenHashes
from ambientd.flows.fleet.devices import Devices, Enrolled
from ambientd.flows.fleet.work import WorkRules
from ambientd.ports.errors import Rejected
from ambientd.ports.fleet.store import FleetStore
from ambientd.services.fleet_lookups import LookupsService
from tests.fakes.clock import TrioWallClock
from tests.store.fleet.kit import SqlitePlace, add_user, new_node, opened

SEED, OTHER = bytes(range(32)), bytes(range(1, 33))


class Bench:
    def __init__(self, devices: Devices, store: FleetStore) -> None:
        self.devices = devices
        self.store = store

    async def join(self, **settings: object) -> str:
        return (await self.devices.add_join("ann", **settings)).join_token  # type: ignore[arg-type] # by name

    async def enrol(self, token: str, node_id: str = "n1", *, seed: bytes = SEED) -> Enrolled | Rejected:
        key = public_of(seed)

        def build(owner_id: str) -> NewNode:
            return new_node(node_id, owner_id)

        proof = sign(seed, enrol_bytes(node_id=node_id, public_key=key, join_token=token))
        return await self.devices.enrol(token, build, node_id=node_id, public_key=key, proof=proof)

    async def rotate(self, enrolled: Enrolled, *, seed: bytes = SEED) -> Enrolled | Rejected:
        device = await self.devices.device(enrolled.device_token)
        assert isinstance(device, Device)
        key, old = public_of(seed), device.credential
        proof = sign(seed, enrol_bytes(node_id=old.node_id, public_key=key, join_token=old.credential_id))
        return await self.devices.rotate(device, public_key=key, proof=proof)

    async def opens(self, enrolled: Enrolled) -> bool:
        return await self.devices.device(enrolled.device_token) is not None


@asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    async with opened(SqlitePlace(folder)) as store:

        def owners(tx: object) -> None:
            for name in ("ann", "bob"):
                add_user(tx, name)  # type: ignore[arg-type] # a transaction

        await store.write(owners)
        lookups = LookupsService(store)
        devices = Devices(
            store=store,
            clock=TrioWallClock(),
            hashes=TokenHashes({name: name.value.encode() for name in SecretName}),
            randomness=os.urandom,
            new_id=lambda: str(uuid.uuid4()),
            rules=WorkRules(),
            lookups=lookups,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lookups.run)
            yield Bench(devices, store)
            nursery.cancel_scope.cancel()


def on_bench(folder: Path, body: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        async with bench(folder) as rig:
            await body(rig)

    trio.run(main)


def good(outcome: Enrolled | Rejected) -> Enrolled:
    assert isinstance(outcome, Enrolled), outcome
    return outcome


def refused(outcome: Enrolled | Rejected) -> str:
    assert isinstance(outcome, Rejected), outcome
    return outcome.code


def test_a_join_token_is_good_for_its_uses(tmp_path: Path) -> None:
    async def body(rig: Bench) -> None:
        token = await rig.join(uses=2)
        first = good(await rig.enrol(token))
        assert (first.node.owner_id, first.node.node_id) == ("ann", "n1")
        assert await rig.opens(first)
        good(await rig.enrol(token, "n2", seed=OTHER))
        assert refused(await rig.enrol(token, "n3", seed=bytes(32))) == "NOT_AUTHENTICATED"
        nodes = await rig.store.read(lambda tx: [tx.nodes.get(name) for name in ("n1", "n2", "n3")])
        assert [node is not None for node in nodes] == [True, True, False]

    on_bench(tmp_path, body)


def test_an_enrolment_whose_answer_was_lost_may_be_asked_for_again(tmp_path: Path) -> None:
    async def body(rig: Bench) -> None:
        token = await rig.join()
        lost = good(await rig.enrol(token))
        again = good(await rig.enrol(token))
        assert not await rig.opens(lost)
        assert await rig.opens(again)
        assert refused(await rig.enrol(token, seed=OTHER)) == "NOT_AUTHENTICATED"

    on_bench(tmp_path, body)


def test_a_key_that_is_not_the_senders_is_refused(tmp_path: Path) -> None:
    async def body(rig: Bench) -> None:
        token, key = await rig.join(), public_of(SEED)
        theirs = sign(OTHER, enrol_bytes(node_id="n1", public_key=key, join_token=token))
        for proof in (bytes(64), theirs):
            outcome = await rig.devices.enrol(
                token, lambda owner: new_node("n1", owner), node_id="n1", public_key=key, proof=proof
            )
            assert refused(outcome) == "NOT_AUTHENTICATED"
        small = bytes([1] + [0] * 31)  # under which anybody could sign
        outcome = await rig.devices.enrol(
            token, lambda owner: new_node("n1", owner), node_id="n1", public_key=small, proof=bytes(64)
        )
        assert refused(outcome) == "NOT_AUTHENTICATED"
        good(await rig.enrol(token))  # nothing of it was spent

    on_bench(tmp_path, body)


def test_an_id_of_another_owner_is_not_taken_and_nothing_is_spent(tmp_path: Path) -> None:
    async def body(rig: Bench) -> None:
        theirs = (await rig.devices.add_join("bob")).join_token
        good(await rig.enrol(theirs, seed=OTHER))
        token = await rig.join()
        assert refused(await rig.enrol(token)) == "CONFLICT"
        good(await rig.enrol(token, "n2"))

    on_bench(tmp_path, body)


def test_a_revoked_or_old_token_and_one_for_another_node(tmp_path: Path) -> None:
    async def body(rig: Bench) -> None:
        made = await rig.devices.add_join("ann")
        assert not await rig.devices.revoke_join("bob", made.record.token_id)
        assert await rig.devices.revoke_join("ann", made.record.token_id)
        assert refused(await rig.enrol(made.join_token)) == "NOT_AUTHENTICATED"
        assert refused(await rig.enrol(await rig.join(lifetime=timedelta(0)))) == "NOT_AUTHENTICATED"
        narrow = await rig.join(node_id="n9")
        assert refused(await rig.enrol(narrow)) == "NOT_AUTHENTICATED"
        good(await rig.enrol(narrow, "n9"))

    on_bench(tmp_path, body)


def test_rotation_keeps_the_old_credential_until_the_new_one_is_confirmed(tmp_path: Path) -> None:
    async def body(rig: Bench) -> None:
        old = good(await rig.enrol(await rig.join()))
        lost = good(await rig.rotate(old))
        assert await rig.opens(old)
        new = good(await rig.rotate(old, seed=OTHER))
        assert new.node.incarnation == old.node.incarnation + 1  # another key begins the streams anew
        device = await rig.devices.device(new.device_token)
        assert isinstance(device, Device)
        assert device.credential.public_key == public_of(OTHER)
        assert await rig.devices.confirm(device) is None
        assert [await rig.opens(one) for one in (old, lost, new)] == [False, False, True]

    on_bench(tmp_path, body)


def test_revoking_a_node_is_its_owners_right(tmp_path: Path) -> None:
    async def body(rig: Bench) -> None:
        enrolled = good(await rig.enrol(await rig.join()))
        assert await rig.devices.revoke("bob", "n1") is None
        assert await rig.opens(enrolled)
        assert await rig.devices.revoke("ann", "n1") == 1
        assert not await rig.opens(enrolled)

    on_bench(tmp_path, body)
