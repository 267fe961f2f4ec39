"""Rosters: the nodes of each owner are told, signed, which of them belong together, whenever that changes."""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from ambientd.core.fleet.pushed import FleetItem
from ambientd.core.records import AuditEntry
from ambientd.core.roster import (
    Member,
    Roster,
    is_due,
    members_of,
    next_roster,
    read_roster,
    sign_roster,
    that_fit,
)
from ambientd.core.timefmt import from_ms, to_ms
from ambientd.ports.fleet.store import FleetStore, FleetTransaction
from ambientd.wire.fleet_enums import ItemKind


class RosterDesk(msgspec.Struct, frozen=True, kw_only=True):
    """Who signs rosters, and of which fleet."""

    seed: bytes
    public: bytes
    network: str


class RosterMade(msgspec.Struct, frozen=True, kw_only=True):
    """A roster that was made. `left_out`: so many nodes do not fit into one, and none is named."""

    owner_id: str
    nodes: int
    left_out: int = 0


async def sweep_rosters(store: FleetStore, now: datetime, desk: RosterDesk) -> list[RosterMade]:
    """Makes a roster for each owner whose nodes or keys are others than the last one says, or whose last one
    is half over; which."""
    if not await store.read(lambda tx: _due(tx, now, desk)):
        return []

    def step(tx: FleetTransaction) -> list[RosterMade]:
        if not tx.try_sweep_lock("rosters"):
            return []
        return [_make(tx, owner, members, now, desk) for owner, members in _due(tx, now, desk).items()]

    return await store.write(step)


def _last(tx: FleetTransaction) -> dict[str, Roster]:
    """The newest roster of each owner."""
    found = {item.subject: read_roster(item.item.body) for item in tx.items.of_kind(ItemKind.ROSTER)}
    return {owner: roster for owner, roster in found.items() if roster is not None}


def _due(tx: FleetTransaction, now: datetime, desk: RosterDesk) -> Mapping[str, tuple[Member, ...]]:
    last, now_ms = _last(tx), to_ms(now)
    rows: dict[str, list[tuple[str, bytes]]] = {owner: [] for owner in last}
    for owner, node_id, key in tx.devices.keys_of_owners():
        rows.setdefault(owner, []).append((node_id, key))
    wanted = {owner: members_of(found) for owner, found in rows.items()}
    return {
        owner: members
        for owner, members in wanted.items()
        if is_due(last.get(owner), that_fit(members, network=desk.network, owner=owner), now_ms)
    }


def _make(
    tx: FleetTransaction, owner: str, members: tuple[Member, ...], now: datetime, desk: RosterDesk
) -> RosterMade:
    named = that_fit(members, network=desk.network, owner=owner)
    last = _last(tx).get(owner)
    roster = next_roster(last, named, to_ms(now), network=desk.network, owner=owner)
    signed = sign_roster(desk.seed, desk.public, roster)
    item = FleetItem(
        kind=ItemKind.ROSTER,
        subject=owner,
        item=signed,
        created_at=now,
        expires_at=from_ms(roster.not_after),
        owner_id=owner,
    )
    tx.items.keep_newest(item.kind, owner, tx.items.add(item))
    made = RosterMade(owner_id=owner, nodes=len(named), left_out=len(members) - len(named))
    detail = {"revision": roster.revision, "nodes": made.nodes, "left_out": made.left_out}
    tx.audit.append(
        AuditEntry(kind="roster_issued", at=now, actor="control-plane", subject=owner, detail=detail)
    )
    return made
