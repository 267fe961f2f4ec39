"""Ledger rows and Δv that nodes pushed."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ambientd.core.fleet.pushed import (
    LedgerQueryOfNode,
    NodeDeltaV,
    NodeSession,
    NodeSessionEvent,
    NodeUsage,
    NodeUsageTotals,
)
from ambientd.core.records import UsageRecord
from ambientd.core.timefmt import from_ms, to_ms
from ambientd.store.fleet.sql import Bulk, Row, Sql, all_of_batch, at, json_text, json_value, ms, one
from ambientd.wire.enums import (
    CostConfidence,
    CostSource,
    EventType,
    MetricConfidence,
    MetricSource,
    SessionStatus,
)

_TEXT, _WHOLE, _FRACTION = "text", "bigint", "double precision"


def _put(table: str, columns: tuple[tuple[str, str], ...], key: str, *, when: str = "") -> Bulk:
    """Inserts rows, or replaces those with the same key."""
    names = ", ".join(name for name, _ in columns)
    keys = key.split(", ")
    rest = ", ".join(f"{name} = excluded.{name}" for name, _ in columns if name not in keys)
    return Bulk(
        columns,
        f"INSERT INTO {table} ({names}) SELECT {all_of_batch(columns)} FROM batch WHERE true"
        f" ON CONFLICT ({key}) DO UPDATE SET {rest}{when}",
    )


_SESSION = (
    ("node_id", _TEXT),
    ("session_id", _TEXT),
    ("stream_seq", _WHOLE),
    ("run_id", _TEXT),
    ("agent_id", _TEXT),
    ("agent_label", _TEXT),
    ("model_id", _TEXT),
    ("task_id", _TEXT),
    ("task_title", _TEXT),
    ("task_category", _TEXT),
    ("status", _TEXT),
    ("started_at", _WHOLE),
    ("ended_at", _WHOLE),
    ("runtime_ms", _WHOLE),
    ("artifact_count", _WHOLE),
    ("error_code", _TEXT),
    ("error_message", _TEXT),
    ("source_version", _TEXT),
    ("gateway_session_id", _TEXT),
)
_PUT_SESSION = _put(
    "node_sessions",
    _SESSION,
    "node_id, session_id",
    when=" WHERE node_sessions.stream_seq <= excluded.stream_seq",
)
_EVENT = (
    ("node_id", _TEXT),
    ("session_id", _TEXT),
    ("seq", _WHOLE),
    ("event_id", _TEXT),
    ("event_type", _TEXT),
    ("at", _WHOLE),
    ("payload", "jsonb"),
)
_EVENT_NAMES = ", ".join(name for name, _ in _EVENT)
_PUT_EVENT = Bulk(
    _EVENT,
    f"INSERT INTO node_session_events ({_EVENT_NAMES}) SELECT {all_of_batch(_EVENT)} FROM batch WHERE true"
    " ON CONFLICT (node_id, session_id, seq) DO NOTHING",
)
_NUMBERS = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "runtime_ms",
)
_WORDS = (
    "cost_confidence",
    "cost_source",
    "cost_confidence_level",
    "token_source",
    "token_confidence",
    "runtime_source",
    "runtime_confidence",
    "provider",
    "pricing_version",
)
_USAGE = (
    ("node_id", _TEXT),
    ("session_id", _TEXT),
    ("stream_seq", _WHOLE),
    *((name, _WHOLE) for name in _NUMBERS),
    ("cost_usd", _FRACTION),
    *((name, _TEXT) for name in _WORDS),
    ("computed_at", _WHOLE),
)
_PUT_USAGE = _put(
    "node_usage",
    _USAGE,
    "node_id, session_id",
    when=" WHERE node_usage.stream_seq <= excluded.stream_seq",
)
_DELTA_V = (
    ("node_id", _TEXT),
    ("window_start", _WHOLE),
    ("window_end", _WHOLE),
    ("value", _FRACTION),
    ("samples", _WHOLE),
    ("refused", _WHOLE),
    ("source", _TEXT),
    ("confidence", _TEXT),
)
_PUT_DELTA_V = _put("node_delta_v", _DELTA_V, "node_id, window_start")
_SESSION_NAMES = ", ".join(name for name, _ in _SESSION)
_USAGE_NAMES = ", ".join(name for name, _ in _USAGE)
# What nodes say has 63 bits: sums of it are made in two halves, since neither database has more.
_HALF = 2**31


def _sum(column: str) -> str:
    halves = (f"{column} / {_HALF}", f"{column} % {_HALF}")
    return ", ".join(f"CAST(coalesce(sum({half}), 0) AS BIGINT)" for half in halves)


_TOTALS = (
    f"SELECT count(*), {_sum('u.total_tokens')}, {_sum('s.runtime_ms')}, coalesce(sum(u.cost_usd), 0)"
    " FROM node_sessions AS s"
    " LEFT JOIN node_usage AS u ON u.node_id = s.node_id AND u.session_id = s.session_id"
    " WHERE s.node_id = ? AND s.started_at >= ? AND s.started_at < ?"
)


class NodeLedger:
    """`ports.fleet.pushed.NodeLedgerRepository`."""

    def __init__(self, sql: Sql) -> None:
        """Good for as long as the transaction."""
        self._sql = sql

    def put_sessions(self, node_id: str, sessions: Sequence[NodeSession]) -> None:
        """Inserts or replaces sessions; one with a lower `stream_seq` than stored is left out."""
        latest = {s.session_id: s for s in sorted(sessions, key=lambda s: s.stream_seq)}
        rows = [
            (
                node_id,
                s.session_id,
                s.stream_seq,
                s.run_id,
                s.agent_id,
                s.agent_label,
                s.model_id,
                s.task_id,
                s.task_title,
                s.task_category,
                s.status,
                to_ms(s.started_at),
                ms(s.ended_at),
                s.runtime_ms,
                s.artifact_count,
                s.error_code,
                s.error_message,
                s.source_version,
                s.gateway_session_id,
            )
            for s in latest.values()
        ]
        self._sql.bulk(_PUT_SESSION, rows)

    def put_events(self, node_id: str, events: Sequence[NodeSessionEvent]) -> None:
        """Inserts events that are not there yet; raises ValueError for a session that is not there."""
        rows = [
            (node_id, e.session_id, e.seq, e.event_id, e.event_type, to_ms(e.at), json_text(e.payload))
            for e in events
        ]
        self._sql.bulk(_PUT_EVENT, rows)

    def put_usage(self, node_id: str, usage: Sequence[NodeUsage]) -> None:
        """Inserts or replaces usage, as `put_sessions`."""
        latest = {u.usage.session_id: u for u in sorted(usage, key=lambda u: u.stream_seq)}
        rows = [
            (
                node_id,
                u.usage.session_id,
                u.stream_seq,
                *(getattr(u.usage, name) for name in _NUMBERS),
                u.usage.cost_usd,
                *(getattr(u.usage, name) for name in _WORDS),
                to_ms(u.usage.computed_at),
            )
            for u in latest.values()
        ]
        self._sql.bulk(_PUT_USAGE, rows)

    def put_delta_v(self, node_id: str, windows: Sequence[NodeDeltaV]) -> None:
        """Inserts windows, or replaces what was said of them before."""
        latest = {w.window_start: w for w in windows}
        rows = [
            (
                node_id,
                to_ms(w.window_start),
                to_ms(w.window_end),
                w.value,
                w.samples,
                w.refused,
                w.source,
                w.confidence,
            )
            for w in latest.values()
        ]
        self._sql.bulk(_PUT_DELTA_V, rows)

    def session(self, node_id: str, session_id: str) -> NodeSession | None:
        """One session of a node."""
        sql = f"SELECT {_SESSION_NAMES} FROM node_sessions WHERE node_id = ? AND session_id = ?"
        row = one(self._sql.rows(sql, (node_id, session_id)))
        return None if row is None else _session(row)

    def page(self, query: LedgerQueryOfNode) -> list[NodeSession]:
        """One page of sessions."""
        where, params = ["node_id = ?"], list[Any]([query.node_id])
        if query.status is not None:
            where.append("status = ?")
            params.append(query.status)
        if query.task_id is not None:
            where.append("task_id = ?")
            params.append(query.task_id)
        if query.after is not None:
            where.append("(started_at, session_id) < (?, ?)")
            params += [ms(query.after[0]), query.after[1]]
        sql = (
            f"SELECT {_SESSION_NAMES} FROM node_sessions WHERE {' AND '.join(where)}"
            " ORDER BY started_at DESC, session_id DESC LIMIT ?"
        )
        return [_session(row) for row in self._sql.rows(sql, (*params, query.limit))]

    def events(
        self, node_id: str, session_id: str, after_seq: int = 0, limit: int = 1000
    ) -> list[NodeSessionEvent]:
        """Events with `seq` greater than `after_seq`, in order."""
        sql = (
            "SELECT session_id, seq, event_type, at, payload, event_id FROM node_session_events"
            " WHERE node_id = ? AND session_id = ? AND seq > ? ORDER BY seq LIMIT ?"
        )
        return [
            NodeSessionEvent(
                session_id=row[0],
                seq=row[1],
                event_type=EventType(row[2]),
                at=from_ms(row[3]),
                payload=json_value(row[4]),
                event_id=row[5],
            )
            for row in self._sql.rows(sql, (node_id, session_id, after_seq, limit))
        ]

    def usage(self, node_id: str, session_id: str) -> UsageRecord | None:
        """The usage of a session."""
        sql = f"SELECT {_USAGE_NAMES} FROM node_usage WHERE node_id = ? AND session_id = ?"
        row = one(self._sql.rows(sql, (node_id, session_id)))
        return None if row is None else _usage(row)

    def totals(self, node_id: str, since: datetime, until: datetime) -> NodeUsageTotals:
        """Sums over sessions that started at or after `since` and before `until`."""
        ((sessions, *sums, cost),) = self._sql.rows(_TOTALS, (node_id, ms(since), ms(until)))
        tokens, runtime = (high * _HALF + low for high, low in zip(sums[::2], sums[1::2], strict=True))
        return NodeUsageTotals(
            sessions=sessions, total_tokens=tokens, cost_usd=float(cost), runtime_ms=runtime
        )

    def delta_v(self, node_id: str, since: datetime, limit: int) -> list[NodeDeltaV]:
        """Windows that began at or after an instant, in order."""
        sql = (
            "SELECT window_start, window_end, value, samples, refused, source, confidence FROM node_delta_v"
            " WHERE node_id = ? AND window_start >= ? ORDER BY window_start LIMIT ?"
        )
        return [
            NodeDeltaV(
                window_start=from_ms(row[0]),
                window_end=from_ms(row[1]),
                value=row[2],
                samples=row[3],
                refused=row[4],
                source=row[5],
                confidence=row[6],
            )
            for row in self._sql.rows(sql, (node_id, ms(since), limit))
        ]


def _session(row: Row) -> NodeSession:
    values: dict[str, Any] = dict(zip(_SESSION_NAMES.split(", "), row, strict=True))
    del values["node_id"]
    values["status"] = SessionStatus(values["status"])
    values["started_at"] = from_ms(values["started_at"])
    values["ended_at"] = at(values["ended_at"])
    return NodeSession(**values)


def _usage(row: Row) -> UsageRecord:
    values: dict[str, Any] = dict(zip(_USAGE_NAMES.split(", "), row, strict=True))
    del values["node_id"], values["stream_seq"]
    values["cost_confidence"] = CostConfidence(values["cost_confidence"])
    values["cost_source"] = CostSource(values["cost_source"])
    for name in ("token_source", "runtime_source"):
        values[name] = MetricSource(values[name])
    for name in ("cost_confidence_level", "token_confidence", "runtime_confidence"):
        values[name] = MetricConfidence(values[name])
    values["computed_at"] = from_ms(values["computed_at"])
    return UsageRecord(**values)
