"""A circuit breaker per agent: three failed starts in a row stop new starts for a minute (R2.87)."""

import msgspec

FAILURES_TO_OPEN = 3
RETRY_AFTER_SEC = 60.0


class Breaker(msgspec.Struct, frozen=True):
    """Closed while `opened_at` is None. Open, it lets one trial through each `RETRY_AFTER_SEC`.

    Times are monotonic seconds.
    """

    failures: int = 0
    opened_at: float | None = None


def failed(state: Breaker, now: float) -> Breaker:
    """A start failed."""
    failures = state.failures + 1
    return Breaker(failures, now if failures >= FAILURES_TO_OPEN else None)


def succeeded(state: Breaker) -> Breaker:
    """A start worked: all is forgiven."""
    return Breaker()


def retry_at(state: Breaker) -> float | None:
    """When the next trial may be made; None when starts are free."""
    return None if state.opened_at is None else state.opened_at + RETRY_AFTER_SEC
