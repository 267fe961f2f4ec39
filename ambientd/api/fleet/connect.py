"""Connect sessions over HTTP."""

from ambientd.api.fleet.answers import created
from ambientd.api.fleet.principal import Person, for_people
from ambientd.api.fleet.tasks import task_id_of
from ambientd.api.fleet.views import view_session
from ambientd.api.router import Access, Answer, Route
from ambientd.core.fleet.records import ConnectSession
from ambientd.flows.fleet.connect import Connect
from ambientd.flows.fleet.tasks import NO_TASK
from ambientd.ports.errors import Rejected
from ambientd.ports.http import Request
from ambientd.wire.fleet_api_messages import ConnectInfo, ConnectStart, ConnectStarted

CONNECT = "/api/v1/connect-sessions"
ONE = CONNECT + "/{session_id}"


def connect_routes(connect: Connect) -> tuple[Route, ...]:
    """All of them: a requester sees their own sessions only."""

    async def start(person: Person, _request: Request, body: ConnectStart) -> Answer:
        task_id = task_id_of(body.task_id)
        if task_id is None:
            return NO_TASK
        started = await connect.start(person.user_id, task_id, body.tunnel_protocol)
        if isinstance(started, Rejected):
            return started
        return created(ConnectStarted(view_session(started.session), started.session_token))

    async def get(person: Person, request: Request) -> Answer:
        return _view(await connect.get(person.user_id, request.params["session_id"]))

    async def beat(person: Person, request: Request) -> Answer:
        return _view(await connect.beat(person.user_id, request.params["session_id"]))

    async def stop(person: Person, request: Request) -> Answer:
        return _view(await connect.stop(person.user_id, request.params["session_id"]))

    return (
        Route(
            method="POST",
            path=CONNECT + "/start",
            handler=for_people(start),
            summary="Begins the session that a running connect_only task describes.",
            access=Access.WRITE,
            body=ConnectStart,
            answers={201: ConnectStarted},
            refusals=(404, 409),
        ),
        Route(
            method="GET",
            path=ONE,
            handler=for_people(get),
            summary="One connect session.",
            answers={200: ConnectInfo},
        ),
        Route(
            method="POST",
            path=ONE + "/heartbeat",
            handler=for_people(beat),
            summary="A sign of life; the answer may name another node.",
            access=Access.WRITE,
            answers={200: ConnectInfo},
        ),
        Route(
            method="POST",
            path=ONE + "/stop",
            handler=for_people(stop),
            summary="Ends a session, and its task with it.",
            access=Access.WRITE,
            answers={200: ConnectInfo},
        ),
    )


def _view(session: ConnectSession | Rejected) -> Answer:
    return session if isinstance(session, Rejected) else view_session(session)
