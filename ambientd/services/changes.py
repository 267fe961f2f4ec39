"""One place that hears of everything the status may show differently from now on."""

import trio


class Changes:
    """Whatever changes tells it: sessions, orders of operators, and views of other systems.

    `tell` merges as `Bell` does, but for any number of waiters: each remembers the number it has seen.
    """

    def __init__(self) -> None:
        self.number = 0
        self.orders = 0
        self.is_closed = False
        self._event = trio.Event()

    def tell(self, *_about: object) -> None:
        """Something has changed. Never blocks; takes what callbacks are called with, and ignores it."""
        self.number += 1
        self._event.set()
        self._event = trio.Event()

    def tell_order(self, *_about: object) -> None:
        """An operator's order was carried out: nothing from before may be shown to anybody again."""
        self.orders += 1
        self.tell()

    def close(self) -> None:
        """No more changes will come; everybody who waits returns."""
        self.is_closed = True
        self.tell()

    async def wait(self, seen: int, seconds: float) -> bool:
        """True as soon as there is something after the number `seen`; False when there was nothing."""
        if self.number == seen and not self.is_closed:
            with trio.move_on_after(seconds):
                await self._event.wait()
        return self.number != seen
