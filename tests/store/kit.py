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
from ambientd.store.search import register
from ambientd.store.sqlite import SqliteStore
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
