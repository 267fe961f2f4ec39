"""What of the peers was refused, counted, so that a flood cannot fill the audit: of each sender and reason
the first is told at once, the others later and together.
"""

from collections.abc import Mapping

import msgspec

# The first of a kind at once; after that a sum, at most so often.
SUMMARY_SEC = 600.0
# Senders by name; a flood of names is counted under one.
SENDERS_MAX = 256
OTHERS = "others"


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """To be recorded now: so many refusals for a reason since the last record. `text` is of the newest."""

    sender: str
    reason: str
    text: str
    count: int


class _Count(msgspec.Struct):
    total: int = 0
    waiting: int = 0
    told_at: float = 0.0
    text: str = ""


class RefusalBook:
    """Counts; `now` is a clock that does not step, in seconds."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, _Count]] = {}
        self.total = 0

    def note(self, sender: str, reason: str, text: str, now: float) -> Told | None:
        """A refusal; what is to be recorded for it now, None when it is only counted."""
        if sender not in self._counts and len(self._counts) >= SENDERS_MAX:
            sender = OTHERS
        self.total += 1
        count = self._counts.setdefault(sender, {}).get(reason)
        is_first = count is None
        if count is None:
            count = self._counts[sender][reason] = _Count()
        count.total += 1
        count.waiting += 1
        count.text = text
        if is_first or now >= count.told_at + SUMMARY_SEC:
            return self._tell(sender, reason, count, now)
        return None

    @staticmethod
    def _tell(sender: str, reason: str, count: _Count, now: float) -> Told:
        told = Told(sender=sender, reason=reason, text=count.text, count=count.waiting)
        count.waiting, count.told_at = 0, now
        return told

    def due(self, now: float, *, all_of_it: bool = False) -> list[Told]:
        """Sums whose time has come; with `all_of_it` everything that waits."""
        return [
            self._tell(sender, reason, count, now)
            for sender, counts in self._counts.items()
            for reason, count in counts.items()
            if count.waiting and (all_of_it or now >= count.told_at + SUMMARY_SEC)
        ]

    def next_due(self) -> float | None:
        """When the next sum is to be told; None when nothing waits."""
        waiting = [
            count.told_at + SUMMARY_SEC
            for counts in self._counts.values()
            for count in counts.values()
            if count.waiting
        ]
        return min(waiting, default=None)

    def of(self, sender: str) -> Mapping[str, int]:
        """Refusals of a sender by reason."""
        return {reason: count.total for reason, count in self._counts.get(sender, {}).items()}
