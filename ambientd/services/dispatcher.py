"""The loop that beats: sweep the intake, write the heartbeat file, offer the feed event.

Work never runs in here, so a long session cannot starve the beat; the beat is made by the loop itself,
so a stuck loop is seen as silence (R2.3, R2.72). The systemd watchdog is fed after a finished cycle and
nowhere else.
"""

from collections import deque
from collections.abc import Callable
from datetime import datetime

import msgspec
import trio

from ambientd.core.heartbeat import Beat, build_event, build_heartbeat_document
from ambientd.core.timefmt import to_ms
from ambientd.ports.clock import Clock
from ambientd.ports.feed import FeedSink, HeartbeatFile

BEATS_KEPT = 120  # two hours of them at the default interval


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What every beat of this process says alike."""

    actor: str
    run_id: str
    host_id: str
    pid: int
    started_ms: int


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """The rest of the node, as the loop sees it. None of these may block.

    `take_picked_up` tells how many sessions were taken in since the last cycle; `fed` feeds the watchdog;
    `state` is where the node stands with its links.
    """

    sweep: Callable[[], None]
    take_picked_up: Callable[[], int]
    active: Callable[[], int]
    fed: Callable[[], None]
    state: Callable[[], str | None] = lambda: None


class Dispatcher:
    """One cycle each `interval` seconds; the first at once, one more at an orderly stop (R2.71)."""

    def __init__(
        self,
        *,
        identity: Identity,
        interval: float,
        feed: FeedSink,
        heartbeat_file: HeartbeatFile,
        work: Work,
        clock: Clock,
    ) -> None:
        self._identity = identity
        self._interval = interval
        self._feed = feed
        self._file = heartbeat_file
        self._work = work
        self._clock = clock
        self._seq = 0
        self._cycle_ms: int | None = None
        self._last_cycle_at: datetime | None = None
        self._recent: deque[Beat] = deque(maxlen=BEATS_KEPT)

    @property
    def seq(self) -> int:
        """Beats attempted by this process."""
        return self._seq

    @property
    def last_cycle_at(self) -> datetime | None:
        """When the last cycle beat."""
        return self._last_cycle_at

    @property
    def recent(self) -> tuple[Beat, ...]:
        """The last beats of this process, oldest first."""
        return tuple(self._recent)

    async def run(self) -> None:
        """Beats until cancelled. After a sleep of the machine there is one beat, not one per missed cycle."""
        due = trio.current_time()
        while True:
            await self._cycle("watching" if self._seq else "starting")
            self._work.fed()
            due += self._interval
            now = trio.current_time()
            if due <= now:
                due = now + self._interval
            await trio.sleep_until(due)

    async def stopped(self) -> None:
        """The last beat of an orderly stop."""
        await self._cycle("stopped")

    async def _cycle(self, status: str) -> None:
        began = trio.current_time()
        self._work.sweep()
        self._seq += 1
        at = self._clock.now()
        identity = self._identity
        try:
            await self._file.write(
                build_heartbeat_document(
                    at_ms=to_ms(at),
                    started_ms=identity.started_ms,
                    pid=identity.pid,
                    status=status,
                    interval=self._interval,
                    cycles=self._seq,
                    last_cycle_tasks=self._work.take_picked_up(),
                )
            )
        except trio.Cancelled:
            self._seq -= 1  # never offered: else the last beat would tell of a hole that nobody counted
            raise
        beat = Beat(
            seq=self._seq,
            at_ms=to_ms(at),
            active_sessions=self._work.active(),
            cycle_ms=self._cycle_ms,
            state=self._work.state(),
        )
        self._recent.append(beat)
        self._feed.offer(
            build_event(
                at_ms=to_ms(at),
                actor=identity.actor,
                run_id=identity.run_id,
                host_id=identity.host_id,
                pid=identity.pid,
                seq=self._seq,
                interval=self._interval,
                meta={
                    "state": beat.state,
                    "active_sessions": beat.active_sessions,
                    "cycle_ms": beat.cycle_ms,
                    "dropped": self._feed.lost_since_written() or None,
                },
            )
        )
        self._last_cycle_at = at
        self._cycle_ms = round((trio.current_time() - began) * 1000)
