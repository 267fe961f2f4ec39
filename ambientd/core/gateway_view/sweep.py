"""One pass over a gateway's list of sessions, page by page: what to ask next, and when enough was seen.

Lists come newest first, so a pass that only looks for news ends at the first page older than the last pass.
Where the version does not page by offset, the agents are listed one by one.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any

from ambientd.core.gateway_view.rows import Page

PAGE_ROWS = 100
# Of one pass; a gateway with more sessions than this shows the newest.
PAGES_MAX = 200
# Clocks and late writes: news may be this much older than the pass before.
OVERLAP_MS = 60_000


class Sweep:
    """Asked for a request, fed with its answer, until there is no request any more."""

    def __init__(self, *, since_ms: int | None, agents: Iterable[str], pages_by_offset: bool = True) -> None:
        """`since_ms` is the gateway's time of the pass before; None looks at everything."""
        self._until = None if since_ms is None else since_ms - OVERLAP_MS
        self._agents = list(agents)
        self._offset: int | None = 0
        self._waiting: deque[str] = deque()
        self._pages = 0
        self._saw_end = False
        self.pages_by_offset = pages_by_offset
        self.seen: set[str] = set()
        self.at_ms: int | None = None
        self.oldest_ms: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every session was seen: then those that were not seen are gone."""
        return self._saw_end and not self._waiting

    def request(self) -> dict[str, Any] | None:
        """Parameters of the next `sessions.list`; None when the pass is over."""
        if self._pages >= PAGES_MAX:
            return None
        if self._offset == 0:
            return {"limit": PAGE_ROWS}
        if self._offset is not None:
            return {"limit": PAGE_ROWS, "offset": self._offset}
        return {"limit": PAGE_ROWS, "agentId": self._waiting[0]} if self._waiting else None

    def take(self, page: Page) -> None:
        """The answer to the last request."""
        self._pages += 1
        self.seen.update(row.key for row in page.rows)
        self.at_ms = self.at_ms or page.at_ms
        oldest = page.rows[-1].updated_ms if page.rows else 0
        self.oldest_ms = oldest if self.oldest_ms is None else min(oldest, self.oldest_ms)
        if self._waiting:
            self._waiting.popleft()
            self._saw_end = self._saw_end and not page.more
            return
        self._saw_end = not page.more or page.listed == 0
        if self._saw_end or (self._until is not None and oldest < self._until):
            self._offset = None
        elif self.pages_by_offset and page.next_offset is not None and page.next_offset > (self._offset or 0):
            self._offset = page.next_offset
        else:
            self._by_agent()

    def refuse_offset(self) -> None:
        """The version does not know `offset`."""
        self.pages_by_offset = False
        self._by_agent()

    def _by_agent(self) -> None:
        self._offset = None
        self._waiting.extend(self._agents)
        self._saw_end = bool(self._agents)
