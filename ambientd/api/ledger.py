"""`/api/v3/ledger`: the sessions, one session, and its events with a long poll."""

from collections.abc import Callable
from datetime import datetime

import msgspec

from ambientd.api.router import Answer, QueryParameter, Route
from ambientd.core import views
from ambientd.core.ledgerquery import parse_query
from ambientd.core.records import EventRecord, SessionRecord, UsageRecord
from ambientd.core.timefmt import rfc3339_ms
from ambientd.flows.sessions import resolve
from ambientd.ports.clock import Clock
from ambientd.ports.errors import Rejected
from ambientd.ports.http import Request
from ambientd.ports.news import SessionNews
from ambientd.ports.store import Store, Transaction
from ambientd.wire.enums import TERMINAL, EventType, LedgerSort
from ambientd.wire.messages import EventsPage, LedgerPage, SessionDetail
from ambientd.wire.routes import LEDGER, LONG_POLL_MAX_SEC

EVENTS_MAX = 1000
DETAIL_EVENTS_MAX = 1000
ARTIFACTS_MAX = 1000


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger routes need."""

    store: Store
    news: SessionNews
    clock: Clock
    monotonic: Callable[[], float]


def _text(name: str, doc: str) -> QueryParameter:
    return QueryParameter(name=name, doc=doc)


LIST_QUERY = (
    _text("agent", "Only this agent id."),
    _text("status", "Only these statuses, separated by commas."),
    _text("model", "Only this model id."),
    _text("category", "Only this task category; empty for sessions without one."),
    _text("from", "Started at or after this RFC 3339 instant or UTC day."),
    _text("to", "Started before this RFC 3339 instant or UTC day."),
    _text("q", "Literal text in id, title or task."),
    QueryParameter(
        name="sort",
        doc="The order, highest first [newest]; sessions without the figure come last.",
        choices=tuple(item.value for item in LedgerSort),
    ),
    QueryParameter(name="limit", doc="Rows per page.", kind="integer", minimum=1, maximum=1000),
    _text("cursor", "`nextCursor` of the page before, in the same order."),
    QueryParameter(
        name="page", doc="Instead of a cursor, within the first 10,000 rows.", kind="integer", minimum=1
    ),
    QueryParameter(name="pageSize", doc="Rows per page of `page`.", kind="integer", minimum=1, maximum=1000),
)

EVENTS_QUERY = (
    QueryParameter(name="after", doc="Only events with a greater seq.", kind="integer", minimum=0),
    QueryParameter(name="limit", doc="Events per answer.", kind="integer", minimum=1, maximum=EVENTS_MAX),
    QueryParameter(
        name="wait",
        doc="Seconds to wait for an event or the end.",
        kind="integer",
        minimum=0,
        maximum=LONG_POLL_MAX_SEC,
    ),
)


def ledger_routes(ledger: Ledger) -> tuple[Route, ...]:
    """List, detail and events."""

    async def page(request: Request) -> Answer:
        query = parse_query(request.query)
        if isinstance(query, Rejected):
            return query
        found, purged = await ledger.store.read(
            lambda tx: (tx.ledger.page(query), tx.retention.purged_before())
        )
        now = ledger.clock.now()
        return LedgerPage(
            total=found.total,
            rows=[views.summary(row, now) for row in found.rows],
            next_cursor=views.next_place(query, found.rows, found.more),
            total_is_lower_bound=found.total_is_lower_bound,
            purged_before=None if purged is None else rfc3339_ms(purged),
        )

    async def detail(request: Request) -> Answer:
        fragment = request.params["session_id"]
        found = await ledger.store.read(lambda tx: _load(tx, fragment))
        return found if isinstance(found, Rejected) else _detail(found, ledger.clock.now())

    async def events(request: Request) -> Answer:
        return await _events(ledger, request)

    return (
        Route(
            method="GET",
            path=LEDGER,
            handler=page,
            summary="Sessions, newest first unless told otherwise.",
            query=LIST_QUERY,
            answers={200: LedgerPage},
        ),
        Route(
            method="GET",
            path=LEDGER + "/{session_id}",
            handler=detail,
            summary="One session with its usage, events and artifacts; a unique part of the id is enough.",
            answers={200: SessionDetail},
        ),
        Route(
            method="GET",
            path=LEDGER + "/{session_id}/events",
            handler=events,
            summary="Events after a sequence number; with `wait`, answers as soon as there is one.",
            query=EVENTS_QUERY,
            answers={200: EventsPage},
        ),
    )


class _Loaded(msgspec.Struct, frozen=True):
    session: SessionRecord
    usage: UsageRecord | None
    events: list[EventRecord]
    artifacts: list[EventRecord]


def _load(tx: Transaction, fragment: str) -> _Loaded | Rejected:
    session = resolve(tx, fragment)
    if isinstance(session, Rejected):
        return session
    name = session.session_id
    return _Loaded(
        session,
        tx.usage.get(name),
        tx.ledger.events(name, 0, DETAIL_EVENTS_MAX),
        tx.ledger.events_of_type(name, EventType.ARTIFACT.value, ARTIFACTS_MAX),
    )


def _detail(found: _Loaded, now: datetime) -> SessionDetail:
    return SessionDetail(
        ledger=views.summary(found.session, now),
        events=[views.event(row) for row in found.events],
        artifacts=[views.artifact(row) for row in found.artifacts],
        usage=views.usage(found.usage) if found.usage else None,
    )


async def _events(ledger: Ledger, request: Request) -> Answer:
    query = request.query
    after, limit = int(query.get("after", "0")), int(query.get("limit", str(EVENTS_MAX)))
    deadline = ledger.monotonic() + int(query.get("wait", "0"))
    fragment = request.params["session_id"]
    session = await ledger.store.read(lambda tx: resolve(tx, fragment))
    if isinstance(session, Rejected):
        return session
    name = session.session_id

    def load(tx: Transaction) -> EventsPage:
        row = tx.ledger.get(name) or session
        found = tx.ledger.events(name, after, limit)
        return EventsPage(
            session_id=name,
            status=row.status,
            ended=row.status in TERMINAL and len(found) < limit,
            events=[views.event(event) for event in found],
        )

    while True:
        # The watch is taken before the read, so that nothing falls between.
        watch = ledger.news.watch(name)
        answer = await ledger.store.read(load)
        left = deadline - ledger.monotonic()
        if answer.events or answer.ended or left <= 0:
            return answer
        await watch.wait(left)
