"""What time alone brings about, at its intervals: each sweep has its own loop, and none holds up another.

Several processes over one database may run them all: the flows take a lock for each step.
"""

from collections.abc import Awaitable, Callable, Sequence

import msgspec
import trio

from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.services.supervise import Log

LONGEST = 120.0  # seconds of one sweep; what is left is for the next one
SPREAD = 0.2  # of an interval, so that processes that were started together do not stay so


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """One sweep. `run` tells what it did, for the log, or nothing."""

    name: str
    interval: float  # seconds
    run: Callable[[], Awaitable[dict[str, object] | None]]


class SweepsService:
    """Runs sweeps until it is cancelled."""

    def __init__(self, sweeps: Sequence[Sweep], *, jitter: Callable[[], float], log: Log) -> None:
        """`jitter` gives numbers in [0, 1)."""
        self._sweeps = tuple(sweeps)
        self._jitter = jitter
        self._log = log

    async def run(self) -> None:
        """Until cancelled; a database that is away costs a line and the wait for the next time."""
        async with trio.open_nursery() as nursery:
            for sweep in self._sweeps:
                nursery.start_soon(self._loop, sweep)

    async def _loop(self, sweep: Sweep) -> None:
        failed = False
        while True:
            await trio.sleep(sweep.interval * (1 - SPREAD / 2 + SPREAD * self._jitter()))
            try:
                with trio.move_on_after(LONGEST) as scope:
                    done = await sweep.run()
                if scope.cancelled_caught:
                    self._log.warning("sweep.cut", sweep=sweep.name, after_sec=LONGEST)
                elif done is not None:
                    self._log.info("sweep.done", sweep=sweep.name, **done)
                failed = False
            except (StoreError, UnavailableError) as error:
                if not failed:
                    self._log.warning("sweep.failed", sweep=sweep.name, reason=str(error))
                failed = True
