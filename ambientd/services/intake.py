"""Watches the inbox: swept each cycle, and at once when something was handed in or a task has ended."""

from collections.abc import AsyncIterator, Callable

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
        log: Log,
    ) -> None:
        self._intake = intake
        self._wake_sessions = wake_sessions
        self._changes = changes
        self._log = log
        self._bell = Bell()
        self._picked_up = 0
        self._waiting = 0
        self._odd = 0
        self._failing: str | None = None

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
        try:
            await self._sweep()
        except (OSError, StoreError, UnavailableError) as error:
            reason = f"{type(error).__name__}: {error}"
            if reason != self._failing:
                self._log.warning("intake.failing", reason=reason)
            self._failing = reason
        else:
            if self._failing is not None:
                self._log.info("intake.recovered")
            self._failing = None

    async def _sweep(self) -> None:
        spool = self._intake.spool
        await spool.prepare()
        scan = await spool.scan()
        self._odd = scan.odd
        started = 0
        for name in scan.names[:FILES_PER_SWEEP]:
            started += await take_in(self._intake, name)
        if started:
            self._picked_up += started
            self._wake_sessions()
        await close_finished(self._intake, scan.running)
        self._waiting = len((await spool.scan()).names)
        if len(scan.names) > FILES_PER_SWEEP:
            self._bell.ring()
