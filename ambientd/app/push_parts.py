"""The node's side of the control plane, put together. Most of it is loaded where a node has joined."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from ambientd.api.membership import membership_routes
from ambientd.api.router import Route
from ambientd.app.connectivity_parts import AGENT, ConnectivityPart
from ambientd.config.upstream import ControlAddress, parse_control_url
from ambientd.core.health import CRITICAL, WARNING
from ambientd.core.membership import ANY_NETWORK, Membership
from ambientd.core.rejection import Rejected
from ambientd.core.text import number
from ambientd.core.timefmt import from_ms, rfc3339_ms
from ambientd.flows.status import AutonomyStatus
from ambientd.host.jitter import jitter
from ambientd.host.membership_file import DiskMembershipFile
from ambientd.host.node_load import NodeLoad
from ambientd.host.threads import run_in_thread
from ambientd.ports.errors import IdentityError, UnavailableError
from ambientd.services.bell import Bell
from ambientd.wire.autonomy_messages import ControlStatus, OutboxStatus
from ambientd.wire.errors import ERRORS
from ambientd.wire.messages import Problem
from ambientd.wire.outbox_enums import OutboxStream
from ambientd.wire.outbox_messages import (
    ControlSyncView,
    ItemsRow,
    JoinRequest,
    MembershipView,
    OutboxView,
    StreamRow,
)

if TYPE_CHECKING:
    from ambientd.app.autonomy import Ground, Run
    from ambientd.core.pushbodies import Condition, Meters
    from ambientd.core.trustedtime import Trusted
    from ambientd.flows.assignments import Work
    from ambientd.flows.control import Controls
    from ambientd.flows.leases import Leases
    from ambientd.flows.membership import Joining
    from ambientd.flows.policycache import PolicyCache
    from ambientd.flows.pulls import Pulled
    from ambientd.flows.push import Pushing
    from ambientd.ports.autonomy import NodeIdentity
    from ambientd.ports.controlplane import ControlAnswer, ControlTransport
    from ambientd.ports.peers import RosterIntake
    from ambientd.services.push import DeviceLink, PushService, RoundResult
    from ambientd.wire.fleet_messages import CapabilitiesBody

BANDWIDTH_MBPS = 100.0  # what is told of a node whose link nobody has measured
MEMORY_LEAST_GB = 1.0  # the least that a control plane takes
_STARTING = Rejected("NOT_READY", "the control plane's part is about to start")
_NO_CONTROL_PLANE = Rejected("NO_CONTROL_PLANE", "this node belongs to no control plane: ambientctl join URL")


@dataclass(frozen=True, kw_only=True, slots=True)
class Connected:
    """The rest of the node, as this part sees it. `status` is that of all parts; `joined_or_left` is told
    when the membership is another."""

    connectivity: ConnectivityPart
    identity: NodeIdentity
    policies: PolicyCache
    rosters: RosterIntake
    leases: Leases
    controls: Controls
    time: Callable[[], Trusted]
    picked_up: Callable[[], None]
    status: Callable[[], AutonomyStatus]
    joined_or_left: Callable[[], None]


class PushPart:
    """Implements `app.autonomy.Part` and `ports.membership.MembershipControl`.

    `issuers`, `lease_issuers` and `network` are what the control plane vouches for.
    """

    def __init__(self, ground: Ground, file: DiskMembershipFile) -> None:
        """The rest of the node is given by `connect`, since it needs this part's issuers."""
        self._ground = ground
        self.file = file
        self._load = NodeLoad(ground.state_dir)
        self._service: PushService | None = None
        self._connected: Connected | None = None
        self._bell = Bell()

    def connect(self, node: Connected) -> None:
        """To be called once, before anything of this part runs."""
        self._connected = node
        node.connectivity.view.on_change(self._links_changed)

    # --- what the control plane vouches for

    def issuers(self) -> Collection[bytes]:
        """Keys whose policies count."""
        current = self.file.current
        return frozenset() if current is None else current.issuer_keys

    def lease_issuers(self) -> frozenset[bytes]:
        """Keys whose leases count."""
        current = self.file.current
        return frozenset() if current is None else current.lease_issuer_keys

    def network(self) -> str:
        """The configured network, or the control plane's where nobody has chosen one."""
        own, current = self._ground.config().policy.network, self.file.current
        return current.network if current is not None and own == ANY_NETWORK else own

    def owner(self) -> str | None:
        """Whom the node belongs to at its control plane."""
        return None if self.file.current is None else self.file.current.owner_id

    def url(self) -> str | None:
        """The address of the control plane that the node has joined."""
        return None if self.file.current is None else self.file.current.url

    def with_membership(self, control: ControlStatus | None) -> ControlStatus | None:
        """What status says of the control plane, with how this node stands there."""
        if control is None or self.file.current is None:
            return control
        refused = None if self._service is None else self._service.refused
        return msgspec.structs.replace(control, node_id=self.file.current.node_id, refused=refused)

    # --- `app.autonomy.Part`

    @property
    def services(self) -> Mapping[str, Run]:
        """None without the store."""
        return {}

    @property
    def store_services(self) -> Mapping[str, Run]:
        """What pushes."""
        return {"push": self._run}

    def routes(self) -> Sequence[Route]:
        """See `api.membership`."""
        return membership_routes(self, self._ground.audited)

    def status(self, now: datetime) -> AutonomyStatus:
        """The outbox of a node that belongs to a control plane, and what keeps it from it."""
        problems = tuple(self._problems())
        service = self._service
        if service is None or service.link is None:
            return AutonomyStatus(problems=problems)
        depth = service.depth
        return AutonomyStatus(
            outbox=OutboxStatus(
                items=depth.waiting,
                bytes=depth.bytes,
                bytes_max=self._ground.config().control_plane.outbox,
                oldest_at=None if depth.oldest_ms is None else rfc3339_ms(from_ms(depth.oldest_ms)),
                dropped=sum(stream.dropped for stream in depth.streams),
                refused=sum(stream.refused for stream in depth.streams),
                dropped_now=service.dropped,
                last_push_at=None if service.pushed_at is None else rfc3339_ms(service.pushed_at),
                reason=service.refused or service.trouble or next(iter(service.blocked.values()), None),
                streams={stream.stream.value: stream.waiting for stream in depth.streams},
            ),
            problems=problems,
        )

    def _problems(self) -> Sequence[Problem]:
        found = []
        if self.file.problem is not None:
            text = f"the control plane's membership cannot be used: {self.file.problem}"
            found.append(Problem("control.membership", WARNING, text, "ambientctl join URL"))
        service = self._service
        if service is None:
            return found
        if service.refused is not None:
            text = f"the control plane refuses this node: {service.refused}"
            found.append(Problem("control.refused", CRITICAL, text, self._join_again()))
        if service.rejected:
            text = "its owner has rejected this node at the control plane"
            found.append(Problem("control.rejected", WARNING, text, "ambientctl nodes"))
        for stream, reason in service.blocked.items():
            text = f"{stream.value} cannot be told to the control plane: {reason}"
            found.append(Problem(f"control.{stream.value}", WARNING, text, "ambientctl doctor control"))
        if service.dropped:
            text = f"{number(service.dropped)} records for the control plane were dropped for lack of room"
            found.append(Problem("outbox.dropped", WARNING, text, "ambientctl doctor control"))
        return found

    def _join_again(self) -> str:
        return f"ambientctl join {self.url() or 'URL'}"

    def waiting(self) -> int:
        """How many records wait, for alerts on the outbox's depth."""
        return 0 if self._service is None else self._service.depth.waiting

    # --- what others tell it

    def news(self) -> None:
        """There is something new in the audit or the ledger. Never blocks."""
        if self._service is not None:
            self._service.new()

    def wake(self) -> None:
        """The configuration is another."""
        if self._service is not None:
            self._service.wake()

    def _links_changed(self) -> None:
        if self._service is not None:
            self._service.wake()

    # --- `ports.membership.MembershipControl`

    @property
    def joined(self) -> bool:
        """See the port."""
        return self.file.current is not None

    def view(self) -> MembershipView:
        """See the port."""
        from ambientd.flows.membership import view_membership

        return view_membership(self.file)

    async def join(self, request: JoinRequest, *, actor: str) -> MembershipView | Rejected:
        """See the port."""
        from ambientd.flows.membership import join

        return self._changed(await join(request, self._joining(), actor=actor))

    async def leave(self, *, actor: str) -> MembershipView | Rejected:
        """See the port."""
        from ambientd.flows.membership import leave

        if self.joined and self._service is not None:
            await self._service.end_alone()
        return self._changed(await leave(self._joining(), actor=actor))

    async def renew(self, *, actor: str) -> MembershipView | Rejected:
        """See the port."""
        from ambientd.flows.renewal import renew

        return self._changed(await renew(self._joining(), self._open_link, actor=actor))

    @asynccontextmanager
    async def _open_link(self, membership: Membership) -> AsyncIterator[DeviceLink]:
        link = self._link(membership)
        try:
            yield link
        finally:
            await link.aclose()

    def _changed(self, answer: MembershipView | Rejected) -> MembershipView | Rejected:
        if not isinstance(answer, Rejected):
            if self._connected is not None:
                self._connected.joined_or_left()
            if self._service is not None:
                self._service.wake()
            self._bell.ring()
            self._ground.changed()
        return answer

    async def outbox(self) -> OutboxView:
        """See the port."""
        service = self._service
        depth = None if service is None else await service.count()
        return OutboxView(
            joined=self.joined,
            streams=[] if depth is None else self._rows(),
            waiting=0 if depth is None else depth.waiting,
            bytes=0 if depth is None else depth.bytes,
            bytes_max=self._ground.config().control_plane.outbox,
            oldest_at=None
            if depth is None or depth.oldest_ms is None
            else rfc3339_ms(from_ms(depth.oldest_ms)),
        )

    def _rows(self, sent: Mapping[OutboxStream, int] | None = None) -> list[StreamRow]:
        service = self._service
        if service is None:
            return []
        return [
            StreamRow(
                stream=one.stream,
                waiting=one.waiting,
                acknowledged=one.acknowledged,
                dropped=one.dropped,
                refused=one.refused,
                sent=(sent or {}).get(one.stream, 0),
                problem=service.blocked.get(one.stream),
            )
            for one in service.depth.streams
        ]

    async def sync(self, *, dry_run: bool) -> ControlSyncView | Rejected:
        """See the port."""
        current, service = self.file.current, self._service
        if current is None:
            return _NO_CONTROL_PLANE
        if service is None or self._connected is None:
            return _STARTING
        if dry_run:
            await service.count()
            return self._synced(current, None)
        if order := self._connected.connectivity.order():
            return Rejected("LINKS_REFUSE", f"no call is made: {order}")
        result = await service.sync()
        return _NO_CONTROL_PLANE if result is None else self._synced(current, result)

    def _synced(self, current: Membership, result: RoundResult | None) -> ControlSyncView:
        items = [] if result is None else _items(result)
        return ControlSyncView(
            url=current.url,
            node_id=current.node_id,
            complete=result is not None and result.reason is None and not self._blocked(),
            refused=result is not None and self._service is not None and self._service.refused is not None,
            streams=self._rows(None if result is None else result.sent),
            items=items,
            started=0 if result is None else result.started,
            dry_run=result is None,
            reason=None if result is None else result.reason,
        )

    def _blocked(self) -> bool:
        return self._service is not None and bool(self._service.blocked)

    async def ask(self, target: str) -> ControlAnswer | Rejected:
        """See the port."""
        service, current = self._service, self.file.current
        if current is None:
            return _NO_CONTROL_PLANE
        if service is None or service.link is None or self._connected is None:
            return _STARTING
        if order := self._connected.connectivity.order():
            return Rejected("LINKS_REFUSE", f"no call is made: {order}")
        try:
            found = await service.link.ask(target)
        except IdentityError as error:
            return Rejected("IDENTITY_REFUSED", str(error))
        except UnavailableError as error:
            return Rejected("CONTROL_UNREACHABLE", f"{current.url}: {error}")
        return found if 200 <= found.status < 300 else self._refusal(current, found)

    def _refusal(self, membership: Membership, found: ControlAnswer) -> Rejected:
        """What the control plane's no is to whoever asked through this node."""
        from ambientd.core.controlreply import read_reply, words_of
        from ambientd.core.outbox import Meaning, meaning_of

        reply = read_reply(found.status, found.headers, found.body)
        if meaning_of(reply) is Meaning.GONE:
            text = f"{membership.url} refuses this node: {words_of(reply)}"
            return Rejected("NOT_AUTHENTICATED", f"{text}; join again: {self._join_again()}")
        if meaning_of(reply) is Meaning.UNKNOWN or (reply.code in ERRORS and reply.status < 500):
            return Rejected(reply.code if reply.code in ERRORS else "NOT_FOUND", reply.message)
        return Rejected("CONTROL_UNREACHABLE", f"{membership.url} {words_of(reply)}")

    # --- building

    def _need(self) -> Connected:
        if self._connected is None:
            raise AssertionError("the part is connected before anything of it runs")
        return self._connected

    def _joining(self) -> Joining:
        from ambientd.flows.membership import Joining

        ground, node = self._ground, self._need()
        return Joining(
            store=ground.store,
            clock=ground.clock,
            identity=node.identity,
            file=self.file,
            open_transport=self._transport,
            node_name=ground.node_name,
            network=lambda: ground.config().policy.network,
            allow_plain=lambda: ground.config().control_plane.allow_plain,
            interval=lambda: ground.config().control_plane.interval,
            timeout=lambda: ground.config().control_plane.timeout,
            offline=node.connectivity.order,
            capabilities=self._capabilities,
        )

    def _capabilities(self) -> CapabilitiesBody:
        from ambientd.wire.fleet_messages import CapabilitiesBody

        memory = self._load.memory_gb() or MEMORY_LEAST_GB
        return CapabilitiesBody(
            bandwidth_mbps=BANDWIDTH_MBPS,
            cpu_cores=os.cpu_count() or 1,
            memory_gb=round(max(MEMORY_LEAST_GB, memory), 2),
        )

    def _transport(self, address: ControlAddress) -> ControlTransport:
        from ambientd.net.control_plane_http import HttpControlTransport, TransportSettings, settings_of

        def settings() -> TransportSettings:
            return settings_of(self._ground.config().control_plane, address)

        return HttpControlTransport(settings, agent=AGENT)

    async def _run(self) -> None:
        """Nothing of the rest is loaded before the node joins."""
        if self.file.current is None:
            await self._forget()
        while self.file.current is None:
            await self._bell.wait()
        from ambientd.services.push import PushParts, PushService, PushSettings

        ground, node = self._ground, self._need()

        def settings() -> PushSettings:
            config = ground.config().control_plane
            return PushSettings(
                interval=config.interval, pull_interval=config.pull_interval, outbox=config.outbox
            )

        self._service = PushService(
            PushParts(
                store=ground.store,
                clock=ground.clock,
                file=self.file,
                links=node.connectivity.view,
                build_link=self._link,
                build_work=self._work,
                policies=node.policies,
                rosters=node.rosters,
                look_at_time=node.time,
                condition=self._condition,
                settings=settings,
                jitter=jitter,
                probe_soon=node.connectivity.view.wake,
                changed=ground.changed,
                log=ground.log,
            )
        )
        try:
            await self._service.run()
        finally:
            self._service = None

    async def _forget(self) -> None:
        """The membership was taken away while nobody looked. One that cannot be read is not gone: what waits
        for it stays."""
        if self.file.problem is not None:
            return
        store = self._ground.store
        if await store.read(lambda tx: tx.is_joined()):
            await store.write(lambda tx: tx.outbox.leave())

    def _link(self, membership: Membership) -> DeviceLink:
        from ambientd.services.push import DeviceLink

        address = parse_control_url(membership.url)
        if not isinstance(address, ControlAddress):
            raise UnavailableError(f"the membership's address {address}")
        return DeviceLink(
            membership,
            transport=self._transport(address),
            identity=self._need().identity,
            store=self._ground.store,
            timeout=lambda: self._ground.config().control_plane.timeout,
        )

    def _work(self, pushing: Pushing) -> Work:
        from ambientd.flows.assignments import Work

        node = self._need()
        return Work(
            pushing=pushing,
            controls=node.controls,
            leases=node.leases,
            wanted=lambda: self._ground.config().control_plane.tasks,
            picked_up=node.picked_up,
            look_at_time=node.time,
        )

    async def _condition(self) -> Condition:
        from ambientd.core.nodehealth import health_score
        from ambientd.core.pushbodies import Condition

        node = self._need()
        meters: Meters = await run_in_thread(self._load.look)
        view = node.connectivity.view
        answer = view.seen(self._ground.clock.now()).control_answer
        status = node.status()
        return Condition(
            state=view.state,
            health_score=health_score(status.problems, meters),
            meters=meters,
            latency_ms=None if answer is None else answer.latency_ms,
            delta_v=None if status.delta_v is None else status.delta_v.value,
        )


def _items(result: RoundResult) -> list[ItemsRow]:
    found: list[tuple[str, Pulled | None]] = [("policies", result.policies), ("leases", result.leases)]
    return [
        ItemsRow(kind=kind, seen=one.seen, taken=one.taken, refused=one.refused)
        for kind, one in found
        if one is not None
    ]
