"""How requests of joined nodes find their credentials without each paying for a transaction of its own."""

from collections.abc import Callable
from typing import Protocol

from ambientd.core.fleet.records import Device
from ambientd.core.rejection import Rejected

Check = Callable[[Device], Rejected | None]
"""Whether a request is the device's: computes only. It may run in a worker thread."""


class DeviceLookups(Protocol):
    """Looks credentials up, many callers' together."""

    async def find(self, token_hash: bytes, check: Check) -> Device | Rejected | None:
        """The device as it stands now, None when there is none, or what `check` says of it; raises as
        `FleetStore.read`."""
