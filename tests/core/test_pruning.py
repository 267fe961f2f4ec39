from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.pruning import Kept, due, group

DAY = 86_400.0


def test_old_ones_go_and_the_newest_stay_whatever_their_age() -> None:
    items = [Kept((f"{age}.json",), 100 * DAY - age * DAY, 1) for age in (1, 20, 40, 50, 60)]
    gone = due(items, keep=30 * DAY, keep_at_least=0, now=100 * DAY)
    assert [item.names[0] for item in gone] == ["60.json", "50.json", "40.json"]
    gone = due(items, keep=30 * DAY, keep_at_least=4, now=100 * DAY)
    assert [item.names[0] for item in gone] == ["60.json"]


def test_a_file_and_its_notes_go_together_and_foreign_names_never() -> None:
    entries = [
        ("a.json", 5.0, 10),
        ("a.result.json", 6.0, 3),
        ("b.json", 1.0, 1),
        (".b.json.tmp", 1.0, 1),
        ("notes.txt", 1.0, 1),
    ]
    assert set(group(entries)) == {
        Kept(("a.json", "a.result.json"), 6.0, 13),
        Kept(("b.json",), 1.0, 1),
    }


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 99)), max_size=40), st.integers(0, 50))
def test_no_more_goes_than_is_both_old_and_above_the_minimum(ages: list[tuple[int, int]], least: int) -> None:
    items = [Kept((f"{index}.json",), float(at), size) for index, (at, size) in enumerate(ages)]
    gone = due(items, keep=100, keep_at_least=least, now=1000)
    assert len(items) - len(gone) >= min(least, len(items))
    assert all(1000 - item.at > 100 for item in gone)
    left = [item for item in items if item not in gone]
    assert not gone or not left or min(item.at for item in left) >= max(item.at for item in gone)
