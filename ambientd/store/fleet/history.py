"""Reports and events of nodes, as they were recorded."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ambientd.core.fleet.history import event_metadata, read_event
from ambientd.core.fleet.records import HistoryRow, NodeEvent, Pruned
from ambientd.core.timefmt import from_ms, to_ms
from ambientd.store.fleet.sql import Row, Sql, at, json_text, json_value
from ambientd.wire.fleet_enums import NodeEventKind

_EVENTS = f"status IN ({', '.join(repr(kind.value) for kind in NodeEventKind)})"
_ADD = (
    "INSERT INTO node_heartbeat_history"
    " (node_id, health_score, active_tasks, status, metadata, recorded_at) VALUES (?, 0, 0, ?, ?, ?)"
)
_ACTIVITY = (
    f"SELECT status, metadata, recorded_at FROM node_heartbeat_history WHERE node_id = ? AND {_EVENTS}"
    " ORDER BY recorded_at DESC, heartbeat_id DESC LIMIT ?"
)
_COLUMNS = (
    "heartbeat_id, node_id, recorded_at, sampled_at, health_score, cpu_usage, memory_usage, disk_usage,"
    " network_latency_ms, active_tasks, status, report_seq, metadata"
)
_ROWS = (
    f"SELECT {_COLUMNS} FROM node_heartbeat_history WHERE node_id = ? AND heartbeat_id < ?"
    " ORDER BY heartbeat_id DESC LIMIT ?"
)
_OLDEST = (
    f"SELECT heartbeat_id, recorded_at, CASE WHEN {_EVENTS} THEN 1 ELSE 0 END"
    " FROM node_heartbeat_history WHERE heartbeat_id > ? ORDER BY heartbeat_id LIMIT ?"
)
_REMOVE = (
    "DELETE FROM node_heartbeat_history WHERE heartbeat_id > ? AND heartbeat_id <= ?"
    f" AND recorded_at < CASE WHEN {_EVENTS} THEN CAST(? AS BIGINT) ELSE CAST(? AS BIGINT) END"
)
_NEWEST_ID = 2**63 - 1


class History:
    """`ports.fleet.store.HistoryRepository`."""

    def __init__(self, sql: Sql) -> None:
        """Good for as long as the transaction."""
        self._sql = sql

    def add_events(self, events: Sequence[NodeEvent]) -> str | None:
        """Writes events. When they cannot be written nothing of them is, the transaction goes on, and the
        reason is returned."""
        rows = [(e.node_id, e.kind, json_text(event_metadata(e)), to_ms(e.at)) for e in events]
        with self._sql.attempt() as attempt:
            for row in rows:
                self._sql.run(_ADD, row)
        return attempt.failure

    def activity(self, node_id: str, limit: int) -> list[NodeEvent]:
        """A node's events, newest first."""
        return [
            read_event(node_id, NodeEventKind(row[0]), json_value(row[1]), from_ms(row[2]))
            for row in self._sql.rows(_ACTIVITY, (node_id, limit))
        ]

    def rows(self, node_id: str, limit: int, before_id: int | None = None) -> list[HistoryRow]:
        """A node's history, newest first; `before_id`: the last `heartbeat_id` seen."""
        place = _NEWEST_ID if before_id is None else before_id
        return [_row(row) for row in self._sql.rows(_ROWS, (node_id, place, limit))]

    def remove(self, reports_before: datetime, events_before: datetime, limit: int, after: int = 0) -> Pruned:
        """Looks at up to `limit` of the oldest rows behind `after` and removes those that are due."""
        seen = self._sql.rows(_OLDEST, (after, limit))
        if not seen:
            return Pruned(removed=0, after=None)
        last, reports, events = seen[-1][0], to_ms(reports_before), to_ms(events_before)
        removed = self._sql.run(_REMOVE, (after, last, events, reports))
        # Rows come in by time: behind one that is too young for everything nothing is due.
        done = len(seen) < limit or seen[-1][1] >= max(reports, events)
        return Pruned(removed=removed, after=None if done else last)


def _row(row: Row) -> HistoryRow:
    values: dict[str, Any] = dict(zip(_COLUMNS.split(", "), row, strict=True))
    values["recorded_at"] = from_ms(row[2])
    values["sampled_at"] = at(row[3])
    values["metadata"] = None if row[12] is None else json_value(row[12])
    return HistoryRow(**values)
