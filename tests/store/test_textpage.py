"""Pages of a common word: the short way must find what the plain way finds."""

import random
from collections.abc import Callable, Iterator
from itertools import pairwise

import apsw
import pytest

from ambientd.core.records import LedgerQuery, LedgerSlice
from ambientd.store import ledger as ledger_module
from ambientd.store import search, textpage
from ambientd.store.unit import SqliteTransaction
from tests.store.kit import AT, in_memory, new_session

COUNT = 400
ORDERS: dict[str, Callable[[int], int]] = {
    "as they start": lambda n: n,
    "the other way round": lambda n: COUNT - n,
    "some late": lambda n: n - 150 if n % 17 == 0 else n,
    "at random": lambda n: random.Random(n).randrange(COUNT),
    "many at once": lambda n: n // 50,
}


@pytest.fixture(scope="module", params=ORDERS)
def connection(request: pytest.FixtureRequest) -> Iterator[apsw.Connection]:
    db = in_memory()
    unit = SqliteTransaction(db, AT)
    for n in range(COUNT):
        title = f"common {'half' if n % 2 else 'other'} commonplace{n}"
        second = ORDERS[request.param](n)
        unit.ledger.add(new_session(f"s{n * 7919 % 1000:03}-half", second=second, task_title=title))
    search.index_noted(db)
    yield db
    db.close()


def pages(connection: apsw.Connection, text: str, limit: int) -> list[LedgerSlice]:
    """All pages, one after the other."""
    found, after = [], None
    for _ in range(COUNT):
        page = SqliteTransaction(connection, AT).ledger.page(LedgerQuery(text=text, limit=limit, after=after))
        found.append(page)
        if not page.more:
            return found
        after = (page.rows[-1].started_at, page.rows[-1].session_id)
    raise AssertionError("the pages never end")


@pytest.mark.parametrize("stragglers", [500, 10])
@pytest.mark.parametrize("known", [10_000, 60])
@pytest.mark.parametrize("text", ["common", "half", "comm", "common other", "-half", "place", "s123-half"])
def test_every_page_is_that_of_the_plain_way(
    connection: apsw.Connection, monkeypatch: pytest.MonkeyPatch, text: str, known: int, stragglers: int
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(ledger_module, "text_page", lambda *_: None)
        plain = pages(connection, text, 30)
    monkeypatch.setattr(textpage, "COMMON_MIN", 20)
    monkeypatch.setattr(textpage, "MATCHES_MAX", known)
    monkeypatch.setattr(textpage, "STRAGGLERS_MAX", stragglers)
    quick = pages(connection, text, 30)
    assert [page.rows for page in quick] == [page.rows for page in plain]
    assert [page.more for page in quick] == [page.more for page in plain]
    if known > COUNT:
        assert [page.total for page in quick] == [page.total for page in plain]


def test_the_short_way_is_taken_and_looks_at_few_sessions(
    connection: apsw.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(textpage, "COMMON_MIN", 20)
    found = textpage.text_page(connection, "common", 10, None)
    if found is not None:  # many out of order are sorted instead
        assert found.total == COUNT
    few = textpage.text_page(connection, "commonplace7", 10, None)
    assert few is not None
    assert few.total == len(few.keys) == 11
    assert textpage.text_page(connection, "100%", 10, None) is None


def test_other_filters_go_the_plain_way(connection: apsw.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("only for a text alone")

    monkeypatch.setattr(ledger_module, "text_page", fail)
    page = SqliteTransaction(connection, AT).ledger.page(LedgerQuery(text="common", agent_id="reviewer"))
    assert page.total == COUNT
    assert all(one.started_at >= two.started_at for one, two in pairwise(page.rows))
