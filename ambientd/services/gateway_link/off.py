"""A link that is not kept, for a node without a gateway: it answers like one that is away."""

from collections.abc import Mapping
from typing import Any

from ambientd.ports.clock import Clock
from ambientd.ports.gateway import GatewayUnavailableError, LinkPhase, LinkState
from ambientd.services.gateway_link.listener import Listener

_REASON = "no gateway is configured"


class GatewayOff:
    """Implements `ports.gateway.GatewayLink` without a gateway."""

    def __init__(self, *, url: str, clock: Clock) -> None:
        self.state = LinkState(phase=LinkPhase.OFF, url=url, since=clock.now(), reason=_REASON)

    async def call(
        self, method: str, params: Mapping[str, Any] | None = None, *, timeout: float = 10.0
    ) -> Any:
        """Always GatewayUnavailableError."""
        raise GatewayUnavailableError(_REASON, sent=False)

    def news(self) -> Listener:
        """Nothing ever happens."""
        return Listener()
