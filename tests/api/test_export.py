"""The export: every session of a query, streamed, in both formats."""

import csv
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import trio

from ambientd.api.export import BATCH, export_routes
from ambientd.api.ledger import Ledger, ledger_routes
from ambientd.api.router import build_application
from ambientd.ports.store import Transaction
from ambientd.services.news import NewsBoard
from ambientd.wire.routes import LEDGER, LEDGER_EXPORT
from tests.api.ingestkit import ARRIVAL, Ingest, ingesting
from tests.store.usagekit import add, use

COUNT = 3 * BATCH + 5


class Exported:
    """The list and the export over the same sessions."""

    def __init__(self, ingest: Ingest) -> None:
        self.ingest = ingest
        ledger = Ledger(
            store=ingest.real_store, news=NewsBoard(), clock=ingest.clock, monotonic=trio.current_time
        )
        ingest.application = build_application(
            (*ledger_routes(ledger), *export_routes(ledger)),
            readiness=lambda: ingest.real_store.facts().reason,
            log=ingest.log,
            admin_group="ambient-admin",
        )

    async def parts(self, **query: str) -> list[bytes]:
        answer = await self.ingest.ask("GET", f"{LEDGER_EXPORT}?{urlencode(query)}")
        assert answer.status == 200
        assert answer.stream is not None
        return [part async for part in answer.stream]

    async def lines(self, **query: str) -> list[dict[str, Any]]:
        data = b"".join(await self.parts(format="ndjson", **query))
        return [json.loads(line) for line in data.splitlines()]

    async def listed(self, **query: str) -> list[dict[str, Any]]:
        answer = await self.ingest.ask("GET", f"{LEDGER}?{urlencode({**query, 'limit': '1000'})}")
        rows: list[dict[str, Any]] = json.loads(answer.body)["rows"]
        return rows


def fill(tx: Transaction) -> None:
    for number in range(COUNT):
        add(
            tx,
            f"ses-{number:04}",
            at=ARRIVAL - timedelta(seconds=number % 100),
            agent="ab"[number % 2],
            category=None if number % 3 else "c",
            status=("success", "failed")[number % 7 == 0],
            runtime_ms=number * 37 % 101,
            title=f'=HYPERLINK("x"), {number}\nsecond line',
        )
        if number % 5:
            use(tx, f"ses-{number:04}", cost_usd=number / 8)


@asynccontextmanager
async def exported(folder: Path) -> AsyncIterator[Exported]:
    async with ingesting(folder) as ingest:
        await ingest.real_store.write(fill)
        yield Exported(ingest)


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"agent": "a"},
        {"status": "failed"},
        {"category": ""},
        {"category": "c", "agent": "b"},
        {"from": "2026-02-18T11:59:00Z", "to": "2026-02-18T11:59:30Z"},
        {"q": "second line"},
        {"sort": "cost"},
        {"sort": "runtime", "model": "m"},
        {"agent": "nobody"},
    ],
)
async def test_the_export_has_the_rows_of_the_list_in_its_order(
    tmp_path: Path, query: dict[str, str]
) -> None:
    async with exported(tmp_path) as found:
        assert await found.lines(**query) == await found.listed(**query)


async def test_csv_is_the_format_when_none_is_named_and_is_safe_to_open(tmp_path: Path) -> None:
    async with exported(tmp_path) as found:
        answer = await found.ingest.ask("GET", LEDGER_EXPORT)
        assert answer.content_type == "text/csv; charset=utf-8"
        assert dict(answer.headers)["Content-Disposition"] == 'attachment; filename="sessions.csv"'
        text = b"".join(await found.parts()).decode()
        header, *rows = csv.reader(io.StringIO(text, newline=""))
        assert len(rows) == COUNT
        titles = [dict(zip(header, row, strict=True))["taskTitle"] for row in rows]
        assert all(title.startswith("'=HYPERLINK") for title in titles)


async def test_only_so_many_sessions_are_in_memory_at_a_time(tmp_path: Path) -> None:
    async with exported(tmp_path) as found:
        parts = await found.parts(format="ndjson")
        assert [part.count(b"\n") for part in parts] == [BATCH, BATCH, BATCH, 5]


async def test_sessions_that_come_and_go_meanwhile_disturb_nothing(tmp_path: Path) -> None:
    async with exported(tmp_path) as found:
        before = [row["sessionId"] for row in await found.listed()]
        answer = await found.ingest.ask("GET", f"{LEDGER_EXPORT}?format=ndjson")
        assert answer.stream is not None
        seen: list[str] = []
        async for part in answer.stream:
            seen += [json.loads(line)["sessionId"] for line in part.splitlines()]
            if len(seen) == BATCH:
                await found.ingest.real_store.write(lambda tx: add(tx, "ses-new", at=ARRIVAL))
                await found.ingest.real_store.write(
                    lambda tx: tx.retention.remove(ARRIVAL - timedelta(seconds=98), 1000, ("", ""))
                )
        kept = {row["sessionId"] for row in await found.listed()}
        assert seen == [name for name in before if name in kept]
        assert len(seen) < COUNT


@pytest.mark.parametrize(
    "query", [{"format": "xml"}, {"limit": "5"}, {"cursor": "x"}, {"page": "1"}, {"status": "nope"}]
)
async def test_what_cannot_be_exported_is_refused_before_anything_is_sent(
    tmp_path: Path, query: dict[str, str]
) -> None:
    async with exported(tmp_path) as found:
        answer = await found.ingest.ask("GET", f"{LEDGER_EXPORT}?{urlencode(query)}")
        error = json.loads(answer.body)["error"]
        assert (answer.status, [item["field"] for item in error["details"]]) == (400, list(query))


async def test_an_empty_ledger_exports_a_header_and_nothing(tmp_path: Path) -> None:
    async with ingesting(tmp_path) as ingest:
        found = Exported(ingest)
        assert b"".join(await found.parts()).startswith(b"sessionId,")
        assert await found.parts(format="ndjson") == []
