"""Removing old sessions and old aggregates, a little at a time (specification 9.2.5).

A session goes with everything that hangs on it: events, usage, run, idempotency keys and what of it was
accounted by foreign keys, its words in the full-text index by a trigger. The aggregates stay.
"""

from datetime import datetime
from typing import Any

import apsw
import msgspec

from ambientd.core.records import AgedSessions, Removed
from ambientd.core.timefmt import rfc3339_ms

SAMPLE = 400
PAGES_KEPT_SHARE = 16  # of so many pages one may stay free: what comes in tomorrow needs it
PAGES_KEPT_MIN = 64
# What a row takes besides its own text: keys, other columns and its entries in the indexes, measured.
EVENT_OVERHEAD, USAGE_BYTES, SESSION_OVERHEAD = 50, 200, 450
TEXT_FACTOR = 2  # a title and a task are stored once as they are and about once more as words

PURGED_BEFORE = "purged_before"

# "+" keeps to the index by time: the oldest come first, and few of the old ones are not due.
_DUE = (
    " FROM session_ledger WHERE started_at < ?1 AND coalesce(ended_at, started_at) < ?1"
    " AND +status IN ('success', 'failed', 'killed', 'cancelled')"
)
_DUE_KEYS = f"(SELECT session_key {_DUE})"
_DUE_EVENTS = (
    "SELECT count(*) FROM session_event_rows INDEXED BY session_event_rows_by_time"  # noqa: S608 - constants
    f" WHERE session_key IN {_DUE_KEYS}"
)
_DUE_USAGE = f"SELECT count(*) FROM session_usage_rows WHERE session_key IN {_DUE_KEYS}"  # noqa: S608 - constants
_AMONG = " WHERE session_key IN (SELECT value FROM json_each(?))"
_NEXT = (
    f"SELECT session_key, started_at, session_id {_DUE} AND (started_at, session_id) > (?2, ?3)"
    " ORDER BY started_at, session_id LIMIT ?4"
)
_EVENT_SIZES = (
    "SELECT count(*), coalesce(sum(octet_length(payload_json)), 0) FROM session_event_rows"  # noqa: S608 - constants
    + _AMONG
)
_USAGE_COUNT = "SELECT count(*) FROM session_usage_rows" + _AMONG  # noqa: S608 - constants
_SESSION_SIZES = (
    "SELECT count(*),"  # noqa: S608 - constants
    " coalesce(sum(coalesce(octet_length(task_title), 0) + coalesce(octet_length(task_text), 0)), 0),"
    " coalesce(sum(octet_length(error_message)), 0) FROM session_ledger" + _AMONG
)
_OLDEST = {
    "daily_usage_agg": ("bucket_date", 10),
    "model_perf_agg": ("window_end", None),
}


class SqliteRetention:
    """`ports.store.RetentionRepository` over one transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        """The connection belongs to one transaction."""
        self._connection = connection

    def count(self, before: datetime) -> AgedSessions:
        """How many ended sessions are older, exactly, and about how many bytes they take."""
        limit = rfc3339_ms(before)
        sessions = self._one("SELECT count(*)" + _DUE, limit)
        if sessions == 0:
            return AgedSessions()
        events, usage = self._one(_DUE_EVENTS, limit), self._one(_DUE_USAGE, limit)
        found = self._measure(self._sample(limit, sessions))
        return AgedSessions(
            sessions=sessions,
            events=events,
            usage=usage,
            event_bytes=found.event_bytes * events // max(found.events, 1),
            usage_bytes=USAGE_BYTES * usage,
            session_bytes=found.session_bytes * sessions // max(found.sessions, 1),
        )

    def _sample(self, limit: str, sessions: int) -> list[int]:
        """Evenly from all that are due."""
        step = max(1, sessions // SAMPLE)
        numbered = "SELECT session_key, row_number() OVER (ORDER BY session_key) AS place" + _DUE
        sql = f"SELECT session_key FROM ({numbered}) WHERE place % ?2 = 0 LIMIT ?3"  # noqa: S608 - constants
        return [int(key) for (key,) in self._connection.execute(sql, (limit, step, SAMPLE))]

    def _measure(self, keys: list[int]) -> AgedSessions:
        """Rows and bytes of these sessions."""
        among = msgspec.json.encode(keys).decode()
        events, event_bytes = self._numbers(_EVENT_SIZES, among)
        (usage,) = self._numbers(_USAGE_COUNT, among)
        sessions, words, errors = self._numbers(_SESSION_SIZES, among)
        return AgedSessions(
            sessions=sessions,
            events=events,
            usage=usage,
            event_bytes=event_bytes + EVENT_OVERHEAD * events,
            usage_bytes=USAGE_BYTES * usage,
            session_bytes=TEXT_FACTOR * words + errors + SESSION_OVERHEAD * sessions,
        )

    def remove(self, before: datetime, limit: int, after: tuple[str, str]) -> Removed:
        """Removes up to `limit` ended sessions that are older, the oldest first, behind a place."""
        limit_text = rfc3339_ms(before)
        rows: list[tuple[Any, ...]] = self._connection.execute(_NEXT, (limit_text, *after, limit)).fetchall()
        if not rows:
            return Removed(AgedSessions(), after)
        keys = [int(row[0]) for row in rows]
        found = self._measure(keys)
        self._connection.executemany(
            "DELETE FROM session_ledger WHERE session_key = ?", ((key,) for key in keys)
        )
        self._remember_purged(limit_text)
        return Removed(found, (str(rows[-1][1]), str(rows[-1][2])))

    def _remember_purged(self, before: str) -> None:
        self._connection.execute(
            "INSERT INTO node_settings (name, value) VALUES (?, ?) ON CONFLICT (name)"
            " DO UPDATE SET value = excluded.value WHERE value < excluded.value",
            (PURGED_BEFORE, before),
        )

    def purged_before(self) -> datetime | None:
        """Ended sessions older than this may have been removed; None while none ever was."""
        found = self._connection.execute(
            "SELECT value FROM node_settings WHERE name = ?", (PURGED_BEFORE,)
        ).get
        return None if found is None else datetime.fromisoformat(found)

    def count_aggregates(self, table: str, before: datetime) -> int:
        """Rows of an aggregate that are older; raises KeyError for a table that is none."""
        column, digits = _OLDEST[table]
        sql = f"SELECT count(*) FROM {table} WHERE {column} < ?"  # noqa: S608 - constants
        return self._one(sql, rfc3339_ms(before)[:digits])

    def remove_aggregates(self, table: str, before: datetime) -> int | None:
        """Removes the oldest day or window that is older; how many rows, None when there is none left."""
        column, digits = _OLDEST[table]
        oldest = self._connection.execute(
            f"SELECT min({column}) FROM {table} WHERE {column} < ?",  # noqa: S608 - constants
            (rfc3339_ms(before)[:digits],),
        ).get
        if oldest is None:
            return None
        self._connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (oldest,))  # noqa: S608 - constants
        return self._connection.changes()

    def tidy_text(self, pages: int, *, start: bool) -> bool:
        """Rewrites some pages of the full-text index without what was removed; whether more is to do.

        With `start` the whole index is taken up; it is done in as many calls as it needs.
        """
        before = self._connection.total_changes()
        self._connection.execute(
            "INSERT INTO session_search (session_search, rank) VALUES ('merge', ?)",
            (-pages if start else pages,),
        )
        return self._connection.total_changes() - before >= 2  # FTS5 documents: less means nothing was done

    def give_back(self, pages: int) -> bool:
        """Gives some free pages back to the disk; whether more than a reserve are still free.

        Nothing is given back by a database that was made without room for it.
        """
        if self._connection.execute("PRAGMA auto_vacuum").get != 2:
            return False
        free = self._one("PRAGMA freelist_count")
        spare = free - max(PAGES_KEPT_MIN, self._one("PRAGMA page_count") // PAGES_KEPT_SHARE)
        if spare <= 0:
            return False
        self._connection.execute(f"PRAGMA incremental_vacuum({min(pages, spare)})").fetchall()
        return spare > pages

    def used_bytes(self) -> int:
        """Size of the database without its free pages."""
        pages = self._one("PRAGMA page_count") - self._one("PRAGMA freelist_count")
        return pages * self._one("PRAGMA page_size")

    def file_bytes(self) -> int:
        """Size of the database's file once its log has been copied into it."""
        return self._one("PRAGMA page_count") * self._one("PRAGMA page_size")

    def _one(self, sql: str, *bindings: str) -> int:
        return self._numbers(sql, *bindings)[0]

    def _numbers(self, sql: str, *bindings: str) -> list[int]:
        """The one row of integers that a query has."""
        return [int(value) for row in self._connection.execute(sql, bindings) for value in row]
