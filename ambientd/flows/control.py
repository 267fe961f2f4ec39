"""Kill, spawn and model, for whoever runs the agent: this node, or the gateway behind it.

What only a gateway needs is loaded where one is configured: others do not pay for it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from ambientd.config.schema import AgentConfig
from ambientd.core.records import AuditEntry
from ambientd.core.rejection import Rejected, reject
from ambientd.core.text import printable
from ambientd.flows import sessions
from ambientd.flows.preferred_models import GATEWAY, LOCAL, PreferredModels
from ambientd.flows.sessions import Agents, is_short_line
from ambientd.ports.clock import Clock, Ids
from ambientd.ports.control import SessionControl
from ambientd.ports.gateway import LinkPhase
from ambientd.ports.store import Store, Transaction
from ambientd.wire.messages import (
    ErrorDetail,
    KillAnswer,
    ModelAnswer,
    ModelRequest,
    SpawnAnswer,
    SpawnRequest,
)

if TYPE_CHECKING:
    from ambientd.core.gateway_view.rows import AgentEntry
    from ambientd.flows.gateway_control import GatewayControl

SUBJECT_MAX = 128


class Controls(msgspec.Struct, frozen=True, kw_only=True):
    """Both sides. `agents` are the node's own with their preferred models; `gateway` may be absent."""

    store: Store
    sessions: SessionControl
    agents: Callable[[], Agents]
    clock: Clock
    ids: Ids
    models: PreferredModels
    gateway: "GatewayControl | None" = None


async def kill(fragment: str, controls: Controls, *, actor: str) -> KillAnswer | Rejected:
    """Ends a session, whoever runs it; raises as the flow of its side does."""
    if not fragment.strip():
        return reject("VALIDATION_ERROR", "no session is named", ("sessionId", "empty", "names a session"))
    gateway = controls.gateway
    if gateway is not None:
        from ambientd.flows import gateway_control

        seen = gateway.view.find(fragment)
        target = await controls.store.read(lambda tx: gateway_control.find_target(tx, fragment, seen))
        if isinstance(target, Rejected):
            return _perhaps_away(target, gateway) if target.code == "NOT_FOUND" else target
        if target.gateway_session_id is not None:
            return await gateway_control.kill(target, gateway, actor=actor)
        fragment = target.session_id
    return await sessions.kill(
        fragment,
        store=controls.store,
        control=controls.sessions,
        clock=controls.clock,
        actor=actor,
    )


def _perhaps_away(unknown: Rejected, gateway: "GatewayControl") -> Rejected:
    """What is unknown here may be known to a gateway that cannot be asked, or has not been yet."""
    if gateway.link.state.phase is LinkPhase.OFF:
        return unknown
    if gateway.link.state.phase is LinkPhase.READY:
        if gateway.view.agents:
            return unknown
        return reject("GATEWAY_UNAVAILABLE", f"{unknown.message}, and the gateway's are not listed yet")
    why = gateway.link.state.reason or gateway.link.state.phase.value
    return reject("GATEWAY_UNAVAILABLE", f"{unknown.message}, and the gateway is not there to ask: {why}")


async def spawn(request: SpawnRequest, controls: Controls, *, actor: str) -> SpawnAnswer | Rejected:
    """Starts a session of a local agent or one of the gateway; raises as the flow of its side does."""
    agent = choose_agent(request.agent_id, controls)
    if isinstance(agent, Rejected):
        return agent
    if agent is not None and not isinstance(agent, AgentConfig) and controls.gateway is not None:
        from ambientd.flows import gateway_control

        return await gateway_control.spawn(request, agent, controls.gateway, actor=actor)
    agents = controls.agents()
    wanted = agent.id if agent is not None else request.agent_id
    return await sessions.spawn(
        msgspec.structs.replace(request, agent_id=wanted),
        agents=agents,
        store=controls.store,
        control=controls.sessions,
        clock=controls.clock,
        ids=controls.ids,
        actor=actor,
    )


def choose_agent(agent_id: str, controls: Controls) -> "AgentConfig | AgentEntry | Rejected | None":
    """The agent that is meant; None when nobody but the local agents could be, and none of them is."""
    if not agent_id.strip():
        return reject("VALIDATION_ERROR", "no agent is named", ("agentId", "empty", "names an agent"))
    kind, colon, rest = agent_id.partition(":")
    agents, gateway = controls.agents(), controls.gateway
    own = agents.get(agent_id)
    theirs = None if gateway is None else gateway.view.agent(agent_id)
    if colon and own is None and theirs is None:
        own = agents.get(rest) if kind == LOCAL else None
        theirs = gateway.view.agent(rest) if gateway is not None and kind == GATEWAY else None
    if own is not None and theirs is not None:
        details = tuple(
            ErrorDetail(f"{side}:{agent_id}", "candidate", text)
            for side, text in ((LOCAL, "runs on this node"), (GATEWAY, "runs at the gateway"))
        )
        return Rejected("AMBIGUOUS", f"two agents are called {agent_id[:64]!r}", details)
    if own is not None or theirs is not None or gateway is None:
        return own or theirs
    known = sorted([*agents, *(entry.id for entry in gateway.view.agents)])
    unknown = reject(
        "NOT_FOUND",
        f"no agent is called {agent_id[:64]!r}",
        ("agentId", "unknown", f"no agent has this id; agents: {', '.join(known) or 'none is known'}"),
    )
    return _perhaps_away(unknown, gateway)


async def set_model(request: ModelRequest, controls: Controls, *, actor: str) -> ModelAnswer | Rejected:
    """An agent's preferred model; raises as the flow of its side does."""
    agent = choose_agent(request.agent_id, controls)
    if isinstance(agent, Rejected):
        return agent
    if not is_short_line(request.model) or not request.model.strip():
        return reject("VALIDATION_ERROR", "no model is named", ("model", "bad_text", "one line, not empty"))
    if isinstance(agent, AgentConfig):
        return await _set_local(request.model, agent, controls, actor)
    if agent is None or controls.gateway is None:
        return reject("NOT_FOUND", f"no agent is called {request.agent_id[:64]!r}")
    from ambientd.flows import gateway_control

    return await gateway_control.set_model(request, agent, controls.gateway, actor=actor)


async def _set_local(
    model: str, agent: AgentConfig, controls: Controls, actor: str
) -> ModelAnswer | Rejected:
    if agent.models and model not in agent.models:
        allowed = ", ".join(agent.models)
        detail = ErrorDetail("model", "not_allowed", "not a model of this agent", expected=allowed)
        return Rejected("VALIDATION_ERROR", "the model cannot be used", (detail,))
    entry = AuditEntry(
        kind="control.model",
        at=controls.clock.now(),
        actor=actor,
        subject=agent.id,
        detail={"agent": agent.id, "kind": LOCAL, "model": model},
    )

    def work(tx: Transaction) -> int:
        PreferredModels.write(tx, LOCAL, agent.id, model)
        return tx.audit.append(entry)

    audit_id = await controls.store.write(work)
    controls.models.remember(LOCAL, agent.id, model)
    return ModelAnswer(
        ok=True, agent_id=agent.id, model=model, applied=["spawns"], sessions=0, audit_id=audit_id
    )


UNNAMED = "unknown"


async def record_refusal(
    controls: Controls, action: str, *, actor: str, subject: str, refused: Rejected
) -> None:
    """A refused action in the audit: who wanted what, without prompts. Raises what `Store.write` raises.

    What names nothing here may be anything, a secret pasted into the wrong place too, and is not kept.
    """
    names_something = refused.code not in ("NOT_FOUND", "VALIDATION_ERROR")
    entry = AuditEntry(
        kind=f"control.{action}.refused",
        at=controls.clock.now(),
        actor=actor,
        subject=printable(subject)[:SUBJECT_MAX] if names_something else UNNAMED,
        detail={"code": refused.code},
    )
    await controls.store.write(lambda tx: tx.audit.append(entry))
