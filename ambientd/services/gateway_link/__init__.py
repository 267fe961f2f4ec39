"""The link to an OpenClaw Gateway: one connection, kept; calls; news for listeners."""

from ambientd.services.gateway_link.off import GatewayOff
from ambientd.services.gateway_link.service import GatewayLinkService

__all__ = ["GatewayLinkService", "GatewayOff"]
