"""Links to the peers on the LAN: kept, compared, spread; what is refused is counted and recorded."""

from ambientd.services.peers.service import PeersService, PeersSettings

__all__ = ["PeersService", "PeersSettings"]
