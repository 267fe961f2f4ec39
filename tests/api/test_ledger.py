import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ambientd.core.records import NewEvent, NewSession
from ambientd.ports.runner import ArtifactFile
from ambientd.ports.store import Transaction
from ambientd.wire.enums import EventType
from tests.api.kit import Api, fits, served
from tests.fakes.clock import EPOCH

SHAPES = json.loads((Path(__file__).parents[1] / "data" / "v3_shapes.json").read_text())
USAGE = 'say:{"type":"usage","prompt_tokens":3,"completion_tokens":4,"cost_usd":0.5,"provider":"p"}'


async def add(api: Api, count: int, *, prefix: str = "ses_", events: int = 0, **more: Any) -> None:
    """Queued sessions, each a second after the one before."""

    def work(tx: Transaction) -> None:
        for number in range(count):
            facts: dict[str, Any] = {"agent_id": "a", "agent_label": "A"}
            at = EPOCH + timedelta(seconds=number)
            row = NewSession(session_id=f"{prefix}{number:04}", started_at=at, **(facts | more))
            tx.ledger.add(row)
            payloads = [{"n": event} for event in range(events)]
            tx.ledger.append(
                row.session_id,
                [NewEvent(event_type=EventType.MESSAGE, at=at, payload=item) for item in payloads],
            )

    await api.rig.real_store.write(work)


def ids(page: Any) -> list[str]:
    return [row["sessionId"] for row in page["rows"]]


# --- shapes


async def test_rows_details_and_events_have_the_recorded_shapes(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path) as api:
        api.rig.add(USAGE, "say:hello", "exit:3", output="jsonl", category="demo", model="m/1")
        api.rig.add("forever", id="other")
        ended = await api.rig.spawn(title="A job")
        api.rig.runner.left_artifacts[ended] = [ArtifactFile(name="a.txt", bytes=3, sha256="0" * 64)]
        await api.rig.wait_ended(ended)
        running = await api.rig.spawn("other")
        await api.rig.wait_running(running)
        queued = await api.rig.spawn("other")
        page = await api.get("/api/v3/ledger")
        assert ids(page) == [queued, running, ended]
        assert fits(page, SHAPES["GET /api/v3/ledger"]) == []
        for name in (ended, running, queued):
            detail = await api.get(f"/api/v3/ledger/{name}")
            assert fits(detail, SHAPES["GET /api/v3/ledger/{id}"]) == []
        detail = await api.get(f"/api/v3/ledger/{ended}")
    assert detail["artifacts"] == [{"name": "a.txt", "bytes": 3, "sha256": "0" * 64}]
    assert (detail["usage"]["totalTokens"], detail["usage"]["costSource"]) == (7, "provider_reported")
    assert (detail["ledger"]["errorCode"], detail["ledger"]["costUsd"]) == ("exit_status", 0.5)
    assert [event["seq"] for event in detail["events"]] == [1, 2, 3, 4, 5]
    assert "null" not in json.dumps([page, detail])


async def test_the_runtime_of_a_running_session_counts_up(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        api.rig.add("forever")
        name = await api.rig.spawn()
        await api.rig.wait_running(name)
        await trio.sleep(12.5)
        (row,) = (await api.get("/api/v3/ledger"))["rows"]
    assert row["runtimeMs"] == pytest.approx(12_500, abs=10)
    assert "endedAt" not in row


# --- pages


@pytest.mark.parametrize(("count", "limit"), [(0, 10), (1, 1), (10, 10), (11, 10), (53, 7)])
async def test_following_the_cursor_shows_every_session_once_newest_first(
    autojump_clock: MockClock, tmp_path: Path, count: int, limit: int
) -> None:
    async with served(tmp_path, started=False) as api:
        await add(api, count)
        seen: list[str] = []
        cursor, pages = "", 0
        for _ in range(count + 2):
            page = await api.get(f"/api/v3/ledger?limit={limit}{cursor}")
            assert page["total"] == count
            assert len(page["rows"]) <= limit
            seen += ids(page)
            pages += 1
            if "nextCursor" not in page:
                break
            cursor = f"&cursor={page['nextCursor']}"
    assert seen == [f"ses_{number:04}" for number in reversed(range(count))]
    assert pages == max(1, -(-count // limit))


async def test_sessions_that_arrive_while_paging_neither_repeat_nor_hide_a_row(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path, started=False) as api:
        await add(api, 10)
        first = await api.get("/api/v3/ledger?limit=5")
        await add(api, 10, prefix="ses_later")
        second = await api.get(f"/api/v3/ledger?limit=5&cursor={first['nextCursor']}")
        third = await api.get(f"/api/v3/ledger?limit=50&cursor={second['nextCursor']}")
    before = [name for name in ids(first) + ids(second) + ids(third) if "later" not in name]
    assert before == [f"ses_{number:04}" for number in reversed(range(10))]


async def test_filters_are_joined_by_and(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with served(tmp_path, started=False) as api:
        await add(api, 3, prefix="ses_a")
        await add(
            api, 3, prefix="ses_b", agent_id="b", model_id="m/1", task_category="c", task_title="Find me"
        )
        assert len(ids(await api.get("/api/v3/ledger?agent=b"))) == 3
        assert ids(await api.get("/api/v3/ledger?agent=a&model=m/1")) == []
        assert len(ids(await api.get("/api/v3/ledger?category=c&status=queued,running"))) == 3
        assert ids(await api.get("/api/v3/ledger?status=success")) == []
        assert len(ids(await api.get("/api/v3/ledger?q=Find%20me"))) == 3
        assert ids(await api.get("/api/v3/ledger?q=%25")) == []
        assert len(ids(await api.get("/api/v3/ledger?from=2026-11-20&to=2026-11-21"))) == 6
        assert ids(await api.get("/api/v3/ledger?to=2026-11-20")) == []
        after = await api.get("/api/v3/ledger?from=2026-11-20T12:00:02Z")
        assert sorted(ids(after)) == ["ses_a0002", "ses_b0002"]


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("limit=0", ["limit"]),
        ("limit=1001", ["limit"]),
        ("limit=x", ["limit"]),
        ("limit=-1", ["limit"]),
        ("nothing=1", ["nothing"]),
        ("sort=oldest", ["sort"]),
        ("status=ended", ["status"]),
        ("from=yesterday", ["from"]),
        ("from=2026-13-01", ["from"]),
        ("cursor=junk", ["cursor"]),
        ("cursor=" + "A" * 300, ["cursor"]),
        ("cursor=4pyT", ["cursor"]),
        ("q=%20", ["q"]),
        ("status=a&from=b&to=c&cursor=d&q=%20", ["cursor", "from", "q", "status", "to"]),
        ("limit=0&nothing=1&sort=x", ["limit", "nothing", "sort"]),
        ("q=" + "x" * 5000, ["q"]),
    ],
)
async def test_a_bad_query_is_refused_with_every_field(
    autojump_clock: MockClock, tmp_path: Path, query: str, fields: list[str]
) -> None:
    async with served(tmp_path, started=False) as api:
        status, error = await api.refused("GET", f"/api/v3/ledger?{query}")
    assert (status, error["code"]) == (400, "VALIDATION_ERROR")
    assert [detail["field"] for detail in error["details"]] == fields


@pytest.mark.parametrize("query", ["q=%C3%A9%F0%9F%8E%89", "q=%27%22%3B--", "agent=%27%20OR%201", "agent="])
async def test_odd_but_valid_filters_find_nothing_and_break_nothing(
    autojump_clock: MockClock, tmp_path: Path, query: str
) -> None:
    async with served(tmp_path, started=False) as api:
        await add(api, 2)
        assert ids(await api.get(f"/api/v3/ledger?{query}")) == []
        assert api.log.faults == []


# --- one session


async def test_a_session_is_found_by_a_unique_part_and_others_are_refused(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path, started=False) as api:
        await add(api, 12)
        assert (await api.get("/api/v3/ledger/0007"))["ledger"]["sessionId"] == "ses_0007"
        for path, status, code in (
            ("/api/v3/ledger/nobody", 404, "NOT_FOUND"),
            ("/api/v3/ledger/ses_", 409, "AMBIGUOUS"),
            ("/api/v3/ledger/nobody/events", 404, "NOT_FOUND"),
            ("/api/v3/ledger/ses_0007/nothing", 404, "NOT_FOUND"),
            ("/api/v3/ledger/" + "x" * 5000, 404, "NOT_FOUND"),
            ("/api/v3/ledger/%01", 404, "NOT_FOUND"),
        ):
            assert (await api.refused("GET", path))[0] == status
            assert (await api.refused("GET", path))[1]["code"] == code
        _, error = await api.refused("GET", "/api/v3/ledger/ses_")
        assert len(error["details"]) == 10


# --- events and the long poll


async def test_events_come_in_pages_and_say_when_no_more_will_come(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path) as api:
        api.rig.add(*(f"say:{number}" for number in range(20)))
        name = await api.rig.spawn()
        await api.rig.wait_ended(name)
        seen: list[int] = []
        for _ in range(100):
            page = await api.get(f"/api/v3/ledger/{name}/events?after={seen[-1] if seen else 0}&limit=7")
            seen += [event["seq"] for event in page["events"]]
            if page["ended"]:
                break
    assert seen == list(range(1, 24))
    assert (page["sessionId"], page["status"]) == (name, "success")


async def test_a_long_poll_answers_at_the_news_and_at_the_end_and_otherwise_when_its_time_is_up(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path) as api:
        api.rig.add("sleep:10", "say:hi", "sleep:99", "exit:0")
        name = await api.rig.spawn()
        await api.rig.wait_running(name)
        began = trio.current_time()
        waited: list[tuple[float, list[str], bool]] = []
        after = 2
        for _ in range(8):
            page = await api.get(f"/api/v3/ledger/{name}/events?after={after}&wait=25")
            words = [event["payload"].get("text") or event["payload"]["to"] for event in page["events"]]
            waited.append((round(trio.current_time() - began), words, page["ended"]))
            after += len(words)
            if page["ended"]:
                break
    assert waited == [
        (10, ["hi"], False),
        (35, [], False),
        (60, [], False),
        (85, [], False),
        (109, ["success"], True),
    ]


async def test_a_long_poll_on_an_ended_session_answers_at_once(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path) as api:
        api.rig.add("say:hi")
        name = await api.rig.spawn()
        await api.rig.wait_ended(name)
        began = trio.current_time()
        page = await api.get(f"/api/v3/ledger/{name}/events?after=4&wait=25")
        assert trio.current_time() == began
        assert (page["events"], page["ended"]) == ([], True)


async def test_a_hundred_long_polls_wake_together_and_leave_nothing_behind(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path) as api:
        api.rig.add("sleep:5", "say:hi", "forever")
        name = await api.rig.spawn()
        await api.rig.wait_running(name)
        answers: list[int] = []

        async def poll() -> None:
            page = await api.get(f"/api/v3/ledger/{name}/events?after=2&wait=25")
            answers.append(len(page["events"]))

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(poll)
        assert answers == [1] * 100
        for number in range(50):
            await api.get(f"/api/v3/ledger/{name}/events?after={number}")
        await trio.lowlevel.checkpoint()
        assert len(api.rig.news) == 0


@pytest.mark.parametrize(
    "query", ["after=-1", "after=x", "limit=0", "limit=1001", "wait=26", "wait=-1", "n=1"]
)
async def test_bad_parameters_of_events_are_refused(
    autojump_clock: MockClock, tmp_path: Path, query: str
) -> None:
    async with served(tmp_path, started=False) as api:
        await add(api, 1)
        status, error = await api.refused("GET", f"/api/v3/ledger/ses_0000/events?{query}")
    assert (status, error["details"][0]["field"]) == (400, query.partition("=")[0])


async def test_the_largest_numbers_that_are_allowed_are_no_trouble(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path, started=False) as api:
        await add(api, 1, events=3)
        page = await api.get("/api/v3/ledger/ses_0000/events?after=999999999999999999")
        assert page["events"] == []


@asynccontextmanager
async def broken(folder: Path) -> AsyncIterator[Api]:
    async with served(folder) as api:
        await api.rig.real_store.close()
        yield api


async def test_while_the_store_is_not_ready_every_route_answers_503_with_the_reason(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with broken(tmp_path) as api:
        for method, path, body in (
            ("GET", "/api/v3/ledger", b""),
            ("GET", "/api/v3/ledger/x", b""),
            ("GET", "/api/system/status", b""),
            ("POST", "/api/control/spawn", b'{"agentId":"a","prompt":"b"}'),
            ("POST", "/api/control/kill", b'{"sessionId":"a"}'),
        ):
            status, error = await api.refused(method, path, body)
            assert (status, error["code"], error["message"]) == (
                503,
                "NOT_READY",
                "the database is being closed",
            )
        answer = await api.ask("GET", "/api/v3/ledger")
        assert dict(answer.headers)["Retry-After"] == "2"
