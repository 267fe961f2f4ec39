import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientctl import text
from ambientctl.output import Cell, Column, Screen, columns_of, cut, render_table

NOW = 1_795_000_000.0


@given(st.text(st.characters(), max_size=40), st.booleans())
def test_inert_text_is_one_line_without_controls(raw: str, spaces: bool) -> None:
    shown = text.inert(raw, spaces=spaces)
    kinds = {unicodedata.category(char) for char in shown if spaces or char != "\t"}
    assert not kinds & {"Cc", "Cs", "Zl", "Zp"}
    assert not set(shown) & set("\u202a\u202e\u2066\u2069\u200e\u200f")


@pytest.mark.parametrize("plain", ["hello", "naïve", "日本語", "a👩‍👩‍👧b"])
def test_harmless_text_stays_as_it_is(plain: str) -> None:
    assert text.inert(plain) == plain


@pytest.mark.parametrize(
    ("seconds", "long", "short"),
    [
        (-5, "0s", "0s"),
        (2.9, "2s", "2s"),
        (724, "12m04s", "12m"),
        (11_220, "3h07m", "3h"),
        (3 * 86400 + 4 * 3600, "3d 4h", "3d"),
    ],
)
def test_ages(seconds: float, long: str, short: str) -> None:
    assert (text.duration(seconds), text.age(seconds)) == (long, short)


def test_figures() -> None:
    assert text.count(12480) == "12 480"
    assert [text.tokens(n) for n in (None, 0, 999, 48_123, 999_949, 999_950, 2_340_000)] == [
        *["-", "0", "999", "48.1k", "999.9k", "1.0M", "2.3M"]
    ]
    assert [text.cost(0.613, c) for c in ("exact", "estimated", "unknown")] == ["$0.61", "~$0.61", "-"]
    assert text.cost(None, "exact") == "-"
    assert [text.size(n) for n in (5, 1153433, 5 * 1024**4)] == ["5 B", "1.1 MiB", "5120.0 GiB"]


@pytest.mark.parametrize("bad", ["", "soon", "2026-13-01T00:00:00Z", "0001-01-01T00:00:00+14:00"])
def test_times_that_are_none_show_as_a_dash(bad: str) -> None:
    assert text.clock_time(bad, NOW) == "-"


@given(st.text(max_size=30), st.integers(0, 40))
def test_cut_text_never_takes_more_columns(raw: str, width: int) -> None:
    assert columns_of(cut(raw, width, "…")) <= width


COLUMNS = (
    Column("ID", "id", lambda item, _: item["id"]),
    Column("NAME", "name", lambda item, _: item["name"]),
    Column("STATE", "state", lambda item, _: Cell(item["state"], "red")),
    Column("NUMBER", "n", lambda item, _: item["n"], right=True),
    Column("TASK", "task", lambda item, _: item["task"]),
)
WORDS = st.text(st.characters(categories=["L", "N", "Zs"]), max_size=25).map(text.inert)


@given(
    st.lists(st.fixed_dictionaries(dict.fromkeys(("id", "name", "state", "n", "task"), WORDS)), max_size=5),
    st.integers(20, 120),
)
def test_no_line_of_a_table_is_wider_than_the_screen(items: list[dict[str, str]], width: int) -> None:
    screen = Screen(ascii=False, color=False, width=width, wide=False, now=NOW)
    lines = render_table(COLUMNS, items, screen).split("\n")
    assert len(lines) == len(items) + 2
    assert all(columns_of(line) <= width for line in lines)


def test_columns_line_up_by_what_is_seen() -> None:
    screen = Screen(ascii=False, color=True, width=None, wide=False, now=NOW)
    items = [
        {"id": "日本", "name": "a", "state": "x", "n": "5", "task": "t"},
        {"id": "abc", "name": "bb", "state": "yyyyyy", "n": "12345678", "task": ""},
    ]
    plain = render_table(COLUMNS, items, screen).replace("\x1b[31m", "").replace("\x1b[0m", "")
    assert plain.split("\n") == [
        "ID    NAME  STATE     NUMBER  TASK",
        "日本  a     x              5  t",
        "abc   bb    yyyyyy  12345678",
        "",
    ]


def test_a_long_name_gives_way_to_figures_but_not_below_its_least() -> None:
    columns = (
        Column("MODEL", "model", lambda item, _: item["model"], least=8),
        *(Column(name, "n", lambda item, _: item["n"], right=True) for name in ("RUNS", "TIME", "COST")),
    )
    items = [{"model": "a-very-long-name-of-a-model", "n": "1234"}, {"model": "short", "n": "5"}]

    def shown(width: int | None) -> list[str]:
        screen = Screen(ascii=False, color=False, width=width, wide=False, now=NOW)
        return render_table(columns, items, screen).splitlines()

    assert shown(30) == [
        "MODEL         RUNS  TIME  COST",
        "a-very-long…  1234  1234  1234",
        "short            5     5     5",
    ]
    assert shown(26)[1] == "a-very-…  1234  1234  1234"
    assert shown(80)[1] == shown(None)[1] == "a-very-long-name-of-a-model  1234  1234  1234"
    assert all(columns_of(line) <= 20 for line in shown(20))
