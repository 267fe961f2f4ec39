"""`/api/v3/ledger/export`: all sessions of a query, streamed, so that neither end holds them all."""

from collections.abc import AsyncIterator, Sequence

from ambientd.api.ledger import LIST_QUERY, Ledger
from ambientd.api.router import Answer, QueryParameter, Route
from ambientd.core import views
from ambientd.core.export import FORMATS, Format
from ambientd.core.ledgerquery import parse_query
from ambientd.core.rejection import Rejected
from ambientd.ports.http import Request, Response
from ambientd.ports.store import Transaction
from ambientd.wire.messages import SessionSummary
from ambientd.wire.routes import LEDGER_EXPORT

# Sessions in memory at a time: with the longest task texts of 512 KiB some 32 MiB, commonly 64 KiB.
BATCH = 64
_PAGING = frozenset({"limit", "cursor", "page", "pageSize"})

EXPORT_QUERY = (
    QueryParameter(name="format", doc="csv or ndjson [csv].", choices=tuple(FORMATS)),
    *(parameter for parameter in LIST_QUERY if parameter.name not in _PAGING),
)


def export_routes(ledger: Ledger) -> tuple[Route, ...]:
    """The export."""

    async def export(request: Request) -> Answer:
        query = parse_query(request.query)
        if isinstance(query, Rejected):
            return query
        asked = query
        # Which sessions is settled at once, by one look at the ledger; what they say is read as it is sent.
        handles = await ledger.store.read(lambda tx: tx.ledger.handles(asked))
        chosen = FORMATS[request.query.get("format", "csv")]
        return Response(
            200,
            content_type=chosen.content_type,
            headers=(("Content-Disposition", f'attachment; filename="sessions.{chosen.suffix}"'),),
            stream=_parts(ledger, chosen, handles),
        )

    return (
        Route(
            method="GET",
            path=LEDGER_EXPORT,
            handler=export,
            summary="All sessions of a query as CSV or NDJSON.",
            query=EXPORT_QUERY,
            answers={200: None},
        ),
    )


async def _parts(ledger: Ledger, chosen: Format, handles: Sequence[int]) -> AsyncIterator[bytes]:
    if chosen.head:
        yield chosen.head
    for start in range(0, len(handles), BATCH):
        rows = await _rows(ledger, handles[start : start + BATCH])
        data = b"".join(chosen.line(row) for row in rows)
        if data:
            yield data


async def _rows(ledger: Ledger, handles: Sequence[int]) -> list[SessionSummary]:
    def work(tx: Transaction) -> list[SessionSummary]:
        now = ledger.clock.now()
        return [views.summary(row, now) for row in tx.ledger.by_handles(handles)]

    return await ledger.store.read(work)
