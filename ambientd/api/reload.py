"""`POST /api/v1/node/reload`: reads the configuration anew, and says what that changed."""

from collections.abc import Callable

from ambientd.api.router import Access, Answer, Audited, Route, actor_of
from ambientd.core.rejection import Rejected
from ambientd.ports.http import Request
from ambientd.wire.log_messages import ReloadView
from ambientd.wire.routes import RELOAD


def reload_routes(reload: Callable[[], ReloadView | Rejected], audited: Audited) -> tuple[Route, ...]:
    """The one route. `reload` keeps what is in force when the files cannot be used."""

    async def again(request: Request) -> Answer:
        answer = reload()
        actor, pid = actor_of(request.caller), request.caller.pid
        if isinstance(answer, Rejected):
            audited(action="reload", actor=actor, pid=pid, refused=answer.code)
        else:
            audited(action="reload", actor=actor, pid=pid, applied=answer.applied)
        return answer

    return (
        Route(
            method="POST",
            path=RELOAD,
            handler=again,
            summary="Reads the configuration files again and applies what can be applied.",
            access=Access.WRITE,
            answers={200: ReloadView},
            refusals=(409,),
            action="reload",
        ),
    )
