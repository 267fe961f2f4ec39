"""Rows of the earlier JSON store as the contract of today reads them."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.legacy import SOURCE, UNNAMED_TABLE, Grouped, Normalised, group, normalise
from ambientd.core.rejection import Rejected
from ambientd.wire.enums import CostConfidence, CostSource, MetricConfidence, SessionStatus
from ambientd.wire.legacy_messages import LegacyRecord

DATA = Path(__file__).resolve().parents[1] / "data" / "legacy"


def grouped(name: str) -> Grouped:
    found = group(json.loads((DATA / name).read_bytes()))
    assert isinstance(found, Grouped)
    return found


def read(number: int) -> Normalised:
    """The session `legacy-<number>` of the good store."""
    found = normalise(grouped("store.json").records[number - 1])
    assert isinstance(found, Normalised), found
    return found


def record(usage: dict[str, Any] | None = None, **ledger: Any) -> LegacyRecord:
    row = {"sessionId": "s", "agentId": "a", "status": "success", "startedAt": "2026-02-01T10:00:00Z"}
    return LegacyRecord(ledger=row | ledger, usage=usage)


def usable(found: Normalised | Rejected) -> Normalised:
    assert isinstance(found, Normalised), found
    return found


def test_every_row_of_the_good_store_is_taken() -> None:
    found = grouped("store.json")
    assert found.stray == 0
    assert all(isinstance(normalise(item), Normalised) for item in found.records)


def test_a_row_becomes_a_session_with_its_own_source() -> None:
    ingest = read(1).ingest
    assert ingest.source == SOURCE
    session = ingest.session
    assert (session.session_id, session.run_id, session.agent_label) == ("legacy-1", "run-1", "Peter")
    assert (session.status, session.task_category) == (SessionStatus.SUCCESS, "ops")
    assert session.ended_at is not None
    assert [event.seq for event in ingest.events] == [1, 2, 3]
    assert ingest.usage.cost_usd == 0.0123
    assert ingest.usage.runtime_ms is None  # start and end say it as well


def test_a_reported_cost_of_nothing_stays_a_cost() -> None:
    assert read(6).ingest.usage.cost_usd == 0.0
    assert read(6).estimate is None


def test_a_runtime_that_says_more_than_start_and_end_is_kept() -> None:
    assert read(6).ingest.usage.runtime_ms == 2600
    assert read(3).ingest.usage.runtime_ms is None  # 0 stood for unknown
    assert usable(normalise(record(runtimeMs=700))).ingest.usage.runtime_ms == 700
    derived = {"runtimeMs": 700, "runtimeSource": "derived"}
    assert usable(normalise(record(derived))).ingest.usage.runtime_ms is None


def test_an_estimate_keeps_its_price_and_is_not_taken_for_a_report() -> None:
    found = read(2)
    assert found.ingest.usage.cost_usd is None
    assert found.estimate is not None
    assert found.estimate.usd == 0.0006
    assert found.estimate.pricing_version == "v4.1-default"
    assert found.estimate.source is CostSource.ESTIMATED_FROM_PRICING
    assert found.estimate.confidence is CostConfidence.ESTIMATED
    assert found.estimate.level is MetricConfidence.LOW


def test_an_estimate_that_names_no_table_gets_a_name() -> None:
    estimate = read(4).estimate
    assert estimate is not None
    assert estimate.pricing_version == UNNAMED_TABLE


def test_a_total_made_up_from_one_class_is_not_taken_for_a_report() -> None:
    assert read(4).ingest.usage.prompt_tokens == 100
    assert read(4).ingest.usage.total_tokens is None
    assert read(6).ingest.usage.total_tokens == 900


def test_an_unknown_cost_is_no_cost() -> None:
    usage = {"costUsd": 0, "costConfidence": "unknown"}
    found = usable(normalise(record(usage)))
    assert (found.ingest.usage.cost_usd, found.estimate) == (None, None)


def test_numbers_that_begin_at_0_are_left_out_and_the_order_stays() -> None:
    events = read(4).ingest.events
    assert [event.seq for event in events] == [None, None]
    assert [event.event_id for event in events] == ["legacy-4-e0", "legacy-4-e1"]


@pytest.mark.parametrize(
    ("number", "fields"),
    [
        (2, ["session.status", "session.startedAt"]),
        (3, ["ledger"]),
        (4, ["session.agentId"]),
        (5, ["session.endedAt"]),
        (7, ["session.endedAt"]),
        (8, ["events[0].eventType"]),
        (9, ["usage.costUsd"]),
    ],
)
def test_a_broken_row_names_its_fields(number: int, fields: list[str]) -> None:
    if number == 9:
        item = grouped("broken.json").records[8]
        item.usage = {**item.usage, "costConfidence": "exact"}
    else:
        item = grouped("broken.json").records[number - 1]
    found = normalise(item)
    assert isinstance(found, Rejected)
    assert found.code == "VALIDATION_ERROR"
    assert [detail.field for detail in found.details] == fields


@pytest.mark.parametrize(
    ("usage", "field"),
    [
        ({"costUsd": 1}, "usage.costConfidence"),
        ({"costUsd": 1, "costConfidence": "certain"}, "usage.costConfidence"),
        ({"costUsd": "1", "costConfidence": "estimated"}, "usage.costUsd"),
        ({"costUsd": -1, "costConfidence": "estimated"}, "usage.costUsd"),
        ({"costUsd": 1, "costConfidence": "estimated", "pricingVersion": 5}, "usage.pricingVersion"),
        ({"tokens": 5}, "usage.tokens"),
    ],
)
def test_a_usage_row_that_says_nothing_certain_is_refused(usage: dict[str, Any], field: str) -> None:
    found = normalise(record(usage))
    assert isinstance(found, Rejected)
    assert [detail.field for detail in found.details] == [field]


def test_rows_without_a_session_are_counted() -> None:
    found = grouped("broken.json")
    assert len(found.records) == 9
    assert found.stray == 2


@pytest.mark.parametrize("document", [[], 3, None, {}, {"ledger": 5}, {"rows": []}])
def test_what_is_no_store_says_so(document: object) -> None:
    assert isinstance(group(document), str)


def test_a_missing_list_is_an_empty_one() -> None:
    assert group({"ledger": []}) == Grouped([], 0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["sessionId", "agentId", "status", "startedAt", "endedAt", "runtimeMs", "costUsd", "costConfidence", "x"]
)
ROWS = st.dictionaries(KEYS, JSON | st.just("2026-02-01T10:00:00Z") | st.just("success"), max_size=6) | JSON


@given(ROWS, ROWS, st.lists(ROWS, max_size=3))
def test_no_row_raises_and_equal_rows_get_equal_answers(ledger: Any, usage: Any, events: list[Any]) -> None:
    item = LegacyRecord(ledger=ledger, usage=usage, events=events)
    first, second = normalise(item), normalise(item)
    assert isinstance(first, (Normalised, Rejected))
    if isinstance(first, Rejected):
        assert first == second
        msgspec.json.encode(first.details)


@given(JSON | st.dictionaries(st.sampled_from(["ledger", "usage", "events"]), JSON, max_size=3))
def test_no_document_raises(document: Any) -> None:
    assert isinstance(group(document), (Grouped, str))
