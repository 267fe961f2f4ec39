"""Keeps the view of the gateway: follows its events, lists again now and then, and never storms it.

A status request costs the gateway nothing: it is answered from the view. Events carry the rows that changed;
a list every now and then finds what no event told.
"""

from collections.abc import Callable
from datetime import datetime

import trio

from ambientd.core.gateway_view.rows import AGENTS_MAX, parse_agents, parse_page, parse_row
from ambientd.core.gateway_view.status import WINDOW_MS
from ambientd.core.gateway_view.sweep import PAGE_ROWS, Sweep
from ambientd.core.gateway_view.view import GatewayView
from ambientd.core.gatewaytext import GatewaySnapshot
from ambientd.core.timefmt import to_ms
from ambientd.flows.gateway_status import Standing, take_snapshot
from ambientd.ports.clock import Clock
from ambientd.ports.gateway import (
    EventsMissed,
    GatewayEvent,
    GatewayLink,
    GatewayRefusedError,
    GatewayUnavailableError,
    LinkDown,
    LinkNews,
    LinkPhase,
    LinkUp,
)
from ambientd.services.bell import Bell
from ambientd.services.supervise import Log

GRACE_SEC = 10.0  # the seed's: the last good data stay this long after a loss
RECONCILE_SEC = 20.0
SLOW_RECONCILE_SEC = 60.0  # while the gateway says that its loop is degraded
POLL_SEC = 1.5  # where a version tells no changes: what is shown is at most two seconds old
FULL_PASS_SEC = 600.0
# Between two passes, whatever asks for them: longer and longer while it does not cease to ask.
GAP_SEC, GAP_MAX_SEC = 1.0, 5.0
QUIET_SEC = 10.0
SIDE_SEC = 60.0  # health and the agents' heartbeat, which also come as events
RECHECK_SEC = 2.0
RECHECKS = 20
PASS_REST = 10.0  # a pass that took a second is followed by ten of rest
RETRY_MAX_SEC = 60.0
SNAPSHOT_SEC = 1.0  # the seed's cache: agents are not judged anew more often while nothing changes


class GatewayViewService:
    """`snapshot` may be asked at any time and waits for nothing."""

    def __init__(
        self,
        *,
        link: GatewayLink,
        clock: Clock,
        log: Log,
        runs_changed: Callable[[], None] = lambda: None,
        linked: Callable[[bool], None] = lambda _restarted: None,
        changed: Callable[[], None] = lambda: None,
        interval: float = RECONCILE_SEC,
        recent: float = WINDOW_MS / 1000,
    ) -> None:
        """`runs_changed` hears that the ledger may have something to do, `linked` of every handshake and
        whether it was with a restarted gateway, `changed` that status shows something else now. `interval`
        and `recent`, for which an ended session speaks for its agent, are in seconds."""
        self.view = GatewayView(window_ms=int(recent * 1000))
        self._version = 0
        self._changed = changed
        self._link = link
        self._clock = clock
        self._log = log
        self._runs_changed = runs_changed
        self._linked = linked
        self._interval = interval
        self._wake = Bell()
        self._is_synced = False
        self._lost_at: float | None = None
        self._good_at: datetime | None = None
        self._subscribed: bool | None = None
        self._pages_by_offset = True
        self._trouble: str | None = None
        self._failures = 0
        self._wanted: float | None = None  # when the next pass is due, by trio's clock
        self._recheck_at: float | None = None
        self._gap = GAP_SEC
        self._passed_at = float("-inf")
        self._agents_at = float("-inf")
        self._agents_told = False
        self._full_at = float("-inf")
        self._side_at = float("-inf")
        self._since_ms: int | None = None
        self._kept: tuple[float, object, GatewaySnapshot] | None = None

    def _ring(self) -> None:
        """Something that status shows is new."""
        self._version += 1
        self._changed()

    # --- being asked

    def snapshot(self) -> GatewaySnapshot:
        """The gateway and its agents now; computed at most once a second while nothing changes."""
        at, state = trio.current_time(), self._link.state
        kept = self._kept
        basis = (self._version, state, self._is_kept())
        if kept is not None and kept[0] <= at < kept[0] + SNAPSHOT_SEC and kept[1] == basis:
            return kept[2]
        now = self._clock.now()
        found = take_snapshot(self.view, state, self._standing(now), now)
        self._kept = (at, basis, found)
        return found

    def _is_kept(self) -> bool:
        """Whether the data of a link that was just lost still stand."""
        if not self._has_lost():
            return False
        return self._lost_at is None or trio.current_time() - self._lost_at <= GRACE_SEC

    def _has_lost(self) -> bool:
        return self._good_at is not None and not (self._is_synced and self._link.state.connected)

    def _standing(self, now: datetime) -> Standing:
        kept = self._is_kept()
        live = self._is_synced and self._link.state.connected
        return Standing(
            known=live or kept,
            kept=kept,
            as_of=now if live or self._good_at is None else self._good_at,
            live=None if not live else "events" if self._subscribed else "polling",
            trouble=self._trouble,
        )

    @property
    def is_live(self) -> bool:
        """Whether the view is what the gateway has now."""
        return self._is_synced and self._link.state.connected

    def away_sec(self) -> float:
        """For how long the gateway has been away, 0 while it is there."""
        if self._link.state.connected or self._link.state.phase is LinkPhase.OFF:
            return 0.0
        since = (self._clock.now() - self._link.state.since).total_seconds()
        lost = 0.0 if self._lost_at is None else trio.current_time() - self._lost_at
        return max(0.0, since, lost)

    def refresh(self) -> None:
        """Lists again soon. Never blocks."""
        self._want(0.0)

    # --- following

    async def run(self) -> None:
        """Runs until cancelled."""
        self._forget_sync()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep)
            async for item in self._link.news():
                self._hear(item)

    def _hear(self, item: LinkNews) -> None:
        match item:
            case GatewayEvent(name=name, payload=payload):
                self._hear_event(name, payload)
            case LinkUp(restarted=restarted):
                self._forget_sync()
                self._subscribed, self._failures = None, 0
                if restarted:
                    self.view.forget_runs()
                    self._full_at = float("-inf")
                self._side_at = self._agents_at = float("-inf")
                self._want(0.0)
                self._wake.ring()
                self._linked(restarted)
                self._ring()
            case LinkDown():
                self._lose()
            case EventsMissed():
                self._want(0.0)

    def _hear_event(self, name: str, payload: object) -> None:
        now = self._clock.now()
        heard = self.view.hear(name, payload, to_ms(now))
        if heard.again:
            self._want(0.0)
        if self.view.has_unsettled and self._recheck_at is None:
            self._recheck_at = trio.current_time() + RECHECK_SEC
            self._wake.ring()
        if heard.changed:
            if self._is_synced:
                self._good_at = now
            self._tell()

    def _lose(self) -> None:
        self._forget_sync()
        self._wake.ring()  # to notice the end of the grace
        self._ring()

    def _forget_sync(self) -> None:
        """What is known may be out of date from now on."""
        if self._is_synced:
            self._lost_at, self._good_at = trio.current_time(), self._clock.now()
        self._is_synced = False

    def _tell(self) -> None:
        self._ring()
        if self.view.has_dirty:
            self._runs_changed()

    # --- listing

    def _want(self, seconds: float) -> None:
        """A pass in so many seconds, or before."""
        due = trio.current_time() + seconds
        if self._wanted is None or due < self._wanted:
            self._wanted = due
            self._wake.ring()

    async def _keep(self) -> None:
        while True:
            due = self._due()
            if due is None or trio.current_time() < due:
                await self._wake.wait(due)
            self._notice_grace()
            if self._link.state.phase is not LinkPhase.READY:
                continue
            now = trio.current_time()
            if self._recheck_at is not None and self._recheck_at <= now:
                await self._recheck()
            elif self._wanted is not None and self._wanted_at() <= now:
                self._wanted = None
                await self._pass_guarded()

    def _due(self) -> float | None:
        """When there is something to do, without news."""
        times = []
        if self._lost_at is not None and self._is_kept():
            times.append(self._lost_at + GRACE_SEC + 0.001)
        if self._link.state.phase is LinkPhase.READY:
            if self._wanted is not None:
                times.append(self._wanted_at())
            if self._recheck_at is not None:
                times.append(self._recheck_at)
        return min(times, default=None)

    def _wanted_at(self) -> float:
        wanted = float("inf") if self._wanted is None else self._wanted
        return max(wanted, self._passed_at + self._gap)

    def _notice_grace(self) -> None:
        if self._lost_at is not None and self._has_lost() and not self._is_kept():
            self._lost_at = float("-inf")
            self._ring()

    async def _pass_guarded(self) -> None:
        began = trio.current_time()
        busy = self._subscribed and began - self._passed_at < QUIET_SEC
        self._gap = min(GAP_MAX_SEC, self._gap * 2) if busy else GAP_SEC
        self._passed_at = began
        trouble: str | None = None
        try:
            await self._pass()
        except GatewayRefusedError as error:
            trouble = f"the gateway refused to list: {error.message[:200]}"
        except GatewayUnavailableError as error:
            trouble = str(error)[:200] if self._link.state.phase is LinkPhase.READY else self._trouble
        if trouble is not None and trouble != self._trouble:
            self._log.warning("gateway.list_failed", reason=trouble)
        changed, self._trouble = trouble != self._trouble, trouble
        self._failures = self._failures + 1 if trouble else 0
        self._want(self._pause(trio.current_time() - began))
        if changed:
            self._ring()

    def _pause(self, took: float) -> float:
        if self._failures:
            return min(RETRY_MAX_SEC, GAP_SEC * 2.0**self._failures)
        interval = self._interval if self._subscribed else POLL_SEC
        if self.view.health.slow:
            interval = max(interval, SLOW_RECONCILE_SEC if self._subscribed else RECONCILE_SEC)
        return max(interval, PASS_REST * took) if took > 0.5 else interval

    async def _pass(self) -> None:
        """One reconcile; raises what the link raises. Nothing of it holds the loop for long."""
        if self._subscribed is None:
            self._subscribed = await self._subscribe()
        changed = await self._list_agents()
        changed |= await self._list_sessions()
        was_synced, self._is_synced = self._is_synced, True
        self._good_at, self._lost_at = self._clock.now(), None
        await self._look_aside()
        for agent_id in self.view.agent_ids:
            self.view.prune(agent_id, to_ms(self._clock.now()))
            await trio.lowlevel.checkpoint()
        if changed or not was_synced:
            self._ring()
        if self.view.has_dirty or not was_synced:
            self._runs_changed()
        if self.view.has_unsettled:
            self._recheck_at = trio.current_time() + RECHECK_SEC

    async def _subscribe(self) -> bool:
        try:
            await self._link.call("sessions.subscribe", {})
        except GatewayRefusedError as error:
            if error.retryable:
                raise
            self._log.warning("gateway.no_events", reason=error.message[:200], polling_every_sec=POLL_SEC)
            return False
        return True

    async def _list_agents(self) -> bool:
        if not self._subscribed and trio.current_time() - self._agents_at < self._interval:
            return False
        self._agents_at = trio.current_time()
        agents = parse_agents(await self._link.call("agents.list", {}))
        if agents is not None and len(agents) == AGENTS_MAX and not self._agents_told:
            self._agents_told = True
            self._log.warning("gateway.many_agents", shown=AGENTS_MAX)
        return agents is not None and self.view.set_agents(agents)

    async def _list_sessions(self) -> bool:
        full = trio.current_time() - self._full_at >= FULL_PASS_SEC
        sweep = Sweep(
            since_ms=None if full else self._since_ms,
            agents=[entry.id for entry in self.view.agents],
            pages_by_offset=self._pages_by_offset,
        )
        began, changed = trio.current_time(), False
        while (request := sweep.request()) is not None:
            changed |= await self._list_page(sweep, request)
        if sweep.is_complete:
            changed |= self.view.forget_others(sweep.seen)
        elif sweep.oldest_ms is not None:
            keys = [
                key for key in self.view.active_keys_before(sweep.oldest_ms, 500) if key not in sweep.seen
            ]
            for key in keys[:RECHECKS]:
                changed |= await self._describe(key)
        if full:
            self._full_at = began
        self._since_ms = sweep.at_ms or self._since_ms
        return changed

    async def _list_page(self, sweep: Sweep, request: dict[str, object]) -> bool:
        try:
            answer = await self._link.call("sessions.list", request)
        except GatewayRefusedError as error:
            if "offset" not in request or error.retryable:
                raise
            self._pages_by_offset = False
            sweep.refuse_offset()
            return False
        page, now_ms = parse_page(answer), to_ms(self._clock.now())
        if page is None:
            raise GatewayUnavailableError("the gateway's list of sessions is not understood", sent=True)
        self.view.note_clock(page.at_ms, now_ms)
        sweep.take(page)
        changed = False
        for number, row in enumerate(page.rows, 1):
            changed |= self.view.put_listed(row, now_ms)
            if number % PAGE_ROWS == 0:  # it may list more than it was asked for
                await trio.lowlevel.checkpoint()
        return changed

    async def _describe(self, key: str) -> bool:
        """Looks at one session: the cheap way, which every version has."""
        answer = await self._link.call("sessions.describe", {"key": key})
        raw = answer.get("session") if isinstance(answer, dict) else None
        row = parse_row(raw)
        if row is None:
            return raw is None and self.view.forget(key)
        return self.view.put_described(row, to_ms(self._clock.now()))

    async def _look_aside(self) -> None:
        """Health and the agents' heartbeat: nice to have, and absent in some versions."""
        if trio.current_time() - self._side_at < SIDE_SEC:
            return
        self._side_at = trio.current_time()
        for method, put in (("health", self.view.set_health), ("last-heartbeat", self.view.set_heartbeat)):
            try:
                put(await self._link.call(method, {}))
            except GatewayRefusedError as error:
                self._log.info("gateway.method_absent", method=method, reason=error.message[:100])

    async def _recheck(self) -> None:
        """Rows that contradict themselves are settling: looked at again, a few, and one by one."""
        self._recheck_at, changed = None, False
        for key in self.view.take_unsettled(RECHECKS):
            try:
                changed |= await self._describe(key)
            except (GatewayRefusedError, GatewayUnavailableError):
                break
        if self.view.has_unsettled:
            self._recheck_at = trio.current_time() + RECHECK_SEC
        if changed:
            self._tell()
