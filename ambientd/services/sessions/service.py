"""Runs local sessions: starts what may start, follows what runs, closes what has ended, re-attaches."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

import msgspec
import trio

from ambientd.config.schema import AgentConfig, SessionsConfig
from ambientd.core import breaker
from ambientd.core.breaker import Breaker
from ambientd.core.pricing import PriceTable
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
from ambientd.services.supervise import Log, supervise
from ambientd.wire.enums import SessionStatus

T = TypeVar("T")

ADOPTED_MAX = 1000
FIRST_RETRY_SEC = 0.5
LONGEST_RETRY_SEC = 30.0


class _Look(msgspec.Struct, frozen=True):
    """What the ledger holds for us to do. `to_end` are sessions that somebody has asked to end."""

    waiting: list[Waiting]
    to_end: list[str]


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
        prices: Callable[[], PriceTable | None] = lambda: None,
    ) -> None:
        """`prices` estimate costs that agents do not report."""
        self._prices = prices
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
        self._ending: set[str] = set()  # sessions whose shim knows, or is being told, that they must end
        self._breakers: dict[str, Breaker] = {}
        self._start_faults: dict[str, str] = {}
        self._recovered = False

    # --- from outside

    def wake(self) -> None:
        """There may be something to start. Never blocks."""
        self._bell.ring()

    def holds(self, session_id: str) -> bool:
        """Whether a process of this session may exist. Never blocks."""
        return not self._recovered or session_id in self._live

    async def end(self, session_id: str) -> None:
        """Passes a recorded end on to the shim, if one is live. Should it not answer, or the caller go away
        meanwhile, the loop passes the end on: it looks at what is recorded."""
        link = self._links.get(session_id)
        if link is None:  # it never ran, or its link is not there yet: the loop sees to it then
            self._news.tell(session_id)
            self._task_ended()
            return
        await link.end(grace=self._bounds().grace)
        self._ending.add(session_id)

    @property
    def live(self) -> int:
        """How many sessions this service follows now."""
        return len(self._links)

    def open_breakers(self) -> dict[str, str]:
        """Agents whose starts are held back, with the reason of the last failed one."""
        held = sorted(agent for agent, state in self._breakers.items() if state.opened_at is not None)
        return {agent: self._start_faults.get(agent, "") for agent in held}

    # --- the loop

    async def run(self) -> None:
        """Re-attaches, then starts and follows sessions until cancelled. Cancelling ends no session."""
        self._live.clear()
        self._links.clear()
        self._ending.clear()
        self._recovered = False
        async with trio.open_nursery() as nursery:
            await self._recover(nursery)
            self._recovered = True
            while True:
                look = await self._insist(lambda: self._store.read(self._look))
                self._see_to_ends(nursery, look.to_end)
                choice = self._choose(look)
                for session_id in choice.start:
                    nursery.start_soon(self._guarded, session_id, self._start)
                await self._bell.wait(choice.look_again_at)

    def _look(self, tx: Transaction) -> _Look:
        waiting, to_end = [], []
        for row in tx.ledger.active():
            run = tx.runs.get(row.session_id)
            if run is None:
                continue
            if run.end_cause is not None:
                to_end.append(row.session_id)
            if row.status is SessionStatus.QUEUED and row.session_id not in self._live:
                waiting.append(Waiting(row.session_id, row.agent_id))
        return _Look(waiting, to_end)

    def _choose(self, look: _Look) -> Choice:
        """What starts now. A waiting session that must end starts whatever the bounds say: the start finds
        it cancelled."""
        to_end = set(look.to_end)
        choice = choose(
            [item for item in look.waiting if item.session_id not in to_end],
            Counter(self._live.values()),
            limits={name: agent.max_concurrent for name, agent in self._agents().items()},
            total=self._bounds().max_concurrent,
            breakers=self._breakers,
            now=trio.current_time(),
        )
        cancelled = [item.session_id for item in look.waiting if item.session_id in to_end]
        choice = msgspec.structs.replace(choice, start=(*cancelled, *choice.start))
        by_id = {item.session_id: item.agent_id for item in look.waiting}
        self._live.update({session_id: by_id[session_id] for session_id in choice.start})
        return choice

    def _see_to_ends(self, nursery: trio.Nursery, to_end: Iterable[str]) -> None:
        """Tells shims of ends that are recorded and that nobody has passed on: the daemon was restarted in
        between, the run was just being launched, the shim did not answer, the caller hung up."""
        for session_id in to_end:
            if session_id in self._links and session_id not in self._ending:
                self._ending.add(session_id)
                nursery.start_soon(
                    supervise, f"end of {session_id}", partial(self._pass_on_end, session_id), self._log
                )

    async def _pass_on_end(self, session_id: str) -> None:
        pause = FIRST_RETRY_SEC
        while (link := self._links.get(session_id)) is not None:
            try:
                await link.end(grace=self._bounds().grace)
            except UnavailableError as error:
                self._log.warning("session.end_not_passed_on", session=session_id, reason=str(error))
            else:
                return
            await trio.sleep(pause)
            pause = min(pause * 2, LONGEST_RETRY_SEC)

    async def _recover(self, nursery: trio.Nursery) -> None:
        """Finds every run that was under way when the last daemon ended."""

        def work(tx: Transaction) -> list[tuple[SessionRecord, RunRecord]]:
            found = ((row, tx.runs.get(row.session_id)) for row in tx.ledger.active())
            return [(row, run) for row, run in found if run is not None and run.attempt > 0]

        await self._adopt_lost()
        for row, run in await self._insist(lambda: self._store.read(work)):
            self._live[row.session_id] = row.agent_id
            nursery.start_soon(self._guarded, row.session_id, self._attach)
            self._log.info("session.found", session=row.session_id, attempt=run.attempt)

    async def _adopt_lost(self) -> None:
        """A database that was set aside took the records of live runs with it; they get one again, so that
        they are seen, can be ended, and end truthfully."""
        try:
            alive = await self._runner.alive(ADOPTED_MAX)
        except OSError as error:
            self._log.warning("session.folders_unreadable", reason=error.strerror)
            return
        for session_id, attempt in alive:
            at = self._clock.now()
            adopt = partial(runs.adopt, session_id=session_id, attempt=attempt, at=at)
            if await self._write(adopt):
                self._log.warning("session.adopted", session=session_id, attempt=attempt)

    async def _guarded(self, session_id: str, step: Callable[[str], Awaitable[None]]) -> None:
        """Runs one session's task and lets its place in the queue go, however it ends.

        Each is supervised by itself, so that what goes wrong with one leaves the others alone. Whatever
        the first step was: after a crash there may be a run, and it is looked for.
        """
        steps = [self._attach, step]

        async def next_step() -> None:
            await (steps.pop() if len(steps) > 1 else steps[0])(session_id)

        try:
            await supervise(f"session {session_id}", next_step, self._log)
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
            self._breaker_failed(agent.id, str(error))
            self._log.warning("session.launch_failed", session=session_id, agent=agent.id, reason=str(error))
            await trio.sleep(FIRST_RETRY_SEC)
            return
        await self._follow(session_id, link)

    async def _attach(self, session_id: str) -> None:
        run = await self._insist(lambda: self._store.read(lambda tx: tx.runs.get(session_id)))
        if run is None or run.attempt == 0:
            return
        found = await self._insist(lambda: self._runner.attach(session_id, run.attempt))
        if isinstance(found, NeverStarted):
            at = self._clock.now()
            if await self._write(lambda tx: runs.close_vanished(tx, session_id, at)):
                self._log.warning("session.vanished", session=session_id)
                self._news.tell(session_id)
                self._task_ended()
            return
        await self._follow(session_id, found)

    async def _follow(self, session_id: str, link: RunLink) -> None:
        self._links[session_id] = link
        self._bell.ring()  # an end may have been recorded before there was a link
        try:
            agent_id = self._live[session_id]
            following = Following(
                Followed(
                    session_id=session_id,
                    link=link,
                    agent=self._agents().get(agent_id),
                ),
                write=self._write,
                clock=self._clock,
                tell=self._news.tell,
                started=partial(self._breaker_passed, agent_id),
                prices=self._prices,
            )
            if await following.run(self._runner.artifacts):
                self._breaker_failed(agent_id, "its program cannot be started")
            self._log.info("session.ended", session=session_id, agent=agent_id)
        finally:
            self._links.pop(session_id, None)
            self._ending.discard(session_id)
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

    def _breaker_passed(self, agent_id: str) -> None:
        """An agent's program runs: others of it need not wait for its end."""
        if self._breakers.pop(agent_id, Breaker()).opened_at is not None:
            self._log.info("agent.breaker_closed", agent=agent_id)
            self._bell.ring()

    def _breaker_failed(self, agent_id: str, reason: str) -> None:
        self._start_faults[agent_id] = reason
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
