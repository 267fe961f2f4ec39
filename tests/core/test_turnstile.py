"""Whom a node hears among those it does not know (FAULTS P13, 6.4)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.turnstile import (
    ADDRESSES_MAX,
    LONGEST_PAUSE_SEC,
    VISITS_AT_ONCE,
    VISITS_PER_SEC,
    Turnstile,
    source_of,
)


def test_an_address_has_few_strangers_at_once() -> None:
    turnstile = Turnstile(per_address=2)
    assert [turnstile.admit("10.0.0.1", 0.0) for _ in range(3)] == [True, True, False]
    assert turnstile.admit("10.0.0.2", 0.0)
    turnstile.leave("10.0.0.1")
    assert turnstile.admit("10.0.0.1", 0.0)


def test_who_wastes_our_time_waits_twice_as_long_each_time() -> None:
    turnstile, now, waits = Turnstile(per_address=2), 0.0, []
    for _ in range(12):
        until = turnstile.offended("10.0.0.1", now)
        assert not turnstile.admit("10.0.0.1", until - 0.01)
        waits.append(until - now)
        now = until
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == LONGEST_PAUSE_SEC
    assert turnstile.admit("10.0.0.1", now)


def test_good_conduct_is_remembered_too() -> None:
    turnstile = Turnstile(per_address=2)
    for _ in range(8):
        turnstile.offended("10.0.0.1", 0.0)
    late = 10_000.0
    assert turnstile.offended("10.0.0.1", late) == late + 1.0


def test_who_comes_and_goes_for_ever_is_heard_at_a_pace() -> None:
    turnstile, heard = Turnstile(per_address=2), 0
    for step in range(10_000):
        if turnstile.admit("10.0.0.1", step / 100):
            turnstile.leave("10.0.0.1")
            heard += 1
    assert heard <= VISITS_AT_ONCE + 100 * VISITS_PER_SEC
    assert turnstile.admit("10.0.0.2", 100.0)
    assert turnstile.admit("10.0.0.1", 200.0)


def test_a_flood_of_addresses_takes_a_bounded_table() -> None:
    turnstile = Turnstile(per_address=2)
    for number in range(10_000):
        turnstile.offended(f"10.{number >> 8}.{number & 255}.1", 0.0)
    assert turnstile.waiting == ADDRESSES_MAX


def test_all_is_forgiven_when_trust_changes() -> None:
    turnstile = Turnstile(per_address=2)
    turnstile.offended("10.0.0.1", 0.0)
    turnstile.forgive()
    assert turnstile.admit("10.0.0.1", 0.0)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("fe80::1%eth0", "fe80::ffff:1%eth1", True),
        ("2001:db8:1::1", "2001:db8:2::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("no:address", "no:address", True),
    ],
)
def test_an_ipv6_host_counts_once(one: str, other: str, *, same: bool) -> None:
    assert (source_of(one) == source_of(other)) is same


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_nobody_is_counted_below_zero_or_past_the_bound(moves: list[tuple[str, bool]]) -> None:
    turnstile, inside = Turnstile(per_address=2), {"a": 0, "b": 0, "c": 0}
    for who, comes in moves:
        if comes:
            admitted = turnstile.admit(who, 0.0)
            assert admitted is (inside[who] < 2)
            inside[who] += admitted
        elif inside[who]:
            turnstile.leave(who)
            inside[who] -= 1
