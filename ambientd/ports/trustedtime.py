"""What trusted time needs of the machine, and what leases need of trusted time."""

from typing import Protocol

from ambientd.core.trustedtime import Reading, Trusted


class TimeSource(Protocol):
    """The machine's clocks."""

    def reading(self) -> Reading:
        """Wall clock and boot clock at one moment; `synchronised` is left False."""

    def is_synchronised(self) -> bool:
        """Whether somebody who knows the time sets the wall clock; may cost a system call."""


class TimeBounds(Protocol):
    """The time as far as it is known."""

    def look(self) -> Trusted:
        """The bounds of this moment, from memory and the machine's clocks."""

    @property
    def boot_id(self) -> str:
        """Which start of the machine `boot_ms` counts from."""

    def boot_ms(self) -> int:
        """Milliseconds since the machine started, suspend included; never goes back within one boot."""
