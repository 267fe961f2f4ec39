"""Daily sums in SQLite, kept in step with the sessions they are of (specification 8.2.4, 8.3.3, 9.2.5).

What of a session is in the sums stands in `session_accounted`; `account` adds the difference to what its
rows say now. So the sums are at any time what adding up all sessions would give, and stay when retention
removes sessions. A day that lost a bucket is `is_incomplete`: it is added up from its sessions until
`rebuild` has put its buckets back, unless sessions of it may have been purged.
"""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import apsw

from ambientd.core.analytics import DaySpan, Scope, Totals, UsageQuery, is_midnight
from ambientd.core.timefmt import rfc3339_ms
from ambientd.store.keys import Keys
from ambientd.wire.enums import UsageGroup

_ENDED = "l.status IN ('success', 'failed', 'killed', 'cancelled')"
# Bounds of what one session adds, those of the contract's validator: nine thousand of the largest still fit
# into 64 bits. Only rows that came another way can be larger.
_COUNT_MAX, _RUNTIME_MAX_MS, _COST_MAX_USD = 10**12, 10**13, 10**6


def _source(value: str, column: str) -> str:
    word = f"WHEN {column} = 'provider_reported' THEN 0 WHEN {column} IN ('missing', 'unknown') THEN 2"
    return f"CASE WHEN {value} IS NULL THEN 2 {word} ELSE 1 END"


_RUNTIME = "coalesce(l.runtime_ms, u.runtime_ms)"
_TOKENS = "coalesce(u.total_tokens, u.prompt_tokens, u.completion_tokens)"
_FIGURES = (
    "runtime_ms",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cost_nano",
    "tokens_source",
    "runtime_source",
    "cost_source",
)
FACTS = f"""
SELECT
    l.session_key, substr(l.started_at, 1, 10) AS bucket_date, l.agent_id, l.model_id,
    coalesce(l.task_category, '') AS task_category,
    min(coalesce({_RUNTIME}, 0), {_RUNTIME_MAX_MS}) AS runtime_ms,
    min(coalesce(u.prompt_tokens, 0), {_COUNT_MAX}) AS prompt_tokens,
    min(coalesce(u.completion_tokens, 0), {_COUNT_MAX}) AS completion_tokens,
    min(coalesce(u.total_tokens, 0), {_COUNT_MAX}) AS total_tokens,
    CAST(round(min(coalesce(u.cost_usd, 0), {_COST_MAX_USD}) * 1e9) AS INTEGER) AS cost_nano,
    {_source(_TOKENS, "u.token_source")} AS tokens_source,
    {_source(_RUNTIME, "coalesce(u.runtime_source, 'derived')")} AS runtime_source,
    {_source("u.cost_usd", "u.cost_source")} AS cost_source
FROM session_ledger AS l
LEFT JOIN session_usage_rows AS u ON u.session_key = l.session_key
WHERE {_ENDED}"""  # noqa: S608 - constants
_SUMS = (
    "count(*), sum(runtime_ms), sum(prompt_tokens), sum(completion_tokens), sum(total_tokens),"
    " sum(cost_nano), sum(tokens_source = 0), sum(tokens_source = 1), sum(runtime_source = 0),"
    " sum(runtime_source = 1), sum(cost_source = 0), sum(cost_source = 1)"
)
_TOTALS = (
    "runs_total",
    "runtime_ms_total",
    "prompt_tokens_total",
    "completion_tokens_total",
    "total_tokens_total",
    "cost_nano_total",
    "tokens_reported",
    "tokens_derived",
    "runtime_reported",
    "runtime_derived",
    "cost_reported",
    "cost_derived",
)
_NAMES = ", ".join(_TOTALS)
_NANO = _TOTALS.index("cost_nano_total")
_BUCKET = "bucket_date = ? AND agent_id = ? AND model_id = ? AND task_category = ?"
_FACT = f"{FACTS} AND l.session_key = ?"
_KEPT = (
    "SELECT b.bucket_date, b.agent_id, b.model_id, b.task_category,"  # noqa: S608 - constants
    f" {', '.join(f'a.{name}' for name in _FIGURES)}, a.agg_key"
    " FROM session_accounted AS a LEFT JOIN daily_usage_agg AS b USING (agg_key) WHERE a.session_key = ?"
)
_KEEP = (
    f"INSERT OR REPLACE INTO session_accounted (session_key, agg_key, {', '.join(_FIGURES)})"  # noqa: S608 - constants
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_TOUCH = (
    "INSERT INTO usage_days (bucket_date) VALUES (?)"
    " ON CONFLICT (bucket_date) DO UPDATE SET revision = revision + 1 RETURNING is_incomplete"
)
_ADD = (
    f"INSERT INTO daily_usage_agg (bucket_date, agent_id, model_id, task_category, {_NAMES},"  # noqa: S608 - constants
    " cost_usd_total, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (bucket_date, agent_id, model_id, task_category) DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in _TOTALS)
    + ", cost_usd_total = (cost_nano_total + excluded.cost_nano_total) / 1e9,"
    " updated_at = excluded.updated_at RETURNING agg_key"
)
_TAKE_OUT = (
    "UPDATE daily_usage_agg SET "  # noqa: S608 - constants
    + ", ".join(f"{name} = max(0, {name} - ?)" for name in _TOTALS)
    + f", cost_usd_total = max(0, cost_nano_total - ?) / 1e9, updated_at = ? WHERE {_BUCKET}"
)
_DROP_EMPTY = f"DELETE FROM daily_usage_agg WHERE {_BUCKET} AND runs_total = 0"  # noqa: S608 - constants
_OF_DAY = " AND l.started_at >= ? AND l.started_at < ?"
_REBUILD_DAY = f"""
INSERT INTO daily_usage_agg (
    bucket_date, agent_id, model_id, task_category, {_NAMES}, cost_usd_total, updated_at
)
SELECT bucket_date, agent_id, model_id, task_category, {_SUMS}, sum(cost_nano) / 1e9, ?
FROM ({FACTS}{_OF_DAY}) GROUP BY bucket_date, agent_id, model_id, task_category"""  # noqa: S608 - constants
_REBUILD_KEPT = f"""
INSERT OR REPLACE INTO session_accounted (session_key, agg_key, {", ".join(_FIGURES)})
SELECT f.session_key, b.agg_key, {", ".join(f"f.{name}" for name in _FIGURES)}
FROM ({FACTS}{_OF_DAY}) AS f
JOIN daily_usage_agg AS b USING (bucket_date, agent_id, model_id, task_category)"""  # noqa: S608 - constants
_PURGED = "SELECT value FROM node_settings WHERE name = 'purged_before'"
_GROUPS = {
    UsageGroup.DAY: "bucket_date",
    UsageGroup.WEEK: "bucket_date",
    UsageGroup.AGENT: "agent_id",
    UsageGroup.MODEL: "model_id",
    UsageGroup.TASK: "task_category",
}
_FILTERS = (("agent_id", "agent_id"), ("model_id", "model_id"), ("category", "task_category"))

Binding = str | int


class Aggregates:
    """The daily sums over one transaction."""

    def __init__(self, connection: apsw.Connection, keys: Keys, now: datetime) -> None:
        """`now` becomes `updated_at` of what changes."""
        self._connection = connection
        self._keys = keys
        self._now = now

    # --- keeping them

    def account(self, session_id: str) -> None:
        """Brings the sums to what the session's rows say now; nothing for one that has not ended."""
        key = self._keys.find(session_id)
        fact = None if key is None else self._connection.execute(_FACT, (key,)).fetchone()
        if fact is None:
            return
        bucket, figures = fact[1:5], fact[5:]
        kept = self._connection.execute(_KEPT, (key,)).fetchone()
        if kept is not None and kept[:-1] == fact[1:]:
            return
        is_incomplete = self._connection.execute(_TOUCH, (bucket[0],)).get
        if is_incomplete and not self._is_purged(bucket[0]):
            return  # the day is added up from its sessions anyway, this one among them
        if kept is not None and kept[:2] == bucket[:2]:  # else its bucket is gone, and the key another's
            self._take_out(kept[:4], kept[4:-1])
        values = _contribution(figures)
        at = rfc3339_ms(self._now)
        agg_key = self._connection.execute(_ADD, (*bucket, *values, values[_NANO] / 1e9, at)).get
        self._connection.execute(_KEEP, (key, agg_key, *figures))

    def _take_out(self, bucket: tuple[str, ...], figures: tuple[int, ...]) -> None:
        """Takes one session out of a bucket, which goes when it was the last."""
        values = _contribution(figures)
        self._connection.execute(_TAKE_OUT, (*values, values[_NANO], rfc3339_ms(self._now), *bucket))
        self._connection.execute(_DROP_EMPTY, bucket)

    def _is_purged(self, day: str) -> bool:
        """Whether sessions of a day may be gone, so that its sums cannot be had from them."""
        purged = self._connection.execute(_PURGED).get
        return purged is not None and f"{day}T00:00:00.000Z" < str(purged)

    def incomplete_days(self, limit: int) -> list[str]:
        """Days whose buckets are to be built again, oldest first."""
        sql = "SELECT bucket_date FROM usage_days WHERE is_incomplete ORDER BY bucket_date LIMIT ?"
        return [str(day) for (day,) in self._connection.execute(sql, (limit,))]

    def rebuild(self, day: str) -> bool:
        """Builds a day's buckets from its sessions; False, and they stay, when some may have been purged."""
        purged = self._is_purged(day)
        if not purged:
            start = datetime.combine(date.fromisoformat(day), time(), UTC)
            bounds = rfc3339_ms(start), _next_day(start)
            self._connection.execute("DELETE FROM daily_usage_agg WHERE bucket_date = ?", (day,))
            self._connection.execute(_REBUILD_DAY, (rfc3339_ms(self._now), *bounds))
            self._connection.execute(_REBUILD_KEPT, bounds)
        self._connection.execute(
            "INSERT INTO usage_days (bucket_date) VALUES (?) ON CONFLICT (bucket_date)"
            " DO UPDATE SET is_incomplete = 0, revision = revision + 1",
            (day,),
        )
        return not purged

    # --- asking them

    def series(self, query: UsageQuery) -> dict[str, Totals]:
        """Sums by group; whole UTC days from the aggregates, the rest from the sessions."""
        whole, spans = self._parts(query.scope)
        found: dict[str, Totals] = {}
        if whole is not None:
            _merge(found, self._from_aggregates(query, *whole))
        for since, until in spans:
            _merge(found, self._from_facts(query, since, until))
        return found

    def by_day(self, query: UsageQuery, spans: tuple[DaySpan, ...]) -> dict[str, Totals]:
        """Sums by days of another zone, from the sessions."""
        found: dict[str, Totals] = {}
        for span in spans:
            sums = self._from_facts(query, rfc3339_ms(span.start), rfc3339_ms(span.end))
            total = sum(sums.values(), Totals())
            if total.runs:
                found[span.day.isoformat()] = total
        return found

    def extent(self) -> tuple[datetime, datetime] | None:
        """The first and the last start of all sessions, None when there is none."""
        ends = [
            self._connection.execute(f"SELECT {which}(started_at) FROM session_ledger").get  # noqa: S608 - constants
            for which in ("min", "max")
        ]
        return None if ends[0] is None else (datetime.fromisoformat(ends[0]), datetime.fromisoformat(ends[1]))

    def _parts(self, scope: Scope) -> tuple[tuple[str, str] | None, list[tuple[str, str]]]:
        """Whole days to take from the aggregates (second exclusive), and spans to add up from sessions."""
        since, until = scope.since, scope.until
        first, edges = "", []
        if since is not None:
            first = since.astimezone(UTC).date().isoformat() if is_midnight(since) else _next_day(since)[:10]
        end = "~" if until is None else until.astimezone(UTC).date().isoformat()
        if first > end:  # within one day
            return None, [(_text(since), _text(until))]
        if since is not None and not is_midnight(since):
            edges.append((_text(since), _next_day(since)))
        if until is not None and not is_midnight(until):
            edges.append((f"{end}T", _text(until)))
        edges += self._incomplete_spans(first, end)
        return (first, end), edges

    def _incomplete_spans(self, first: str, end: str) -> list[tuple[str, str]]:
        among = "is_incomplete AND bucket_date >= ? AND bucket_date < ?"
        sql = f"SELECT bucket_date FROM usage_days WHERE {among}"  # noqa: S608 - constants
        days = [day for (day,) in self._connection.execute(sql, (first, end)) if not self._is_purged(day)]
        return [(f"{day}T", f"{day}U") for day in days]

    def _from_aggregates(self, query: UsageQuery, first: str, end: str) -> dict[str, Totals]:
        sums = ", ".join(f"sum({name})" for name in _TOTALS)
        where, bindings = _filters(query.scope)
        sql = (
            f"SELECT {_GROUPS[query.group_by]}, {sums} FROM daily_usage_agg"  # noqa: S608 - constants
            " WHERE bucket_date >= ? AND bucket_date < ?"
            " AND bucket_date NOT IN (SELECT bucket_date FROM usage_days WHERE is_incomplete AND"
            " bucket_date || 'T00:00:00.000Z' >= coalesce((SELECT value FROM node_settings"
            f" WHERE name = 'purged_before'), '')){where} GROUP BY 1"
        )
        return self._grouped(sql, (first, end, *bindings))

    def _from_facts(self, query: UsageQuery, since: str, until: str) -> dict[str, Totals]:
        where, bindings = _filters(query.scope)
        # The conditions stand outside: inside they would be taken for the stored columns, '' for NULL.
        sql = (
            f"SELECT {_GROUPS[query.group_by]}, {_SUMS} FROM ({FACTS}{_OF_DAY})"  # noqa: S608 - constants
            f" WHERE true{where} GROUP BY 1"
        )
        return self._grouped(sql, (since, until, *bindings))

    def _grouped(self, sql: str, bindings: tuple[Binding, ...]) -> dict[str, Totals]:
        return {str(row[0]): _totals(row[1:]) for row in self._connection.execute(sql, bindings)}


def _contribution(figures: tuple[int, ...]) -> list[int]:
    """What one session adds to each of `_TOTALS`."""
    tokens, runtime, cost = figures[5:]
    known = [int(source == want) for source in (tokens, runtime, cost) for want in (0, 1)]
    return [1, *figures[:5], *known]


def _totals(values: tuple[Any, ...]) -> Totals:
    return Totals(**dict(zip(Totals.__struct_fields__, values, strict=True)))


def _merge(found: dict[str, Totals], more: dict[str, Totals]) -> None:
    for key, value in more.items():
        found[key] = found[key] + value if key in found else value


def _filters(scope: Scope) -> tuple[str, list[Binding]]:
    chosen = [(column, getattr(scope, name)) for name, column in _FILTERS]
    given = [(column, value) for column, value in chosen if value is not None]
    where = "".join(f" AND {column} = ?" for column, _ in given)
    return where, [value.encode(errors="replace").decode() for _, value in given]


def _text(at: datetime | None) -> str:
    """A bound as stored instants compare with it."""
    return "" if at is None else rfc3339_ms(at)


def _next_day(at: datetime) -> str:
    """The UTC midnight that follows."""
    return (at.astimezone(UTC).date() + timedelta(days=1)).isoformat() + "T00:00:00.000Z"
