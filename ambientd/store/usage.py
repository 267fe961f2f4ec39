"""Usage facts in SQLite (specification 8.2.3, 9.2.2, 9.4)."""

from datetime import datetime
from typing import Any

import apsw

from ambientd.core.records import Costable, UsageRecord
from ambientd.core.timefmt import rfc3339_ms
from ambientd.store.aggregates import Aggregates
from ambientd.store.faults import amount, constraints, text, whole
from ambientd.store.keys import Keys
from ambientd.wire.enums import CostConfidence, CostSource, MetricConfidence, MetricSource

_COLUMNS = (
    "prompt_tokens, completion_tokens, total_tokens, runtime_ms, cost_usd, cost_confidence, cost_source,"
    " cost_confidence_level, token_source, token_confidence, runtime_source, runtime_confidence, provider,"
    " pricing_version, computed_at, cache_read_tokens, cache_write_tokens"
)
_PUT = (
    f"INSERT OR REPLACE INTO session_usage_rows (session_key, {_COLUMNS})"  # noqa: S608 - constants
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_GET = f"SELECT {_COLUMNS} FROM session_usage_rows WHERE session_key = ?"  # noqa: S608 - constants
_COSTABLE = (
    "u.session_key > ? AND u.cost_source <> 'provider_reported' AND (u.cost_source = 'estimated_from_pricing'"
    " OR u.prompt_tokens IS NOT NULL OR u.completion_tokens IS NOT NULL OR u.total_tokens IS NOT NULL)"
)


class SqliteUsage:
    """`ports.store.UsageRepository` over one transaction."""

    def __init__(self, connection: apsw.Connection, keys: Keys, now: datetime) -> None:
        """Connection and keys belong to one transaction, which takes place at `now`."""
        self._connection = connection
        self._keys = keys
        aggregates = Aggregates(connection, keys, now)
        self.account = aggregates.account
        self.series = aggregates.series
        self.by_day = aggregates.by_day
        self.extent = aggregates.extent
        self.incomplete_days = aggregates.incomplete_days
        self.rebuild = aggregates.rebuild

    def put(self, usage: UsageRecord) -> None:
        """Inserts or replaces the usage row of a session.

        Raises LookupError for an unknown session; ValueError for a number that cannot be stored, and for a
        cost that names no price table (specification 9.4.1).
        """
        row = (
            self._keys.need(usage.session_id),
            whole(usage.prompt_tokens, "prompt_tokens"),
            whole(usage.completion_tokens, "completion_tokens"),
            whole(usage.total_tokens, "total_tokens"),
            whole(usage.runtime_ms, "runtime_ms"),
            amount(usage.cost_usd, "cost_usd"),
            usage.cost_confidence.value,
            usage.cost_source.value,
            usage.cost_confidence_level.value,
            usage.token_source.value,
            usage.token_confidence.value,
            usage.runtime_source.value,
            usage.runtime_confidence.value,
            text(usage.provider, "provider"),
            text(usage.pricing_version, "pricing_version"),
            rfc3339_ms(usage.computed_at),
            whole(usage.cache_read_tokens, "cache_read_tokens"),
            whole(usage.cache_write_tokens, "cache_write_tokens"),
        )
        with constraints(f"usage of {usage.session_id}"):
            self._connection.execute(_PUT, row)

    def get(self, session_id: str) -> UsageRecord | None:
        """The usage row, None when there is none."""
        key = self._keys.find(session_id)
        row = None if key is None else self._connection.execute(_GET, (key,)).fetchone()
        if row is None:
            return None
        return UsageRecord(
            session_id=session_id,
            prompt_tokens=row[0],
            completion_tokens=row[1],
            total_tokens=row[2],
            runtime_ms=row[3],
            cost_usd=row[4],
            cost_confidence=CostConfidence(row[5]),
            cost_source=CostSource(row[6]),
            cost_confidence_level=MetricConfidence(row[7]),
            token_source=MetricSource(row[8]),
            token_confidence=MetricConfidence(row[9]),
            runtime_source=MetricSource(row[10]),
            runtime_confidence=MetricConfidence(row[11]),
            provider=row[12],
            pricing_version=row[13],
            computed_at=datetime.fromisoformat(row[14]),
            cache_read_tokens=row[15],
            cache_write_tokens=row[16],
        )

    def costable(
        self, after: int, limit: int, *, since: datetime | None = None, until: datetime | None = None
    ) -> list[Costable]:
        """Rows with tokens whose cost no provider reported, by key from `after` on (exclusive)."""
        conditions = [_COSTABLE]
        bindings: list[int | str] = [after]
        for instant, condition in ((since, "l.started_at >= ?"), (until, "l.started_at < ?")):
            if instant is not None:
                conditions.append(condition)
                bindings.append(rfc3339_ms(instant))
        sql = (
            "SELECT u.session_key, l.session_id, l.model_id FROM session_usage_rows AS u"  # noqa: S608 - constants
            f" JOIN session_ledger AS l USING (session_key) WHERE {' AND '.join(conditions)}"
            " ORDER BY u.session_key LIMIT ?"
        )
        found = []
        rows: list[tuple[Any, ...]] = self._connection.execute(sql, (*bindings, limit)).fetchall()
        for key, session_id, model_id in rows:
            self._keys.remember(session_id, key)
            usage = self.get(session_id)
            if usage is not None:
                found.append(Costable(key=key, model_id=model_id, usage=usage))
        return found
