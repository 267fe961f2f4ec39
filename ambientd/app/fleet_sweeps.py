"""The control plane's sweeps, put together from its flows and its configuration."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from ambientd.config.server import ServerConfig
from ambientd.core.fleet.hearing import Hearing
from ambientd.core.fleet.liveness import LivenessTimes
from ambientd.core.fleet.timelimit import LateParts
from ambientd.flows.fleet import sweeps
from ambientd.flows.fleet.leases import LeaseDesk
from ambientd.flows.fleet.rosters import RosterDesk, sweep_rosters
from ambientd.flows.fleet.throttle import Throttle
from ambientd.flows.fleet.timelimits import sweep_late
from ambientd.flows.fleet.work import WorkRules
from ambientd.ports.clock import Clock
from ambientd.ports.fleet.store import FleetStore
from ambientd.services.fleet_sweeps import Sweep

NAMED_MAX = 10  # nodes and tasks in one line of the log
LOOKS_MISSED = 4  # in a row: this process, or its database, was away
USED_EVERY = 60.0  # seconds: the most often that the use of a key is written
LATE_EVERY = 60.0  # seconds, at least: it looks at all that runs
LOOK_GAP = 60.0  # seconds, at least
KEEP_EXPIRED = timedelta(days=1)  # so that an answer can still say that something has expired


def build_hearing(config: ServerConfig) -> Hearing:
    """The ears of a process that has just been started."""
    return Hearing(max(LOOK_GAP, LOOKS_MISSED * config.sweep_interval))


def build_sweeps(
    config: ServerConfig,
    *,
    store: FleetStore,
    clock: Clock,
    rules: WorkRules,
    desk: LeaseDesk,
    hearing: Hearing,
    throttle: Throttle,
    roster_desk: RosterDesk | None,
    write_used: Callable[[], Awaitable[int]],
) -> Sequence[Sweep]:
    """All of them; rate limits that another process has changed come here by the one of that name.
    `roster_desk` signs rosters, where they are wanted and there is a key; `write_used` writes when API keys
    were used."""
    times = LivenessTimes(config.unknown_after, config.offline_after)

    async def nodes() -> dict[str, object] | None:
        now, monotonic = clock.now(), clock.monotonic()
        changed = await sweeps.sweep_nodes(store, now, times, hearing.since(now, monotonic))
        hearing.looked(now, monotonic)
        if not changed:
            return None
        named = [f"{change.node_id}: {change.after.value}" for change in changed[:NAMED_MAX]]
        return {"changed": len(changed), "nodes": named}

    async def work() -> dict[str, object] | None:
        now = clock.now()
        moved = await sweeps.sweep_work(store, now, rules, hearing.since(now, clock.monotonic()))
        running = await sweeps.sweep_pending(store, clock.now(), rules)
        if not moved and not running:
            return None
        named = [f"{one.task_id} from {one.node_id}: {one.reason}" for one in moved[:NAMED_MAX]]
        return {"taken_away": len(moved), "tasks": named, "assigned": len(running)}

    seen = LateParts()

    async def late() -> dict[str, object] | None:
        failed = await sweep_late(store, clock.now(), clock.monotonic(), seen, rules)
        named = [f"{part.task_id} at {part.node_id}" for part in failed[:NAMED_MAX]]
        return {"failed": len(failed), "tasks": named} if failed else None

    async def sessions() -> dict[str, object] | None:
        ended = await sweeps.sweep_sessions(store, clock.now(), rules, desk)
        return {"ended": ended} if ended else None

    async def history() -> dict[str, object] | None:
        removed = await sweeps.sweep_history(
            store,
            clock.now(),
            reports=timedelta(seconds=config.keep_reports),
            events=timedelta(seconds=config.keep_events),
        )
        return {"removed": removed} if removed else None

    async def expired() -> dict[str, object] | None:
        removed = await sweeps.sweep_expired(store, clock.now(), keep=KEEP_EXPIRED)
        return {"removed": removed} if removed else None

    async def keys() -> dict[str, object] | None:
        await write_used()
        return None  # every minute while anybody calls: not worth a line

    often, seldom = config.sweep_interval, config.cleanup_interval
    return (
        Sweep(name="nodes", interval=often, run=nodes),
        Sweep(name="work", interval=often, run=work),
        Sweep(name="late", interval=max(often, LATE_EVERY), run=late),
        Sweep(name="sessions", interval=often, run=sessions),
        Sweep(name="history", interval=seldom, run=history),
        Sweep(name="expired", interval=seldom, run=expired),
        Sweep(name="keys", interval=USED_EVERY, run=keys),
        Sweep(name="throttle", interval=often, run=throttle.refresh),
        *(() if roster_desk is None else (_rosters(store, clock, roster_desk, often),)),
    )


def _rosters(store: FleetStore, clock: Clock, desk: RosterDesk, interval: float) -> Sweep:
    async def rosters() -> dict[str, object] | None:
        made = await sweep_rosters(store, clock.now(), desk)
        if not made:
            return None
        left_out = {one.owner_id: one.left_out for one in made[:NAMED_MAX] if one.left_out}
        return {"owners": len(made), "nodes": sum(one.nodes for one in made), "left_out": left_out}

    return Sweep(name="rosters", interval=interval, run=rosters)
