"""`POST /api/v1/node/recost`: new prices on old rows."""

from ambientd.api.router import Access, Answer, Route, actor_of
from ambientd.flows.recost import Recosting, recost
from ambientd.ports.http import Request
from ambientd.wire.recost_messages import RecostAnswer, RecostRequest
from ambientd.wire.routes import RECOST


def recost_routes(recosting: Recosting) -> tuple[Route, ...]:
    """One route; a call does a stretch of rows, the client goes on with `next`."""

    async def order(request: Request, body: RecostRequest) -> Answer:
        return await recost(recosting, body, actor=actor_of(request.caller))

    return (
        Route(
            method="POST",
            path=RECOST,
            handler=order,
            summary="Costs estimated sessions anew with a price table, or says what would change.",
            access=Access.WRITE,
            body=RecostRequest,
            answers={200: RecostAnswer},
        ),
    )
