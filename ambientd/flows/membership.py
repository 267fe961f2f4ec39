"""Joining a control plane by a token, and leaving it."""

import re
from collections.abc import Callable

import msgspec

from ambientd.config.upstream import ControlAddress, parse_control_url
from ambientd.core.canonical import UNREADABLE
from ambientd.core.controlreply import read_reply, words_of
from ambientd.core.ed25519 import parse_key, show_key
from ambientd.core.fleet.signing import enrol_bytes
from ambientd.core.membership import ANY_NETWORK, Membership, may_carry_token
from ambientd.core.outbox import Meaning, Reply, meaning_of
from ambientd.core.records import AuditEntry
from ambientd.core.rejection import Rejected, reject
from ambientd.core.timefmt import rfc3339_ms
from ambientd.ports.autonomy import NodeIdentity
from ambientd.ports.clock import Clock
from ambientd.ports.controlplane import ControlTransport, MembershipFile
from ambientd.ports.errors import IdentityError, UnavailableError
from ambientd.ports.store import Store
from ambientd.wire.fleet_auth_messages import EnrolAnswer, EnrolRequest
from ambientd.wire.fleet_enums import NodeType
from ambientd.wire.fleet_messages import CapabilitiesBody
from ambientd.wire.outbox_messages import JoinRequest, MembershipView

NODE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
DEVICE_TOKEN = re.compile(r"nd_[A-Za-z0-9_-]{16,128}")
JOIN_TOKEN_MAX = 512
REGION_MAX = 32
ENROL = "/api/v1/nodes/enrol"
_ISSUERS_MAX = 64


class Joining(msgspec.Struct, frozen=True, kw_only=True):
    """What the flows need. `network` is the configured one; `offline` says why the node makes no calls."""

    store: Store
    clock: Clock
    identity: NodeIdentity
    file: MembershipFile
    open_transport: Callable[[ControlAddress], ControlTransport]
    node_name: str
    network: Callable[[], str]
    allow_plain: Callable[[], bool]
    interval: Callable[[], float]
    timeout: Callable[[], float]
    offline: Callable[[], str]
    capabilities: Callable[[], CapabilitiesBody]


def name_from(text: str) -> str:
    """A node's id from its name: other characters than those allowed become `-`."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:64] or "node"


async def join(request: JoinRequest, joining: Joining, *, actor: str) -> MembershipView | Rejected:
    """Enrols this node; durable when it returns. The same key may ask again when an answer was lost.

    Raises as `Store` does.
    """
    checked = _check(request, joining)
    if isinstance(checked, Rejected):
        return checked
    address, body = checked
    refused = _refuse_now(address, body.node_id, joining)
    if refused is not None:
        return refused
    try:
        proven = _prove(body, joining.identity)
    except IdentityError as error:
        return Rejected("IDENTITY_REFUSED", str(error))
    detail = {"url": address.url, "node": body.node_id}
    await note(joining, "control.join", actor, detail)
    answer = await _enrol(address, proven, joining)
    if isinstance(answer, Rejected):
        await note(joining, "control.join.result", "node", detail | {"code": answer.code})
        return answer
    membership = _membership(address, proven, answer, joining)
    if isinstance(membership, Rejected):
        await note(joining, "control.join.result", "node", detail | {"code": membership.code})
        return membership
    try:
        await joining.file.write(membership)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        return Rejected("STORAGE_UNAVAILABLE", f"the membership cannot be written: {why}; join again")
    result = detail | {"credential": membership.credential_id, "owner": membership.owner_id}
    audit_id = await note(joining, "control.join.result", "node", result)
    view = view_membership(joining.file)
    view.audit_id = audit_id
    return view


def _check(request: JoinRequest, joining: Joining) -> tuple[ControlAddress, EnrolRequest] | Rejected:
    """The request, or everything that is wrong with it; the token is never repeated."""
    problems: list[tuple[str, str, str]] = []
    address = parse_control_url(request.url)
    if isinstance(address, str):
        problems.append(("url", "format", address))
    else:
        plain = may_carry_token(address, allow_plain=joining.allow_plain())
        if plain is not None:
            problems.append(("url", "plain", plain))
    if not 0 < len(request.join_token) <= JOIN_TOKEN_MAX or not request.join_token.isascii():
        problems.append(("join_token", "format", "is no join token"))
    node_id = request.node_id or name_from(joining.node_name)
    if NODE_ID.fullmatch(node_id) is None:
        problems.append(("node_id", "format", "must be 1 to 64 letters, digits, - and _"))
    region = request.region or "default"
    if len(region.encode()) > REGION_MAX or not region.isprintable() or not region.strip():
        problems.append(("region", "format", f"must be printable text of at most {REGION_MAX} bytes"))
    node_type = request.node_type or NodeType.ANY.value
    if node_type not in set(NodeType):
        problems.append(("node_type", "enum", f"must be {', '.join(NodeType)}"))
    if problems or isinstance(address, str):
        return reject("VALIDATION_ERROR", "the node cannot join as asked", *problems)
    return address, EnrolRequest(
        join_token=request.join_token,
        node_id=node_id,
        public_key="",
        proof="",
        region=region,
        node_type=node_type,
        capabilities=joining.capabilities(),
        report_interval_sec=max(1, round(joining.interval())),
    )


def _refuse_now(address: ControlAddress, node_id: str, joining: Joining) -> Rejected | None:
    current = joining.file.current
    if current is not None and (current.url, current.node_id) != (address.url, node_id):
        text = f"this node belongs to {current.url} as {current.node_id}; leave it first"
        return Rejected("ALREADY_JOINED", text)
    if why := joining.offline():
        return Rejected("LINKS_REFUSE", f"no call is made: {why}")
    return None


def _prove(body: EnrolRequest, identity: NodeIdentity) -> EnrolRequest:
    key = identity.public_key
    message = enrol_bytes(node_id=body.node_id, public_key=key, join_token=body.join_token)
    return msgspec.structs.replace(body, public_key=show_key(key), proof=identity.sign(message).hex())


async def _enrol(address: ControlAddress, body: EnrolRequest, joining: Joining) -> EnrolAnswer | Rejected:
    transport = joining.open_transport(address)
    try:
        answer = await transport.send("POST", ENROL, {}, msgspec.json.encode(body), seconds=joining.timeout())
    except UnavailableError as error:
        return Rejected("CONTROL_UNREACHABLE", f"{address.url}: {error}")
    finally:
        await transport.aclose()
    if not 200 <= answer.status < 300:
        return _refusal(address, read_reply(answer.status, answer.headers, answer.body))
    try:
        return msgspec.json.decode(answer.body, type=EnrolAnswer)
    except UNREADABLE:
        return Rejected("CONTROL_UNREACHABLE", f"{address.url} is no control plane: its answer says nothing")


def _refusal(address: ControlAddress, reply: Reply) -> Rejected:
    meaning = meaning_of(reply)
    if reply.code == "CONFLICT":
        return Rejected("CONFLICT", f"the control plane refuses: {reply.message}")
    if meaning in (Meaning.GONE, Meaning.BEHIND, Meaning.REFUSED, Meaning.TOO_LARGE):
        return Rejected("JOIN_REFUSED", f"the control plane refuses: {reply.message or words_of(reply)}")
    return Rejected("CONTROL_UNREACHABLE", f"{address.url} {words_of(reply)}")


def _membership(
    address: ControlAddress, body: EnrolRequest, answer: EnrolAnswer, joining: Joining
) -> Membership | Rejected:
    """What the answer says, as far as it can be believed."""
    keys = (*answer.issuers, *answer.lease_issuers)
    sound = len(keys) <= _ISSUERS_MAX and all(parse_key(key) is not None for key in keys)
    if answer.node_id != body.node_id or DEVICE_TOKEN.fullmatch(answer.device_token) is None or not sound:
        return Rejected("CONTROL_UNREACHABLE", f"{address.url} is no control plane: its answer is not sound")
    if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", answer.network) is None:
        return Rejected("CONTROL_UNREACHABLE", f"{address.url} names no network")
    own = joining.network()
    if own not in (ANY_NETWORK, answer.network):
        text = f'its network is "{answer.network}", and policy.network of this node says "{own}"'
        return Rejected("JOIN_REFUSED", text)
    return Membership(
        url=address.url,
        node_id=answer.node_id,
        owner_id=answer.owner_id,
        credential_id=answer.credential_id,
        device_token=answer.device_token,
        incarnation=answer.incarnation,
        network=answer.network,
        issuers=tuple(answer.issuers),
        lease_issuers=tuple(answer.lease_issuers),
        public_key=body.public_key,
        joined_at=rfc3339_ms(joining.clock.now()),
    )


async def leave(joining: Joining, *, actor: str) -> MembershipView | Rejected:
    """Forgets the membership and what waits for it. Raises as `Store` does."""
    current = joining.file.current
    if current is None and joining.file.problem is None:
        return Rejected("NO_CONTROL_PLANE", "this node belongs to no control plane")
    detail = {} if current is None else {"url": current.url, "node": current.node_id}
    audit_id = await note(joining, "control.leave", actor, detail)
    try:
        await joining.file.remove()
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        return Rejected("STORAGE_UNAVAILABLE", f"the membership cannot be removed: {why}")
    view = view_membership(joining.file)
    view.audit_id = audit_id
    if current is not None:
        view.url, view.node_id = current.url, current.node_id
    return view


async def note(joining: Joining, kind: str, actor: str, detail: dict[str, str]) -> int:
    """An audit record of the membership; its number. Raises as `Store` does."""
    entry = AuditEntry(
        kind=kind, at=joining.clock.now(), actor=actor, subject=detail.get("node", "node"), detail=detail
    )
    return await joining.store.write(lambda tx: tx.audit.append(entry))


def view_membership(file: MembershipFile) -> MembershipView:
    """The membership as it may be shown."""
    current = file.current
    if current is None:
        return MembershipView(joined=False, problem=file.problem)
    return MembershipView(
        joined=True,
        url=current.url,
        node_id=current.node_id,
        owner_id=current.owner_id,
        credential_id=current.credential_id,
        network=current.network,
        issuers=list(current.issuers),
        lease_issuers=list(current.lease_issuers),
        joined_at=current.joined_at,
    )
