"""`/api/v1/node/audit`: the chain in pages, its verification in stretches, and the whole of it as a file."""

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from ambientd.api.router import Access, Answer, Audited, QueryParameter, Route, actor_of
from ambientd.core import auditfile
from ambientd.core.audit import BEGINNING, Break, Place
from ambientd.core.checkpoint import ORIGIN
from ambientd.core.rejection import Rejected, reject
from ambientd.core.timefmt import rfc3339_ms
from ambientd.flows import audit as flow
from ambientd.flows.audit import Auditing
from ambientd.ports.http import Request, Response
from ambientd.ports.store import Transaction
from ambientd.wire.audit_messages import AuditAcceptAnswer, AuditPage, AuditStretchView
from ambientd.wire.audit_routes import (
    AUDIT,
    AUDIT_ACCEPT,
    AUDIT_EXPORT,
    AUDIT_VERIFY,
    PAGE_MAX,
    STRETCH_MAX,
)

PAGE_DEFAULT = 50
# Records in memory at a time.
EXPORT_BATCH = 256
_HEX_DIGITS = frozenset("0123456789abcdef")

_LIST = (
    QueryParameter(name="kind", doc="Of this kind, or of those that begin with it and a dot."),
    QueryParameter(name="actor", doc="By this actor."),
    QueryParameter(name="since", doc="At or after, RFC 3339."),
    QueryParameter(name="until", doc="Before, RFC 3339."),
    QueryParameter(name="limit", doc="At most so many [50].", kind="integer", minimum=1, maximum=PAGE_MAX),
    QueryParameter(name="after", doc="`next` of the page before.", kind="integer", minimum=1),
)
_VERIFY = (
    QueryParameter(name="after", doc="The record behind which to begin [0].", kind="integer", minimum=0),
    QueryParameter(name="hash", doc="Its hash, as the stretch before has told it."),
    QueryParameter(
        name="rows", doc="At most so many records.", kind="integer", minimum=1, maximum=STRETCH_MAX
    ),
)


class Watch(Protocol):
    """What looks after the chain all the time."""

    async def note(self, found: Break) -> None:
        """A verification found a break."""

    async def accept(self, actor: str) -> AuditAcceptAnswer:
        """Marks open breaks as looked into."""


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What the routes need. `audited` writes the `[AUDIT]` log line of one action."""

    auditing: Auditing
    watch: Watch
    audited: Audited


def audit_routes(audit: Audit) -> tuple[Route, ...]:
    """Reading, checking and exporting the chain, and accepting that it is broken."""
    auditing = audit.auditing

    async def page(request: Request) -> Answer:
        query = flow.parse_page(request.query, limit=int(request.query.get("limit", PAGE_DEFAULT)))
        return query if isinstance(query, Rejected) else await flow.list_records(auditing.store, query)

    async def verify(request: Request) -> Answer:
        start = _start(int(request.query.get("after", "0")), request.query.get("hash", ""))
        if isinstance(start, Rejected):
            return start
        found = await flow.verify(auditing, start, rows=int(request.query.get("rows", STRETCH_MAX)))
        if found.bad is not None and found.own:
            await audit.watch.note(found.bad)
        return found.view

    async def export(_request: Request) -> Answer:
        return Response(
            200,
            content_type="application/x-ndjson",
            headers=(("Content-Disposition", 'attachment; filename="audit.ndjson"'),),
            stream=_lines(auditing),
        )

    async def accept(request: Request) -> Answer:
        actor = actor_of(request.caller)
        answer = await audit.watch.accept(actor)
        audit.audited(
            action="audit.accept",
            actor=actor,
            pid=request.caller.pid,
            breaks=[one.seq for one in answer.breaks],
        )
        return answer

    return (
        Route(
            method="GET",
            path=AUDIT,
            handler=page,
            summary="Records of the audit chain, newest first.",
            query=_LIST,
            answers={200: AuditPage},
        ),
        Route(
            method="GET",
            path=AUDIT_VERIFY,
            handler=verify,
            summary="Checks a stretch of the chain; the next one goes on behind it.",
            query=_VERIFY,
            answers={200: AuditStretchView},
        ),
        Route(
            method="GET",
            path=AUDIT_EXPORT,
            handler=export,
            summary="The whole chain with its checkpoints as NDJSON.",
            answers={200: None},
        ),
        Route(
            method="POST",
            path=AUDIT_ACCEPT,
            handler=accept,
            summary="Marks breaks of the chain as looked into; it goes on being told that they are there.",
            access=Access.WRITE,
            action="audit.accept",
            answers={200: AuditAcceptAnswer},
        ),
    )


def _start(after: int, digest: str) -> Place | Rejected:
    if after == 0:
        return BEGINNING
    if len(digest) != 64 or not set(digest) <= _HEX_DIGITS:
        return reject("VALIDATION_ERROR", "the query is not valid", ("hash", "format", "the hash of `after`"))
    return Place(after, digest)


async def _lines(auditing: Auditing) -> AsyncIterator[bytes]:
    """All lines, in pieces that are each read at one instant; what is appended meanwhile is in it as well."""

    def begin(tx: Transaction) -> tuple[Place, bytes]:
        pruned = tx.audit.state().pruned
        origin = ORIGIN + auditing.identity.host_id.removeprefix("sha256:")
        first = auditfile.chain_line(origin=origin, pruned=pruned, at=rfc3339_ms(auditing.clock.now()))
        return pruned, first + b"".join(map(auditfile.rollover_line, tx.identity.rollovers()))

    place, data = await auditing.store.read(begin)
    yield data
    ended = False
    while not ended:
        place, data, ended = await auditing.store.read(lambda tx: _piece(tx, place))  # noqa: B023 - called before the next turn
        yield data
    yield auditfile.end_line(place)


def _piece(tx: Transaction, place: Place) -> tuple[Place, bytes, bool]:
    records = tx.audit.stored(place.seq, EXPORT_BATCH)
    last = Place(records[-1].seq, records[-1].hash) if records else place
    ended = len(records) < EXPORT_BATCH
    # The first piece has the checkpoint of the anchor, the last one those for records that are gone.
    upto = 2**62 if ended else last.seq
    notes: dict[int, list[str]] = {}
    for _, seq, note in tx.audit.checkpoints(place.seq, upto, 4 * EXPORT_BATCH):
        notes.setdefault(seq, []).append(note)
    lines = []
    for record in records:
        lines.append(auditfile.record_line(record))
        lines += [auditfile.checkpoint_line(record.seq, note) for note in notes.pop(record.seq, ())]
    lines += [auditfile.checkpoint_line(seq, note) for seq, found in notes.items() for note in found]
    return last, b"".join(lines), ended
