"""Usage and performance over HTTP against sums that are made slowly from the ledger's own answers.

Every cell leads to exactly the sessions that it counts: its `drilldown` is followed with `GET
/api/v3/ledger` (FR-CF, R3.113, R3.117, R3.119).
"""

import json
import math
import random
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import trio

from ambientd.api.analytics import analytics_routes
from ambientd.api.ledger import Ledger, ledger_routes
from ambientd.api.router import build_application
from ambientd.core.contracts.canonical import CanonicalIngest
from ambientd.core.contracts.registry import read
from ambientd.core.rejection import Rejected
from ambientd.core.timefmt import rfc3339_ms
from ambientd.flows.analytics import Analytics
from ambientd.flows.ingest import apply
from ambientd.host.zones import find_zone
from ambientd.ports.store import Transaction
from ambientd.services.news import NewsBoard
from ambientd.wire.routes import ANALYTICS_PERFORMANCE, ANALYTICS_USAGE, LEDGER
from tests.api.ingestkit import ARRIVAL, PRICES, Ingest, ingesting
from tests.api.kit import fits

# As the public V4.1 build answered (facts/v3-shapes); figures that may be unknown are checked apart.
SUMS = {"runs": "int", "tokens": "int", "runtimeMs": "int", "costUsd": "num"}
USAGE_SHAPE = {"totals": SUMS, "series": [{"date": "str", **SUMS}]}
COUNTS = ("runsTotal", "successCount", "failureCount")
MATRIX_SHAPE = [
    {
        "modelId": "str",
        **dict.fromkeys(COUNTS, "int"),
        "successRate": "num",
        "failedDrilldown": {
            "status": "failed",
            "model": "str",
            "from?": "iso",
            "to?": "iso",
            "agent?": "str",
        },
    }
]
SESSIONS = 400
NEWEST = datetime(2026, 2, 18, 11, 59, tzinfo=UTC)
ENDED = {"success", "failed", "killed", "cancelled"}


def envelopes(seed: int) -> list[dict[str, Any]]:
    """Sessions of twenty days, with whatever may be missing missing here and there."""
    rng = random.Random(seed)
    found = []
    for number in range(SESSIONS):
        start = NEWEST - timedelta(milliseconds=rng.randrange(20 * 86_400_000))
        start = start.replace(microsecond=rng.choice([0, 0, 999_000]))
        state = rng.choice(["running", "success", "success", "success", "failed", "killed", "cancelled"])
        session = {
            "id": f"ses-{number:04}",
            "agent_id": rng.choice(["peter", "tony", "a&b=c"]),
            "state": state,
            "started_at": rfc3339_ms(start),
            "model_id": rng.choice(["known/a", "other", "rare" if rng.random() < 0.03 else "known/b", None]),
            "task_category": rng.choice([None, "review", "build"]),
            "ended_at": rfc3339_ms(start + timedelta(seconds=9))
            if state in ENDED and rng.random() < 0.3
            else None,
        }
        usage = {
            "prompt_tokens": rng.choice([None, 0, 700, 12]),
            "completion_tokens": rng.choice([None, 0, 31]),
            "runtime_ms": rng.choice([None, rng.randrange(100_000)]) if state in ENDED else None,
            "cost_usd": rng.choice([None, None, 0.1, 0.2, 0.0125]),
        }
        parts = [
            {key: value for key, value in part.items() if value is not None} for part in (session, usage)
        ]
        payload = {"session": parts[0], "usage": parts[1]}
        found.append({"envelope_version": "v1", "source": "test", "payload": payload})
    return found


class Rows:
    """The routes over a ledger, and the ledger's own rows to add up."""

    def __init__(self, ingest: Ingest) -> None:
        self.ingest = ingest
        store, clock = ingest.real_store, ingest.clock
        ledger = Ledger(store=store, news=NewsBoard(), clock=clock, monotonic=trio.current_time)
        analytics = Analytics(store=store, clock=clock, find_zone=find_zone)
        ingest.application = build_application(
            (*ledger_routes(ledger), *analytics_routes(analytics)),
            readiness=lambda: store.facts().reason,
            log=ingest.log,
            admin_group="ambient-admin",
        )
        self.all: list[dict[str, Any]] = []

    async def get(self, path: str, **query: str) -> Any:
        answer = await self.ingest.ask("GET", f"{path}?{urlencode(query)}" if query else path)
        assert answer.status == 200, answer
        return json.loads(answer.body)

    async def listed(self, **query: str) -> set[str]:
        """Ids of all rows of the list, page by page."""
        found: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = await self.get(LEDGER, **query, **cursor, limit="150")
            found += [row["sessionId"] for row in page["rows"]]
            if "nextCursor" not in page:
                assert len(found) == page["total"] == len(set(found))
                return set(found)
            cursor = {"cursor": page["nextCursor"]}

    async def load(self) -> None:
        """Every ended session as its detail says."""
        for name in sorted(await self.listed(status=",".join(ENDED))):
            detail = await self.get(f"{LEDGER}/{name}")
            row = detail["ledger"]
            usage = detail.get("usage", {})
            known = usage.get("runtimeSource", "missing") != "missing"
            self.all.append(row | {"usage": usage, "runtime": row["runtimeMs"] if known else None})

    def chosen(self, query: dict[str, str]) -> list[dict[str, Any]]:
        """Rows that fit the filters of an analytics query, in UTC."""

        def instant(text: str) -> datetime:
            at = datetime.fromisoformat(text)
            return at if at.tzinfo else at.replace(tzinfo=UTC)

        names = {"agent": "agentId", "model": "modelId", "task": "taskCategory"}
        return [
            row
            for row in self.all
            if all(row.get(names[key], "") == query[key] for key in names if key in query)
            and ("from" not in query or instant(row["startedAt"]) >= instant(query["from"]))
            and ("to" not in query or instant(row["startedAt"]) < instant(query["to"]))
        ]


@asynccontextmanager
async def filled(folder: Path) -> AsyncIterator[Rows]:
    async with ingesting(folder) as ingest:

        def work(tx: Transaction) -> None:
            for document in envelopes(7):
                found = read(document)
                assert isinstance(found, CanonicalIngest), found
                assert not isinstance(apply(tx, found, ARRIVAL, prices=PRICES), Rejected)

        await ingest.real_store.write(work)
        rows = Rows(ingest)
        await rows.load()
        assert 250 < len(rows.all) < SESSIONS
        yield rows


def check_sums(cell: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    usage = [row["usage"] for row in rows]
    assert cell["runs"] == len(rows)
    assert cell["tokens"] == sum(item.get("totalTokens", 0) for item in usage)
    assert cell["runtimeMs"] == sum(row["runtimeMs"] for row in rows)
    assert cell["costUsd"] == sum(round(item.get("costUsd", 0) * 1e9) for item in usage) / 1e9
    assert cell["costKnown"] == sum("costUsd" in item for item in usage)
    assert cell["runtimeKnown"] == sum(row["runtime"] is not None for row in rows)


def key_of(row: dict[str, Any], group: str) -> str:
    day = datetime.fromisoformat(row["startedAt"]).date()
    match group:
        case "day":
            return day.isoformat()
        case "week":
            return (day - timedelta(days=day.weekday())).isoformat()
        case "agent":
            return str(row["agentId"])
        case "model":
            return str(row["modelId"])
        case _:
            return str(row.get("taskCategory", ""))


QUERIES: list[dict[str, str]] = [
    {},
    {"from": "2026-02-01", "to": "2026-02-10"},
    {"from": "2026-02-03T07:30:00.500+01:00", "to": "2026-02-03T23:59:59.999Z"},
    {"agent": "a&b=c", "from": "2026-02-05T12:00:00Z"},
    {"model": "known/a", "task": "review"},
    {"task": "", "agent": "tony"},
    {"agent": "nobody"},
]
GROUPS = {"day": "date", "week": "date", "agent": "agentId", "model": "modelId", "task": "taskCategory"}


async def test_usage_is_the_sum_of_the_sessions_that_each_point_leads_to(tmp_path: Path) -> None:
    async with filled(tmp_path) as rows:
        for query in QUERIES:
            chosen = rows.chosen(query)
            for group, name in GROUPS.items():
                answer = await rows.get(ANALYTICS_USAGE, groupBy=group, **query)
                check_sums(answer["totals"], chosen)
                seen = 0
                for point in answer["series"]:
                    key = point.get(name, "")
                    mine = [row for row in chosen if key_of(row, group) == key]
                    check_sums(point, mine)
                    seen += len(mine)
                    if group != "day" or query in (QUERIES[2], QUERIES[3]):
                        assert await rows.listed(**point["drilldown"]) == {r["sessionId"] for r in mine}
                assert seen == len(chosen)


async def test_usage_has_the_recorded_shape_and_counts_its_sources(tmp_path: Path) -> None:
    async with filled(tmp_path) as rows:
        answer = await rows.get(ANALYTICS_USAGE)
        assert fits(answer, USAGE_SHAPE) == []
        for figure, name in (("token", "tokenSource"), ("runtime", "runtimeSource"), ("cost", "costSource")):
            found = answer["provenance"][figure]
            assert found == {
                word: sum(row["usage"].get(name, "missing") == word for row in rows.all)
                for word in ("provider_reported", "derived", "missing")
            }
            assert sum(found.values()) == answer["totals"]["runs"] == len(rows.all)


async def test_a_week_is_the_sum_of_its_seven_days(tmp_path: Path) -> None:
    async with filled(tmp_path) as rows:
        days = (await rows.get(ANALYTICS_USAGE))["series"]
        for week in (await rows.get(ANALYTICS_USAGE, groupBy="week"))["series"]:
            monday = datetime.fromisoformat(week["date"]).date()
            names = {(monday + timedelta(days=place)).isoformat() for place in range(7)}
            mine = [day for day in days if day["date"] in names]
            for figure in ("runs", "tokens", "runtimeMs"):
                assert week[figure] == sum(day[figure] for day in mine)


async def test_a_day_of_another_zone_is_that_zones_day(tmp_path: Path) -> None:
    zone = find_zone("Asia/Kathmandu")  # +05:45
    assert zone is not None
    async with filled(tmp_path) as rows:
        answer = await rows.get(ANALYTICS_USAGE, tz="Asia/Kathmandu")
        assert sum(point["runs"] for point in answer["series"]) == len(rows.all)
        for point in answer["series"]:
            mine = [
                row
                for row in rows.all
                if datetime.fromisoformat(row["startedAt"]).astimezone(zone).date().isoformat()
                == point["date"]
            ]
            check_sums(point, mine)


async def test_a_lost_bucket_is_built_again_and_changes_no_answer(tmp_path: Path) -> None:
    async with filled(tmp_path) as rows:
        before = await rows.get(ANALYTICS_USAGE, groupBy="model")
        count = "SELECT count(*) FROM daily_usage_agg"
        stored = rows.ingest.sql(count)

        def lose(tx: Any) -> None:
            tx._connection.execute("DELETE FROM daily_usage_agg WHERE bucket_date LIKE '2026-02-1%'")

        await rows.ingest.real_store.write(lose)
        assert rows.ingest.sql(count) < stored
        assert await rows.get(ANALYTICS_USAGE, groupBy="model") == before
        assert rows.ingest.sql(count) == stored


MATRIX_QUERIES: list[dict[str, str]] = [
    {},
    {"from": "2026-02-01", "to": "2026-02-10", "agent": "tony"},
    {"task": "review"},
    {"task": "", "minSample": "30"},
    {"from": "2026-02-09T10:00:00Z"},
]


async def test_the_matrix_is_what_its_sessions_say_and_leads_to_them(tmp_path: Path) -> None:
    async with filled(tmp_path) as rows:
        for query in MATRIX_QUERIES:
            chosen = rows.chosen(query)
            answer = await rows.get(ANALYTICS_PERFORMANCE, **query)
            least = int(query.get("minSample", "5"))
            assert fits(answer["rows"], MATRIX_SHAPE) == []
            assert {row["modelId"] for row in answer["rows"]} == {row["modelId"] for row in chosen}
            for row in answer["rows"]:
                mine = [item for item in chosen if item["modelId"] == row["modelId"]]
                check_row(row, mine)
                assert row["sampleWarning"] is (len(mine) < least)
                failed = {item["sessionId"] for item in mine if item["status"] == "failed"}
                assert await rows.listed(**row["failedDrilldown"]) == failed
                assert row["failureCount"] == len(failed)
                assert await rows.listed(**row["drilldown"]) == {item["sessionId"] for item in mine}


def check_row(row: dict[str, Any], mine: list[dict[str, Any]]) -> None:
    states = [item["status"] for item in mine]
    assert row["runsTotal"] == len(mine)
    assert row["successCount"] == states.count("success")
    assert (row["killedCount"], row["cancelledCount"]) == (states.count("killed"), states.count("cancelled"))
    assert row["successRate"] == states.count("success") / len(mine)
    runtimes = sorted(
        item["runtime"]
        for item in mine
        if item["runtime"] is not None and (item["status"], item["runtime"]) != ("cancelled", 0)
    )
    assert row["runtimeKnown"] == len(runtimes)
    assert row["medianRuntimeMs"] == (statistics.median(runtimes) if runtimes else None)
    rank = math.ceil(len(runtimes) * 95 / 100)
    assert repr(row["p95RuntimeMs"]) == repr(runtimes[rank - 1] if runtimes else None)  # whole, as recorded
    costs = [item["usage"]["costUsd"] for item in mine if "costUsd" in item["usage"]]
    assert row["costKnown"] == len(costs)
    if costs:
        assert row["medianCostUsd"] == pytest.approx(statistics.median(costs), abs=1e-9)
    else:
        assert row["medianCostUsd"] is None


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        (ANALYTICS_USAGE, {"groupBy": "hour"}, "groupBy"),
        (ANALYTICS_USAGE, {"from": "yesterday"}, "from"),
        (ANALYTICS_USAGE, {"to": "2026-02-30"}, "to"),
        (ANALYTICS_USAGE, {"from": "2026-02-02", "to": "2026-02-01"}, "to"),
        (ANALYTICS_USAGE, {"tz": "Mars/Base"}, "tz"),
        (ANALYTICS_USAGE, {"tz": "../../etc/passwd"}, "tz"),
        (ANALYTICS_USAGE, {"bogus": "1"}, "bogus"),
        (ANALYTICS_PERFORMANCE, {"minSample": "0"}, "minSample"),
        (ANALYTICS_PERFORMANCE, {"splitBy": "model"}, "splitBy"),
        (ANALYTICS_PERFORMANCE, {"from": "0000-00-00"}, "from"),
    ],
)
async def test_what_cannot_be_asked_is_refused_by_the_name_of_the_field(
    path: str, query: dict[str, str], field: str, tmp_path: Path
) -> None:
    async with ingesting(tmp_path) as ingest:
        Rows(ingest)
        answer = await ingest.ask("GET", f"{path}?{urlencode(query)}")
        error = json.loads(answer.body)["error"]
        assert (answer.status, error["code"]) == (400, "VALIDATION_ERROR")
        assert [item["field"] for item in error["details"]] == [field]


async def test_an_empty_ledger_has_empty_answers(tmp_path: Path) -> None:
    async with ingesting(tmp_path) as ingest:
        rows = Rows(ingest)
        usage = await rows.get(ANALYTICS_USAGE)
        assert (usage["totals"]["runs"], usage["totals"]["costUsd"], usage["series"]) == (0, 0, [])
        assert (await rows.get(ANALYTICS_PERFORMANCE))["rows"] == []
