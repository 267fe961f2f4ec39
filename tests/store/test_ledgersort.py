"""The longest and the dearest sessions: the short way must list what sorting all of them lists."""

from collections.abc import Iterator

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ambientd.core.records import LedgerQuery, SessionRecord
from ambientd.store import ledger as ledger_module
from ambientd.store import ledgersort
from ambientd.store.unit import SqliteTransaction
from ambientd.wire.enums import LedgerSort
from tests.store.kit import AT, in_memory
from tests.store.usagekit import add, use

figures = st.sampled_from((None, 0, 1, 1, 2, 7, 7, 7, 30, 10**7))
sessions = st.lists(
    st.tuples(st.sampled_from(("success", "failed", "running", "queued")), figures, figures, figures),
    max_size=40,
)


def filled(facts: list[tuple[str, int | None, int | None, int | None]]) -> apsw.Connection:
    db = in_memory()
    tx = SqliteTransaction(db, AT)
    for n, (status, runtime, used, cost) in enumerate(facts):
        session_id = f"s{n * 7919 % 1000:03}"
        add(tx, session_id, status=status, runtime_ms=runtime)
        use(tx, session_id, runtime_ms=used, cost_usd=None if cost is None else cost / 7)
        tx.usage.account(session_id)
    return db


def walk(db: apsw.Connection, sort: LedgerSort, limit: int) -> list[str]:
    """All ids, page by page."""
    found: list[str] = []
    place = None
    for _ in range(100):
        page = SqliteTransaction(db, AT).ledger.page(LedgerQuery(sort=sort, limit=limit, place=place))
        found += [row.session_id for row in page.rows]
        if not page.more:
            return found
        place = ledgersort.figure_of(page.rows[-1], sort), page.rows[-1].session_id
    raise AssertionError("the pages never end")


@settings(deadline=None, max_examples=120)
@given(
    facts=sessions,
    sort=st.sampled_from((LedgerSort.RUNTIME, LedgerSort.COST)),
    limit=st.integers(1, 7),
    most=st.sampled_from((5_000, 4)),
)
def test_every_page_is_that_of_sorting_all(
    facts: list[tuple[str, int | None, int | None, int | None]], sort: LedgerSort, limit: int, most: int
) -> None:
    db = filled(facts)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ledger_module, "candidates", lambda *_: None)
        plain = walk(db, sort, limit)
    assert len(plain) == len(facts)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ledgersort, "CANDIDATES_MAX", most)
        assert walk(db, sort, limit) == plain
    db.close()


@pytest.fixture
def many() -> Iterator[apsw.Connection]:
    db = filled([("success", n, n, n) for n in range(1, 60)])
    yield db
    db.close()


def first(db: apsw.Connection, sort: LedgerSort) -> list[SessionRecord]:
    return list(SqliteTransaction(db, AT).ledger.page(LedgerQuery(sort=sort, limit=5)).rows)


@pytest.mark.parametrize("sort", [LedgerSort.RUNTIME, LedgerSort.COST])
def test_only_the_rows_of_a_page_are_read(many: apsw.Connection, sort: LedgerSort) -> None:
    asked: list[str] = []

    def trace(_: apsw.Cursor, sql: str, bindings: object) -> bool:
        if "l.task_text" in sql:
            asked.append(sql)
        return True

    many.exec_trace = trace
    rows = first(many, sort)
    assert [row.runtime_ms for row in rows] == [59, 58, 57, 56, 55]
    assert len(asked) == 1
    assert "json_each" in asked[0]


def test_what_is_not_kept_is_read_from_the_sessions(many: apsw.Connection) -> None:
    many.execute("DELETE FROM session_accounted WHERE runtime_ms = 58")
    assert [row.runtime_ms for row in first(many, LedgerSort.RUNTIME)] == [59, 58, 57, 56, 55]
