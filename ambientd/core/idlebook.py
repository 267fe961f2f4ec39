"""Which imports that changed nothing have a record of their own, so that nobody fills the audit with them."""

from collections import OrderedDict


class IdleBook:
    """A bucket for each sender; `now` is in ms of a clock that never goes back."""

    def __init__(self, *, at_once: int, every_ms: int, senders: int) -> None:
        """So many are recorded `at_once`, then one `every_ms`; the sender that was heard of least lately goes
        when there are more than `senders`."""
        self._at_once = at_once
        self._every_ms = every_ms
        self._senders = senders
        self._kept: OrderedDict[str, tuple[float, int, int]] = OrderedDict()

    def note(self, sender: str, now: int, *, idle: bool) -> int | None:
        """None for one that is only counted; else how many of this sender were only counted before it."""
        level, at, counted = self._kept.pop(sender, (float(self._at_once), now, 0))
        level = min(float(self._at_once), level + max(0, now - at) / self._every_ms)
        told: int | None = counted
        if idle and level < 1.0:
            told, counted = None, counted + 1
        else:
            counted = 0
            level -= idle
        self._kept[sender] = level, max(at, now), counted
        while len(self._kept) > self._senders:
            self._kept.popitem(last=False)
        return told
