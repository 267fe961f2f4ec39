"""What this node holds, as its links compare it, kept in step with the policy cache; and how far senders have
counted, written down before anything of theirs is used."""

from collections.abc import Sequence
from typing import NamedTuple

import trio

from ambientd.core.ed25519 import show_key
from ambientd.core.itemset import ItemSet
from ambientd.core.peers.effects import Deliver
from ambientd.core.peers.floors import Floors, SignerFloor, merged
from ambientd.core.signeditem import SignedItem
from ambientd.ports.autonomy import Merge, PolicyItems
from ambientd.ports.store import Store, Transaction


class News(NamedTuple):
    """Ids that are new here, by who brought them: this node itself or its control plane, or a peer; and
    whether some went."""

    own: tuple[bytes, ...]
    brought: tuple[bytes, ...]
    removed: bool


class _Reading:
    def __init__(self) -> None:
        self.done = trio.Event()
        self.items: list[SignedItem] | None = None


class Holdings:
    """The item set and the floors of this node."""

    def __init__(self, store: Store, items: PolicyItems) -> None:
        """Empty before `load`."""
        self._store = store
        self._items = items
        self.have = ItemSet()
        self.floors = Floors(0)
        self._added: dict[bytes, bool] = {}
        self._removed = False
        self._reading: dict[tuple[bytes, ...], _Reading] = {}

    async def load(self) -> None:
        """Reads the floors; raises as `Store.read` does. The own line must have begun before."""
        (kept,) = await self._store.read(lambda tx: (tx.peers.floors(),))
        self.floors = self.floors if kept is None else kept
        self.refresh()
        self.take_news()

    def refresh(self) -> None:
        """Holds what the policy cache holds now."""
        change = self.have.replace(self._items.ids())
        self._added |= dict.fromkeys(change.added, False)
        self._removed = self._removed or bool(change.removed)

    def refresh_with(self, brought: Sequence[bytes]) -> None:
        """The same after a merge: most likely these ids more than before, and no others."""
        ids = self._items.ids()
        self._added |= {one: True for one in brought if one in ids and self.have.add(one)}
        if len(self.have) != len(ids):
            self.refresh()

    def take_news(self) -> News:
        """What came and went since the last call."""
        news = News(
            own=tuple(one for one, brought in self._added.items() if not brought),
            brought=tuple(one for one, brought in self._added.items() if brought),
            removed=self._removed,
        )
        self._added, self._removed = {}, False
        return news

    async def items(self, ids: Sequence[bytes]) -> list[SignedItem]:
        """These items, without those that are gone. A change is asked for by every link at once, and read
        once for all of them; raises as `Store.read` does."""
        wanted = tuple(ids)
        reading = self._reading.get(wanted)
        if reading is None:
            reading = self._reading[wanted] = _Reading()
            try:
                reading.items = await self._items.items(wanted)
            finally:
                del self._reading[wanted]
                reading.done.set()
            return reading.items
        await reading.done.wait()
        return await self._items.items(wanted) if reading.items is None else reading.items

    async def merge(self, delivery: Deliver) -> Merge:
        """The sender's floor and its items, in one durable step; raises as `Store.write` does."""
        checked = delivery.checked
        sender = checked.snapshot.sender
        floor = merged(self.floors.of(sender), checked.floor)

        def raise_floor(tx: Transaction) -> None:
            tx.peers.raise_floor(sender, floor)

        merge = await self._items.take(
            show_key(sender), checked.snapshot.items, dry_run=delivery.dry_run, first=raise_floor
        )
        self._raise(sender, floor)
        return merge

    def _raise(self, sender: bytes, floor: SignerFloor) -> None:
        raised = merged(self.floors.of(sender), floor)
        self.floors = Floors(self.floors.since, {**self.floors.signers, sender: raised})
