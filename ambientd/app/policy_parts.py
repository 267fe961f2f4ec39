"""The policy cache of this node, put together: who may issue, where it is kept, who asks."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

from ambientd.api.policies import PolicyRoutes, policy_routes
from ambientd.api.router import Route
from ambientd.app.autonomy import Ground, Run
from ambientd.core.connectivity import Action
from ambientd.core.policybundle import parse_issuer
from ambientd.core.policytext import policy_problems
from ambientd.flows.policies import PolicyDesk
from ambientd.flows.policycache import PolicyCache
from ambientd.flows.status import AutonomyStatus
from ambientd.ports.autonomy import ConnectivityView, TrustedClock
from ambientd.services.bell import Bell
from ambientd.services.policies import PolicyService
from ambientd.wire.autonomy_messages import PolicyStatus

Agreement = Callable[[], tuple[int, int]]
"""How many peers are linked, and how many of them hold the same items."""


class PolicyPart:
    """Implements `app.autonomy.Part`. `cache` is what the peers' and the leases' parts are given."""

    def __init__(
        self,
        ground: Ground,
        *,
        links: ConnectivityView,
        clock: TrustedClock,
        agreement: Agreement,
        more_issuers: Callable[[], Collection[bytes]] = tuple,
        network: Callable[[], str] | None = None,
    ) -> None:
        """`more_issuers` are keys that the control plane vouches for, beside those of the configuration;
        `network` is the one whose items count, that of the configuration without it."""
        self._ground = ground
        self._links = links
        self._clock = clock
        self._more_issuers = more_issuers
        self._agreement = agreement
        config = ground.config().policy
        self._configured = frozenset(
            key for text in config.issuers if (key := parse_issuer(text)) is not None
        )
        bell = Bell()
        self.cache = PolicyCache(
            store=ground.store,
            clock=self._clock,
            links=self._links,
            network=network or (lambda: config.network),
            issuers=self.issuers,
            max_items=config.max_items,
            changed=ground.changed,
            stale=bell.ring,
        )
        self.reload = bell.ring
        self.desk = PolicyDesk(cache=self.cache, links=self._links, clock=self._clock)
        self._service = PolicyService(cache=self.cache, clock=self._clock, bell=bell, log=ground.log)

    def issuers(self) -> frozenset[bytes]:
        """The keys whose policies count at the moment."""
        return self._configured | frozenset(self._more_issuers())

    @property
    def services(self) -> Mapping[str, Run]:
        """Nothing runs without the store."""
        return {}

    @property
    def store_services(self) -> Mapping[str, Run]:
        """What loads and expires."""
        return {"policies": self._service.run}

    def routes(self) -> Sequence[Route]:
        """The routes of the policy cache."""
        return policy_routes(PolicyRoutes(desk=self.desk, audited=self._ground.audited))

    def status(self, now: datetime) -> AutonomyStatus:
        """A row where policies are wanted or there are some."""
        facts, issuers = self.cache.facts, self.issuers()
        totals = facts.totals
        problems = policy_problems(
            totals,
            now=self._clock.now(),
            issuers=len(issuers),
            renewed=self._links.may(Action.RECONCILE),
        )
        if not issuers and not totals.policies and not totals.untrusted:
            return AutonomyStatus()
        peers, agree = self._agreement()
        age = None if facts.changed_at is None else max(0, int((now - facts.changed_at).total_seconds()))
        return AutonomyStatus(
            policy=PolicyStatus(
                policies=totals.policies,
                version=totals.revision,
                age_sec=age,
                held=totals.held,
                peers=peers,
                peers_agree=agree,
            ),
            problems=tuple(problems),
        )
