"""Rate limits: token buckets by client and tier, with time as an argument (fact sheet 2.7).

A bucket refills evenly and holds a burst. The table is bounded: when it is full, buckets that have been full
again for the longest time go first; a client that never waits costs one entry.
"""

import ipaddress
from collections import OrderedDict
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

_HOST_BITS = 64
CLIENTS_MAX = 65_536  # about 16 MiB; an address that is forgotten starts with a full burst


class Tier(StrEnum):
    """What a request counts as."""

    AUTH = "auth"
    NODE = "node"
    TASK = "task"
    PROOF = "proof"
    GENERAL = "general"
    DEVICE = "device"
    FAILED = "failed"  # answers 401, whatever was asked: guessing costs its address


class Rate(NamedTuple):
    """So many a minute, so many at once."""

    per_minute: float
    burst: int


DEFAULT_RATES = {
    Tier.AUTH: Rate(10, 3),
    Tier.NODE: Rate(20, 5),
    Tier.TASK: Rate(30, 10),
    Tier.PROOF: Rate(15, 3),
    Tier.GENERAL: Rate(60, 10),
    Tier.DEVICE: Rate(600, 120),
    Tier.FAILED: Rate(60, 30),
}


class _Bucket:
    __slots__ = ("at", "left")

    def __init__(self, at: float, left: float) -> None:
        self.at = at
        self.left = left


class RateLimiter:
    """All buckets of one process."""

    def __init__(self, rates: dict[Tier, Rate], *, clients_max: int = CLIENTS_MAX) -> None:
        self._rates = rates
        self._max = clients_max
        self._buckets: OrderedDict[tuple[Tier, str], _Bucket] = OrderedDict()

    def __len__(self) -> int:
        """How many buckets are held."""
        return len(self._buckets)

    def wait(self, tier: Tier, client: str, now: float) -> float:
        """Seconds until there will be one to take; 0.0 when there is. Takes none."""
        bucket = self._buckets.get((tier, client))
        if bucket is None:
            return 0.0
        rate = self._rates[tier]
        left = bucket.left + max(0.0, now - bucket.at) * rate.per_minute / 60
        return 0.0 if left >= 1 else (1 - left) * 60 / rate.per_minute

    def take(self, tier: Tier, client: str, now: float, rate: Rate | None = None) -> float:
        """Takes one; 0.0 when there was one, else the seconds until there will be. `now` is monotonic.

        With a `rate` of its own a client needs a name of its own too: a bucket has one rate for good.
        """
        rate, key = rate or self._rates[tier], (tier, client)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(now, float(rate.burst))
            if len(self._buckets) > self._max:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
            refill = max(0.0, now - bucket.at) * rate.per_minute / 60
            bucket.left, bucket.at = min(float(rate.burst), bucket.left + refill), now
        if bucket.left >= 1:
            bucket.left -= 1
            return 0.0
        return (1 - bucket.left) * 60 / rate.per_minute


def client_of(address: str | None) -> str:
    """Whom an address stands for. Whoever has one of IPv6 has a whole network of 64 bits, at least."""
    text = str(address)
    return _network_of(text) if ":" in text else text


@lru_cache(maxsize=4096)
def _network_of(text: str) -> str:
    try:
        address = ipaddress.IPv6Address(text.partition("%")[0])
    except ValueError:
        return text
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Address(int(address) >> _HOST_BITS << _HOST_BITS)) + "/64"


def tier_of(method: str, path: str, *, device: bool) -> Tier:
    """What a request counts as; joined nodes are counted apart from people behind the same address."""
    if path.startswith("/api/v1/auth/") and path.rpartition("/")[2] in ("login", "register", "password"):
        return Tier.AUTH
    if device:
        return Tier.DEVICE
    if path.startswith("/api/v1/nodes") and method in ("POST", "DELETE"):
        return Tier.NODE
    if path.startswith("/api/v1/tasks") and method in ("POST", "DELETE"):
        return Tier.TASK
    if path.startswith("/api/v1/proofs"):
        return Tier.PROOF
    return Tier.GENERAL
