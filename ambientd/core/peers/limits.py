"""How much one link may ask of this node."""

from collections.abc import Iterable

import msgspec

from ambientd.core.snapshot import Reason


class Rate(msgspec.Struct, frozen=True):
    """`burst` at once, then `refill` a second."""

    burst: float
    refill: float


# What a peer sends of its own accord: comparing, offers, single changes. A change is one message.
MESSAGES = Rate(1_000, 100)
UNASKED_BYTES = Rate(4 * 1024 * 1024, 512 * 1024)
# What it makes this node send: a first sync of 200,000 policies passes at this pace, a loop of requests is
# slowed down to it.
SERVED_BYTES = Rate(64 * 1024 * 1024, 4 * 1024 * 1024)
# Changes that this node tells at once; more in a second are found by comparing, in fewer messages.
PUSHES = Rate(100, 20)
# Refusals, weighed: three that no honest node makes, or a score of the others, then one in ten seconds.
PENALTY = Rate(30, 0.1)

_HEAVY = frozenset(
    {
        Reason.MALFORMED,
        Reason.TOO_LARGE,
        Reason.BAD_SIGNATURE,
        Reason.BAD_DIGEST,
        Reason.UNKNOWN_SIGNER,
        Reason.KEY_ROLE,
        Reason.AUDIENCE,
        Reason.NETWORK,
        Reason.JUMP,
    }
)


def penalty(reason: Reason) -> float:
    """What a refused snapshot weighs. Wrong clocks and lost counters are accidents, forgeries are not."""
    return 10.0 if reason in _HEAVY else 1.5


class Bucket:
    """A token bucket; the instant is an argument (monotonic seconds)."""

    __slots__ = ("_at", "_level", "_rate")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._level = rate.burst
        self._at = now

    def take(self, amount: float, now: float) -> bool:
        """Takes the amount, or nothing and answers False when it is not there."""
        self._level = min(self._rate.burst, self._level + max(0.0, now - self._at) * self._rate.refill)
        self._at = max(self._at, now)
        if amount > self._level:
            return False
        self._level -= amount
        return True


class Recent:
    """The ids added last, up to a bound; the oldest go."""

    __slots__ = ("_ids", "_most")

    def __init__(self, most: int) -> None:
        self._ids: dict[bytes, None] = {}
        self._most = most

    def add(self, ids: Iterable[bytes]) -> None:
        for item_id in ids:
            self._ids.pop(item_id, None)
            self._ids[item_id] = None
        while len(self._ids) > self._most:
            del self._ids[next(iter(self._ids))]

    def discard(self, item_id: bytes) -> None:
        self._ids.pop(item_id, None)

    def clear(self) -> None:
        self._ids.clear()

    def __contains__(self, item_id: bytes) -> bool:
        return item_id in self._ids

    def __len__(self) -> int:
        return len(self._ids)
