"""Answering questions about usage and performance, and keeping what they are answered from in order.

Daily sums are brought up to date by whoever ends a session. What was lost of them is built again here, a day
at a time, before an answer and in a sweep. The matrix is computed from the sessions; one of many sessions is
kept and good while they stay as they are.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec

from ambientd.core.analytics import (
    DEFAULT_MIN_SAMPLE,
    KeptMatrix,
    MatrixFacts,
    MatrixQuery,
    Scope,
    Series,
    UsageQuery,
    is_midnight,
    matrix_row,
    purged_text,
    usage_answer,
    zone_days,
)
from ambientd.core.analyticsquery import FindZone, parse_matrix, parse_usage
from ambientd.core.rejection import Rejected
from ambientd.core.timefmt import rfc3339_ms
from ambientd.ports.clock import Clock
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.ports.store import Store, Transaction
from ambientd.wire.analytics_messages import MatrixAnswer, UsageAnswer
from ambientd.wire.enums import MatrixSplit

# A question waits for so many lost days; of more, the rest is added up from the sessions.
REPAIR_DAYS_MAX = 31
SWEEP_DAYS_MAX = 10_000
# Below this a matrix is computed faster than it is worth to write it down.
KEEP_RUNS_MIN = 1_000
# Above this, computing takes long enough that an answer may be a little old, well below the five minutes
# that the specification allows (8.3.1).
LARGE_RUNS_MIN = 50_000
LARGE_AGE_MAX = timedelta(seconds=60)
# A large one is computed ahead no oftener than this: it would keep a core busy for nobody.
LARGE_AHEAD_AGE = timedelta(minutes=30)
# The ranges that people look at, computed ahead by the sweep: today and so many UTC days before it.
USUAL_DAYS = (7, 30, 90)


class Analytics(msgspec.Struct, frozen=True, kw_only=True):
    """What the use cases need, given once."""

    store: Store
    clock: Clock
    find_zone: FindZone


async def usage(analytics: Analytics, query: Mapping[str, str]) -> UsageAnswer | Rejected:
    """Sums and a series of them. Raises what the store raises."""
    question = parse_usage(query, analytics.find_zone)
    if isinstance(question, Rejected):
        return question
    await repair(analytics, REPAIR_DAYS_MAX)
    asked = question

    def work(tx: Transaction) -> UsageAnswer | Rejected:
        found = _series(tx, asked)
        if isinstance(found, Rejected):
            return found
        return usage_answer(asked, found, tx.retention.purged_before())

    return await analytics.store.read(work)


def _series(tx: Transaction, query: UsageQuery) -> Series | Rejected:
    if not query.by_time or query.zone_name == "UTC":
        return tx.usage.series(query)
    extent = tx.usage.extent()
    if extent is None:
        return {}
    spans = zone_days(query, *extent)
    return spans if isinstance(spans, Rejected) else tx.usage.by_day(query, spans)


async def repair(analytics: Analytics, limit: int) -> list[str]:
    """Builds lost days again, one write each; returns them.

    A store that cannot be written costs nothing but time: answers then come from the sessions.
    """
    days = await analytics.store.read(lambda tx: tx.usage.incomplete_days(limit))
    try:
        for day in days:
            await analytics.store.write(lambda tx, day=day: tx.usage.rebuild(day))  # type: ignore[misc]  # bound now
    except (StoreError, UnavailableError):
        return []
    return days


async def performance(analytics: Analytics, query: Mapping[str, str]) -> MatrixAnswer | Rejected:
    """The models, compared. Raises what the store raises."""
    question = parse_matrix(query)
    if isinstance(question, Rejected):
        return question
    found = await matrix(analytics, question)
    purged = await analytics.store.read(lambda tx: tx.retention.purged_before())
    min_sample = int(query.get("minSample", str(DEFAULT_MIN_SAMPLE)))
    return MatrixAnswer(
        rows=[matrix_row(question, facts, min_sample) for facts in found.rows],
        min_sample=min_sample,
        computed_at=rfc3339_ms(found.at),
        purged_before=purged_text(question.scope, purged),
    )


async def matrix(analytics: Analytics, query: MatrixQuery) -> KeptMatrix:
    """The matrix as it is now; one of very many sessions may be up to a minute old."""
    now = analytics.clock.now()
    keepable = is_midnight(query.scope.since) and is_midnight(query.scope.until)

    def work(tx: Transaction) -> tuple[KeptMatrix, bool]:
        revision = tx.performance.revision(query)
        kept = tx.performance.kept(query) if keepable else None
        if kept is not None and (kept.revision == revision or _will_do(kept, now)):
            return kept, False
        rows = tx.performance.matrix(query)
        fresh = KeptMatrix(rows=rows, revision=revision, at=now)
        return fresh, keepable and _runs(rows) >= KEEP_RUNS_MIN

    found, worth_keeping = await analytics.store.read(work)
    if worth_keeping:
        await _keep(analytics, query, found)
    return found


def _will_do(kept: KeptMatrix, now: datetime) -> bool:
    return _runs(kept.rows) >= LARGE_RUNS_MIN and timedelta() <= now - kept.at <= LARGE_AGE_MAX


def _runs(rows: tuple[MatrixFacts, ...]) -> int:
    return sum(facts.runs for facts in rows)


async def _keep(analytics: Analytics, query: MatrixQuery, found: KeptMatrix) -> None:
    try:
        await analytics.store.write(lambda tx: tx.performance.keep(query, found.rows, found.revision))
    except (StoreError, UnavailableError):
        return  # it is computed again next time


async def sweep(analytics: Analytics) -> list[str]:
    """Builds lost days again and computes the usual ranges ahead, if anything in them changed."""
    days = await repair(analytics, SWEEP_DAYS_MAX)
    for query in usual_queries(analytics.clock.now()):
        await _compute_ahead(analytics, query)
    return days


def usual_queries(now: datetime) -> list[MatrixQuery]:
    """The ranges that people look at, whole and by task."""
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return [
        MatrixQuery(scope=Scope(since=today - timedelta(days=days)), split=split)
        for days in USUAL_DAYS
        for split in (MatrixSplit.NONE, MatrixSplit.TASK)
    ]


def _is_good_for_now(kept: KeptMatrix, now: datetime) -> bool:
    return _runs(kept.rows) >= LARGE_RUNS_MIN and timedelta() <= now - kept.at <= LARGE_AHEAD_AGE


async def _compute_ahead(analytics: Analytics, query: MatrixQuery) -> None:
    now = analytics.clock.now()

    def work(tx: Transaction) -> KeptMatrix | None:
        revision, kept = tx.performance.revision(query), tx.performance.kept(query)
        if kept is not None and (kept.revision == revision or _is_good_for_now(kept, now)):
            return None
        rows = tx.performance.matrix(query) if revision else ()
        return KeptMatrix(rows=rows, revision=revision, at=now) if rows else None

    found = await analytics.store.read(work)
    if found is not None:
        await _keep(analytics, query, found)
