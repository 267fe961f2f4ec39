"""The node's routes over a real database and scripted agents, asked without a socket."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from ambientd.api.control import Control, control_routes
from ambientd.api.ledger import Ledger, ledger_routes
from ambientd.api.node import status_routes
from ambientd.api.router import build_application
from ambientd.core.gatewaytext import NO_GATEWAY
from ambientd.core.target import Target, parse_target
from ambientd.flows.status import IntakeFacts, LoopFacts, NodeFacts, StatusSources, gather
from ambientd.ports.http import Caller, Request, Response
from ambientd.services.changes import Changes
from ambientd.services.statusboard import StatusBoard
from tests.fakes.clock import EPOCH
from tests.fakes.feed import ListFeed
from tests.fakes.http_log import ListHttpLog
from tests.services.rig import Rig, rigged

OPERATOR = Caller(transport="unix", uid=1000, pid=7, may_write=True)
READER = Caller(transport="unix", uid=1001, pid=8, may_write=False)


class Api:
    """Asks the routes of a rig."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.feed = ListFeed()
        self.log = ListHttpLog()
        self.audited: list[dict[str, Any]] = []
        self.spawned = 0
        self.gateway = NO_GATEWAY
        self.loop = LoopFacts(interval=60.0, seq=5, cycles=5, last_cycle_at=EPOCH)
        self.intake = IntakeFacts(waiting=0, odd=0, failing=None, breakers_open={})
        control = Control(
            store=rig.store,
            sessions=rig.service,
            agents=lambda: rig.agents,
            clock=rig.clock,
            ids=rig.ids,
            spawned=self._spawned,
            audited=lambda **facts: self.audited.append(facts),
        )
        ledger = Ledger(store=rig.store, news=rig.news, clock=rig.clock, monotonic=trio.current_time)
        sources = StatusSources(
            node=NodeFacts(
                name="node-1",
                host_id="sha256:" + "0" * 64,
                host_id_source="name",
                version="1.2.3",
                pid=7,
                mode="production",
                started_at=EPOCH,
            ),
            store=rig.store,
            feed=self.feed,
            clock=rig.clock,
            agents=lambda: rig.agents,
            loop=lambda: self.loop,
            intake=lambda: self.intake,
            gateway=lambda: self.gateway,
        )
        self.changes = Changes()
        self.board = StatusBoard(
            gather=partial(gather, sources),
            changes=self.changes,
            written=lambda: rig.real_store.commits,
        )
        self._application = build_application(
            (*control_routes(control), *ledger_routes(ledger), *status_routes(self.board)),
            readiness=lambda: rig.store.facts().reason,
            log=self.log,
            admin_group="ambient-admin",
        )

    def _spawned(self) -> None:
        self.spawned += 1

    async def ask(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        caller: Caller = OPERATOR,
        headers: dict[str, str] | None = None,
    ) -> Response:
        found = parse_target(target.encode())
        assert isinstance(found, Target), found
        given = {"content-type": "application/json"} if body else {}
        return await self._application(
            Request(
                method=method,
                path=found.path,
                query=found.query,
                headers=given | (headers or {}),
                body=body,
                caller=caller,
                request_id="req-1",
            )
        )

    async def get(self, target: str, **more: Any) -> Any:
        """The JSON of a 200."""
        answer = await self.ask("GET", target, **more)
        assert answer.status == 200, answer
        return json.loads(answer.body)

    async def post(self, target: str, value: Any, *, status: int = 200, **more: Any) -> Any:
        """The JSON of an answer with the status that is expected."""
        body = value if isinstance(value, bytes) else msgspec.json.encode(value)
        answer = await self.ask("POST", target, body, **more)
        assert answer.status == status, answer
        return json.loads(answer.body)

    async def refused(self, method: str, target: str, body: bytes = b"", **more: Any) -> tuple[int, Any]:
        """Status and error of a refusal."""
        answer = await self.ask(method, target, body, **more)
        error = json.loads(answer.body)["error"]
        assert set(error) == {"code", "message", "details", "requestId"}
        assert error["requestId"] == "req-1"
        return answer.status, error


@asynccontextmanager
async def served(folder: Path, *, started: bool = True) -> AsyncIterator[Api]:
    """The routes over a rig in `folder`."""
    async with rigged(folder, started=started) as rig:
        yield Api(rig)


PATTERNS = {
    "iso": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"),
    "date": re.compile(r"\d{4}-\d\d-\d\d"),
    "uuid": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
}


def fits(value: Any, shape: Any) -> list[str]:
    """Where a value departs from a recorded shape: `key?` may be absent, more keys are fine, null is not."""
    if isinstance(shape, dict):
        assert isinstance(value, dict), value
        found = []
        for name, inner in shape.items():
            if name == "*":
                found += [f"{key}.{problem}" for key in value for problem in fits(value[key], inner)]
                continue
            key = name.removesuffix("?")
            if key in value:
                found += [f"{key}.{problem}" for problem in fits(value[key], inner)]
            elif not name.endswith("?"):
                found.append(f"{key}: absent")
        return found
    if isinstance(shape, list):
        assert isinstance(value, list), value
        return [f"[{at}].{problem}" for at, item in enumerate(value) for problem in fits(item, shape[0])]
    return [] if _is(value, shape) else [f"{value!r} is no {shape}"]


def _is(value: Any, word: str) -> bool:
    kinds: dict[str, type | tuple[type, ...]] = {"int": int, "str": str, "num": (int, float), "object": dict}
    if word in kinds:
        return isinstance(value, kinds[word]) and not isinstance(value, bool)
    if word == "bool":
        return isinstance(value, bool)
    if word in PATTERNS:
        return isinstance(value, str) and PATTERNS[word].fullmatch(value) is not None
    if word == "iso or null":
        return value is None or _is(value, "iso")
    return value in word.split("|")
