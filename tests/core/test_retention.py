from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.retention import PLAN_MAX_AGE_SEC, Plan, build_plan, facts, find_plan

NOW = datetime(2026, 11, 21, 3, 17, 9, 123_456, tzinfo=UTC)
DAY = 86_400.0
KEEPS = {"session_ledger": 90 * DAY, "daily_usage_agg": 365 * DAY, "sessions": 7 * DAY}


def test_a_cut_off_lies_as_long_ago_as_the_place_is_kept() -> None:
    plan = build_plan(KEEPS, NOW)
    assert plan.of("session_ledger").before == datetime(2026, 8, 23, 3, 17, 9, tzinfo=UTC)
    assert plan.of("sessions").before == datetime(2026, 11, 14, 3, 17, 9, tzinfo=UTC)
    assert [cutoff.name for cutoff in plan.cutoffs] == list(KEEPS)
    with pytest.raises(KeyError):
        plan.of("session_events")


@given(st.integers(0, PLAN_MAX_AGE_SEC - 1), st.integers(0, 999_999))
def test_a_plan_is_found_again_within_the_hour_and_is_the_same(later: int, micro: int) -> None:
    plan = build_plan(KEEPS, NOW)
    assert find_plan(plan.plan_id, KEEPS, NOW.replace(microsecond=micro) + timedelta(seconds=later)) == plan


def test_a_plan_older_than_an_hour_is_not_found() -> None:
    plan = build_plan(KEEPS, NOW)
    assert find_plan(plan.plan_id, KEEPS, NOW + timedelta(seconds=PLAN_MAX_AGE_SEC)) == plan
    assert find_plan(plan.plan_id, KEEPS, NOW + timedelta(seconds=PLAN_MAX_AGE_SEC + 1)) is None


def test_a_plan_whose_settings_changed_is_not_found() -> None:
    plan = build_plan(KEEPS, NOW)
    assert find_plan(plan.plan_id, KEEPS | {"sessions": 8 * DAY}, NOW) is None


@pytest.mark.parametrize("name", ["", "6f1c2a", "x" * 1000, "\0"])
def test_what_is_no_plan_is_not_found(name: str) -> None:
    assert find_plan(name, KEEPS, NOW) is None


def test_the_id_says_the_instants_and_nothing_else() -> None:
    shifted = {name: keep + DAY for name, keep in KEEPS.items()}
    assert build_plan(shifted, NOW + timedelta(days=1)).plan_id == build_plan(KEEPS, NOW).plan_id
    assert build_plan(KEEPS, NOW + timedelta(seconds=1)).plan_id != build_plan(KEEPS, NOW).plan_id


def test_the_audit_names_every_instant() -> None:
    plan: Plan = build_plan(KEEPS, NOW)
    assert facts(plan) == {
        "session_ledger": "2026-08-23T03:17:09.000Z",
        "daily_usage_agg": "2025-11-21T03:17:09.000Z",
        "sessions": "2026-11-14T03:17:09.000Z",
    }
