"""Messages about the JSON store of the earlier generation: import, verification, drift."""

from enum import StrEnum
from typing import Any

import msgspec

from ambientd.wire.messages import ErrorDetail

RECORDS_MAX = 500


class LegacyOutcome(StrEnum):
    """What became of a record: written, found to be there already, or refused."""

    WRITTEN = "written"
    SKIPPED = "skipped"
    ERROR = "error"


class LegacyRecord(msgspec.Struct, forbid_unknown_fields=True):
    """One row of the store's `ledger` with what belongs to it, as it stands in the file."""

    ledger: Any
    usage: Any = None
    events: list[Any] = []


class LegacyImportRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /api/v1/node/legacy/import`; at most `RECORDS_MAX` records."""

    records: list[LegacyRecord]
    dry_run: bool = False


class LegacyResult(msgspec.Struct, omit_defaults=True):
    """What became of one record. `events_written` counts new events; `usage_written` tells of its usage."""

    outcome: LegacyOutcome
    session_id: str | None = None
    events_written: int = 0
    usage_written: bool = False
    code: str | None = None
    message: str | None = None
    details: list[ErrorDetail] = []


class LegacyImportAnswer(msgspec.Struct):
    """One result per record, in order."""

    dry_run: bool
    results: list[LegacyResult]


class LegacyVerifyRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /api/v1/node/legacy/verify`; at most `RECORDS_MAX` records."""

    records: list[LegacyRecord]


class LegacySums(msgspec.Struct, rename="camel"):
    """Sums over the compared sessions; unknown values add nothing."""

    sessions: int = 0
    events: int = 0
    tokens: int = 0
    runtime_ms: int = 0
    cost_usd: float = 0.0


class LegacyDifference(msgspec.Struct, rename="camel", omit_defaults=True):
    """One value that differs; `sqlite` is absent when the ledger does not know it."""

    session_id: str
    field: str
    json: str
    sqlite: str | None = None


class LegacyComparison(msgspec.Struct, rename="camel"):
    """Records against the ledger. `unusable` counts records that cannot be read as sessions."""

    compared: int
    unusable: int
    json: LegacySums
    sqlite: LegacySums
    differences: list[LegacyDifference]
    difference_count: int


class DriftSource(msgspec.Struct, rename="camel", omit_defaults=True):
    """One configured file; `problem` when it could not be read."""

    path: str
    bytes: int = 0
    sha256: str | None = None
    sessions: int = 0
    problem: str | None = None


class ImportDriftView(msgspec.Struct, rename="camel"):
    """`GET /api/v3/diagnostics/import-drift`: `drift` is true when a value or a sum differs."""

    generated_at: str
    sources: list[DriftSource]
    sessions: int
    compared: int
    unusable: int
    drift: bool
    json: LegacySums
    sqlite: LegacySums
    differences: list[LegacyDifference]
    difference_count: int
