"""Rate limits that an administrator has changed for a while: whose they are, and which one counts."""

import ipaddress
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from ambientd.core.fleet.checks import Problems
from ambientd.core.fleet.ratelimit import Rate, Tier
from ambientd.core.rejection import Rejected
from ambientd.wire.fleet_admin_messages import ThrottleRequest

if TYPE_CHECKING:
    from ambientd.core.site import Network

OVERRIDES_MAX = 500  # at a time: more are a matter for the configuration
RPM = (1, 1_000_000)
BURST = (1, 100_000)
LIFETIME_SEC = (60, 90 * 86_400)
REASON_MAX = 256  # bytes
# Guessing is not for sale. Log-in has no account yet, and a joined node is counted by itself.
TIERS = tuple(tier for tier in Tier if tier is not Tier.FAILED)
OF_USERS = tuple(tier for tier in TIERS if tier not in (Tier.AUTH, Tier.DEVICE))


class Override(msgspec.Struct, frozen=True, kw_only=True):
    """One of them. Exactly one of `network` and `user_id` is there; `created_by` is an account."""

    override_id: str
    tier: Tier
    rate: Rate
    network: "Network | None" = None
    user_id: str | None = None
    reason: str | None = None
    created_by: str
    created_at: datetime
    expires_at: datetime

    @property
    def subject(self) -> str:
        """Whose it is, in one word."""
        return f"user:{self.user_id}" if self.network is None else f"client:{self.network}"


class _Networks:
    """Overrides of networks of one tier and one version of IP, the longest prefixes first."""

    def __init__(self) -> None:
        self._by_length: dict[int, dict[int, Override]] = {}

    def add(self, network: "Network", override: Override) -> None:
        shift = network.max_prefixlen - network.prefixlen
        found = self._by_length.setdefault(shift, {})
        found[int(network.network_address) >> shift] = override
        self._by_length = dict(sorted(self._by_length.items()))

    def find(self, address: int, now: datetime) -> Override | None:
        for shift, found in self._by_length.items():
            override = found.get(address >> shift)
            if override is not None and now < override.expires_at:
                return override
        return None


class Overrides:
    """All overrides of one moment. `revision` grows with each change."""

    def __init__(self, rows: Iterable[Override] = (), *, revision: int = 0) -> None:
        self.revision = revision
        self._networks: dict[tuple[Tier, int], _Networks] = {}
        self._users: dict[Tier, dict[str, Override]] = {}
        self._any = False
        for row in rows:
            self._any = True
            if row.network is not None:
                self._networks.setdefault((row.tier, row.network.version), _Networks()).add(row.network, row)
            elif row.user_id is not None:
                self._users.setdefault(row.tier, {})[row.user_id] = row

    def __bool__(self) -> bool:
        """Whether there are any."""
        return self._any

    def speaks_of_users(self, tier: Tier) -> bool:
        """Whether it matters for a tier who asks."""
        return tier in self._users

    def of_user(self, tier: Tier, user_id: str, now: datetime) -> Override | None:
        """An account's own, until it expires."""
        found = self._users.get(tier, {}).get(user_id)
        return found if found is not None and now < found.expires_at else None

    def of_address(self, tier: Tier, address: str, now: datetime) -> Override | None:
        """That of the smallest network around an address; None also for what is no address."""
        if not self._networks:
            return None
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return None
        networks = self._networks.get((tier, ip.version))
        return None if networks is None else networks.find(int(ip), now)


def check_override(body: ThrottleRequest, *, override_id: str, by: str, at: datetime) -> Override | Rejected:
    """The override that a request asks for, or everything that is wrong with it."""
    problems = Problems()
    tiers = TIERS if body.user_id is None else OF_USERS
    problems.one_of("tier", body.tier, tuple(tier.value for tier in tiers))
    problems.between("rpm", body.rpm, *RPM)
    problems.between("burst", body.burst, *BURST)
    problems.between("expires_in", body.expires_in, *LIFETIME_SEC)
    if body.reason is not None:
        problems.sized("reason", body.reason, 1, REASON_MAX)
        if not body.reason.isprintable():
            problems.add("reason", "format", "must be printable text", "printable text")
    network = _network(problems, body)
    details = problems.details()
    if details:
        return Rejected("VALIDATION_ERROR", "the override is not valid", details)
    return Override(
        override_id=override_id,
        tier=Tier(body.tier),
        rate=Rate(body.rpm, body.burst),
        network=network,
        user_id=body.user_id,
        reason=body.reason,
        created_by=by,
        created_at=at,
        expires_at=at + timedelta(seconds=body.expires_in),
    )


def _network(problems: Problems, body: ThrottleRequest) -> "Network | None":
    if (body.client is None) is (body.user_id is None):
        problems.add("client", "required", "exactly one of client and user_id must be given")
        return None
    if body.client is None:
        return None
    try:
        return ipaddress.ip_network(body.client)
    except ValueError:
        expected = "an address, or a network such as 192.0.2.0/24 without bits of a host"
        problems.add("client", "format", f"must be {expected}", expected)
        return None
