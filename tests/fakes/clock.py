"""Clocks and ids for tests: the wall clock is derived from trio's, so that both jump together."""

from datetime import UTC, datetime, timedelta

import trio

EPOCH = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


class TrioWallClock:
    """Implements `ports.clock.Clock` on trio's clock; `step` moves the wall clock only."""

    def __init__(self) -> None:
        self._zero = trio.current_time()
        self._offset = timedelta()

    def now(self) -> datetime:
        return EPOCH + self._offset + timedelta(seconds=trio.current_time() - self._zero)

    def monotonic(self) -> float:
        return trio.current_time()

    def step(self, seconds: float) -> None:
        """Somebody sets the clock."""
        self._offset += timedelta(seconds=seconds)


class CountingIds:
    """Implements `ports.clock.Ids`: ids that sort in the order they were made."""

    def __init__(self) -> None:
        self._count = 0

    def session_id(self, at: datetime) -> str:
        self._count += 1
        return f"ses_01TEST{self._count:020d}"
