"""Clocks for `core/trustedtime`: the boot clock, which boot it counts, and whether the wall clock is set by
somebody who knows the time."""

import os

from ambientd.core.timefmt import to_ms
from ambientd.core.trustedtime import Reading
from ambientd.host.clock import uptime
from ambientd.ports.clock import Clock

BOOT_ID = "/proc/sys/kernel/random/boot_id"
# systemd-timesyncd touches it whenever it has set the clock, at least every 34 minutes.
TIMESYNC = "/run/systemd/timesync/synchronized"
TIMESYNC_FRESH_SEC = 3_600
_TIMEX_BYTES = 256  # struct timex has 208; all zero asks and changes nothing
_UNSYNCHRONISED = 5  # TIME_ERROR


class HostTime:
    """`ports.trustedtime.TimeSource` on this machine."""

    def __init__(self, clock: Clock, *, timesync: str = TIMESYNC) -> None:
        """`clock` gives the wall time; `timesync` is the file that tells of timesyncd."""
        self._clock = clock
        self._timesync = timesync
        self._boot_id: str | None = None

    def reading(self) -> Reading:
        """Both clocks now; whether they are synchronised is not asked."""
        if self._boot_id is None:
            self._boot_id = _boot_id()
        return Reading(
            wall_ms=to_ms(self._clock.now()),
            boot_ms=round(uptime() * 1000),
            boot_id=self._boot_id,
        )

    def is_synchronised(self) -> bool:
        """Whether the kernel is told the time (NTP, PTP), or timesyncd has set it within the hour.

        The kernel takes its word back when somebody sets the clock by hand; the file is older then. Where
        the system call is not allowed (systemd's ProtectClock) only the file speaks.
        """
        return _kernel_says_so() or self._timesync_is_fresh()

    def _timesync_is_fresh(self) -> bool:
        try:
            touched = os.stat(self._timesync).st_mtime
        except OSError:
            return False
        return -1 <= self._clock.now().timestamp() - touched <= TIMESYNC_FRESH_SEC


def _boot_id() -> str:
    """Without /proc every process counts as a boot of its own, which trusts less."""
    try:
        with open(BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return f"process {os.getpid()} {uptime()}"


def _kernel_says_so() -> bool:
    import ctypes  # only while the clock is in doubt

    state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return 0 <= state < _UNSYNCHRONISED
