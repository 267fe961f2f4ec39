"""What one link wants from its peer: first which ids differ, page by page, then the items, batch by batch.

One request is open at a time, so a peer can make this node hold one page of ids and one snapshot.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

import msgspec

from ambientd.core.itemset import START, ItemSet, split_ids
from ambientd.core.peers.effects import Outcome, RoundEnded
from ambientd.core.peers.faults import BrokenRuleError
from ambientd.core.peers.frames import (
    LISTED_AT_ONCE,
    WANTED_AT_ONCE,
    Answer,
    Compare,
    Listing,
    Message,
    More,
    Want,
)

# Ids that one round looks at: the most that a node may keep (`policy.max_items`), and half as much again.
LISTED_MAX = 300_000
# What a page brings, and what was offered meanwhile.
WANTS_MAX = 2 * LISTED_AT_ONCE
# Of items that merging did not take, the ids are kept (512 KiB at most), then it begins anew.
DECLINED_MAX = 16_384
# Items in one round that were listed and not sent, or sent in vain: each costs a signature check.
VAIN_MAX = 4_096
_REQUESTS = 2**32


class Pull:
    """The round that is going on, if any, and what was offered meanwhile.

    Items that merging did not take are not asked for again on this link, until a round is forced.
    """

    def __init__(self, have: ItemSet, *, salt: bytes, at_once: int) -> None:
        self._have = have
        self._salt = salt
        self._at_once = min(at_once, WANTED_AT_ONCE)
        self._declined: ItemSet | None = None
        self._wants: deque[bytes] = deque()
        self._request = 0
        self._open: Literal["listing", "items"] | None = None
        self._asked: set[bytes] = set()
        self._buckets = b""
        self._after = START
        self._listed_all = True
        self._report: RoundEnded | None = None
        self._stopped = False
        self._vain = 0

    @property
    def in_round(self) -> bool:
        """Whether a round is going on. Fetching what was offered is none."""
        return self._report is not None

    @property
    def waits(self) -> bool:
        """Whether the peer owes an answer."""
        return self._open is not None

    @property
    def dry_run(self) -> bool:
        """Whether the round that is going on keeps nothing."""
        return self._report is not None and self._report.dry_run

    def begin(self, *, forced: bool, dry_run: bool) -> None:
        """Starts a round; there must be none."""
        self._report = RoundEnded(outcome=Outcome.DONE, forced=forced, dry_run=dry_run)
        self._buckets, self._after, self._listed_all = b"", START, False
        self._vain = 0
        if forced:
            self._declined = None

    def offer(self, ids: Iterable[bytes]) -> None:
        """Notes what the peer offers, as far as it is new and there is room; comparing finds the rest."""
        known = {*self._wants, *self._asked}
        for item_id in ids:
            if len(self._wants) < WANTS_MAX and item_id not in known and self._is_new(item_id):
                self._wants.append(item_id)

    def next(self) -> Message | None:
        """The next request; None when one is open or nothing is left to ask."""
        if self._open is not None:
            return None
        wanted = self._batch()
        if wanted:
            self._open, self._asked = "items", set(wanted)
            self._count(asked=len(wanted))
            return Want(self._number(), b"".join(wanted))
        if self._listed_all or self._stopped:
            return None
        self._open = "listing"
        if not self._buckets:
            return Compare(self._number(), self._have.marks(self._salt))
        return More(self._number(), self._buckets, self._after)

    def ended(self) -> RoundEnded | None:
        """The report of the round, once, when nothing is open and nothing is left to ask."""
        if self._report is None or self._open or self._wants or not (self._listed_all or self._stopped):
            return None
        report, self._report = self._report, None
        self._stopped, self._listed_all = False, True
        return report

    def listed(self, listing: Listing) -> None:
        """Takes a page of ids. Raises BrokenRuleError."""
        if self._open != "listing" or listing.request != self._request:
            raise BrokenRuleError("a listing that was not asked for")
        self._open = None
        if listing.answer is Answer.NOT_NOW:
            self.stop(Outcome.NOT_NOW)
            return
        ids = self._checked(listing)
        self._count(listed=len(ids))
        if self._report is not None and self._report.listed > LISTED_MAX:
            raise BrokenRuleError("a listing of more ids than a node may hold")
        self._buckets = listing.buckets
        self._after = ids[-1] if ids else self._after
        self._listed_all = listing.last
        self._wants.extend(item_id for item_id in ids if self._is_new(item_id))

    def check_open(self, request: int) -> None:
        """Raises BrokenRuleError when this is not the open request for items."""
        if self._open != "items" or request != self._request:
            raise BrokenRuleError("items that were not asked for")

    def received(self, ids: Sequence[bytes], *, last: bool, answer: Answer) -> None:
        """Notes an answer to the open request for items. Raises BrokenRuleError."""
        if not self._asked.issuperset(ids) or not (ids or last):
            raise BrokenRuleError("other items than were asked for")
        self._asked.difference_update(ids)
        if last:
            self._close(missing=len(self._asked))
            if answer is Answer.NOT_NOW:
                self.stop(Outcome.NOT_NOW)

    def refused(self, *, last: bool) -> None:
        """Notes that a part of the answer to the open request was refused; its rest is still waited for."""
        self.stop(Outcome.FAILED)
        if last:
            self._close(missing=0)

    def merged(self, declined: Sequence[bytes], *, added: int, kept: int, refused: int) -> None:
        """Adds to the report what merging said. `declined` are the items that this node does not hold now."""
        self._count(added=added, kept=kept, refused=refused)
        if not self.dry_run:
            self.declined(declined)
            self._in_vain(len(declined))

    def declined(self, ids: Iterable[bytes]) -> None:
        """Notes items that merging did not take."""
        for item_id in ids:
            if self._declined is None or len(self._declined) >= DECLINED_MAX:
                self._declined = ItemSet()
            self._declined.add(item_id)

    def stop(self, outcome: Outcome) -> None:
        """Asks for nothing more; an open request is still waited for."""
        self._wants.clear()
        if self._report is not None:
            self._stopped = True
            self._report = msgspec.structs.replace(self._report, outcome=outcome)

    def abandon(self) -> RoundEnded | None:
        """The report of a round that the end of the link cuts off."""
        report, self._report = self._report, None
        return msgspec.structs.replace(report, outcome=Outcome.LOST) if report else None

    def _close(self, *, missing: int) -> None:
        self._open, self._asked = None, set()
        self._count(missing=missing)
        self._in_vain(missing)

    def _in_vain(self, count: int) -> None:
        self._vain += count
        if self._vain > VAIN_MAX and self._report is not None and not self._stopped:
            self.stop(Outcome.FAILED)

    def _checked(self, listing: Listing) -> list[bytes]:
        ids = split_ids(listing.ids)
        if ids is None or (self._buckets and listing.buckets != self._buckets):
            raise BrokenRuleError("a listing of other buckets")
        mask = int.from_bytes(listing.buckets)
        rising = all(one < other for one, other in pairwise([self._after, *ids]))
        if not rising or not all(mask >> item_id[0] & 1 for item_id in ids):
            raise BrokenRuleError("a listing that is not in order")
        if not ids and not listing.last:
            raise BrokenRuleError("a listing without end")
        return ids

    def _is_new(self, item_id: bytes) -> bool:
        return item_id not in self._have and (self._declined is None or item_id not in self._declined)

    def _batch(self) -> list[bytes]:
        batch: dict[bytes, None] = {}
        while self._wants and len(batch) < self._at_once:
            item_id = self._wants.popleft()
            if self._is_new(item_id):  # it may have come otherwise meanwhile
                batch[item_id] = None
        return list(batch)

    def _number(self) -> int:
        self._request = self._request % (_REQUESTS - 1) + 1
        return self._request

    def _count(self, **amounts: int) -> None:
        if self._report is not None:
            grown = {name: getattr(self._report, name) + by for name, by in amounts.items()}
            self._report = msgspec.structs.replace(self._report, **grown)
