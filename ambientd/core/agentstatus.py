"""Status of local agents from their own sessions: failed > running > done > idle (R3.11–R3.18)."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from ambientd.config.schema import AgentConfig
from ambientd.core.records import UNKNOWN_MODEL, SessionRecord
from ambientd.core.timefmt import rfc3339_ms
from ambientd.wire.enums import AgentStatus, SessionStatus
from ambientd.wire.messages import AgentSession, AgentView

# An ended session speaks for its agent this long; without a window one old failure would stick for ever.
RECENT = timedelta(minutes=15)
SESSIONS_SHOWN = 50

_ORDER = {
    AgentStatus.FAILED: 0,
    AgentStatus.RUNNING: 1,
    AgentStatus.DONE: 2,
    AgentStatus.IDLE: 3,
}


def view_agents(
    agents: Mapping[str, AgentConfig],
    active: Iterable[SessionRecord],
    ended: Iterable[SessionRecord],
    now: datetime,
) -> list[AgentView]:
    """One row per configured agent, failed first, then by name; sessions of unknown agents are left out."""
    by_agent: dict[str, list[SessionRecord]] = defaultdict(list)
    for row in (*active, *ended):
        if row.gateway_session_id is not None:
            continue  # an agent of a gateway may have the same id
        by_agent[row.agent_id].append(row)
    return by_precedence([_view(agent, by_agent.get(agent.id, []), now) for agent in agents.values()])


def by_precedence(views: Iterable[AgentView]) -> list[AgentView]:
    """Failed first, then running, done, idle; by name within."""
    return sorted(views, key=lambda view: (_ORDER[view.status], view.name.casefold(), view.id, view.kind))


def _view(agent: AgentConfig, rows: list[SessionRecord], now: datetime) -> AgentView:
    rows = sorted(rows, key=_activity, reverse=True)
    recent = [row for row in rows if row.ended_at is not None and now - row.ended_at <= RECENT]
    failed = [row for row in recent if row.status is SessionStatus.FAILED]
    running = [row for row in rows if row.status is SessionStatus.RUNNING]
    queued = [row for row in rows if row.status is SessionStatus.QUEUED]
    done = [row for row in recent if row.status is SessionStatus.SUCCESS]
    status, shown, reason = AgentStatus.IDLE, None, "no recent session"
    if failed:
        status, shown = AgentStatus.FAILED, failed[0]
        reason = failed[0].error_message or failed[0].error_code or "session failed"
    elif running:
        status, shown = AgentStatus.RUNNING, running[0]
        reason = "active session" if len(running) == 1 else f"{len(running)} active sessions"
    elif queued:
        reason = "queued"
    elif done and recent[0].status is SessionStatus.SUCCESS:
        status, shown, reason = AgentStatus.DONE, done[0], "last session succeeded"
    since = _activity(shown) if shown else (_activity(rows[0]) if rows else None)
    return AgentView(
        id=agent.id,
        name=agent.name or agent.id,
        status=status,
        last_activity_at=rfc3339_ms(_activity(rows[0])) if rows else None,
        reason=reason,
        session_id=shown.session_id if shown else None,
        model=_model(shown, agent),
        task=_task(shown),
        since=rfc3339_ms(since) if since else None,
        running=len(running),
        queued=len(queued),
        sessions=[_session(row) for row in (*running, *queued)[:SESSIONS_SHOWN]],
    )


def _session(row: SessionRecord) -> AgentSession:
    return AgentSession(
        id=row.session_id,
        state=row.status.value,
        model=None if row.model_id == UNKNOWN_MODEL else row.model_id,
        since=rfc3339_ms(row.running_since or row.started_at),
        title=_task(row),
    )


def _activity(row: SessionRecord) -> datetime:
    return row.ended_at or row.running_since or row.started_at


def _model(row: SessionRecord | None, agent: AgentConfig) -> str | None:
    model = row.model_id if row else agent.model
    return None if model == UNKNOWN_MODEL else model


def _task(row: SessionRecord | None) -> str | None:
    if row is None:
        return None
    return row.task_title or _first_line(row.task_text or "") or None


def _first_line(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= 80 else line[:79] + "…"
