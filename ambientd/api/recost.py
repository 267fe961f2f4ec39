"""`POST /api/v1/node/recost`: new prices on old rows."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ambientd.api.router import Access, Answer, Audited, Route, actor_of
from ambientd.core.rejection import Rejected
from ambientd.ports.http import Request
from ambientd.wire.recost_messages import RecostAnswer, RecostRequest
from ambientd.wire.routes import RECOST

if TYPE_CHECKING:
    from ambientd.flows.recost import Recosting


def recost_routes(recosting: "Callable[[], Recosting]", audited: Audited) -> tuple[Route, ...]:
    """One route; a call does a stretch of rows, the client goes on with `next`.

    `recosting` is called when somebody asks: nothing of it is loaded before.
    """

    async def order(request: Request, body: RecostRequest) -> Answer:
        from ambientd.flows.recost import recost

        actor, pid = actor_of(request.caller), request.caller.pid
        answer = await recost(recosting(), body, actor=actor)
        if isinstance(answer, Rejected):
            audited(action="recost", actor=actor, pid=pid, refused=answer.code)
        else:
            audited(
                action="recost",
                actor=actor,
                pid=pid,
                version=answer.version,
                changed=answer.changed,
                dry_run=body.dry_run,
            )
        return answer

    return (
        Route(
            method="POST",
            path=RECOST,
            handler=order,
            summary="Costs estimated sessions anew with a price table, or says what would change.",
            access=Access.WRITE,
            action="recost",
            body=RecostRequest,
            answers={200: RecostAnswer},
        ),
    )
