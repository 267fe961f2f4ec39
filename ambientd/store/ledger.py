"""Sessions in SQLite (specification 8.2.1, 8.2.2)."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import apsw
import msgspec

from ambientd.core.records import (
    EventRecord,
    LedgerQuery,
    LedgerSlice,
    NewEvent,
    NewSession,
    SessionChange,
    SessionRecord,
)
from ambientd.core.timefmt import rfc3339_ms
from ambientd.store.events import Events
from ambientd.store.faults import constraints, text, whole
from ambientd.store.keys import Keys
from ambientd.store.ledgerplan import Filter, counted, counted_between, kind_filters, led, newest_of_each
from ambientd.store.ledgersort import behind, candidates, order_of
from ambientd.store.search import (
    SUFFIX_INDEXED,
    SUFFIX_SQL,
    Binding,
    TextCondition,
    suffix_bindings,
    text_condition,
)
from ambientd.store.textpage import END, text_page
from ambientd.wire.enums import TERMINAL, CostConfidence, LedgerSort, SessionStatus

EXACT_TOTAL_MAX = 10_000
PAGE_MAX = 1_000

Bound = str | int | float
Asked = tuple[str, Sequence[Bound]]  # a condition and its bindings

_COLUMNS = (
    "l.session_id, l.run_id, l.agent_id, l.agent_label, l.model_id, l.task_title, l.task_text,"
    " l.task_category, l.status, l.started_at, l.ended_at, l.runtime_ms, l.running_since, l.artifact_count,"
    " l.error_code, l.error_message, l.source_version, l.ingested_at,"
    " u.total_tokens, u.cost_usd, u.cost_confidence, l.gateway_session_id"
)
_FROM = " FROM session_ledger AS l LEFT JOIN session_usage_rows AS u ON u.session_key = l.session_key"
_SELECT = f"SELECT {_COLUMNS}{_FROM}"
_NEWEST = " ORDER BY l.started_at DESC, l.session_id DESC"
_INSERT = (
    "INSERT INTO session_ledger (session_id, agent_id, agent_label, model_id, task_title, task_text,"
    " task_category, status, started_at, source_version, ingested_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
# Every agent by one step in the index each, then its newest ended session by a few more.
_LAST_OF_AGENTS = f"""
WITH RECURSIVE agents (agent_id) AS (
    SELECT min(agent_id) FROM session_ledger
    UNION ALL
    SELECT (SELECT min(agent_id) FROM session_ledger WHERE agent_id > agents.agent_id)
    FROM agents WHERE agents.agent_id IS NOT NULL
)
{_SELECT}
JOIN agents ON l.session_key = (
    SELECT session_key FROM session_ledger
    WHERE agent_id = agents.agent_id AND ended_at IS NOT NULL
    ORDER BY started_at DESC LIMIT 1
)
"""  # noqa: S608 - constants


class SqliteLedger:
    """`ports.store.LedgerRepository` over one transaction."""

    def __init__(self, connection: apsw.Connection, keys: Keys, now: datetime) -> None:
        """`now` becomes `ingested_at` of what is added."""
        self._connection = connection
        self._keys = keys
        self._now = now
        self._events = Events(connection, keys)

    def add(self, session: NewSession) -> None:
        """Inserts a session; raises ValueError when the id exists or a value cannot be stored."""
        row = (
            text(session.session_id, "session_id"),
            text(session.agent_id, "agent_id"),
            text(session.agent_label, "agent_label"),
            text(session.model_id, "model_id"),
            text(session.task_title, "task_title"),
            text(session.task_text, "task_text"),
            text(session.task_category, "task_category"),
            session.status.value,
            rfc3339_ms(session.started_at),
            text(session.source_version, "source_version"),
            rfc3339_ms(self._now),
        )
        with constraints(f"session {session.session_id}"):
            self._connection.execute(_INSERT, row)
        self._keys.remember(session.session_id, self._connection.last_insert_rowid())

    def get(self, session_id: str) -> SessionRecord | None:
        """One session by its whole id."""
        key = self._keys.find(session_id)
        if key is None:
            return None
        return _first(self._connection.execute(f"{_SELECT} WHERE l.session_key = ?", (key,)))

    def find(self, fragment: str, limit: int) -> list[SessionRecord]:
        """Sessions whose id equals, starts with or ends with `fragment`, newest first.

        When more than `limit` start with it, those with the highest ids are chosen. The empty fragment and
        one that no id can hold find nothing.
        """
        if not fragment or "\0" in fragment or not _is_storable(fragment):
            return []
        after = fragment + "\U0010ffff"
        starts = "session_id >= ? AND session_id < ? ORDER BY session_id DESC LIMIT ?"
        keys = self._find_keys(starts, (fragment, after, limit))
        if len(fragment) >= SUFFIX_INDEXED:
            keys |= self._find_keys(f"{SUFFIX_SQL} LIMIT ?", (*suffix_bindings(fragment), limit))
        else:
            ends = "substr(session_id, -?) = ? ORDER BY started_at DESC, session_id DESC LIMIT ?"
            keys |= self._find_keys(ends, (len(fragment), fragment, limit))
        found = [self._by_key(key) for key in keys]
        found.sort(key=lambda record: (record.started_at, record.session_id), reverse=True)
        return found[: max(limit, 0)]

    def _find_keys(self, condition: str, bindings: tuple[Binding, ...]) -> set[int]:
        sql = f"SELECT session_key FROM session_ledger WHERE {condition}"  # noqa: S608 - constant conditions
        return {int(key) for (key,) in self._connection.execute(sql, bindings)}

    def _by_key(self, key: int) -> SessionRecord:
        return _records(self._connection.execute(f"{_SELECT} WHERE l.session_key = ?", (key,)))[0]

    def page(self, query: LedgerQuery) -> LedgerSlice:
        """One page of summaries, by keyset; at most 1,000 rows.

        Raises ValueError for a text that cannot be looked for.
        """
        limit = min(max(query.limit, 0), PAGE_MAX)
        if query.text is not None and limit and _only_text(query):
            found = self._text_page(query.text, limit, query.after)
            if found is not None:
                return found
        filters = kind_filters(query)
        looked = self._text(query)
        asked = [*_spans(query), *([] if looked is None else [(looked.sql, looked.bindings)])]
        plain = self._led(filters)
        total = self._known_total(query, filters, asked)
        if total is None:
            total = self._total(*_joined(plain, asked))
        if total == 0:
            return LedgerSlice(rows=(), total=0, total_is_lower_bound=self._is_part(looked), more=False)
        leading = self._newest_of_each(query, filters, limit) if looked is None else None
        rows = None if filters or asked or not limit else self._largest(query, limit)
        if rows is None:
            rows = self._rows(query, *_joined(plain if leading is None else [leading], asked), limit)
        return LedgerSlice(
            rows=tuple(rows[:limit]),
            total=min(total, EXACT_TOTAL_MAX),
            total_is_lower_bound=total > EXACT_TOTAL_MAX or self._is_part(looked),
            more=len(rows) > limit,
        )

    def _rows(
        self, query: LedgerQuery, conditions: Sequence[str], bindings: Sequence[Bound], limit: int
    ) -> list[SessionRecord]:
        """The page and, when there is more, one row behind it."""
        place, placed = behind(query)
        sql = f"{_SELECT}{_where([*conditions, *place])}{order_of(query.sort)} LIMIT ? OFFSET ?"
        found = self._connection.execute(sql, (*bindings, *placed, limit + 1, max(query.offset, 0)))
        return _records(found)

    def _largest(self, query: LedgerQuery, limit: int) -> list[SessionRecord] | None:
        """The page of the longest or dearest of all sessions; None when all must be sorted for it."""
        found = candidates(self._connection, query, limit + 1 + max(query.offset, 0))
        if found is None:
            return None
        among = "l.session_key IN (SELECT value FROM json_each(?))"
        rows = self._rows(query, [among], [found.keys], limit)
        return rows if len(rows) > limit and found.have(rows[-1], query.sort) else None

    def _known_total(
        self, query: LedgerQuery, filters: Sequence[Filter], asked: Sequence[Asked]
    ) -> int | None:
        """How many sessions a query has, where kept numbers tell it."""
        if not asked:
            return counted(self._connection, filters)
        if filters or query.text is not None:
            return None
        since = "" if query.since is None else _boundary(query.since)
        until = "~" if query.until is None else _boundary(query.until)
        return counted_between(self._connection, since, until, EXACT_TOTAL_MAX + 1)

    def _is_part(self, found: TextCondition | None) -> bool:
        """Whether a text was looked for in the newest sessions only."""
        return found is not None and found.scans and self.count() > EXACT_TOTAL_MAX

    def _led(self, filters: Sequence[Filter]) -> list[Asked]:
        conditions = led(self._connection, filters)
        return [(sql, one.bindings) for sql, one in zip(conditions, filters, strict=True)]

    def _newest_of_each(self, query: LedgerQuery, filters: Sequence[Filter], limit: int) -> Asked | None:
        """Several statuses alone, newest first: each in the order of its index."""
        statuses = filters[0].bindings if len(filters) == 1 and filters[0].column == "status" else ()
        if len(statuses) < 2 or query.sort is not LedgerSort.NEWEST or query.offset:
            return None
        place, placed = behind(query)
        conditions, bindings = _joined([(sql, placed) for sql in place], _spans(query))
        each = [value for status in statuses for value in (status, *bindings, limit + 1)]
        return newest_of_each(statuses, " AND ".join(conditions)), tuple(each)

    def _text_page(self, words: str, limit: int, after: tuple[datetime, str] | None) -> LedgerSlice | None:
        """The page of a common word; None when the plain query is better."""
        place = None if after is None else (rfc3339_ms(after[0]), _need_text(after[1]))
        found = text_page(self._connection, words, limit + 1, place)
        if found is None:
            return None
        among = "l.session_key IN (SELECT value FROM json_each(?)) AND (l.started_at, l.session_id) < (?, ?)"
        sql = f"{_SELECT} WHERE {among}{_NEWEST} LIMIT ?"
        keys = msgspec.json.encode(found.keys).decode()
        rows = _records(self._connection.execute(sql, (keys, *(place or END), limit + 1)))
        return LedgerSlice(
            rows=tuple(rows[:limit]),
            total=min(found.total, EXACT_TOTAL_MAX),
            total_is_lower_bound=found.total > EXACT_TOTAL_MAX,
            more=len(rows) > limit,
        )

    def _text(self, query: LedgerQuery) -> TextCondition | None:
        if query.text is None or not query.text.strip():
            return None
        return text_condition(self._connection, query.text)

    def _total(self, conditions: Sequence[str], bindings: Sequence[Bound]) -> int:
        some = f"SELECT 1 FROM session_ledger AS l{_where(conditions)} LIMIT {EXACT_TOTAL_MAX + 1}"  # noqa: S608 - constant conditions
        sql = f"SELECT count(*) FROM ({some})"  # noqa: S608 - constants
        return int(self._connection.execute(sql, tuple(bindings)).get)

    def handles(self, query: LedgerQuery) -> Sequence[int]:
        """Keys of all sessions of a query, in its order; eight bytes each."""
        found = self._text(query)
        asked = [*_spans(query), *([] if found is None else [(found.sql, found.bindings)])]
        conditions, bindings = _joined(self._led(kind_filters(query)), asked)
        sql = f"SELECT l.session_key{_FROM}{_where(conditions)}{order_of(query.sort)}"
        if query.sort is LedgerSort.NEWEST:
            sql = sql.replace(_FROM, " FROM session_ledger AS l")
        return array("q", (key for (key,) in self._connection.execute(sql, bindings)))

    def by_handles(self, handles: Sequence[int]) -> list[SessionRecord]:
        """These sessions in this order, without those that are gone."""
        sql = f"{_SELECT} WHERE l.session_key = ?"
        return [row for key in handles for row in _records(self._connection.execute(sql, (key,)))]

    def active(self) -> list[SessionRecord]:
        """Queued and running sessions, oldest first."""
        where = " WHERE l.status IN ('queued', 'running') ORDER BY l.started_at, l.session_id"
        return _records(self._connection.execute(_SELECT + where))

    def last_of_agents(self) -> Mapping[str, SessionRecord]:
        """Of each agent, the ended session that was started last."""
        return {row.agent_id: row for row in _records(self._connection.execute(_LAST_OF_AGENTS))}

    def ended_since(self, at: datetime, limit: int) -> list[SessionRecord]:
        """Sessions that ended at or after an instant, newest end first."""
        where = " WHERE l.ended_at >= ? ORDER BY l.ended_at DESC LIMIT ?"
        return _records(self._connection.execute(_SELECT + where, (_boundary(at), max(limit, 0))))

    def change(self, session_id: str, change: SessionChange) -> bool:
        """Moves a session forward. False, and nothing written, when it has ended or does not exist.

        Raises ValueError for a step back and for values that cannot be stored.
        """
        columns = _changed_columns(change)
        key = self._keys.find(session_id)
        if key is None:
            return False
        status = SessionStatus(
            self._connection.execute("SELECT status FROM session_ledger WHERE session_key = ?", (key,)).get
        )
        if status in TERMINAL:
            return False
        if status is SessionStatus.RUNNING and change.status is SessionStatus.QUEUED:
            raise ValueError(f"session {session_id}: a running session is never queued again")
        if columns:
            assigned = ", ".join(f"{name} = ?" for name in columns)
            with constraints(f"session {session_id}"):
                self._connection.execute(
                    f"UPDATE session_ledger SET {assigned} WHERE session_key = ?",  # noqa: S608 - constant names
                    (*columns.values(), key),
                )
        return True

    def append(self, session_id: str, events: Sequence[NewEvent]) -> int:
        """Appends events with consecutive numbers; returns the last `seq`.

        Raises LookupError for an unknown session, ValueError for an event that cannot be stored.
        """
        return self._events.append(session_id, events)

    def events(self, session_id: str, after_seq: int, limit: int) -> list[EventRecord]:
        """Events with `seq` greater than `after_seq`, in order."""
        return self._events.after(session_id, after_seq, limit)

    def events_of_type(self, session_id: str, event_type: str, limit: int) -> list[EventRecord]:
        """Events of one type, in order; raises ValueError for a type that does not exist."""
        return self._events.of_type(session_id, event_type, limit)

    def count(self) -> int:
        """How many sessions the ledger holds."""
        found = counted(self._connection, ())
        if found is not None:
            return found
        return int(self._connection.execute("SELECT count(*) FROM session_ledger").get)


def _only_text(query: LedgerQuery) -> bool:
    others = (query.agent_id, query.model_id, query.category, query.since, query.until)
    plain = query.sort is LedgerSort.NEWEST and not query.offset and not query.statuses
    return plain and all(value is None for value in others)


def _spans(query: LedgerQuery) -> list[Asked]:
    bounds = ((">=", query.since), ("<", query.until))
    return [(f"l.started_at {sign} ?", (_boundary(at),)) for sign, at in bounds if at is not None]


def _joined(*asked: Sequence[Asked]) -> tuple[list[str], tuple[Bound, ...]]:
    """Conditions and their bindings, each in order."""
    every = [one for part in asked for one in part]
    return [sql for sql, _ in every], tuple(value for _, bindings in every for value in bindings)


def _where(conditions: Sequence[str]) -> str:
    return " WHERE " + " AND ".join(conditions) if conditions else ""


def _need_text(value: str) -> str:
    return text(value, "cursor") or ""


def _is_storable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _boundary(at: datetime) -> str:
    """An instant to compare stored ones with: they were cut, so a finer one lies after its millisecond."""
    cut = rfc3339_ms(at)
    if at.microsecond % 1000 == 0:
        return cut
    return cut.removesuffix("Z") + "~"  # sorts after "…Z" and before the next millisecond


def _changed_columns(change: SessionChange) -> dict[str, str | int]:
    since, ended = change.running_since, change.ended_at
    columns: dict[str, str | int | None] = {
        "model_id": text(change.model_id, "model_id"),
        "status": None if change.status is None else change.status.value,
        "running_since": None if since is None else rfc3339_ms(since),
        "ended_at": None if ended is None else rfc3339_ms(ended),
        "runtime_ms": whole(change.runtime_ms, "runtime_ms"),
        "artifact_count": whole(change.artifact_count, "artifact_count"),
        "error_code": text(change.error_code, "error_code"),
        "error_message": text(change.error_message, "error_message"),
    }
    return {name: value for name, value in columns.items() if value is not None}


def _first(rows: Iterable[tuple[Any, ...]]) -> SessionRecord | None:
    found = _records(rows)
    return found[0] if found else None


def _records(rows: Iterable[tuple[Any, ...]]) -> list[SessionRecord]:
    return [_record(row) for row in rows]


def _instant(stored: str | None) -> datetime | None:
    return None if stored is None else datetime.fromisoformat(stored)


def _record(row: tuple[Any, ...]) -> SessionRecord:
    return SessionRecord(
        session_id=row[0],
        run_id=row[1],
        agent_id=row[2],
        agent_label=row[3],
        model_id=row[4],
        task_title=row[5],
        task_text=row[6],
        task_category=row[7],
        status=SessionStatus(row[8]),
        started_at=datetime.fromisoformat(row[9]),
        ended_at=_instant(row[10]),
        runtime_ms=row[11],
        running_since=_instant(row[12]),
        artifact_count=row[13],
        error_code=row[14],
        error_message=row[15],
        source_version=row[16],
        ingested_at=datetime.fromisoformat(row[17]),
        total_tokens=row[18],
        cost_usd=row[19],
        cost_confidence=None if row[20] is None else CostConfidence(row[20]),
        gateway_session_id=row[21],
    )
