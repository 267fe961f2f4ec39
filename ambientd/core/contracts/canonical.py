"""The canonical session of an ingest: validated, typed, the same for every contract version."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from ambientd.wire.enums import TERMINAL, EventType, SessionStatus


class CanonicalSession(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was said of a session; None was not said. Instants are UTC, cut to milliseconds."""

    session_id: str
    agent_id: str
    status: SessionStatus
    started_at: datetime
    run_id: str | None = None
    agent_label: str | None = None
    model_id: str | None = None
    task_title: str | None = None
    task_text: str | None = None
    task_category: str | None = None
    ended_at: datetime | None = None
    artifact_count: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    source_version: str | None = None
    gateway_session_id: str | None = None  # no contract has it: only this node's own link to a gateway does

    @property
    def is_terminal(self) -> bool:
        """Whether this closes the session."""
        return self.status in TERMINAL


class CanonicalUsage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was reported of a session's usage; None was not reported, 0 was reported as 0."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    runtime_ms: int | None = None
    cost_usd: float | None = None
    provider: str | None = None


class CanonicalEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event. Without `seq` it follows what is there; without both it is known by its content."""

    event_type: EventType
    at: datetime
    payload: Mapping[str, Any]
    seq: int | None = None
    event_id: str | None = None


class CanonicalIngest(msgspec.Struct, frozen=True, kw_only=True):
    """One valid envelope.

    `version` is the contract it came by; `terms` tells how the sender calls a field (`agent_id` to
    `session.agentId`), for refusals that are found later. Neither is part of the content.
    """

    source: str
    session: CanonicalSession
    usage: CanonicalUsage = CanonicalUsage()
    events: tuple[CanonicalEvent, ...] = ()
    idempotency_key: str | None = None
    version: str = ""
    terms: Mapping[str, str] = {}

    def term(self, name: str) -> str:
        """The sender's path of a field of the session."""
        return self.terms.get(name, f"session.{name}")


_encoder = msgspec.json.Encoder(order="sorted")


def fingerprint(ingest: CanonicalIngest) -> str:
    """128 bits, as hex, of what an envelope says: equal content of any version and key order is equal."""
    content = (ingest.source, ingest.session, ingest.usage, ingest.events)
    return hashlib.sha256(_encoder.encode(content)).hexdigest()[:32]


def content_id(session_id: str, event: CanonicalEvent, occurrence: int) -> str:
    """The id of an event that came with neither id nor number: the same content has the same id.

    `occurrence` counts equal events of one envelope from 0, so that a sender may say the same thing twice.
    """
    content = (session_id, event.event_type, event.at, event.payload, occurrence)
    return "evt_" + hashlib.sha256(_encoder.encode(content)).hexdigest()[:24]
