"""What has happened on this node lately: sessions, and changes of its links."""

from datetime import datetime, timedelta

from ambientd.core.records import AuditLine, SessionRecord
from ambientd.core.timefmt import rfc3339_ms
from ambientd.flows.connectivity import KIND
from ambientd.ports.store import Store, Transaction
from ambientd.wire.connectivity_messages import ActivityEvent, ActivityPage

SHOWN = timedelta(hours=24)


async def recent_activity(store: Store, now: datetime, limit: int) -> ActivityPage:
    """At most `limit` events of the last 24 hours, newest first. Raises StoreError when it is not ready."""
    begin = now - SHOWN

    def work(tx: Transaction) -> list[tuple[datetime, ActivityEvent]]:
        sessions = [*tx.ledger.active(), *tx.ledger.ended_since(begin, limit)]
        events = [event for session in sessions for event in _of_session(session)]
        return events + [_of_change(line) for line in tx.activity.latest(KIND, limit)]

    events = [one for one in await store.read(work) if one[0] >= begin]
    # Stable: of what happened in the same moment, an end stands before its start.
    events.sort(key=lambda one: one[0], reverse=True)
    return ActivityPage(events=[event for _, event in events[:limit]])


def _of_session(session: SessionRecord) -> list[tuple[datetime, ActivityEvent]]:
    found = []
    if session.ended_at is not None:
        detail = {"status": session.status.value}
        if session.error_code:
            detail["error_code"] = session.error_code
        found.append((session.ended_at, _session_event("session_ended", session, session.ended_at, detail)))
    detail = {"model_id": session.model_id}
    started = session.started_at
    return [*found, (started, _session_event("session_started", session, started, detail))]


def _session_event(name: str, session: SessionRecord, at: datetime, detail: dict[str, str]) -> ActivityEvent:
    return ActivityEvent(
        at=rfc3339_ms(at),
        event=name,
        detail=detail,
        session_id=session.session_id,
        agent_id=session.agent_id,
    )


def _of_change(line: AuditLine) -> tuple[datetime, ActivityEvent]:
    event = ActivityEvent(at=rfc3339_ms(line.at), event=KIND, detail=dict(line.detail), audit_seq=line.seq)
    return line.at, event
