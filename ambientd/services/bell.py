"""A wake-up that is remembered: rung while nobody waits, the next wait returns at once."""

import trio


class Bell:
    """Rings are merged; `ring` never blocks. One waiter."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        """Wakes the waiter, now or at its next wait."""
        self._event.set()

    async def wait(self, until: float | None = None) -> None:
        """Returns at a ring, or at the trio time `until`."""
        with trio.move_on_at(float("inf") if until is None else until):
            await self._event.wait()
        self._event = trio.Event()
