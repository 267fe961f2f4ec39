"""A set of ids that two nodes can compare with few bytes."""

import hashlib
import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ambientd.core.itemset import BUCKETS, ID_BYTES, MARK_BYTES, MASK_BYTES, START, ItemSet, split_ids

ALL = b"\xff" * MASK_BYTES
# Few values, so that ids share buckets and come again.
few_ids = st.builds(lambda first, last: bytes([first]) + bytes(30) + bytes([last]), *[st.integers(0, 4)] * 2)


def ids(many: int) -> list[bytes]:
    return [hashlib.sha256(str(number).encode()).digest() for number in range(many)]


@given(st.lists(st.tuples(st.booleans(), few_ids)))
def test_it_is_a_set(steps: list[tuple[bool, bytes]]) -> None:
    model: set[bytes] = set()
    one = ItemSet()
    for adds, item_id in steps:
        assert (one.add if adds else one.discard)(item_id) == ((item_id not in model) == adds)
        (model.add if adds else model.discard)(item_id)
        assert (item_id in one) == (item_id in model)
        assert len(one) == len(model)
    assert one.page(ALL, START, 1_000) == (sorted(model), True)
    assert one.root == ItemSet(model).root


@given(st.sets(few_ids), st.sets(few_ids))
@settings(deadline=None)
def test_roots_are_equal_exactly_when_the_sets_are(left: set[bytes], right: set[bytes]) -> None:
    assert (ItemSet(left).root == ItemSet(right).root) == (left == right)
    one, other, salt = ItemSet(left), ItemSet(right), bytes(32)
    mask = int.from_bytes(one.differing(other.marks(salt), salt))
    assert {n for n in range(BUCKETS) if mask >> n & 1} == {item_id[0] for item_id in left ^ right}


@given(st.sets(few_ids), st.sets(few_ids))
@settings(deadline=None)
def test_replacing_says_what_came_and_went(before: set[bytes], after: set[bytes]) -> None:
    one = ItemSet(before)
    change = one.replace(after)
    assert (set(change.added), set(change.removed)) == (after - before, before - after)
    assert one.root == ItemSet(after).root
    assert len(one) == len(after)
    assert one.replace(after).added == one.replace(after).removed == ()


@pytest.mark.parametrize("limit", [1, 7, 256, 5_000])
def test_pages_in_a_row_are_the_whole(limit: int) -> None:
    held = ids(600)
    one = ItemSet(held)
    for mask in (ALL, bytes(MASK_BYTES - 1) + b"\xff", b"\x80" + bytes(MASK_BYTES - 1), bytes(MASK_BYTES)):
        expected = sorted(item_id for item_id in held if int.from_bytes(mask) >> item_id[0] & 1)
        found, after, last = [], START, False
        while not last:
            page, last = one.page(mask, after, limit)
            assert len(page) <= limit
            assert page or last
            found += page
            after = page[-1] if page else after
        assert found == expected


def test_a_page_goes_on_after_an_id_that_has_gone() -> None:
    one = ItemSet(ids(50))
    first, _ = one.page(ALL, START, 10)
    one.discard(first[-1])
    assert one.page(ALL, first[-1], 100)[0] == sorted(ids(50))[10:]


def test_marks_depend_on_the_link() -> None:
    one = ItemSet(ids(500))
    salts = [hashlib.sha256(bytes([n])).digest() for n in range(2)]
    marks = [one.marks(salt) for salt in salts]
    assert len(marks[0]) == BUCKETS * MARK_BYTES
    pairs = [range(at, at + MARK_BYTES) for at in range(0, len(marks[0]), MARK_BYTES)]
    assert not any(marks[0][at.start : at.stop] == marks[1][at.start : at.stop] for at in pairs)


def test_sets_that_a_sum_would_take_for_equal_are_told_apart() -> None:
    """Ids that cancel out under xor and under addition: what a hostile issuer could look for."""
    low, high = bytes(31) + b"\x01", bytes(31) + b"\x04"
    one = ItemSet([low, high])
    other = ItemSet([bytes(31) + b"\x02", bytes(31) + b"\x03"])
    assert one.root != other.root


@pytest.mark.parametrize("many", [20_000, 200_000])
def test_it_takes_little_more_memory_than_the_ids(many: int) -> None:
    source = random.Random(1)
    one = ItemSet(source.randbytes(ID_BYTES) for _ in range(many))
    taken = sum(sys.getsizeof(bucket) for bucket in one._buckets)
    assert taken < many * ID_BYTES * 1.25 + BUCKETS * 100
    for _ in range(1_000):
        one.add(source.randbytes(ID_BYTES))
    assert sum(sys.getsizeof(bucket) for bucket in one._buckets) < many * ID_BYTES * 1.4 + BUCKETS * 100


def test_a_row_of_ids_is_whole() -> None:
    assert split_ids(b"") == []
    assert split_ids(bytes(64)) == [bytes(32), bytes(32)]
    assert split_ids(bytes(65)) is None
