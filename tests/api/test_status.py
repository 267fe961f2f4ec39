import json
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace
from trio.testing import MockClock

from ambientd.core.gatewaytext import GatewaySnapshot
from ambientd.core.timefmt import rfc3339_ms
from ambientd.flows.status import IntakeFacts
from ambientd.wire.enums import AgentStatus
from ambientd.wire.messages import AgentView, GatewayStatus
from tests.api.kit import Api, fits, served
from tests.fakes.clock import EPOCH

SHAPES = json.loads((Path(__file__).parents[1] / "data" / "v3_shapes.json").read_text())
STATUS = "/api/system/status"


async def text(api: Api, query: str = "") -> str:
    answer = await api.ask("GET", f"{STATUS}{query}", headers={"accept": "text/plain"})
    assert (answer.status, answer.content_type) == (200, "text/plain; charset=utf-8")
    return answer.body.decode()


async def test_the_document_has_the_recorded_shape_and_counts_what_is_there(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path) as api:
        api.rig.add("forever", name="Worker")
        api.rig.add("exit:1", id="clumsy")
        running = await api.rig.spawn()
        await api.rig.wait_running(running)
        await api.rig.spawn()
        await api.rig.wait_ended(await api.rig.spawn("clumsy"))
        found = await api.get(STATUS)
    assert fits(found, SHAPES["GET /api/system/status"]) == []
    assert found["sessions"] == {"running": 1, "queued": 1}
    assert found["ledger"]["sessions"] == 3
    assert (found["ledger"]["ready"], found["health"]) == (True, "ok")
    agents = {agent["id"]: agent for agent in found["agents"]}
    assert (agents["worker"]["status"], agents["worker"]["running"], agents["worker"]["queued"]) == (
        "running",
        1,
        1,
    )
    assert agents["worker"]["sessionId"] == running
    assert agents["clumsy"]["status"] == "failed"
    assert found["node"]["uptimeSec"] >= 0
    assert found["problems"] == []


async def test_a_node_without_agents_and_sessions_has_a_status_too(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path) as api:
        found = await api.get(STATUS)
        assert (found["agents"], found["sessions"], found["ledger"]["sessions"]) == (
            [],
            {"running": 0, "queued": 0},
            0,
        )
        assert "node-1" in await text(api)


async def test_the_header_and_the_document_say_the_same_of_health(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path) as api:
        for intake, feed_broken, late, health in (
            (IntakeFacts(waiting=0, odd=0, failing=None, breakers_open={}), False, False, "ok"),
            (IntakeFacts(waiting=0, odd=2, failing=None, breakers_open={}), False, False, "degraded"),
            (IntakeFacts(waiting=0, odd=0, failing="OSError", breakers_open={}), False, False, "degraded"),
            (
                IntakeFacts(waiting=0, odd=0, failing=None, breakers_open={"a": "no space"}),
                False,
                False,
                "degraded",
            ),
            (IntakeFacts(waiting=0, odd=0, failing=None, breakers_open={}), True, False, "degraded"),
            (IntakeFacts(waiting=0, odd=0, failing=None, breakers_open={}), False, True, "failing"),
        ):
            api.intake = intake
            api.feed.broken = feed_broken
            api.feed.offer({})
            api.loop = replace(api.loop, last_cycle_at=EPOCH - timedelta(seconds=600 if late else 0))
            answer = await api.ask("GET", STATUS)
            assert dict(answer.headers)["X-Ambient-Health"] == health
            document = json.loads(answer.body)
            assert document["health"] == health
            assert bool(document["problems"]) == (health != "ok")
            api.feed.broken = False
            api.feed.offer({})


async def test_counters_of_the_intake_and_the_latest_task_are_shown(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path) as api:
        counters = ("dispatched", "rejected", "rejected.not_json", "blocked", "blocked.task_done", "skipped")
        for name in counters:
            await api.rig.real_store.write(lambda tx, name=name: tx.tasks.count(name))  # type: ignore[misc]
        found = (await api.get(STATUS))["intake"]
    assert (found["dispatched"], found["rejected"], found["skipped"], found["blocked"]) == (1, 1, 1, 1)
    assert (found["rejectedBy"], found["blockedBy"]) == ({"not_json": 1}, {"task_done": 1})
    assert found["committed"] == 0


async def test_text_is_given_to_who_asks_for_it_in_the_width_and_colours_wanted(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path) as api:
        api.rig.add("forever", name="Wörker")
        plain = await text(api, "?width=60&color=0&ascii=1")
        assert plain.isascii()
        assert max(len(line) for line in plain.splitlines()) <= 60
        assert "\x1b" not in plain
        assert "\x1b[" in await text(api, "?color=1")
        assert len((await text(api, "?short=1")).splitlines()) == 1
        answer = await api.ask("GET", STATUS, headers={"accept": "application/json"})
        assert answer.content_type == "application/json"


@pytest.mark.parametrize("query", ["width=0", "width=1001", "width=wide", "color=yes", "short=2", "wide=1"])
async def test_a_bad_query_is_refused(autojump_clock: MockClock, tmp_path: Path, query: str) -> None:
    async with served(tmp_path) as api:
        status, error = await api.refused("GET", f"{STATUS}?{query}")
    assert (status, error["details"][0]["field"]) == (400, query.partition("=")[0])


async def test_agents_of_the_gateway_stand_beside_the_nodes_own(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path) as api:
        api.rig.add("forever", id="tony", name="Tony")
        session_id = await api.rig.spawn("tony")
        await api.rig.wait_running(session_id)
        found = await api.get(STATUS)
        assert found["source"] == "gateway-ws"
        assert found["gateway"] == {"connected": False, "healthy": False, "phase": "off"}
        assert found["problems"] == []
        assert found["agents"][0]["sessions"] == [
            {
                "id": session_id,
                "state": "running",
                "since": found["agents"][0]["since"],
                "title": "do it",
            }
        ]
        theirs = AgentView(
            "tony", "Tony", AgentStatus.FAILED, "2026-11-20T12:00:00.000Z", "it broke", kind="gateway"
        )
        status = GatewayStatus(connected=True, healthy=True, phase="ready", agents=1)
        api.gateway = GatewaySnapshot(status=status, agents=(theirs,))
        found = await api.get(STATUS)
        assert [(agent["id"], agent["kind"], agent["status"]) for agent in found["agents"]] == [
            ("tony", "gateway", "failed"),
            ("tony", "local", "running"),
        ]
        for agent in found["agents"]:
            assert {"id", "name", "status", "lastActivityAt", "reason"} <= agent.keys()


async def test_data_that_outlive_a_lost_gateway_are_flagged_by_their_time(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path) as api:
        status = GatewayStatus(connected=True, healthy=False, phase="waiting", reason="lost")
        lost_at = EPOCH - timedelta(seconds=5)
        api.gateway = GatewaySnapshot(status=status, as_of=lost_at)
        found = await api.get(STATUS)
        assert found["generatedAt"] == rfc3339_ms(lost_at)
        assert [problem["id"] for problem in found["problems"]] == ["gateway.unhealthy"]
