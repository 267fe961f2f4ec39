"""The earlier generation's log is read as its own code reads it, with the same blind spots."""

import json
from pathlib import Path
from typing import Any

import pytest

from ambientd.core.audit import Break
from ambientd.core.earlier_audit import EarlierCheck, first_bad, is_earlier

RECORDS: list[dict[str, Any]] = json.loads(
    (Path(__file__).resolve().parents[1] / "data" / "audit" / "earlier_chain.json").read_text()
)["records"]


def lines(records: list[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode() for record in records]


def changed(place: int, **fields: Any) -> list[bytes]:
    return lines([record | (fields if n == place else {}) for n, record in enumerate(RECORDS)])


def test_the_recorded_chain_holds_as_the_original_found_it() -> None:
    check = EarlierCheck()
    assert [check.take(line) for line in lines(RECORDS)] == [None] * 6
    assert check.records == 6
    assert all(map(is_earlier, lines(RECORDS)))


@pytest.mark.parametrize(
    "fields",
    [{"details": "x"}, {"bytes": 1}, {"at": 0}, {"hash": "0" * 64}, {"at": -1}, {"bytes": 2**64}],
)
def test_a_changed_line_is_named(fields: dict[str, Any]) -> None:
    found = first_bad(changed(2, **fields))
    assert found is not None
    assert found.seq == 3


def test_a_missing_and_a_torn_line_are_named() -> None:
    gone = first_bad(lines(RECORDS[:3] + RECORDS[4:]))
    assert gone is not None
    assert gone.seq == 4
    torn = first_bad([*lines(RECORDS)[:5], lines(RECORDS)[5][:40]])
    assert torn is not None
    assert (torn.seq, "torn" in torn.reason) == (6, True)


def test_bytes_moved_between_neighbours_are_not_noticed_which_is_why_it_is_only_read() -> None:
    one, two = RECORDS[1]["event_type"], RECORDS[1]["session_id"]
    moved = changed(1, event_type=one + two[:1], session_id=two[1:])
    assert first_bad(moved) is None


def test_our_own_lines_are_none_of_that_form() -> None:
    assert not is_earlier(b'{"type":"chain","format":"ambient.audit-export/1"}')
    assert not is_earlier(b"")


def test_bytes_that_are_no_text_are_no_record() -> None:
    first, second = lines(RECORDS)[:2]
    torn = second.replace(b'"event_type":"', b'"event_type":"\xff')
    assert torn != second
    assert not is_earlier(torn)
    assert first_bad([first, torn]) == Break(2, "line 2 is no record, or was torn")
