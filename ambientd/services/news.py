"""Wakes those who wait for a session's next event."""

from collections.abc import Callable

import trio


class Watch:
    """Implements `ports.news.SessionWatch`."""

    def __init__(self, event: trio.Event, forget: Callable[[], None]) -> None:
        self._event = event
        self._forget = forget

    async def wait(self, seconds: float) -> bool:
        """True when there was news within `seconds`."""
        try:
            with trio.move_on_after(seconds):
                await self._event.wait()
        finally:
            if self._event.statistics().tasks_waiting == 0:
                self._forget()
        return self._event.is_set()


class NewsBoard:
    """Implements `ports.news.SessionNews`; holds one event per watched session, none otherwise."""

    def __init__(self) -> None:
        self._events: dict[str, trio.Event] = {}

    def watch(self, session_id: str) -> Watch:
        """A watcher of one session; its event is shared with other watchers until the next news."""
        event = self._events.setdefault(session_id, trio.Event())

        def forget() -> None:
            if self._events.get(session_id) is event:
                del self._events[session_id]

        return Watch(event, forget)

    def tell(self, session_id: str) -> None:
        """Wakes the watchers of one session."""
        event = self._events.pop(session_id, None)
        if event is not None:
            event.set()

    def __len__(self) -> int:
        """How many sessions are watched."""
        return len(self._events)
