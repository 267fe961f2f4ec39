"""Whom the operator trusts among the peers: each change durable together with its audit record."""

from typing import Protocol

import msgspec

from ambientd.core.peerbook import CONFIGURATION, PeerBook, TrustedPeer, check_trust, find_trusted
from ambientd.core.records import AuditEntry
from ambientd.core.rejection import Rejected, reject
from ambientd.ports.clock import Clock
from ambientd.ports.store import Store, Transaction
from ambientd.wire.peer_messages import TrustAnswer, TrustRequest


class Trusting(Protocol):
    """Who acts on a change of trust. `own_key` is this node's own, in its text form."""

    @property
    def book(self) -> PeerBook: ...
    @property
    def own_key(self) -> str | None: ...
    def trust_changed(self, book: PeerBook) -> None:
        """Takes effect at once: links end or may begin."""


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """What the flows need."""

    store: Store
    clock: Clock
    peers: Trusting


async def trust(request: TrustRequest, parts: Trust, *, actor: str) -> TrustAnswer | Rejected:
    """Trusts a key from now on; raises what `Store.write` raises, with nothing changed."""
    peers = parts.peers
    refused = check_trust(peers.book, request.key, request.name, own=peers.own_key)
    if refused is not None:
        return refused
    known = peers.book.named.get(request.key)
    changed = known is None or (request.name != "" and known.name != request.name)
    peer = TrustedPeer(
        key=request.key,
        name=request.name or ("" if known is None else known.name),
        added_at=parts.clock.now() if known is None else known.added_at,
        added_by=actor if known is None else known.added_by,
    )
    entry = _entry(parts, "control.peers.trust", actor, peer.key, {"name": peer.name, "changed": changed})

    def work(tx: Transaction) -> tuple[int, list[TrustedPeer], list[str]]:
        tx.peers.trust(peer)
        return tx.audit.append(entry), tx.peers.trusted(), tx.peers.distrusted()

    audit_id, named, refused_keys = await parts.store.write(work)
    peers.trust_changed(peers.book.with_named(named, refused_keys))
    return TrustAnswer(ok=True, key=peer.key, name=peer.name, changed=changed, audit_id=audit_id)


async def untrust(fragment: str, parts: Trust, *, actor: str) -> TrustAnswer | Rejected:
    """Trusts a key no longer, whatever a roster says; what it brought stays.

    Raises what `Store.write` raises, nothing changed.
    """
    peers = parts.peers
    key = find_trusted(peers.book, fragment)
    if isinstance(key, Rejected):
        return key
    if peers.book.source(key) == CONFIGURATION:
        return reject(
            "PEER_CONFIGURED",
            "the key stands in peers.trust; take it out of the configuration and restart",
            ("key", "configured", key),
        )
    name = peers.book.called(key)
    entry = _entry(parts, "control.peers.untrust", actor, key, {"name": name})

    def work(tx: Transaction) -> tuple[int, list[TrustedPeer], list[str]]:
        tx.peers.untrust(key)
        tx.peers.distrust(key, at=entry.at, by=actor)
        return tx.audit.append(entry), tx.peers.trusted(), tx.peers.distrusted()

    audit_id, named, refused_keys = await parts.store.write(work)
    peers.trust_changed(peers.book.with_named(named, refused_keys))
    return TrustAnswer(ok=True, key=key, name=name, changed=True, audit_id=audit_id)


def _entry(parts: Trust, kind: str, actor: str, key: str, detail: dict[str, object]) -> AuditEntry:
    return AuditEntry(kind=kind, at=parts.clock.now(), actor=actor, subject=key, detail=detail)
