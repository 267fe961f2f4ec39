"""Overrides of rate limits in both databases."""

import ipaddress
from datetime import datetime
from functools import partial

import msgspec
import pytest

from ambientd.core.fleet.ratelimit import Rate, Tier
from ambientd.core.fleet.throttle import Override
from ambientd.ports.fleet.store import FleetTransaction
from tests.store.fleet.kit import AT, Place, add_user, later, opened

ONE = Override(
    override_id="o1",
    tier=Tier.GENERAL,
    rate=Rate(600, 60),
    network=ipaddress.ip_network("192.0.2.0/24"),
    reason="load test",
    created_by="root",
    created_at=AT,
    expires_at=later(60),
)
OF_ANN = msgspec.structs.replace(ONE, override_id="o2", network=None, user_id="ann", created_at=later(1))


def put(one: Override, tx: FleetTransaction) -> str | None:
    return tx.throttle.put(one)


def expire(at: datetime, tx: FleetTransaction) -> int:
    return tx.throttle.remove_expired(at, 1)


async def test_overrides_read_back_and_the_same_subject_has_one_at_a_time(place: Place) -> None:
    again = msgspec.structs.replace(ONE, override_id="o3", rate=Rate(1, 1), created_at=later(2))
    other = msgspec.structs.replace(ONE, override_id="o4", tier=Tier.TASK, created_at=later(3))

    def work(tx: FleetTransaction) -> list[str | None]:
        add_user(tx, "ann")
        tx.throttle.lock()
        return [tx.throttle.put(one) for one in (ONE, OF_ANN, again, other)]

    def read(tx: FleetTransaction, at: datetime = AT) -> tuple[list[Override], int]:
        return tx.throttle.all(at), tx.throttle.revision()

    async with opened(place) as store:
        assert await store.write(work) == [None, None, "o1", None]
        assert await store.read(read) == ([OF_ANN, again, other], 4)
        assert (await store.read(lambda tx: read(tx, later(60))))[0] == []
    async with opened(place) as store:
        assert await store.read(read) == ([OF_ANN, again, other], 4)
        assert await store.write(lambda tx: [tx.throttle.remove(name) for name in ("o1", "o2")]) == [
            False,
            True,
        ]
        assert await store.read(read) == ([again, other], 5)
        times = (later(59), later(60), later(60), later(60))
        removed = [await store.write(partial(expire, at)) for at in times]
        assert removed == [0, 1, 1, 0]


async def test_an_override_is_for_exactly_one_and_for_somebody_who_is_there(place: Place) -> None:
    async with opened(place) as store:
        await store.write(lambda tx: add_user(tx, "ann"))
        for change in ({"user_id": "ann"}, {"network": None}, {"network": None, "user_id": "nobody"}):
            wrong = msgspec.structs.replace(ONE, **change)
            with pytest.raises(ValueError, match=r"(?i)check|foreign"):
                await store.write(partial(put, wrong))
        assert await store.read(lambda tx: tx.throttle.all(AT)) == []
