"""Which override of a rate limit counts, and which may be asked for."""

import ipaddress
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.fleet.ratelimit import Rate, Tier
from ambientd.core.fleet.throttle import Override, Overrides, check_override
from ambientd.core.rejection import Rejected
from ambientd.wire.fleet_admin_messages import ThrottleRequest

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
GOOD: dict[str, Any] = {"tier": "general", "rpm": 600, "burst": 60, "expires_in": 3600, "client": "192.0.2.7"}


def override(of: str, tier: Tier = Tier.GENERAL, *, seconds: float = 60) -> Override:
    user = of.removeprefix("user:") if of.startswith("user:") else None
    return Override(
        override_id=of,
        tier=tier,
        rate=Rate(1, 1),
        network=None if user else ipaddress.ip_network(of),
        user_id=user,
        created_by="root",
        created_at=NOW,
        expires_at=NOW + timedelta(seconds=seconds),
    )


def found(table: Overrides, address: str, tier: Tier = Tier.GENERAL, at: datetime = NOW) -> str | None:
    one = table.of_address(tier, address, at)
    return None if one is None else one.override_id


def test_the_smallest_network_counts_until_it_expires() -> None:
    table = Overrides(
        [override("192.0.2.0/24"), override("192.0.2.7", seconds=10), override("0.0.0.0/0", Tier.TASK)]
    )
    assert found(table, "192.0.2.7") == "192.0.2.7"
    assert found(table, "192.0.2.7", at=NOW + timedelta(seconds=10)) == "192.0.2.0/24"
    assert found(table, "192.0.2.8") == "192.0.2.0/24"
    assert found(table, "192.0.3.1") is found(table, "::1") is found(table, "None") is None
    assert found(table, "198.51.100.1", Tier.TASK) == "0.0.0.0/0"
    assert found(table, "2001:db8::1", Tier.TASK) is None


def test_an_accounts_own_is_found_by_its_id_in_its_tier() -> None:
    table = Overrides([override("user:ann", seconds=10)])
    assert table.speaks_of_users(Tier.GENERAL)
    assert not table.speaks_of_users(Tier.TASK)
    assert table.of_user(Tier.GENERAL, "ann", NOW) is not None
    assert table.of_user(Tier.GENERAL, "bob", NOW) is table.of_user(Tier.TASK, "ann", NOW) is None
    assert table.of_user(Tier.GENERAL, "ann", NOW + timedelta(seconds=10)) is None
    assert not Overrides()


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), max_size=30),
    st.integers(0, 2**32 - 1),
)
def test_looking_up_agrees_with_looking_at_each(networks: list[tuple[int, int]], address: int) -> None:
    names = [str(ipaddress.ip_network((start, length), strict=False)) for start, length in networks]
    ip = ipaddress.ip_address(address)
    around = [net for net in map(ipaddress.ip_network, names) if ip in net]
    smallest = max(around, key=lambda net: net.prefixlen, default=None)
    expected = None if smallest is None else str(smallest)
    assert found(Overrides([override(name) for name in names]), str(ip)) == expected


def checked(**change: Any) -> Override | Rejected:
    body = msgspec.convert({**GOOD, **change}, ThrottleRequest)
    return check_override(body, override_id="o", by="root", at=NOW)


@pytest.mark.parametrize("client", ["192.0.2.7", "192.0.2.0/24", "2001:db8::/32", "::1", "0.0.0.0/0"])
def test_addresses_and_networks_may_be_asked_for(client: str) -> None:
    made = checked(client=client)
    assert isinstance(made, Override)
    assert made.network == ipaddress.ip_network(client)
    assert (made.rate, made.expires_at) == (Rate(600, 60), NOW + timedelta(hours=1))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tier": "failed"}, "tier"),
        ({"tier": "everything"}, "tier"),
        ({"rpm": 0}, "rpm"),
        ({"rpm": 1_000_001}, "rpm"),
        ({"burst": 0}, "burst"),
        ({"expires_in": 59}, "expires_in"),
        ({"expires_in": 90 * 86_400 + 1}, "expires_in"),
        ({"client": "192.0.2.7/24"}, "client"),
        ({"client": "example.net"}, "client"),
        ({"client": ""}, "client"),
        ({"client": None}, "client"),
        ({"user_id": "ann"}, "client"),
        ({"client": None, "user_id": "ann", "tier": "auth"}, "tier"),
        ({"client": None, "user_id": "ann", "tier": "device"}, "tier"),
        ({"reason": ""}, "reason"),
        ({"reason": "a\nb"}, "reason"),
    ],
)
def test_what_may_not_be_asked_for(change: dict[str, Any], field: str) -> None:
    refused = checked(**change)
    assert isinstance(refused, Rejected)
    assert [detail.field for detail in refused.details] == [field]
