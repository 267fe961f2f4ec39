"""Which items a node holds, as something that two nodes can compare with few bytes.

Ids fall into 256 buckets by their first byte. A bucket is one sorted array of bytes, 32 for each id, so that
20,000 ids take 640 KB instead of the 2 MB of a set. Its SHA3-256 is made when it is asked for after a change;
unlike sums of ids, which can be kept up without that, nobody can make two different sets that look the same.
"""

import hashlib
from collections.abc import Collection, Iterable
from itertools import groupby

import msgspec

from ambientd.core.canonical import framed

ID_BYTES = 32
BUCKETS = 256
# Of a bucket's digest as it is sent; salted for each link, so that nobody can prepare two that agree.
MARK_BYTES = 8
MASK_BYTES = BUCKETS // 8
# Before the first id, for `ItemSet.page`.
START = b""

_BUCKET_DOMAIN = b"ambient-items-bucket-v1"
_ROOT_DOMAIN = b"ambient-items-root-v1"


class Change(msgspec.Struct, frozen=True):
    """Ids that came and went."""

    added: tuple[bytes, ...]
    removed: tuple[bytes, ...]


class ItemSet:
    """A set of item ids (32 bytes each) with digests. One for each node, shared by its links."""

    __slots__ = ("_buckets", "_count", "_digests", "_root")

    def __init__(self, ids: Iterable[bytes] = ()) -> None:
        self._buckets: list[bytearray] = [bytearray() for _ in range(BUCKETS)]
        self._digests: list[bytes] = [_digest(b"")] * BUCKETS
        self._root: bytes | None = None
        self._count = 0
        self.replace(frozenset(ids))

    def __len__(self) -> int:
        return self._count

    def __contains__(self, item_id: bytes) -> bool:
        bucket = self._buckets[item_id[0]]
        at = _place(bucket, item_id)
        return bucket[at : at + ID_BYTES] == item_id

    def add(self, item_id: bytes) -> bool:
        """Whether it was not there before. Costs a search in one bucket, whatever the others hold."""
        bucket = self._buckets[item_id[0]]
        at = _place(bucket, item_id)
        if bucket[at : at + ID_BYTES] == item_id:
            return False
        bucket[at:at] = item_id
        self._changed(item_id[0], 1)
        return True

    def discard(self, item_id: bytes) -> bool:
        """Whether it was there before."""
        bucket = self._buckets[item_id[0]]
        at = _place(bucket, item_id)
        if bucket[at : at + ID_BYTES] != item_id:
            return False
        del bucket[at : at + ID_BYTES]
        self._changed(item_id[0], -1)
        return True

    def replace(self, ids: Collection[bytes]) -> Change:
        """Makes it hold exactly these; returns what came and went. For starts and after merges."""
        wanted = {first: b"".join(group) for first, group in groupby(sorted(ids), key=lambda one: one[0])}
        added: list[bytes] = []
        removed: list[bytes] = []
        for number, bucket in enumerate(self._buckets):
            new = wanted.get(number, b"")
            if bucket != new:
                before, after = frozenset(_ids(bucket)), frozenset(_ids(new))
                added += after - before
                removed += before - after
                self._buckets[number] = bytearray(new)
                self._changed(number, len(after) - len(before))
        return Change(tuple(sorted(added)), tuple(sorted(removed)))

    @property
    def root(self) -> bytes:
        """32 bytes that are equal exactly when two sets are."""
        if self._root is None:
            digests = (self._bucket_digest(number) for number in range(BUCKETS))
            self._root = hashlib.sha3_256(framed(_ROOT_DOMAIN, b"".join(digests))).digest()
        return self._root

    def marks(self, salt: bytes) -> bytes:
        """The buckets' digests, shortened: BUCKETS × MARK_BYTES. `salt` is the link's, known to both ends."""
        whole = (
            hashlib.sha3_256(salt + self._bucket_digest(number)).digest()[:MARK_BYTES]
            for number in range(BUCKETS)
        )
        return b"".join(whole)

    def differing(self, marks: bytes, salt: bytes) -> bytes:
        """Which buckets are different by another's marks: BUCKETS bits, bucket n at 2**n, big-endian."""
        own = self.marks(salt)
        mask = sum(
            1 << number
            for number in range(BUCKETS)
            if own[number * MARK_BYTES : (number + 1) * MARK_BYTES]
            != marks[number * MARK_BYTES : (number + 1) * MARK_BYTES]
        )
        return mask.to_bytes(MASK_BYTES)

    def page(self, buckets: bytes, after: bytes, limit: int) -> tuple[list[bytes], bool]:
        """The first ids above `after` (START or an id) in these buckets, and whether that was the end."""
        found: list[bytes] = []
        mask = int.from_bytes(buckets)
        first = after[0] if after else 0
        for number in range(first, BUCKETS):
            if not mask >> number & 1:
                continue
            bucket = self._buckets[number]
            at = _place(bucket, after) if number == first else 0
            if after and bucket[at : at + ID_BYTES] == after:
                at += ID_BYTES
            room = limit - len(found)
            rest = memoryview(bucket)[at:]
            found += _ids(rest[: room * ID_BYTES])
            if len(rest) > room * ID_BYTES:
                return found, False
        return found, True

    def _changed(self, number: int, by: int) -> None:
        self._digests[number] = b""
        self._root = None
        self._count += by

    def _bucket_digest(self, number: int) -> bytes:
        if not self._digests[number]:
            self._digests[number] = _digest(self._buckets[number])
        return self._digests[number]


def split_ids(blob: bytes) -> list[bytes] | None:
    """The ids in a row of them; None when it is not a whole number."""
    return _ids(blob) if len(blob) % ID_BYTES == 0 else None


def _ids(blob: bytes | bytearray | memoryview) -> list[bytes]:
    return [bytes(blob[at : at + ID_BYTES]) for at in range(0, len(blob), ID_BYTES)]


def _place(bucket: bytearray, item_id: bytes) -> int:
    """Where the id is, or would be, in bytes from the start."""
    low, high = 0, len(bucket) // ID_BYTES
    while low < high:
        middle = (low + high) // 2
        if bucket[middle * ID_BYTES : (middle + 1) * ID_BYTES] < item_id:
            low = middle + 1
        else:
            high = middle
    return low * ID_BYTES


def _digest(bucket: bytes | bytearray) -> bytes:
    return hashlib.sha3_256(framed(_BUCKET_DOMAIN, bytes(bucket))).digest()
