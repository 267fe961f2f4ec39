"""Series without gaps, days of zones, and the words of a question."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from ambientd.core.analytics import (
    POINTS_FILLED_MAX,
    ZONE_DAYS_MAX,
    MatrixFacts,
    MatrixQuery,
    Scope,
    Totals,
    UsageQuery,
    matrix_row,
    usage_answer,
    zone_days,
)
from ambientd.core.analyticsquery import parse_matrix, parse_usage
from ambientd.core.rejection import Rejected
from ambientd.host.zones import find_zone
from ambientd.wire.enums import MatrixSplit, UsageGroup

BERLIN = ZoneInfo("Europe/Berlin")
ONE = Totals(runs=1, cost_nano=100_000_000)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def dates(query: UsageQuery, *known: str) -> list[str | None]:
    answer = usage_answer(query, dict.fromkeys(known, ONE), None)
    return [point.date for point in answer.series]


def test_days_between_the_first_and_the_last_are_all_there() -> None:
    query = UsageQuery(scope=Scope())
    assert dates(query, "2026-02-27", "2026-03-02") == [
        "2026-02-27",
        "2026-02-28",
        "2026-03-01",
        "2026-03-02",
    ]
    assert dates(query) == []


def test_a_named_range_is_filled_to_its_ends() -> None:
    query = UsageQuery(scope=Scope(since=at("2026-03-01"), until=at("2026-03-04")))
    assert dates(query) == ["2026-03-01", "2026-03-02", "2026-03-03"]
    into_a_day = UsageQuery(scope=Scope(since=at("2026-03-01T12:00"), until=at("2026-03-03T00:00:00.001")))
    assert dates(into_a_day) == ["2026-03-01", "2026-03-02", "2026-03-03"]


def test_weeks_are_named_by_their_mondays_and_summed() -> None:
    query = UsageQuery(scope=Scope(), group_by=UsageGroup.WEEK)
    answer = usage_answer(query, dict.fromkeys(("2026-11-15", "2026-11-16", "2026-11-29"), ONE), None)
    assert [(point.date, point.runs) for point in answer.series] == [
        ("2026-11-09", 1),
        ("2026-11-16", 1),
        ("2026-11-23", 1),
    ]
    assert answer.series[1].drilldown["from"] == "2026-11-16T00:00:00.000Z"
    assert answer.series[1].drilldown["to"] == "2026-11-23T00:00:00.000Z"


def test_a_series_too_long_to_fill_has_only_days_with_runs() -> None:
    first = date(2020, 1, 1)
    last = first + timedelta(days=POINTS_FILLED_MAX - 1)
    query = UsageQuery(scope=Scope())
    assert len(dates(query, first.isoformat(), last.isoformat())) == POINTS_FILLED_MAX
    beyond = last + timedelta(days=1)
    assert dates(query, first.isoformat(), beyond.isoformat()) == [first.isoformat(), beyond.isoformat()]


def test_a_local_day_leads_to_the_instants_between_which_it_lies() -> None:
    query = UsageQuery(scope=Scope(), zone=BERLIN, zone_name="Europe/Berlin")
    (point,) = usage_answer(query, {"2026-10-25": ONE}, None).series  # clocks go back: 25 hours
    assert (point.drilldown["from"], point.drilldown["to"]) == (
        "2026-10-24T22:00:00.000Z",
        "2026-10-25T23:00:00.000Z",
    )


def test_groups_come_by_cost_and_lead_to_their_sessions() -> None:
    query = UsageQuery(scope=Scope(agent_id="x"), group_by=UsageGroup.TASK)
    found = {"b": ONE, "a": ONE, "": ONE + ONE}
    answer = usage_answer(query, found, None)
    assert [point.task_category for point in answer.series] == [None, "a", "b"]
    assert [point.drilldown["category"] for point in answer.series] == ["", "a", "b"]
    assert answer.series[0].cost_usd == 0.2
    assert all(point.drilldown["agent"] == "x" for point in answer.series)


def test_local_days_cover_a_range_without_gap_or_overlap() -> None:
    scope = Scope(since=at("2026-03-28T05:00"), until=at("2026-03-30T01:00"))
    query = UsageQuery(scope=scope, zone=BERLIN, zone_name="Europe/Berlin")
    spans = zone_days(query, at("2020-01-01"), at("2030-01-01"))
    assert isinstance(spans, tuple)
    assert [span.day.isoformat() for span in spans] == ["2026-03-28", "2026-03-29", "2026-03-30"]
    assert spans[0].start == scope.since
    assert spans[-1].end == scope.until
    assert all(one.end == other.start for one, other in pairwise(spans))
    assert spans[1].end - spans[1].start == timedelta(hours=23)


def test_too_many_local_days_are_refused() -> None:
    query = UsageQuery(scope=Scope(), zone=BERLIN, zone_name="Europe/Berlin")
    found = zone_days(query, at("2000-01-01"), at("2000-01-01") + timedelta(days=ZONE_DAYS_MAX + 1))
    assert isinstance(found, Rejected)
    assert [item.field for item in found.details] == ["from"]


def test_days_of_a_question_are_those_of_its_zone() -> None:
    found = parse_usage({"from": "2026-11-20", "to": "2026-11-21", "tz": "Europe/Berlin"}, find_zone)
    assert isinstance(found, UsageQuery)
    assert found.scope.since == at("2026-11-19T23:00")
    assert found.scope.until == at("2026-11-20T23:00")


def test_a_bound_within_a_millisecond_is_the_one_behind_it() -> None:
    found = parse_matrix({"from": "2026-11-20T00:00:00.0001Z"})
    assert isinstance(found, MatrixQuery)
    assert found.scope.since == at("2026-11-20T00:00:00.001")


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ({"from": "soon", "to": "later", "tz": "Nowhere"}, ["from", "to", "tz"]),
        ({"from": "0001-01-01"}, ["from"]),
        ({"to": "9999-12-31T23:59:59Z"}, ["to"]),
        ({"tz": "x" * 65}, ["tz"]),
        ({"tz": ""}, ["tz"]),
        ({"tz": "Europe"}, ["tz"]),
        ({"tz": "/etc/passwd"}, ["tz"]),
        ({"tz": "Europe/Berlin\0"}, ["tz"]),
        ({"agent": "a\0"}, ["agent"]),
        ({"from": "2026-11-20", "to": "2026-11-20"}, ["to"]),
    ],
)
def test_every_problem_of_a_question_is_named(query: dict[str, str], fields: list[str]) -> None:
    found = parse_usage(query, find_zone)
    assert isinstance(found, Rejected)
    assert [item.field for item in found.details] == fields


def facts(**changes: int) -> MatrixFacts:
    counts = {"runs": 5, "success": 3, "failed": 1, "killed": 1, "cancelled": 0} | changes
    return MatrixFacts(
        model_id="m",
        segment="c",
        median_runtime_ms=1.0,
        p95_runtime_ms=2,
        runtime_known=5,
        median_cost_usd=None,
        cost_known=0,
        **counts,
    )


@pytest.mark.parametrize(("runs", "least", "warns"), [(4, 5, True), (5, 5, False), (5, 6, True)])
def test_too_few_runs_are_a_warning(runs: int, least: int, warns: bool) -> None:
    row = matrix_row(MatrixQuery(scope=Scope()), facts(runs=runs, success=runs, failed=0, killed=0), least)
    assert row.sample_warning is warns


def test_rates_are_those_of_the_rulings() -> None:
    row = matrix_row(MatrixQuery(scope=Scope()), facts(), 5)
    assert (row.success_rate, row.failure_rate) == (0.6, 0.25)
    none = matrix_row(MatrixQuery(scope=Scope()), facts(success=0, failed=0, killed=5), 5)
    assert (none.success_rate, none.failure_rate) == (0, None)


def test_a_row_leads_to_its_failures_with_the_filters_of_the_question() -> None:
    scope = Scope(since=at("2026-11-01"), until=at("2026-11-20"), agent_id="x")
    row = matrix_row(MatrixQuery(scope=scope, split=MatrixSplit.TASK), facts(), 5)
    assert row.failed_drilldown == {
        "status": "failed",
        "agent": "x",
        "model": "m",
        "category": "c",
        "from": "2026-11-01T00:00:00.000Z",
        "to": "2026-11-20T00:00:00.000Z",
    }
    assert row.task_category == "c"
