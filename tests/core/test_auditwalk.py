"""No change of a chain goes unnoticed; with a checkpoint that somebody holds, no cut either (FAULTS A1)."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ambientd.core.audit import BEGINNING, Break, Place, StoredRecord, Walk
from ambientd.core.auditcheck import judge
from ambientd.core.checkpoint import extends
from tests.core.auditkit import KEY, chain, checkpoint_of, note_of, place_of, record_after

LENGTH = 12
CHAIN = chain(LENGTH)
TEXTS = ("kind", "at", "actor", "subject", "prev_hash", "hash")


def walked(records: list[StoredRecord], start: Place = BEGINNING) -> tuple[Break | None, Place]:
    walk = Walk(start)
    return walk.take(records), walk.place


def test_a_chain_is_walked_in_one_piece_or_in_many() -> None:
    assert walked(CHAIN) == (None, place_of(CHAIN[-1]))
    walk = Walk()
    for record in CHAIN:
        assert walk.take([record]) is None
    assert walk.place == place_of(CHAIN[-1])
    assert walked(CHAIN[5:], place_of(CHAIN[4])) == (None, place_of(CHAIN[-1]))


@settings(max_examples=400)
@given(st.integers(0, LENGTH - 1), st.sampled_from(TEXTS), st.data())
def test_any_change_of_any_text_is_found_at_its_record(at: int, field: str, data: st.DataObject) -> None:
    records = list(CHAIN)
    before = getattr(records[at], field)
    place = data.draw(st.integers(0, len(before)))
    kind = data.draw(st.sampled_from(["put in", "taken out", "replaced"]))
    char = data.draw(st.characters())
    after = {
        "put in": before[:place] + char + before[place:],
        "taken out": before[:place] + before[place + 1 :],
        "replaced": before[:place] + char + before[place + 1 :],
    }[kind]
    records[at] = records[at]._replace(**{field: after})
    found, _ = walked(records)
    if after == before:
        assert found is None
    else:
        assert found is not None
        assert found.seq == at + 1


@settings(max_examples=300)
@given(st.integers(0, LENGTH - 1), st.data())
def test_any_change_of_a_byte_of_the_detail_is_found(at: int, data: st.DataObject) -> None:
    records = list(CHAIN)
    detail = bytearray(records[at].detail)
    place = data.draw(st.integers(0, len(detail) - 1))
    change = data.draw(st.sampled_from(["flip", "insert", "delete"]))
    if change == "flip":
        detail[place] ^= 1 << data.draw(st.integers(0, 7))
    elif change == "insert":
        detail.insert(place, data.draw(st.integers(0, 255)))
    else:
        del detail[place]
    records[at] = records[at]._replace(detail=bytes(detail))
    found, _ = walked(records)
    unchanged = bytes(detail) == CHAIN[at].detail
    assert (found is None) == unchanged
    assert unchanged or (found is not None and found.seq == at + 1)


@pytest.mark.parametrize(
    "detail", [b"", b"[]", b"null", b'{"a":1.5}', b'{"a":1,"a":1}', b'{ "a":1}', b"\xff{"]
)
def test_a_detail_that_was_never_written_is_found(detail: bytes) -> None:
    found, _ = walked([CHAIN[0]._replace(detail=detail)])
    assert found == Break(1, "record 1 was changed: its hash does not fit what it says")


@given(st.integers(0, LENGTH - 2), st.integers(1, LENGTH - 1))
def test_records_that_are_missing_in_the_middle_are_named(at: int, count: int) -> None:
    cut = CHAIN[:at] + CHAIN[at + count :]
    found, _ = walked(cut)
    if at + count >= LENGTH:
        assert found is None, "records missing at the end cannot be seen from the records alone"
    else:
        assert found is not None
        assert found.seq == at + 1
        assert "missing" in found.reason


@given(st.integers(0, LENGTH - 1), st.integers(0, LENGTH - 1))
def test_swapped_and_repeated_records_are_found(one: int, other: int) -> None:
    swapped = list(CHAIN)
    swapped[one], swapped[other] = swapped[other], swapped[one]
    assert (walked(swapped)[0] is None) == (one == other)
    repeated = [*CHAIN[: one + 1], CHAIN[other], *CHAIN[one + 1 :]]
    assert walked(repeated)[0] is not None


def test_an_inserted_record_and_a_second_beginning_are_found() -> None:
    forged = record_after(place_of(CHAIN[3]), {"more": 1})
    assert walked([*CHAIN[:4], forged, *CHAIN[4:]])[0] is not None
    again = record_after(BEGINNING)._replace(seq=5)
    assert walked([*CHAIN[:4], again, *CHAIN[5:]])[0] is not None
    assert walked([*CHAIN[:4], *chain(3)])[0] is not None


# --- with a checkpoint


def judged(records: list[StoredRecord], note: str) -> Break | None:
    hashes = {record.seq: record.hash for record in records}
    return judge(note, seq=None, hashes=hashes, head=len(records), keys={KEY}).bad


@given(st.integers(1, LENGTH), st.integers(0, LENGTH))
def test_a_cut_before_a_checkpoint_is_seen_and_one_behind_the_last_is_not(signed: int, left: int) -> None:
    note = note_of(place_of(CHAIN[signed - 1]))
    found = judged(CHAIN[:left], note)
    if left < signed:
        assert found is not None
        assert found.seq == left + 1
    else:
        assert found is None, "what came after the last checkpoint can be cut off unseen (FAULTS A1)"


@given(st.integers(1, LENGTH), st.integers(0, LENGTH - 1))
def test_a_chain_rewritten_before_a_checkpoint_is_seen(signed: int, kept: int) -> None:
    start = place_of(CHAIN[kept - 1]) if kept else BEGINNING
    forged = [*CHAIN[:kept], *chain(LENGTH - kept, start, actor="nobody")]
    assert walked(forged)[0] is None, "the records alone do not show it"
    found = judged(forged, note_of(place_of(CHAIN[signed - 1])))
    assert (found is None) == (signed <= kept)


@given(st.integers(1, LENGTH), st.integers(1, LENGTH))
def test_a_witness_sees_whether_a_chain_only_grew(one: int, other: int) -> None:
    older, newer = sorted((one, other))
    between = CHAIN[older:newer]
    first, last = checkpoint_of(place_of(CHAIN[older - 1])), checkpoint_of(place_of(CHAIN[newer - 1]))
    assert extends(first, last, between) is None
    if between:
        assert extends(first, last, between[:-1]) is not None
        assert extends(last, first, []) is not None
        forged = chain(len(between), first.place, actor="nobody")
        assert extends(first, last, forged) == Break(newer, f"record {newer} is not the one that was signed")


def test_what_a_change_of_a_detail_looks_like() -> None:
    changed: Any = CHAIN[2]._replace(detail=CHAIN[2].detail.replace(b"2", b"3"))
    assert walked([*CHAIN[:2], changed, *CHAIN[3:]]) == (
        Break(3, "record 3 was changed: its hash does not fit what it says"),
        place_of(CHAIN[1]),
    )
