"""Ledger values as the wire shows them (facts/v3-shapes): times as text, unknown left out."""

import base64
import binascii
import math
from datetime import datetime

from ambientd.core.records import EventRecord, LedgerQuery, SessionRecord, UsageRecord
from ambientd.core.rejection import Rejected, reject
from ambientd.core.timefmt import parse_rfc3339, rfc3339_ms
from ambientd.wire.enums import LedgerSort, SessionStatus
from ambientd.wire.messages import Artifact, SessionEvent, SessionSummary, SessionUsage

_CURSOR_TEXT_MAX = 2048  # an id of 256 characters, four bytes each, in base 64


def summary(row: SessionRecord, now: datetime) -> SessionSummary:
    """One row; a running session's runtime counts up to `now`."""
    return SessionSummary(
        session_id=row.session_id,
        agent_id=row.agent_id,
        agent_label=row.agent_label,
        model_id=row.model_id,
        status=row.status,
        started_at=rfc3339_ms(row.started_at),
        runtime_ms=_runtime(row, now),
        artifact_count=row.artifact_count,
        ingested_at=rfc3339_ms(row.ingested_at),
        run_id=row.run_id,
        task_title=row.task_title,
        task_text=row.task_text or None,
        task_category=row.task_category,
        ended_at=rfc3339_ms(row.ended_at) if row.ended_at else None,
        error_code=row.error_code,
        error_message=row.error_message,
        source_version=row.source_version,
        running_since=rfc3339_ms(row.running_since) if row.running_since else None,
        total_tokens=row.total_tokens,
        cost_usd=row.cost_usd,
        cost_confidence=row.cost_confidence.value if row.cost_confidence else None,
    )


def _runtime(row: SessionRecord, now: datetime) -> int:
    if row.runtime_ms is not None:
        return row.runtime_ms
    if row.status is SessionStatus.RUNNING and row.running_since is not None:
        return max(0, int((now - row.running_since).total_seconds() * 1000))
    return 0


def event(row: EventRecord) -> SessionEvent:
    """One event."""
    return SessionEvent(
        event_id=row.event_id,
        session_id=row.session_id,
        seq=row.seq,
        event_type=row.event_type,
        event_ts=rfc3339_ms(row.at),
        payload=dict(row.payload),
    )


def artifact(row: EventRecord) -> Artifact:
    """An artifact event as an artifact."""
    size, digest = row.payload.get("bytes"), row.payload.get("sha256")
    return Artifact(
        name=str(row.payload.get("name", "")),
        bytes=size if isinstance(size, int) else 0,
        sha256=digest if isinstance(digest, str) else None,
    )


def usage(row: UsageRecord) -> SessionUsage:
    """Usage with its provenance."""
    return SessionUsage(
        session_id=row.session_id,
        runtime_ms=row.runtime_ms or 0,
        cost_confidence=row.cost_confidence.value,
        computed_at=rfc3339_ms(row.computed_at),
        cost_source=_COST_SOURCE[row.cost_source.value],
        token_source=row.token_source.value,
        runtime_source=row.runtime_source.value,
        token_confidence=row.token_confidence.value,
        runtime_confidence=row.runtime_confidence.value,
        cost_confidence_level=row.cost_confidence_level.value,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        total_tokens=row.total_tokens,
        cost_usd=row.cost_usd,
        provider=row.provider,
        pricing_version=row.pricing_version,
    )


# Stored in the words of seed 9.2.2, shown in those of the recorded shapes (ruling 26).
_COST_SOURCE = {
    "provider_reported": "provider_reported",
    "estimated_from_pricing": "derived",
    "unknown": "missing",
}


Place = tuple[datetime | float | None, str]
"""Where a page ended: start or figure (None: it had none), and id."""


def encode_cursor(row: SessionRecord, sort: LedgerSort = LedgerSort.NEWEST) -> str:
    """A stable place in an order, opaque to clients; it names the order that it belongs to."""
    figure = {LedgerSort.RUNTIME: row.runtime_ms, LedgerSort.COST: row.cost_usd}.get(sort)
    value = "-" if figure is None else repr(figure)
    if sort is LedgerSort.NEWEST:
        value = rfc3339_ms(row.started_at)
    return base64.urlsafe_b64encode(f"{sort.value} {value} {row.session_id}".encode()).decode()


def decode_cursor(text: str, sort: LedgerSort = LedgerSort.NEWEST) -> Place | Rejected:
    """The place that a cursor names, Rejected for one of another order."""
    refusal = reject("VALIDATION_ERROR", "Invalid query", ("cursor", "invalid", "not a cursor of this list"))
    if len(text) > _CURSOR_TEXT_MAX:
        return refusal
    try:
        plain = base64.b64decode(text, altchars=b"-_", validate=True).decode()
        name, value, session_id = plain.split(" ", 2)
        place = _figure(value) if sort is not LedgerSort.NEWEST else parse_rfc3339(value)
    except (binascii.Error, ValueError):
        return refusal
    return (place, session_id) if session_id and name == sort.value else refusal


def _figure(text: str) -> float | None:
    value = None if text == "-" else float(text)
    if value is not None and not math.isfinite(value):
        raise ValueError("not a figure")
    return value


def next_place(query: LedgerQuery, rows: tuple[SessionRecord, ...], more: bool) -> str | None:
    """The cursor of the following page, when there is one."""
    return encode_cursor(rows[-1], query.sort) if more and rows and query.limit else None
