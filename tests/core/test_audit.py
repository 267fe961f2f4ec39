from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.audit import GENESIS, AuditRecord, first_bad, record_hash
from ambientd.core.canonical import canonical

DETAILS: list[dict[str, Any]] = [
    {},
    {"to": "é\u2028"},
    {"b": 1, "a": [True, None, {"x": -5}]},
    {"n": 2**63 - 1},
]


def chain(count: int) -> list[AuditRecord]:
    records: list[AuditRecord] = []
    for seq in range(1, count + 1):
        fields: dict[str, Any] = {
            "seq": seq,
            "kind": "control.kill",
            "at": "2026-11-20T12:00:00.000Z",
            "actor": "uid:0",
            "subject": f"s{seq}",
            "detail": DETAILS[seq % len(DETAILS)],
            "prev_hash": records[-1].hash if records else GENESIS,
        }
        records.append(AuditRecord(**fields, hash=record_hash(**fields)))
    return records


def test_an_untouched_chain_holds() -> None:
    assert first_bad(chain(6)) is None
    assert first_bad([]) is None
    assert first_bad(chain(6)[3:], prev_hash=chain(3)[-1].hash, seq=4) is None


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "control.spawn"},
        {"at": "2026-11-20T12:00:00.001Z"},
        {"actor": "uid:1"},
        {"subject": "other"},
        {"detail": {"more": 1}},
        {"detail": {"not canonical": 1.5}},
        {"prev_hash": "1" * 64},
        {"hash": "1" * 64},
        {"seq": 40},
    ],
)
def test_a_changed_record_is_named(change: dict[str, Any]) -> None:
    records = chain(6)
    records[3] = msgspec.structs.replace(records[3], **change)
    assert first_bad(records) == 4


def test_a_missing_and_a_swapped_record_are_named() -> None:
    records = chain(6)
    assert first_bad(records[:2] + records[3:]) == 3
    assert first_bad([records[0], records[2], records[1], *records[3:]]) == 2


def test_a_record_resealed_by_itself_breaks_the_next() -> None:
    records = chain(4)
    forged = msgspec.structs.replace(records[1], actor="nobody")
    fields = {name: getattr(forged, name) for name in AuditRecord.__struct_fields__ if name != "hash"}
    records[1] = msgspec.structs.replace(forged, hash=record_hash(**fields))
    assert first_bad(records) == 3


def test_the_same_letters_in_other_fields_hash_otherwise() -> None:
    def hashed(**fields: str) -> str:
        facts: dict[str, Any] = {"kind": "", "at": "", "actor": "", "subject": ""} | fields
        return record_hash(prev_hash=GENESIS, seq=1, detail={}, **facts)

    cut = [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc")]
    hashes = [hashed(kind=kind, actor=actor) for kind, actor in cut]
    assert all(one != other for one, other in pairwise(hashes))
    assert len(set(hashes)) == len(cut)


def test_the_hash_is_the_one_written_down() -> None:
    assert chain(1)[0].hash == "64b25d45769feac45be8fbe050a78bd14b0316db14c85fe54908405db0311fbe"


@pytest.mark.parametrize(
    "bad",
    [
        {"a": 1.5},
        {"a": float("nan")},
        {"é": 1},
        {1: 1},
        {"a": 2**63},
        {"a": -(2**63) - 1},
        {"a": "\ud800"},
        {"a": b"x"},
        {"a": [[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]},
    ],
)
def test_what_has_no_canonical_bytes_is_refused(bad: dict[Any, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - several reasons
        canonical(bad)


@given(st.dictionaries(st.text(st.characters(max_codepoint=127), max_size=5), st.integers(-9, 9) | st.text()))
def test_the_order_of_keys_does_not_matter_and_the_text_reads_back(detail: dict[str, Any]) -> None:
    backwards = dict(reversed(detail.items()))
    assert canonical(detail) == canonical(backwards)
    assert msgspec.json.decode(canonical(detail)) == detail
