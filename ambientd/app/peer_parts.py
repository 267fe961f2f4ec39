"""The peers on the LAN, put together. What only they need is loaded where they are wanted."""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import msgspec
import trio

from ambientd.api.peers import peer_routes
from ambientd.api.router import Route
from ambientd.config.peers import PeerAddress, parse_peer
from ambientd.core.ed25519 import parse_key, show_key
from ambientd.core.peerbook import PeerBook
from ambientd.core.peerviews import AWAY, Peer, in_order, label_of, peer_view
from ambientd.core.rejection import Rejected, reject
from ambientd.flows.peers import Trust
from ambientd.flows.status import AutonomyStatus
from ambientd.host.jitter import jitter
from ambientd.host.links import own_ipv4
from ambientd.ports.autonomy import ConnectivityView, NodeIdentity, PolicyItems, TrustedClock
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.ports.membership import ControlSync
from ambientd.services.bell import Bell
from ambientd.wire.autonomy_messages import PeersStatus
from ambientd.wire.messages import Problem
from ambientd.wire.outbox_messages import ControlSyncView
from ambientd.wire.peer_messages import PeersView, SyncRequest, SyncView

if TYPE_CHECKING:
    from ambientd.app.autonomy import Ground, Run
    from ambientd.net.discovery import Announcement
    from ambientd.services.peers import PeersService
    from ambientd.services.peers.desk import PeerDesk

# While the node's key cannot be used, or the store: an operator has to act, and then it goes on by itself.
LOOK_AGAIN_SEC = 5.0
# How long a link may be quiet beyond the interval and its jitter, before the kernel asks whether it lives.
QUIET_MORE_SEC = 15.0
NOT_WANTED = "none of peers.listen, peers.static and peers.discovery is set"


class Key(NodeIdentity, Protocol):
    """The node's key, and whether it may be used."""

    @property
    def problem(self) -> str | None:
        """Why it may not; None when it may."""


class PeersPart:
    """Implements `app.autonomy.Part`, `ports.peers.PeerControl` and `flows.peers.Trusting`."""

    def __init__(
        self,
        ground: "Ground",
        *,
        key: Key,
        links: ConnectivityView,
        items: PolicyItems,
        load_items: Callable[[], Awaitable[None]],
        time: TrustedClock,
        issuers: Callable[[], frozenset[bytes]],
        control: ControlSync | None = None,
    ) -> None:
        """`load_items` reads the policy cache, raising as `Store.read` does; `issuers` are keys that issue
        policies or leases, and are no peers for that. `control` makes a round with the control plane."""
        self._ground = ground
        self._key = key
        self._links = links
        self._items = items
        self._load_items = load_items
        self._time = time
        self._issuers = issuers
        self._control = control
        self._config = ground.config().peers
        self._book = PeerBook(self._config.trust)
        self._service: PeersService | None = None
        self._desk: PeerDesk | None = None
        self._discovery = "on" if self._config.discovery else "off"
        self._problem: str | None = None if self._is_wanted else NOT_WANTED
        self._bell = Bell()

    @property
    def _is_wanted(self) -> bool:
        config = self._config
        return bool(config.listen or config.static or config.discovery)

    # --- `app.autonomy.Part`

    @property
    def services(self) -> "Mapping[str, Run]":
        """Nothing runs without the store."""
        return {}

    @property
    def store_services(self) -> "Mapping[str, Run]":
        """The links, and what finds other nodes; where no peers are wanted, whom the operator trusts."""
        if not self._is_wanted:
            return {"peers": self._read_book}
        found: dict[str, Run] = {"peers": self._run}
        if self._config.discovery:
            found["peer discovery"] = self._discover
        return found

    def routes(self) -> Sequence[Route]:
        """See `api.peers`."""
        ground = self._ground
        return peer_routes(self, Trust(store=ground.store, clock=ground.clock, peers=self), ground.audited)

    def status(self, now: datetime) -> AutonomyStatus:
        """Nothing where no peers are wanted."""
        if not self._is_wanted:
            return AutonomyStatus()
        status = PeersStatus(enabled=True, trusted=len(self.book.keys), reason=self._problem)
        if self._desk is not None:
            status = self._desk.status()
        problems: tuple[Problem, ...] = ()
        if status.reason is not None and self.book.keys and (self._config.listen or self._problem):
            text = f"peers: {status.reason}"
            problems = (Problem(id="peers.off", severity="warning", text=text, help="ambientctl peers"),)
        return AutonomyStatus(peers=status, problems=problems)

    def agreement(self) -> tuple[int, int]:
        """How many peers are linked, and how many of them hold the same policies."""
        return (0, 0) if self._desk is None else self._desk.agreement()

    # --- what others tell it

    def items_changed(self) -> None:
        """The policy cache holds something else."""
        if self._service is not None:
            self._service.items_changed()

    def key_changed(self) -> None:
        """The node's key is another one, or may be used again."""
        if self._service is not None:
            self._service.key_changed()

    def links_changed(self) -> None:
        """The state of the node's links is another."""
        if self._service is not None:
            self._service.links_changed()

    # --- `flows.peers.Trusting`

    @property
    def book(self) -> PeerBook:
        """Whom this node trusts."""
        return self._book if self._service is None else self._service.book

    @property
    def own_key(self) -> str | None:
        """This node's key; None while it may not be used."""
        return None if self._key.problem is not None else show_key(self._key.public_key)

    def trust_changed(self, book: PeerBook) -> None:
        """See the port."""
        self._book = book
        if self._service is not None:
            self._service.trust_changed(book)
        self._ground.changed()

    # --- `ports.peers.PeerControl`

    def view(self) -> PeersView:
        """See the port."""
        if self._desk is not None:
            return self._desk.view()
        book = self._book
        peers = in_order((Peer(key=show_key(key), state=AWAY) for key in book.keys), book)
        return PeersView(
            enabled=False,
            network=self._ground.config().policy.network,
            key=self.own_key,
            discovery=self._discovery,
            reason=self._problem or "they are about to start",
            peers=[peer_view(peer, book) for peer in peers],
        )

    async def sync(self, request: SyncRequest, *, actor: str) -> SyncView | Rejected:
        """See the port."""
        joined = self._control is not None and self._control.joined
        everything = not (request.peers or request.control_plane)
        told: ControlSyncView | None = None
        if request.control_plane or (everything and joined):
            if self._control is None or not joined:
                return reject(
                    "NO_CONTROL_PLANE", "this node belongs to no control plane: ambientctl join URL"
                )
            answer = await self._control.sync(dry_run=request.dry_run)
            if isinstance(answer, Rejected):
                return answer
            told = answer
        if told is not None and not request.peers and (self._desk is None or not everything):
            return SyncView(
                dry_run=request.dry_run, receive_only=False, added=0, kept=0, refused=0, control=told
            )
        if self._desk is None:
            return reject(
                "PEERS_OFF", f"this node has no peers: {self._problem or 'they are about to start'}"
            )
        peers = msgspec.structs.replace(request, peers=True, control_plane=False)
        found = await self._desk.sync(peers, actor=actor)
        return found if isinstance(found, Rejected) else msgspec.structs.replace(found, control=told)

    # --- its life

    async def _read_book(self) -> None:
        """Where no peers are wanted the operator may still say whom to trust once there are."""
        try:
            named, refused = await self._ground.store.read(
                lambda tx: (tx.peers.trusted(), tx.peers.distrusted())
            )
        except (StoreError, UnavailableError) as error:
            self._ground.log.warning("peers.trust_unread", reason=str(error))
            return
        self._book = self._book.with_named(named, refused)

    async def _run(self) -> None:
        while (problem := self._key.problem) is not None:
            if self._problem != problem:
                self._problem = problem
                self._ground.changed()
            await trio.sleep(LOOK_AGAIN_SEC)
        self._problem = None
        await self._load_items()
        from ambientd.services.peers.desk import PeerDesk

        service = self._build()
        self._service = service
        self._desk = PeerDesk(service, discovery=lambda: self._discovery)
        self._bell.ring()
        try:
            await service.run()
        finally:
            self._book = service.book
            self._service, self._desk = None, None

    def _build(self) -> "PeersService":
        from ambientd.app.httplog import HttpLogLines
        from ambientd.net.peer_ws import PeerSockets, message_limit
        from ambientd.services.peers import PeersService, PeersSettings

        ground, config = self._ground, self._config
        policy = ground.config().policy
        issuers = (parse_key(text) for text in (*policy.issuers, *policy.lease_issuers))
        sockets = PeerSockets(
            listen=_listen(config.listen),
            max_message=message_limit(config.max_message),
            quiet_sec=config.interval * 1.2 + QUIET_MORE_SEC,
            log=HttpLogLines(ground.log),
        )
        return PeersService(
            PeersSettings(
                network=policy.network,
                label=label_of(ground.node_name),
                static=tuple(place for text in config.static if (place := parse_peer(text)) is not None),
                listens=config.listen is not None,
                interval=config.interval,
                max_links=config.max_links,
                max_message=config.max_message,
                max_age=config.max_age,
                send_without_upstream=config.send_without_upstream,
                other_roles=frozenset(key for key in issuers if key is not None) | self._issuers(),
            ),
            store=ground.store,
            items=self._items,
            identity=self._key,
            links=self._links,
            time=self._time,
            clock=ground.clock,
            dialer=sockets,
            listener=sockets,
            book=self._book,
            random_bytes=os.urandom,
            jitter=jitter,
            changed=ground.changed,
            log=ground.log,
        )

    # --- discovery

    async def _discover(self) -> None:
        from ambientd.net.discovery import DnsSd

        ears = DnsSd(own_ipv4)
        while True:
            try:
                await ears.run(self._announcement, self._noticed, self._flooded)
            except UnavailableError as error:
                self._discovery = str(error)
                self._ground.log.warning("peers.no_discovery", reason=str(error))
                self._ground.changed()
                if ears.is_missing:
                    return
                await trio.sleep(ears.pause)

    def _announcement(self) -> "Announcement | None":
        """Where this node listens; nothing while it does not. Called from another thread."""
        from ambientd.core.peerdials import hint_of
        from ambientd.net.discovery import Announcement

        service = self._service
        bound = None if service is None else service.bound
        if bound is None or service is None:
            return None
        hint = hint_of(self._key.public_key)
        return Announcement(name=f"ambient-{hint}", port=bound.port, hint=hint)

    def _noticed(self, address: PeerAddress, hint: str) -> None:
        self._discovery = "on"
        if self._service is not None:
            self._service.noticed(address, hint)

    def _flooded(self, seconds: float) -> None:
        self._discovery = f"paused: the LAN says too much, nothing is heard for {seconds:g} s"
        self._ground.log.warning("peers.discovery_paused", retry_in_sec=seconds)
        self._ground.changed()


def _listen(text: str | None) -> PeerAddress | None:
    from ambientd.config.http import parse_listen

    found = parse_listen(text) if text is not None else None
    return None if found is None else PeerAddress(found.host, found.port)
