"""What a later ingest of a session may change: identity never, status only forward, the rest fills in.

A message of a later state than the stored one carries newer truth and replaces what it names. One of the
same state adds what is missing, and while the session is open its counters may grow. One of an earlier
state came late and only adds what is missing. So the order of arrival and repeated sending do not matter
within a state, and a session that has ended is never changed back (rulings 8 and 9).
"""

from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any, NamedTuple

import msgspec

from ambientd.core.contracts.canonical import CanonicalIngest, CanonicalUsage
from ambientd.core.records import UNKNOWN_MODEL
from ambientd.core.rejection import Rejected
from ambientd.core.telemetry import Span
from ambientd.core.timefmt import rfc3339_ms
from ambientd.wire.enums import TERMINAL, SessionStatus
from ambientd.wire.messages import ErrorDetail

_RANK = {SessionStatus.QUEUED: 0, SessionStatus.RUNNING: 1}
_TERMINAL_RANK = 2
_COUNTERS = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "runtime_ms",
    "cost_usd",
)


class StoredSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session as the ledger holds it; `source` is None for the node's own."""

    session_id: str
    run_id: str | None
    agent_id: str
    agent_label: str
    model_id: str
    task_title: str | None
    task_text: str | None
    task_category: str | None
    status: SessionStatus
    started_at: datetime
    ended_at: datetime | None
    runtime_ms: int | None
    running_since: datetime | None
    artifact_count: int
    error_code: str | None
    error_message: str | None
    source_version: str | None
    source: str | None
    gateway_session_id: str | None = None


class Mode(Enum):
    """How the values of a message meet those that are stored."""

    REPLACE = auto()
    GROW = auto()
    FILL = auto()


def rank(status: SessionStatus) -> int:
    """How far along its life a session is."""
    return _RANK.get(status, _TERMINAL_RANK)


def mode_of(before: SessionStatus, said: SessionStatus) -> Mode:
    """How a message of one state meets a session in another."""
    if rank(said) > rank(before):
        return Mode.REPLACE
    if rank(said) == rank(before) and before not in TERMINAL:
        return Mode.GROW
    return Mode.FILL


def conflict(ingest: CanonicalIngest, *details: tuple[str, str]) -> Rejected:
    """A refusal of something that contradicts the record.

    Details are (field of the session, or `events[n]`; message).
    """
    return Rejected(
        "IDEMPOTENCY_CONFLICT",
        f"session {ingest.session.session_id!r} is recorded otherwise; nothing was written",
        tuple(ErrorDetail(_path(ingest, name), "conflict", text) for name, text in details),
    )


def _path(ingest: CanonicalIngest, name: str) -> str:
    if name.startswith("events["):
        return ingest.terms.get("events", "events") + name.removeprefix("events")
    return ingest.term(name)


def contradiction(stored: StoredSession, ingest: CanonicalIngest) -> Rejected | None:
    """The refusal of a message that names another identity, or another end, than the record (R3.173)."""
    said, found = ingest.session, []
    if said.agent_id != stored.agent_id:
        found.append(("agent_id", "is another agent than the recorded one"))
    if said.started_at != stored.started_at:
        found.append(("started_at", f"is another start than the recorded {rfc3339_ms(stored.started_at)}"))
    if said.run_id is not None and stored.run_id is not None and said.run_id != stored.run_id:
        found.append(("run_id", "is another run than the recorded one"))
    if said.status in TERMINAL and stored.status in TERMINAL and said.status is not stored.status:
        found.append(("state", f"the session has already ended: {stored.status}"))
    rejected = conflict(ingest, *found) if found else None
    if ingest.source == stored.source:
        return rejected
    owner = "this node itself" if stored.source is None else "another source"
    detail = ErrorDetail("source", "conflict", f"the session was recorded by {owner}")
    rejected = rejected or conflict(ingest)
    return msgspec.structs.replace(rejected, details=(*rejected.details, detail))


class Step(NamedTuple):
    """What becomes of the session's row: its new values by column, empty when nothing changes."""

    columns: dict[str, Any]
    status: SessionStatus
    model_id: str
    ended_at: datetime | None


def advance(stored: StoredSession, ingest: CanonicalIngest) -> Step:
    """The columns that change; runtime and artifacts are the caller's, who knows usage and events."""
    said, mode = ingest.session, mode_of(stored.status, ingest.session.status)
    wish: dict[str, Any] = {
        name: getattr(said, name)
        for name in ("run_id", "task_title", "task_text", "task_category", "error_code", "error_message")
    }
    wish["source_version"] = said.source_version
    wish["agent_label"] = said.agent_label
    wish["model_id"] = said.model_id
    columns = {
        name: value
        for name, value in wish.items()
        if value is not None and value != getattr(stored, name) and _may_set(stored, name, mode)
    }
    status = said.status if mode is Mode.REPLACE else stored.status
    if status is not stored.status:
        columns["status"] = status
    if status is SessionStatus.RUNNING and stored.running_since is None:
        columns["running_since"] = stored.started_at
    ended_at = stored.ended_at or said.ended_at
    return Step(columns, status, columns.get("model_id", stored.model_id), ended_at)


def _may_set(stored: StoredSession, name: str, mode: Mode) -> bool:
    value = getattr(stored, name)
    if name == "model_id" and value == UNKNOWN_MODEL:
        return True
    if name == "agent_label" and value == stored.agent_id:
        return True  # the label was made up from the id
    return not value or (mode is Mode.REPLACE and name != "run_id")


def merge_usage(before: CanonicalUsage, said: CanonicalUsage, mode: Mode) -> CanonicalUsage:
    """What is known to have been reported after this message."""
    values: dict[str, Any] = {}
    for name in before.__struct_fields__:
        old, new = getattr(before, name), getattr(said, name)
        if new is None or old is None:
            values[name] = old if new is None else new
        elif mode is Mode.REPLACE:
            values[name] = new
        else:
            values[name] = max(old, new) if mode is Mode.GROW and name in _COUNTERS else old
    return CanonicalUsage(**values)


class End(NamedTuple):
    """When a closed session ended, and the span from which its runtime may be derived."""

    at: datetime
    span: Span


def end_of(ingest: CanonicalIngest, stored: datetime | None, runtime_ms: int | None, at: datetime) -> End:
    """The end as told; else from the runtime, the last event, or the moment of arrival `at` (Q51).

    The moment of arrival says nothing about how long a session ran: a backfill may come years later.
    """
    start = ingest.session.started_at
    told = stored or ingest.session.ended_at
    if told is not None:
        return End(told, Span(start, told))
    if runtime_ms is not None:
        return End(start + timedelta(milliseconds=runtime_ms), Span(start, None))
    last = max((event.at for event in ingest.events), default=start)
    if last > start:
        return End(last, Span(start, last, certain=False))
    return End(max(start, at), Span(start, None))
