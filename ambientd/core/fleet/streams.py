"""What nodes push, from the texts of a batch to values, or everything that is wrong with it."""

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

import msgspec

from ambientd.core.audit import AuditRecord
from ambientd.core.fleet.checks import Problems
from ambientd.core.fleet.pushed import NodeDeltaV, NodeSession, NodeSessionEvent, NodeUsage
from ambientd.core.records import UsageRecord
from ambientd.core.rejection import Rejected
from ambientd.core.timefmt import parse_rfc3339, rfc3339_ms
from ambientd.wire.fleet_push_messages import (
    EVENTS_MAX,
    RECORDS_MAX,
    AuditPush,
    DeltaVPush,
    DeltaVRecord,
    EventBody,
    LedgerPush,
    LedgerRecord,
    SessionBody,
    UsageBody,
)

_ID_MAX = 256
_HEX = frozenset("0123456789abcdef")
_NUMBERS = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "runtime_ms",
)
_EPOCH = parse_rfc3339("1970-01-01T00:00:00Z")
_INT_MAX = 2**63 - 1
T = TypeVar("T")


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One record of the ledger's stream that was found valid."""

    seq: int
    session_id: str
    session: NodeSession | None = None
    events: tuple[NodeSessionEvent, ...] = ()
    usage: NodeUsage | None = None


class DeltaVEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One record of the Δv stream that was found valid."""

    seq: int
    window: NodeDeltaV


def read_audit(body: AuditPush) -> tuple[AuditRecord, ...] | Rejected:
    """Consecutive records; whether they are a chain is looked at later."""
    problems = Problems()
    _check_batch(problems, [record.seq for record in body.records])
    for place, record in enumerate(body.records[:RECORDS_MAX]):
        field = f"records[{place}]"
        if place and record.seq != body.records[place - 1].seq + 1:
            problems.add(f"{field}.seq", "order", "must follow the one before", "consecutive numbers")
        for name in ("prev_hash", "hash"):
            value = getattr(record, name)
            if len(value) != 64 or not _HEX.issuperset(value):
                problems.add(f"{field}.{name}", "format", "must be 64 hexadecimal digits")
        if rfc3339_ms(_instant(problems, f"{field}.at", record.at)) != record.at:
            problems.add(f"{field}.at", "format", "must be UTC with milliseconds", "2026-11-20T15:40:03.120Z")
    refused = _refused(problems)
    if refused is not None:
        return refused
    return tuple(AuditRecord(**msgspec.structs.asdict(record)) for record in body.records)


def read_ledger(body: LedgerPush) -> tuple[LedgerEntry, ...] | Rejected:
    """Records of sessions."""
    problems = Problems()
    _check_batch(problems, [record.seq for record in body.records])
    problems.between("after", body.after, 0, _INT_MAX)
    if sum(len(record.events) for record in body.records) > EVENTS_MAX:
        expected = f"at most {EVENTS_MAX} events"
        problems.add("records", "events", f"must have {expected} together", expected)
    entries = [
        _entry(problems, f"records[{place}]", record)
        for place, record in enumerate(body.records[:RECORDS_MAX])
    ]
    return _refused(problems) or tuple(entries)


def read_delta_v(body: DeltaVPush) -> tuple[DeltaVEntry, ...] | Rejected:
    """Windows of Δv."""
    problems = Problems()
    _check_batch(problems, [record.seq for record in body.records])
    problems.between("after", body.after, 0, _INT_MAX)
    entries = [
        _window(problems, f"records[{place}]", record)
        for place, record in enumerate(body.records[:RECORDS_MAX])
    ]
    return _refused(problems) or tuple(entries)


def _check_batch(problems: Problems, numbers: Sequence[int]) -> None:
    if len(numbers) > RECORDS_MAX:
        expected = f"at most {RECORDS_MAX} records"
        problems.add("records", "length", f"must have {expected}", expected)
    last = 0
    for place, number in enumerate(numbers[:RECORDS_MAX]):
        if number <= last:
            problems.add(f"records[{place}].seq", "order", f"must be higher than {last}", f"> {last}")
        last = max(last, number)


def _refused(problems: Problems) -> Rejected | None:
    details = problems.details()
    return Rejected("VALIDATION_ERROR", "the records are not valid", details[:100]) if details else None


def _instant(problems: Problems, field: str, text: str) -> datetime:
    try:
        return parse_rfc3339(text)
    except ValueError:
        problems.add(field, "format", "must be an RFC 3339 time with an offset", "an RFC 3339 time")
        return _EPOCH


def _maybe_instant(problems: Problems, field: str, text: str | None) -> datetime | None:
    return None if text is None else _instant(problems, field, text)


def _entry(problems: Problems, field: str, record: LedgerRecord) -> LedgerEntry:
    problems.sized(f"{field}.session_id", record.session_id, 1, _ID_MAX)
    last = 0
    for place, event in enumerate(record.events):
        if event.seq <= last:
            problems.add(f"{field}.events[{place}].seq", "order", f"must be higher than {last}", f"> {last}")
        last = max(last, event.seq)
    return LedgerEntry(
        seq=record.seq,
        session_id=record.session_id,
        session=None if record.session is None else _session(problems, field, record, record.session),
        events=tuple(
            _event(problems, f"{field}.events[{place}]", record.session_id, event)
            for place, event in enumerate(record.events)
        ),
        usage=None if record.usage is None else _usage(problems, field, record, record.usage),
    )


def _session(problems: Problems, field: str, record: LedgerRecord, body: SessionBody) -> NodeSession:
    where = f"{field}.session"
    for name in ("agent_id", "agent_label", "model_id"):
        problems.sized(f"{where}.{name}", getattr(body, name), 1, 1_000)
    for name in ("artifact_count", "runtime_ms"):
        value = getattr(body, name)
        if value is not None:
            problems.between(f"{where}.{name}", value, 0, _INT_MAX)
    values = msgspec.structs.asdict(body)
    values["started_at"] = _instant(problems, f"{where}.started_at", body.started_at)
    values["ended_at"] = _maybe_instant(problems, f"{where}.ended_at", body.ended_at)
    return NodeSession(session_id=record.session_id, stream_seq=record.seq, **values)


def _event(problems: Problems, field: str, session_id: str, body: EventBody) -> NodeSessionEvent:
    return NodeSessionEvent(
        session_id=session_id,
        seq=body.seq,
        event_type=body.event_type,
        at=_instant(problems, f"{field}.at", body.at),
        payload=body.payload,
        event_id=body.event_id,
    )


def _usage(problems: Problems, field: str, record: LedgerRecord, body: UsageBody) -> NodeUsage:
    where = f"{field}.usage"
    for name in _NUMBERS:
        value = getattr(body, name)
        if value is not None:
            problems.between(f"{where}.{name}", value, 0, _INT_MAX)
    if body.cost_usd is not None:
        problems.between(f"{where}.cost_usd", body.cost_usd, 0, 1e12)
    values = msgspec.structs.asdict(body)
    values["computed_at"] = _instant(problems, f"{where}.computed_at", body.computed_at)
    return NodeUsage(stream_seq=record.seq, usage=UsageRecord(session_id=record.session_id, **values))


def _window(problems: Problems, field: str, record: DeltaVRecord) -> DeltaVEntry:
    start = _instant(problems, f"{field}.window_start", record.window_start)
    end = _instant(problems, f"{field}.window_end", record.window_end)
    if end <= start:
        problems.add(f"{field}.window_end", "order", "must be behind window_start")
    for name in ("samples", "refused"):
        problems.between(f"{field}.{name}", getattr(record, name), 0, _INT_MAX)
    if record.value is not None:
        problems.between(f"{field}.value", record.value, 0, 1.7e308)
    for name in ("source", "confidence"):
        value = getattr(record, name)
        if value is not None:
            problems.sized(f"{field}.{name}", value, 1, 1_000)
    return DeltaVEntry(
        seq=record.seq,
        window=NodeDeltaV(
            window_start=start,
            window_end=end,
            value=record.value,
            samples=record.samples,
            refused=record.refused,
            source=record.source,
            confidence=record.confidence,
        ),
    )
