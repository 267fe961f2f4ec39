"""Messages of the audit's routes (`/api/v1/node/audit`). Keys are only ever added."""

from typing import Any

import msgspec


class AuditRecordView(msgspec.Struct):
    """One record of the chain."""

    seq: int
    kind: str
    at: str
    actor: str
    subject: str
    detail: dict[str, Any]
    prev_hash: str
    hash: str


class AuditPage(msgspec.Struct, omit_defaults=True):
    """Records, newest first; `next` is the `after` of the page behind this one."""

    rows: list[AuditRecordView]
    head_seq: int
    pruned_seq: int = 0
    acknowledged_seq: int = 0
    next: str | None = None


class AuditBreakView(msgspec.Struct, omit_defaults=True):
    """The first record that does not hold, and why."""

    seq: int
    reason: str
    found_at: str | None = None
    accepted_at: str | None = None
    accepted_by: str | None = None


class AuditStretchView(msgspec.Struct, omit_defaults=True):
    """What one stretch of a verification came to. Unless it has ended, the next one begins at `after` and
    `hash`, the last record that held."""

    after: int
    hash: str
    checked: int
    checkpoints: int
    ended: bool
    head_seq: int
    pruned_seq: int = 0
    other_keys: int = 0  # checkpoints of keys that this node's key does not follow
    bad: AuditBreakView | None = None


class AuditAcceptAnswer(msgspec.Struct):
    """Breaks that were marked as looked into, and the record that says so."""

    breaks: list[AuditBreakView]
    audit_id: int | None
