"""The audit chain: how a record is hashed and how a chain is checked.

hash = SHA3-256 over three frames, each preceded by its length as 8 bytes, big-endian: the domain tag, the
hash before (32 bytes), the record's canonical bytes. Framed, so that no two different records share the
hashed bytes; tagged, so that no other message of this program can pass for a record.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ambientd.core.canonical import canonical, framed

DOMAIN = b"ambient-audit-v1"
GENESIS = "0" * 64  # stands before the first record


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


def record_hash(
    *, prev_hash: str, seq: int, kind: str, at: str, actor: str, subject: str, detail: Mapping[str, Any]
) -> str:
    """The hash of a record, in hexadecimal; raises ValueError when it has no canonical bytes."""
    record = canonical(
        {"seq": seq, "kind": kind, "at": at, "actor": actor, "subject": subject, "detail": detail}
    )
    return hashlib.sha3_256(framed(DOMAIN, bytes.fromhex(prev_hash), record)).hexdigest()


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
