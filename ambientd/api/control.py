"""`/api/control`: starting and ending sessions, for operators who may write."""

from collections.abc import Callable

import msgspec

from ambientd.api.router import Access, Answer, Route, actor_of
from ambientd.flows import sessions
from ambientd.flows.sessions import Agents
from ambientd.ports.clock import Clock, Ids
from ambientd.ports.control import SessionControl
from ambientd.ports.errors import Rejected
from ambientd.ports.http import Request
from ambientd.ports.store import Store
from ambientd.wire.messages import KillAnswer, KillRequest, SpawnAnswer, SpawnRequest
from ambientd.wire.routes import KILL, SPAWN


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """What the control routes need. `audited` writes the `[AUDIT]` log line of one action."""

    store: Store
    sessions: SessionControl
    agents: Callable[[], Agents]
    clock: Clock
    ids: Ids
    spawned: Callable[[], None]
    audited: Callable[..., None]


def control_routes(control: Control) -> tuple[Route, ...]:
    """`POST /api/control/spawn` and `/kill`."""

    async def spawn(request: Request, body: SpawnRequest) -> Answer:
        actor = actor_of(request.caller)
        answer = await sessions.spawn(
            body,
            agents=control.agents(),
            store=control.store,
            control=control.sessions,
            clock=control.clock,
            ids=control.ids,
            actor=actor,
        )
        _tell(control, "spawn", actor, request, answer)
        if isinstance(answer, SpawnAnswer):
            control.spawned()
        return answer

    async def kill(request: Request, body: KillRequest) -> Answer:
        actor = actor_of(request.caller)
        answer = await sessions.kill(
            body.session_id,
            store=control.store,
            control=control.sessions,
            clock=control.clock,
            actor=actor,
        )
        _tell(control, "kill", actor, request, answer)
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
    )


def _tell(
    control: Control, action: str, actor: str, request: Request, answer: SpawnAnswer | KillAnswer | Rejected
) -> None:
    if isinstance(answer, Rejected):
        control.audited(action=action, actor=actor, pid=request.caller.pid, refused=answer.code)
    else:
        control.audited(action=action, actor=actor, pid=request.caller.pid, session=answer.session_id)
