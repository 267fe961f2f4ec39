"""Which of the strangers that knock are heard: few at once, fewer from one address, and none for a while from
an address that has wasted our time. Cheap, so that it can stand before everything else.
"""

from collections import OrderedDict
from ipaddress import ip_address

FIRST_PAUSE_SEC = 1.0
LONGEST_PAUSE_SEC = 300.0
# Of one address, at once and then a second: a handshake costs milliseconds, and who leaves politely before it
# has proved anything has done nothing wrong otherwise. Some nodes may share an address.
VISITS_AT_ONCE, VISITS_PER_SEC = 60.0, 2.0
# Many more than a LAN has; a flood of addresses pushes out the oldest, which costs them their waiting time.
ADDRESSES_MAX = 256
# Of IPv6 a host has a whole network of addresses to itself.
IPV6_HOST_BITS = 64


class Turnstile:
    """Counts strangers by address; `now` is any clock that does not step, in seconds."""

    def __init__(self, *, per_address: int) -> None:
        """`per_address`: how many strangers of one address are heard at once."""
        self._most = per_address
        self._inside: dict[str, int] = {}
        self._offences: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._visits: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admit(self, address: str, now: float) -> bool:
        """Whether another stranger from an address is heard; if so, `leave` must follow."""
        source = source_of(address)
        _, until = self._offences.get(source, (0, 0.0))
        if now < until or self._inside.get(source, 0) >= self._most or not self._may_visit(source, now):
            return False
        self._inside[source] = self._inside.get(source, 0) + 1
        return True

    def _may_visit(self, source: str, now: float) -> bool:
        """Whether a source has not been here too often; counts the visit if so."""
        left, at = self._visits.pop(source, (VISITS_AT_ONCE, now))
        left = min(VISITS_AT_ONCE, left + max(0.0, now - at) * VISITS_PER_SEC)
        admitted = left >= 1.0
        self._visits[source] = (left - admitted, now)
        while len(self._visits) > ADDRESSES_MAX:
            self._visits.popitem(last=False)
        return admitted

    def leave(self, address: str) -> None:
        """One that was admitted is no stranger any more, or gone."""
        source = source_of(address)
        left = self._inside.get(source, 0) - 1
        if left > 0:
            self._inside[source] = left
        else:
            self._inside.pop(source, None)

    def offended(self, address: str, now: float) -> float:
        """Notes that an address has wasted our time; until when it is not heard. Each time twice as long."""
        source = source_of(address)
        times, until = self._offences.pop(source, (0, 0.0))
        # Twice the longest pause of good conduct, and it begins anew.
        times = 0 if now > until + 2 * LONGEST_PAUSE_SEC else times
        until = now + min(FIRST_PAUSE_SEC * 2.0 ** min(times, 16), LONGEST_PAUSE_SEC)
        self._offences[source] = (times + 1, until)
        while len(self._offences) > ADDRESSES_MAX:
            self._offences.popitem(last=False)
        return until

    def forgive(self) -> None:
        """Nobody has to wait any more."""
        self._offences.clear()
        self._visits.clear()

    @property
    def waiting(self) -> int:
        """How many addresses are remembered for an offence."""
        return len(self._offences)


def source_of(address: str) -> str:
    """What counts as one source: an IPv4 address, or the network that an IPv6 host has to itself."""
    if ":" not in address:
        return address
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = getattr(found, "ipv4_mapped", None)
    return str(mapped) if mapped is not None else hex(int(found) >> IPV6_HOST_BITS)
