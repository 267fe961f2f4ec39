"""Keeps sums and matrices in order in the background, so that whoever asks need not wait for it."""

import trio

from ambientd.flows.analytics import Analytics, sweep
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.services.supervise import Log

# The specification wants analytics within five minutes (8.3.1).
EVERY_SEC = 300.0
# Soon after the start: a ledger from before the aggregates has all its days to build.
FIRST_AFTER_SEC = 5.0


class AggregatesService:
    """Sweeps now and then; a sweep that fails is told and tried again with the next."""

    def __init__(self, *, analytics: Analytics, log: Log) -> None:
        self._analytics = analytics
        self._log = log

    async def run(self) -> None:
        """Runs until cancelled."""
        await trio.sleep(FIRST_AFTER_SEC)
        while True:
            try:
                days = await sweep(self._analytics)
            except (StoreError, UnavailableError) as error:
                self._log.warning("aggregates.failed", reason=str(error))
            else:
                if days:
                    self._log.info("aggregates.rebuilt", days=len(days), first=days[0], last=days[-1])
            await trio.sleep(EVERY_SEC)
