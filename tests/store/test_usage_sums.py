"""The daily sums against adding up by hand: long random lives of sessions, zones, bounds, lost buckets."""

import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ambientd.core.analytics import Scope, Totals, UsageQuery, zone_days
from ambientd.core.timefmt import rfc3339_ms
from ambientd.store.unit import SqliteTransaction
from ambientd.wire.enums import SessionStatus, UsageGroup
from tests.store.kit import AT, in_memory, migrated
from tests.store.usagekit import add, use

MIDNIGHT = datetime(2026, 11, 20, tzinfo=UTC)
STATUSES = ("success", "failed", "killed", "cancelled", "running", "queued")
EVERYTHING = UsageQuery(scope=Scope())
COLUMNS = (
    "runs_total, runtime_ms_total, prompt_tokens_total, completion_tokens_total, total_tokens_total,"
    " cost_nano_total, tokens_reported, tokens_derived, runtime_reported, runtime_derived, cost_reported,"
    " cost_derived"
)
Sums = dict[tuple[str, ...], tuple[int, ...]]


def by_hand(db: apsw.Connection) -> Sums:
    """Everything added up anew, from nothing but the sessions' rows."""
    found: dict[tuple[str, ...], list[int]] = {}
    rows = db.execute(
        "SELECT substr(l.started_at, 1, 10), l.agent_id, l.model_id, l.task_category,"
        " l.runtime_ms, u.runtime_ms, u.prompt_tokens, u.completion_tokens, u.total_tokens, u.cost_usd"
        " FROM session_ledger AS l LEFT JOIN session_usage_rows AS u USING (session_key)"
        " WHERE l.status NOT IN ('running', 'queued')"
    )
    for day, agent, model, category, told, used, prompt, completion, total, cost in rows:
        runtime = used if told is None else told
        sums = found.setdefault((day, agent, model, category or ""), [0] * 12)
        nano = round((cost or 0) * 1_000_000_000)
        for place, value in enumerate((1, runtime or 0, prompt or 0, completion or 0, total or 0, nano)):
            sums[place] += value
        # `use` says that a provider reported tokens and costs, and that runtimes were derived.
        sums[6] += any(value is not None for value in (prompt, completion, total))
        sums[9] += runtime is not None
        sums[10] += cost is not None
    return {key: tuple(sums) for key, sums in found.items()}


def kept(db: apsw.Connection) -> Sums:
    """The sums as they are stored."""
    names = "bucket_date, agent_id, model_id, task_category"
    rows: Iterable[tuple[Any, ...]] = db.execute(f"SELECT {names}, {COLUMNS} FROM daily_usage_agg")  # noqa: S608 - constants
    return {row[:4]: row[4:] for row in rows}


def total(sums: Sums) -> Totals:
    values = [sum(place) for place in zip(*sums.values(), strict=True)] if sums else [0] * 12
    return Totals(**dict(zip(Totals.__struct_fields__, values, strict=True)))


amounts = st.none() | st.integers(0, 10**6)
figures = st.fixed_dictionaries(
    {
        "prompt_tokens": amounts,
        "completion_tokens": amounts,
        "total_tokens": amounts,
        "cost_usd": st.none() | st.floats(0, 100).map(lambda value: round(value, 9)),
        "runtime_ms": amounts,
    }
)
sessions = st.fixed_dictionaries(
    {
        "at": st.integers(0, 3 * 86_400_000).map(lambda ms: MIDNIGHT + timedelta(milliseconds=ms)),
        "agent": st.sampled_from("ab"),
        "model": st.sampled_from(("m", "unknown")),
        "category": st.sampled_from((None, "c", "d")),
        "status": st.sampled_from(STATUSES),
        "runtime_ms": amounts,
    }
)
which = st.integers(0, 20)
steps = st.one_of(
    st.tuples(st.just("add"), sessions, st.none() | figures),
    st.tuples(st.just("end"), which, st.sampled_from(STATUSES[:4])),
    st.tuples(st.just("use"), which, figures),
    st.tuples(st.just("model"), which, st.sampled_from(("m", "n"))),
    st.tuples(st.just("category"), which, st.sampled_from(("c", "d"))),
    st.tuples(st.just("again"), which, st.none()),
    st.tuples(st.just("lose"), which, st.none()),
    st.tuples(st.just("rebuild"), st.integers(0, 3), st.none()),
)


class Lives:
    """Carries out a random sequence of what can happen to sessions and to their sums."""

    def __init__(self) -> None:
        self.db = in_memory()
        self.tx = SqliteTransaction(self.db, AT)
        self.ids: list[str] = []

    def take(self, kind: str, subject: Any, more: Any) -> None:
        if kind == "add":
            self.ids.append(f"s{len(self.ids)}")
            add(self.tx, self.ids[-1], **subject)
            if more is not None:
                use(self.tx, self.ids[-1], **more)
            self.tx.usage.account(self.ids[-1])
        elif kind == "lose":
            one = "SELECT agg_key FROM daily_usage_agg ORDER BY 1 LIMIT 1 OFFSET ?"
            self.db.execute(f"DELETE FROM daily_usage_agg WHERE agg_key IN ({one})", (subject,))  # noqa: S608 - constants
        elif kind == "rebuild":
            self.tx.usage.rebuild((MIDNIGHT + timedelta(days=subject)).date().isoformat())
        elif subject < len(self.ids):
            self._change(kind, self.ids[subject], more)
            self.tx.usage.account(self.ids[subject])

    def _change(self, kind: str, session_id: str, more: Any) -> None:
        stored = self.tx.ingest.session(session_id)
        assert stored is not None
        if kind == "use":
            use(self.tx, session_id, **more)
        elif kind == "end" and stored.status in ("running", "queued"):
            self.tx.ingest.change(session_id, {"status": SessionStatus(more), "ended_at": AT})
        elif kind == "model":
            self.tx.ingest.change(session_id, {"model_id": more})
        elif kind == "category":
            self.tx.ingest.change(session_id, {"task_category": more})


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=25))
def test_the_sums_are_always_what_adding_up_by_hand_gives(script: list[tuple[str, Any, Any]]) -> None:
    lives = Lives()
    for step in script:
        lives.take(*step)
        expected = total(by_hand(lives.db))
        for group in UsageGroup:
            found = lives.tx.usage.series(UsageQuery(scope=Scope(), group_by=group))
            assert sum(found.values(), Totals()) == expected
    for day in lives.tx.usage.incomplete_days(10):
        assert lives.tx.usage.rebuild(day)
    assert kept(lives.db) == by_hand(lives.db)
    assert lives.tx.usage.incomplete_days(10) == []
    lives.db.close()


def test_a_thousand_tenths_of_a_cent_are_exactly_a_dollar() -> None:
    db = in_memory()
    tx = SqliteTransaction(db, AT)
    for number in range(1000):
        add(tx, f"s{number}")
        use(tx, f"s{number}", cost_usd=0.001)
        tx.usage.account(f"s{number}")
    assert db.execute("SELECT cost_usd_total FROM daily_usage_agg").get == 1.0


def test_accounting_the_same_again_is_no_change() -> None:
    db = in_memory()
    tx = SqliteTransaction(db, AT)
    add(tx, "s")
    for _ in range(3):
        tx.usage.account("s")
    assert db.execute("SELECT revision FROM usage_days").get == 1
    use(tx, "s", total_tokens=3)
    tx.usage.account("s")
    assert db.execute("SELECT revision FROM usage_days").get == 2


def test_what_runs_counts_when_it_has_ended() -> None:
    db = in_memory()
    tx = SqliteTransaction(db, AT)
    add(tx, "s", status="running")
    tx.usage.account("s")
    tx.usage.account("nobody")
    assert kept(db) == {}
    tx.ingest.change("s", {"status": SessionStatus.KILLED})
    tx.usage.account("s")
    assert [sums[0] for sums in kept(db).values()] == [1]


def test_a_bucket_that_somebody_deletes_changes_no_answer_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    db = migrated(path)
    tx = SqliteTransaction(db, AT)
    for number in range(6):
        add(tx, f"s{number}", at=MIDNIGHT + timedelta(hours=number * 12), model="mn"[number % 2])
        use(tx, f"s{number}", total_tokens=number)
        tx.usage.account(f"s{number}")
    before, sums = tx.usage.series(EVERYTHING), kept(db)
    db.close()
    outside = sqlite3.connect(path)
    outside.execute("DELETE FROM daily_usage_agg WHERE bucket_date = '2026-11-21' AND model_id = 'm'")
    outside.commit()
    outside.close()
    db = migrated(path)
    tx = SqliteTransaction(db, AT)
    assert len(kept(db)) == len(sums) - 1
    assert tx.usage.series(EVERYTHING) == before
    assert tx.usage.incomplete_days(5) == ["2026-11-21"]
    assert tx.usage.rebuild("2026-11-21")
    assert kept(db) == sums
    db.close()


def test_a_bucket_lost_from_a_purged_day_does_not_take_its_neighbours_along() -> None:
    db = in_memory()
    tx = SqliteTransaction(db, AT)
    for number, model in enumerate("mmn"):
        add(tx, f"s{number}", at=MIDNIGHT + timedelta(hours=number), model=model)
        tx.usage.account(f"s{number}")
    tx.retention.remove(MIDNIGHT + timedelta(hours=1), 10, ("", ""))
    db.execute("DELETE FROM daily_usage_agg WHERE model_id = 'm'")
    assert not tx.usage.rebuild("2026-11-20")
    assert {key[2] for key in kept(db)} == {"n"}
    assert tx.usage.incomplete_days(5) == []
    use(tx, "s1", total_tokens=5)
    tx.usage.account("s1")
    assert {key[2]: sums[0] for key, sums in kept(db).items()} == {"m": 1, "n": 1}


def test_figures_larger_than_any_contract_allows_do_not_overflow_the_sums() -> None:
    db = in_memory()
    tx = SqliteTransaction(db, AT)
    for number in range(3):
        add(tx, f"s{number}", runtime_ms=2**62)
        use(tx, f"s{number}", total_tokens=2**62, cost_usd=1e290)
        tx.usage.account(f"s{number}")
    found = tx.usage.series(EVERYTHING)["2026-11-20"]
    assert (found.runtime_ms, found.total_tokens, found.cost_nano) == (3 * 10**13, 3 * 10**12, 3 * 10**15)


@pytest.mark.parametrize("name", ["Europe/Berlin", "Asia/Kolkata", "America/New_York", "Pacific/Chatham"])
def test_days_of_another_zone_are_its_own_also_when_clocks_change(name: str) -> None:
    zone = ZoneInfo(name)
    tx = SqliteTransaction(in_memory(), AT)
    expected: dict[str, int] = {}
    for number in range(300):
        at = datetime(2026, 10, 22, tzinfo=UTC) + timedelta(minutes=97 * number)
        add(tx, f"s{number}", at=at)
        day = at.astimezone(zone).date().isoformat()
        expected[day] = expected.get(day, 0) + 1
    query = UsageQuery(scope=Scope(), zone=zone, zone_name=name)
    extent = tx.usage.extent()
    assert extent is not None
    spans = zone_days(query, *extent)
    assert isinstance(spans, tuple)
    found = tx.usage.by_day(query, spans)
    assert {day: value.runs for day, value in found.items()} == expected


def test_an_empty_ledger_has_no_extent_and_no_sums() -> None:
    tx = SqliteTransaction(in_memory(), AT)
    assert tx.usage.extent() is None
    assert tx.usage.series(EVERYTHING) == {}


def test_updated_at_is_the_moment_of_the_change() -> None:
    db = in_memory()
    add(SqliteTransaction(db, AT), "s")
    later = AT + timedelta(hours=1)
    SqliteTransaction(db, later).usage.account("s")
    assert db.execute("SELECT updated_at FROM daily_usage_agg").get == rfc3339_ms(later)
