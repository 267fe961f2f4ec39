"""Usage and performance as values: what is asked for, sums that add up exactly, and series without gaps.

Only ended sessions count (a run is a session that has ended), in the bucket of the instant they started at.
Money is added as whole nano-dollars, so that a sum does not depend on its order.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any

import msgspec

from ambientd.core.rejection import Rejected, reject
from ambientd.core.timefmt import rfc3339_ms
from ambientd.wire.analytics_messages import (
    MatrixRow,
    Provenance,
    UsageAnswer,
    UsagePoint,
    UsageProvenance,
    UsageSums,
)
from ambientd.wire.enums import MatrixSplit, UsageGroup

NANO = 1_000_000_000
# A longer series of days or weeks is not filled up: three years of days.
POINTS_FILLED_MAX = 1_100
# Days that are told apart in another time zone; each is a query of its own.
ZONE_DAYS_MAX = 3_700
ENDED = "success,failed,killed,cancelled"
DEFAULT_MIN_SAMPLE = 5
_DAY, _WEEK = timedelta(days=1), timedelta(days=7)


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Which sessions: all filters that are not None; the category "" is that of sessions without one.

    `since` is inclusive, `until` exclusive, both on the start of the session.
    """

    since: datetime | None = None
    until: datetime | None = None
    agent_id: str | None = None
    model_id: str | None = None
    category: str | None = None


class UsageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A question about usage; days and weeks are those of `zone`, called `zone_name`."""

    scope: Scope
    group_by: UsageGroup = UsageGroup.DAY
    zone: tzinfo = UTC
    zone_name: str = "UTC"

    @property
    def by_time(self) -> bool:
        """Whether the series is one over time."""
        return self.group_by in (UsageGroup.DAY, UsageGroup.WEEK)


class DaySpan(msgspec.Struct, frozen=True):
    """A local day as the instants between which it lies, the second exclusive."""

    day: date
    start: datetime
    end: datetime


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Exact sums over some runs, and how many runs had a figure from which source."""

    runs: int = 0
    runtime_ms: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cost_nano: int = 0
    tokens_reported: int = 0
    tokens_derived: int = 0
    runtime_reported: int = 0
    runtime_derived: int = 0
    cost_reported: int = 0
    cost_derived: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        """Both together."""
        names = self.__struct_fields__
        return Totals(**{name: getattr(self, name) + getattr(other, name) for name in names})


Series = Mapping[str, Totals]
"""Sums by agent, model, category ("" for none) or day (`2026-11-20`)."""


class MatrixQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A question about the models: one row per model, or per model and agent or category."""

    scope: Scope
    split: MatrixSplit = MatrixSplit.NONE


class MatrixFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the matrix; `segment` is the agent or the category that the matrix is split by."""

    model_id: str
    segment: str
    runs: int
    success: int
    failed: int
    killed: int
    cancelled: int
    median_runtime_ms: float | None
    p95_runtime_ms: int | None
    runtime_known: int
    median_cost_usd: float | None
    cost_known: int


class KeptMatrix(msgspec.Struct, frozen=True, kw_only=True):
    """A matrix as it was kept; good while `revision` is that of its days."""

    rows: tuple[MatrixFacts, ...]
    revision: int
    at: datetime


# --- days


def start_of(day: date, zone: tzinfo) -> datetime:
    """The instant at which a local day begins, in UTC."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def is_midnight(at: datetime | None) -> bool:
    """Whether an instant begins a UTC day; no bound at all does not cut through one either."""
    return at is None or at.astimezone(UTC).time() == time()


def week_of(day: date) -> date:
    """The Monday of its week."""
    return day - timedelta(days=day.weekday())


def zone_days(query: UsageQuery, first: datetime, last: datetime) -> tuple[DaySpan, ...] | Rejected:
    """The local days that hold everything between two instants (both inclusive), cut to the query's range."""
    scope = query.scope
    start, end = max(first, scope.since or first), last
    if scope.until is not None:
        end = min(end, scope.until)
    day, spans = start.astimezone(query.zone).date(), []
    final = end.astimezone(query.zone).date()
    if (final - day).days >= ZONE_DAYS_MAX:
        text = f"covers more than {ZONE_DAYS_MAX} days of {query.zone_name}; name a shorter range"
        return reject("VALIDATION_ERROR", "Invalid query", ("from", "range", text))
    while day <= final:
        begin, close = start_of(day, query.zone), start_of(day + _DAY, query.zone)
        begin = max(begin, scope.since or begin)
        close = min(close, scope.until or close)
        if begin < close:
            spans.append(DaySpan(day, begin, close))
        day += _DAY
    return tuple(spans)


# --- the answer


def usage_answer(query: UsageQuery, found: Series, purged_before: datetime | None) -> UsageAnswer:
    """Totals, provenance and the series that they are the sum of."""
    series = _over_time(query, found) if query.by_time else _by_cost(found)
    totals = sum(series.values(), Totals())
    return UsageAnswer(
        totals=UsageSums(**_sums(totals)),
        provenance=_provenance(totals),
        series=[_point(query, key, value) for key, value in series.items()],
        group_by=query.group_by.value,
        tz=query.zone_name,
        purged_before=purged_text(query.scope, purged_before),
    )


def purged_text(scope: Scope, purged_before: datetime | None) -> str | None:
    """The instant before which sessions are gone, when the range reaches behind it."""
    if purged_before is None or (scope.since is not None and scope.since >= purged_before):
        return None
    return rfc3339_ms(purged_before)


def _by_cost(found: Series) -> dict[str, Totals]:
    def rank(item: tuple[str, Totals]) -> tuple[int, int, int, str]:
        key, value = item
        return -value.cost_nano, -value.total_tokens, -value.runs, key

    return dict(sorted(found.items(), key=rank))


def _over_time(query: UsageQuery, found: Series) -> dict[str, Totals]:
    """By day or week, in order, with nothing missing in between."""
    weekly = query.group_by is UsageGroup.WEEK
    sums: dict[date, Totals] = {}
    for text, value in found.items():
        day = date.fromisoformat(text)
        day = week_of(day) if weekly else day
        sums[day] = sums.get(day, Totals()) + value
    for day in _days_between(query, sorted(sums), _WEEK if weekly else _DAY):
        sums.setdefault(day, Totals())
    return {day.isoformat(): sums[day] for day in sorted(sums)}


def _days_between(query: UsageQuery, known: Sequence[date], step: timedelta) -> list[date]:
    """Every day (or Monday) of the range, whose open ends are the first and the last with runs."""
    scope, zone = query.scope, query.zone
    first = known[0] if known else None
    final = known[-1] if known else None
    if scope.since is not None:
        first = scope.since.astimezone(zone).date()
    if scope.until is not None:
        final = (scope.until - timedelta(milliseconds=1)).astimezone(zone).date()
    if first is None or final is None:
        return []
    if step == _WEEK:
        first, final = week_of(first), week_of(final)
    points = (final - first) // step + 1
    return [first + step * place for place in range(points)] if 0 < points <= POINTS_FILLED_MAX else []


def _sums(value: Totals) -> dict[str, Any]:
    return {
        "runs": value.runs,
        "tokens": value.total_tokens,
        "runtime_ms": value.runtime_ms,
        "cost_usd": value.cost_nano / NANO,
        "prompt_tokens": value.prompt_tokens,
        "completion_tokens": value.completion_tokens,
        "tokens_known": value.tokens_reported + value.tokens_derived,
        "runtime_known": value.runtime_reported + value.runtime_derived,
        "cost_known": value.cost_reported + value.cost_derived,
    }


def _provenance(value: Totals) -> UsageProvenance:
    def of(reported: int, derived: int) -> Provenance:
        return Provenance(
            provider_reported=reported, derived=derived, missing=value.runs - reported - derived
        )

    return UsageProvenance(
        token=of(value.tokens_reported, value.tokens_derived),
        runtime=of(value.runtime_reported, value.runtime_derived),
        cost=of(value.cost_reported, value.cost_derived),
    )


_NAMES = {UsageGroup.AGENT: "agent_id", UsageGroup.MODEL: "model_id", UsageGroup.TASK: "task_category"}
_FILTERS = {UsageGroup.AGENT: "agent_id", UsageGroup.MODEL: "model_id", UsageGroup.TASK: "category"}


def _point(query: UsageQuery, key: str, value: Totals) -> UsagePoint:
    group, scope = query.group_by, query.scope
    if query.by_time:
        name, scope = "date", _cut(query, date.fromisoformat(key))
    else:
        name = _NAMES[group]
        scope = msgspec.structs.replace(scope, **{_FILTERS[group]: key})
    sums = _sums(value)
    label: dict[str, Any] = {name: key or None}
    return UsagePoint(**sums, **label, drilldown=drilldown(scope, ENDED))


def _cut(query: UsageQuery, day: date) -> Scope:
    """The range of one day or week, within the query's own."""
    scope = query.scope
    step = _WEEK if query.group_by is UsageGroup.WEEK else _DAY
    since, until = start_of(day, query.zone), start_of(day + step, query.zone)
    return msgspec.structs.replace(
        scope, since=max(since, scope.since or since), until=min(until, scope.until or until)
    )


def drilldown(scope: Scope, status: str) -> dict[str, str]:
    """The parameters of the ledger's list for the sessions of a scope."""
    found = {
        "status": status,
        "agent": scope.agent_id,
        "model": scope.model_id,
        "category": scope.category,
        "from": None if scope.since is None else rfc3339_ms(scope.since),
        "to": None if scope.until is None else rfc3339_ms(scope.until),
    }
    return {name: value for name, value in found.items() if value is not None}


def matrix_row(query: MatrixQuery, facts: MatrixFacts, min_sample: int) -> MatrixRow:
    """One row for the wire, with its rates and how to see its sessions."""
    scope = msgspec.structs.replace(query.scope, model_id=facts.model_id)
    agent_id = category = None
    if query.split is MatrixSplit.AGENT:
        agent_id = facts.segment
        scope = msgspec.structs.replace(scope, agent_id=agent_id)
    elif query.split is MatrixSplit.TASK:
        category = facts.segment
        scope = msgspec.structs.replace(scope, category=category)
    decided = facts.success + facts.failed
    return MatrixRow(
        model_id=facts.model_id,
        agent_id=agent_id,
        task_category=category or None,
        runs_total=facts.runs,
        success_count=facts.success,
        failure_count=facts.failed,
        killed_count=facts.killed,
        cancelled_count=facts.cancelled,
        success_rate=facts.success / facts.runs,
        failure_rate=facts.failed / decided if decided else None,
        median_runtime_ms=facts.median_runtime_ms,
        p95_runtime_ms=facts.p95_runtime_ms,
        runtime_known=facts.runtime_known,
        median_cost_usd=facts.median_cost_usd,
        cost_known=facts.cost_known,
        sample_warning=facts.runs < min_sample,
        drilldown=drilldown(scope, ENDED),
        failed_drilldown=drilldown(scope, "failed"),
    )
