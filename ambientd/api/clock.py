"""`/api/v1/node/clock`: what this node knows of the time, and the operator's word for the wall clock."""

from ambientd.api.router import Access, Answer, Audited, Route, actor_of
from ambientd.core.rejection import Rejected
from ambientd.flows.trustedtime import KeptTime
from ambientd.ports.http import Request
from ambientd.ports.store import Store
from ambientd.wire.clock_messages import ClockAcceptRequest, ClockView
from ambientd.wire.routes import CLOCK, CLOCK_ACCEPT


def clock_routes(time: KeptTime, store: Store, audited: Audited) -> tuple[Route, ...]:
    """`GET` shows it, `POST …/accept` believes it."""

    async def show(request: Request) -> Answer:
        await time.load(store)
        return time.view()

    async def accept(request: Request, body: ClockAcceptRequest) -> Answer:
        actor, pid = actor_of(request.caller), request.caller.pid
        await time.load(store)
        answer = await time.accept(store, actor)
        if isinstance(answer, Rejected):
            audited(action="clock.accept", actor=actor, pid=pid, refused=answer.code)
        else:
            audited(action="clock.accept", actor=actor, pid=pid, wall=answer.wall)
        return answer

    return (
        Route(
            method="GET",
            path=CLOCK,
            handler=show,
            summary="What this node knows of the time, and whether it believes its wall clock.",
            answers={200: ClockView},
        ),
        Route(
            method="POST",
            path=CLOCK_ACCEPT,
            handler=accept,
            summary="Believes the wall clock as it is, also when that is earlier than what was seen.",
            access=Access.WRITE,
            body=ClockAcceptRequest,
            answers={200: ClockView},
            refusals=(409,),
            action="clock.accept",
        ),
    )
