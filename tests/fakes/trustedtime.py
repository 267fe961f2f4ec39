"""A machine's clocks that are set by hand."""

from datetime import UTC, datetime

from ambientd.core.trustedtime import Reading

START_MS = round(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp() * 1000)
RELEASED_MS = round(datetime(2026, 11, 1, tzinfo=UTC).timestamp() * 1000)


class HandTime:
    """Implements `ports.trustedtime.TimeSource`."""

    def __init__(self) -> None:
        self.wall_ms = START_MS
        self.at_boot_ms = 60_000
        self.boot = 1
        self.synchronised = False
        self.asked = 0

    def reading(self) -> Reading:
        return Reading(wall_ms=self.wall_ms, boot_ms=self.at_boot_ms, boot_id=f"boot-{self.boot}")

    def is_synchronised(self) -> bool:
        self.asked += 1
        return self.synchronised

    def run(self, ms: int) -> None:
        """Time passes, also while the machine sleeps."""
        self.wall_ms += ms
        self.at_boot_ms += ms

    def reboot(self, off_ms: int = 0) -> None:
        """The machine is switched off for a while."""
        self.wall_ms += off_ms
        self.at_boot_ms = 1_000
        self.boot += 1
