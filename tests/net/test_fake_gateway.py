"""The fake gateway is what the recordings say a gateway is; else tests against it prove nothing."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio_websocket

from tests.fakes.gateway import FakeGateway, recordings
from tests.fakes.gateway.process import FakeGatewayProcess

Json = dict[str, Any]
NEW, OLD = "10-run-ok", recordings.OLD


class Client:
    """Speaks frames with no help from the code under test."""

    def __init__(self, socket: trio_websocket.WebSocketConnection) -> None:
        self._socket = socket
        self.events: list[Json] = []

    async def receive(self) -> Json:
        frame: Json = json.loads(await self._socket.get_message())
        if frame["type"] == "event":
            self.events.append(frame)
        return frame

    async def ask(self, method: str, **params: Any) -> Json:
        request = f"q-{method}"
        await self._socket.send_message(
            json.dumps({"type": "req", "id": request, "method": method, "params": params})
        )
        while True:
            frame = await self.receive()
            if frame.get("id") == request:
                return frame

    async def hello(self, token: str, scopes: list[str]) -> Json:
        await self.receive()
        client = {"id": "gateway-client", "mode": "backend", "version": "0", "platform": "linux"}
        return await self.ask(
            "connect",
            minProtocol=3,
            maxProtocol=4,
            client=client,
            role="operator",
            scopes=scopes,
            caps=["session-scoped-events"],
            auth={"token": token},
        )


@asynccontextmanager
async def connected(gateway: FakeGateway) -> AsyncIterator[Client]:
    async with trio_websocket.open_websocket_url(gateway.url) as socket:
        yield Client(socket)


@pytest.mark.parametrize(("protocol", "recording"), [(4, NEW), (3, OLD)])
async def test_rows_bear_no_name_that_a_recorded_row_has_not(protocol: int, recording: str) -> None:
    gateway = FakeGateway(protocol=protocol, extra_fields=False)
    running = gateway.world.create_session("tony", message="hello")
    shown = {"running": gateway.dialect.row(running, 1)}
    gateway.world.finish(running.key)
    shown["done"] = gateway.dialect.row(running, 1)
    every_name = set().union(*recordings.rows(recording))
    for status, row in shown.items():
        recorded = [r for r in recordings.rows(recording) if r.get("status") == status]
        assert recorded, status
        known = set().union(*recorded)
        assert set(row) - every_name == set()
        assert known & {"status", "hasActiveRun", "startedAt", "endedAt", "lastRunId"} <= set(row)


async def test_a_killed_run_shows_as_each_version_shows_it() -> None:
    told = {}
    for protocol in (3, 4):
        gateway = FakeGateway(protocol=protocol)
        session = gateway.world.create_session("tony", message="hello")
        gateway.world.kill(session.key)
        row = gateway.dialect.row(session, 1)
        told[protocol] = (row["status"], row["abortedLastRun"], "lastRunId" in row)
    assert told == {3: ("timeout", False, False), 4: ("killed", True, True)}


async def test_a_session_is_made_seen_and_ended_over_the_wire() -> None:
    async with FakeGateway(auto_run=0.01).listening() as gateway, connected(gateway) as client:
        hello = await client.hello(gateway.token, ["operator.read", "operator.write"])
        assert hello["payload"]["type"] == "hello-ok"
        await client.ask("sessions.subscribe")
        made = (await client.ask("sessions.create", agentId="tony", message="hello"))["payload"]
        while client.events[-1]["payload"].get("phase") != "end":
            await client.receive()
        row = (await client.ask("sessions.describe", key=made["key"]))["payload"]["session"]
        assert (row["status"], row["lastRunId"]) == ("done", made["runId"])
        numbers = [event["seq"] for event in client.events if "seq" in event]
        assert numbers == list(range(1, len(numbers) + 1))
        assert gateway.calls["sessions.create"] == 1
        listed = (await client.ask("audit.activity.list", limit=10))["payload"]["events"]
        assert [entry["status"] for entry in listed] == ["succeeded", "started"]


async def test_a_read_only_client_may_not_write() -> None:
    async with FakeGateway().listening() as gateway, connected(gateway) as client:
        await client.hello(gateway.token, ["operator.read"])
        refused = await client.ask("sessions.create", agentId="tony")
        recorded = [
            row.frame["error"]
            for row in recordings.frames("32-scope-read-only")
            if row.frame.get("ok") is False
        ]
        assert refused["error"] in recorded


async def test_pages_of_many_sessions_cover_them_once() -> None:
    async with FakeGateway().listening() as gateway, connected(gateway) as client:
        gateway.world.populate(250)
        await client.hello(gateway.token, ["operator.read"])
        keys: list[str] = []
        offset: int | None = 0
        while offset is not None:
            page = (await client.ask("sessions.list", limit=100, offset=offset))["payload"]
            keys += [row["key"] for row in page["sessions"]]
            offset = page["nextOffset"]
        assert len(keys) == len(set(keys)) == 250
        assert gateway.largest_limit == 100


def test_it_runs_as_a_process_and_obeys() -> None:
    with FakeGatewayProcess("--agents", "a,b", "--protocol", "3") as gateway:
        made = gateway.do("create", agent_id="a", message="hello")
        gateway.do("finish", session=made["session_id"])
        assert gateway.do("session", session=made["session_id"])["status"] == "done"
        assert gateway.do("counts")["connects"] == 0
        with pytest.raises(RuntimeError, match="KeyError"):
            gateway.do("nothing")
