"""The activity feed, as the dispatcher sees it: something that takes an event and never fails."""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec


class FeedSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What `status` says about the feed.

    `lost` counts offered events that did not reach the file, since start. `refused` is the standing
    reason why nothing is written (a path that is not a file, a foreign chain …). `note` is information:
    foreign lines, so no rotation.
    """

    enabled: bool
    path: str | None
    lost: int = 0
    last_written_at_ms: int | None = None
    last_error: str | None = None
    refused: str | None = None
    note: str | None = None
    quarantined: int = 0
    clamped_ms: int = 0


class FeedSink(Protocol):
    """Fail-open and non-blocking."""

    def offer(self, event: Mapping[str, Any]) -> None:
        """Queues one heartbeat event. Never blocks, never raises; a full queue counts a lost beat."""

    def lost_since_written(self) -> int:
        """Beats lost since the last one that reached the file, for `meta.dropped`."""

    def snapshot(self) -> FeedSnapshot:
        """Counters and standing reasons, without waiting."""


class HeartbeatFile(Protocol):
    """`<state>/heartbeat.json`."""

    async def write(self, document: Mapping[str, Any]) -> bool:
        """Replaces the file atomically, within a deadline; False (counted) when it could not."""
