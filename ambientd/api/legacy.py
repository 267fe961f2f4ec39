"""The JSON store of the earlier generation: import, verification, and the drift diagnostic."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ambientd.api.router import Access, Answer, Audited, QueryParameter, Route, actor_of
from ambientd.core.rejection import Rejected
from ambientd.ports.http import Request
from ambientd.wire.legacy_messages import (
    ImportDriftView,
    LegacyComparison,
    LegacyImportAnswer,
    LegacyImportRequest,
    LegacyOutcome,
    LegacyVerifyRequest,
)
from ambientd.wire.routes import IMPORT_DRIFT, LEGACY_IMPORT, LEGACY_VERIFY

if TYPE_CHECKING:
    from ambientd.flows.legacy import Importing

SAMPLE_DEFAULT = 1_000
SAMPLE_MAX = 100_000

_SAMPLE = QueryParameter(
    name="sample",
    doc="How many sessions are compared, spread evenly.",
    kind="integer",
    minimum=1,
    maximum=SAMPLE_MAX,
)


def legacy_routes(importing: "Callable[[], Importing]", audited: Audited) -> tuple[Route, ...]:
    """Two routes that take records of a client's files, one that compares the configured files.

    `importing` is called when somebody asks: nothing of it is loaded before.
    """

    async def take(request: Request, body: LegacyImportRequest) -> Answer:
        from ambientd.flows.legacy import import_batch

        actor, pid = actor_of(request.caller), request.caller.pid
        answer = await import_batch(importing(), body, actor=actor)
        if isinstance(answer, Rejected):
            audited(action="ledger.import", actor=actor, pid=pid, refused=answer.code)
        else:
            written = sum(result.outcome is LegacyOutcome.WRITTEN for result in answer.results)
            audited(
                action="ledger.import",
                actor=actor,
                pid=pid,
                records=len(body.records),
                written=written,
                dry_run=body.dry_run,
            )
        return answer

    async def verify(_request: Request, body: LegacyVerifyRequest) -> Answer:
        from ambientd.flows.legacy import verify_batch

        return await verify_batch(importing(), body.records)

    async def drift(request: Request) -> Answer:
        from ambientd.flows.legacy import import_drift

        return await import_drift(importing(), sample=int(request.query.get("sample", SAMPLE_DEFAULT)))

    return (
        Route(
            method="POST",
            path=LEGACY_IMPORT,
            handler=take,
            summary="Imports records of the earlier JSON store, or tries to.",
            access=Access.WRITE,
            action="ledger.import",
            body=LegacyImportRequest,
            answers={200: LegacyImportAnswer},
        ),
        Route(
            method="POST",
            path=LEGACY_VERIFY,
            handler=verify,
            summary="Compares records of the earlier JSON store with the ledger.",
            access=Access.WRITE,
            body=LegacyVerifyRequest,
            answers={200: LegacyComparison},
        ),
        Route(
            method="GET",
            path=IMPORT_DRIFT,
            handler=drift,
            summary="Compares the configured files of the earlier JSON store with the ledger.",
            query=(_SAMPLE,),
            answers={200: ImportDriftView},
        ),
    )
