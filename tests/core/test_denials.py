from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.denials import KINDS_MAX, WINDOW_SEC, Denial, Denials

ONE = Denial("lease-1", "bandwidth", "https://a.example:443")


def test_the_first_is_told_at_once_and_the_rest_in_one_record() -> None:
    denials = Denials()
    assert denials.note(ONE, 0.0) == (ONE, 1)
    assert [denials.note(ONE, second) for second in range(1, 100)] == [None] * 99
    assert denials.due(WINDOW_SEC - 1) == []
    assert denials.next_due == WINDOW_SEC
    assert denials.due(WINDOW_SEC) == [(ONE, 99)]
    assert denials.due(3 * WINDOW_SEC) == []
    assert denials.note(ONE, 4 * WINDOW_SEC) == (ONE, 1)


def test_what_could_not_be_written_is_told_later() -> None:
    denials = Denials()
    first = denials.note(ONE, 0.0)
    assert first is not None
    denials.put_back(first, 0.0)
    assert denials.due(WINDOW_SEC) == [(ONE, 1)]


def test_an_ended_lease_is_forgotten() -> None:
    denials = Denials()
    denials.note(ONE, 0.0)
    denials.note(ONE, 1.0)
    other = Denial("other", "bandwidth", "h")
    denials.note(other, 1.0)
    denials.note(other, 1.0)
    denials.forget("lease-1")
    assert denials.due(2 * WINDOW_SEC) == [(other, 1)]


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 50)), max_size=600))
def test_nothing_is_lost_and_records_are_bounded(steps: list[tuple[int, int]]) -> None:
    denials, now, told, records = Denials(), 0.0, 0, 0
    for kind, wait in steps:
        now += wait
        found = denials.note(Denial("lease", "code", f"host-{kind}"), now)
        told += found.times if found else 0
        records += found is not None
    assert records <= (KINDS_MAX + 1) * (1 + now // WINDOW_SEC)
    told += sum(one.times for one in denials.due(now + WINDOW_SEC))
    assert told == len(steps)
