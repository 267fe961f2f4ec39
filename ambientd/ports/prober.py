"""What is asked of this machine and of the outside to know which links there are."""

from typing import Protocol

from ambientd.config.upstream import ControlAddress, Place
from ambientd.core.connectivity import Answer, Links


class LinkReader(Protocol):
    """The network interfaces of this machine."""

    async def read(self) -> Links:
        """The usable ones; never raises for what the machine refuses: that is `Links.error`."""


class Upstream(Protocol):
    """Questions beyond this machine. None raises for what goes wrong there, and none takes longer than
    `seconds`; cancelled, they leave nothing open."""

    async def reach(self, target: Place, *, seconds: float) -> Answer:
        """Whether a TCP connection can be opened."""

    async def ask_control(self, address: ControlAddress, *, ca_file: str | None, seconds: float) -> Answer:
        """Whether a control plane answers there that says it is healthy. Sends nothing secret, follows no
        redirect."""
