"""Session leases and the egress check, put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from ambientd.api.leases import LeaseRoutes, lease_routes
from ambientd.api.router import Route
from ambientd.core.ed25519 import parse_key
from ambientd.core.lease import Ground as LeaseGround
from ambientd.flows.egress import EgressCheck
from ambientd.flows.leasebook import LeaseBook
from ambientd.flows.leases import Leases
from ambientd.flows.status import AutonomyStatus
from ambientd.flows.trustedtime import KeptTime
from ambientd.ports.autonomy import ConnectivityView, NodeIdentity
from ambientd.ports.errors import UnavailableError
from ambientd.services.bell import Bell
from ambientd.services.leases import LeaseService
from ambientd.wire.autonomy_messages import LeasesStatus

if TYPE_CHECKING:
    from ambientd.app.autonomy import Ground, Run
    from ambientd.ports.leases import EgressPolicies


class LeasePart:
    """Implements `app.autonomy.Part`."""

    def __init__(
        self,
        ground: Ground,
        *,
        time: KeptTime,
        links: ConnectivityView,
        policies: EgressPolicies,
        identity: NodeIdentity,
        more_issuers: Callable[[], frozenset[bytes]] = frozenset,
        network: Callable[[], str] | None = None,
    ) -> None:
        """`more_issuers` are keys that the control plane vouches for, beside those of the configuration;
        `network` is the one whose leases count, that of the configuration without it."""
        self._ground = ground
        self._time = time
        self._identity = identity
        self._more_issuers = more_issuers
        self._network = network or (lambda: ground.config().policy.network)
        self._configured: tuple[tuple[str, ...], frozenset[bytes]] = ((), frozenset())
        bell = Bell()
        self._book = LeaseBook(store=ground.store, time=time, clock=ground.clock)
        self.leases = Leases(
            self._book,
            ground=self._lease_ground,
            links=links,
            policies=policies,
            changed=ground.changed,
            wake=bell.ring,
        )
        self.egress = EgressCheck(self.leases, self._book, links=links, policies=policies)
        self._service = LeaseService(leases=self.leases, bell=bell, log=ground.log)

    def _lease_ground(self) -> LeaseGround:
        config = self._ground.config().policy
        if self._configured[0] != config.lease_issuers:
            keys = frozenset(key for text in config.lease_issuers if (key := parse_key(text)) is not None)
            self._configured = config.lease_issuers, keys
        return LeaseGround(
            network=self._network(),
            node=self._node(),
            issuers=self._configured[1] | self._more_issuers(),
        )

    def _node(self) -> bytes | None:
        """The key that leases are bound to; none while the identity may not be used."""
        try:
            return self._identity.public_key
        except UnavailableError:
            return None

    @property
    def services(self) -> Mapping[str, Run]:
        """None without the store."""
        return {}

    @property
    def store_services(self) -> Mapping[str, Run]:
        """Ends what is at its end."""
        return {"leases": self._service.run}

    def routes(self) -> Sequence[Route]:
        """`/api/v1/node/leases`, `/api/v1/node/egress/check`."""
        return lease_routes(
            LeaseRoutes(
                leases=self.leases, egress=self.egress, time=self._time.look, audited=self._ground.audited
            )
        )

    def status(self, now: datetime) -> AutonomyStatus:
        """A row while leases are active, or could be if the clock were believed."""
        wanted = bool(self._ground.config().policy.lease_issuers)
        doubt = self._time.doubt if self._time.is_loaded and (wanted or len(self._book)) else None
        if not len(self._book) and doubt is None:
            return AutonomyStatus()
        return AutonomyStatus(
            leases=LeasesStatus(active=len(self._book), bytes=self._book.bytes, clock_doubt=doubt)
        )
