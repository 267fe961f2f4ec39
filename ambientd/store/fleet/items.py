"""Signed items that come down, in the order of their revisions."""

import hashlib
from collections.abc import Sequence
from datetime import datetime

from ambientd.core.canonical import framed
from ambientd.core.fleet.era import first_of_next
from ambientd.core.fleet.pushed import FleetItem
from ambientd.core.signeditem import SignedItem
from ambientd.core.timefmt import from_ms
from ambientd.store.fleet.sql import Row, Sql, at, is_in, marks, ms, one
from ambientd.wire.fleet_enums import ItemKind

_COLUMNS = "revision, kind, subject, owner_id, node_id, body, issuer, signature, created_at, expires_at"
_ADD = f"INSERT INTO fleet_items ({_COLUMNS}, item_id) VALUES ({marks(_COLUMNS)}, ?)"
_KNOWN = "SELECT revision FROM fleet_items WHERE item_id = ?"
# The counter's row is locked until the commit, so that a revision is seen only after all lower ones.
_COUNTER = "SELECT value FROM fleet_counters WHERE name = 'item_revision'"
_COUNT = "UPDATE fleet_counters SET value = ? WHERE name = 'item_revision'"
_SELECT = f"SELECT {_COLUMNS} FROM fleet_items"
_REMOVE = (
    "DELETE FROM fleet_items WHERE revision IN"
    " (SELECT revision FROM fleet_items WHERE expires_at < ? ORDER BY expires_at LIMIT ?)"
)


class Items:
    """`ports.fleet.pushed.ItemRepository`."""

    def __init__(self, sql: Sql) -> None:
        """Good for as long as the transaction."""
        self._sql = sql

    def add(self, item: FleetItem) -> int:
        """Adds an item and returns its revision, which is higher than all before and seen in that order.

        The same signed item for the same nodes again, or for nodes of all whom it is for already, changes
        nothing and returns the revision it has.
        """
        ((last,),) = self._sql.locked(_COUNTER)
        item_id = _id_of(item)
        for held in (item.item.item_id, item_id):
            known = one(self._sql.rows(_KNOWN, (held,)))
            if known is not None:
                return int(known[0])
        revision = int(last) + 1
        self._sql.run(_COUNT, (revision,))
        row = (
            revision,
            item.kind,
            item.subject,
            item.owner_id,
            item.node_id,
            item.item.body,
            item.item.issuer,
            item.item.signature,
            ms(item.created_at),
            ms(item.expires_at),
            item_id,
        )
        self._sql.run(_ADD, row)
        return revision

    def since(
        self,
        revision: int,
        *,
        owner_id: str,
        node_id: str,
        kinds: Sequence[ItemKind] | None = None,
        limit: int = 200,
    ) -> list[FleetItem]:
        """Items of higher revisions that are meant for a node, in order."""
        if kinds is not None and not kinds:
            return []
        wanted = "" if kinds is None else f" AND kind {is_in(kinds)}"
        sql = (
            f"{_SELECT} WHERE revision > ? AND (owner_id IS NULL OR owner_id = ?)"
            f" AND (node_id IS NULL OR node_id = ?){wanted} ORDER BY revision LIMIT ?"
        )
        params = (revision, owner_id, node_id, *(kinds or ()), limit)
        return [_item(row) for row in self._sql.rows(sql, params)]

    def latest(self, kind: ItemKind, subject: str) -> FleetItem | None:
        """The newest item of a kind about a subject."""
        sql = f"{_SELECT} WHERE kind = ? AND subject = ? ORDER BY revision DESC LIMIT 1"
        row = one(self._sql.rows(sql, (kind, subject)))
        return None if row is None else _item(row)

    def revision(self) -> int:
        """The highest revision, 0 when there is none."""
        ((value,),) = self._sql.rows(_COUNTER)
        return int(value)

    def of_kind(self, kind: ItemKind) -> list[FleetItem]:
        """All items of a kind, in order."""
        return [_item(row) for row in self._sql.rows(f"{_SELECT} WHERE kind = ? ORDER BY revision", (kind,))]

    def keep_newest(self, kind: ItemKind, subject: str, revision: int) -> int:
        """Removes what items of a kind said of a subject before this one; how many went."""
        sql = "DELETE FROM fleet_items WHERE kind = ? AND subject = ? AND revision < ?"
        return self._sql.run(sql, (kind, subject, revision))

    def begin_era(self) -> int:
        """An older copy was put in place: later items have revisions that nobody was given. The counter."""
        ((last,),) = self._sql.locked(_COUNTER)
        first = first_of_next(int(last))
        self._sql.run(_COUNT, (first,))
        return first

    def remove_expired(self, before: datetime, limit: int) -> int:
        """Removes items that expired before an instant; how many went."""
        return self._sql.run(_REMOVE, (ms(before), limit))


def _id_of(item: FleetItem) -> bytes:
    """An item for some nodes is another one than for others, who would not get it if it came first there."""
    if item.owner_id is None and item.node_id is None:
        return item.item.item_id
    scope = ((item.owner_id or "").encode(), (item.node_id or "").encode())
    return hashlib.sha3_256(framed(b"ambient-item-scope-v1", item.item.item_id, *scope)).digest()


def _item(row: Row) -> FleetItem:
    return FleetItem(
        revision=row[0],
        kind=ItemKind(row[1]),
        subject=row[2],
        owner_id=row[3],
        node_id=row[4],
        item=SignedItem(bytes(row[5]), bytes(row[6]), bytes(row[7])),
        created_at=from_ms(row[8]),
        expires_at=at(row[9]),
    )
