"""Which of the strangers that knock are heard: few at once, fewer from one address, and none for a while from
an address that has wasted our time. Cheap, so that it can stand before everything else.
"""

from collections import OrderedDict
from ipaddress import ip_address

FIRST_PAUSE_SEC = 1.0
LONGEST_PAUSE_SEC = 300.0
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

    def admit(self, address: str, now: float) -> bool:
        """Whether another stranger from an address is heard; if so, `leave` must follow."""
        source = source_of(address)
        _, until = self._offences.get(source, (0, 0.0))
        if now < until or self._inside.get(source, 0) >= self._most:
            return False
        self._inside[source] = self._inside.get(source, 0) + 1
        return True

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
