"""Overrides of rate limits, as flows see them."""

from datetime import datetime
from typing import Protocol

from ambientd.core.fleet.throttle import Override


class ThrottleRepository(Protocol):
    """Overrides of rate limits, all of them: they are few. Who changes them calls `lock` first."""

    def lock(self) -> None:
        """Nobody else changes overrides until the end of this transaction."""

    def all(self, now: datetime) -> list[Override]:
        """Those that have not expired, oldest first."""

    def revision(self) -> int:
        """Grows with each change."""

    def put(self, override: Override) -> str | None:
        """Adds one in place of the one for the same tier and client or account, whose id is returned."""

    def remove(self, override_id: str) -> bool:
        """False when there is no such override."""

    def remove_expired(self, before: datetime, limit: int) -> int:
        """Removes what expired before an instant; how many."""
