"""What the store's tests share: a clock that stands still, databases with the schema, an open store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import trio

from ambientd.core.records import NewEvent, NewSession, UsageRecord
from ambientd.ports.store import Transaction
from ambientd.store.migrate import default_folder, known_migrations, migrate
from ambientd.store.recover import open_database
from ambientd.store.search import INDEX_NOTED, register
from ambientd.store.sqlite import SqliteStore
from ambientd.store.unit import SqliteTransaction
from ambientd.wire.enums import EventType, SessionStatus

AT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


class StillClock:
    """`ports.clock.Clock` that moves when it is told to."""

    def __init__(self, at: datetime = AT) -> None:
        self.at = at
        self.seconds = 0.0

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.seconds


def new_session(session_id: str, *, second: int = 0, **fields: Any) -> NewSession:
    facts: dict[str, Any] = {
        "agent_id": "reviewer",
        "agent_label": "Code reviewer",
        "status": SessionStatus.QUEUED,
        "started_at": AT + timedelta(seconds=second),
    }
    return NewSession(session_id=session_id, **(facts | fields))


def new_event(text: str = "hello", *, second: int = 0, event_type: EventType = EventType.MESSAGE) -> NewEvent:
    return NewEvent(event_type=event_type, at=AT + timedelta(seconds=second), payload={"text": text})


def ingest(tx: Transaction, session_id: str, *, events: int = 2, **fields: Any) -> None:
    """One session with events and a usage row."""
    tx.ledger.add(new_session(session_id, **fields))
    tx.ledger.append(session_id, [new_event(f"line {n}", second=n) for n in range(events)])
    tx.usage.put(UsageRecord(session_id=session_id, total_tokens=7, computed_at=AT))


def migrated(path: Path) -> apsw.Connection:
    """A new database at `path` with the whole schema, open for writing."""
    known = known_migrations(default_folder())
    connection = open_database(path, clock=StillClock(), busy_timeout=1, newest=len(known))
    migrate(connection, known, StillClock())
    register(connection)
    return connection


def in_memory() -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    connection.execute("PRAGMA foreign_keys = ON")
    migrate(connection, known_migrations(default_folder()), StillClock())
    register(connection)
    return connection


@asynccontextmanager
async def opened(path: Path, **settings: Any) -> AsyncIterator[SqliteStore]:
    """A running store after its first attempt to open; closed at the end."""
    facts: dict[str, Any] = {"clock": StillClock(), "busy_timeout": 1.0, "ballast": 0}
    store = SqliteStore(path, **(facts | settings))
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await store.wait_settled()
        yield store
        await store.close()


def sql_of(path: Path, sql: str) -> list[Any]:
    """Rows of a query, over a connection of its own, while a store of this process has the file open.

    Not with the standard library's sqlite3: that is another copy of SQLite in the same process, and closing
    its file would drop the locks of ours.
    """
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.set_busy_timeout(5_000)
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


OLD_ROWS = """
INSERT INTO session_ledger (session_id, agent_id, agent_label, model_id, task_title, status, started_at,
    ended_at, runtime_ms, ingested_at)
VALUES
    ('old-1', 'a', 'A', 'm', 'Refactor the gate', 'success', '2026-11-19T23:59:59.999Z',
        '2026-11-20T00:00:09.999Z', 10000, '2026-11-20T00:01:00.000Z'),
    ('old-2', 'b', 'B', 'm', NULL, 'failed', '2026-11-20T10:00:00.000Z',
        '2026-11-20T10:00:05.000Z', 5000, '2026-11-20T10:01:00.000Z');
INSERT INTO session_events (event_id, session_id, seq, event_type, event_ts, payload_json)
VALUES
    ('old-1:1', 'old-1', 1, 'message', '2026-11-20T00:00:00.250Z', '{"text":"one"}'),
    ('own-id', 'old-1', 2, 'error', '2026-11-20T00:00:01.000Z', '{"text":"two"}');
INSERT INTO session_usage (session_id, prompt_tokens, total_tokens, runtime_ms, cost_usd, cost_confidence,
    pricing_version, cost_source, computed_at, token_source)
VALUES
    ('old-1', 4, 10, 10000, 0.25, 'exact', 'provider_native', 'provider_reported',
        '2026-11-20T00:01:00.000Z', 'provider_reported');
INSERT INTO audit_records VALUES (1, 'k', '2026-11-20T00:01:00.000Z', 'a', 's', '{}',
    '0000000000000000000000000000000000000000000000000000000000000000',
    '1111111111111111111111111111111111111111111111111111111111111111');
"""


def of_version(path: Path, version: int) -> None:
    """A database as the program of that schema version left it: two sessions, and all that hangs on one.

    Migrations never change once they are applied (their checksums are kept), so the first of them are that
    schema.
    """
    known = known_migrations(default_folder())[:version]
    connection = open_database(path, clock=StillClock(), busy_timeout=1, newest=version)
    migrate(connection, known, StillClock())
    register(connection)
    connection.execute(OLD_ROWS)
    if version >= 2:  # before that, there were no sums
        for session_id in ("old-1", "old-2"):
            SqliteTransaction(connection, AT).usage.account(session_id)
    if version >= 3:  # before that, triggers indexed the words at once
        for statement in INDEX_NOTED:
            if version >= 5 or "session_end_search" not in statement:
                connection.execute(statement)
    connection.close()
