"""`POST /api/v3/ingest/session`: sessions that others ran enter the ledger."""

from ambientd.api.router import Access, Answer, Route
from ambientd.flows.ingest import IngestFlow
from ambientd.ports.http import Request
from ambientd.wire.messages import IngestAnswer, IngestEnvelope
from ambientd.wire.routes import INGEST


def ingest_routes(flow: IngestFlow) -> tuple[Route, ...]:
    """Taking one envelope in."""

    async def ingest(request: Request) -> Answer:
        return await flow.take(request.body)

    return (
        Route(
            method="POST",
            path=INGEST,
            handler=ingest,
            summary="Takes a session in; the same twice changes nothing.",
            access=Access.WRITE,
            body=IngestEnvelope,
            raw_body=True,
            answers={200: IngestAnswer},
            refusals=(409, 422),
            unauthorized="INGEST_NOT_AUTHORIZED",
            fault="INGEST_INTERNAL_ERROR",
        ),
    )
