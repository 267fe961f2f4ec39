"""A sessions service on virtual time, with a real database and a machine of scripted agents."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from ambientd.config.schema import AgentConfig, SessionsConfig
from ambientd.core.records import EventRecord, RunRecord, SessionRecord, UsageRecord
from ambientd.core.rejection import Rejected
from ambientd.flows import sessions
from ambientd.host.threads import run_inline
from ambientd.ports.environment import BadEnvironment
from ambientd.services.news import NewsBoard
from ambientd.services.sessions import SessionsService
from ambientd.store.sqlite import SqliteStore
from ambientd.wire.enums import TERMINAL, EventType, SessionStatus
from ambientd.wire.messages import KillAnswer, SpawnAnswer, SpawnRequest
from tests.fakes.clock import CountingIds, TrioWallClock
from tests.fakes.log import ListLog
from tests.fakes.runner import FakeRunner, Script
from tests.fakes.store import TroubledStore

PATIENCE = 7200.0  # virtual


def agent(*command: str, **settings: Any) -> AgentConfig:
    """An agent whose command is a script of `tests.fakes.runner`."""
    facts: dict[str, Any] = {"id": "worker", "command": command, "timeout": 3600.0}
    return AgentConfig(**(facts | settings))


class FakeEnvironment:
    """Implements `ports.environment.AgentEnvironment`: what an agent has, or a refusal for those in `bad`."""

    def __init__(self) -> None:
        self.bad: dict[str, str] = {}

    async def of(self, agent: AgentConfig) -> Mapping[str, str] | BadEnvironment:
        await trio.lowlevel.checkpoint()
        if agent.id in self.bad:
            return BadEnvironment(self.bad[agent.id])
        return dict(agent.environment)


class Rig:
    """The parts around a service. `start` and `stop` stand for the daemon; the machine goes on."""

    def __init__(self, store: SqliteStore, nursery: trio.Nursery, clock: TrioWallClock) -> None:
        self.real_store = store
        self.store = TroubledStore(store)
        self.clock = clock
        self.runner = FakeRunner(clock)
        self.environment = FakeEnvironment()
        self.agents: dict[str, AgentConfig] = {}
        self.bounds = SessionsConfig()
        self.ids = CountingIds()
        self.log = ListLog()
        self.tasks_ended = 0
        self._nursery = nursery
        self.news = NewsBoard()
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()
        self.service = self._make()

    def _make(self) -> SessionsService:
        return SessionsService(
            store=self.store,
            runner=self.runner,
            environment=self.environment,
            agents=lambda: self.agents,
            bounds=lambda: self.bounds,
            clock=self.clock,
            news=self.news,
            task_ended=self._task_ended,
            log=self.log,
        )

    def _task_ended(self) -> None:
        self.tasks_ended += 1

    # --- the daemon

    def start(self) -> None:
        """A daemon starts."""
        self.service = self._make()
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()
        self._nursery.start_soon(self._run, self.service, self._scope, self._stopped)

    async def _run(self, service: SessionsService, scope: trio.CancelScope, stopped: trio.Event) -> None:
        with scope:
            await service.run()
        stopped.set()

    def stop_now(self) -> None:
        """The daemon is told to stop at this very moment."""
        self._scope.cancel()

    async def stop(self) -> None:
        """A daemon stops, or is killed: nothing is said to the machine."""
        self._scope.cancel()
        await self._stopped.wait()

    # --- operators

    def add(self, *command: str, **settings: Any) -> AgentConfig:
        """Configures an agent."""
        config = agent(*command, **settings)
        self.agents[config.id] = config
        return config

    async def spawn(self, agent_id: str = "worker", prompt: str = "do it", **more: Any) -> str:
        """An accepted session's id."""
        answer = await sessions.spawn(
            SpawnRequest(agent_id=agent_id, prompt=prompt, **more),
            agents=self.agents,
            store=self.store,
            control=self.service,
            clock=self.clock,
            ids=self.ids,
            actor="uid:0",
        )
        assert isinstance(answer, SpawnAnswer), answer
        return answer.session_id

    async def kill(self, session_id: str) -> KillAnswer | Rejected:
        return await sessions.kill(
            session_id, store=self.store, control=self.service, clock=self.clock, actor="uid:0"
        )

    # --- what the record says

    async def row(self, session_id: str) -> SessionRecord:
        found = await self.real_store.read(lambda tx: tx.ledger.get(session_id))
        assert found is not None
        return found

    async def status(self, session_id: str) -> SessionStatus:
        return (await self.row(session_id)).status

    async def run_record(self, session_id: str) -> RunRecord:
        found = await self.real_store.read(lambda tx: tx.runs.get(session_id))
        assert found is not None
        return found

    async def usage(self, session_id: str) -> UsageRecord | None:
        return await self.real_store.read(lambda tx: tx.usage.get(session_id))

    async def events(self, session_id: str) -> list[EventRecord]:
        return await self.real_store.read(lambda tx: tx.ledger.events(session_id, 0, 100_000))

    async def texts(self, session_id: str) -> list[str]:
        """What the agent said, as the ledger has it."""
        return [
            event.payload["text"]
            for event in await self.events(session_id)
            if event.event_type is EventType.MESSAGE
        ]

    async def steps(self, session_id: str) -> list[str]:
        """The session's transitions."""
        return [
            event.payload["to"]
            for event in await self.events(session_id)
            if event.event_type is EventType.STATE_TRANSITION
        ]

    async def wait_ended(self, session_id: str) -> SessionRecord:
        """The row once it is terminal."""
        return await self.wait_status(session_id, *TERMINAL)

    async def wait_status(self, session_id: str, *wanted: SessionStatus) -> SessionRecord:
        with trio.fail_after(PATIENCE):
            while True:
                watch = self.news.watch(session_id)
                row = await self.row(session_id)
                if row.status in wanted:
                    return row
                await watch.wait(1.0)

    async def wait_running(self, session_id: str) -> Script:
        """The script of a session, once the ledger says that it runs."""
        await self.wait_status(session_id, SessionStatus.RUNNING)
        return self.runner.of(session_id, (await self.run_record(session_id)).attempt)


@asynccontextmanager
async def rigged(folder: Path, *, started: bool = True) -> AsyncIterator[Rig]:
    """A rig over a database in `folder`, with a daemon running unless told otherwise."""
    clock = TrioWallClock()
    store = SqliteStore(folder / "ambient.db", clock=clock, ballast=0, run_sync=run_inline)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: store.run(task_status=task_status))
        await store.wait_settled()
        rig = Rig(store, nursery, clock)
        await nursery.start(lambda task_status: rig.runner.run(task_status=task_status))
        if started:
            rig.start()
        yield rig
        rig.stop_now()
        await store.close()
        nursery.cancel_scope.cancel()
