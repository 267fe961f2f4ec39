"""Signed items: handed in by whoever signed them, or signed here, and fetched by the nodes they are for."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from ambientd.core.fleet.items import Believed, Refused, read_item
from ambientd.core.fleet.pushed import FleetItem
from ambientd.core.policy import Content, Malformed, build_item, parse_body
from ambientd.core.policydraft import parse_draft
from ambientd.core.records import AuditEntry
from ambientd.core.signeditem import SignedItem
from ambientd.core.timefmt import to_ms
from ambientd.flows.fleet.reach import NO_NODE, Reach, find
from ambientd.ports.clock import Clock
from ambientd.ports.errors import Rejected
from ambientd.ports.fleet.store import FleetStore, FleetTransaction
from ambientd.wire.fleet_enums import ItemKind
from ambientd.wire.messages import ErrorDetail

_LEASES = frozenset({ItemKind.LEASE, ItemKind.REVOCATION})


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """For whose nodes items are: all (no owner), an owner's, or one node."""

    owner_id: str | None
    node: Reach | None
    by: str


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Items in the order of their revisions, and where to go on."""

    items: tuple[FleetItem, ...]
    revision: int
    more: bool


class Items:
    """The use cases of signed items."""

    def __init__(
        self, *, store: FleetStore, clock: Clock, believed: Believed, seed: bytes | None, public: bytes
    ) -> None:
        """`seed` signs policies here; None where others do."""
        self._store = store
        self._clock = clock
        self._believed = believed
        self._seed = seed
        self._public = public

    async def add(self, scope: Scope, items: Sequence[SignedItem]) -> list[FleetItem] | Rejected:
        """Takes signed items in, all or none; those that are here already keep their revision."""
        at = self._clock.now()
        problems: list[ErrorDetail] = []
        found: list[FleetItem] = []
        for place, item in enumerate(items):
            read = read_item(item, self._believed, at)
            if isinstance(read, Refused):
                problems += [
                    msgspec.structs.replace(detail, field=f"items[{place}].{detail.field}")
                    for detail in read.details
                ]
            elif read.kind in _LEASES and scope.node is None:
                text = "a lease is for one node"
                problems.append(ErrorDetail("node_id", "required", f"is required: {text}"))
            else:
                found.append(read)
        if problems:
            return Rejected("VALIDATION_ERROR", "the items are not valid", tuple(problems[:100]))
        return await self._put(scope, found, at)

    async def issue(self, scope: Scope, draft: Mapping[str, Any]) -> list[FleetItem] | Rejected:
        """Signs policies and tombstones with the control plane's own key."""
        if self._seed is None:
            return Rejected("CONFLICT", "this control plane has no issuer key; hand in signed items instead")
        at = self._clock.now()
        read = parse_draft({**draft, "network": self._believed.network}, to_ms(at))
        if read.problems:
            details = tuple(ErrorDetail("draft", "invalid", text) for text in read.problems[:100])
            return Rejected("VALIDATION_ERROR", "the draft is not valid", details)
        contents = [entry.content for entry in read.entries]
        signed = [build_item(self._seed, self._public, content) for content in contents]
        items = [read_item(item, self._believed, at) for item in signed]
        good = [item for item in items if isinstance(item, FleetItem)]
        if len(good) != len(items):
            bad = [detail for item in items if isinstance(item, Refused) for detail in item.details]
            return Rejected("VALIDATION_ERROR", "the draft is not valid", tuple(bad[:100]))
        return await self._put(scope, good, at, contents)

    async def _put(
        self, scope: Scope, items: Sequence[FleetItem], at: datetime, fresh: Sequence[Content] = ()
    ) -> list[FleetItem] | Rejected:
        def work(tx: FleetTransaction) -> list[FleetItem] | Rejected:
            owner_id, node_id = scope.owner_id, None
            if scope.node is not None:
                node = find(tx, scope.node)
                if node is None:
                    return NO_NODE
                node_id = node.node_id
            stale = [detail for content in fresh if (detail := _stale(tx, content)) is not None]
            if stale:
                return Rejected("CONFLICT", "a higher revision is known", tuple(stale))
            done = []
            for item in items:
                narrowed = msgspec.structs.replace(item, owner_id=owner_id, node_id=node_id)
                done.append(msgspec.structs.replace(narrowed, revision=tx.items.add(narrowed)))
            tx.audit.append(
                AuditEntry(
                    kind="items_added",
                    at=at,
                    actor=scope.by,
                    subject=node_id or owner_id or "fleet",
                    detail={"items": [f"{item.kind.value} {item.subject}" for item in done[:50]]},
                )
            )
            return done

        return await self._store.write(work)

    async def since(
        self, reach: Reach, revision: int, kinds: Sequence[ItemKind], limit: int
    ) -> Page | Rejected:
        """Items that are meant for a node. A revision from the future (this database was put back) begins
        anew: what a node has already it takes for known."""

        def work(tx: FleetTransaction) -> Page | Rejected:
            node = find(tx, reach)
            if node is None:
                return NO_NODE
            highest = tx.items.revision()
            after = revision if revision <= highest else 0
            items = tx.items.since(
                after, owner_id=node.owner_id, node_id=node.node_id, kinds=kinds, limit=limit
            )
            more = len(items) == limit
            return Page(items=tuple(items), revision=items[-1].revision if more else highest, more=more)

        return await self._store.read(work)


def _stale(tx: FleetTransaction, content: Content) -> ErrorDetail | None:
    """Whether nodes would not take it, since they know a newer one."""
    for kind in (ItemKind.POLICY, ItemKind.TOMBSTONE):
        known = tx.items.latest(kind, content.id)
        before = None if known is None else parse_body(known.item.body)
        if before is None or isinstance(before, Malformed) or before == content:
            continue
        if before.revision >= content.revision:
            text = f"revision {before.revision} of {content.id} is known"
            return ErrorDetail("revision", "conflict", text, f"> {before.revision}")
    return None
