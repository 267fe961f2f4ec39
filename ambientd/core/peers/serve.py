"""What one link sends: answers to its peer's requests, and changes as they come."""

from collections import deque
from collections.abc import Sequence

import msgspec

from ambientd.core.signeditem import SignedItem
from ambientd.core.snapshot import pack, size_of

# Of an item, before any was seen: a policy with a few destinations.
USUAL_ITEM_BYTES = 512
LOADED_AT_ONCE = 256


class _Job(msgspec.Struct):
    request: int  # 0: a change that nobody asked for
    ids: deque[bytes]


class Part(msgspec.Struct, frozen=True):
    """The items of the next snapshot, for a request; `last` when nothing is left of it."""

    request: int
    items: tuple[SignedItem, ...]
    last: bool


class Serve:
    """Items to be loaded, packed and sent, one load at a time. `unsendable` counts items that are too long
    for the peer."""

    def __init__(self, *, max_bytes: int, max_items: int) -> None:
        self._max_bytes = max_bytes
        self._max_items = max_items
        self._jobs: deque[_Job] = deque()
        self._loading: tuple[bytes, ...] = ()
        self._loading_for: _Job | None = None
        self._usual = USUAL_ITEM_BYTES
        self.unsendable = 0

    @property
    def is_asked(self) -> bool:
        """Whether a request of the peer is still being answered."""
        return any(job.request for job in self._jobs)

    def answer(self, request: int, ids: Sequence[bytes]) -> None:
        self._jobs.append(_Job(request, deque(ids)))

    def push(self, ids: Sequence[bytes]) -> None:
        """Sends a change; one that still waits takes it along."""
        if self._jobs and not self._jobs[-1].request and len(self._jobs[-1].ids) < LOADED_AT_ONCE:
            self._jobs[-1].ids.extend(ids)
        else:
            self._jobs.append(_Job(0, deque(ids)))

    def drop(self) -> int:
        """Forgets everything; the number of the request that was being answered, 0 when there was none."""
        request = next((job.request for job in self._jobs if job.request), 0)
        self._jobs.clear()
        return request

    def load(self) -> tuple[bytes, ...]:
        """The ids to load next; empty when a load is open or nothing waits."""
        if self._loading or not self._jobs:
            return ()
        many = min(LOADED_AT_ONCE, max(1, self._max_bytes // self._usual), self._max_items)
        job = self._loading_for = self._jobs[0]
        self._loading = tuple(job.ids[at] for at in range(min(many, len(job.ids))))
        return self._loading

    def loaded(self, items: Sequence[SignedItem]) -> Part | None:
        """What to send of the loaded items; what does not fit is loaded again. None when nothing is."""
        loading, self._loading = self._loading, ()
        if not self._jobs or self._jobs[0] is not self._loading_for:
            return None
        job = self._jobs[0]
        by_id = {item.item_id: item for item in items}
        there = [(item_id, by_id.pop(item_id)) for item_id in loading if item_id in by_id]
        fitting = self._fitting([item for _, item in there])
        done = len(loading) if fitting == len(there) else loading.index(there[fitting][0])
        if not fitting and there:
            self.unsendable += 1
            done += 1
        for _ in range(done):
            job.ids.popleft()
        if not job.ids:
            self._jobs.popleft()
        if not fitting and (job.ids or not job.request):
            return None
        return Part(job.request, tuple(item for _, item in there[:fitting]), not job.ids)

    def _fitting(self, items: list[SignedItem]) -> int:
        if items:
            self._usual = max(1, size_of(items) // len(items))
        return pack(items, max_bytes=self._max_bytes, max_items=self._max_items)
