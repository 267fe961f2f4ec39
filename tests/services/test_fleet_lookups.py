"""Credentials of many requests in one read, each asked anew."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import trio

from ambientd.core.fleet.records import Device, DeviceCredential
from ambientd.core.rejection import Rejected
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.services.fleet_lookups import BATCH_MAX, WAITING_MAX, LookupsService
from ambientd.wire.fleet_enums import NodeStatus

BAD = Rejected("NOT_AUTHENTICATED", "no")


def device(name: bytes) -> Device:
    credential = DeviceCredential(
        credential_id=name.decode(),
        node_id="n",
        token_hash=name,
        public_key=bytes(32),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return Device(credential=credential, owner_id="ann", node_status=NodeStatus.ONLINE, node_deleted=False)


class Store:
    """Reads take a while; what is known may change between them."""

    def __init__(self) -> None:
        self.known: dict[bytes, Device] = {}
        self.reads: list[int] = []
        self.error: Exception | None = None

    async def read(self, work: Callable[[Any], Any]) -> Any:
        await trio.sleep(1)
        if self.error is not None:
            raise self.error
        return work(Transaction(self))


class Transaction:
    """The one repository that is asked."""

    def __init__(self, store: Store) -> None:
        self.devices = Repository(store)


class Repository:
    def __init__(self, store: Store) -> None:
        self.store = store

    def devices(self, token_hashes: list[bytes]) -> dict[bytes, Device]:
        self.store.reads.append(len(token_hashes))
        return {one: self.store.known[one] for one in token_hashes if one in self.store.known}


async def test_those_who_wait_share_a_read(autojump_clock: trio.testing.MockClock) -> None:
    store = Store()
    store.known = {b"a": device(b"a"), b"b": device(b"b")}
    service = LookupsService(store)  # type: ignore[arg-type]  # reads only
    found: dict[bytes, object] = {}

    async def ask(name: bytes) -> None:
        found[name] = await service.find(name, lambda one: BAD if one.credential.token_hash == b"b" else None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        async with trio.open_nursery() as askers:
            for name in (b"a", b"b", b"c"):
                askers.start_soon(ask, name)
        nursery.cancel_scope.cancel()
    assert found == {b"a": store.known[b"a"], b"b": BAD, b"c": None}
    assert store.reads == [3]


async def test_nothing_is_remembered_and_batches_are_bounded(autojump_clock: trio.testing.MockClock) -> None:
    store = Store()
    store.known = {b"a": device(b"a")}
    service = LookupsService(store)  # type: ignore[arg-type]  # reads only
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        assert await service.find(b"a", lambda _one: None) is not None
        store.known.clear()  # revoked
        assert await service.find(b"a", lambda _one: None) is None
        async with trio.open_nursery() as askers:
            for _ in range(BATCH_MAX + 1):
                askers.start_soon(service.find, b"a", lambda _one: None)
        assert sorted(store.reads[2:]) == [1, BATCH_MAX]
        nursery.cancel_scope.cancel()


async def test_a_database_that_is_away_is_told_to_each_and_the_next_ones_are_served(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = Store()
    service = LookupsService(store)  # type: ignore[arg-type]  # reads only
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        store.error = UnavailableError("away")
        for _ in range(2):
            with pytest.raises(UnavailableError, match="away"):
                await service.find(b"a", lambda _one: None)
        store.error = None
        assert await service.find(b"a", lambda _one: None) is None
        nursery.cancel_scope.cancel()


async def test_who_waits_at_the_end_is_told_and_too_many_are_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    service = LookupsService(Store())  # type: ignore[arg-type]  # reads only
    refused: list[str] = []

    async def ask() -> None:
        try:
            await service.find(b"a", lambda _one: None)
        except (StoreError, UnavailableError) as error:
            refused.append(str(error))

    async with trio.open_nursery() as askers:
        for _ in range(WAITING_MAX + 1):
            askers.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert refused == ["too many requests are waiting for the database"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert len(refused) == WAITING_MAX + 1
    assert refused[-1] == "the control plane is being stopped"
