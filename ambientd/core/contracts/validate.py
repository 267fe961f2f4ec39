"""The canonical validator: every problem of an adapted payload, in one fixed order, before any transform."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from ambientd.core.contracts import checks, names, words
from ambientd.core.contracts.adapters import Adapted, Given, Section
from ambientd.core.contracts.canonical import CanonicalEvent, CanonicalSession, CanonicalUsage
from ambientd.core.contracts.problems import Found
from ambientd.wire.enums import TERMINAL, EventType, SessionStatus

Check = Callable[[Given, Found], Any]


def _title(given: Given, found: Found) -> str | None:
    return checks.prose(given, found, checks.TITLE_MAX)


def _task(given: Given, found: Found) -> str | None:
    return checks.prose(given, found, checks.TEXT_MAX)


def _error_text(given: Given, found: Found) -> str | None:
    return checks.prose(given, found, checks.ERROR_TEXT_MAX)


def _runtime(given: Given, found: Found) -> int | None:
    return checks.count(given, found, checks.RUNTIME_MAX_MS)


def _status(given: Given, found: Found) -> SessionStatus | None:
    if not isinstance(given.value, str):
        found.wrong_type(given.path, "string")
        return None
    status = words.status_of(given.value)
    if status is None:
        _not_a_word(given, found, ", ".join(SessionStatus))
    return status


def _event_type(given: Given, found: Found) -> EventType | None:
    if not isinstance(given.value, str):
        found.wrong_type(given.path, "string")
        return None
    kind = words.event_type_of(given.value)
    if kind is None:
        _not_a_word(given, found, ", ".join(EventType))
    return kind


def _not_a_word(given: Given, found: Found, expected: str) -> None:
    if given.value == "" or given.value.isspace():
        found.add(given.path, "empty", "must not be empty", expected)
    else:
        found.add(given.path, "enum", "is not a word of this contract", expected)


def _line(given: Given, found: Found) -> str | None:
    return checks.line(given, found)


def _optional(given: Given, found: Found) -> str | None:
    return checks.optional_line(given, found)


def _count(given: Given, found: Found) -> int | None:
    return checks.count(given, found)


# In the order in which problems are told.
_SESSION: dict[str, Check] = {
    "id": _line,
    "agent_id": _line,
    "state": _status,
    "started_at": checks.instant,
    "run_id": _optional,
    "agent_label": _optional,
    "model_id": _optional,
    "task_title": _title,
    "task_text": _task,
    "task_category": _optional,
    "ended_at": checks.instant,
    "terminal_at": checks.instant,
    "artifact_count": _count,
    "error_code": _optional,
    "error_message": _error_text,
    "source_version": _optional,
}
_USAGE: dict[str, Check] = {
    "prompt_tokens": _count,
    "completion_tokens": _count,
    "total_tokens": _count,
    "cache_read_tokens": _count,
    "cache_write_tokens": _count,
    "runtime_ms": _runtime,
    "cost_usd": checks.amount,
    "provider": _optional,
}
_KIND = {"event_type": "string", "event_ts": "string"}


def validate(
    adapted: Adapted, found: Found
) -> tuple[CanonicalSession, CanonicalUsage, tuple[CanonicalEvent, ...]] | None:
    """The canonical values, or None after every problem went to `found`."""
    session = _session(adapted.session, found) if adapted.has_session else None
    usage = _fields(adapted.session, _USAGE, found)
    events = _events(adapted, None if session is None else session.session_id, found)
    if found or session is None:
        return None
    return session, CanonicalUsage(**usage), events


def _fields(section: Section, table: dict[str, Check], found: Found) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, check in table.items():
        given = section.values.get(name)
        if given is not None:
            value = check(given, found)
            if value is not None:
                values[name] = value
    return values


def _session(section: Section, found: Found) -> CanonicalSession | None:
    values: dict[str, Any] = {}
    for name, check in _SESSION.items():
        given = section.values.get(name)
        if given is not None:
            values[name] = check(given, found)
        elif name in names.REQUIRED_SESSION:
            found.required(section.path_of(names.SESSION, name), "string")
    _check_end(section, values, found)
    if any(values.get(name) is None for name in names.REQUIRED_SESSION):
        return None
    ended_at, terminal_at = values.pop("ended_at", None), values.pop("terminal_at", None)
    status = values.pop("state")
    if status in TERMINAL:
        values["ended_at"] = ended_at or terminal_at
    return CanonicalSession(session_id=values.pop("id"), status=status, **values)


def _check_end(section: Section, values: dict[str, Any], found: Found) -> None:
    """An end comes after its start, and only in a state that has one."""
    started, status = values.get("started_at"), values.get("state")
    for name in ("ended_at", "terminal_at"):
        at = values.get(name)
        if at is None:
            continue
        path = section.values[name].path
        if isinstance(started, datetime) and at < started:
            found.add(path, "order", "lies before the start", "not before the start")
        elif name == "ended_at" and status is not None and status not in TERMINAL:
            found.add(path, "state", f"cannot be known while the session is {status}", "a terminal state")


def _events(adapted: Adapted, session_id: str | None, found: Found) -> tuple[CanonicalEvent, ...]:
    numbers: set[int] = set()
    ids: set[str] = set()
    events = []
    for section in adapted.events:
        event = _event(section, session_id, found)
        if event is None:
            continue
        if event.seq is not None and event.seq in numbers:
            found.add(section.values["seq"].path, "duplicate", "is the number of an event before it")
        if event.event_id is not None and event.event_id in ids:
            found.add(section.values["event_id"].path, "duplicate", "is the id of an event before it")
        if event.seq is not None:
            numbers.add(event.seq)
        if event.event_id is not None:
            ids.add(event.event_id)
        events.append(event)
    return tuple(events)


def _event(section: Section, session_id: str | None, found: Found) -> CanonicalEvent | None:
    given = section.values
    for name in names.REQUIRED_EVENT:
        if name not in given:
            found.required(section.path_of(names.EVENT, name), _KIND[name])
    owner = given.get("session_id")
    if owner is not None and session_id is not None and owner.value != session_id:
        found.add(owner.path, "mismatch", "is not the id of this session", "the id of the session")
    event_id = checks.line(given["event_id"], found) if "event_id" in given else None
    seq = checks.count(given["seq"], found, checks.COUNT_MAX, lowest=1) if "seq" in given else None
    kind = _event_type(given["event_type"], found) if "event_type" in given else None
    at = checks.instant(given["event_ts"], found) if "event_ts" in given else None
    payload = checks.payload(given["payload"], found) if "payload" in given else {}
    if kind is None or at is None or payload is None:
        return None
    return CanonicalEvent(event_type=kind, at=at, payload=payload, seq=seq, event_id=event_id)
