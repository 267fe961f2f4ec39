"""The parts that keep the node useful without its control plane, put together.

Each part is built in a module of its own (`app/<subject>_parts.py`) and loaded only where it is wanted.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

import msgspec

from ambientd.api.router import Audited, Route
from ambientd.app.audit_parts import AuditPart, build_identity
from ambientd.app.clock_parts import ClockPart
from ambientd.app.connectivity_parts import ConnectivityPart
from ambientd.app.lease_parts import LeasePart
from ambientd.app.push_parts import Connected, PushPart
from ambientd.config.schema import Config
from ambientd.core.heartbeat import Beat
from ambientd.flows.control import Controls
from ambientd.flows.status import AutonomyStatus
from ambientd.host.log import Logger
from ambientd.host.membership_file import DiskMembershipFile
from ambientd.ports.clock import Clock
from ambientd.ports.feed import FeedSink
from ambientd.ports.store import Store
from ambientd.services.audit import AuditHead

Run = Callable[[], Awaitable[None]]


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """What the parts stand on. `config` gives the configuration in force; `changed` tells that the status
    may look different; `offline`: the operator said so when starting. `beats` are the last ones of this
    process, oldest first. `audit_head` hears of every audit record."""

    config: Callable[[], Config]
    store: Store
    clock: Clock
    host_id: str
    node_name: str
    state_dir: Path
    environ: Mapping[str, str]
    audited: Audited
    changed: Callable[[], None]
    log: Logger
    offline: bool = False
    started_at: datetime | None = None
    run_id: str = ""
    beats: Callable[[], Sequence[Beat]] = tuple
    feed: FeedSink | None = None
    audit_head: AuditHead = msgspec.field(default_factory=AuditHead)


class RestOfNode(msgspec.Struct, frozen=True, kw_only=True):
    """What work of the control plane needs: starting and ending sessions. `picked_up` is told of each that
    was started so."""

    controls: Controls
    picked_up: Callable[[], None]


class Part(Protocol):
    """One part: built, not started. `services` need nothing but the network, `store_services` the store."""

    @property
    def services(self) -> Mapping[str, Run]: ...
    @property
    def store_services(self) -> Mapping[str, Run]: ...
    def routes(self) -> Sequence[Route]:
        """Its routes of the local API."""

    def status(self, now: datetime) -> AutonomyStatus:
        """What it says of itself, from memory."""


def _delta_v(ground: Ground) -> Part:
    """Where it is not wanted, nothing of it is loaded but the answer that says so."""
    if ground.config().delta_v.enabled:
        from ambientd.app.delta_v_parts import DeltaVPart

        return DeltaVPart(ground)
    from ambientd.app.delta_v_off import DeltaVOff

    return DeltaVOff()


class Autonomy:
    """All parts of this node."""

    def __init__(self, ground: Ground, node: RestOfNode) -> None:
        from ambientd.app.peer_parts import PeersPart
        from ambientd.app.policy_parts import PolicyPart
        from ambientd.app.roster_parts import RosterPart

        self._ground = ground
        membership = DiskMembershipFile(ground.state_dir)
        membership.load()
        self.push = PushPart(ground, membership)
        self.connectivity = ConnectivityPart(ground, joined=self.push.url)
        self.clock = ClockPart(ground)
        self.identity = build_identity(ground)
        self.policies = PolicyPart(
            msgspec.structs.replace(ground, changed=self._policies_changed),
            links=self.connectivity.view,
            clock=self.clock.time,
            more_issuers=self.push.issuers,
            agreement=self._agreement,
            network=self.push.network,
        )
        self.peers = PeersPart(
            ground,
            key=self.identity,
            links=self.connectivity.view,
            items=self.policies.cache,
            load_items=self.policies.cache.load,
            time=self.clock.time,
            issuers=self.policies.issuers,
            control=self.push,
        )
        self.rosters = RosterPart(
            ground,
            peers=self.peers,
            owner=self.push.owner,
            network=self.push.network,
            issuers=self.policies.issuers,
            time=self.clock.time.look,
        )
        self.connectivity.view.on_change(self.peers.links_changed)
        self.leases = LeasePart(
            ground,
            time=self.clock.time,
            links=self.connectivity.view,
            policies=self.policies.cache,
            identity=self.identity,
            more_issuers=self.push.lease_issuers,
            network=self.push.network,
        )
        self.push.connect(
            Connected(
                connectivity=self.connectivity,
                identity=self.identity,
                policies=self.policies.cache,
                rosters=self.rosters.rosters,
                leases=self.leases.leases,
                controls=node.controls,
                time=self.clock.time.look,
                picked_up=node.picked_up,
                status=self.status,
                joined_or_left=self._joined_or_left,
            )
        )
        self._parts: tuple[Part, ...] = (
            self.connectivity,
            self.clock,
            AuditPart(ground, self.identity, key_changed=self.peers.key_changed),
            self.policies,
            self.leases,
            self.peers,
            self.rosters,
            self.push,
            _delta_v(ground),
        )

    def _joined_or_left(self) -> None:
        """Other issuers count from now on, and another address is asked."""
        self.connectivity.view.wake()
        self.policies.reload()
        self.rosters.wake()

    def _agreement(self) -> tuple[int, int]:
        return self.peers.agreement()

    def _policies_changed(self) -> None:
        self._ground.changed()
        self.peers.items_changed()

    @property
    def services(self) -> dict[str, Run]:
        """By name; started at once."""
        return {name: run for part in self._parts for name, run in part.services.items()}

    @property
    def store_services(self) -> dict[str, Run]:
        """By name; started when the store is ready."""
        return {name: run for part in self._parts for name, run in part.store_services.items()}

    def reloaded(self) -> None:
        """There is a new configuration."""
        self.connectivity.view.wake()
        self.push.wake()
        self.rosters.wake()

    def routes(self) -> tuple[Route, ...]:
        """The routes of all parts."""
        return tuple(route for part in self._parts for route in part.routes())

    def status(self) -> AutonomyStatus:
        """What the parts say of themselves, in one."""
        now = self._ground.clock.now()
        told = [part.status(now) for part in self._parts]
        fields = {
            name: value
            for one in told
            for name in AutonomyStatus.__struct_fields__
            if (value := getattr(one, name)) is not None
        }
        fields["control"] = self.push.with_membership(fields.get("control"))
        fields["problems"] = tuple(problem for one in told for problem in one.problems)
        return AutonomyStatus(**fields)
