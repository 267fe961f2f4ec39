"""The only place that asks the machine for the time, and the ids that are made from it."""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime

from ambientd.core.timefmt import to_ms

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_RANDOM_BITS = 80
_LATEST_MS = 2**48 - 1


class SystemClock:
    """`ports.clock.Clock` on this machine."""

    def now(self) -> datetime:
        """The current instant, aware, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds of CLOCK_MONOTONIC: never steps, stands still while the machine sleeps."""
        return time.monotonic()


def uptime() -> float:
    """Seconds of CLOCK_BOOTTIME: never steps, and goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class UlidIds:
    """`ports.clock.Ids`. Ids of one object are unique and, within one millisecond, go up.

    Not for use from several threads at once.
    """

    def __init__(self, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        """`random_bytes` gives that many unpredictable bytes."""
        self._random_bytes = random_bytes
        self._last_ms = -1
        self._last_random = 0

    def session_id(self, at: datetime) -> str:
        """`ses_` and 26 characters (ULID): sorts by `at`. Instants before 1970 count as 1970."""
        return "ses_" + self.ulid(at)

    def ulid(self, at: datetime) -> str:
        """26 characters of Crockford's base 32: 48 bits of milliseconds, 80 of randomness."""
        ms = min(max(to_ms(at), 0), _LATEST_MS)
        if ms == self._last_ms:
            self._last_random += 1
        else:
            self._last_ms = ms
            # The top bit stays clear: no count of ids within one millisecond can overflow the rest.
            self._last_random = int.from_bytes(self._random_bytes(_RANDOM_BITS // 8)) >> 1
        return _base32(ms << _RANDOM_BITS | self._last_random)


def _base32(number: int) -> str:
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))
