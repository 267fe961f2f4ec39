"""Ends leases when they are at their end, and writes what is due of their traffic."""

import trio

from ambientd.flows.leases import Leases
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.services.bell import Bell
from ambientd.services.supervise import Log

# While a lease is active: a machine that slept, a clock that was set, a session that ended is noticed within
# this. Whoever asks meanwhile is answered by what is true then, so nothing depends on it.
LOOK_SEC = 60.0
AGAIN_SEC = 10.0
LAST_SEC = 2.0  # at an orderly stop
SOON_SEC = 0.1  # no sweep follows another at once, whatever it says is due


class LeaseService:
    """Without an active lease it only waits for the bell."""

    def __init__(self, *, leases: Leases, bell: Bell, log: Log) -> None:
        """`bell` is rung when a lease became active or ended."""
        self._leases = leases
        self._bell = bell
        self._log = log

    async def run(self) -> None:
        """Runs until cancelled; at the end, also when it crashes, figures are kept as they are. May be run
        again."""
        self._leases.open()
        try:
            while True:
                await self._once()
        finally:
            with trio.move_on_after(LAST_SEC, shield=True):
                await self._close()

    async def _once(self) -> None:
        try:
            wait = await self._leases.sweep()
        except (StoreError, UnavailableError) as error:
            self._log.warning("leases.sweep_failed", reason=str(error))
            wait = AGAIN_SEC
        if wait is None:
            await self._bell.wait()
        else:
            await self._bell.wait(trio.current_time() + max(SOON_SEC, min(wait, LOOK_SEC)))

    async def _close(self) -> None:
        try:
            await self._leases.close()
        except (StoreError, UnavailableError) as error:
            self._log.warning("leases.figures_unwritten", reason=str(error))
