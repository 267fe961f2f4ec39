"""Chains, keys and checkpoints for tests."""

from typing import Any

from ambientd.core.audit import BEGINNING, Place, StoredRecord, record_hash
from ambientd.core.canonical import canonical
from ambientd.core.checkpoint import ORIGIN, Checkpoint, build_note
from ambientd.core.ed25519 import public_of, sign

AT = "2026-11-20T12:00:00.000Z"
SEED, OTHER_SEED = bytes(range(32)), bytes(range(1, 33))
KEY, OTHER_KEY = public_of(SEED), public_of(OTHER_SEED)
HOST = "5" * 64


def record_after(place: Place, detail: dict[str, Any] | None = None, **fields: Any) -> StoredRecord:
    """The record that follows a place."""
    facts: dict[str, Any] = {
        "seq": place.seq + 1,
        "kind": "control.kill",
        "at": AT,
        "actor": "uid:0",
        "subject": f"s{place.seq + 1}",
    } | fields
    said = detail if detail is not None else {"n": place.seq, "text": "é\u2028", "none": None}
    digest = record_hash(prev_hash=place.hash, detail=said, **facts)
    return StoredRecord(**facts, detail=canonical(said), prev_hash=place.hash, hash=digest)


def chain(count: int, place: Place = BEGINNING, **fields: Any) -> list[StoredRecord]:
    records: list[StoredRecord] = []
    for _ in range(count):
        records.append(record_after(place, **fields))
        place = place_of(records[-1])
    return records


def place_of(record: StoredRecord) -> Place:
    return Place(record.seq, record.hash)


def checkpoint_of(place: Place, at: str = AT) -> Checkpoint:
    return Checkpoint(origin=ORIGIN + HOST, seq=place.seq, hash=place.hash, at=at)


def note_of(place: Place, seed: bytes = SEED, at: str = AT) -> str:
    return build_note(checkpoint_of(place, at), public_of(seed), lambda message: sign(seed, message))
