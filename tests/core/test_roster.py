"""Rosters: when one is made, what it says, and which a node goes by."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.canonical import canonical
from ambientd.core.ed25519 import public_of, show_key
from ambientd.core.roster import (
    LIFE_MS,
    SKEW_MS,
    Ground,
    Member,
    Roster,
    is_due,
    judge,
    members_of,
    next_roster,
    read_roster,
    sign_roster,
    that_fit,
    trusted_by,
)
from ambientd.core.signeditem import BODY_MAX_BYTES, SignedItem, issue

SEED = bytes([7]) * 32
PUBLIC = public_of(SEED)
NOW = 1_800_000_000_000
KEYS = {
    name: public_of(bytes([number]) * 32) for number, name in enumerate(("edge-1", "edge-2", "edge-3"), 1)
}
MEMBERS = members_of(KEYS.items())
GROUND = Ground(network="default", owner="ann", issuers=frozenset({PUBLIC}))


def roster(**fields: Any) -> Roster:
    made = next_roster(None, MEMBERS, NOW, network="default", owner="ann")
    return msgspec.structs.replace(made, **fields)


def signed(found: Roster) -> SignedItem:
    return sign_roster(SEED, PUBLIC, found)


def test_a_node_goes_by_a_roster_of_its_owner_and_issuer() -> None:
    found = judge(signed(roster()), GROUND, NOW)
    assert isinstance(found, Roster)
    assert trusted_by(found, own_key=show_key(KEYS["edge-2"])) == {
        show_key(KEYS["edge-1"]): "edge-1",
        show_key(KEYS["edge-3"]): "edge-3",
    }
    assert trusted_by(None, own_key=None) == {}


@pytest.mark.parametrize(
    ("item", "ground", "at", "reason"),
    [
        (signed(roster(network="other")), GROUND, NOW, "other_network"),
        (signed(roster(owner="bob")), GROUND, NOW, "other_owner"),
        (signed(roster()), msgspec.structs.replace(GROUND, owner=""), NOW, "other_owner"),
        (signed(roster(owner="x")), msgspec.structs.replace(GROUND, owner=""), NOW, "other_owner"),
        (signed(roster()), msgspec.structs.replace(GROUND, issuers=frozenset()), NOW, "untrusted_issuer"),
        (SignedItem(signed(roster()).body, PUBLIC, bytes(64)), GROUND, NOW, "bad_signature"),
        (issue(SEED, PUBLIC, signed(roster()).body + b" "), GROUND, NOW, "malformed"),
        (issue(SEED, PUBLIC, b"{}"), GROUND, NOW, "malformed"),
        (signed(roster()), GROUND, NOW - SKEW_MS - 1, "issued_in_future"),
        (signed(roster()), GROUND, NOW + LIFE_MS, "expired"),
    ],
)
def test_what_it_does_not_go_by_has_a_reason(item: SignedItem, ground: Ground, at: int, reason: str) -> None:
    assert judge(item, ground, at) == reason


def test_the_last_moment_still_counts_and_so_does_a_clock_that_is_a_little_behind() -> None:
    assert isinstance(judge(signed(roster()), GROUND, NOW + LIFE_MS - 1), Roster)
    assert isinstance(judge(signed(roster()), GROUND, NOW - SKEW_MS), Roster)


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"kind": "policy"},
        {"revision": 0},
        {"more": 1},
        {"members": [["edge-2", "aa" * 32], ["edge-1", "bb" * 32]]},
        {"members": [["edge-1", "aa" * 32], ["edge-1", "aa" * 32]]},
        {"members": [["edge-1", "AA" * 32]]},
        {"members": [["", "aa" * 32]]},
        {"members": [["edge-1", "aa" * 32, "x"]]},
        {"not_after": NOW},
        {"issued_at": True},
    ],
)
def test_a_body_has_one_form(change: dict[str, Any]) -> None:
    fields = msgspec.to_builtins(roster())
    assert read_roster(canonical(fields)) == roster()
    assert read_roster(canonical({**fields, **change})) is None


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail(raw: bytes) -> None:
    assert read_roster(raw) is None


def test_one_is_made_when_others_belong_to_it_or_it_is_half_over() -> None:
    assert not is_due(None, (), NOW)
    assert not is_due(None, MEMBERS[:1], NOW)
    assert is_due(None, MEMBERS[:2], NOW)
    last = roster()
    assert not is_due(last, MEMBERS, NOW + LIFE_MS // 2 - 1)
    assert is_due(last, MEMBERS, NOW + LIFE_MS // 2)
    assert is_due(last, MEMBERS[:1], NOW)
    assert is_due(last, (), NOW)


def test_revisions_rise_whatever_the_clock_and_the_database_do() -> None:
    first = roster()
    same_moment = next_roster(first, MEMBERS, NOW, network="default", owner="ann")
    clock_back = next_roster(same_moment, MEMBERS, NOW - 5_000, network="default", owner="ann")
    assert first.revision < same_moment.revision < clock_back.revision
    # The control plane has lost the last two: the next one is newer than they are all the same.
    assert (
        next_roster(first, MEMBERS, NOW + 1_000, network="default", owner="ann").revision
        > clock_back.revision
    )


def test_all_fit_or_none_is_named() -> None:
    many = members_of((f"{'n' * 60}{number:04}", public_of(number.to_bytes(32))) for number in range(1, 301))
    sizes = [len(that_fit(many[:count], network="n" * 64, owner="o" * 64)) for count in (1, 100, 300)]
    assert sizes == [1, 100, 0]
    for count in range(100, 130):
        if that_fit(many[:count], network="n" * 64, owner="o" * 64):
            made = next_roster(None, many[:count], NOW, network="n" * 64, owner="o" * 64)
            assert len(sign_roster(SEED, PUBLIC, made).body) <= BODY_MAX_BYTES


def test_a_node_that_changes_its_key_is_named_with_both() -> None:
    old, new = KEYS["edge-1"], KEYS["edge-3"]
    made = members_of([("edge-1", new), ("edge-1", old), ("edge-1", new)])
    assert set(made) == {Member("edge-1", old.hex()), Member("edge-1", new.hex())}
    assert roster(members=made).keys == {show_key(old): "edge-1", show_key(new): "edge-1"}
