"""The performance matrix in SQLite: computed from the sessions, and kept while they stay as they are."""

import math
from datetime import UTC, datetime
from typing import Any

import apsw
import msgspec

from ambientd.core.analytics import DEFAULT_MIN_SAMPLE, KeptMatrix, MatrixFacts, MatrixQuery, Scope
from ambientd.core.timefmt import rfc3339_ms
from ambientd.wire.enums import MatrixSplit

WINDOWS_MAX = 100  # of so many ranges and scopes the matrix is kept
OPEN_START, OPEN_END = "0000-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"
P95 = 0.95

_SEGMENTS = {
    MatrixSplit.NONE: "''",
    MatrixSplit.AGENT: "l.agent_id",
    MatrixSplit.TASK: "coalesce(l.task_category, '')",
}
# Compared with values that are never NULL, so that '' means "without one".
_FILTERS = (
    ("agent_id", "l.agent_id = ?"),
    ("model_id", "l.model_id = ?"),
    ("category", "coalesce(l.task_category, '') = ?"),
    ("since", "l.started_at >= ?"),
    ("until", "l.started_at < ?"),
)
# A session that was cancelled in the queue did not run for 0 ms: it did not run.
_RAN = "coalesce(l.runtime_ms, u.runtime_ms)"
_RUNTIME = f"CASE WHEN l.status = 'cancelled' AND {_RAN} = 0 THEN NULL ELSE {_RAN} END"
# "+" keeps to the index by time: that of the models would read the whole ledger.
_SESSIONS = """
FROM session_ledger AS l
LEFT JOIN session_usage_rows AS u ON u.session_key = l.session_key
WHERE +l.status IN ('success', 'failed', 'killed', 'cancelled')"""
_COUNTS = (
    "SELECT +l.model_id, {segment}, count(*), sum(l.status = 'success'), sum(l.status = 'failed'),"
    " sum(l.status = 'killed'), sum(l.status = 'cancelled'), median({runtime}), count({runtime}),"
    " round(median(u.cost_usd), 9), count(u.cost_usd) {sessions} GROUP BY 1, 2"
)
# Where the percentile lies is known only once a group is counted, and sorting in two passes takes half the
# time of keeping all figures between them.
_PERCENTILES = """
WITH places AS MATERIALIZED (
    SELECT value ->> 0 AS model_id, value ->> 1 AS segment, value ->> 2 AS place FROM json_each(?)
)
SELECT places.model_id, places.segment, percentile_disc(facts.runtime, places.place)
FROM (SELECT +l.model_id AS model_id, {segment} AS segment, {runtime} AS runtime {sessions}) AS facts
CROSS JOIN places ON places.model_id = facts.model_id AND places.segment = facts.segment
GROUP BY 1, 2
"""
_KNOWN = 8  # the column of `_COUNTS` that says how many runtimes are known
_KEY = "window_start = ? AND window_end = ? AND scope = ?"
_KEPT_COLUMNS = (
    "model_id, {segment}, runs_total, success_count, failure_count, killed_count, cancelled_count,"
    " median_runtime_ms, p95_runtime_ms, runtime_known, median_cost_usd, cost_known"
)
_KEEP = (
    "INSERT INTO model_perf_agg (window_start, window_end, scope, agent_id, task_category, model_id,"
    " runs_total, success_count, failure_count, killed_count, cancelled_count, success_rate,"
    " median_runtime_ms, median_cost_usd, sample_warning, updated_at, p95_runtime_ms, runtime_known,"
    " cost_known, revision, window_rows)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_FORGET_OLDEST = f"""
DELETE FROM model_perf_agg WHERE (window_start, window_end, scope) IN (
    SELECT window_start, window_end, scope FROM model_perf_agg GROUP BY 1, 2, 3
    ORDER BY max(updated_at) DESC, 1, 2, 3 LIMIT -1 OFFSET {WINDOWS_MAX}
)"""  # noqa: S608 - constants


class SqlitePerformance:
    """`ports.store.PerformanceRepository` over one transaction."""

    def __init__(self, connection: apsw.Connection, now: datetime) -> None:
        """`now` becomes `updated_at` of what is kept."""
        self._connection = connection
        self._now = now

    def matrix(self, query: MatrixQuery) -> tuple[MatrixFacts, ...]:
        """Computes the matrix from the sessions, most runs first."""
        where, bindings = _conditions(query.scope)
        parts = {"segment": _SEGMENTS[query.split], "runtime": _RUNTIME, "sessions": _SESSIONS + where}
        found: list[tuple[Any, ...]] = self._connection.execute(_COUNTS.format(**parts), bindings).fetchall()
        places = msgspec.json.encode([(row[0], row[1], _place(row[_KNOWN])) for row in found]).decode()
        percentiles = {
            (model, segment): None if value is None else int(value)
            for model, segment, value in self._connection.execute(
                _PERCENTILES.format(**parts), (places, *bindings)
            )
        }
        return _sorted((*row[:_KNOWN], percentiles.get((row[0], row[1])), *row[_KNOWN:]) for row in found)

    def revision(self, query: MatrixQuery) -> int:
        """A number that grows with every change of an ended session within the range's days."""
        since, until = query.scope.since, query.scope.until
        first = "" if since is None else since.astimezone(UTC).date().isoformat()
        last = "~" if until is None else rfc3339_ms(until)
        sql = "SELECT coalesce(sum(revision), 0) FROM usage_days WHERE bucket_date >= ? AND bucket_date < ?"
        return int(self._connection.execute(sql, (first, last)).get)

    def kept(self, query: MatrixQuery) -> KeptMatrix | None:
        """The matrix as it was kept last; None when it was not, or when a part of it is gone."""
        segment = "agent_id" if query.split is MatrixSplit.AGENT else "task_category"
        if query.split is MatrixSplit.NONE:
            segment = "''"
        columns = _KEPT_COLUMNS.format(segment=segment)
        found: list[tuple[Any, ...]] = self._connection.execute(
            f"SELECT {columns}, revision, window_rows, updated_at FROM model_perf_agg WHERE {_KEY}",  # noqa: S608 - constants
            _key(query),
        ).fetchall()
        if not found or len(found) != found[0][-2] or len({row[-3:] for row in found}) != 1:
            return None
        revision, _, at = found[0][-3:]
        rows = _sorted(row[:-3] for row in found)
        return KeptMatrix(rows=rows, revision=int(revision), at=datetime.fromisoformat(at))

    def keep(self, query: MatrixQuery, rows: tuple[MatrixFacts, ...], revision: int) -> None:
        """Keeps a matrix instead of the one before; those asked for least recently give way."""
        key = _key(query)
        self._connection.execute(f"DELETE FROM model_perf_agg WHERE {_KEY}", key)  # noqa: S608 - constants
        self._connection.executemany(
            _KEEP, [self._kept_row(key, query, facts, revision, len(rows)) for facts in rows]
        )
        self._connection.execute(_FORGET_OLDEST)

    def _kept_row(
        self, key: tuple[str, str, str], query: MatrixQuery, facts: MatrixFacts, revision: int, rows: int
    ) -> tuple[Any, ...]:
        scope = query.scope
        agent = facts.segment if query.split is MatrixSplit.AGENT else scope.agent_id or ""
        category = facts.segment if query.split is MatrixSplit.TASK else scope.category or ""
        return (
            *key,
            agent,
            category,
            facts.model_id,
            facts.runs,
            facts.success,
            facts.failed,
            facts.killed,
            facts.cancelled,
            facts.success / facts.runs,
            facts.median_runtime_ms,
            facts.median_cost_usd,
            int(facts.runs < DEFAULT_MIN_SAMPLE),
            rfc3339_ms(self._now),
            facts.p95_runtime_ms,
            facts.runtime_known,
            facts.cost_known,
            revision,
            rows,
        )


def _place(known: int) -> float:
    """The fraction for which `percentile_disc` takes the nearest rank, the smallest value that 95 of 100 do
    not exceed: it takes the element at `fraction * (known - 1)`, cut. The half keeps clear of rounding."""
    return 0.0 if known < 2 else min(1.0, (math.ceil(P95 * known) - 0.5) / (known - 1))


def _conditions(scope: Scope) -> tuple[str, list[str]]:
    where, bindings = "", []
    for name, condition in _FILTERS:
        value = getattr(scope, name)
        if value is not None:
            where += f" AND {condition}"
            bindings.append(rfc3339_ms(value) if isinstance(value, datetime) else _searchable(value))
    return where, bindings


def _searchable(value: str) -> str:
    """A lone surrogate is in no stored text, and SQLite would not take it."""
    return value.encode(errors="replace").decode()


def _key(query: MatrixQuery) -> tuple[str, str, str]:
    scope = query.scope
    named = {"agent": scope.agent_id, "model": scope.model_id, "task": scope.category}
    words = {name: _searchable(value) for name, value in named.items() if value is not None}
    start = OPEN_START if scope.since is None else rfc3339_ms(scope.since)
    end = OPEN_END if scope.until is None else rfc3339_ms(scope.until)
    return start, end, msgspec.json.encode(words | {"split": query.split.value}).decode()


def _sorted(rows: Any) -> tuple[MatrixFacts, ...]:
    facts = [MatrixFacts(**dict(zip(MatrixFacts.__struct_fields__, row, strict=True))) for row in rows]
    return tuple(sorted(facts, key=lambda one: (-one.runs, one.model_id, one.segment)))
