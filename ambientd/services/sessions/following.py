"""Follows one live run: its output becomes events, its end closes the row."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import msgspec

from ambientd.config.schema import AgentConfig, OutputFormat
from ambientd.core.agent_output import OutputState, finish_output, fold_output, resume_output, usage_record
from ambientd.core.pricing import PriceTable
from ambientd.core.records import NewEvent, RunRecord, SessionRecord, UsageRecord
from ambientd.core.timefmt import from_ms
from ambientd.flows import runs
from ambientd.ports.clock import Clock
from ambientd.ports.runner import ArtifactFile, RunLink, RunResult
from ambientd.ports.store import Transaction

T = TypeVar("T")

ARTIFACTS_MAX = 1000


class Write(Protocol):
    """Runs work in a transaction, insisting until the store takes it."""

    async def __call__(self, work: Callable[[Transaction], T], /) -> T: ...


class Followed(msgspec.Struct, frozen=True, kw_only=True):
    """What following a run needs."""

    session_id: str
    link: RunLink
    agent: AgentConfig | None


class Following:
    """Not shared; one per live run."""

    def __init__(
        self,
        followed: Followed,
        *,
        write: Write,
        clock: Clock,
        tell: Callable[[str], None],
        started: Callable[[], None],
        prices: Callable[[], PriceTable | None],
    ) -> None:
        """`tell` hears of the session's news, `started` once that the agent's program runs; `prices` estimate
        a cost that the agent does not report."""
        self._prices = prices
        self._id = followed.session_id
        self._link = followed.link
        self._agent = followed.agent
        self._write = write
        self._clock = clock
        self._tell = tell
        self._started = started
        self._marked = False
        self._offset = 0
        self._output = OutputState()
        self._pending: list[NewEvent] = []

    async def run(self, artifacts: Callable[[str, int], Awaitable[list[ArtifactFile]]]) -> bool:
        """Follows to the end; True when the agent could not even be started."""
        run, row, usage = await self._write(self._load)
        self._offset = run.spool_offset
        self._output = resume_output(usage, row.model_id if row else None)
        while True:
            result = await self._link.result()
            await self._mark_running()
            run = await self._drain(run)
            if result is not None:
                break
            await self._link.wait_news()
        await self._finish(run, result, await artifacts(self._id, ARTIFACTS_MAX))
        return result.cause == "start_failed"

    def _load(self, tx: Transaction) -> tuple[RunRecord, SessionRecord | None, UsageRecord | None]:
        run = tx.runs.get(self._id) or RunRecord(session_id=self._id)
        return run, tx.ledger.get(self._id), tx.usage.get(self._id)

    async def _mark_running(self) -> None:
        if self._marked:
            return
        started = await self._link.started_at_ms()
        if started is None:
            return
        self._started()
        at = from_ms(started)
        if await self._write(lambda tx: runs.mark_running(tx, self._id, at)):
            self._tell(self._id)
        self._marked = True

    async def _drain(self, run: RunRecord) -> RunRecord:
        """Brings all output that is there into the ledger. The stored offset moves only over lines that
        have become events or usage, so that a daemon killed here neither loses nor doubles one."""
        output = self._agent.output if self._agent else OutputFormat.TEXT
        while True:
            chunk = await self._link.read_output(self._offset)
            if chunk.next_offset == self._offset:
                return run
            self._offset = chunk.next_offset
            self._output, events = fold_output(self._output, chunk.lines, output)
            self._pending.extend(events)
            if self._output.settled:
                run = await self._store(run)

    async def _store(self, run: RunRecord) -> RunRecord:
        events, self._pending = tuple(self._pending), []
        ahead = msgspec.structs.replace(run, spool_offset=self._offset)
        usage = self._usage()
        stored = await self._write(lambda tx: runs.record_output(tx, ahead, events, usage))
        self._tell(self._id)
        return stored

    def _usage(self) -> UsageRecord | None:
        return usage_record(self._output.usage, session_id=self._id, at=self._clock.now())

    async def _finish(self, run: RunRecord, result: RunResult, artifacts: list[ArtifactFile]) -> None:
        self._output, rest = finish_output(self._output)
        self._pending.extend(rest)
        if self._pending or self._offset != run.spool_offset:
            await self._store(run)
        ending = runs.Ending(
            session_id=self._id,
            result=result,
            artifacts=tuple(artifacts),
            usage=self._usage(),
            timeout=self._agent.timeout if self._agent else result.runtime_ms / 1000,
            model=self._output.usage.model,
            prices=self._prices(),
        )
        await self._write(lambda tx: runs.finish(tx, ending))
        self._tell(self._id)
