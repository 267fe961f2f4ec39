"""Overrides of rate limits over HTTP; administrators only."""

from collections.abc import Callable
from datetime import datetime

from ambientd.api.fleet.answers import created
from ambientd.api.fleet.principal import Person, for_admins
from ambientd.api.fleet.scope import actor_of
from ambientd.api.router import Access, Answer, Route
from ambientd.core.fleet.throttle import Override, check_override
from ambientd.core.timefmt import rfc3339_ms
from ambientd.flows.fleet.throttle import Throttle
from ambientd.ports.errors import Rejected
from ambientd.ports.http import Request
from ambientd.wire.fleet_admin_messages import ThrottleRequest, ThrottlesAnswer, ThrottleView
from ambientd.wire.fleet_auth_messages import DoneAnswer

OVERRIDES = "/api/v1/admin/throttle-overrides"


def throttle_routes(
    throttle: Throttle, *, now: Callable[[], datetime], new_id: Callable[[], str]
) -> tuple[Route, ...]:
    """All of them; `now` is the wall clock, `new_id` gives fresh UUIDs."""

    async def put(person: Person, _request: Request, body: ThrottleRequest) -> Answer:
        override = check_override(body, override_id=new_id(), by=person.user_id, at=now())
        if isinstance(override, Rejected):
            return override
        outcome = await throttle.put(override)
        return outcome if isinstance(outcome, Rejected) else created(_view(outcome))

    async def list_all(_person: Person, _request: Request) -> Answer:
        return ThrottlesAnswer([_view(one) for one in await throttle.all()])

    async def remove(person: Person, request: Request) -> Answer:
        refused = await throttle.remove(request.params["override_id"], actor_of(person))
        return refused or DoneAnswer("removed; what is configured counts again")

    return (
        Route(
            method="POST",
            path=OVERRIDES,
            handler=for_admins(put),
            summary="A rate limit of its own for an address, a network or an account, for a while; in place"
            " of one that is there. It counts at once in this process, in others with their next sweep.",
            access=Access.WRITE,
            body=ThrottleRequest,
            answers={201: ThrottleView},
            refusals=(409,),
        ),
        Route(
            method="GET",
            path=OVERRIDES,
            handler=for_admins(list_all),
            summary="The rate limits that were changed so and have not expired; administrators only.",
            answers={200: ThrottlesAnswer},
            refusals=(403,),
        ),
        Route(
            method="DELETE",
            path=OVERRIDES + "/{override_id}",
            handler=for_admins(remove),
            summary="Takes such a change back before its time.",
            access=Access.WRITE,
            answers={200: DoneAnswer},
        ),
    )


def _view(one: Override) -> ThrottleView:
    network = one.network
    alone = network is not None and network.prefixlen == network.max_prefixlen
    return ThrottleView(
        override_id=one.override_id,
        tier=one.tier.value,
        client=None if network is None else str(network.network_address) if alone else str(network),
        user_id=one.user_id,
        rpm=int(one.rate.per_minute),
        burst=one.rate.burst,
        reason=one.reason,
        created_by=one.created_by,
        created_at=rfc3339_ms(one.created_at),
        expires_at=rfc3339_ms(one.expires_at),
    )
