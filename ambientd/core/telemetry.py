"""Value, source and confidence of tokens and runtime (specification 9.4.2, R3.181-R3.185).

High: reported and not contradicted. Medium: derived from complete fields. Low: derived with an assumption,
or reported and contradicted. Unknown: not enough to say anything; the value is None then, never 0.
"""

from datetime import datetime
from typing import NamedTuple

import msgspec

from ambientd.core.contracts.canonical import CanonicalUsage
from ambientd.core.records import UsageRecord
from ambientd.core.timefmt import to_ms
from ambientd.wire.enums import CostSource, MetricConfidence, MetricSource

# Clocks of a provider and of a gateway may disagree by this much without contradicting each other.
RUNTIME_SLACK_MS = 1_000


class Metric(NamedTuple):
    """A number with its provenance."""

    value: int | None
    source: MetricSource
    confidence: MetricConfidence


MISSING = Metric(None, MetricSource.MISSING, MetricConfidence.UNKNOWN)


def total_tokens(usage: CanonicalUsage) -> Metric:
    """The total: as reported, else the sum of prompt and completion, else the one of them that is known."""
    prompt, completion, total = usage.prompt_tokens, usage.completion_tokens, usage.total_tokens
    if total is not None:
        consistent = _is_consistent(usage, total)
        confidence = MetricConfidence.HIGH if consistent else MetricConfidence.LOW
        return Metric(total, MetricSource.PROVIDER_REPORTED, confidence)
    if prompt is not None and completion is not None:
        return Metric(prompt + completion, MetricSource.DERIVED, MetricConfidence.MEDIUM)
    known = completion if prompt is None else prompt
    return MISSING if known is None else Metric(known, MetricSource.DERIVED, MetricConfidence.LOW)


def _is_consistent(usage: CanonicalUsage, total: int) -> bool:
    """Providers count cache tokens inside the prompt or beside it: both are consistent."""
    known = (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
    if usage.prompt_tokens is None or usage.completion_tokens is None:
        return total >= known
    cached = (usage.cache_read_tokens or 0) + (usage.cache_write_tokens or 0)
    return total in (known, known + cached)


class Span(NamedTuple):
    """When a session ran. `certain` is false when its end is not a time that was reported."""

    started_at: datetime
    ended_at: datetime | None
    certain: bool = True


def runtime(reported: int | None, span: Span) -> Metric:
    """Milliseconds: as reported, else from start to end."""
    between = None if span.ended_at is None else to_ms(span.ended_at) - to_ms(span.started_at)
    if reported is not None:
        contradicted = span.certain and between is not None and reported > between + RUNTIME_SLACK_MS
        confidence = MetricConfidence.LOW if contradicted else MetricConfidence.HIGH
        return Metric(reported, MetricSource.PROVIDER_REPORTED, confidence)
    if between is None or between < 0 or (between == 0 and not span.certain):
        return MISSING
    confidence = MetricConfidence.MEDIUM if span.certain else MetricConfidence.LOW
    return Metric(between, MetricSource.DERIVED, confidence)


def reported_of(stored: UsageRecord | None) -> CanonicalUsage:
    """What was reported, out of a row that also holds what was derived."""
    if stored is None:
        return CanonicalUsage()
    said = MetricSource.PROVIDER_REPORTED
    return CanonicalUsage(
        prompt_tokens=stored.prompt_tokens,
        completion_tokens=stored.completion_tokens,
        total_tokens=stored.total_tokens if stored.token_source is said else None,
        cache_read_tokens=stored.cache_read_tokens,
        cache_write_tokens=stored.cache_write_tokens,
        runtime_ms=stored.runtime_ms if stored.runtime_source is said else None,
        cost_usd=stored.cost_usd if stored.cost_source is CostSource.PROVIDER_REPORTED else None,
        provider=stored.provider,
    )


def usage_row(session_id: str, usage: CanonicalUsage, span: Span, at: datetime) -> UsageRecord:
    """The row for what was reported; its cost is not decided yet (`core.pricing`)."""
    tokens, ran = total_tokens(usage), runtime(usage.runtime_ms, span)
    return UsageRecord(
        session_id=session_id,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=tokens.value,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        token_source=tokens.source,
        token_confidence=tokens.confidence,
        runtime_ms=ran.value,
        runtime_source=ran.source,
        runtime_confidence=ran.confidence,
        provider=usage.provider,
        computed_at=at,
    )


def is_same_content(one: UsageRecord, other: UsageRecord) -> bool:
    """Whether two rows say the same, whenever they were computed."""
    return msgspec.structs.replace(one, computed_at=other.computed_at) == other
