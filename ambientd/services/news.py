"""Wakes those who wait for a session's next event."""

from collections.abc import Callable
from weakref import WeakValueDictionary

import trio


class Watch:
    """Implements `ports.news.SessionWatch`."""

    def __init__(self, event: trio.Event) -> None:
        self._event = event

    async def wait(self, seconds: float) -> bool:
        """True when there was news within `seconds`."""
        with trio.move_on_after(seconds):
            await self._event.wait()
        return self._event.is_set()


class NewsBoard:
    """Implements `ports.news.SessionNews`; holds one event per watched session, none otherwise.

    The watches own the events, so a watch that is dropped without ever waiting leaves nothing behind.
    """

    def __init__(self, also: Callable[[str], object] | None = None) -> None:
        """`also` hears of every session that has news."""
        self._also = also
        self._events: WeakValueDictionary[str, trio.Event] = WeakValueDictionary()

    def watch(self, session_id: str) -> Watch:
        """A watcher of one session; its event is shared with other watchers until the next news."""
        return Watch(self._events.setdefault(session_id, trio.Event()))

    def tell(self, session_id: str) -> None:
        """Wakes the watchers of one session."""
        event = self._events.pop(session_id, None)
        if event is not None:
            event.set()
        if self._also is not None:
            self._also(session_id)

    def __len__(self) -> int:
        """How many sessions are watched."""
        return len(self._events)
