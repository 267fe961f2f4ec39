"""Pages against a brute-force oracle, and what literal text finds."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ambientd.core.records import LedgerQuery, SessionChange, SessionRecord
from ambientd.store import ledger as ledger_module
from ambientd.store import search
from ambientd.store.search import match_expression
from ambientd.store.unit import SqliteTransaction
from ambientd.wire.enums import SessionStatus
from tests.store.kit import AT, in_memory, migrated, new_session

AGENTS, MODELS, CATEGORIES = ("a", "b"), ("m", "n"), ("x", None)
TITLES = (
    "deploy alpha",
    "Deploy beta",
    "100% done",
    "snake_case",
    'say "hi"',
    "a*b",
    "AND",
    "50 percent",
    "naïve",
)
COUNT = 120


@pytest.fixture(scope="module")
def connection() -> Iterator[apsw.Connection]:
    db = in_memory()
    unit = SqliteTransaction(db, AT)
    statuses = list(SessionStatus)
    for n in range(COUNT):
        unit.ledger.add(
            new_session(
                f"ses_{n * 7919 % 1000:03d}{chr(65 + n % 26) * 4}{n % 10}",
                second=n % 50,  # many share an instant
                agent_id=AGENTS[n % 2],
                model_id=MODELS[n // 2 % 2],
                task_category=CATEGORIES[n // 4 % 2],
                task_title=TITLES[n % len(TITLES)],
                task_text=f"number {n}",
                status=statuses[n % 6],
            )
        )
    search.index_noted(db)
    yield db
    db.close()


def everything(connection: apsw.Connection) -> list[SessionRecord]:
    found = SqliteTransaction(connection, AT).ledger.page(LedgerQuery(limit=1000)).rows
    assert len(found) == COUNT
    return list(found)


def walk(connection: apsw.Connection, limit: int, **filters: Any) -> tuple[list[SessionRecord], set[int]]:
    """All pages of a query, with the totals that they named."""
    ledger = SqliteTransaction(connection, AT).ledger
    rows: list[SessionRecord] = []
    totals: set[int] = set()
    after = None
    for _ in range(COUNT + 1):
        page = ledger.page(LedgerQuery(limit=limit, after=after, **filters))
        rows += page.rows
        totals.add(page.total)
        if not page.more:
            return rows, totals
        after = page.rows[-1].started_at, page.rows[-1].session_id
    raise AssertionError("the pages never end")


FILTERS = st.fixed_dictionaries(
    {
        "agent_id": st.sampled_from((None, *AGENTS, "nobody")),
        "model_id": st.sampled_from((None, *MODELS)),
        "category": st.sampled_from((None, "x")),
        "statuses": st.frozensets(st.sampled_from(SessionStatus)),
        "since": st.none() | st.integers(-1, 51_000),
        "until": st.none() | st.integers(-1, 51_000),
    }
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FILTERS, st.sampled_from((1, 7, 50, 1000)))
def test_pages_equal_a_brute_force_oracle(
    connection: apsw.Connection, filters: dict[str, Any], limit: int
) -> None:
    for name in ("since", "until"):
        if filters[name] is not None:
            filters[name] = AT + timedelta(milliseconds=filters[name])
    expected = [
        row
        for row in everything(connection)
        if filters["agent_id"] in (None, row.agent_id)
        and filters["model_id"] in (None, row.model_id)
        and filters["category"] in (None, row.task_category)
        and (not filters["statuses"] or row.status in filters["statuses"])
        and (filters["since"] is None or row.started_at >= filters["since"])
        and (filters["until"] is None or row.started_at < filters["until"])
    ]
    expected.sort(key=lambda row: (row.started_at, row.session_id), reverse=True)
    rows, totals = walk(connection, limit, **filters)
    assert rows == expected
    assert totals == {len(expected)}


def found(connection: apsw.Connection, text: str, **filters: Any) -> set[str]:
    rows, totals = walk(connection, 7, text=text, **filters)
    assert totals == {len(rows)}
    return {row.task_title or "" for row in rows}


@pytest.mark.parametrize(
    ("text", "titles"),
    [
        ("%", {"100% done"}),
        ("_", set(TITLES)),  # every id has one
        ('"', {'say "hi"'}),
        ("*", {"a*b"}),
        ("AND", {"AND"}),
        ("and", {"AND"}),
        ("100%", {"100% done"}),
        ("50%", set()),
        ("50 p", set()),
        ("50 per", {"50 percent"}),
        ("snake_case", {"snake_case"}),
        ("snake%case", set()),
        ("dep*", set()),
        ("dep", {"deploy alpha", "Deploy beta"}),
        ("DEPLOY", {"deploy alpha", "Deploy beta"}),
        ("deploy alpha", {"deploy alpha"}),
        ("alpha deploy", set()),
        ("naive", {"naïve"}),
        ('"hi"', {'say "hi"'}),
        ("NEAR(deploy alpha)", set()),
        ("task_title:deploy", set()),
        ("deploy OR done", set()),
        ("'; DROP TABLE session_ledger; --", set()),
        ("   ", set(TITLES)),
        ("\u2603", set()),
        ("ploy", set()),
    ],
)
def test_text_is_literal(connection: apsw.Connection, text: str, titles: set[str]) -> None:
    assert found(connection, text) == titles


def test_text_finds_each_of_the_three_columns_and_the_end_of_an_id(connection: apsw.Connection) -> None:
    rows = {row.session_id: row for row in everything(connection)}
    chosen = next(iter(rows))
    ledger = SqliteTransaction(connection, AT).ledger
    for text in (chosen, chosen[:9], chosen[-5:]):
        assert chosen in {row.session_id for row in ledger.page(LedgerQuery(text=text)).rows}, text
    assert {row.task_text for row in ledger.page(LedgerQuery(text="number 77")).rows} == {"number 77"}
    assert ledger.page(LedgerQuery(text="done")).total == len(
        [r for r in rows.values() if "done" in str(r.task_title)]
    )


def test_text_joins_the_other_filters(connection: apsw.Connection) -> None:
    ledger = SqliteTransaction(connection, AT).ledger
    rows = ledger.page(LedgerQuery(text="deploy", agent_id="a", limit=1000)).rows
    expected = [
        r for r in everything(connection) if r.agent_id == "a" and "deploy" in str(r.task_title).lower()
    ]
    assert {row.session_id for row in rows} == {row.session_id for row in expected}


@pytest.mark.parametrize("text", ["\0", "a\0", "\ud800", "x" * 1001, "x" * 50_000])
def test_text_that_no_text_can_hold_is_a_value_error(connection: apsw.Connection, text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - several reasons
        SqliteTransaction(connection, AT).ledger.page(LedgerQuery(text=text))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=30) | st.text('"*()-^:+{}\\ aAND', max_size=30))
def test_no_text_is_ever_read_as_a_query(connection: apsw.Connection, text: str) -> None:
    ledger = SqliteTransaction(connection, AT).ledger
    try:
        page = ledger.page(LedgerQuery(text=text, limit=1000))
    except ValueError:
        assert "\0" in text or any(0xD800 <= ord(char) <= 0xDFFF for char in text)
        return
    needle = text.strip()
    if not search._WORD.search(needle):
        texts = [f"{row.session_id}\n{row.task_title}\n{row.task_text}" for row in page.rows]
        assert all(needle in text for text in texts)


@pytest.mark.parametrize(
    ("text", "expression"),
    [("a b", '"a b"'), ("dep", '"dep"*'), ("dep.", '"dep"'), ("%", None), ('x" OR "y', '"x OR y"')],
)
def test_words_become_one_quoted_phrase(text: str, expression: str | None) -> None:
    assert match_expression(text) == expression


def test_totals_are_exact_up_to_the_bound_and_then_a_lower_bound(
    monkeypatch: pytest.MonkeyPatch, connection: apsw.Connection
) -> None:
    ledger = SqliteTransaction(connection, AT).ledger
    for bound, total, is_lower in ((COUNT, COUNT, False), (COUNT - 1, COUNT - 1, True)):
        monkeypatch.setattr(ledger_module, "EXACT_TOTAL_MAX", bound)
        page = ledger.page(LedgerQuery(limit=1))
        assert (page.total, page.total_is_lower_bound) == (total, is_lower)


@pytest.mark.parametrize("text", ["deploy beta", "100% done", "number"])
def test_a_common_text_is_asked_row_by_row_and_finds_the_same(
    monkeypatch: pytest.MonkeyPatch, connection: apsw.Connection, text: str
) -> None:
    expected = walk(connection, 7, text=text)
    assert expected[0]
    monkeypatch.setattr(search, "MATCHES_MAX", 3)
    monkeypatch.setattr(search, "PREFIX_MIN", 99)
    assert walk(connection, 7, text=text) == expected


def test_the_limit_is_bounded_and_zero_is_a_count(connection: apsw.Connection) -> None:
    ledger = SqliteTransaction(connection, AT).ledger
    page = ledger.page(LedgerQuery(limit=0))
    assert (page.rows, page.total, page.more) == ((), COUNT, True)
    assert len(ledger.page(LedgerQuery(limit=10**9)).rows) == COUNT
    assert ledger.page(LedgerQuery(limit=-5)).rows == ()


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (LedgerQuery(), "session_ledger_newest"),
        (LedgerQuery(agent_id="a"), "session_ledger_by_agent"),
        (LedgerQuery(model_id="m"), "session_ledger_by_model"),
        (LedgerQuery(category="x"), "session_ledger_by_category"),
        (LedgerQuery(statuses=frozenset({SessionStatus.FAILED})), "session_ledger_by_status"),
        (
            LedgerQuery(statuses=frozenset({SessionStatus.FAILED, SessionStatus.SUCCESS})),
            "session_ledger_by_status",
        ),
        (LedgerQuery(agent_id="a", model_id="m"), "session_ledger_by_model"),
        (LedgerQuery(agent_id="a", statuses=frozenset({SessionStatus.SUCCESS})), "session_ledger_by_agent"),
        (LedgerQuery(agent_id="a", statuses=frozenset({SessionStatus.FAILED})), "session_ledger_by_status"),
        (LedgerQuery(after=(AT, "s")), "session_ledger_newest"),
    ],
)
def test_a_page_comes_from_an_index(tmp_path: Path, query: LedgerQuery, index: str) -> None:
    db = migrated(tmp_path / "ambient.db")
    ledger = SqliteTransaction(db, AT).ledger
    success, failed = SessionStatus.SUCCESS, SessionStatus.FAILED
    for n, (agent, model, status) in enumerate(
        (("a", "m", success), ("a", "n", success), ("a", "n", failed), ("b", "n", success))
    ):
        ledger.add(
            new_session(f"s{n}", second=n, agent_id=agent, model_id=model, task_category="x", status=status)
        )
    plans: list[str] = []

    def trace(cursor: apsw.Cursor, sql: str, bindings: Any) -> bool:
        if "session_id, l.run_id" in sql and not cursor.is_explain:
            explained = apsw.Connection(str(tmp_path / "ambient.db"))
            plans.extend(row[3] for row in explained.execute(f"EXPLAIN QUERY PLAN {sql}", bindings))
            explained.close()
        return True

    db.exec_trace = trace
    SqliteTransaction(db, AT).ledger.page(query)
    db.exec_trace = None
    db.close()
    assert index in " ".join(plans)
    assert not any(plan.startswith("SCAN l") and "INDEX" not in plan for plan in plans)


def test_an_id_is_found_without_a_scan(tmp_path: Path) -> None:
    db = migrated(tmp_path / "ambient.db")
    for condition, bindings in (
        ("session_id >= ? AND session_id < ? ORDER BY session_id DESC LIMIT ?", ("a", "b", 5)),
        (f"{search.SUFFIX_SQL} LIMIT ?", (*search.suffix_bindings("abcde"), 5)),
    ):
        sql = f"EXPLAIN QUERY PLAN SELECT session_key FROM session_ledger WHERE {condition}"  # noqa: S608 - constants
        scanned = [row[3].split()[1] for row in db.execute(sql, bindings) if row[3].startswith("SCAN")]
        # An index of words is always "scanned"; what is noted there is gone with its commit.
        assert set(scanned) <= {"session_end_search", "session_search_pending"}
    db.close()


def test_a_later_page_is_not_disturbed_by_what_is_added_and_ended_meanwhile(tmp_path: Path) -> None:
    db = migrated(tmp_path / "ambient.db")
    ledger = SqliteTransaction(db, AT).ledger
    for n in range(6):
        ledger.add(new_session(f"s{n}", second=n))
    first = ledger.page(LedgerQuery(limit=3)).rows
    ledger.add(new_session("s9", second=9))
    ledger.change("s0", SessionChange(status=SessionStatus.CANCELLED, ended_at=AT))
    after = (first[-1].started_at, first[-1].session_id)
    assert [row.session_id for row in ledger.page(LedgerQuery(limit=9, after=after)).rows] == [
        "s2",
        "s1",
        "s0",
    ]
    db.close()


def test_what_is_noted_is_indexed_in_order_and_without_looking_at_other_sessions(
    connection: apsw.Connection,
) -> None:
    for statement in search.INDEX_NOTED[:2]:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
        looked_up, *others = plan[1:]
        assert plan[0] == "SCAN p"
        assert looked_up.startswith("SEARCH")
        assert others == []
