"""The performance matrix against one worked out by hand, and how long a kept one is good."""

import math
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ambientd.core.analytics import MatrixFacts, MatrixQuery, Scope
from ambientd.store.performance import WINDOWS_MAX
from ambientd.store.unit import SqliteTransaction
from ambientd.wire.enums import MatrixSplit
from tests.store.kit import AT, in_memory
from tests.store.usagekit import add, ended

ALL = MatrixQuery(scope=Scope())
ENDINGS = ("success", "failed", "killed", "cancelled")

rows = st.fixed_dictionaries(
    {
        "at": st.integers(0, 2 * 86_400_000).map(lambda ms: AT + timedelta(milliseconds=ms)),
        "agent": st.sampled_from("ab"),
        "model": st.sampled_from(("m", "n")),
        "category": st.sampled_from((None, "c")),
        "status": st.sampled_from((*ENDINGS, "running")),
        "runtime_ms": st.none() | st.integers(0, 50),
        "cost_usd": st.none() | st.integers(0, 50).map(lambda cents: cents / 100),
    }
)
queries = st.builds(
    MatrixQuery,
    scope=st.builds(
        Scope,
        since=st.none() | st.just(AT + timedelta(hours=7)),
        until=st.none() | st.just(AT + timedelta(hours=30)),
        agent_id=st.sampled_from((None, "a")),
        model_id=st.sampled_from((None, "m")),
        category=st.sampled_from((None, "c", "")),
    ),
    split=st.sampled_from(MatrixSplit),
)


def within(scope: Scope, row: dict[str, Any]) -> bool:
    return (
        row["status"] != "running"
        and (scope.since is None or row["at"] >= scope.since)
        and (scope.until is None or row["at"] < scope.until)
        and scope.agent_id in (None, row["agent"])
        and scope.model_id in (None, row["model"])
        and scope.category in (None, row["category"] or "")
    )


def by_hand(query: MatrixQuery, sessions: list[dict[str, Any]]) -> list[MatrixFacts]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in sessions:
        if within(query.scope, row):
            named = {"none": "", "agent": row["agent"], "task": row["category"] or ""}
            groups.setdefault((row["model"], named[query.split.value]), []).append(row)
    found = [_facts(*key, members) for key, members in groups.items()]
    return sorted(found, key=lambda facts: (-facts.runs, facts.model_id, facts.segment))


def _facts(model: str, segment: str, members: list[dict[str, Any]]) -> MatrixFacts:
    times = sorted(
        row["runtime_ms"]
        for row in members
        if row["runtime_ms"] is not None and (row["status"] != "cancelled" or row["runtime_ms"] > 0)
    )
    costs = [row["cost_usd"] for row in members if row["cost_usd"] is not None]
    counts = {status: sum(row["status"] == status for row in members) for status in ENDINGS}
    return MatrixFacts(
        model_id=model,
        segment=segment,
        runs=len(members),
        **counts,
        median_runtime_ms=median(times) if times else None,
        p95_runtime_ms=times[math.ceil(0.95 * len(times)) - 1] if times else None,
        runtime_known=len(times),
        median_cost_usd=median(costs) if costs else None,
        cost_known=len(costs),
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(rows, max_size=60), queries)
def test_every_figure_is_the_one_worked_out_by_hand(
    sessions: list[dict[str, Any]], query: MatrixQuery
) -> None:
    db = in_memory()
    tx = SqliteTransaction(db, AT)
    for number, row in enumerate(sessions):
        if row["status"] == "running":
            add(tx, f"s{number}", **{name: value for name, value in row.items() if name != "cost_usd"})
        else:
            ended(tx, f"s{number}", **row)
    computed = tx.performance.matrix(query)
    expected = by_hand(query, sessions)
    assert [_rounded(facts) for facts in computed] == [_rounded(facts) for facts in expected]
    tx.performance.keep(query, computed, tx.performance.revision(query))
    kept = tx.performance.kept(query)
    assert (None if kept is None else kept.rows) == (computed or None)
    db.close()


def _rounded(facts: MatrixFacts) -> MatrixFacts:
    cost = facts.median_cost_usd
    return msgspec.structs.replace(facts, median_cost_usd=None if cost is None else round(cost, 9))


def test_the_95th_percentile_is_the_nearest_rank_at_every_size() -> None:
    tx = SqliteTransaction(in_memory(), AT)
    for number in range(1, 241):
        ended(tx, f"s{number}", runtime_ms=number * 7)
        (facts,) = tx.performance.matrix(ALL)
        assert facts.p95_runtime_ms == math.ceil(0.95 * number) * 7, number


def test_unknown_figures_are_left_out_of_medians_and_told_apart() -> None:
    tx = SqliteTransaction(in_memory(), AT)
    for number, (runtime, cost) in enumerate(((100, 0.5), (None, None), (300, None), (200, 0.1))):
        ended(tx, f"s{number}", runtime_ms=runtime, cost_usd=cost)
    ended(tx, "blind", model="n")
    known, unknown = tx.performance.matrix(ALL)
    assert (known.median_runtime_ms, known.runtime_known) == (200, 3)
    assert (known.median_cost_usd, known.cost_known) == (0.3, 2)
    assert (unknown.median_runtime_ms, unknown.p95_runtime_ms, unknown.median_cost_usd) == (None, None, None)


def test_a_kept_matrix_is_good_until_a_session_of_its_days_changes() -> None:
    tx = SqliteTransaction(in_memory(), AT)
    midnight = AT.replace(hour=0)
    query = MatrixQuery(scope=Scope(since=midnight, until=midnight + timedelta(days=2)))
    ended(tx, "one", at=AT)
    rows, revision = tx.performance.matrix(query), tx.performance.revision(query)
    tx.performance.keep(query, rows, revision)
    ended(tx, "elsewhere", at=AT + timedelta(days=5))
    assert tx.performance.revision(query) == revision
    ended(tx, "two", at=AT + timedelta(days=1))
    assert tx.performance.revision(query) > revision
    kept = tx.performance.kept(query)
    assert kept is not None
    assert kept.revision == revision


def test_a_kept_matrix_with_a_row_missing_is_none() -> None:
    db = in_memory()
    tx = SqliteTransaction(db, AT)
    ended(tx, "one")
    ended(tx, "two", model="n")
    tx.performance.keep(ALL, tx.performance.matrix(ALL), 2)
    assert tx.performance.kept(ALL) is not None
    db.execute("DELETE FROM model_perf_agg WHERE model_id = 'n'")
    assert tx.performance.kept(ALL) is None


def test_scopes_are_kept_apart_and_only_so_many() -> None:
    db = in_memory()
    ended(SqliteTransaction(db, AT), "one", agent="x", category="c")
    scopes = [Scope(), Scope(agent_id="x"), Scope(category="c"), Scope(model_id="m"), Scope(agent_id="")]
    for number, scope in enumerate(scopes):
        tx = SqliteTransaction(db, AT + timedelta(seconds=number))
        tx.performance.keep(MatrixQuery(scope=scope), tx.performance.matrix(MatrixQuery(scope=scope)), number)
        split = MatrixQuery(scope=scope, split=MatrixSplit.TASK)
        tx.performance.keep(split, tx.performance.matrix(split), number)
    for number, scope in enumerate(scopes[:4]):
        kept = tx.performance.kept(MatrixQuery(scope=scope))
        assert kept is not None
        assert (kept.revision, len(kept.rows)) == (number, 1)
    assert tx.performance.kept(MatrixQuery(scope=scopes[4])) is None
    for number in range(WINDOWS_MAX + 5):
        tx = SqliteTransaction(db, AT + timedelta(minutes=number + 1))
        wide = MatrixQuery(scope=Scope(since=datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=number)))
        tx.performance.keep(wide, tx.performance.matrix(wide), 1)
    sql = "SELECT count(*) FROM (SELECT DISTINCT window_start, window_end, scope FROM model_perf_agg)"
    assert db.execute(sql).get == WINDOWS_MAX
    assert tx.performance.kept(ALL) is None


def test_the_kept_facts_say_in_sql_what_the_specification_names() -> None:
    db = in_memory()
    tx = SqliteTransaction(db, AT)
    for number in range(5):
        ended(tx, f"s{number}", status="failed" if number == 0 else "success", category="c", cost_usd=0.5)
    query = MatrixQuery(scope=Scope(agent_id="a"), split=MatrixSplit.TASK)
    tx.performance.keep(query, tx.performance.matrix(query), 5)
    row = db.execute(
        "SELECT agent_id, task_category, model_id, runs_total, success_count, success_rate, median_cost_usd,"
        " sample_warning FROM model_perf_agg"
    ).fetchone()
    assert row == ("a", "c", "m", 5, 4, 0.8, 0.5, 0)
