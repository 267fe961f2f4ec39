"""How far a sender has counted, and what is forgotten (FAULTS P1, P10, P12)."""

from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.peers.floors import (
    LINE_LENGTH,
    LINES_KEPT,
    Floors,
    SendLine,
    SignerFloor,
    line_name,
    merged,
)
from ambientd.core.snapshot import DAY_MS, Reason
from tests.core.peers.kit import AT_MS
from tests.core.peers.test_snapshot import SENDER, refusal, signed, snapshot

steps = st.lists(st.tuples(st.sampled_from("abcdefghijkl"), st.integers(1, 50), st.integers(1, 10**6)))


def floor_after(taken: list[tuple[str, int, int]]) -> SignerFloor:
    floor = SignerFloor()
    for line, sequence, issued_at in taken:
        known = floor.line(line)
        if known is None or known.sequence < sequence:
            floor = floor.raised(version=1, line=line, sequence=sequence, issued_at=issued_at)
    return floor


@given(steps)
def test_a_floor_never_sinks_and_is_bounded(taken: list[tuple[str, int, int]]) -> None:
    floor = SignerFloor()
    for line, sequence, issued_at in taken:
        known = floor.line(line)
        if known is not None and known.sequence >= sequence:
            continue
        higher = floor.raised(version=1, line=line, sequence=sequence, issued_at=issued_at)
        assert higher.since >= floor.since
        assert len(higher.lines) <= LINES_KEPT
        for before in floor.lines:
            after = higher.line(before.line)
            # Either still at least as high, or forgotten with everything up to its last snapshot.
            assert higher.since >= before.issued_at if after is None else after.sequence >= before.sequence
        floor = higher


@given(steps, steps)
def test_two_floors_merge_to_the_higher(
    one: list[tuple[str, int, int]], two: list[tuple[str, int, int]]
) -> None:
    left, right = floor_after(one), floor_after(two)
    both = merged(left, right)
    assert both.since >= max(left.since, right.since)
    for line in (*left.lines, *right.lines):
        known = both.line(line.line)
        assert known.sequence >= line.sequence if known else both.since >= line.issued_at


def test_a_line_that_was_forgotten_cannot_be_replayed_by_a_file() -> None:
    old = snapshot(challenge=b"", line="0" * 16, issued_at=AT_MS - 60_000)
    floors = Floors(since=AT_MS - 30 * DAY_MS)
    assert refusal(signed(old), floors=floors, challenge=b"") is None
    floor = SignerFloor().raised(version=1, line=old.line, sequence=old.sequence, issued_at=old.issued_at)
    for number in range(LINES_KEPT):
        floor = floor.raised(version=1, line=f"{number + 1:016x}", sequence=1, issued_at=AT_MS)
    assert floor.line(old.line) is None
    assert (
        refusal(signed(old), floors=Floors(floors.since, {SENDER: floor}), challenge=b"") is Reason.UNPROVEN
    )


def test_numbers_are_given_once_and_a_long_line_ends() -> None:
    line = SendLine(line_name(bytes(8)), LINE_LENGTH - 1)
    given_out = []
    for _ in range(4):
        line, sequence = line.take("f" * 16)
        given_out.append((line.line, sequence))
    assert given_out == [
        ("0" * 16, LINE_LENGTH - 1),
        ("0" * 16, LINE_LENGTH),
        ("f" * 16, 1),
        ("f" * 16, 2),
    ]


def test_who_never_saw_a_line_still_takes_its_last_number() -> None:
    assert refusal(signed(snapshot(sequence=LINE_LENGTH))) is None
