"""What trusted time needs of the machine."""

from typing import Protocol

from ambientd.core.trustedtime import Reading


class TimeSource(Protocol):
    """The machine's clocks."""

    def reading(self) -> Reading:
        """Wall clock and boot clock at one moment; `synchronised` is left False."""

    def is_synchronised(self) -> bool:
        """Whether somebody who knows the time sets the wall clock; may cost a system call."""
