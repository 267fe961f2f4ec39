"""Runs local sessions: starts what may start, follows what runs, closes what has ended, re-attaches."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import trio

from ambientd.config.schema import AgentConfig, SessionsConfig
from ambientd.core import breaker
from ambientd.core.breaker import Breaker
from ambientd.core.queueing import Choice, Waiting, choose
from ambientd.core.records import RunRecord, SessionRecord
from ambientd.flows import runs
from ambientd.ports.clock import Clock
from ambientd.ports.environment import AgentEnvironment, BadEnvironment
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.ports.news import SessionNews
from ambientd.ports.runner import LaunchError, NeverStarted, RunLink, SessionRunner
from ambientd.ports.store import Store, Transaction
from ambientd.services.bell import Bell
from ambientd.services.sessions.following import Followed, Following
from ambientd.services.supervise import Log
from ambientd.wire.enums import SessionStatus

T = TypeVar("T")

FIRST_RETRY_SEC = 0.5
LONGEST_RETRY_SEC = 30.0


class SessionsService:
    """Implements `ports.control.SessionControl`. Sessions it runs outlive it: their shims do the work."""

    def __init__(
        self,
        *,
        store: Store,
        runner: SessionRunner,
        environment: AgentEnvironment,
        agents: Callable[[], Mapping[str, AgentConfig]],
        bounds: Callable[[], SessionsConfig],
        clock: Clock,
        news: SessionNews,
        task_ended: Callable[[], None],
        log: Log,
    ) -> None:
        self._store = store
        self._runner = runner
        self._environment = environment
        self._agents = agents
        self._bounds = bounds
        self._clock = clock
        self._news = news
        self._task_ended = task_ended
        self._log = log
        self._bell = Bell()
        self._live: dict[str, str] = {}  # session id -> agent id
        self._links: dict[str, RunLink] = {}
        self._breakers: dict[str, Breaker] = {}

    # --- from outside

    def wake(self) -> None:
        """There may be something to start. Never blocks."""
        self._bell.ring()

    async def end(self, session_id: str) -> None:
        """Passes a recorded end on to the shim, if one is live; otherwise it is done at the next attach."""
        link = self._links.get(session_id)
        if link is not None:
            await link.end(grace=self._bounds().grace)

    @property
    def live(self) -> int:
        """How many sessions this service follows now."""
        return len(self._links)

    def open_breakers(self) -> list[str]:
        """Agents whose starts are held back."""
        return sorted(agent for agent, state in self._breakers.items() if state.opened_at is not None)

    # --- the loop

    async def run(self) -> None:
        """Re-attaches, then starts and follows sessions until cancelled. Cancelling ends no session."""
        self._live.clear()
        self._links.clear()
        async with trio.open_nursery() as nursery:
            await self._recover(nursery)
            while True:
                choice = await self._choose()
                for session_id in choice.start:
                    nursery.start_soon(self._guarded, session_id, self._start)
                await self._bell.wait(choice.look_again_at)

    async def _choose(self) -> Choice:
        def work(tx: Transaction) -> list[Waiting]:
            return [
                Waiting(row.session_id, row.agent_id)
                for row in tx.ledger.active()
                if row.status is SessionStatus.QUEUED
                and row.session_id not in self._live
                and tx.runs.get(row.session_id) is not None
            ]

        waiting = await self._insist(lambda: self._store.read(work))
        agents = self._agents()
        choice = choose(
            waiting,
            Counter(self._live.values()),
            limits={name: agent.max_concurrent for name, agent in agents.items()},
            total=self._bounds().max_concurrent,
            breakers=self._breakers,
            now=trio.current_time(),
        )
        by_id = {item.session_id: item.agent_id for item in waiting}
        self._live.update({session_id: by_id[session_id] for session_id in choice.start})
        return choice

    async def _recover(self, nursery: trio.Nursery) -> None:
        """Finds every run that was under way when the last daemon ended."""

        def work(tx: Transaction) -> list[tuple[SessionRecord, RunRecord]]:
            found = ((row, tx.runs.get(row.session_id)) for row in tx.ledger.active())
            return [(row, run) for row, run in found if run is not None and run.attempt > 0]

        for row, run in await self._insist(lambda: self._store.read(work)):
            self._live[row.session_id] = row.agent_id
            nursery.start_soon(self._guarded, row.session_id, self._attach)
            self._log.info("session.found", session=row.session_id, attempt=run.attempt)

    async def _guarded(self, session_id: str, step: Callable[[str], Awaitable[None]]) -> None:
        """Runs one session's task and lets its place in the queue go, however it ends."""
        try:
            await step(session_id)
        finally:
            self._live.pop(session_id, None)
            self._bell.ring()

    # --- one session

    async def _start(self, session_id: str) -> None:
        run = await self._write(lambda tx: runs.begin(tx, session_id, self._clock.now()))
        if run is None:
            self._news.tell(session_id)
            return
        row = await self._insist(lambda: self._store.read(lambda tx: tx.ledger.get(session_id)))
        agent = self._agents().get(self._live[session_id])
        if row is None or agent is None:
            await self._close(session_id, "unknown_agent", "the agent is not in the configuration any more")
            return
        variables = await self._environment.of(agent)
        if isinstance(variables, BadEnvironment):
            await self._close(session_id, "bad_environment", variables.message)
            return
        spec = runs.build_spec(agent, row, attempt=run.attempt, environment=variables, bounds=self._bounds())
        try:
            link = await self._runner.launch(spec)
        except LaunchError as error:
            self._breaker_failed(agent.id)
            self._log.warning("session.launch_failed", session=session_id, agent=agent.id, reason=str(error))
            await trio.sleep(FIRST_RETRY_SEC)
            return
        await self._follow(session_id, link)

    async def _attach(self, session_id: str) -> None:
        run = await self._insist(lambda: self._store.read(lambda tx: tx.runs.get(session_id)))
        if run is None:
            return
        found = await self._insist(lambda: self._runner.attach(session_id, run.attempt))
        if isinstance(found, NeverStarted):
            return
        await self._follow(session_id, found)

    async def _follow(self, session_id: str, link: RunLink) -> None:
        self._links[session_id] = link
        try:
            agent_id = self._live[session_id]
            following = Following(
                Followed(
                    session_id=session_id,
                    link=link,
                    agent=self._agents().get(agent_id),
                    grace=self._bounds().grace,
                ),
                write=self._write,
                clock=self._clock,
                tell=self._news.tell,
                log=self._log,
            )
            start_failed = await following.run(self._runner.artifacts)
            if start_failed:
                self._breaker_failed(agent_id)
            else:
                self._breakers.pop(agent_id, None)
            self._log.info("session.ended", session=session_id, agent=agent_id)
        finally:
            self._links.pop(session_id, None)
            with trio.CancelScope(shield=True):
                await link.aclose()
        self._task_ended()

    async def _close(self, session_id: str, code: str, message: str) -> None:
        at = self._clock.now()
        await self._write(lambda tx: runs.close_unrunnable(tx, session_id, at, code, message))
        self._log.warning("session.unrunnable", session=session_id, code=code)
        self._news.tell(session_id)
        self._task_ended()

    # --- helpers

    def _breaker_failed(self, agent_id: str) -> None:
        before = self._breakers.get(agent_id, Breaker())
        after = breaker.failed(before, trio.current_time())
        self._breakers[agent_id] = after
        if after.opened_at is not None and before.opened_at is None:
            self._log.warning(
                "agent.breaker_open",
                agent=agent_id,
                failures=after.failures,
                retry_sec=breaker.RETRY_AFTER_SEC,
            )

    async def _write(self, work: Callable[[Transaction], T]) -> T:
        return await self._insist(lambda: self._store.write(work))

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Tries until the store or the shim answers: what a run has done must not be forgotten because
        the disk was full for an hour."""
        pause = FIRST_RETRY_SEC
        told = ""
        while True:
            try:
                return await call()
            except (UnavailableError, StoreError) as error:
                reason = f"{type(error).__name__}: {error}"
                if reason != told:
                    self._log.warning("session.waiting_for_store", reason=reason)
                    told = reason
            await trio.sleep(pause)
            pause = min(pause * 2, LONGEST_RETRY_SEC)
