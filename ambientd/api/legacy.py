"""The JSON store of the earlier generation: import, verification, and the drift diagnostic."""

from ambientd.api.router import Access, Answer, QueryParameter, Route, actor_of
from ambientd.flows.legacy import Importing, import_batch, import_drift, verify_batch
from ambientd.ports.http import Request
from ambientd.wire.legacy_messages import (
    ImportDriftView,
    LegacyComparison,
    LegacyImportAnswer,
    LegacyImportRequest,
    LegacyVerifyRequest,
)
from ambientd.wire.routes import IMPORT_DRIFT, LEGACY_IMPORT, LEGACY_VERIFY

SAMPLE_DEFAULT = 1_000
SAMPLE_MAX = 100_000

_SAMPLE = QueryParameter(
    name="sample",
    doc="How many sessions are compared, spread evenly.",
    kind="integer",
    minimum=1,
    maximum=SAMPLE_MAX,
)


def legacy_routes(importing: Importing) -> tuple[Route, ...]:
    """Two routes that take records of a client's files, one that compares the configured files."""

    async def take(request: Request, body: LegacyImportRequest) -> Answer:
        return await import_batch(importing, body, actor=actor_of(request.caller))

    async def verify(_request: Request, body: LegacyVerifyRequest) -> Answer:
        return await verify_batch(importing, body.records)

    async def drift(request: Request) -> Answer:
        return await import_drift(importing, sample=int(request.query.get("sample", SAMPLE_DEFAULT)))

    return (
        Route(
            method="POST",
            path=LEGACY_IMPORT,
            handler=take,
            summary="Imports records of the earlier JSON store, or tries to.",
            access=Access.WRITE,
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
