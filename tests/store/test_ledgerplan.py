"""Totals without counting, and the filter that leads."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import product
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ambientd.core.records import LedgerQuery, SessionChange
from ambientd.store import ledger as ledger_module
from ambientd.store import ledgerplan
from ambientd.store.ledgerplan import counted, kind_filters, led
from ambientd.store.unit import SqliteTransaction
from ambientd.wire.enums import SessionStatus
from tests.store.kit import AT, in_memory, migrated, new_session

AGENTS, MODELS, CATEGORIES = ("a", "b"), ("m", "n"), ("x", "", None)
OPEN, ENDED = (SessionStatus.QUEUED, SessionStatus.RUNNING), (SessionStatus.SUCCESS, SessionStatus.FAILED)
GROUPED = (
    "SELECT agent_id, model_id, coalesce(task_category, ''), status, count(*) FROM session_ledger"
    " GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 99), st.integers(0, 99)),
        st.tuples(st.just("change"), st.integers(0, 99), st.integers(0, 99)),
        st.tuples(st.just("remove"), st.integers(0, 99), st.integers(0, 99)),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(steps=steps)
def test_counts_are_at_any_time_what_counting_gives(steps: list[tuple[str, int, int]]) -> None:
    db = in_memory()
    ledger = SqliteTransaction(db, AT).ledger
    ids: list[str] = []
    for n, (verb, one, two) in enumerate(steps):
        if verb == "add":
            ids.append(f"s{n}")
            ledger.add(
                new_session(
                    ids[-1],
                    agent_id=AGENTS[one % 2],
                    model_id=MODELS[two % 2],
                    task_category=CATEGORIES[one % 3],
                    status=OPEN[two % 2],
                )
            )
        elif ids and verb == "change":
            status = ENDED[two % 2] if one % 3 else None
            ended = None if status is None else AT + timedelta(seconds=1)
            ledger.change(
                ids[one % len(ids)], SessionChange(status=status, ended_at=ended, model_id=MODELS[two % 2])
            )
        elif ids:
            db.execute("DELETE FROM session_ledger WHERE session_id = ?", (ids.pop(one % len(ids)),))
    kept = db.execute("SELECT * FROM session_counts ORDER BY 1, 2, 3, 4").fetchall()
    assert kept == db.execute(GROUPED).fetchall()
    days = db.execute("SELECT substr(started_at, 1, 10), count(*) FROM session_ledger GROUP BY 1").fetchall()
    assert db.execute("SELECT * FROM session_day_counts").fetchall() == days
    db.close()


@pytest.fixture
def filled(tmp_path: Path) -> apsw.Connection:
    db = migrated(tmp_path / "ambient.db")
    ledger = SqliteTransaction(db, AT).ledger
    for n in range(90):
        ledger.add(
            new_session(
                f"s{n}",
                second=n,
                agent_id=AGENTS[n % 2],
                model_id=MODELS[n % 30 == 0],
                task_category=CATEGORIES[n % 3],
                status=ENDED[n % 5 == 0],
            )
        )
    return db


@pytest.mark.parametrize("kinds_max", [20_000, 2])
def test_a_total_is_the_number_of_rows_whatever_the_filters(
    filled: apsw.Connection, monkeypatch: pytest.MonkeyPatch, kinds_max: int
) -> None:
    monkeypatch.setattr(
        ledgerplan,
        "_MANY_KINDS",
        f"SELECT 1 FROM session_counts LIMIT 1 OFFSET {kinds_max}",  # noqa: S608 - a number
    )
    ledger = SqliteTransaction(filled, AT).ledger
    statuses = (frozenset[SessionStatus](), frozenset(ENDED[:1]), frozenset(ENDED))
    for agent, model, category, chosen in product((None, "a", "zz"), (None, "n"), (None, "x", ""), statuses):
        query = LedgerQuery(agent_id=agent, model_id=model, category=category, statuses=chosen, limit=1000)
        page = ledger.page(query)
        everything = ledger.page(LedgerQuery(limit=1000)).rows
        wanted = [
            row.session_id
            for row in everything
            if (agent is None or row.agent_id == agent)
            and (model is None or row.model_id == model)
            and (category is None or (row.task_category or "") == category)
            and (not chosen or row.status in chosen)
        ]
        assert ([row.session_id for row in page.rows], page.total) == (wanted, len(wanted))
        assert len(ledger.handles(query)) == len(wanted)
    assert ledger.count() == 90


def test_the_filter_with_the_fewest_sessions_leads(filled: apsw.Connection) -> None:
    def conditions(query: LedgerQuery) -> list[str]:
        return led(filled, kind_filters(query))

    assert conditions(LedgerQuery(agent_id="a", model_id="n")) == ["+l.agent_id = ?", "l.model_id = ?"]
    assert conditions(LedgerQuery(agent_id="a", model_id="m")) == ["l.agent_id = ?", "+l.model_id = ?"]
    several = LedgerQuery(agent_id="a", statuses=frozenset(ENDED))
    assert conditions(several) == ["l.agent_id = ?", "+l.status IN (?, ?)"]


def test_filters_beside_the_first_are_decided_in_its_index(filled: apsw.Connection) -> None:
    sql = (
        "EXPLAIN SELECT l.session_key, l.task_text FROM session_ledger AS l"
        " WHERE l.agent_id = 'a' AND +l.status IN ('failed') AND +l.model_id = 'm'"
        " ORDER BY l.started_at DESC LIMIT 5"
    )
    table = filled.execute("SELECT rootpage FROM sqlite_master WHERE name = 'session_ledger'").get
    program = filled.execute(sql).fetchall()
    row = next(step for step in program if step[1] == "OpenRead" and step[3] == table)
    seeks = [step[0] for step in program if step[1] == "DeferredSeek" and step[4] == row[2]]
    reads = [step[0] for step in program if step[1] == "Column" and step[2] == row[2]]
    assert seeks
    assert len(reads) == 1  # the text, and nothing of what is asked


def test_too_many_kinds_are_not_added_up(filled: apsw.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    assert counted(filled, ()) == 90
    monkeypatch.setattr(ledgerplan, "_MANY_KINDS", "SELECT 1 FROM session_counts LIMIT 1 OFFSET 1")
    assert counted(filled, ()) is None


SPANS = st.one_of(st.none(), st.integers(-100_000, 400_000))


@settings(deadline=None, max_examples=150)
@given(since=SPANS, until=SPANS, most=st.sampled_from([10_000, 7]))
def test_a_range_has_as_many_sessions_as_it_lists(
    days: apsw.Connection, since: int | None, until: int | None, most: int
) -> None:
    bounds = [None if at is None else AT + timedelta(seconds=at // 3600 * 3600) for at in (since, until)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ledger_module, "EXACT_TOTAL_MAX", most)
        page = SqliteTransaction(days, AT).ledger.page(
            LedgerQuery(since=bounds[0], until=bounds[1], limit=1000)
        )
    assert page.total == min(len(page.rows), most)
    assert page.total_is_lower_bound == (len(page.rows) > most)


@pytest.fixture(scope="module")
def days() -> Iterator[apsw.Connection]:
    db = in_memory()
    ledger = SqliteTransaction(db, AT).ledger
    for n in range(80):
        ledger.add(new_session(f"s{n}", second=n * 3600 + (n % 3)))
    yield db
    db.close()
