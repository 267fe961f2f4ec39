"""`/api/control`: starting and ending sessions and choosing models, for operators who may write."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from ambientd.api.router import Access, Answer, Route, actor_of
from ambientd.flows import control as flow
from ambientd.flows.control import Controls
from ambientd.flows.preferred_models import PreferredModels
from ambientd.flows.sessions import Agents
from ambientd.ports.clock import Clock, Ids
from ambientd.ports.control import SessionControl
from ambientd.ports.errors import Rejected
from ambientd.ports.http import Request
from ambientd.ports.store import Store
from ambientd.wire.messages import (
    KillAnswer,
    KillRequest,
    ModelAnswer,
    ModelRequest,
    SpawnAnswer,
    SpawnRequest,
)
from ambientd.wire.routes import KILL, MODEL, SPAWN

if TYPE_CHECKING:
    from ambientd.flows.gateway_control import GatewayControl


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """What the control routes need. `audited` writes the `[AUDIT]` log line of one action."""

    store: Store
    sessions: SessionControl
    agents: Callable[[], Agents]
    clock: Clock
    ids: Ids
    spawned: Callable[[], None]
    audited: Callable[..., None]
    models: PreferredModels = msgspec.field(default_factory=PreferredModels)
    gateway: "GatewayControl | None" = None

    @property
    def controls(self) -> Controls:
        """What the flows need of it."""
        return Controls(
            store=self.store,
            sessions=self.sessions,
            agents=self.agents,
            clock=self.clock,
            ids=self.ids,
            models=self.models,
            gateway=self.gateway,
        )


def control_routes(control: Control) -> tuple[Route, ...]:
    """`POST /api/control/spawn`, `/kill` and `/model`."""
    controls = control.controls

    async def spawn(request: Request, body: SpawnRequest) -> Answer:
        answer = await flow.spawn(body, controls, actor=actor_of(request.caller))
        told = {} if isinstance(answer, Rejected) else {"session": answer.session_id}
        await _tell(control, controls, request, answer, action="spawn", subject=body.agent_id, **told)
        if isinstance(answer, SpawnAnswer):
            control.spawned()
        return answer

    async def kill(request: Request, body: KillRequest) -> Answer:
        answer = await flow.kill(body.session_id, controls, actor=actor_of(request.caller))
        told = {} if isinstance(answer, Rejected) else {"session": answer.session_id}
        await _tell(control, controls, request, answer, action="kill", subject=body.session_id, **told)
        return answer

    async def model(request: Request, body: ModelRequest) -> Answer:
        answer = await flow.set_model(body, controls, actor=actor_of(request.caller))
        told = {} if isinstance(answer, Rejected) else {"agent": answer.agent_id, "model": answer.model}
        await _tell(control, controls, request, answer, action="model", subject=body.agent_id, **told)
        return answer

    return (
        Route(
            method="POST",
            path=SPAWN,
            handler=spawn,
            summary="Starts a session; it is durable when this answers.",
            access=Access.WRITE,
            body=SpawnRequest,
            action="spawn",
            answers={200: SpawnAnswer},
        ),
        Route(
            method="POST",
            path=KILL,
            handler=kill,
            summary="Ends a session; the proof is its terminal status in the ledger.",
            access=Access.WRITE,
            body=KillRequest,
            action="kill",
            answers={200: KillAnswer},
        ),
        Route(
            method="POST",
            path=MODEL,
            handler=model,
            summary="Keeps an agent's preferred model, and brings it to the gateway as far as it may.",
            access=Access.WRITE,
            body=ModelRequest,
            action="model",
            answers={200: ModelAnswer},
        ),
    )


async def _tell(
    control: Control,
    controls: Controls,
    request: Request,
    answer: SpawnAnswer | KillAnswer | ModelAnswer | Rejected,
    *,
    action: str,
    subject: str,
    **told: str,
) -> None:
    """The `[AUDIT]` line of every action, and the record of a refused one."""
    actor = actor_of(request.caller)
    if isinstance(answer, Rejected):
        control.audited(action=action, actor=actor, pid=request.caller.pid, refused=answer.code)
        await flow.record_refusal(controls, action, actor=actor, subject=subject, refused=answer)
    else:
        control.audited(action=action, actor=actor, pid=request.caller.pid, **told)
