"""Merging signed items: nothing in force is changed by who may not, and all nodes come to tell the same."""

from itertools import permutations
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.policy import DAY_MS, LIFE_MAX_MS
from ambientd.core.policymerge import (
    JUMP_MAX,
    REFUSALS,
    UNKNOWN,
    Candidate,
    Known,
    Outcome,
    Refused,
    Trust,
    examine,
    exposed,
    settle,
    step,
)
from ambientd.core.signeditem import SignedItem
from tests.policykit import AT, Issuer

ISSUER, STRANGER = Issuer(1), Issuer(2)
TRUST = Trust(network="fleet-1", issuers=frozenset({ISSUER.public}), now=AT)


def candidate(item: SignedItem, trust: Trust = TRUST) -> Candidate:
    found = examine(item, item.item_id, trust)
    assert isinstance(found, Candidate), found
    return found


def refused(item: SignedItem, **changes: Any) -> str:
    found = examine(item, item.item_id, msgspec.structs.replace(TRUST, **changes))
    assert isinstance(found, Refused), found
    assert found.code in REFUSALS
    return found.code


def merged(*items: SignedItem, decides: bool, known: Known = UNKNOWN) -> tuple[Known, list[str]]:
    told = []
    for item in items:
        done = step(known, candidate(item), decides=decides)
        known = done.known
        told.append(done.code or done.outcome.value)
    return known, told


def in_force(known: Known) -> tuple[int, bool] | None:
    return None if known.in_force is None else (known.in_force.revision, known.in_force.is_tombstone)


P1, P2, P3 = (ISSUER.policy("web", revision) for revision in (1, 2, 3))
T1, T2, T3 = (ISSUER.tombstone("web", revision) for revision in (1, 2, 3))


# --- what is let in at all


def test_a_strangers_item_is_refused_however_well_it_is_signed() -> None:
    assert refused(STRANGER.policy("web")) == "untrusted_issuer"


def test_each_changed_byte_is_refused() -> None:
    for at in range(len(P1.body)):
        body = bytearray(P1.body)
        body[at] ^= 1
        assert refused(msgspec.structs.replace(P1, body=bytes(body))) == "bad_signature"
    for at in range(64):
        signature = bytearray(P1.signature)
        signature[at] ^= 1
        assert refused(msgspec.structs.replace(P1, signature=bytes(signature))) == "bad_signature"


def test_a_signature_of_another_item_does_not_pass() -> None:
    assert refused(msgspec.structs.replace(P1, signature=P2.signature)) == "bad_signature"


def test_items_out_of_their_time_or_network_are_refused() -> None:
    assert refused(P1, network="fleet-2") == "other_network"
    assert refused(P1, now=AT + 101 * DAY_MS) == "expired"
    assert refused(P1, now=AT - 2 * DAY_MS) == "issued_in_future"
    examined = examine(P1, P1.item_id, msgspec.structs.replace(TRUST, now=AT - 2 * DAY_MS, doubt=True))
    assert isinstance(examined, Candidate)


def test_a_well_signed_body_that_brings_keys_is_refused() -> None:
    from ambientd.core.signeditem import issue

    body = P1.body.replace(b'"kind":', b'"issuers":["x"],"kind":')
    found = examine(item := issue(ISSUER.seed, ISSUER.public, body), item.item_id, TRUST)
    assert isinstance(found, Refused)
    assert found.code == "malformed"
    assert "issuers" in found.detail


# --- who decides


def test_who_decides_replaces_and_removes_but_never_goes_back() -> None:
    known, told = merged(P1, P2, T2, P3, decides=True)
    assert told == ["added", "replaced", "removed", "added"]
    assert in_force(known) == (3, False)
    assert merged(P1, P2, T1, decides=True, known=known)[1] == ["removed", "removed", "downgrade"]
    assert merged(P3, decides=True, known=known)[1] == ["known"]
    other = ISSUER.policy("web", 3, "https://other.example")
    assert merged(other, decides=True, known=known) == (known, ["revision_conflict"])


def test_without_a_tombstone_an_older_revision_is_a_downgrade() -> None:
    assert merged(P2, P1, decides=True)[1] == ["added", "downgrade"]


def test_a_revision_cannot_be_used_up_by_one_jump() -> None:
    far = ISSUER.policy("web", 2**63 - 1)
    assert merged(far, decides=True)[1] == ["revision_jump"]
    assert merged(P1, ISSUER.policy("web", 2 + JUMP_MAX), decides=False)[1] == ["added", "revision_jump"]
    assert merged(P1, ISSUER.policy("web", 1 + JUMP_MAX), decides=True)[1] == ["added", "replaced"]


# --- who only adds


def test_an_entry_is_never_changed_by_who_only_adds() -> None:
    known, told = merged(P2, P3, P1, T3, P1, decides=False)
    assert told == ["added", "held", "older", "held", "removed"]
    assert in_force(known) == (2, False)
    assert known.held is not None
    assert (known.held.revision, known.held.is_tombstone) == (3, True)


def test_what_was_held_takes_force_when_who_decides_says_so() -> None:
    known, _ = merged(P1, P3, decides=False)
    known, told = merged(P3, decides=True, known=known)
    assert told == ["replaced"]
    assert (in_force(known), known.held) == ((3, False), None)
    known, _ = merged(P1, P3, decides=False)
    known, told = merged(P2, decides=True, known=known)
    assert (in_force(known), told) == ((2, False), ["replaced"])
    assert known.held is not None


def test_a_tombstone_known_or_held_blocks_what_it_removes() -> None:
    assert merged(T2, P2, P1, decides=False)[1] == ["added", "removed", "removed"]
    known, told = merged(P1, T2, P2, decides=False)
    assert told == ["added", "held", "removed"]
    assert merged(P2, decides=True, known=known)[1] == ["removed"]
    assert merged(T2, P3, decides=False)[1] == ["added", "added"]


def test_a_removed_policy_does_not_come_back_when_what_followed_has_expired() -> None:
    short = ISSUER.policy("web", 3, not_after=AT + DAY_MS)
    known, _ = merged(P1, T2, short, decides=True)
    later = AT + 2 * DAY_MS
    known = settle(known, later)
    assert known.in_force is None
    trust = msgspec.structs.replace(TRUST, now=later)
    for item in (P1, P2, P3):
        assert step(known, candidate(item, trust), decides=False).code in ("removed", "superseded")
        assert step(known, candidate(item, trust), decides=True).code in ("removed", "superseded")
    fourth = ISSUER.policy("web", 4)
    assert step(known, candidate(fourth, trust), decides=False).outcome is Outcome.ADDED
    assert settle(known, AT + LIFE_MAX_MS + DAY_MS) == UNKNOWN


def test_what_is_held_takes_the_place_of_what_has_expired() -> None:
    known, _ = merged(ISSUER.policy("web", 1, not_after=AT + DAY_MS), P2, decides=False)
    assert in_force(settle(known, AT)) == (1, False)
    after = settle(known, AT + DAY_MS)
    assert (in_force(after), after.held) == ((2, False), None)


def test_a_tombstone_that_would_expire_first_is_refused() -> None:
    early = ISSUER.tombstone("web", 2, issued_at=AT - 399 * DAY_MS)
    assert merged(P1, early, decides=True)[1] == ["added", "tombstone_too_short"]
    assert merged(P1, early, decides=False)[1] == ["added", "tombstone_too_short"]


# --- properties

ITEMS = [
    *(
        ISSUER.policy("web", revision, f"https://{letter}.example")
        for revision in (1, 2, 3)
        for letter in "ab"
    ),
    *(ISSUER.tombstone("web", revision) for revision in (1, 2, 3)),
]
some_items = st.lists(st.sampled_from(ITEMS), max_size=8)


@given(some_items, some_items)
def test_who_only_adds_never_changes_a_policy_in_force(
    first: list[SignedItem], then: list[SignedItem]
) -> None:
    known, _ = merged(*first, decides=True)
    before = known.in_force
    for item in then:
        known = step(known, candidate(item), decides=False).known
        if before is not None and not before.is_tombstone:
            assert known.in_force == before
        else:
            before = known.in_force


@given(some_items, st.randoms())
def test_in_whatever_order_items_come_the_same_is_told_on(items: list[SignedItem], random: Any) -> None:
    told = set()
    for _ in range(3):
        random.shuffle(items)
        told.add(exposed(merged(*items, decides=False)[0]))
    assert len(told) == 1


@given(st.lists(some_items, min_size=2, max_size=4))
def test_nodes_that_talk_come_to_tell_the_same(starts: list[list[SignedItem]]) -> None:
    by_id = {item.item_id: item for item in ITEMS}
    nodes = [merged(*items, decides=bool(index % 2))[0] for index, items in enumerate(starts)]
    for _ in range(2):
        for to in range(len(nodes)):
            for source in list(nodes):
                found = exposed(source)
                if found is not None:
                    nodes[to] = step(nodes[to], candidate(by_id[found.item_id]), decides=False).known
    assert len({exposed(node) for node in nodes}) == 1


@given(some_items)
def test_the_same_again_changes_nothing(items: list[SignedItem]) -> None:
    known, _ = merged(*items, decides=False)
    assert merged(*items, decides=False, known=known)[0] == known


@pytest.mark.parametrize("decides", [True, False])
def test_no_order_lets_a_removed_revision_in_force_afterwards(decides: bool) -> None:
    for order in permutations((T3, P1, P2, P3)):
        known, _ = merged(*order, decides=decides)
        if known.in_force is not None and not known.in_force.is_tombstone:
            assert not decides  # an entry that was there first stays; the tombstone is held behind it
            assert known.held is not None
            assert known.held.is_tombstone
