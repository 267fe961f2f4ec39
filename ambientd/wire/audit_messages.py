"""Messages of the audit's routes (`/api/v1/node/audit`). Keys are only ever added."""

from typing import Any

import msgspec

AUDIT = "/api/v1/node/audit"
AUDIT_VERIFY = AUDIT + "/verify"
AUDIT_EXPORT = AUDIT + "/export"
AUDIT_ACCEPT = AUDIT + "/accept"

SCHEMA_AUDIT = "ambient.audit/1"
SCHEMA_AUDIT_VERIFY = "ambient.audit-verify/1"
SCHEMA_AUDIT_EXPORT = "ambient.audit-export/1"
SCHEMA_AUDIT_ACCEPT = "ambient.audit-accept/1"

PAGE_MAX = 1_000
# Records of one stretch of a verification: some tenths of a second of one thread.
STRETCH_MAX = 20_000


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
