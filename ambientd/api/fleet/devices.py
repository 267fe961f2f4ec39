"""Join tokens, enrolment, and the credentials of joined nodes."""

from datetime import timedelta

import msgspec

from ambientd.api.fleet.answers import created
from ambientd.api.fleet.nodes import NODE, NODES, reserved
from ambientd.api.fleet.principal import Machine, Person, for_people, principal_of
from ambientd.api.fleet.scope import by_node
from ambientd.api.router import Access, Answer, Route
from ambientd.core.ed25519 import parse_key
from ambientd.core.fleet.records import JoinTokenRecord, NewNode
from ambientd.core.fleet.registration import check_registration, is_node_id
from ambientd.core.fleet.signing import parse_signature
from ambientd.core.timefmt import rfc3339_ms
from ambientd.flows.fleet.devices import JOIN_USES_MAX, Devices, Enrolled
from ambientd.flows.fleet.reach import NO_NODE, Reach
from ambientd.ports.errors import Rejected
from ambientd.ports.http import Request
from ambientd.wire.fleet_api_messages import NodeDone
from ambientd.wire.fleet_auth_messages import (
    DoneAnswer,
    EnrolAnswer,
    EnrolRequest,
    JoinTokenRequest,
    JoinTokensAnswer,
    JoinTokenView,
    RotateRequest,
)
from ambientd.wire.fleet_messages import NodeRegistration
from ambientd.wire.messages import ErrorDetail

JOINS = "/api/v1/join-tokens"
CREDENTIAL = NODE + "/credential"
_LIFETIME = (60, 366 * 86_400)  # seconds


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """What a node that joins has to know: the fleet's name, and whose policies and leases it may believe."""

    network: str
    issuers: tuple[str, ...]
    lease_issuers: tuple[str, ...]


def device_routes(devices: Devices, fleet: Fleet) -> tuple[Route, ...]:
    """All of them; enrolment takes its credential, the join token, in its body."""
    return (*_join_routes(devices), *_enrol_routes(devices, fleet), *_credential_routes(devices, fleet))


def _join_routes(devices: Devices) -> tuple[Route, ...]:
    async def add(person: Person, _request: Request, body: JoinTokenRequest) -> Answer:
        problems = _check_join(body)
        if problems:
            return Rejected("VALIDATION_ERROR", "the join token is not valid", problems)
        made = await devices.add_join(
            person.user_id,
            uses=body.uses,
            lifetime=timedelta(seconds=body.expires_in),
            node_id=body.node_id,
        )
        view = _view_join(made.record)
        view.join_token = made.join_token
        return created(view)

    async def list_all(person: Person, _request: Request) -> Answer:
        return JoinTokensAnswer([_view_join(row) for row in await devices.joins(person.user_id)])

    async def revoke(person: Person, request: Request) -> Answer:
        if await devices.revoke_join(person.user_id, request.params["token_id"]):
            return DoneAnswer("revoked")
        return Rejected("NOT_FOUND", "there is no such join token that is still good")

    return (
        Route(
            method="POST",
            path=JOINS,
            handler=for_people(add),
            summary="A token that enrols nodes for the caller, shown this once.",
            access=Access.WRITE,
            body=JoinTokenRequest,
            answers={201: JoinTokenView},
        ),
        Route(
            method="GET",
            path=JOINS,
            handler=for_people(list_all),
            summary="The caller's join tokens, without their secrets.",
            answers={200: JoinTokensAnswer},
        ),
        Route(
            method="DELETE",
            path=JOINS + "/{token_id}",
            handler=for_people(revoke),
            summary="Revokes a join token; nodes that it enrolled stay.",
            access=Access.WRITE,
            answers={200: DoneAnswer},
        ),
    )


def _enrol_routes(devices: Devices, fleet: Fleet) -> tuple[Route, ...]:
    async def enrol(_request: Request, body: EnrolRequest) -> Answer:
        node = _node_of(body)
        if isinstance(node, Rejected):
            return node
        proven = _key_of(body.public_key, body.proof)
        if isinstance(proven, Rejected):
            return proven

        def build(owner_id: str) -> NewNode:
            return msgspec.structs.replace(node, owner_id=owner_id)

        key, proof = proven
        outcome = await devices.enrol(
            body.join_token, build, node_id=body.node_id, public_key=key, proof=proof
        )
        return outcome if isinstance(outcome, Rejected) else created(_view_enrolled(outcome, fleet))

    return (
        Route(
            method="POST",
            path=NODES + "/enrol",
            handler=enrol,
            summary="A node joins by a join token and its own key, and gets its credential.",
            access=Access.OPEN,
            body=EnrolRequest,
            answers={201: EnrolAnswer},
            refusals=(401, 409),
        ),
    )


def _credential_routes(devices: Devices, fleet: Fleet) -> tuple[Route, ...]:
    async def rotate(reach: Reach, request: Request, body: RotateRequest) -> Answer:
        machine = principal_of(request)
        proven = _key_of(body.public_key, body.proof)
        if isinstance(proven, Rejected):
            return proven
        if not isinstance(machine, Machine):
            return NO_NODE
        key, proof = proven
        outcome = await devices.rotate(machine.device, public_key=key, proof=proof, signed=reach.signed)
        return outcome if isinstance(outcome, Rejected) else created(_view_enrolled(outcome, fleet))

    async def confirm(reach: Reach, request: Request) -> Answer:
        machine = principal_of(request)
        if not isinstance(machine, Machine):
            return NO_NODE
        refused = await devices.confirm(machine.device, signed=reach.signed)
        return refused or NodeDone("the credential is in force; all others are revoked", reach.node_id)

    async def revoke(person: Person, request: Request) -> Answer:
        node_id = request.params["node_id"]
        count = await devices.revoke(person.user_id, node_id)
        if count is None:
            return NO_NODE
        many = "1 credential" if count == 1 else f"{count} credentials"
        return NodeDone(f"{many} revoked; the node must join again", node_id)

    return (
        Route(
            method="POST",
            path=CREDENTIAL + "/rotate",
            handler=by_node(rotate),
            summary="A new credential, and a new key if one is brought; the old one is good until `confirm`.",
            access=Access.WRITE,
            body=RotateRequest,
            answers={201: EnrolAnswer},
            refusals=(409,),
        ),
        Route(
            method="POST",
            path=CREDENTIAL + "/confirm",
            handler=by_node(confirm),
            summary="The node uses this credential from now on: all others of it are revoked.",
            access=Access.WRITE,
            answers={200: NodeDone},
            refusals=(409,),
        ),
        Route(
            method="DELETE",
            path=CREDENTIAL,
            handler=for_people(revoke),
            summary="Revokes a node's credentials.",
            access=Access.WRITE,
            answers={200: NodeDone},
        ),
    )


def _check_join(body: JoinTokenRequest) -> tuple[ErrorDetail, ...]:
    found = []
    if not 1 <= body.uses <= JOIN_USES_MAX:
        found.append(("uses", "range", f"1 to {JOIN_USES_MAX}"))
    if not _LIFETIME[0] <= body.expires_in <= _LIFETIME[1]:
        found.append(("expires_in", "range", f"{_LIFETIME[0]} to {_LIFETIME[1]} seconds"))
    if body.node_id is not None and not is_node_id(body.node_id):
        found.append(("node_id", "format", "a node's id"))
    return tuple(ErrorDetail(name, issue, f"must be {text}", text) for name, issue, text in found)


def _node_of(body: EnrolRequest) -> NewNode | Rejected:
    refused = reserved(body.node_id)
    if refused is not None:
        return refused
    return check_registration(
        NodeRegistration(
            node_id=body.node_id,
            region=body.region,
            node_type=body.node_type,
            capabilities=body.capabilities,
            observability_port=body.observability_port,
            report_interval_sec=body.report_interval_sec,
        ),
        "",
    )


def _key_of(public_key: str, proof: str) -> tuple[bytes, bytes] | Rejected:
    key, signature = parse_key(public_key), parse_signature(proof)
    if key is not None and signature is not None:
        return key, signature
    found = []
    if key is None:
        found.append(("public_key", "a sound key: ed25519: and 64 hexadecimal digits"))
    if signature is None:
        found.append(("proof", "128 hexadecimal digits"))
    details = tuple(ErrorDetail(name, "format", f"must be {text}", text) for name, text in found)
    return Rejected("VALIDATION_ERROR", "the key is not valid", details)


def _view_join(row: JoinTokenRecord) -> JoinTokenView:
    return JoinTokenView(
        token_id=row.token_id,
        created_at=rfc3339_ms(row.created_at),
        expires_at=rfc3339_ms(row.expires_at),
        uses_left=row.uses_left,
        node_id=row.node_id,
        revoked_at=None if row.revoked_at is None else rfc3339_ms(row.revoked_at),
    )


def _view_enrolled(enrolled: Enrolled, fleet: Fleet) -> EnrolAnswer:
    return EnrolAnswer(
        node_id=enrolled.node.node_id,
        owner_id=enrolled.node.owner_id,
        credential_id=enrolled.credential.credential_id,
        device_token=enrolled.device_token,
        incarnation=enrolled.node.incarnation,
        network=fleet.network,
        issuers=list(fleet.issuers),
        lease_issuers=list(fleet.lease_issuers),
    )
