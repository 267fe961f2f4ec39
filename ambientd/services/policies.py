"""Keeps the policy cache's memory in step with the store, and drops what has expired when it has."""

import trio

from ambientd.core.timefmt import to_ms
from ambientd.flows.policycache import SWEEP_MAX, PolicyCache
from ambientd.ports.autonomy import TrustedClock
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.services.bell import Bell
from ambientd.services.supervise import Log

# The wall clock may be set: an expiry is waited for in steps.
LONGEST_WAIT_SEC = 3600.0
RETRY_SEC = 30.0


class PolicyService:
    """Loads once the store is ready, then sleeps until something expires or somebody rings."""

    def __init__(self, *, cache: PolicyCache, clock: TrustedClock, bell: Bell, log: Log) -> None:
        self._cache = cache
        self._clock = clock
        self._bell = bell
        self._log = log

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            try:
                await self._cache.load()
                while self._is_due() and await self._cache.sweep() == SWEEP_MAX:
                    self._log.info("policies.expired", more=True)
            except (StoreError, UnavailableError) as error:
                self._log.warning("policies.failed", reason=str(error))
                await self._bell.wait(trio.current_time() + RETRY_SEC)
            else:
                await self._bell.wait(self._until())

    def _is_due(self) -> bool:
        due = self._cache.due
        return due is not None and due <= to_ms(self._clock.reached())

    def _until(self) -> float | None:
        due = self._cache.due
        if due is None:
            return None
        left = max(0.0, (due - to_ms(self._clock.reached())) / 1000)
        return trio.current_time() + min(left + 0.001, LONGEST_WAIT_SEC)
