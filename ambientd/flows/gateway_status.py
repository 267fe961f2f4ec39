"""The gateway and its agents as status shows them, from the view and the link; nothing is asked upstream."""

from datetime import datetime

import msgspec

from ambientd.core.gateway_view.rows import AgentEntry, SessionRow
from ambientd.core.gateway_view.view import GatewayView
from ambientd.core.gatewaytext import GatewaySnapshot
from ambientd.core.timefmt import from_ms, rfc3339_ms, to_ms
from ambientd.ports.gateway import LinkPhase, LinkState
from ambientd.wire.enums import AgentStatus
from ambientd.wire.messages import AgentSession, AgentView, GatewayStatus

GATEWAY = "gateway"
AWAY_REASON = "the gateway is not connected"
SESSIONS_SHOWN = 50


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How good the view's data are. `as_of` is their time; `kept` that they outlive a link just lost."""

    known: bool
    kept: bool
    as_of: datetime
    live: str | None
    trouble: str | None


def take_snapshot(view: GatewayView, link: LinkState, standing: Standing, now: datetime) -> GatewaySnapshot:
    """The seed's rules (R3.11-R3.26): within the grace the last data, then every agent idle."""
    now_ms = to_ms(now)
    if standing.known:
        agents = tuple(_agent(view, entry, now_ms) for entry in view.agents)
    else:
        agents = tuple(_idle(view, entry, now_ms) for entry in view.agents)
    return GatewaySnapshot(
        status=_status(view, link, standing, agents),
        agents=agents,
        as_of=standing.as_of if standing.kept else None,
    )


def _status(
    view: GatewayView, link: LinkState, standing: Standing, agents: tuple[AgentView, ...]
) -> GatewayStatus:
    connected = link.connected or standing.kept
    reason = link.reason or standing.trouble or (view.health.reason if connected else None)
    well = link.phase is LinkPhase.READY and view.health.ok is not False and standing.trouble is None
    heartbeat = view.last_heartbeat_ms
    return GatewayStatus(
        connected=connected,
        healthy=well and standing.known,
        phase=link.phase.value,
        url=link.url,
        since=rfc3339_ms(link.since),
        reason=reason,
        remedy=link.remedy,
        latency_ms=None if link.latency_ms is None else round(link.latency_ms),
        version=link.server_version,
        protocol=link.protocol,
        attempt=link.attempt or None,
        next_try_at=rfc3339_ms(link.next_try_at) if link.next_try_at else None,
        as_of=rfc3339_ms(standing.as_of),
        live=standing.live,
        agents=len(agents),
        active_sessions=sum(agent.running for agent in agents),
        last_heartbeat_at=_instant(heartbeat),
    )


def _instant(ms: int | None) -> str | None:
    if not ms:
        return None
    try:
        return rfc3339_ms(from_ms(ms))
    except ValueError:
        return None


def _agent(view: GatewayView, entry: AgentEntry, now_ms: int) -> AgentView:
    verdict = view.verdict(entry.id, now_ms)
    shown = verdict.shown
    return AgentView(
        id=entry.id,
        name=entry.name,
        status=verdict.status,
        last_activity_at=_instant(verdict.activity_ms),
        reason=verdict.reason,
        kind=GATEWAY,
        session_id=verdict.active[0].session_id if verdict.active else shown.session_id if shown else None,
        model=shown.model if shown and shown.model else entry.model,
        task=shown.title if shown else None,
        since=_instant(_since(shown) if shown else verdict.activity_ms),
        running=len(verdict.active),
        sessions=[_session(row) for row in verdict.active[:SESSIONS_SHOWN]],
    )


def _session(row: SessionRow) -> AgentSession:
    return AgentSession(
        id=row.session_id,
        state=AgentStatus.RUNNING.value,
        model=row.model,
        since=_instant(_since(row)),
        title=row.title,
    )


def _since(row: SessionRow) -> int | None:
    return row.ended_ms or row.interaction_ms or row.started_ms or row.activity_ms


def _idle(view: GatewayView, entry: AgentEntry, now_ms: int) -> AgentView:
    """What runs behind a gateway that is away nobody knows; nothing is guessed from what was."""
    activity = view.verdict(entry.id, now_ms).activity_ms
    return AgentView(
        id=entry.id,
        name=entry.name,
        status=AgentStatus.IDLE,
        last_activity_at=_instant(activity),
        reason=AWAY_REASON,
        kind=GATEWAY,
        model=entry.model,
    )
