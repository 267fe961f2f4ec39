"""`/api/v1/node/leases` and `/api/v1/node/egress/check`: what a session may let out, and whether it may."""

from collections.abc import Callable

import msgspec

from ambientd.api.router import Access, Answer, Audited, QueryParameter, Route, actor_of
from ambientd.core.ed25519 import parse_key, show_key
from ambientd.core.lease import allowance, left_ms
from ambientd.core.leaserecords import LeaseRow
from ambientd.core.rejection import Rejected, reject
from ambientd.core.signeditem import SignedItem
from ambientd.core.timefmt import from_ms, rfc3339_ms
from ambientd.core.trustedtime import Trusted
from ambientd.flows.egress import Asked, Egress, EgressCheck
from ambientd.flows.leases import Leases
from ambientd.ports.http import Request
from ambientd.wire.lease_messages import (
    EgressAnswer,
    EgressRequest,
    LeaseItem,
    LeasesPage,
    LeaseView,
    MeterRequest,
    RevocationAnswer,
)
from ambientd.wire.routes import EGRESS_CHECK, LEASE_REVOCATIONS, LEASES

PAGE_MAX, PAGE = 500, 100
STATES = ("all", "active", "ended")
_ONE = LEASES + "/{jti}"


class LeaseRoutes(msgspec.Struct, frozen=True, kw_only=True):
    """What the routes need. `audited` writes the `[AUDIT]` log line of one action."""

    leases: Leases
    egress: EgressCheck
    time: Callable[[], Trusted]
    audited: Audited


def lease_routes(given: LeaseRoutes) -> tuple[Route, ...]:
    """All of them."""
    return (*_reading(given), *_changing(given), *_traffic(given))


def _reading(given: LeaseRoutes) -> tuple[Route, ...]:
    async def listing(request: Request) -> Answer:
        state = request.query.get("state", "all")
        rows = await given.leases.page(
            active=None if state == "all" else state == "active",
            limit=int(request.query.get("limit", PAGE)),
        )
        return LeasesPage([_view(row, given.time()) for row in rows])

    async def show(request: Request) -> Answer:
        found = await given.leases.find(request.params["jti"])
        return found if isinstance(found, Rejected) else _view(found, given.time())

    return (
        Route(
            method="GET",
            path=LEASES,
            handler=listing,
            summary="Session leases of this node, the last activated first.",
            query=(
                QueryParameter(name="state", doc="all (default), active or ended", choices=STATES),
                QueryParameter(
                    name="limit", doc="rows at most (100)", kind="integer", minimum=1, maximum=PAGE_MAX
                ),
            ),
            answers={200: LeasesPage},
        ),
        Route(
            method="GET",
            path=_ONE,
            handler=show,
            summary="One lease, by its id or a unique part at either end.",
            answers={200: LeaseView},
            refusals=(404, 409),
        ),
    )


def _changing(given: LeaseRoutes) -> tuple[Route, ...]:
    async def activate(request: Request, body: LeaseItem) -> Answer:
        item = _item(body)
        if isinstance(item, Rejected):
            return item
        found = await given.leases.activate(item, actor_of(request.caller))
        if isinstance(found, Rejected):
            _told(given, request, "lease.activate", refused=found.code)
            return found
        _told(given, request, "lease.activate", lease=found.row.lease.jti)
        return msgspec.structs.replace(_view(found.row, given.time()), audit_id=found.audit_id)

    async def end(request: Request) -> Answer:
        found = await given.leases.end(request.params["jti"], actor_of(request.caller))
        if isinstance(found, Rejected):
            _told(given, request, "lease.end", refused=found.code)
            return found
        _told(given, request, "lease.end", lease=found.row.lease.jti)
        return msgspec.structs.replace(_view(found.row, given.time()), audit_id=found.audit_id)

    async def revoke(request: Request, body: LeaseItem) -> Answer:
        item = _item(body)
        if isinstance(item, Rejected):
            return item
        found = await given.leases.revoke(item, actor_of(request.caller))
        if isinstance(found, Rejected):
            _told(given, request, "lease.revoke", refused=found.code)
            return found
        _told(given, request, "lease.revoke", lease=found.jti)
        return RevocationAnswer(jti=found.jti, known=found.known, ended=found.ended, audit_id=found.audit_id)

    return (
        Route(
            method="POST",
            path=LEASES,
            handler=activate,
            summary="Activates a signed lease; it is durable, and used, when this answers.",
            access=Access.WRITE,
            body=LeaseItem,
            answers={200: LeaseView},
            refusals=(403, 409),
            action="lease.activate",
        ),
        Route(
            method="DELETE",
            path=_ONE,
            handler=end,
            summary="Ends an active lease for good.",
            access=Access.WRITE,
            answers={200: LeaseView},
            refusals=(404, 409),
            action="lease.end",
        ),
        Route(
            method="POST",
            path=LEASE_REVOCATIONS,
            handler=revoke,
            summary="Takes in an issuer's revocation of a lease, also of one that is not here yet.",
            access=Access.WRITE,
            body=LeaseItem,
            answers={200: RevocationAnswer},
            refusals=(403,),
            action="lease.revoke",
        ),
    )


def _traffic(given: LeaseRoutes) -> tuple[Route, ...]:
    async def check(request: Request, body: EgressRequest) -> Answer:
        asked = Asked(
            destination=body.destination,
            protocol=body.protocol,
            session_id=body.session_id,
            lease_id=body.lease_id,
            address=body.address,
        )
        return _answer(await given.egress.check(asked))

    async def meter(request: Request, body: MeterRequest) -> Answer:
        asked = Asked(destination=body.destination, protocol=body.protocol, address=body.address)
        return _answer(await given.egress.meter(request.params["jti"], asked, body.bytes))

    return (
        Route(
            method="POST",
            path=EGRESS_CHECK,
            handler=check,
            summary="Whether traffic may go out now: by links, lease and policies.",
            access=Access.WRITE,
            body=EgressRequest,
            answers={200: EgressAnswer},
        ),
        Route(
            method="POST",
            path=_ONE + "/meter",
            handler=meter,
            summary="Whether so many bytes more may go out; they count when they may.",
            access=Access.WRITE,
            body=MeterRequest,
            answers={200: EgressAnswer},
        ),
    )


def _item(body: LeaseItem) -> SignedItem | Rejected:
    key = parse_key(body.issuer)
    if key is None:
        text = "is no sound public key"
        return reject("VALIDATION_ERROR", "the item is not valid", ("issuer", "key", text))
    return SignedItem(body.body.encode(), key, bytes.fromhex(body.signature))


def _told(given: LeaseRoutes, request: Request, action: str, **facts: str) -> None:
    given.audited(action=action, actor=actor_of(request.caller), pid=request.caller.pid, **facts)


def _view(row: LeaseRow, time: Trusted) -> LeaseView:
    lease, held = row.lease, row.held
    return LeaseView(
        jti=lease.jti,
        session_id=lease.session_id,
        policy_id=lease.policy_id,
        issuer=show_key(row.issuer),
        state="active" if row.is_active else "ended",
        activated_at=row.activated_at,
        nbf=rfc3339_ms(from_ms(lease.nbf)),
        exp=rfc3339_ms(from_ms(lease.exp)),
        protocols=list(lease.protocols),
        max_duration_ms=lease.max_duration_ms,
        max_mbps=lease.max_mbps,
        max_bytes=lease.max_bytes,
        elapsed_ms=held.elapsed_ms,
        bytes=held.bytes,
        denied=held.denied,
        allowance=allowance(lease, held.elapsed_ms) if row.is_active else None,
        left_ms=left_ms(held, time) if row.is_active else None,
        ended_at=row.ended_at,
        end_reason=row.end_reason,
    )


def _answer(found: Egress) -> EgressAnswer:
    return EgressAnswer(
        allowed=found.allowed,
        code=found.code,
        reason=found.reason,
        state=found.state.value,
        destination=found.destination or None,
        policy_id=found.policy_id,
        lease_id=found.lease_id,
        session_id=found.session_id,
        clock_doubt=found.clock_doubt,
        bytes=found.bytes,
        allowance=found.allowance,
    )
