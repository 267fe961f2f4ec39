"""What is shown of the peers: values of this moment become the wire's documents."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from ambientd.core.peerbook import PeerBook
from ambientd.core.timefmt import rfc3339_ms
from ambientd.wire.peer_messages import PeerView

_LABEL = re.compile(r"[^A-Za-z0-9._-]+")
_LABEL_MAX = 64
LINKED, AWAY, STRANGER = "linked", "away", "stranger"


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one key; `key` is its text form."""

    key: str
    state: str
    name: str = ""
    address: str = ""
    since: datetime | None = None
    seen_at: datetime | None = None
    synced_at: datetime | None = None
    agrees: bool | None = None
    policies: int | None = None
    clock_offset_ms: int | None = None
    refused: Mapping[str, int] = {}
    reason: str = ""


def label_of(name: str) -> str:
    """A node's name as peers may read it: some of ASCII, never empty."""
    return _LABEL.sub("-", name).strip("-")[:_LABEL_MAX] or "node"


def peer_view(peer: Peer, book: PeerBook) -> PeerView:
    """One line of the list."""
    return PeerView(
        key=peer.key,
        state=peer.state,
        trusted=book.source(peer.key),
        called=book.called(peer.key),
        name=peer.name,
        address=peer.address,
        since=_at(peer.since),
        seen_at=_at(peer.seen_at),
        synced_at=_at(peer.synced_at),
        agrees=peer.agrees,
        policies=peer.policies,
        clock_offset_ms=peer.clock_offset_ms,
        refused=dict(peer.refused),
        reason=peer.reason or None,
    )


def in_order(peers: Iterable[Peer], book: PeerBook) -> list[Peer]:
    """Linked ones first, strangers last; by name within each, then by key."""
    rank = {LINKED: 0, AWAY: 1, STRANGER: 2}
    return sorted(
        peers,
        key=lambda peer: (rank.get(peer.state, 3), book.called(peer.key) or peer.name, peer.key),
    )


def _at(at: datetime | None) -> str | None:
    return None if at is None else rfc3339_ms(at)
