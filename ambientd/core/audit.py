"""The audit chain: how a record is hashed and how a chain is checked.

hash = SHA3-256 over three frames, each preceded by its length as 8 bytes, big-endian: the domain tag, the
hash before (32 bytes), the record's canonical bytes. Framed, so that no two different records share the
hashed bytes; tagged, so that no other message of this program can pass for a record.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from ambientd.core.canonical import canonical, framed

DOMAIN = b"ambient-audit-v1"
GENESIS = "0" * 64  # stands before the first record
RESTORED = "audit.restored"
BROKEN = "audit.broken"
# The kinds that a break of the chain is marked in: what operators order.
CONTROL = "control."
BROKEN_MARK = "audit_broken"

_encoder = msgspec.json.Encoder(order="sorted")


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One record of the chain; `at` is RFC 3339 in UTC with milliseconds, `seq` starts at 1."""

    seq: int
    kind: str
    at: str
    actor: str
    subject: str
    detail: Mapping[str, Any]
    prev_hash: str
    hash: str


class StoredRecord(NamedTuple):
    """A record as it stands in the store, whatever became of it: `detail` is its JSON text."""

    seq: int
    kind: str
    at: str
    actor: str
    subject: str
    detail: bytes
    prev_hash: str
    hash: str


class Place(NamedTuple):
    """A record of the chain by number and hash; before the first one stands `BEGINNING`."""

    seq: int
    hash: str


BEGINNING = Place(0, GENESIS)


class Break(NamedTuple):
    """Where a chain does not hold: the first record that does not, and why, in words."""

    seq: int
    reason: str


class KnownBreak(msgspec.Struct, frozen=True, kw_only=True):
    """A break that was found and noted. `note` is the checkpoint that contradicts the records, if one does;
    `accepted_by` whoever has looked into it."""

    seq: int
    reason: str
    found_at: str
    note: str | None = None
    accepted_at: str | None = None
    accepted_by: str | None = None


class ChainState(NamedTuple):
    """How far the chain was acknowledged, and the record up to which it was pruned."""

    acknowledged_seq: int
    pruned: Place


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which records, newest first. A `kind` stands for those that begin with it and a dot, too; `since` is
    inclusive, `until` exclusive; `before` is the number of the last record of the page before."""

    kind: str | None = None
    actor: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: int | None = None
    limit: int = 50


def record_hash(
    *, prev_hash: str, seq: int, kind: str, at: str, actor: str, subject: str, detail: Mapping[str, Any]
) -> str:
    """The hash of a record, in hexadecimal; raises ValueError when it has no canonical bytes."""
    record = canonical(
        {"seq": seq, "kind": kind, "at": at, "actor": actor, "subject": subject, "detail": detail}
    )
    return hashlib.sha3_256(framed(DOMAIN, bytes.fromhex(prev_hash), record)).hexdigest()


def stored_hash(record: StoredRecord) -> str | None:
    """The hash that a record should have; None when its bytes are none that were ever written.

    Taken over the stored text itself, which must be the canonical one: white space that changes no value
    is a change all the same.
    """
    try:
        detail = msgspec.json.decode(record.detail, type=dict[str, Any])
        if canonical(detail) != record.detail:
            return None
        text = _encoder.encode(
            {
                "seq": record.seq,
                "kind": record.kind,
                "at": record.at,
                "actor": record.actor,
                "subject": record.subject,
                "detail": msgspec.Raw(record.detail),
            }
        )
        return hashlib.sha3_256(framed(DOMAIN, bytes.fromhex(record.prev_hash), text)).hexdigest()
    except (ValueError, RecursionError, msgspec.DecodeError):
        return None


class Walk:
    """Goes along a chain record by record, in as many stretches as it takes."""

    def __init__(self, place: Place = BEGINNING) -> None:
        """The records follow `place`."""
        self.place = place

    def take(self, records: Iterable[StoredRecord]) -> Break | None:
        """The next records, in order; a break when one does not hold. `place` is the last that did."""
        for record in records:
            found = self._fault(record)
            if found is not None:
                return found
            self.place = Place(record.seq, record.hash)
        return None

    def _fault(self, record: StoredRecord) -> Break | None:
        wanted = self.place.seq + 1
        if record.seq > wanted:
            last = f" to {record.seq - 1}" if record.seq > wanted + 1 else ""
            return Break(wanted, f"record {wanted}{last} is missing")
        if record.seq < wanted:
            return Break(record.seq, f"record {record.seq} is there a second time")
        if record.hash != stored_hash(record):
            return Break(wanted, f"record {wanted} was changed: its hash does not fit what it says")
        if record.prev_hash != self.place.hash:
            before = f"record {wanted - 1}" if wanted > 1 else "the beginning"
            return Break(wanted, f"record {wanted} does not follow on {before}")
        return None


def first_bad(records: Iterable[AuditRecord], *, prev_hash: str = GENESIS, seq: int = 1) -> int | None:
    """The number at which a chain breaks, None when it holds.

    The records follow `prev_hash`, and the first must have the number `seq`. A missing record is reported
    as its own number; records missing at the end cannot be seen from here.
    """
    for record in records:
        if record.seq != seq or record.prev_hash != prev_hash or record.hash != _rehash(record):
            return seq
        prev_hash, seq = record.hash, seq + 1
    return None


def _rehash(record: AuditRecord) -> str | None:
    try:
        return record_hash(
            prev_hash=record.prev_hash,
            seq=record.seq,
            kind=record.kind,
            at=record.at,
            actor=record.actor,
            subject=record.subject,
            detail=record.detail,
        )
    except ValueError:
        return None
