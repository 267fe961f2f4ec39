"""Imports that change nothing are recorded at a pace, and counted for ever."""

from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.idlebook import IdleBook


def test_some_at_once_then_one_in_a_while_and_what_changes_something_always() -> None:
    book = IdleBook(at_once=2, every_ms=1000, senders=9)
    assert [book.note("a", 0, idle=True) for _ in range(4)] == [0, 0, None, None]
    assert book.note("b", 0, idle=True) == 0
    assert book.note("a", 999, idle=True) is None
    assert book.note("a", 1000, idle=False) == 3
    assert [book.note("a", 1000, idle=True) for _ in range(2)] == [0, None]
    assert [book.note("a", 10**9, idle=True) for _ in range(3)] == [1, 0, None]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 5000), st.booleans())))
def test_every_import_is_told_or_counted(steps: list[tuple[str, int, bool]]) -> None:
    book, now, told, waiting = IdleBook(at_once=3, every_ms=1000, senders=9), 0, 0, dict.fromkeys("abcd", 0)
    for sender, span, idle in steps:
        now += span
        counted = book.note(sender, now, idle=idle)
        if counted is None:
            assert idle
            waiting[sender] += 1
        else:
            assert counted == waiting[sender]
            told, waiting[sender] = told + 1 + counted, 0
    assert told + sum(waiting.values()) == len(steps)
