"""The status, gathered once for everybody who asks at the same time, and told to those who follow it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import msgspec
import trio

from ambientd.wire.messages import StatusDocument

# R3.24: what a poll may be late. A change makes it older at once, but polls alone never cost more than
# five gatherings a second; with what one takes, a change is seen within a quarter of a second.
KEEP_SEC = 1.0
CHANGED_KEEP_SEC = 0.2
# At most four messages a second to each who follows (a burst of output is one change),
FOLLOW_GAP_SEC = 0.25
# and a sign of life for proxies and for the other side's patience.
FOLLOW_BEAT_SEC = 15.0

_encoder = msgspec.json.Encoder()


class Signal(Protocol):
    """What the board needs of the place that hears of changes."""

    number: int
    orders: int
    is_closed: bool

    async def wait(self, seen: int, seconds: float) -> bool: ...


class StatusShot:
    """Implements `ports.statusboard.Shot`."""

    __slots__ = ("_face", "begun_at", "body", "document", "number", "orders", "stamp")

    def __init__(
        self,
        document: StatusDocument,
        *,
        number: int,
        begun_at: float,
        stamp: tuple[int, int],
        orders: int,
    ) -> None:
        self.document = document
        self.body = _encoder.encode(document)
        self.number = number
        self.begun_at = begun_at
        self.stamp = stamp
        self.orders = orders
        self._face: bytes | None = None

    @property
    def face(self) -> bytes:
        """What a reader would call the same status: without the figures that time alone moves."""
        if self._face is None:
            replace = msgspec.structs.replace
            node = replace(self.document.node, uptime_sec=0)
            self._face = _encoder.encode(replace(self.document, generated_at="", node=node))
        return self._face


class StatusBoard:
    """Implements `ports.statusboard.StatusShots`."""

    def __init__(
        self,
        *,
        gather: Callable[[], Awaitable[StatusDocument]],
        changes: Signal,
        written: Callable[[], int] = lambda: 0,
    ) -> None:
        """`written` counts what was written to the store, by whomever."""
        self._gather = gather
        self._changes = changes
        self._written = written
        self._shot: StatusShot | None = None
        self._begun = 0
        self._under_way: trio.Event | None = None
        self._stamp = (0, 0)  # of the last one that was begun
        self.followers = 0

    async def latest(self, *, fresh: bool = False) -> StatusShot:
        """See `StatusShots`. Whoever comes while a status is gathered that will do for it waits for that."""
        before = self._begun
        if self._under_way is not None and self._stamp == self._now():
            before -= 1  # the one under way was begun after the last change: it says what another would say
        while True:
            shot = self._shot
            if shot is not None and (shot.number > before or (not fresh and self._will_do(shot))):
                return shot
            if self._under_way is None:
                return await self._make()
            await self._under_way.wait()

    def _will_do(self, shot: StatusShot) -> bool:
        age = trio.current_time() - shot.begun_at
        if shot.orders != self._changes.orders or age > KEEP_SEC:
            return False
        return age <= CHANGED_KEEP_SEC or shot.stamp == self._now()

    def _now(self) -> tuple[int, int]:
        """A stamp that is another one after every change."""
        return self._changes.number, self._written()

    async def _make(self) -> StatusShot:
        self._begun += 1
        number, begun_at = self._begun, trio.current_time()
        stamp = self._stamp = self._now()
        orders = self._changes.orders
        done = self._under_way = trio.Event()
        try:
            document = await self._gather()
            self._shot = StatusShot(document, number=number, begun_at=begun_at, stamp=stamp, orders=orders)
            return self._shot
        finally:
            self._under_way = None
            done.set()

    async def follow(self) -> AsyncIterator[StatusShot | None]:
        """See `StatusShots`. A reader who is slow gets the newest, not all of them."""
        self.followers += 1
        try:
            face = b""
            while not self._changes.is_closed:
                seen = self._changes.number
                shot = await self.latest(fresh=True)
                if shot.face != face:
                    face = shot.face
                    yield shot
                else:
                    yield None
                await trio.sleep(FOLLOW_GAP_SEC)
                await self._changes.wait(seen, FOLLOW_BEAT_SEC)
        finally:
            self.followers -= 1
