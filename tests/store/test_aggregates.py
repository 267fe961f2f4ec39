"""The daily sums are at any time what adding up all ended sessions gives, whatever came in which order."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any

import apsw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ambientd.config.schema import ModelPrices
from ambientd.core.analytics import DaySpan, Scope, Totals, UsageQuery
from ambientd.core.contracts.canonical import CanonicalIngest
from ambientd.core.contracts.registry import read
from ambientd.core.pricing import PriceTable
from ambientd.core.records import UsageRecord
from ambientd.core.rejection import Rejected
from ambientd.core.timefmt import rfc3339_ms
from ambientd.flows.ingest import apply
from ambientd.store.unit import SqliteTransaction
from ambientd.wire.enums import CostConfidence, CostSource, MetricSource, UsageGroup
from tests.store.kit import AT, in_memory

DAY = timedelta(days=1)
FIRST = datetime(2026, 11, 18, 22, 59, 59, 999_000, tzinfo=UTC)
STARTS = [FIRST + timedelta(milliseconds=step) for step in (0, 1, 3_600_000, 3_600_001, 90_000_000)]
PRICES = PriceTable("p1", {"known/*": ModelPrices(input=3, output=15)})  # type: ignore[arg-type]  # numbers
COLUMNS = (
    "runs_total, runtime_ms_total, prompt_tokens_total, completion_tokens_total, total_tokens_total,"
    " cost_nano_total, tokens_reported, tokens_derived, runtime_reported, runtime_derived, cost_reported,"
    " cost_derived"
)
KEYS = ("bucket_date", "agent_id", "model_id", "task_category")

counts = st.one_of(st.none(), st.integers(0, 5_000))
envelopes = st.fixed_dictionaries(
    {
        "number": st.integers(0, 5),
        "state": st.sampled_from(["running", "success", "success", "success", "failed", "cancelled"]),
        "model": st.sampled_from([None, None, "known/a", "known/a", "other"]),
        "category": st.sampled_from([None, None, None, "review"]),
        "runtime_ms": st.one_of(st.none(), st.integers(0, 100_000)),
        "ended": st.booleans(),
        "prompt_tokens": counts,
        "completion_tokens": counts,
        "cost_usd": st.one_of(st.none(), st.sampled_from([0.0, 0.1, 0.2, 1e-9, 1.5e-9, 12.345678901])),
    }
)
refigured = st.builds(
    UsageRecord,
    session_id=st.sampled_from([f"ses-{number}" for number in range(6)]),
    prompt_tokens=counts,
    total_tokens=st.integers(0, 5_000),
    token_source=st.sampled_from([MetricSource.DERIVED, MetricSource.PROVIDER_REPORTED]),
    cost_usd=st.sampled_from([0.0, 0.1, 7.7]),
    cost_confidence=st.just(CostConfidence.ESTIMATED),
    cost_source=st.just(CostSource.ESTIMATED_FROM_PRICING),
    pricing_version=st.just("p2"),
    computed_at=st.just(AT),
)
steps = st.lists(
    st.one_of(
        envelopes,
        envelopes,
        refigured,
        refigured,
        st.sampled_from(["lose a bucket", "lose all", "rebuild", "rebuild", "rebuild", "remove a session"]),
    ),
    min_size=15,
    max_size=40,
)


def canonical(wish: dict[str, Any]) -> CanonicalIngest:
    """What an envelope with these wishes becomes; start, agent and source depend on the session only."""
    number = wish["number"]
    session = {
        "id": f"ses-{number}",
        "agent_id": f"agent-{number // 3}",
        "started_at": rfc3339_ms(STARTS[number % len(STARTS)]),
        "state": wish["state"],
        "model_id": wish["model"],
        "task_category": wish["category"],
    }
    if wish["ended"] and wish["state"] not in ("queued", "running"):
        session["ended_at"] = rfc3339_ms(STARTS[number % len(STARTS)] + timedelta(seconds=7))
    names = ("prompt_tokens", "completion_tokens", "runtime_ms", "cost_usd")
    usage = {name: wish[name] for name in names if wish[name] is not None}
    payload = {"session": {name: value for name, value in session.items() if value is not None}}
    found = read({"envelope_version": "v1", "source": "test", "payload": payload | {"usage": usage}})
    assert isinstance(found, CanonicalIngest), found
    return found


def facts(connection: apsw.Connection) -> list[dict[str, Any]]:
    """Ended sessions, read and judged one by one."""
    sql = (
        "SELECT l.started_at, l.agent_id, l.model_id, coalesce(l.task_category, ''), l.runtime_ms,"
        " u.prompt_tokens, u.completion_tokens, u.total_tokens, u.cost_usd, u.token_source, u.runtime_source,"
        " u.cost_source FROM session_ledger AS l LEFT JOIN session_usage AS u USING (session_id)"
        " WHERE l.status NOT IN ('queued', 'running')"
    )
    names = (
        "started_at", "agent_id", "model_id", "task_category", "runtime_ms", "prompt_tokens",
        "completion_tokens", "total_tokens", "cost_usd", "token_source", "runtime_source", "cost_source",
    )  # fmt: skip
    found = [dict(zip(names, row, strict=True)) for row in connection.execute(sql)]
    return [row | {"bucket_date": row["started_at"][:10]} for row in found]


def total(rows: list[dict[str, Any]]) -> Totals:
    """Their sum, slowly."""
    tokens = Counter(row["token_source"] for row in rows)
    runtime = Counter(row["runtime_source"] for row in rows)
    cost = Counter(row["cost_source"] for row in rows)
    return Totals(
        runs=len(rows),
        runtime_ms=sum(row["runtime_ms"] or 0 for row in rows),
        prompt_tokens=sum(row["prompt_tokens"] or 0 for row in rows),
        completion_tokens=sum(row["completion_tokens"] or 0 for row in rows),
        total_tokens=sum(row["total_tokens"] or 0 for row in rows),
        cost_nano=sum(int((row["cost_usd"] or 0) * 1e9 + 0.5) for row in rows),
        tokens_reported=tokens["provider_reported"],
        tokens_derived=tokens["derived"],
        runtime_reported=runtime["provider_reported"],
        runtime_derived=runtime["derived"],
        cost_reported=cost["provider_reported"],
        cost_derived=cost["estimated_from_pricing"],
    )


def grouped(rows: list[dict[str, Any]], *keys: str) -> dict[Any, Totals]:
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        key = tuple(row[name] for name in keys)
        groups.setdefault(key if len(keys) > 1 else key[0], []).append(row)
    return {key: total(found) for key, found in groups.items()}


def buckets(connection: apsw.Connection) -> dict[Any, Totals]:
    """The rows of the aggregate as they are stored."""
    sql = f"SELECT {', '.join(KEYS)}, cost_usd_total, {COLUMNS} FROM daily_usage_agg"  # noqa: S608 - constants
    found = {}
    for row in connection.execute(sql):
        sums = Totals(**dict(zip(Totals.__struct_fields__, row[5:], strict=True)))
        assert row[:4] not in found
        assert row[4] == sums.cost_nano / 1e9
        found[row[:4]] = sums
    return found


def take(tx: SqliteTransaction, connection: apsw.Connection, step: Any) -> None:
    match step:
        case "lose a bucket":
            connection.execute(
                "DELETE FROM daily_usage_agg WHERE agg_key = (SELECT min(agg_key) FROM daily_usage_agg)"
            )
        case "lose all":
            connection.execute("DELETE FROM daily_usage_agg")
        case "rebuild":
            for day in tx.usage.incomplete_days(100):
                assert tx.usage.rebuild(day)
        case "remove a session":  # an open one: only ended ones stay in the sums
            connection.execute("DELETE FROM session_ledger WHERE status IN ('queued', 'running')")
            tx.keys.forget()
        case UsageRecord():
            if tx.ledger.get(step.session_id) is not None:
                tx.usage.put(step)
                tx.usage.account(step.session_id)
        case wish:
            done = apply(tx, canonical(wish), AT, prices=PRICES)
            assert not isinstance(done, Rejected) or done.code == "IDEMPOTENCY_CONFLICT"


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_sums_kept_in_step_are_those_of_adding_up_everything(history: list[Any]) -> None:
    connection = in_memory()
    tx = SqliteTransaction(connection, AT)
    for step in history:
        take(tx, connection, step)
        rows = facts(connection)
        whole = UsageQuery(scope=Scope())
        assert tx.usage.series(whole) == grouped(rows, "bucket_date")
    take(tx, connection, "rebuild")
    assert tx.usage.incomplete_days(1) == []
    assert buckets(connection) == grouped(facts(connection), *KEYS)
    connection.close()


scopes = st.builds(
    Scope,
    since=st.one_of(st.none(), st.sampled_from(STARTS), st.sampled_from([AT - DAY * n for n in range(4)])),
    until=st.one_of(st.none(), st.sampled_from([*STARTS, AT, datetime(2026, 11, 20, tzinfo=UTC)])),
    agent_id=st.sampled_from([None, "agent-0", "nobody"]),
    model_id=st.sampled_from([None, "other", "unknown"]),
    category=st.sampled_from([None, "", "review"]),
)
GROUPS = {
    UsageGroup.DAY: "bucket_date",
    UsageGroup.AGENT: "agent_id",
    UsageGroup.MODEL: "model_id",
    UsageGroup.TASK: "task_category",
}


def within(scope: Scope, row: dict[str, Any]) -> bool:
    at = datetime.fromisoformat(row["started_at"])
    wishes = ((scope.agent_id, "agent_id"), (scope.model_id, "model_id"), (scope.category, "task_category"))
    return (
        (scope.since is None or at >= scope.since)
        and (scope.until is None or at < scope.until)
        and all(wish is None or row[name] == wish for wish, name in wishes)
    )


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps, scopes, st.sampled_from(list(GROUPS)))
def test_any_range_filter_and_group_is_what_the_sessions_say(
    history: list[Any], scope: Scope, group: UsageGroup
) -> None:
    connection = in_memory()
    tx = SqliteTransaction(connection, AT)
    for step in history:
        take(tx, connection, step)
    rows = [row for row in facts(connection) if within(scope, row)]
    found = tx.usage.series(UsageQuery(scope=scope, group_by=group))
    assert {key: value for key, value in found.items() if value.runs} == grouped(rows, GROUPS[group])
    connection.close()


def ended(tx: SqliteTransaction, number: int, **changes: Any) -> None:
    base = {
        "number": number,
        "state": "success",
        "model": "known/a",
        "category": None,
        "runtime_ms": 1000,
        "ended": True,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "cost_usd": 0.5,
    }
    assert not isinstance(apply(tx, canonical(base | changes), AT, prices=PRICES), Rejected)


def test_a_purged_day_keeps_its_sums_and_is_never_built_from_what_is_left() -> None:
    connection = in_memory()
    tx = SqliteTransaction(connection, AT)
    for number in range(5):
        ended(tx, number)
    before = tx.usage.series(UsageQuery(scope=Scope()))
    removed = tx.retention.remove(AT + timedelta(days=1), 100, ("", ""))
    assert removed.found.sessions == 5
    assert facts(connection) == []
    assert tx.usage.series(UsageQuery(scope=Scope())) == before
    connection.execute("UPDATE usage_days SET is_incomplete = 1")
    for day in before:
        assert not tx.usage.rebuild(day)
    assert tx.usage.series(UsageQuery(scope=Scope())) == before


def test_a_late_session_of_a_purged_day_is_added_to_what_was_there() -> None:
    connection = in_memory()
    tx = SqliteTransaction(connection, AT)
    ended(tx, 1)
    tx.retention.remove(AT + timedelta(days=1), 100, ("", ""))
    tx.keys.forget()
    ended(tx, 1)  # the same one again: nobody can know any more
    (sums,) = tx.usage.series(UsageQuery(scope=Scope())).values()
    assert (sums.runs, sums.cost_nano) == (2, 1_000_000_000)


def test_sessions_of_before_the_sums_existed_are_counted() -> None:
    connection = in_memory()
    tx = SqliteTransaction(connection, AT)
    ended(tx, 0)
    ended(tx, 2)
    expected = tx.usage.series(UsageQuery(scope=Scope()))
    connection.execute("DELETE FROM session_accounted")
    connection.execute("DELETE FROM daily_usage_agg")
    assert tx.usage.series(UsageQuery(scope=Scope())) == expected
    ended(tx, 4)  # does not make its day look complete
    days = tx.usage.series(UsageQuery(scope=Scope()))
    assert days == grouped(facts(connection), "bucket_date")
    for day in tx.usage.incomplete_days(10):
        assert tx.usage.rebuild(day)
    assert tx.usage.series(UsageQuery(scope=Scope())) == days


def test_days_of_another_zone_are_added_up_from_the_sessions() -> None:
    connection = in_memory()
    tx = SqliteTransaction(connection, AT)
    for number in range(5):
        ended(tx, number)
    one_hour_east = [
        DaySpan(day, at, at + DAY)
        for day, at in (
            (date(2026, 11, 18), datetime(2026, 11, 17, 23, tzinfo=UTC)),
            (date(2026, 11, 19), datetime(2026, 11, 18, 23, tzinfo=UTC)),
            (date(2026, 11, 20), datetime(2026, 11, 19, 23, tzinfo=UTC)),
            (date(2026, 11, 21), datetime(2026, 11, 20, 23, tzinfo=UTC)),
        )
    ]
    found = tx.usage.by_day(UsageQuery(scope=Scope()), tuple(one_hour_east))
    assert {key: value.runs for key, value in found.items()} == {
        "2026-11-18": 1,
        "2026-11-19": 3,
        "2026-11-20": 1,
    }


def test_a_day_ends_at_midnight_utc_whatever_the_local_zone() -> None:
    connection = in_memory()
    tx = SqliteTransaction(connection, AT)
    for number, at in enumerate(("2026-11-19T23:59:59.999Z", "2026-11-20T00:00:00.000Z")):
        found = read(
            {
                "envelope_version": "v1",
                "source": "test",
                "payload": {
                    "session": {"id": f"s{number}", "agent_id": "a", "state": "failed", "started_at": at}
                },
            }
        )
        assert isinstance(found, CanonicalIngest)
        assert not isinstance(apply(tx, found, AT), Rejected)
    series = tx.usage.series(UsageQuery(scope=Scope()))
    assert {day: sums.runs for day, sums in series.items()} == {"2026-11-19": 1, "2026-11-20": 1}


def test_three_times_the_same_is_one_row() -> None:
    connection = in_memory()
    tx = SqliteTransaction(connection, AT)
    ended(tx, 1)
    for _ in range(3):
        tx.usage.account("ses-1")
    assert len(buckets(connection)) == 1
    assert next(iter(buckets(connection).values())).runs == 1
