"""What `doctor --json` prints."""

from enum import StrEnum

import msgspec

from ambientd.wire.enums import Health

SCHEMA_DOCTOR = "ambient.doctor/1"


class CheckResult(StrEnum):
    """What a check came to."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


class CheckView(msgspec.Struct, rename="camel", omit_defaults=True):
    """One check. `id` never changes its meaning; `text` and `remedy` are sentences for people."""

    id: str
    result: CheckResult
    text: str
    took_ms: int
    remedy: str | None = None


class DoctorReport(msgspec.Struct, rename="camel"):
    """All checks that were made, in the order of what depends on what."""

    schema: str
    generated_at: str
    version: str
    health: Health
    checks: list[CheckView]
