"""An export is checked without the node that made it: each line, their order, and that none is missing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ambientd.core import auditfile
from ambientd.core.audit import BEGINNING, Break, Place
from ambientd.core.auditfile import ExportCheck
from ambientd.core.ed25519 import show_key
from ambientd.core.identity import Keys, roll_over
from tests.core.auditkit import AT, KEY, OTHER_KEY, OTHER_SEED, SEED, chain, note_of, place_of
from tests.core.test_identity import AT as WHEN

CHAIN = chain(9)


def lines(start: int = 0) -> list[bytes]:
    pruned = place_of(CHAIN[start - 1]) if start else BEGINNING
    found = [auditfile.chain_line(origin="ambient-audit-v1/x", pruned=pruned, at=AT)]
    for record in CHAIN[start:]:
        found.append(auditfile.record_line(record))
        if record.seq % 3 == 0:
            found.append(auditfile.checkpoint_line(record.seq, note_of(place_of(record))))
    return [*found, auditfile.end_line(place_of(CHAIN[-1]))]


def checked(given: list[bytes], *keys: bytes) -> tuple[Break | None, ExportCheck]:
    check = ExportCheck(keys)
    for line in given:
        if (found := check.take(line)) is not None:
            return found, check
    return check.end(), check


@pytest.mark.parametrize("start", [0, 4])
def test_a_whole_export_holds(start: int) -> None:
    found, check = checked(lines(start))
    assert found is None
    assert (check.records, check.place) == (9 - start, place_of(CHAIN[-1]))
    assert (check.signed_by, check.other_keys) == (show_key(KEY), [])
    assert check.checkpoints == (3 if start == 0 else 2)


@settings(max_examples=300)
@given(st.integers(0, 3 + 9 + 1), st.data())
def test_no_changed_missing_or_repeated_line_goes_unnoticed(at: int, data: st.DataObject) -> None:
    given = lines()
    at %= len(given)
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(given[at]) - 2))
        line = bytearray(given[at])
        line[place] ^= 1 << data.draw(st.integers(0, 6))
        given[at] = bytes(line)
    elif data.draw(st.booleans()):
        given.insert(at, given[at])
    else:
        del given[at]
    found, check = checked(given)
    if found is None:
        # What is no part of the chain may differ: when it was exported, or one checkpoint less.
        assert check.records == 9
        assert check.place == place_of(CHAIN[-1])


@given(st.integers(0, 9 + 3 + 1))
def test_a_cut_file_is_noticed_wherever_it_was_cut(left: int) -> None:
    found, _ = checked(lines()[:left])
    assert found is not None


def test_a_record_that_is_gone_is_named() -> None:
    given = [line for line in lines() if b'"seq":5,' not in line]
    assert checked(given)[0] == Break(5, "record 5 is missing")


def test_a_checkpoint_of_a_key_that_is_none_of_the_given_ones_is_told() -> None:
    _, check = checked(lines(), OTHER_KEY)
    assert check.other_keys == [show_key(KEY)]
    statement = roll_over(
        Keys(seed=SEED, public=KEY, host=""), Keys(seed=OTHER_SEED, public=OTHER_KEY, host=""), WHEN
    ).text
    followed = [lines()[0], auditfile.rollover_line(statement), *lines()[1:]]
    found, check = checked(followed, OTHER_KEY)
    assert found is None
    assert check.other_keys == []


def test_no_more_keys_are_remembered_than_a_node_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [auditfile.rollover_line("x" * auditfile.STATEMENT_MAX)] * auditfile.ROLLOVERS_MAX
    found, _ = checked([lines()[0], *many, *lines()[1:]])
    assert found is None
    found, _ = checked([lines()[0], *many, many[0], *lines()[1:]])
    assert found == Break(1, "there are more than 1000 rollover lines, which no export has")
    long = auditfile.rollover_line("x" * (auditfile.STATEMENT_MAX + 1))
    assert checked([lines()[0], long, *lines()[1:]])[0] == Break(
        1, "a rollover line has more than 4096 characters"
    )
    monkeypatch.setattr(auditfile, "SIGNERS_MAX", 0)
    found, _ = checked(lines())
    assert found is not None
    assert found.reason == "checkpoints are signed by more than 0 keys"


def test_a_damaged_record_is_exported_so_that_it_is_found() -> None:
    for detail in (b"\xff", b'{"a":', b'{"a"\n:1}', b"1"):
        given = lines()
        given[2] = auditfile.record_line(CHAIN[1]._replace(detail=detail, kind="\udcff"))
        assert given[2].count(b"\n") == 1
        found, _ = checked(given)
        assert found is not None
        assert found.seq == 2


def test_lines_behind_the_end_and_other_files_are_refused() -> None:
    assert checked([*lines(), lines()[1]])[0] is not None
    assert checked([b'{"type":"end"}\n'])[0] == Break(1, "the file does not begin as an export of a chain")
    assert checked([])[0] == Break(1, "the file is empty")
    assert checked([b"\x00\xff\n"])[0] is not None


def test_an_export_of_nothing_holds() -> None:
    empty = [
        auditfile.chain_line(origin="x", pruned=BEGINNING, at=AT),
        auditfile.end_line(Place(*BEGINNING)),
    ]
    assert checked(empty)[0] is None
