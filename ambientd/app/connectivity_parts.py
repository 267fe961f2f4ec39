"""Builds what knows the node's links, and what asks it: status, `/api/v1/node`, the other parts."""

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from ambientd import __version__
from ambientd.api.connectivity import NodeSources, node_routes
from ambientd.api.router import Route
from ambientd.app.control_probes import ControlProbes
from ambientd.config.autonomy import ConnectivityConfig, ControlPlaneConfig
from ambientd.config.upstream import ControlAddress, parse_control_url, parse_target
from ambientd.core.connectivity import Action
from ambientd.core.connectivitytext import Seen, connectivity_problems, control_status, state_status
from ambientd.core.timefmt import from_ms, rfc3339_ms
from ambientd.flows.activity import recent_activity
from ambientd.flows.connectivity import Noted, record_change
from ambientd.flows.status import AutonomyStatus
from ambientd.host.clock import uptime
from ambientd.host.jitter import jitter
from ambientd.host.links import SystemLinks
from ambientd.services.connectivity import ConnectivityService, Wanted
from ambientd.wire.connectivity_messages import (
    ActivityPage,
    Heartbeat,
    HeartbeatsPage,
    NodeControl,
    NodeLink,
    NodeState,
    NodeView,
)
from ambientd.wire.enums import Connectivity

if TYPE_CHECKING:
    from ambientd.app.autonomy import Ground, Run

BY_FLAG = "told to stay offline by --offline"
BY_SETTING = "connectivity.offline is set"
AGENT = f"ambientd/{__version__}"


class ConnectivityPart:
    """Implements `app.autonomy.Part`."""

    def __init__(self, ground: "Ground", *, joined: Callable[[], str | None] = lambda: None) -> None:
        """`joined` is the address of the control plane that the node has joined; it goes before the
        configured one."""
        self._ground = ground
        self._joined = joined
        self._read: tuple[ConnectivityConfig, ControlPlaneConfig, str | None, Wanted] | None = None
        self.view = ConnectivityService(
            links=SystemLinks(),
            upstream=ControlProbes(ground.config, agent=AGENT),
            wanted=self._wanted,
            record=self._record,
            clock=ground.clock,
            passed=uptime,
            jitter=jitter,
            changed=ground.changed,
            log=ground.log,
        )

    @property
    def services(self) -> "Mapping[str, Run]":
        """See `Part`."""
        return {"connectivity": self.view.run}

    @property
    def store_services(self) -> "Mapping[str, Run]":
        """See `Part`."""
        return {"connectivity records": self.view.record}

    def routes(self) -> Sequence[Route]:
        """See `Part`."""
        return node_routes(NodeSources(node=self._node, heartbeats=self._heartbeats, activity=self._activity))

    def status(self, now: datetime) -> AutonomyStatus:
        """See `Part`."""
        seen = self.view.seen(now)
        return AutonomyStatus(
            state=state_status(seen),
            control=control_status(seen),
            problems=tuple(connectivity_problems(seen)),
        )

    def _wanted(self) -> Wanted:
        """What is configured now. Asked with every "may I", so the same configuration is read once."""
        config = self._ground.config()
        wish, control, joined = config.connectivity, config.control_plane, self._joined()
        read = self._read
        if read is None or read[0] is not wish or read[1] is not control or read[2] != joined:
            self._read = read = wish, control, joined, self._read_wanted(wish, control, joined)
        return read[3]

    def order(self) -> str:
        """Why the node makes no calls; empty when it does."""
        return self._wanted().order

    def _read_wanted(
        self, wish: ConnectivityConfig, control: ControlPlaneConfig, joined: str | None
    ) -> Wanted:
        order = BY_FLAG if self._ground.offline else BY_SETTING if wish.offline else ""
        return Wanted(
            interval=wish.interval,
            timeout=wish.timeout,
            misses=wish.misses,
            hold=wish.hold,
            targets=tuple(place for text in wish.targets if (place := parse_target(text)) is not None),
            control=_address(joined or control.url),
            ca_file=control.ca_file,
            order=order,
        )

    async def _record(self, noted: Noted) -> None:
        await record_change(self._ground.store, noted)

    # --- what the routes tell

    def _node(self) -> NodeView:
        ground, now = self._ground, self._ground.clock.now()
        seen = self.view.seen(now)
        return NodeView(
            name=ground.node_name,
            host_id=ground.host_id,
            version=__version__,
            pid=os.getpid(),
            mode=ground.config().node.mode.value,
            generated_at=rfc3339_ms(now),
            started_at=rfc3339_ms(ground.started_at) if ground.started_at else None,
            state=_state_of(seen),
            control=_control_of(seen),
            links=[NodeLink(link.name, link.routed) for link in seen.links.usable],
            links_error=seen.links.error or None,
            allowed={action.name.lower(): self.view.may(action) for action in Action},
        )

    def _heartbeats(self, limit: int) -> HeartbeatsPage:
        beats, feed = self._ground.beats(), self._ground.feed
        snapshot = feed.snapshot() if feed is not None else None
        written = snapshot.last_written_at_ms if snapshot else None
        return HeartbeatsPage(
            run_id=self._ground.run_id,
            interval_sec=self._ground.config().dispatcher.interval,
            seq=beats[-1].seq if beats else 0,
            lost=snapshot.lost if snapshot else 0,
            last_written_at=None if written is None else rfc3339_ms(from_ms(written)),
            heartbeats=[
                Heartbeat(
                    seq=beat.seq,
                    at=rfc3339_ms(from_ms(beat.at_ms)),
                    active_sessions=beat.active_sessions,
                    state=Connectivity(beat.state) if beat.state else None,
                    cycle_ms=beat.cycle_ms,
                )
                for beat in reversed(beats[-limit:])
            ],
        )

    async def _activity(self, limit: int) -> ActivityPage:
        return await recent_activity(self._ground.store, self._ground.clock.now(), limit)


def _address(url: str | None) -> ControlAddress | None:
    """The configured address, which was checked when it was read."""
    found = parse_control_url(url) if url else None
    return found if isinstance(found, ControlAddress) else None


def _state_of(seen: Seen) -> NodeState:
    told = state_status(seen)
    return NodeState(
        name=told.name,
        since=told.since,
        duration_sec=int(seen.duration),
        reason=told.reason,
        offline=told.offline,
    )


def _control_of(seen: Seen) -> NodeControl:
    told = control_status(seen)
    return NodeControl(
        connected=told.connected,
        url=told.url,
        since=told.since,
        reason=told.reason,
        next_try_at=told.next_try_at,
        attempt=told.attempt,
        latency_ms=told.latency_ms,
    )
