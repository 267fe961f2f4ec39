"""Signed items over HTTP: handed in, signed here, fetched by nodes."""

from collections.abc import Sequence

from ambientd.api.fleet.answers import created
from ambientd.api.fleet.nodes import LIMIT, NODE
from ambientd.api.fleet.principal import Person, for_people
from ambientd.api.fleet.scope import about_node, actor_of
from ambientd.api.router import Access, Answer, QueryParameter, Route
from ambientd.core.fleet.pushed import FleetItem
from ambientd.core.policybundle import item_of
from ambientd.core.signeditem import SignedItem
from ambientd.flows.fleet.items import Items, Scope
from ambientd.flows.fleet.reach import Reach
from ambientd.ports.errors import Rejected
from ambientd.ports.http import Request
from ambientd.wire.fleet_api_messages import DraftRequest, ItemRow, ItemsAnswer, ItemsRequest
from ambientd.wire.fleet_enums import ItemKind, Role
from ambientd.wire.messages import ErrorDetail

POLICIES = "/api/v1/policies"
ITEMS_MAX = 500  # of one request
BODY_MAX = 4 * 1024 * 1024
_SINCE = QueryParameter(name="since_revision", doc="Items behind this revision.", kind="integer", minimum=0)
_POLICY_KINDS = (ItemKind.POLICY, ItemKind.TOMBSTONE, ItemKind.ROSTER)
_LEASE_KINDS = (ItemKind.LEASE, ItemKind.REVOCATION)


def item_routes(items: Items) -> tuple[Route, ...]:
    """All of them."""
    return (*_intake_routes(items), *_fetch_routes(items))


def _intake_routes(items: Items) -> tuple[Route, ...]:
    async def add(person: Person, _request: Request, body: ItemsRequest) -> Answer:
        found = _read(body)
        if isinstance(found, Rejected):
            return found
        return _added(await items.add(_scope(person, body.node_id), found))

    async def issue(person: Person, _request: Request, body: DraftRequest) -> Answer:
        if person.role is not Role.ADMIN:  # peers carry it on to nodes of all owners
            return Rejected("NOT_AUTHORIZED", "administrators only: every node believes this key")
        draft = {"policy": body.policy, "tombstone": body.tombstone}
        return _added(await items.issue(_scope(person, body.node_id), draft))

    return (
        Route(
            method="POST",
            path=POLICIES,
            handler=for_people(add),
            summary="Takes signed items in, all or none, and passes them on to the nodes they are for.",
            access=Access.WRITE,
            body=ItemsRequest,
            body_max=BODY_MAX,
            answers={201: ItemsAnswer},
            refusals=(404,),
        ),
        Route(
            method="POST",
            path=POLICIES + "/issue",
            handler=for_people(issue),
            summary="Signs policies and tombstones with the control plane's own key; administrators only.",
            access=Access.WRITE,
            body=DraftRequest,
            answers={201: ItemsAnswer},
            refusals=(403, 404, 409),
        ),
    )


def _fetch_routes(items: Items) -> tuple[Route, ...]:
    async def policies(reach: Reach, request: Request) -> Answer:
        return await _page(items, reach, request, _POLICY_KINDS)

    async def leases(reach: Reach, request: Request) -> Answer:
        return await _page(items, reach, request, _LEASE_KINDS)

    return (
        Route(
            method="GET",
            path=NODE + "/policies",
            handler=about_node(policies),
            summary="Signed policies and tombstones for a node, in the order of their revisions.",
            query=(_SINCE, LIMIT),
            answers={200: ItemsAnswer},
        ),
        Route(
            method="GET",
            path=NODE + "/leases",
            handler=about_node(leases),
            summary="Signed leases and revocations for a node, in the order of their revisions.",
            query=(_SINCE, LIMIT),
            answers={200: ItemsAnswer},
        ),
    )


async def _page(items: Items, reach: Reach, request: Request, kinds: Sequence[ItemKind]) -> Answer:
    since, limit = int(request.query.get("since_revision", "0")), int(request.query.get("limit", "200"))
    found = await items.since(reach, since, kinds, limit)
    if isinstance(found, Rejected):
        return found
    return ItemsAnswer(found.revision, found.more, [_row(item) for item in found.items])


def _scope(person: Person, node_id: str | None) -> Scope:
    """An administrator may name any node, others theirs."""
    owner = None if person.role is Role.ADMIN else person.user_id
    by = actor_of(person)
    node = None if node_id is None else Reach(node_id=node_id, owner_id=owner, by=by)
    return Scope(owner_id=owner, node=node, by=by)


def _read(body: ItemsRequest) -> list[SignedItem] | Rejected:
    problems: list[ErrorDetail] = []
    found: list[SignedItem] = []
    if not 1 <= len(body.items) <= ITEMS_MAX:
        expected = f"1 to {ITEMS_MAX} items"
        problems.append(ErrorDetail("items", "length", f"must have {expected}", expected))
    for place, text in enumerate(body.items[:ITEMS_MAX]):
        item = item_of(text)
        if isinstance(item, str):
            problems.append(ErrorDetail(f"items[{place}]", "format", item))
        else:
            found.append(item)
    if problems:
        return Rejected("VALIDATION_ERROR", "the items are not valid", tuple(problems[:100]))
    return found


def _added(outcome: Sequence[FleetItem] | Rejected) -> Answer:
    if isinstance(outcome, Rejected):
        return outcome
    revision = max((item.revision for item in outcome), default=0)
    return created(ItemsAnswer(revision, False, [_row(item) for item in outcome]))


def _row(item: FleetItem) -> ItemRow:
    return ItemRow(
        revision=item.revision,
        kind=item.kind,
        subject=item.subject,
        body=item.item.body.decode(),
        issuer="ed25519:" + item.item.issuer.hex(),
        signature=item.item.signature.hex(),
    )
