"""The ingest route over a real database, and the questions that tests ask of the file from outside."""

import hashlib
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import trio

from ambientd.api.ingest import ingest_routes
from ambientd.api.ledger import Ledger, ledger_routes
from ambientd.api.router import build_application
from ambientd.config.schema import ModelPrices
from ambientd.core.contracts.rejections import Rejections
from ambientd.core.pricing import PriceTable
from ambientd.core.target import Target, parse_target
from ambientd.flows.ingest import IngestFlow
from ambientd.host.threads import run_inline
from ambientd.ports.http import Caller, Request, Response
from ambientd.services.news import NewsBoard
from ambientd.store.sqlite import SqliteStore
from ambientd.wire.routes import INGEST
from tests.fakes.http_log import ListHttpLog
from tests.fakes.store import TroubledStore
from tests.store.kit import StillClock

OPERATOR = Caller(transport="unix", uid=1000, pid=7, may_write=True)
READER = Caller(transport="unix", uid=1001, pid=8, may_write=False)
START = "2026-02-18T10:00:00Z"
ARRIVAL = datetime(2026, 2, 18, 12, tzinfo=UTC)
DATA = Path(__file__).resolve().parents[1] / "data" / "ingest"
PRICES = PriceTable("2026-02", {"known/*": ModelPrices(input=Decimal(3), output=Decimal(15))})
TABLES = (
    "session_ledger",
    "session_event_rows",
    "session_usage_rows",
    "ingest_keys",
    "session_accounted",
    "daily_usage_agg",
    "model_perf_agg",
    "audit_records",
)


def session(state: str = "success", **fields: Any) -> dict[str, Any]:
    """A session of one id; fields that are None are left out."""
    base: dict[str, Any] = {"id": "ses-1", "agent_id": "peter", "state": state, "started_at": START}
    base |= fields
    return {name: value for name, value in base.items() if value is not None}


def envelope(state: str = "success", **fields: Any) -> dict[str, Any]:
    """A `v1` envelope; `events`, `usage`, `key` and `source` are taken out of the fields."""
    parts = {name: fields.pop(name) for name in ("events", "usage") if name in fields}
    key, source = fields.pop("key", None), fields.pop("source", "gateway")
    document: dict[str, Any] = {
        "envelope_version": "v1",
        "source": source,
        "payload": {"session": session(state, **fields), **parts},
    }
    if key is not None:
        document["idempotency_key"] = key
    return document


def event(number: int | None = None, kind: str = "message", **fields: Any) -> dict[str, Any]:
    """An event one second into the session for each number."""
    base: dict[str, Any] = {"event_type": kind, "event_ts": f"2026-02-18T10:00:{number or 1:02}Z"}
    if number is not None:
        base["seq"] = number
    return base | {"payload": {"text": f"line {number}"}} | fields


class Ingest:
    """Hands envelopes in, and looks at the file behind."""

    def __init__(self, store: SqliteStore, path: Path) -> None:
        self.path = path
        self.real_store = store
        self.store = TroubledStore(store)
        self.clock = StillClock(ARRIVAL)
        self.log = ListHttpLog()
        self.changed: list[str] = []
        self.ended: list[str] = []
        self.prices: PriceTable | None = PRICES
        self.rejections = Rejections()
        flow = IngestFlow(
            store=self.store,
            clock=self.clock,
            prices=lambda: self.prices,
            rejections=self.rejections,
            changed=self.changed.append,
            ended=self.ended.append,
        )
        ledger = Ledger(store=self.store, news=NewsBoard(), clock=self.clock, monotonic=trio.current_time)
        self.application = build_application(
            (*ingest_routes(flow), *ledger_routes(ledger)),
            readiness=lambda: store.facts().reason,
            log=self.log,
            admin_group="ambient-admin",
        )

    async def ask(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        caller: Caller = OPERATOR,
        content_type: str = "application/json",
    ) -> Response:
        found = parse_target(target.encode())
        assert isinstance(found, Target), found
        return await self.application(
            Request(
                method=method,
                path=found.path,
                query=found.query,
                headers={"content-type": content_type} if body else {},
                body=body,
                caller=caller,
                request_id="req-1",
            )
        )

    async def send(self, document: Any, **more: Any) -> tuple[int, Any]:
        """Status and JSON of handing in; bytes go as they are."""
        raw = document if isinstance(document, bytes) else msgspec.json.encode(document)
        answer = await self.ask("POST", INGEST, raw, **more)
        return answer.status, json.loads(answer.body)

    async def take(self, document: Any, *, replay: bool = False) -> None:
        """Hands in what must be taken."""
        status, answer = await self.send(document)
        assert status == 200, answer
        name = document["payload"].get("session") or document["payload"]["run"]
        session_id = name.get("id") or name.get("sessionId")
        assert answer == {"ok": True, "session_id": session_id, "idempotent_replay": replay}

    async def refuse(self, document: Any, status: int, code: str) -> list[tuple[str, str]]:
        """Hands in what must be refused and leaves no trace; its pairs of field and issue."""
        before = self.state()
        found, answer = await self.send(document)
        assert (found, answer["error"]["code"]) == (status, code), answer
        assert self.state() == before
        return [(item["field"], item["issue"]) for item in answer["error"]["details"]]

    async def detail(self, session_id: str = "ses-1") -> Any:
        """The session's detail, by the API."""
        answer = await self.ask("GET", f"/api/v3/ledger/{session_id}")
        assert answer.status == 200, answer
        return json.loads(answer.body)

    # --- the file, from outside

    def sql(self, query: str, *values: Any) -> list[Any]:
        """Rows of a read-only look at the database by another library."""
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as connection:
            return connection.execute(query, values).fetchall()

    def row(self, table: str, session_id: str = "ses-1") -> dict[str, Any]:
        """One row of a table with a session id, by column."""
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            sql = f"SELECT * FROM {table} WHERE session_id = ?"  # noqa: S608 - a name from the test
            (found,) = connection.execute(sql, (session_id,)).fetchall()
            return dict(found)

    def counts(self) -> dict[str, int]:
        """Rows of every table that an ingest writes, the full-text index included."""
        tables = [*TABLES, "session_search_docsize"]
        return {name: self.sql(f"SELECT count(*) FROM {name}")[0][0] for name in tables}  # noqa: S608

    def state(self) -> str:
        """A digest of everything in the database, and its size in pages."""
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as connection:
            digest = hashlib.sha256()
            for name in TABLES:
                for found in connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2"):  # noqa: S608
                    digest.update(repr(found).encode())
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            return f"{digest.hexdigest()} {pages}"


@asynccontextmanager
async def ingesting(folder: Path, *, inline: bool = True) -> AsyncIterator[Ingest]:
    """The route over a database in `folder`; `inline` writes without a thread."""
    path = folder / "ambient.db"
    settings: dict[str, Any] = {"run_sync": run_inline} if inline else {}
    store = SqliteStore(path, clock=StillClock(ARRIVAL), ballast=0, **settings)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: store.run(task_status=task_status))
        await store.wait_settled()
        yield Ingest(store, path)
        await store.close()
