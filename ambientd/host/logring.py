"""The newest lines of the log in memory, for `/api/logs`; the journal keeps the rest."""

import json
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

ENTRIES_MAX = 2000
# A line may have 16 KiB, and 2,000 such ones would be most of the process.
BYTES_MAX = 1024 * 1024
_HEAD = ("ts", "level", "event", "component")


class _Kept(NamedTuple):
    """`text` is the entry as JSON: a third of what a dictionary takes."""

    seq: int
    rank: int
    text: bytes


class LogRing:
    """Keeps what was logged, masked and bounded as it was written. Appends come from any thread."""

    def __init__(self, entries: int = ENTRIES_MAX, size: int = BYTES_MAX) -> None:
        self._kept: deque[_Kept] = deque()
        self._entries = entries
        self._room = size
        self.last_seq = 0

    def add(self, event: Mapping[str, Any], rank: int) -> None:
        """One line: `event` holds values of JSON's kinds only."""
        self.last_seq += 1
        entry: dict[str, Any] = {
            "seq": self.last_seq,
            "ts": event.get("ts", ""),
            "level": event.get("level", "info"),
            "msg": event.get("event", ""),
        }
        if event.get("component"):
            entry["component"] = event["component"]
        fields = {name: value for name, value in event.items() if name not in _HEAD}
        if fields:
            entry["fields"] = fields
        text = json.dumps(entry, separators=(",", ":")).encode()
        self._kept.append(_Kept(self.last_seq, rank, text))
        self._room -= len(text)
        while len(self._kept) > self._entries or (self._room < 0 and len(self._kept) > 1):
            self._room += len(self._kept.popleft().text)

    def entries(self, *, rank: int, after: int | None, limit: int) -> list[bytes]:
        """Entries of at least this rank, oldest first: the newest `limit`, or the first `limit` past
        the number `after`."""
        kept = tuple(self._kept)
        if after is not None:
            return [item.text for item in kept if item.seq > after and item.rank >= rank][:limit]
        found = [item.text for item in kept if item.rank >= rank]
        return found[-limit:]
