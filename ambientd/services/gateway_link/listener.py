"""What a listener of the gateway's link has not taken yet: in order, bounded, never blocking the link."""

from collections import deque
from collections.abc import AsyncIterator

import trio

from ambientd.ports.gateway import EventsMissed, GatewayEvent, LinkNews
from ambientd.services.bell import Bell

# A busy run makes 15 events; a listener that is this far behind is better off with a new list.
MOST_WAITING = 256


class Listener(AsyncIterator[LinkNews]):
    """One listener. It is told until it is garbage; only one task may iterate."""

    def __init__(self) -> None:
        self._waiting: deque[LinkNews] = deque()
        self._bell = Bell()

    def tell(self, news: LinkNews) -> None:
        """Adds news. When too much waits, all events go and one EventsMissed takes their place."""
        if len(self._waiting) >= MOST_WAITING:
            kept = [one for one in self._waiting if not isinstance(one, GatewayEvent | EventsMissed)]
            self._waiting = deque([*kept[-2:], EventsMissed()])
        if isinstance(news, EventsMissed) and self._waiting and isinstance(self._waiting[-1], EventsMissed):
            return
        self._waiting.append(news)
        self._bell.ring()

    async def __anext__(self) -> LinkNews:
        """The next news; waits for it. Cancelled: nothing is lost."""
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            await self._bell.wait()
        return self._waiting.popleft()
