"""Parts of tasks whose time is over and of whose end nobody heard: pure, with the clock as an argument.

A node ends its work itself when its time is over. What is done here is for one that does not, or cannot say.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from ambientd.core.assignments import TIME_LIMIT, failure

# A node that comes back, or hears late, has so long to tell of an end that was in time.
GRACE = 300.0  # seconds
GAP = GRACE / 2  # without a look: nobody could tell anything meanwhile
LATE_MAX = 10_000  # parts that are kept in mind at once


class LatePart(msgspec.Struct, frozen=True, kw_only=True):
    """A node's part of a task that goes on although its time is over; the node is online."""

    task_id: str
    node_id: str
    attempt: int
    limit_sec: int


class LateParts:
    """What one process has seen late, and since when."""

    def __init__(self) -> None:
        self._since: dict[LatePart, float] = {}
        self._looked: float | None = None

    def look(self, late: Iterable[LatePart], monotonic: float) -> list[LatePart]:
        """Those of what is late now that have been so, on a node that was online, for all of the grace."""
        if self._looked is None or monotonic - self._looked > GAP:
            self._since = {}
        self._looked = monotonic
        self._since = {part: self._since.get(part, monotonic) for part in late}
        return [part for part, since in self._since.items() if monotonic - since >= GRACE]


def late_result(part: LatePart) -> dict[str, Any]:
    """What is told of such a task."""
    return failure(
        TIME_LIMIT,
        f"node {part.node_id} told of no end within the {part.limit_sec} seconds that the task allows"
        f" and {GRACE:.0f} more",
    )
