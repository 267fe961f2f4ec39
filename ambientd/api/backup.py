"""`/api/v1/node/backup`: a consistent copy of this node, made while it works and fetched in pieces."""

from ambientd.api.router import Access, Answer, Audited, QueryParameter, Route, actor_of
from ambientd.core.rejection import Rejected
from ambientd.ports.backup import BackupControl
from ambientd.ports.http import Request, Response
from ambientd.wire.backup_messages import BackupRequest, BackupView
from ambientd.wire.routes import BACKUP

_OFFSET = QueryParameter(
    name="offset", doc="Where in the file the piece begins.", kind="integer", required=True, minimum=0
)


def backup_routes(control: BackupControl, audited: Audited) -> tuple[Route, ...]:
    """Orders, progress and content; all of them for those who may write, since a backup holds everything."""

    async def order(request: Request, body: BackupRequest) -> Answer:
        actor, pid = actor_of(request.caller), request.caller.pid
        answer = control.order(with_identity=body.with_identity, actor=actor)
        if isinstance(answer, Rejected):
            audited(action="backup", actor=actor, pid=pid, refused=answer.code)
        else:
            audited(
                action="backup",
                actor=actor,
                pid=pid,
                backup=answer.backup_id,
                with_identity=body.with_identity,
            )
        return answer

    async def view(request: Request) -> Answer:
        return control.view(request.params["backupId"])

    async def content(request: Request) -> Answer:
        data = await control.piece(request.params["backupId"], int(request.query["offset"]))
        if isinstance(data, Rejected):
            return data
        return Response(200, data, content_type="application/octet-stream")

    return (
        Route(
            method="POST",
            path=BACKUP,
            handler=order,
            summary="Begins a backup of the database and the configuration.",
            access=Access.WRITE,
            action="backup",
            body=BackupRequest,
            answers={200: BackupView},
        ),
        Route(
            method="GET",
            path=BACKUP + "/{backupId}",
            handler=view,
            summary="How far a backup is.",
            access=Access.WRITE,
            answers={200: BackupView},
        ),
        Route(
            method="GET",
            path=BACKUP + "/{backupId}/content",
            handler=content,
            summary="A piece of a finished backup, a tar file.",
            access=Access.WRITE,
            query=(_OFFSET,),
            answers={200: None},
        ),
    )
