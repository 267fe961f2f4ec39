"""Watches the inbox: swept each cycle, and at once when something was handed in or a task has ended."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import trio

from ambientd.flows.intake import Intake, close_finished, take_in
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.services.bell import Bell
from ambientd.services.supervise import Log

# One sweep takes at most so many files; the rest waits for the next one, which is rung at once.
FILES_PER_SWEEP = 256


class IntakeService:
    """`picked_up` counts sessions taken in since the dispatcher last asked."""

    def __init__(
        self,
        *,
        intake: Intake,
        wake_sessions: Callable[[], None],
        changes: Callable[[], AsyncIterator[None]],
        bell: Bell,
        log: Log,
    ) -> None:
        self._intake = intake
        self._wake_sessions = wake_sessions
        self._changes = changes
        self._log = log
        self._bell = bell
        self._picked_up = 0
        self._waiting = 0
        self._odd = 0
        self._failing: str | None = None
        self._left: frozenset[str] = frozenset()

    def wake(self) -> None:
        """Sweeps soon. Never blocks."""
        self._bell.ring()

    def take_picked_up(self) -> int:
        """Sessions taken in since the last call."""
        count, self._picked_up = self._picked_up, 0
        return count

    def add_picked_up(self) -> None:
        """Counts work that arrived another way (an operator's spawn)."""
        self._picked_up += 1

    @property
    def waiting(self) -> int:
        """Files in the inbox that the last sweep left there."""
        return self._waiting

    @property
    def odd(self) -> int:
        """Files whose names are not `<name>.json` (R2.85)."""
        return self._odd

    @property
    def failing(self) -> str | None:
        """Why the inbox cannot be swept, if it cannot."""
        return self._failing

    async def run(self) -> None:
        """Sweeps until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            while True:
                await self._sweep_guarded()
                await self._bell.wait()

    async def _listen(self) -> None:
        async for _ in self._changes():
            self._bell.ring()

    async def _sweep_guarded(self) -> None:
        """A full disk or an unreadable folder is told once and tried again at the next cycle."""
        reason: str | None = None
        try:
            reason = await self._sweep()
        except (OSError, StoreError, UnavailableError) as error:
            reason = _describe(error)
        finally:
            # Always: a sweep that failed half-way may have written sessions all the same.
            self._wake_sessions()
        if reason is not None and reason != self._failing:
            self._log.warning("intake.failing", reason=reason)
        if reason is None and self._failing is not None:
            self._log.info("intake.recovered")
        self._failing = reason

    async def _sweep(self) -> str | None:
        """One round through the inbox; returns a reason why a file could not be brought on."""
        spool = self._intake.spool
        await spool.prepare()
        scan = await spool.scan()
        self._odd = scan.odd
        # By name; those that the last sweep had to leave come last, so that they hold nobody up.
        looked_at = sorted(scan.names, key=lambda name: (name in self._left, name))[:FILES_PER_SWEEP]
        trouble = await self._each(looked_at, self._take_in)
        trouble = await self._each(scan.running, self._close) or trouble
        left = frozenset((await spool.scan()).names)
        self._waiting = len(left)
        self._left = left.intersection(self._left.union(looked_at))
        # More than one sweep takes: on with it, unless nothing moves at all.
        if len(scan.names) > FILES_PER_SWEEP and not left.issuperset(looked_at):
            self._bell.ring()
        return trouble

    async def _take_in(self, name: str) -> None:
        self._picked_up += await take_in(self._intake, name)

    async def _close(self, name: str) -> None:
        await close_finished(self._intake, name)

    async def _each(self, names: Iterable[str], step: Callable[[str], Awaitable[None]]) -> str | None:
        """Brings each file on; one that cannot be moved does not hold up the others. The last trouble."""
        trouble: str | None = None
        for name in names:
            try:
                await step(name)
            except OSError as error:
                trouble = _describe(error)
        return trouble


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
