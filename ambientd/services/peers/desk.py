"""What operators see of the peers, and the round that they may ask for."""

from collections.abc import Awaitable, Callable

from ambientd.core.ed25519 import show_key
from ambientd.core.peerbook import PeerSeen
from ambientd.core.peers.effects import Outcome
from ambientd.core.peerviews import AWAY, LINKED, STRANGER, Peer, in_order, peer_view
from ambientd.core.rejection import Rejected, reject
from ambientd.core.timefmt import rfc3339_ms
from ambientd.services.peers.link import Link
from ambientd.services.peers.service import PeersService, Round
from ambientd.wire.autonomy_messages import PeersStatus
from ambientd.wire.peer_messages import PeersView, SyncedPeer, SyncRefusal, SyncRequest, SyncView

# Within what `ambientctl` waits for.
ROUND_SEC = 25.0
# Of refused items; the audit counts all of them.
REFUSALS_SHOWN = 100
_NOT_NOW = "it does not pass on policies at the moment (no upstream), or has sent much already"
_WHY = {
    Outcome.NOT_NOW: _NOT_NOW,
    Outcome.FAILED: "a snapshot of it was refused",
    Outcome.LOST: "the link ended",
}


class PeerDesk:
    """Implements `ports.peers.PeerControl`."""

    def __init__(
        self,
        service: PeersService,
        *,
        discovery: Callable[[], str],
        control: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        """`discovery` says how it is in a word or a sentence; `control` makes a round with the control plane
        and says what it brought."""
        self._service = service
        self._discovery = discovery
        self._control = control

    # --- showing

    def view(self) -> PeersView:
        """See `PeerControl`."""
        service = self._service
        bound = service.bound
        reason = service.listen_problem
        if bound is None and reason is None and not service.settings.listens:
            reason = "peers.listen is not set"
        return PeersView(
            enabled=True,
            network=service.settings.network,
            key=service.own_key,
            listening=None if bound is None else str(bound),
            discovery=self._discovery(),
            receive_only=not service.may_send,
            reason=reason,
            peers=[peer_view(peer, service.book) for peer in in_order(self._peers(), service.book)],
        )

    def _peers(self) -> list[Peer]:
        service = self._service
        linked = {key: self._linked(link) for key, link in service.open.items()}
        away = [self._away(key) for key in service.book.keys - linked.keys()]
        strangers = [
            Peer(
                key=show_key(one.key),
                state=STRANGER,
                address=str(one.address),
                seen_at=one.at,
                refused=service.records.refusals.of(one.address.host),
                reason="not trusted",
            )
            for one in service.strangers.values()
        ]
        return [*linked.values(), *away, *strangers]

    def _linked(self, link: Link) -> Peer:
        service, key = self._service, show_key(link.peer)
        seen = service.seen.get(key)
        return Peer(
            key=key,
            state=LINKED,
            name=link.machine.label,
            address=link.shown,
            since=None if link.opened_at is None else service.at(link.opened_at),
            seen_at=service.at(link.heard),
            synced_at=service.synced_at(link, seen),
            agrees=link.machine.agrees,
            policies=link.machine.peer_count,
            clock_offset_ms=service.offsets.get(link.peer),
            refused=service.records.refusals.of(key),
        )

    def _away(self, key: bytes) -> Peer:
        service, text = self._service, show_key(key)
        seen = service.seen.get(text, PeerSeen(key=text))
        reasons = {} if service.dials is None else service.dials.reasons()
        found = [
            f"{address}: {reason}"
            for address, reason in reasons.items()
            if service.dials is not None and service.dials.key_at(address) == key
        ]
        return Peer(
            key=text,
            state=AWAY,
            name=seen.name,
            address=seen.address,
            seen_at=seen.seen_at,
            synced_at=seen.synced_at,
            clock_offset_ms=service.offsets.get(key),
            refused=service.records.refusals.of(text),
            reason=", ".join(found) or "not linked",
        )

    def status(self) -> PeersStatus:
        """What the node's status says of them."""
        service = self._service
        return PeersStatus(
            enabled=True,
            trusted=len(service.book.keys),
            linked=len(service.open),
            address=None if service.bound is None else str(service.bound),
            reason=service.listen_problem,
            refused=service.records.refusals.total,
        )

    def agreement(self) -> tuple[int, int]:
        """How many peers are linked, and how many of them hold the same policies."""
        links = self._service.open.values()
        return len(links), sum(link.machine.agrees is True for link in links)

    # --- a round

    async def sync(self, request: SyncRequest, *, actor: str) -> SyncView | Rejected:
        """See `PeerControl`."""
        everything = not (request.peers or request.control_plane)
        if request.control_plane and self._control is None:
            return reject("NO_CONTROL_PLANE", "this node belongs to no control plane: ambientctl join URL")
        await self._service.records.ordered(actor, dry_run=request.dry_run)
        control: str | None = None
        if self._control is not None and (request.control_plane or everything):
            control = "not asked in a dry run" if request.dry_run else await self._control()
        peers: list[SyncedPeer] = []
        if request.peers or everything:
            rounds = await self._service.compare(dry_run=request.dry_run, seconds=ROUND_SEC)
            peers = self._synced(rounds)
        return SyncView(
            dry_run=request.dry_run,
            receive_only=not self._service.may_send,
            added=sum(peer.added for peer in peers),
            kept=sum(peer.kept for peer in peers),
            refused=sum(len(peer.refused) for peer in peers),
            peers=peers,
            control_plane=control,
        )

    def _synced(self, rounds: list[Round]) -> list[SyncedPeer]:
        service = self._service
        done = {one.link.peer: self._of_round(one) for one in rounds}
        away = [self._of_absent(key) for key in service.book.keys - done.keys()]
        return sorted([*done.values(), *away], key=lambda peer: (peer.called or peer.name, peer.key))

    def _of_round(self, one: Round) -> SyncedPeer:
        link, ended = one.link, one.ended
        key = show_key(link.peer)
        heard = self._service.at(link.heard)
        refused = [SyncRefusal(code, item) for item, code in one.refused[:REFUSALS_SHOWN]]
        refused += [SyncRefusal(code) for code in one.messages]
        return SyncedPeer(
            key=key,
            name=link.machine.label,
            called=self._service.book.called(key),
            policies=link.machine.peer_count,
            seen_at=rfc3339_ms(heard),
            added=0 if ended is None else ended.added,
            kept=_kept(one),
            refused=refused,
            agrees=link.machine.agrees,
            error="no answer within the time allowed" if ended is None else _WHY.get(ended.outcome),
        )

    def _of_absent(self, key: bytes) -> SyncedPeer:
        away = self._away(key)
        return SyncedPeer(
            key=away.key,
            name=away.name,
            called=self._service.book.called(away.key),
            seen_at=None if away.seen_at is None else rfc3339_ms(away.seen_at),
            error=f"not linked: {away.reason}" if away.reason != "not linked" else away.reason,
        )


def _kept(one: Round) -> int:
    """What the peer has and this node had already, or stands behind an entry of this node."""
    ended = one.ended
    if ended is None or ended.outcome not in (Outcome.EQUAL, Outcome.DONE):
        return 0
    return max(0, one.link.machine.peer_count - ended.added - ended.refused - ended.missing)
