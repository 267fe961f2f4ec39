"""Since when this control plane would have heard its nodes: pure, with both clocks as arguments.

A node is silent only while somebody listens. After an outage of the control plane or its database, while this
machine slept, or when its clock was set, the silence of a whole fleet says nothing of the nodes.
"""

from datetime import datetime, timedelta

CLOCK_STEP = 60.0  # seconds by which the clocks may drift apart between two looks


class Hearing:
    """What one process knows of its own ears. `gap`: seconds after which a look is missing."""

    def __init__(self, gap: float) -> None:
        self._gap = gap
        self._since: datetime | None = None
        self._looked: tuple[datetime, float] | None = None

    def since(self, now: datetime, monotonic: float) -> datetime:
        """The instant, at a look at `now`. To be followed by `looked` when the database has answered."""
        if self._since is None or self._looked is None or self._was_away(self._looked, now, monotonic):
            self._since, self._looked = now, (now, monotonic)
        return self._since

    def looked(self, now: datetime, monotonic: float) -> None:
        """The database has answered."""
        self._looked = (now, monotonic)

    def _was_away(self, looked: tuple[datetime, float], now: datetime, monotonic: float) -> bool:
        passed = monotonic - looked[1]
        stepped = abs((now - looked[0]) - timedelta(seconds=passed)) > timedelta(seconds=CLOCK_STEP)
        return passed > self._gap or stepped
