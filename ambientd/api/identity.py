"""`/api/v1/node/identity`: who the node is, and what an operator does about it."""

from collections.abc import Callable

from ambientd.api.router import Access, Answer, Audited, Route, actor_of
from ambientd.core.rejection import Rejected
from ambientd.flows import identity as flow
from ambientd.flows.identity import Identifying
from ambientd.ports.http import Request
from ambientd.wire.audit_routes import IDENTITY, IDENTITY_KEEP, IDENTITY_RENEW
from ambientd.wire.identity_messages import IdentityView


def identity_routes(
    identifying: Identifying, audited: Audited, changed: Callable[[], None]
) -> tuple[Route, ...]:
    """Three routes. `changed` hears of a key that is another one, or may be used again."""

    async def show(_request: Request) -> Answer:
        return await flow.show(identifying)

    async def keep(request: Request) -> Answer:
        return tell(request, flow.KEEP, await flow.keep(identifying, actor=actor_of(request.caller)))

    async def renew(request: Request) -> Answer:
        return tell(request, flow.RENEW, await flow.renew(identifying, actor=actor_of(request.caller)))

    def tell(request: Request, action: str, answer: IdentityView | Rejected) -> Answer:
        actor, pid = actor_of(request.caller), request.caller.pid
        if isinstance(answer, Rejected):
            audited(action=action, actor=actor, pid=pid, refused=answer.code)
            return answer
        audited(action=action, actor=actor, pid=pid, key=answer.key, changed=answer.changed)
        if answer.changed:
            changed()
        return answer

    return (
        Route(
            method="GET",
            path=IDENTITY,
            handler=show,
            summary="The node's public key, whether it may be used, and the keys before it.",
            answers={200: IdentityView},
        ),
        Route(
            method="POST",
            path=IDENTITY_KEEP,
            handler=keep,
            summary="Binds the key to this host, after the state was moved here.",
            access=Access.WRITE,
            action=flow.KEEP,
            answers={200: IdentityView},
            refusals=(409,),
        ),
        Route(
            method="POST",
            path=IDENTITY_RENEW,
            handler=renew,
            summary="Makes a new key; the old one is kept beside it.",
            access=Access.WRITE,
            action=flow.RENEW,
            answers={200: IdentityView},
            refusals=(409,),
        ),
    )
