"""What a later ingest may change, by values alone."""

from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.contracts.canonical import CanonicalIngest, CanonicalSession, CanonicalUsage
from ambientd.core.ingest import Mode, StoredSession, advance, contradiction, merge_usage, mode_of
from ambientd.core.telemetry import Span, runtime, total_tokens
from ambientd.wire.enums import TERMINAL, MetricConfidence, MetricSource, SessionStatus

AT = datetime(2026, 2, 18, 10, tzinfo=UTC)
COUNTS = st.one_of(st.none(), st.integers(0, 5))
USAGE = st.builds(
    CanonicalUsage,
    prompt_tokens=COUNTS,
    completion_tokens=COUNTS,
    total_tokens=COUNTS,
    runtime_ms=COUNTS,
    cost_usd=st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.0])),
)


def stored(**fields: Any) -> StoredSession:
    base: dict[str, Any] = dict.fromkeys(StoredSession.__struct_fields__)
    base |= {"session_id": "s", "agent_id": "a", "agent_label": "a", "model_id": "m", "artifact_count": 0}
    base |= {"status": SessionStatus.RUNNING, "started_at": AT, "source": "g", "running_since": AT}
    return StoredSession(**(base | fields))


def said(source: str = "g", **fields: Any) -> CanonicalIngest:
    base: dict[str, Any] = {"session_id": "s", "agent_id": "a", "status": SessionStatus.RUNNING}
    session = CanonicalSession(**(base | {"started_at": AT} | fields))
    return CanonicalIngest(source=source, session=session)


@pytest.mark.parametrize("before", SessionStatus)
@pytest.mark.parametrize("after", SessionStatus)
def test_status_only_moves_forward(before: SessionStatus, after: SessionStatus) -> None:
    order = {SessionStatus.QUEUED: 0, SessionStatus.RUNNING: 1}
    found = contradiction(stored(status=before), said(status=after))
    if before in TERMINAL and after in TERMINAL and before is not after:
        assert found is not None
        return
    assert found is None
    step = advance(stored(status=before), said(status=after))
    forward = order.get(after, 2) > order.get(before, 2)
    assert step.status is (after if forward else before)
    assert ("status" in step.columns) == forward


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task_title", "new"),
        ("task_text", "new"),
        ("task_category", "new"),
        ("error_code", "new"),
        ("error_message", "new"),
        ("source_version", "new"),
        ("agent_label", "new"),
        ("model_id", "new"),
        ("run_id", "new"),
    ],
)
def test_every_field_fills_in_and_only_a_later_state_replaces(field: str, value: str) -> None:
    empty = {"agent_label": "a", "model_id": "unknown"}.get(field)
    for before, after, replaces in (
        (SessionStatus.RUNNING, SessionStatus.RUNNING, False),
        (SessionStatus.RUNNING, SessionStatus.SUCCESS, field != "run_id"),
        (SessionStatus.SUCCESS, SessionStatus.RUNNING, False),
        (SessionStatus.SUCCESS, SessionStatus.SUCCESS, False),
    ):
        message = said(status=after, **{field: value})
        assert advance(stored(status=before, **{field: empty}), message).columns[field] == value
        columns = advance(stored(status=before, **{field: "old"}), message).columns
        assert (columns.get(field) == value) == replaces


def test_a_set_run_is_identity_and_an_unset_one_is_not() -> None:
    assert contradiction(stored(run_id="r1"), said(run_id="r2")) is not None
    assert contradiction(stored(run_id="r1"), said(run_id="r1")) is None
    assert contradiction(stored(run_id="r1"), said()) is None
    assert contradiction(stored(), said(run_id="r1")) is None


def test_every_contradiction_is_told_at_once() -> None:
    message = said("other", agent_id="b", started_at=AT + timedelta(1), run_id="r2")
    found = contradiction(stored(run_id="r1"), message)
    assert found is not None
    assert [detail.field for detail in found.details] == [
        "session.agent_id",
        "session.started_at",
        "session.run_id",
        "source",
    ]


@given(st.lists(USAGE, min_size=1, max_size=3))
def test_usage_of_an_open_session_is_the_same_in_any_order_and_with_repeats(
    parts: list[CanonicalUsage],
) -> None:
    results = []
    for order in permutations(parts):
        merged = CanonicalUsage()
        for part in (*order, *order):
            merged = merge_usage(merged, part, Mode.GROW)
        results.append(merged)
    assert all(result == results[0] for result in results)


@given(USAGE, USAGE)
def test_filling_in_never_changes_what_is_known_and_replacing_keeps_what_is_not_named(
    before: CanonicalUsage, after: CanonicalUsage
) -> None:
    filled, replaced = merge_usage(before, after, Mode.FILL), merge_usage(before, after, Mode.REPLACE)
    for name in before.__struct_fields__:
        old, new = getattr(before, name), getattr(after, name)
        assert getattr(filled, name) == (new if old is None else old)
        assert getattr(replaced, name) == (old if new is None else new)


def test_the_mode_follows_from_the_states() -> None:
    queued, running, success = SessionStatus.QUEUED, SessionStatus.RUNNING, SessionStatus.SUCCESS
    assert mode_of(queued, running) is mode_of(running, success) is Mode.REPLACE
    assert mode_of(running, running) is mode_of(queued, queued) is Mode.GROW
    assert mode_of(success, running) is mode_of(running, queued) is mode_of(success, success) is Mode.FILL


@given(USAGE)
def test_unknown_is_none_and_every_known_total_has_a_source(usage: CanonicalUsage) -> None:
    total = total_tokens(usage)
    nothing = (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (None, None, None)
    assert (total.value is None) == nothing
    assert (total.source is MetricSource.MISSING) == nothing
    assert (total.confidence is MetricConfidence.UNKNOWN) == nothing


def test_a_runtime_longer_than_its_span_is_not_trusted_but_for_the_slack_of_clocks() -> None:
    span = Span(AT, AT + timedelta(seconds=4))
    assert runtime(5000, span).confidence is MetricConfidence.HIGH
    assert runtime(5001, span).confidence is MetricConfidence.LOW
    assert runtime(None, Span(AT, None)).value is None
    assert runtime(None, Span(AT, AT, certain=False)).value is None
    assert runtime(None, Span(AT, AT)).value == 0
