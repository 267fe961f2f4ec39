"""Probes the links in time and keeps the state that follows from it; owns time, owns no decision."""

from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import msgspec
import trio

from ambientd.config.upstream import ControlAddress, Place
from ambientd.core.connectivity import (
    Action,
    Answer,
    Changed,
    Links,
    Probe,
    State,
    judge,
    may,
    next_round,
    since,
    step,
)
from ambientd.core.connectivitytext import Seen
from ambientd.flows.connectivity import Noted
from ambientd.ports.clock import Clock
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.ports.prober import LinkReader, Upstream
from ambientd.services.bell import Bell
from ambientd.services.supervise import Log
from ambientd.wire.enums import Connectivity

# Whoever asks for a round again and again gets one a second at most.
GAP_SEC = 1.0
# A question that took this much longer than it may was stopped in the middle (SIGSTOP, a machine that slept):
# a missing answer is our own doing, and it is asked anew. Once: a machine may also always be so slow.
OVERSLEPT_SEC = 0.5
# Records wait here while the store is away; at the default hold a quarter of an hour of flapping.
RECORDS_MAX = 64
RECORD_PAUSE_SEC = 10.0
JITTER = 0.1  # of the interval: many nodes must not ask in the same instant


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be probed, as the configuration is at this moment. Times in seconds. `order` is why the
    node is told to stay offline, empty when it is not."""

    interval: float
    timeout: float
    misses: int
    hold: float
    targets: tuple[Place, ...] = ()
    control: ControlAddress | None = None
    ca_file: str | None = None
    order: str = ""


class ConnectivityService:
    """Implements `ports.autonomy.ConnectivityView`.

    A round is made at once, then every interval (a tenth of it while the last one disagrees with the state),
    and soon after `wake`. After a sleep of the machine there is one, not one for each that was missed.
    """

    def __init__(
        self,
        *,
        links: LinkReader,
        upstream: Upstream,
        wanted: Callable[[], Wanted],
        record: Callable[[Noted], Awaitable[object]],
        clock: Clock,
        passed: Callable[[], float],
        jitter: Callable[[], float],
        changed: Callable[[], None],
        log: Log,
    ) -> None:
        """`record` appends to the audit, raising StoreError or UnavailableError; `passed` are seconds on a
        clock that nobody sets and that also counts while the machine sleeps; `jitter` is in [0, 1);
        `changed` is called whenever the state, or what is told of the control plane, is another."""
        self._links = links
        self._upstream = upstream
        self._wanted = wanted
        self._record = record
        self._clock = clock
        self._passed = passed
        self._jitter = jitter
        self._changed = changed
        self._log = log
        self._state = State()
        self._probe: Probe | None = None
        self._bell = Bell()
        self._due = 0.0
        self._failures = 0
        self._linked = False
        self._marks = {"state": (clock.now(), passed()), "control": (clock.now(), passed())}
        self._waiting: deque[Noted] = deque()
        self._lost = 0
        self._unrecorded: str | None = None
        self._noted = Bell()
        self._told: list[Callable[[], None]] = []

    # --- the view

    @property
    def state(self) -> Connectivity:
        """See `ConnectivityView`."""
        return self._state.name

    def may(self, action: Action) -> bool:
        """See `ConnectivityView`. An order to stay offline counts at once, not with the next round."""
        if self._state.name is Connectivity.ONLINE and self._wanted().order:
            return may(Connectivity.OFFLINE, action)
        return may(self._state.name, action)

    def on_change(self, tell: Callable[[], None]) -> None:
        """`tell` is called after each change of the state; it must not block or raise."""
        self._told.append(tell)

    def wake(self) -> None:
        """Something may have changed (a command, a new configuration): a round soon. Never blocks."""
        self._bell.ring()

    def seen(self, now: datetime) -> Seen:
        """What is known; `now` is the wall clock's."""
        wanted = self._wanted()
        probe = self._probe or Probe(links=Links())
        return Seen(
            state=self._state,
            since=self._since("state", now),
            duration=max(0.0, self._passed() - self._marks["state"][1]),
            order=wanted.order,
            links=probe.links,
            control=wanted.control,
            control_answer=probe.control,
            control_since=self._since("control", now),
            failures=self._failures,
            due=self._in(now, self._due - trio.current_time()),
            targets=len(wanted.targets),
            lost=self._lost,
            unrecorded=self._unrecorded,
        )

    def _since(self, name: str, now: datetime) -> datetime:
        at, passed = self._marks[name]
        return since(at, max(0.0, self._passed() - passed), now)

    @staticmethod
    def _in(now: datetime, seconds: float) -> datetime:
        return now + timedelta(seconds=max(0.0, seconds))

    # --- the loop

    async def run(self) -> None:
        """Probes until cancelled."""
        again = False
        while True:
            wanted = self._wanted()
            probe, overslept = await self._round(wanted)
            now = trio.current_time()
            again = overslept and not again and judge(probe).state is not self._state.name
            if again:
                pause = GAP_SEC
            else:
                self._take(probe, wanted, now)
                pause = next_round(self._state, probe, now, interval=wanted.interval, hold=wanted.hold)
                pause *= 1 + JITTER * self._jitter()
            self._due = now + pause
            await self._bell.wait(self._due)
            await trio.sleep_until(min(self._due, now + GAP_SEC))

    async def _round(self, wanted: Wanted) -> tuple[Probe, bool]:
        """One round, and whether it was stopped in the middle."""
        began = trio.current_time()
        links = Links(error="the interfaces cannot be read in time")
        with trio.move_on_after(wanted.timeout):
            links = await self._links.read()
        read = trio.current_time()
        if wanted.order or links.none:
            probe = Probe(links=links, order=wanted.order)
        else:
            probe = await self._ask(links, wanted)
        slowest = max(read - began, trio.current_time() - read)
        return probe, slowest > wanted.timeout + OVERSLEPT_SEC

    async def _ask(self, links: Links, wanted: Wanted) -> Probe:
        targets: list[Answer] = []
        control: list[Answer] = []

        async def reach(place: Place, enough: trio.CancelScope) -> None:
            answer = await self._upstream.reach(place, seconds=wanted.timeout)
            targets.append(answer)
            if answer.ok:
                enough.cancel()

        async def reach_any() -> None:
            async with trio.open_nursery() as asking:
                for place in wanted.targets:
                    asking.start_soon(reach, place, asking.cancel_scope)

        async def ask(address: ControlAddress) -> None:
            control.append(
                await self._upstream.ask_control(address, ca_file=wanted.ca_file, seconds=wanted.timeout)
            )

        async with trio.open_nursery() as nursery:
            if wanted.control is not None:
                nursery.start_soon(ask, wanted.control)
            nursery.start_soon(reach_any)
        return Probe(links=links, targets=tuple(targets), control=control[0] if control else None)

    def _take(self, probe: Probe, wanted: Wanted, now: float) -> None:
        before = self._face()
        self._probe = probe
        reached = probe.control is not None and probe.control.ok
        self._failures = 0 if reached else self._failures + 1
        self._state, effects = step(self._state, probe, now, misses=wanted.misses, hold=wanted.hold)
        for changed in effects:
            self._enter(changed)
        if self._face() != before:
            self._changed()

    def _face(self) -> tuple[object, ...]:
        """What a reader would call another status."""
        answer = self._probe.control if self._probe else None
        return self._state.name, self._state.reason, answer and (answer.ok, answer.reason)

    def _enter(self, changed: Changed) -> None:
        mark = (self._clock.now(), self._passed())
        self._marks["state"] = mark
        linked = changed.after is Connectivity.ONLINE
        if linked is not self._linked:
            self._linked = linked
            self._marks["control"] = mark
        self._log.info(
            "connectivity.changed",
            before=changed.before.value,
            after=changed.after.value,
            reason=changed.reason,
        )
        if len(self._waiting) >= RECORDS_MAX:
            self._waiting.popleft()
            self._lost += 1
        self._waiting.append(Noted(changed=changed, at=mark[0]))
        self._noted.ring()
        for tell in self._told:
            tell()

    # --- the audit

    async def record(self) -> None:
        """Appends the changes to the audit, in their order, until cancelled. A store that is away or full
        delays them, and costs the oldest when there are too many; it never stops the probes."""
        told_lost = 0
        while True:
            while self._waiting:
                noted, lost = self._waiting[0], self._lost
                try:
                    await self._record(msgspec.structs.replace(noted, lost=lost - told_lost))
                except (StoreError, UnavailableError) as error:
                    if self._unrecorded is None:
                        self._log.warning("connectivity.not_recorded", reason=str(error))
                    self._unrecorded = str(error)
                    await trio.sleep(RECORD_PAUSE_SEC)
                    continue
                self._unrecorded, told_lost = None, lost
                if self._waiting and self._waiting[0] is noted:
                    self._waiting.popleft()
            await self._noted.wait()
