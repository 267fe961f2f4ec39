"""The ledger's list: every combination of filters in every order, against a list filtered by hand."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from itertools import product
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlencode

import pytest

from ambientd.core.timefmt import rfc3339_ms
from ambientd.ports.store import Transaction
from ambientd.wire.routes import LEDGER
from tests.api.ingestkit import ARRIVAL, Ingest, ingesting
from tests.store.usagekit import add, use

COUNT = 240
TITLES = ("deploy the gate", "Deploy 100%", 'say "gate"', None)
# The same two instants as people write them.
BEGIN, END = ARRIVAL - timedelta(minutes=90), ARRIVAL - timedelta(minutes=20)
EAST = timezone(timedelta(hours=5, minutes=45))
CHOICES: dict[str, str] = {
    "agent": "a",
    "status": "failed,success",
    "model": "m/1",
    "from": BEGIN.astimezone(EAST).isoformat(),
    "to": rfc3339_ms(END),
    "q": "deploy",
}


def fits(row: dict[str, Any], query: dict[str, str]) -> bool:
    return (
        query.get("agent", row["agent"]) == row["agent"]
        and query.get("model", row["model"]) == row["model"]
        and row["status"] in query.get("status", row["status"]).split(",")
        and ("from" not in query or row["at"] >= BEGIN)
        and ("to" not in query or row["at"] < END)
        and ("q" not in query or "deploy" in (row["title"] or "").lower())
    )


def order(rows: list[dict[str, Any]], sort: str) -> list[str]:
    """Largest first, unknown last; ties by id, descending."""
    name = {"newest": "at", "runtime": "runtime_ms", "cost": "cost"}[sort]
    by_id = sorted(rows, key=lambda row: str(row["id"]), reverse=True)
    known = [row for row in by_id if row[name] is not None]
    known.sort(key=lambda row: row[name], reverse=True)
    return [row["id"] for row in [*known, *(row for row in by_id if row[name] is None)]]


@asynccontextmanager
async def filled(folder: Path) -> AsyncIterator[tuple[Ingest, list[dict[str, Any]]]]:
    source = Random(11)
    rows: list[dict[str, Any]] = [
        {
            "id": f"ses-{number * 7919 % 1000:03}",
            "at": ARRIVAL - timedelta(minutes=number % 120),
            "agent": source.choice("ab"),
            "model": source.choice(("m/1", "m/2")),
            "status": source.choice(("success", "failed", "killed", "cancelled")),
            "runtime_ms": source.choice((None, 0, 5, 2**40)),
            "title": source.choice(TITLES),
            "cost": source.choice((None, 0.0, 0.1, 12.5)),
        }
        for number in range(COUNT)
    ]

    def work(tx: Transaction) -> None:
        for row in rows:
            facts = {name: row[name] for name in ("at", "agent", "model", "status", "runtime_ms", "title")}
            add(tx, row["id"], **facts)
            if row["cost"] is not None:
                use(tx, row["id"], cost_usd=row["cost"])

    async with ingesting(folder) as ingest:
        await ingest.real_store.write(work)
        yield ingest, rows


async def listed(ingest: Ingest, query: dict[str, str]) -> tuple[list[str], int]:
    """Ids of all pages by cursor, and the total of the first."""
    found: list[str] = []
    cursor: dict[str, str] = {}
    total = -1
    for _ in range(COUNT):
        answer = await ingest.ask("GET", f"{LEDGER}?{urlencode({**query, **cursor, 'limit': '100'})}")
        assert answer.status == 200, answer
        page = json.loads(answer.body)
        found += [row["sessionId"] for row in page["rows"]]
        total = page["total"] if total < 0 else total
        if "nextCursor" not in page:
            return found, total
        cursor = {"cursor": page["nextCursor"]}
    raise AssertionError("the pages never end")


@pytest.mark.parametrize("sort", ["newest", "runtime", "cost"])
async def test_every_combination_of_filters_lists_exactly_what_fits(sort: str, tmp_path: Path) -> None:
    empty = 0
    async with filled(tmp_path) as (ingest, rows):
        for wanted in product((False, True), repeat=len(CHOICES)):
            query = {name: value for (name, value), on in zip(CHOICES.items(), wanted, strict=True) if on}
            expected = order([row for row in rows if fits(row, query)], sort)
            assert await listed(ingest, query | {"sort": sort}) == (expected, len(expected)), query
            empty += not expected
    assert empty < 8  # or nothing is compared


@pytest.mark.parametrize(
    ("written", "instant"),
    [
        ("2026-02-18T11:30:00Z", datetime(2026, 2, 18, 11, 30, tzinfo=UTC)),
        ("2026-02-18T12:30:00+01:00", datetime(2026, 2, 18, 11, 30, tzinfo=UTC)),
        ("2026-02-18T06:30:00.000-05:00", datetime(2026, 2, 18, 11, 30, tzinfo=UTC)),
        ("2026-02-18", datetime(2026, 2, 18, tzinfo=UTC)),
        ("2026-02-17T23:59:59.999-12:00", datetime(2026, 2, 18, 11, 59, 59, 999_000, tzinfo=UTC)),
    ],
)
async def test_bounds_are_instants_whatever_their_spelling(
    written: str, instant: datetime, tmp_path: Path
) -> None:
    async with filled(tmp_path) as (ingest, rows):
        since, _ = await listed(ingest, {"from": written})
        until, _ = await listed(ingest, {"to": written})
    assert set(since) == {row["id"] for row in rows if row["at"] >= instant}
    assert set(until) == {row["id"] for row in rows if row["at"] < instant}


@pytest.mark.parametrize(
    ("text", "titles"),
    [
        ("%", {"Deploy 100%"}),
        ('"', {'say "gate"'}),
        ("*", set()),
        ("_", set()),
        ("deploy AND gate", set()),
        ("deploy OR say", set()),
        ("the gate", {"deploy the gate"}),
        ("task_title:gate", set()),
    ],
)
async def test_text_is_searched_for_as_it_is(text: str, titles: set[str], tmp_path: Path) -> None:
    async with filled(tmp_path) as (ingest, rows):
        found, _ = await listed(ingest, {"q": text})
    assert set(found) == {row["id"] for row in rows if row["title"] in titles}
