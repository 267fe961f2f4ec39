"""This machine's meters, read in a worker thread with a deadline. Implements `ports.meters.Meters`."""

import os
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import trio

from ambientd.core.delta_v_inputs import Reading
from ambientd.core.power import Metered
from ambientd.host.nvml import Nvml
from ambientd.host.power_meters import Rapl, read_batteries, read_hwmon, read_text
from ambientd.host.session_cpu import SessionCpu
from ambientd.host.threads import RunSync
from ambientd.ports.errors import UnavailableError

# A sensor behind a slow bus takes a second; one that hangs costs one thread, once.
TIMEOUT_SEC = 10.0
# Less may be the time between two looks at two clocks.
ASLEEP_MIN_SEC = 1.0
_KIB_PER_GIB = 1024 * 1024
_BUSY = (1, 2, 3, 6, 7)  # user, nice, system, irq, softirq of a line of /proc/stat

T = TypeVar("T")


class Roots(NamedTuple):
    """Where the kernel shows itself."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    dev: Path = Path("/dev")


class _OneThread:
    """Runs one thing at a time and lets it go when its caller gives up; the next waits until it has ended."""

    def __init__(self) -> None:
        self._limiter: trio.CapacityLimiter | None = None

    async def __call__(self, work: Callable[[], T], /) -> T:
        if self._limiter is None:
            self._limiter = trio.CapacityLimiter(1)
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)


class HostMeters:
    """All meters of this machine. Not for use by two callers at the same time."""

    def __init__(
        self,
        *,
        monotonic: Callable[[], float],
        roots: Roots | None = None,
        nvml: Nvml | None = None,
        run_sync: RunSync | None = None,
        ticks_per_sec: int | None = None,
    ) -> None:
        """`monotonic` is seconds on a clock that never steps."""
        self._monotonic = monotonic
        self._roots = roots or Roots()
        self._run_sync: RunSync = run_sync or _OneThread()
        self._rate = ticks_per_sec or os.sysconf("SC_CLK_TCK")
        self._rapl = Rapl(self._roots.sys)
        self._nvml = nvml or Nvml(self._roots.dev)
        self._cpu = SessionCpu(self._roots.proc, self._rate)
        self._before: float | None = None
        self._busy_before: int | None = None
        self._uptime_before: float | None = None

    async def read(self, sessions: Collection[str]) -> Reading:
        """See `Meters`."""
        with trio.move_on_after(TIMEOUT_SEC):
            return await self._run_sync(partial(self.take, frozenset(sessions)))
        raise UnavailableError(f"a meter has not answered within {TIMEOUT_SEC:g} s")

    def take(self, sessions: Collection[str] = ()) -> Reading:
        """The same, here and now; may block."""
        now = self._monotonic()
        seconds = None if self._before is None else now - self._before
        self._before = now
        if seconds is not None and seconds <= 0:
            seconds = None
        busy, cores = self._busy()
        return Reading(
            seconds=seconds,
            asleep=self._asleep(seconds),
            power=tuple(self._power(seconds)),
            busy=busy,
            cores=cores,
            queue=self._queue(),
            memory=self._memory(),
            sessions=self._cpu.take(sessions),
        )

    def _power(self, seconds: float | None) -> list[Metered]:
        sys = self._roots.sys
        return [
            *read_hwmon(sys),
            *read_batteries(sys),
            *self._rapl.read(seconds),
            *self._nvml.read(seconds),
        ]

    def _busy(self) -> tuple[float | None, int | None]:
        """Core-seconds since the reading before, and how many cores there are."""
        try:
            with (self._roots.proc / "stat").open("rb") as file:
                lines = [line.split() for line in file if line.startswith(b"cpu")]
            ticks = sum(int(lines[0][place]) for place in _BUSY)
        except (OSError, ValueError, IndexError):
            self._busy_before = None
            return None, None
        before, self._busy_before = self._busy_before, ticks
        busy = None if before is None else max(0, ticks - before) / self._rate
        return busy, max(1, len(lines) - 1)

    def _asleep(self, seconds: float | None) -> float:
        """The kernel's uptime goes on while the machine is suspended, the monotonic clock does not."""
        before, self._uptime_before = self._uptime_before, None
        try:
            self._uptime_before = float(read_text(self._roots.proc / "uptime").split()[0])
        except (OSError, ValueError, IndexError):
            return 0.0
        if before is None or seconds is None:
            return 0.0
        asleep = self._uptime_before - before - seconds
        return asleep if asleep > ASLEEP_MIN_SEC else 0.0

    def _queue(self) -> float | None:
        try:
            found = float(read_text(self._roots.proc / "loadavg").split()[0])
        except (OSError, ValueError, IndexError):
            return None
        return found if found >= 0 else None

    def _memory(self) -> float | None:
        try:
            rows = dict(
                line.partition(":")[::2] for line in read_text(self._roots.proc / "meminfo").splitlines()
            )
            used = int(rows["MemTotal"].split()[0]) - int(rows["MemAvailable"].split()[0])
        except (OSError, ValueError, KeyError, IndexError):
            return None
        return used / _KIB_PER_GIB if used > 0 else None
