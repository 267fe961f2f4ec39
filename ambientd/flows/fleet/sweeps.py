"""What time alone brings about: nodes that fall silent, work that moves, sessions that expire, old rows.

Each step is one bounded transaction, under a lock that one process has at a time; where another one has it
nothing is done, for it does the same.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from ambientd.core.fleet.away import taken_away
from ambientd.core.fleet.liveness import LivenessTimes, changes, suspects_before
from ambientd.core.fleet.records import AwayAssignment, Pruned, StatusChange
from ambientd.flows.fleet.leases import LeaseDesk
from ambientd.flows.fleet.work import WorkRules, end_session, move, offer, release
from ambientd.ports.fleet.store import FleetStore, FleetTransaction
from ambientd.wire.fleet_enums import ConnectStatus, DetachReason, TaskStatus

STEP = 500  # rows of a step; others write in between
PRUNE_STEP = 1_000
OFFER_STEP = 10  # tasks: each is held against many nodes, under the lock of all assignments


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """An assignment that ended since its node was away."""

    task_id: str
    node_id: str
    reason: str


async def sweep_nodes(
    store: FleetStore, now: datetime, times: LivenessTimes, since: datetime | None = None
) -> list[StatusChange]:
    """Online nodes that are silent become unknown, then offline; which did. Silence before `since` does not
    count."""
    found: list[StatusChange] = []
    after: str | None = None
    while True:

        def step(tx: FleetTransaction, after: str | None = after) -> tuple[list[StatusChange], str | None]:
            if not tx.try_sweep_lock("nodes"):
                return [], None
            quiet = tx.nodes.quiet(suspects_before(now, times), STEP, after)
            wanted = changes(quiet, now, times, since)
            changed = frozenset(tx.nodes.change_status(wanted))
            done = [change for change in wanted if change.node_id in changed]
            return done, quiet[-1].node_id if len(quiet) == STEP else None

        done, after = await store.write(step)
        found += done
        if after is None:
            return found


async def sweep_work(
    store: FleetStore, now: datetime, rules: WorkRules, since: datetime | None = None
) -> list[Moved]:
    """Work of nodes that are away moves when its policy says so; what did. `since` as in `sweep_nodes`."""
    found: list[Moved] = []
    after: tuple[str, str] | None = ("", "")
    while after is not None:

        def step(
            tx: FleetTransaction, after: tuple[str, str] = after
        ) -> tuple[list[Moved], tuple[str, str] | None]:
            if not tx.try_sweep_lock("work"):
                return [], None
            tx.assignments.lock()
            rows = tx.assignments.away(STEP, after)
            moved = []
            for row in rows:
                reason = taken_away(row, now, since)
                if reason is not None and _take(tx, row, reason, now, rules):
                    moved.append(Moved(task_id=row.task_id, node_id=row.node_id, reason=reason))
            return moved, (rows[-1].task_id, rows[-1].node_id) if len(rows) == STEP else None

        moved, after = await store.write(step)
        found += moved
    return found


def _take(
    tx: FleetTransaction, row: AwayAssignment, reason: DetachReason, now: datetime, rules: WorkRules
) -> bool:
    if reason is DetachReason.MOVED:
        return move(tx, row.task_id, row.node_id, now, rules)
    release(tx, row.task_id, (row.node_id,), reason, now, rules)
    return True


async def sweep_pending(store: FleetStore, now: datetime, rules: WorkRules) -> list[str]:
    """Offers all that is pending, in case an offer was missed (a process ended between two steps) or found
    its node full; what runs."""
    found: list[str] = []
    after: tuple[datetime, str] | None = None
    while True:

        def step(
            tx: FleetTransaction, after: tuple[datetime, str] | None = after
        ) -> tuple[list[str], tuple[datetime, str] | None]:
            if not tx.try_sweep_lock("pending"):
                return [], None
            tx.assignments.lock()
            tasks = tx.tasks.pending(OFFER_STEP, after=after)
            offered = [offer(tx, task.task_id, now, rules) for task in tasks]
            running = [task.task_id for task in offered if task.status is TaskStatus.RUNNING]
            more = len(tasks) == OFFER_STEP
            return running, (tasks[-1].created_at, tasks[-1].task_id) if more else None

        running, after = await store.write(step)
        found += running
        if after is None:
            return found


async def sweep_sessions(
    store: FleetStore, now: datetime, rules: WorkRules, desk: LeaseDesk | None = None
) -> int:
    """Ends connect sessions past their time, or whose node is gone or offline; how many. A lease that still
    holds is revoked by `desk`.

    Work of one whose node is gone is offered to other nodes by `sweep_pending`.
    """

    def step(tx: FleetTransaction) -> int:
        if not tx.try_sweep_lock("sessions"):
            return 0
        tx.assignments.lock()
        due = tx.sessions.due(now, STEP)
        for session in due:
            expired = session.expires_at <= now
            status = ConnectStatus.EXPIRED if expired else ConnectStatus.ENDED
            reason = "expired" if expired else "node_away"
            end_session(tx, session.requester_id, session.session_id, status, reason, now)
            if desk is not None and not expired:
                desk.revoke(tx, (session,), now)
        return len(due)

    total, ended = 0, STEP
    while ended == STEP:
        ended = await store.write(step)
        total += ended
    return total


async def sweep_history(store: FleetStore, now: datetime, *, reports: timedelta, events: timedelta) -> int:
    """Removes reports and events that are older than they are kept; how many rows."""
    return await _prune(
        store, lambda tx, after: tx.history.remove(now - reports, now - events, PRUNE_STEP, after)
    )


async def _prune(store: FleetStore, remove: Callable[[FleetTransaction, int], Pruned]) -> int:
    total, after = 0, 0
    while True:

        def step(tx: FleetTransaction, after: int = after) -> Pruned:
            if not tx.try_sweep_lock("history"):
                return Pruned(removed=0, after=None)
            return remove(tx, after)

        pruned = await store.write(step)
        total += pruned.removed
        if pruned.after is None:
            return total
        after = pruned.after


async def sweep_expired(store: FleetStore, now: datetime, *, keep: timedelta) -> int:
    """Removes tokens, signed items and overrides that expired long enough ago that nobody asks for them; how
    many."""

    def step(tx: FleetTransaction) -> int:
        if not tx.try_sweep_lock("expired"):
            return 0
        before = now - keep
        return sum(rows.remove_expired(before, STEP) for rows in (tx.tokens, tx.items, tx.throttle))

    total, removed = 0, STEP
    while removed >= STEP:
        removed = await store.write(step)
        total += removed
    return total
