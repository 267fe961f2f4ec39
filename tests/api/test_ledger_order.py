"""The ledger's list in every order, by cursor and by page, against one sorted by hand."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlencode

import pytest

from ambientd.ports.store import Transaction
from ambientd.wire.routes import LEDGER
from tests.api.ingestkit import ARRIVAL, Ingest, ingesting
from tests.store.usagekit import add, use

COUNT = 130


class Listed:
    """Sessions with few different figures, so that ties abound, and the list over them."""

    def __init__(self, ingest: Ingest) -> None:
        self.ingest = ingest
        self.rows: list[dict[str, Any]] = []

    async def fill(self) -> None:
        source = Random(3)
        for number in range(COUNT):
            self.rows.append(
                {
                    "id": f"ses-{source.randrange(10**9):09}",
                    "start": ARRIVAL - timedelta(minutes=number % 40),
                    "agent": source.choice("ab"),
                    "category": source.choice((None, "c")),
                    "runtime": source.choice((None, 0, 5, 10, 2**40)),
                    "cost": source.choice((None, 0.0, 0.1, 0.30000000000000004, 12.5)),
                }
            )

        def work(tx: Transaction) -> None:
            for row in self.rows:
                add(
                    tx,
                    row["id"],
                    at=row["start"],
                    agent=row["agent"],
                    category=row["category"],
                    runtime_ms=row["runtime"],
                    title="deploy the thing",
                )
                if row["cost"] is not None:
                    use(tx, row["id"], cost_usd=row["cost"])

        await self.ingest.real_store.write(work)

    def sorted(self, sort: str, **chosen: Any) -> list[str]:
        rows = [row for row in self.rows if all(row[name] == value for name, value in chosen.items())]
        name = {"newest": "start", "runtime": "runtime", "cost": "cost"}[sort]
        rows.sort(key=lambda row: row["id"], reverse=True)
        known = [row for row in rows if row[name] is not None]
        known.sort(key=lambda row: row[name], reverse=True)
        return [row["id"] for row in [*known, *(row for row in rows if row[name] is None)]]

    async def page(self, **query: Any) -> Any:
        answer = await self.ingest.ask("GET", f"{LEDGER}?{urlencode(query)}")
        assert answer.status == 200, answer
        return json.loads(answer.body)

    async def problems(self, **query: Any) -> list[tuple[str, str]]:
        answer = await self.ingest.ask("GET", f"{LEDGER}?{urlencode(query)}")
        error = json.loads(answer.body)["error"]
        assert (answer.status, error["code"]) == (400, "VALIDATION_ERROR")
        return [(item["field"], item["issue"]) for item in error["details"]]

    async def walk(self, **query: Any) -> list[str]:
        """All pages by cursor."""
        found: list[str] = []
        for _ in range(COUNT + 1):
            page = await self.page(**query)
            found += [row["sessionId"] for row in page["rows"]]
            if "nextCursor" not in page:
                return found
            query["cursor"] = page["nextCursor"]
        raise AssertionError("the pages never end")


@asynccontextmanager
async def listed(folder: Path) -> AsyncIterator[Listed]:
    async with ingesting(folder) as ingest:
        found = Listed(ingest)
        await found.fill()
        yield found


@pytest.mark.parametrize("sort", ["newest", "runtime", "cost"])
@pytest.mark.parametrize("limit", [1, 7, 1000])
async def test_every_order_shows_every_session_once_whatever_the_page(
    tmp_path: Path, sort: str, limit: int
) -> None:
    async with listed(tmp_path) as found:
        assert await found.walk(sort=sort, limit=limit) == found.sorted(sort)
        assert await found.walk(sort=sort, limit=limit, agent="a") == found.sorted(sort, agent="a")
        assert await found.walk(sort=sort, limit=limit, category="") == found.sorted(sort, category=None)
        assert await found.walk(sort=sort, limit=limit, q="deploy the") == found.sorted(sort)


async def test_newest_is_the_order_when_none_is_named(tmp_path: Path) -> None:
    async with listed(tmp_path) as found:
        assert await found.walk(limit=50) == found.sorted("newest")


async def test_a_cursor_is_good_for_its_own_order_only(tmp_path: Path) -> None:
    async with listed(tmp_path) as found:
        cursors = {
            sort: (await found.page(sort=sort, limit=3))["nextCursor"]
            for sort in ("newest", "cost", "runtime")
        }
        for made, cursor in cursors.items():
            for sort in cursors:
                if sort != made:
                    assert await found.problems(sort=sort, cursor=cursor) == [("cursor", "invalid")]


async def test_a_session_that_arrives_in_between_disturbs_no_order(tmp_path: Path) -> None:
    async with listed(tmp_path) as found:
        first = await found.page(sort="cost", limit=60)
        await found.ingest.real_store.write(lambda tx: add(tx, "late", runtime_ms=1))
        await found.ingest.real_store.write(lambda tx: use(tx, "late", cost_usd=1000.0))
        rest = await found.walk(sort="cost", limit=60, cursor=first["nextCursor"])
        assert [row["sessionId"] for row in first["rows"]] + rest == found.sorted("cost")


@pytest.mark.parametrize("sort", ["newest", "runtime", "cost"])
async def test_pages_by_number_are_the_same_rows(tmp_path: Path, sort: str) -> None:
    async with listed(tmp_path) as found:
        seen: list[str] = []
        for number in range(1, 7):
            page = await found.page(sort=sort, page=number, pageSize=30)
            assert page["total"] == COUNT
            seen += [row["sessionId"] for row in page["rows"]]
        assert seen == found.sorted(sort)
        by_text = await found.page(page=2, pageSize=30, q="deploy")
        assert [row["sessionId"] for row in by_text["rows"]] == found.sorted("newest")[30:60]


async def test_a_page_says_how_to_go_on_by_cursor(tmp_path: Path) -> None:
    async with listed(tmp_path) as found:
        page = await found.page(page=2, pageSize=10)
        following = await found.page(cursor=page["nextCursor"], limit=10)
        assert [row["sessionId"] for row in following["rows"]] == found.sorted("newest")[20:30]


@pytest.mark.parametrize(
    ("query", "problems"),
    [
        ({"page": "0"}, [("page", "range")]),
        ({"page": "-1"}, [("page", "range")]),
        ({"page": "abc"}, [("page", "type")]),
        ({"pageSize": "0"}, [("pageSize", "range")]),
        ({"pageSize": "100000"}, [("pageSize", "range")]),
        ({"page": "201", "pageSize": "50"}, [("page", "range")]),
        ({"page": "999999999999999999"}, [("page", "range")]),
        ({"page": "1", "limit": "5"}, [("limit", "not_allowed")]),
        ({"sort": "price"}, [("sort", "enum")]),
        ({"sort": "cost", "cursor": "Y29zdCBpbmYgYQ=="}, [("cursor", "invalid")]),  # cost inf a
        ({"sort": "cost", "cursor": "Y29zdCBuYW4gYQ=="}, [("cursor", "invalid")]),  # cost nan a
    ],
)
async def test_pages_and_orders_that_do_not_exist_are_refused(
    tmp_path: Path, query: dict[str, str], problems: list[tuple[str, str]]
) -> None:
    async with listed(tmp_path) as found:
        assert await found.problems(**query) == problems


async def test_the_last_page_by_number_is_the_ten_thousandth_row(tmp_path: Path) -> None:
    async with listed(tmp_path) as found:
        assert (await found.page(page="200", pageSize="50"))["rows"] == []


async def test_the_longest_id_has_a_cursor_that_works(tmp_path: Path) -> None:
    async with ingesting(tmp_path) as ingest:
        found = Listed(ingest)
        longest = "𝄞" * 256
        for name in (longest, "a"):
            await ingest.real_store.write(lambda tx, name=name: add(tx, name))  # type: ignore[misc]  # bound now
        assert sorted(await found.walk(limit=1)) == sorted([longest, "a"])
