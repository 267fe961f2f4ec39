"""What checkpoints say about a stretch of the chain."""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from ambientd.core.audit import AuditRecord, Break
from ambientd.core.checkpoint import Checkpoint, SignedCheckpoint, contradicts, parse_note


class Verdict(NamedTuple):
    """What one checkpoint came to. `known` says whether one of the node's keys has signed it."""

    signer: bytes | None
    known: bool
    bad: Break | None


def judge(
    note: str, *, seq: int | None, hashes: Mapping[int, str], head: int, keys: Collection[bytes]
) -> Verdict:
    """A checkpoint against the chain that ends at `head`; `seq` is the record it is kept for.

    One of a key that is not the node's is held against the chain all the same: it may be of an identity
    that was lost, and it does not hurt where it agrees.
    """
    signed = read_genuine(note)
    if isinstance(signed, str):
        return Verdict(None, False, Break(seq or max(head, 1), signed))
    checkpoint = signed.checkpoint
    if seq is not None and checkpoint.seq != seq:
        return Verdict(
            None, False, Break(min(seq, checkpoint.seq), f"the checkpoint of record {seq} was moved")
        )
    bad = contradicts(checkpoint, hashes.get(checkpoint.seq), head)
    return Verdict(signed.key, signed.key in keys, bad)


def read_genuine(note: str) -> SignedCheckpoint | str:
    """The checkpoint of a note that the key it names has signed, or what is wrong with it."""
    signed = parse_note(note)
    if signed is None:
        return "a checkpoint was changed: it is none that was ever written"
    if not signed.is_genuine:
        return f"the checkpoint of record {signed.checkpoint.seq} has no genuine signature"
    return signed


def first(breaks: Iterable[Break | None]) -> Break | None:
    """The break of the lowest number."""
    return min((found for found in breaks if found is not None), key=lambda found: found.seq, default=None)


def explains(restored: Iterable[AuditRecord], checkpoint: Checkpoint) -> bool:
    """Whether one of these records says that the chain a checkpoint signed was replaced by a backup's."""
    return any(
        record.detail.get("former_seq") == checkpoint.seq
        and record.detail.get("former_hash") == checkpoint.hash
        for record in restored
    )
