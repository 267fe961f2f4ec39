"""`/api/v1/node/policies`: what is in the policy cache, what it allows, and bundles in and out."""

from collections.abc import Callable

import msgspec

from ambientd.api.router import Access, Answer, QueryParameter, Route, actor_of
from ambientd.core.policyrecords import PolicyQuery
from ambientd.flows import policies as flow
from ambientd.flows.policies import PAGE_MAX, PolicyDesk
from ambientd.ports.errors import Rejected
from ambientd.ports.http import Request
from ambientd.wire.policy_messages import (
    PoliciesPage,
    PolicyCheckAnswer,
    PolicyCheckRequest,
    PolicyExportAnswer,
    PolicyImportAnswer,
    PolicyImportRequest,
    PolicyView,
)
from ambientd.wire.routes import POLICIES, POLICY_CHECK, POLICY_EXPORT, POLICY_IMPORT

STATES = ("all", "in_force", "removed", "held")
_DEFAULT_LIMIT = 100
_IMPORT = "policies.import"


class PolicyRoutes(msgspec.Struct, frozen=True, kw_only=True):
    """What the routes need. `audited` writes the `[AUDIT]` log line of one action."""

    desk: PolicyDesk
    audited: Callable[..., object]


def policy_routes(given: PolicyRoutes) -> tuple[Route, ...]:
    """The routes of the policy cache."""
    return (*_reading(given.desk), *_bundles(given))


def _reading(desk: PolicyDesk) -> tuple[Route, ...]:
    async def listing(request: Request) -> Answer:
        query = PolicyQuery(
            state=request.query.get("state", "in_force"),
            text=request.query.get("q", ""),
            after=request.query.get("after", ""),
            limit=int(request.query.get("limit", _DEFAULT_LIMIT)),
        )
        return await flow.list_policies(desk, query)

    async def show(request: Request) -> Answer:
        return await flow.show_policy(desk, request.params["policy_id"])

    async def check(request: Request) -> Answer:
        return await flow.check_egress(desk, PolicyCheckRequest(**request.query))

    async def export(request: Request) -> Answer:
        return await flow.export_items(desk, request.query.get("after", ""))

    return (
        Route(
            method="GET",
            path=POLICIES,
            handler=listing,
            summary="Egress policies of this node, by id.",
            query=(
                QueryParameter(
                    name="state",
                    doc="in_force (default), removed, held (something newer waits), or all",
                    choices=STATES,
                ),
                QueryParameter(name="q", doc="text in the id"),
                QueryParameter(name="after", doc="policies behind this id"),
                QueryParameter(
                    name="limit", doc="rows at most (100)", kind="integer", minimum=1, maximum=PAGE_MAX
                ),
            ),
            answers={200: PoliciesPage},
        ),
        Route(
            method="GET",
            path=POLICIES + "/{policy_id}",
            handler=show,
            summary="One egress policy; a unique beginning or end of the id is enough.",
            answers={200: PolicyView},
        ),
        Route(
            method="GET",
            path=POLICY_CHECK,
            handler=check,
            summary="Whether traffic to a destination may leave now, and why.",
            query=(
                QueryParameter(name="destination", doc="URL, host, or host:port", required=True),
                QueryParameter(
                    name="protocol", doc="what is spoken; else the destination's scheme, else https"
                ),
                QueryParameter(name="policy_id", doc="ask this policy alone"),
                QueryParameter(name="address", doc="what the destination's name was resolved to"),
            ),
            answers={200: PolicyCheckAnswer},
        ),
        Route(
            method="GET",
            path=POLICY_EXPORT,
            handler=export,
            summary="Signed policies and tombstones, page by page, as another node imports them.",
            query=(QueryParameter(name="after", doc="items of policies behind this id"),),
            answers={200: PolicyExportAnswer},
        ),
    )


def _bundles(given: PolicyRoutes) -> tuple[Route, ...]:
    async def bring(request: Request, body: PolicyImportRequest) -> Answer:
        actor, pid = actor_of(request.caller), request.caller.pid
        answer = await flow.import_items(given.desk, body, actor=actor)
        if isinstance(answer, Rejected):
            given.audited(action=_IMPORT, actor=actor, pid=pid, refused=answer.code)
        elif not answer.dry_run:
            facts = {name: getattr(answer, name) for name in ("added", "replaced", "removed", "held")}
            given.audited(action=_IMPORT, actor=actor, pid=pid, refused_items=answer.refused, **facts)
        return answer

    return (
        Route(
            method="POST",
            path=POLICY_IMPORT,
            handler=bring,
            summary="Takes signed policies and tombstones in; only adds while the node is not online.",
            access=Access.WRITE,
            action=_IMPORT,
            body=PolicyImportRequest,
            answers={200: PolicyImportAnswer},
        ),
    )
