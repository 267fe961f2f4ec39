"""Reports to the control plane in time, empties the outbox while the link stands, and fetches what comes
down; owns time and tries, owns no decision."""

from collections.abc import Mapping
from datetime import datetime

import msgspec
import trio

from ambientd.core.assignments import Assignment, AssignmentState, next_overdue
from ambientd.core.connectivity import Action
from ambientd.core.membership import Membership
from ambientd.core.outbox import (
    CHANGE,
    ORDINARY,
    REFUSED_PAUSE_SEC,
    RETRY_AFTER_MAX_SEC,
    Meaning,
    away_ms,
    beat_due,
    next_stream,
    pause_after,
)
from ambientd.core.outboxrecords import Contact, Depth, KeptReport
from ambientd.core.pushbodies import report_body
from ambientd.core.timefmt import parse_rfc3339, rfc3339_ms, to_ms
from ambientd.core.trustedtime import Trusted
from ambientd.flows import assignments as work_flow
from ambientd.flows import pulls, push
from ambientd.flows.assignments import Work
from ambientd.flows.push import Pushing, Step
from ambientd.ports.errors import IdentityError, StoreError, UnavailableError
from ambientd.ports.store import Transaction
from ambientd.services.bell import Bell
from ambientd.services.push.link import DeviceLink
from ambientd.services.push.parts import PushParts, RoundResult, StopError
from ambientd.services.push.reports import Reports
from ambientd.wire.enums import Connectivity
from ambientd.wire.fleet_api_messages import HeartbeatAnswer
from ambientd.wire.fleet_enums import ExecutionStatus, NodeStatus
from ambientd.wire.outbox_enums import OutboxStream

# What is new waits so long for more of its kind, so that a burst is one batch.
GATHER_SEC = 2.0
# When the link is there again, all nodes of a fleet notice it at about the same time.
RETURN_SPREAD_SEC = 3.0
STORE_PAUSE_SEC = 10.0
MINUTE_SEC = 60.0
# Batches are halved at most so often; then one record is alone.
SMALLEST = 10
# Steps of one stream in a row that moved nothing, before it waits for the next round.
IDLE_STEPS_MAX = 40
FORGET_EVERY_SEC = 86_400.0
# A round sends no longer than this before it asks what comes down: a busy node always has more to tell.
ROUND_SEC = 10.0


def _dropped(depth: Depth) -> int:
    return sum(stream.dropped for stream in depth.streams)


class PushService:
    """One membership at a time; waits without a timer while there is none."""

    def __init__(self, parts: PushParts) -> None:
        self._parts = parts
        self._bell = Bell()
        self._link: DeviceLink | None = None
        self._work: Work | None = None
        self._pushing: Pushing | None = None
        self._round_lock = trio.Lock()
        self._held: list[Assignment] = []
        self._contact: Contact | None = None
        self._contact_kept: Contact | None = None
        self._depth = Depth()
        self._last_state: Connectivity | None = None
        self._forget_at = 0.0
        self._reset()

    def _reset(self) -> None:
        """As for a membership that was never spoken for."""
        self._reports = Reports()
        self._aligned = False
        self._reconciled = False
        self._small = 0
        self._failures = 0
        self._beat_at = 0.0
        self._last_beat = float("-inf")
        self._send_at = 0.0
        self._back_at = 0.0  # the end of a pause after a failure; a link that comes back ends it
        self._asked_until = 0.0  # the end of one that the control plane asked for
        self._pull_at = 0.0
        self._refused: str | None = None
        self._trouble: str | None = None
        self._rejected = False
        self._open_there: frozenset[str] = frozenset()
        self._blocked: dict[OutboxStream, str] = {}
        self._pushed_at: datetime | None = None
        self._dropped_before: int | None = None

    # --- from outside

    def wake(self) -> None:
        """The membership, the configuration or the links are others. Never blocks."""
        if self._parts.links.may(Action.RECONCILE):
            spread = RETURN_SPREAD_SEC * self._parts.jitter()
            self._send_at = min(self._send_at, trio.current_time() + spread)
            self._pull_at = min(self._pull_at, self._send_at)
            self._back_at = 0.0
        self._bell.ring()

    def new(self) -> None:
        """There is something new to tell. Never blocks."""
        if self._link is None:
            return
        due = trio.current_time() + GATHER_SEC
        if due < self._send_at:
            self._send_at = due
            self._bell.ring()

    @property
    def depth(self) -> Depth:
        """What waits, as it was counted last."""
        return self._depth

    @property
    def refused(self) -> str | None:
        """Why the control plane takes nothing from this node, until an operator acts."""
        return self._refused

    @property
    def trouble(self) -> str | None:
        """Why the last round ended early, when the link itself stands."""
        return self._trouble

    @property
    def blocked(self) -> Mapping[OutboxStream, str]:
        """Streams that cannot go on, and why."""
        return self._blocked

    @property
    def pushed_at(self) -> datetime | None:
        """When everything that was due was told last; None if this process has not told anything yet."""
        return self._pushed_at

    @property
    def dropped(self) -> int:
        """How many records found no room since everything was told last."""
        return _dropped(self._depth) - (self._dropped_before or 0)

    @property
    def rejected(self) -> bool:
        """The owner has rejected this node."""
        return self._rejected

    @property
    def link(self) -> DeviceLink | None:
        """The way to the control plane; None for a node that belongs to none."""
        return self._link

    async def sync(self) -> RoundResult | None:
        """One round now, whatever was waited for; None for a node that belongs to no control plane.

        Raises as `Store` does.
        """
        if self._parts.file.current is None:
            return None
        await self._enter()
        if self._link is None:
            return None
        self._refused, self._back_at = None, 0.0
        self._reconciled = False
        self._pull_at = 0.0
        result = RoundResult()
        async with self._round_lock:
            await self._sample()
            await self._round(result)
        if result.more:
            result.reason = f"there is more than could be sent in {ROUND_SEC:g} seconds; it goes on"
        return result

    async def count(self) -> Depth:
        """Counts what waits now. Raises as `Store.read` does."""
        found = self._reports.take_depth()
        if found is None:
            found = await push.depth(self._parts.store, self._parts.clock)
        before, self._depth = self.dropped, self._reports.seen(found)
        if self._dropped_before is None:  # a restart: what was dropped before counts while something waits
            self._dropped_before = 0 if self._depth.waiting else _dropped(self._depth)
        elif self.dropped and not before:
            self._parts.log.warning("outbox.dropped", records=self.dropped)
        return self._depth

    # --- the loop

    async def run(self) -> None:
        """Runs until cancelled."""
        try:
            while True:
                pause = None
                try:
                    await self._turn()
                except (StoreError, UnavailableError) as error:
                    pause = STORE_PAUSE_SEC
                    self._note_trouble(str(error))
                if pause is not None:
                    await trio.sleep(pause)
                    continue
                await self._bell.wait(self._due())
        finally:
            await self._close_link()

    async def _turn(self) -> None:
        await self._enter()
        if self._link is None:
            return
        async with self._round_lock:
            sampled = trio.current_time() >= self._beat_at
            if sampled:
                await self._sample()
                await self._end_again()
            await self._end_overdue()
            if self._may_send() and trio.current_time() >= self._next_round():
                await self._round(RoundResult())
            elif sampled:
                await self.count()

    def _may_send(self) -> bool:
        return self._parts.links.may(Action.RECONCILE)

    def _next_round(self) -> float:
        return max(min(self._send_at, self._pull_at), self._back_at, self._asked_until)

    def _due(self) -> float | None:
        """When something is to be done without a ring."""
        if self._link is None:
            return None
        times = [self._beat_at]
        if self._may_send():
            times.append(self._next_round())
        left = self._left()
        if left is not None:
            times.append(trio.current_time() + left / 1000)
        return min(times)

    async def _enter(self) -> None:
        """Follows the membership file: another membership is another way and another beginning."""
        membership = self._parts.file.current
        known = None if self._link is None else self._link.membership
        if membership is known:
            return
        await self._close_link()
        if membership is None:
            await self._parts.store.write(lambda tx: tx.outbox.leave())
            self._depth = Depth()
            self._parts.changed()
            return
        link = self._parts.build_link(membership)
        pushing = Pushing(store=self._parts.store, calls=link, clock=self._parts.clock, base=link.base)
        work = self._parts.build_work(pushing)
        state = await self._parts.store.read(lambda tx: tx.outbox.state())
        if not state.joined or state.membership != membership.registration:
            if state.membership != membership.registration:
                await work_flow.give_up(work)
            await self._parts.store.write(lambda tx: tx.outbox.join(membership.registration))
            state = await self._parts.store.read(lambda tx: tx.outbox.state())
        self._reset()
        now = trio.current_time()
        # A fleet that was started at one moment does not report at one moment.
        self._beat_at = now if known is None else now + self._parts.jitter()
        self._contact = self._contact_kept = state.contact or self._contact_of(membership)
        self._link, self._pushing, self._work = link, pushing, work
        await self._read_held()
        self._parts.changed()

    def _contact_of(self, membership: Membership) -> Contact:
        """Before the first answer is kept: the join was one."""
        joined = to_ms(parse_rfc3339(membership.joined_at))
        return Contact(at_ms=joined, boot_id="", boot_ms=0)

    async def _close_link(self) -> None:
        link, self._link, self._work, self._pushing = self._link, None, None, None
        self._held = []
        if link is not None:
            await link.aclose()

    async def _read_held(self) -> None:
        self._held = await self._parts.store.read(lambda tx: tx.assignments.open())

    # --- reports

    async def _sample(self) -> None:
        """Keeps a report of this moment; with it what was acknowledged meanwhile leaves the outbox."""
        parts, now = self._parts, trio.current_time()
        condition = await parts.condition()
        at = parts.clock.now()
        first = self._last_state is None
        priority = CHANGE if first or condition.state is not self._last_state else ORDINARY
        done = sorted(self._reports.done)
        contact = self._contact if self._contact is not self._contact_kept else None
        room, told = parts.settings().outbox, self._reports.told_head
        settled = push.settled_ms(parts.clock)

        def work(tx: Transaction) -> tuple[KeptReport, Depth, int]:
            head = tx.audit.head()
            said = msgspec.structs.replace(condition, audit_seq=head.seq, audit_hash=head.hash)
            body = report_body(rfc3339_ms(at), condition if head.seq == told else said)
            kept = push.keep_report(tx, to_ms(at), priority, body, done=done, bytes_max=room)
            if contact is not None:
                tx.outbox.put_contact(contact)
            return kept, tx.outbox.depth(settled), head.seq

        self._reports.keep(*await parts.store.write(work))
        self._reports.done.difference_update(done)
        if contact is not None:
            self._contact_kept = contact
        self._last_state = condition.state
        self._last_beat = now
        self._beat_at = beat_due(now, parts.settings().interval, parts.jitter())
        self._send_at = min(self._send_at, now)

    def _seen(self, sent: Trusted) -> None:
        """The control plane has taken a report that was sent then.

        Nothing else counts: from its last report it counts when this node has surely ended what must not
        run twice. Whoever reads, or is refused, has not been seen there.
        """
        self._contact = Contact(at_ms=sent.now_ms, boot_id=sent.boot_id, boot_ms=sent.boot_ms)

    def _away(self) -> int:
        return away_ms(self._contact, self._parts.look_at_time())

    def _left(self) -> int | None:
        return next_overdue(self._held, self._away(), self._parts.look_at_time())

    async def _end_overdue(self) -> None:
        if self._work is None or self._left() != 0:
            return
        causes = await work_flow.stop_overdue(self._work, self._away())
        if causes:
            self._parts.log.warning("assignments.stopped", tasks=len(causes), causes=sorted(set(causes)))
        await self._read_held()

    async def _end_again(self) -> None:
        """What was to be ended and still runs: this program was, or whoever runs it is, away."""
        if self._work is not None and any(one.stop_cause is not None for one in self._held):
            await work_flow.settle(self._work)
            await work_flow.stop_again(self._work)
            await self._read_held()

    async def end_alone(self) -> None:
        """This node is about to leave: ends what must not go on without its control plane. Raises as `Store`
        does."""
        async with self._round_lock:
            if self._work is not None:
                await work_flow.stop_alone(self._work)
                await self._read_held()

    # --- a round

    async def _round(self, result: RoundResult) -> None:
        """Everything that is due, in its order; never raises for what the control plane does."""
        self._blocked = {}
        try:
            await self._speak(result)
        except StopError as stop:
            result.reason = stop.step.text
            self._give_up(stop.step)
        except IdentityError as error:
            result.reason = str(error)
            self._back_off(str(error), None)
        except UnavailableError as error:
            result.reason = str(error)
            self._back_off(str(error), None)
            self._parts.probe_soon()
        else:
            self._went_well(more=result.more)
        if result.reason is not None:  # else it was counted until nothing was left to send
            await self.count()
        self._parts.changed()

    async def _speak(self, result: RoundResult) -> None:
        pushing, work = self._pushing, self._work
        if pushing is None or work is None:
            return
        await self._align(pushing)
        await self._report(result)
        await self._align(pushing)
        if not self._reconciled:
            result.started += (await self._reconcile(work)).moved
        await self._drain(result)
        if trio.current_time() >= self._pull_at:
            await self._pull(result)
        if trio.current_time() >= self._forget_at:
            await work_flow.forget_old(work)
            self._forget_at = trio.current_time() + FORGET_EVERY_SEC

    async def _align(self, pushing: Pushing) -> None:
        """Where the control plane stands, when that is not known (any more)."""
        if not self._aligned:
            self._note_lost(self._need(await push.align(pushing)).text)
            self._reports.forget_depth()
            self._aligned = True

    def _note_lost(self, lost: str) -> None:
        if lost:
            self._aligned = False
            self._reports.lost()  # what of it is still here is told again
            self._parts.log.warning("control_plane.put_back", lost=lost)

    def _need(self, step: Step) -> Step:
        """The step, when it went well; else the round ends."""
        if step.meaning is not Meaning.DONE:
            raise StopError(step)
        return step

    async def _report(self, result: RoundResult) -> None:
        """Tells the newest report, once."""
        if self._pushing is None:
            return
        kept = self._reports.take()
        report = kept or await self._parts.store.read(lambda tx: tx.outbox.newest_report())
        if report is None or report.seq in self._reports.done:
            return
        sent = self._parts.look_at_time()
        answer = await push.send_report(self._pushing, report)
        if isinstance(answer, Step):
            if answer.meaning in (Meaning.REFUSED, Meaning.TOO_LARGE):
                return  # it was taken out, and counted
            raise StopError(answer)
        self._seen(sent)
        known = answer.known_report_seq
        if known is not None and self._reports.may_be_lost(known):
            self._note_lost(await push.note_put_back(self._pushing, known))
        self._reports.told(report, kept_now=kept is not None and self._aligned)
        result.sent[OutboxStream.REPORTS] = result.sent.get(OutboxStream.REPORTS, 0) + 1
        self._hear(answer)

    def _hear(self, answer: HeartbeatAnswer) -> None:
        """Whether what this node has to do is what it does."""
        self._rejected = answer.node_status is NodeStatus.REJECTED
        open_there = {
            task.task_id
            for task in answer.assigned_tasks
            if task.execution_status in (ExecutionStatus.ASSIGNED, ExecutionStatus.IN_PROGRESS)
        }
        self._open_there = frozenset(open_there)
        ended = {one.task_id for one in self._held if one.has_ended}
        here = {one.task_id for one in self._held if one.state is AssignmentState.RUNNING}
        if open_there - ended != here:
            self._reconciled = False

    async def _reconcile(self, work: Work) -> Step:
        step = self._need(await work_flow.reconcile(work, self._open_there))
        self._reconciled = not step.again
        await self._read_held()
        return step

    async def _drain(self, result: RoundResult) -> None:
        held_up: set[OutboxStream] = set()
        idle: dict[OutboxStream, int] = {}
        until = trio.current_time() + ROUND_SEC
        while True:
            if self._work is not None and self._held and await work_flow.settle(self._work):
                await self._read_held()
            await self._keep_beat(result)
            depth = await self.count()
            waiting = {one.stream: one.waiting for one in depth.streams}
            waiting[OutboxStream.RESULTS] = sum(work_flow.is_untold(one) for one in self._held)
            stream = next_stream(waiting, frozenset(held_up))
            if stream is None:
                return
            if trio.current_time() >= until:
                result.more = True
                return
            step = await self._step(stream)
            result.sent[stream] = result.sent.get(stream, 0) + step.moved
            idle[stream] = 0 if step.moved else idle.get(stream, 0) + 1
            if not self._goes_on(stream, step) or idle[stream] > IDLE_STEPS_MAX:
                held_up.add(stream)

    async def _keep_beat(self, result: RoundResult) -> None:
        """A long drain does not keep a node from being seen."""
        if trio.current_time() >= self._beat_at:
            await self._sample()
            await self._report(result)

    async def _step(self, stream: OutboxStream) -> Step:
        if self._pushing is None or self._work is None:
            return push.NOTHING
        pushing = msgspec.structs.replace(self._pushing, small=self._small)
        match stream:
            case OutboxStream.RESULTS:
                step = await work_flow.tell(self._work)
                await self._read_held()
                return step
            case OutboxStream.AUDIT:
                return await push.send_audit(pushing)
            case OutboxStream.LEDGER:
                return await push.send_ledger(pushing)
            case OutboxStream.DELTA_V:
                return await push.send_delta_v(pushing)
            case OutboxStream.REPORTS:
                sent = self._parts.look_at_time()
                step = await push.send_old_reports(pushing, frozenset(self._reports.done))
                if step.meaning is Meaning.DONE and step.moved:
                    self._seen(sent)
                return step

    def _goes_on(self, stream: OutboxStream, step: Step) -> bool:
        """Whether the stream may send more in this round. Raises StopError when nothing may."""
        match step.meaning:
            case Meaning.DONE:
                self._small = max(0, self._small - 1)
                return step.moved > 0
            case Meaning.AGAIN | Meaning.GONE | Meaning.REPLAYED | Meaning.UNKNOWN:
                raise StopError(step)
            case Meaning.BEHIND if not step.again:
                self._aligned = False
                return False
            case _ if step.again:
                self._aligned = self._aligned and step.meaning is not Meaning.BEHIND
                return True
            case Meaning.REFUSED | Meaning.TOO_LARGE if not step.blocked and self._small < SMALLEST:
                self._small += 1
                return True
            case _:
                self._blocked[stream] = step.text
                return False

    async def _pull(self, result: RoundResult) -> None:
        if self._pushing is None or self._work is None:
            return
        result.policies = await pulls.pull_policies(self._pushing, self._parts.policies, self._parts.rosters)
        self._need(result.policies.step)
        result.leases = await pulls.pull_revocations(self._pushing, self._work.leases)
        self._need(result.leases.step)
        for what, found in (("policies", result.policies), ("leases", result.leases)):
            if found.refused:
                self._parts.log.warning("control_plane.items_refused", kind=what, refused=found.refused)
        self._reports.forget_head()  # now and then it is told again, whatever has become of it there
        settings = self._parts.settings()
        self._pull_at = beat_due(trio.current_time(), settings.pull_interval, self._parts.jitter())

    # --- what follows from a round

    def _went_well(self, *, more: bool) -> None:
        if self._trouble is not None or self._refused is not None:
            self._parts.log.info("control_plane.pushing")
        self._failures, self._trouble, self._refused = 0, None, None
        self._pushed_at, self._dropped_before = self._parts.clock.now(), _dropped(self._depth)
        self._send_at = float("inf")
        if more:
            self._send_at = trio.current_time()
        elif not self._aligned:
            self._send_at = trio.current_time() + GATHER_SEC
        if any(one.state is AssignmentState.STARTING for one in self._held) or not self._reconciled:
            # Work that could not be begun yet, or that this round has heard of.
            again = trio.current_time() + (GATHER_SEC if not self._reconciled else MINUTE_SEC)
            self._send_at = min(self._send_at, again)
            self._reconciled = False

    def _give_up(self, step: Step) -> None:
        retry_after = None if step.reply is None else step.reply.retry_after
        if step.meaning in (Meaning.GONE, Meaning.UNKNOWN):
            if self._refused is None:
                self._parts.log.error("control_plane.refused", reason=step.text)
            self._refused = step.text
            pause = REFUSED_PAUSE_SEC * (0.5 + self._parts.jitter())
            self._back_at = trio.current_time() + pause
            return
        self._back_off(step.text, retry_after)

    def _back_off(self, reason: str, retry_after: float | None) -> None:
        self._failures += 1
        self._reports.forget_head()
        self._note_trouble(reason)
        now = trio.current_time()
        pause = pause_after(self._failures, self._parts.jitter(), retry_after)
        self._send_at, self._back_at = now, now + pause
        self._aligned = self._aligned and self._failures < 2
        self._reconciled = False
        if retry_after is not None:
            self._asked_until = now + min(retry_after, RETRY_AFTER_MAX_SEC)

    def _note_trouble(self, reason: str) -> None:
        if reason != self._trouble:
            self._parts.log.warning("control_plane.not_pushing", reason=reason)
            self._trouble = reason
            self._parts.changed()
