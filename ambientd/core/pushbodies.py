"""What goes over the wire to the control plane, from the values of the outbox. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ambientd.core.audit import AuditRecord
from ambientd.core.outboxrecords import DeltaVWindow, KeptReport, LedgerItem
from ambientd.core.records import EventRecord, SessionRecord, UsageRecord
from ambientd.core.timefmt import from_ms, rfc3339_ms
from ambientd.wire.enums import Connectivity
from ambientd.wire.fleet_push_messages import (
    AuditBody,
    AuditPush,
    DeltaVPush,
    DeltaVRecord,
    EventBody,
    LedgerRecord,
    SessionBody,
    UsageBody,
)

_ENCODER = msgspec.json.Encoder()
LARGEST = 1.7e308  # of a window of Δv that is told of
REPORTED_MAX = 1e308  # of the one in a report


class Meters(msgspec.Struct, frozen=True, kw_only=True):
    """Loads of this machine in percent, None where they cannot be read."""

    cpu: float | None = None
    memory: float | None = None
    disk: float | None = None


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """How the node is at one moment."""

    state: Connectivity
    health_score: float
    meters: Meters
    latency_ms: int | None = None
    delta_v: float | None = None
    audit_seq: int | None = None
    audit_hash: str | None = None


def report_body(at: str, now: Condition) -> bytes:
    """A report without its number; what is not known is left out."""
    meters = now.meters
    said: dict[str, Any] = {
        "at": at,
        "state": now.state.value,
        "health_score": _short(now.health_score),
        "cpu_usage": _short(meters.cpu),
        "memory_usage": _short(meters.memory),
        "disk_usage": _short(meters.disk),
        "network_latency_ms": now.latency_ms,
        "delta_v": None if now.delta_v is None else min(now.delta_v, REPORTED_MAX),
        "audit_head_seq": now.audit_seq,
        "audit_head_hash": now.audit_hash,
    }
    return _ENCODER.encode({name: value for name, value in said.items() if value is not None})


def _short(value: float | None) -> float | int | None:
    """One decimal is all that a percentage says."""
    if value is None:
        return None
    rounded = round(min(max(value, 0.0), 100.0), 1)
    return int(rounded) if rounded.is_integer() else rounded


def numbered(report: KeptReport) -> bytes:
    """A report as it is sent."""
    return b'{"seq":%d,' % report.seq + report.body[1:]


def reports_body(reports: Iterable[KeptReport]) -> bytes:
    """Several reports that waited."""
    return b'{"reports":[' + b",".join(numbered(report) for report in reports) + b"]}"


def audit_body(records: Iterable[AuditRecord]) -> AuditPush:
    """Records word for word."""
    return AuditPush(
        [
            AuditBody(
                seq=record.seq,
                kind=record.kind,
                at=record.at,
                actor=record.actor,
                subject=record.subject,
                detail=dict(record.detail),
                prev_hash=record.prev_hash,
                hash=record.hash,
            )
            for record in records
        ]
    )


def ledger_record(item: LedgerItem) -> LedgerRecord:
    """What is new of one session."""
    return LedgerRecord(
        seq=item.flight.seq,
        session_id=item.session.session_id,
        session=_session(item.session, item.task_id),
        events=[_event(event) for event in item.events],
        usage=None if item.usage is None else _usage(item.usage),
    )


def ledger_bodies(
    after: int, items: Sequence[LedgerItem], *, bytes_max: int
) -> tuple[bytes, list[LedgerItem]]:
    """As many records as fit, at least one; the body and what is in it."""
    parts: list[bytes] = []
    taken: list[LedgerItem] = []
    size = 0
    for item in items:
        raw = _ENCODER.encode(ledger_record(item))
        if taken and size + len(raw) > bytes_max:
            break
        parts.append(raw)
        taken.append(item)
        size += len(raw) + 1
    return b'{"after":%d,"records":[' % after + b",".join(parts) + b"]}", taken


def _session(row: SessionRecord, task_id: str | None) -> SessionBody:
    return SessionBody(
        agent_id=row.agent_id,
        agent_label=row.agent_label,
        model_id=row.model_id,
        status=row.status,
        started_at=rfc3339_ms(row.started_at),
        ended_at=None if row.ended_at is None else rfc3339_ms(row.ended_at),
        runtime_ms=row.runtime_ms,
        run_id=row.run_id,
        task_id=task_id,
        task_title=row.task_title,
        task_category=row.task_category,
        artifact_count=row.artifact_count,
        error_code=row.error_code,
        error_message=row.error_message,
        source_version=row.source_version,
        gateway_session_id=row.gateway_session_id,
    )


def _event(row: EventRecord) -> EventBody:
    own = row.event_id != f"{row.session_id}:{row.seq}"
    return EventBody(
        seq=row.seq,
        event_type=row.event_type,
        at=rfc3339_ms(row.at),
        payload=dict(row.payload),
        event_id=row.event_id if own else None,
    )


def _usage(row: UsageRecord) -> UsageBody:
    values = {name: getattr(row, name) for name in UsageBody.__struct_fields__ if name != "computed_at"}
    return UsageBody(computed_at=rfc3339_ms(row.computed_at), **values)


def delta_v_body(after: int, windows: Iterable[DeltaVWindow]) -> DeltaVPush:
    """Windows of Δv."""
    return DeltaVPush(
        after,
        [
            DeltaVRecord(
                seq=one.seq,
                window_start=rfc3339_ms(from_ms(one.start_ms)),
                window_end=rfc3339_ms(from_ms(one.end_ms)),
                value=min(one.value, LARGEST),
                samples=one.samples,
                refused=one.refused,
                source=one.source,
                confidence=one.confidence,
            )
            for one in windows
        ],
    )
