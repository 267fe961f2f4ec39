"""Fakes of the feed's ports: they keep what they were given, and fail when told to."""

from collections.abc import Mapping
from typing import Any

from ambientd.ports.feed import FeedSnapshot


class ListFeed:
    """A feed sink that keeps events in a list; while `broken` they count as lost."""

    def __init__(self) -> None:
        self.events: list[Mapping[str, Any]] = []
        self.broken = False
        self.lost = 0
        self._since = 0

    def offer(self, event: Mapping[str, Any]) -> None:
        if self.broken:
            self.lost += 1
            self._since += 1
        else:
            self.events.append(event)
            self._since = 0

    def lost_since_written(self) -> int:
        return self._since

    def snapshot(self) -> FeedSnapshot:
        return FeedSnapshot(enabled=True, path="/feed", lost=self.lost)


class ListHeartbeatFile:
    """A heartbeat file that keeps every document while `working`."""

    def __init__(self) -> None:
        self.documents: list[Mapping[str, Any]] = []
        self.working = True

    async def write(self, document: Mapping[str, Any]) -> bool:
        if self.working:
            self.documents.append(document)
        return self.working
